"""Every way in which a plugin may end its process, and what is left of the modes and streams of one that it kept."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bench.contracts.executor import Exit, Job
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running.supervisor import Supervisor, Task
from bench.util.durable import sha256
from bench.util.errors import NotAvailable
from tests.conftest import once
from tests.running.test_executors import ROW, Scripted, a_job
from tests.running.test_faults import end, environment, run_to
from tests.warm_process import Mother

fault = pytest.mark.fault
together = pytest.mark.xdist_group("ends")

WAYS = (
    "exits_0", "exits_4", "aborts", "executes", "parent_leaves", "is_built", "has_stages",
    "thread_exits", "thread_stays", "thread_stays_on", "closes", "masks", "copies",
)  # fmt: skip


@pytest.fixture(scope="module")
def ended(mother: Mother, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Row]]:
    """One run with all of them."""

    def make(home: Path) -> None:
        process = mother.run(
            *run_to(home / "run"), "--variants", f"ends[way={'|'.join(WAYS)}],leaves_at_import,calm", "--jobs", "2",
            "--steps", "8", "--checkpoint", "0", "--metrics", "bce", "--eval-split", "test", "--json",
            env=environment(tmp_path_factory.getbasetemp() / "cache"),
        )  # fmt: skip
        out, _ = end(process, 3, 400)
        (home / "rows.json").write_text(out)

    home = once(tmp_path_factory, "ends", make)
    printed = json.loads((home / "rows.json").read_text())
    assert len(printed) == len(WAYS) + 2
    rows = {row.label.removeprefix("ends[way=").rstrip("]"): row for row in Run(home / "run").rows()}
    return Run(home / "run"), rows


IN_TRAINING = fault(35, "a plugin ends its process in training as if all were well", "`failed`; the others go on")
BEFORE = fault(35, "a plugin ends its process when imported or built, by code 0 too", "`failed`; the others go on")
LIVES = fault(35, "a plugin closes its streams, or leaves threads or a copy behind", "no effect")


@together
@pytest.mark.parametrize(
    ("way", "says"),
    [
        pytest.param("exits_0", "exit code 0", marks=IN_TRAINING),
        pytest.param("exits_4", "exit code 4", marks=IN_TRAINING),
        pytest.param("aborts", "SIGABRT", marks=IN_TRAINING),
        pytest.param("executes", "somebody else", marks=IN_TRAINING),
        pytest.param("parent_leaves", "exit code 0", marks=IN_TRAINING),
        pytest.param("is_built", "ends its process by exit code 0 when it's built", marks=BEFORE),
        pytest.param("has_stages", "SystemExit", marks=BEFORE),
        pytest.param("leaves_at_import", "ends its process by exit code 0 when it's imported", marks=BEFORE),
    ],
)
def test_a_process_that_ends_without_a_result_is_a_failed_row(
    ended: tuple[Run, dict[str, Row]], way: str, says: str
) -> None:
    store, rows = ended
    assert rows[way].status == "failed"
    assert says in rows[way].reason
    assert len(store.failures(rows[way].cell)) == 1


@together
@pytest.mark.parametrize("way", [pytest.param(way, marks=LIVES) for way in WAYS[7:]])
def test_what_a_plugin_does_to_its_process_costs_no_result(ended: tuple[Run, dict[str, Row]], way: str) -> None:
    store, rows = ended
    weights = {name: sha256(store.cells / rows[name].cell / "done" / "weights.safetensors") for name in (way, "calm")}
    assert rows[way].status == "ok"
    assert weights[way] == weights["calm"]
    assert store.damage(rows[way].cell) == []
    assert store.others(rows[way].cell) == []
    log = (store.cells / rows[way].cell / "done" / "log.txt").read_text()
    assert log.count("trained 8 steps") == 1


@fault(35, "a metric ends its process, or hangs, whichever way", "that number is n/a with the reason; the others stand")
def test_a_metric_that_ends_its_process_costs_its_own_number(mother: Mother, tmp_path: Path) -> None:
    run, metrics = tmp_path / "run", ("bce", "leaves", "hangs", "forks", "foretells")
    process = mother.run(
        *run_to(run), "--variants", "calm", "--steps", "8", "--stall", "3", "--metrics", ",".join(metrics),
        env=environment(tmp_path / "cache"),
    )  # fmt: skip
    end(process, 0)
    (row,) = Run(run).rows()
    assert row.status == "ok"
    assert row.scores.keys() == set(metrics)
    assert row.scores["bce"].value > 0  # type: ignore[union-attr]
    assert row.scores["forks"].value == 0  # type: ignore[union-attr]
    for name, says in (("leaves", "exit code 0"), ("foretells", "exit code 0"), ("hangs", "no sign of life for 3 s")):
        missing = row.scores[name]
        assert isinstance(missing, NotAvailable), name
        assert says in missing.reason
        assert missing.retry


@together
def test_nothing_is_left_of_what_was_under_way(ended: tuple[Run, dict[str, Row]]) -> None:
    store, _ = ended
    left = [p for p in store.path.rglob("*") if p.name.startswith(".tmp-") or p.name in ("lease.json", "table.json")]
    assert left == []


@fault(35, "a plugin ends its process while seeds are trained in one pass", "each seed is `failed`, with the reason")
def test_stacked_seeds_of_which_none_is_made(mother: Mother, tmp_path: Path) -> None:
    process = mother.run(
        *run_to(tmp_path / "run"), "--variants", "ends[way=exits_0]", "--seeds", "2", "--stack-seeds", "--steps", "8",
        "--metrics", "bce", env=environment(tmp_path / "cache"),
    )  # fmt: skip
    end(process, 3)
    rows = Run(tmp_path / "run").rows()
    assert [row.status for row in rows] == ["failed", "failed"]
    assert all("exit code 0" in row.reason for row in rows)


@pytest.fixture
def store(tmp_path: Path) -> Run:
    store = Run(tmp_path / "run")
    store.create(RunRequest())
    return store


def supervised(store: Run, exit: Exit, given_up: list[str] | None = None, wrote: str = "") -> Row:
    """The row of a cell whose only attempt ends so, by any executor."""

    def poll(job: Job) -> Exit:
        if wrote:
            (store.work(job.cell) / job.attempt / wrote).write_text("the folder is gone\nwhy\n")
        return exit

    note = lambda reason, _: given_up.append(reason)  # type: ignore[union-attr] # noqa: E731
    task = Task(a_job(store.path), replace(ROW, status="failed"), lambda: False, give_up=note)
    (row,) = Supervisor(Scripted(poll), store, lambda _: None).run([task])  # type: ignore[arg-type]
    return row


@pytest.mark.parametrize("exit", [Exit(0), Exit(4), Exit(7), Exit(None), Exit(None, signal.SIGABRT)])
def test_whatever_an_executor_says_a_cell_without_a_result_has_failed(store: Run, exit: Exit) -> None:
    row = supervised(store, exit)
    assert row.status == "failed"
    assert row.reason


def test_an_old_failure_is_no_result_of_a_new_attempt(store: Run) -> None:
    store.write_failed(replace(ROW, status="diverged", reason="as it was"), "")
    assert supervised(store, Exit(0)).status == "failed"
    assert len(store.failures("cell")) == 2


def test_a_job_that_came_to_its_end_is_taken_at_its_word(store: Run) -> None:
    store.write_failed(replace(ROW, status="diverged", reason="at step 3"), "")
    assert supervised(store, Exit(0), wrote="ended").reason == "at step 3"


def test_a_trained_cell_whose_scoring_ends_outside_of_any_metric_has_a_reason(store: Run) -> None:
    given_up: list[str] = []
    (store.cells / "cell" / "done").mkdir(parents=True)
    row = {"variant": "vae", "label": "vae", "dataset": "digits", "seed": 0, "status": "ok", "reason": "", "costs": {}}
    (store.cells / "cell" / "done" / "cell.json").write_text(json.dumps({"schema": 2, **row}))
    assert supervised(store, Exit(0), given_up).status == "ok"
    (reason,) = given_up
    assert "exit code 0" in reason
