"""What goes wrong on long nights: each fault is made, and what should survive it is looked at.

Most runs are forked by `tests.warm_process`: a run that imports torch twice for a few steps costs many times what it
shows. Some are real ones (`really`, and those with an interpreter of their own): what imports and a new interpreter do
to the command line and its fork server is shown by these alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import cli
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running import runner
from bench.util.durable import sha256
from bench.util.errors import NotAvailable
from tests.conftest import once
from tests.warm_process import Forked, Mother, path

fault = pytest.mark.fault
WHOLE = ("--threads", "1", "--checkpoint", "0.05", "--no-baseline", "--no-sanity")


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": path(), "BENCH_CACHE": str(cache), "BENCH_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        **more,
    }  # fmt: skip


Process = Forked | subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(mother: Mother, cache: Path) -> Start:
    """`bench run`, in a process and a session of its own."""

    def start(out: Path, *arguments: str, file_size: int | None = None) -> Forked:
        return mother.run(*run_to(out), *arguments, env=environment(cache), file_size=file_size)

    return start


@pytest.fixture
def really(cache: Path) -> Start:
    """The same with an interpreter of its own, which imports what it needs."""

    def really(out: Path, *arguments: str) -> subprocess.Popen[str]:
        return execute(["-m", "bench.cli", *run_to(out), *arguments], environment(cache))

    return really


def run_to(out: Path) -> tuple[str, ...]:
    return ("run", "--dataset", "digits", *WHOLE, "--out", str(out))


def execute(arguments: Sequence[str | Path], env: Mapping[str, str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def end(process: Process, code: int, seconds: float = 120) -> tuple[str, str]:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err[-3000:]
    return out, err


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def weights(run: Path) -> dict[str, str]:
    done = {row.label: run / "cells" / row.cell / "done" for row in Run(run).rows() if row.status == "ok"}
    return {label: sha256(folder / "weights.safetensors") for label, folder in done.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "cache"


# one run with every mistake a plugin can make

BAD = (
    "calm", "raises", "diverges", "exits", "systemexits", "segfaults", "hangs", "grips", "floods", "hungry", "shot",
    "poisoned", "orphans", "unbuilt", "raises_at_import", "exits_at_import", "dies_at_import", "floods_at_import",
    "hangs_at_import",
)  # fmt: skip


@pytest.fixture(scope="module")
def bad(mother: Mother, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Row], Path]:
    home = once(tmp_path_factory, "bad", lambda home: misbehave(mother, home, cache))
    return home / "run", {row.label: row for row in Run(home / "run").rows()}, home


def misbehave(mother: Mother, home: Path, cache: Path) -> None:
    (home / "bullets").mkdir()
    (home / "bullets" / "one").touch()
    strange = {
        "STRANGERS_DEADLY": "1", "STRANGERS_BULLETS": str(home / "bullets"), "STRANGERS_PIDS": str(home / "pids")
    }  # fmt: skip
    process = mother.run(
        *run_to(home / "run"), "--variants", ",".join(BAD), "--steps", "12", "--jobs", "2", "--stall", "3",
        "--checkpoint", "0", "--metrics", "elbo,bce,deadly", "--json", env=environment(cache, **strange),
    )  # fmt: skip
    out, _ = end(process, 3)
    assert {row["label"] for row in json.loads(out)} == set(BAD)


def log(run: Path, row: Row) -> str:
    return (run / "cells" / row.cell / "failed" / "1" / "log.txt").read_text()


together = pytest.mark.xdist_group("bad")


@together
@pytest.mark.parametrize(
    ("label", "status", "says"),
    [
        pytest.param("calm", "ok", "", marks=fault(8, "a plugin misbehaves in another cell", "this one is unharmed")),
        pytest.param("raises", "failed", "RuntimeError: the fifth step is too much for me",
                     marks=fault(8, "a plugin raises in training", "`failed` with the exception; exit 3")),
        pytest.param("diverges", "diverged", "non-finite loss at step 8; the last finite loss was",
                     marks=fault(7, "a loss becomes NaN", "`diverged` with the step and the last finite loss; exit 3")),
        pytest.param("exits", "failed", "exit code 7",
                     marks=fault(8, "a plugin calls os._exit(7) in training", "`failed` with the code; exit 3")),
        pytest.param("systemexits", "failed", "SystemExit: I have had enough",
                     marks=fault(8, "a plugin calls sys.exit() in training", "`failed`; exit 3")),
        pytest.param("segfaults", "failed", "signal SIGSEGV",
                     marks=fault(8, "a plugin segfaults in training", "`failed` with the signal; exit 3")),
        pytest.param("hangs", "stalled", "no sign of life for 3 s, twice",
                     marks=fault(9, "a plugin hangs in training", "killed, tried once more, `stalled`; exit 3")),
        pytest.param("grips", "stalled", "no sign of life for 3 s, twice",
                     marks=fault(9, "a plugin hangs with the interpreter's lock", "as above")),
        pytest.param("floods", "ok", "",
                     marks=fault(8, "a plugin prints 64 MiB", "its cell is done, its log clipped")),
        pytest.param("hungry", "oom", "out of memory",
                     marks=fault(23, "a cell asks for more memory than there is", "`oom`, others unharmed; exit 3")),
        pytest.param("shot", "ok", "",
                     marks=fault(2, "kill -9 of a cell's process in training", "goes on from its checkpoint")),
        pytest.param("poisoned", "killed", "killed 3 times (signal SIGKILL)",
                     marks=fault(2, "kill -9 of a cell's process, each time", "`killed` after three tries; exit 3")),
        pytest.param("orphans", "ok", "",
                     marks=fault(20, "a cell leaves a child process behind", "the child is killed with it")),
        pytest.param("unbuilt", "failed", "ZeroDivisionError",
                     marks=fault(8, "a plugin raises when built", "`failed`; exit 3")),
        pytest.param("raises_at_import", "failed", "ImportError: libfoo.so.3 isn't there",
                     marks=fault(8, "a plugin raises at import", "its cells `failed`, the others done; exit 3")),
        pytest.param("exits_at_import", "failed", "SystemExit: 3",
                     marks=fault(8, "a plugin calls sys.exit() at import", "as above")),
        pytest.param("dies_at_import", "failed", "ends its process by exit code 7 when it's imported",
                     marks=fault(8, "a plugin calls os._exit(7) at import", "as above")),
        pytest.param("floods_at_import", "ok", "",
                     marks=fault(8, "a plugin prints 200 MiB at import", "its cell is done, stdout is clean")),
        pytest.param("hangs_at_import", "failed", "isn't imported within 3 s",
                     marks=fault(9, "a plugin's import never ends", "its cells `failed`, the others done; exit 3")),
    ],
)  # fmt: skip
def test_a_plugin_harms_its_own_cell_alone(
    bad: tuple[Path, dict[str, Row], Path], label: str, status: str, says: str
) -> None:
    run, rows, _ = bad
    row = rows[label]
    assert row.status == status, row.reason
    assert says in row.reason
    assert len(row.reason) < 600
    if status == "ok":
        assert {"elbo", "bce", "deadly"} == row.scores.keys()
        assert not (run / "cells" / row.cell / "work").exists()
    assert not (run / "cells" / row.cell / "lease.json").exists()


@together
def test_where_it_hung_is_in_the_log(bad: tuple[Path, dict[str, Row], Path]) -> None:
    run, rows, _ = bad
    assert "strangers.py" in log(run, rows["hangs"])
    assert "in happens" in log(run, rows["hangs"])


@together
def test_where_it_crashed_is_in_the_log(bad: tuple[Path, dict[str, Row], Path]) -> None:
    run, rows, _ = bad
    assert "Segmentation fault" in log(run, rows["segfaults"])
    assert "in happens" in log(run, rows["segfaults"])
    assert "Traceback" in log(run, rows["raises"])


@together
def test_a_shot_cell_has_the_weights_that_it_would_have_had(bad: tuple[Path, dict[str, Row], Path]) -> None:
    """`shot` is `calm` but for the shot: the noise of both comes from the same stream."""
    run, rows, _ = bad
    assert weights(run)["shot"] == weights(run)["calm"]
    assert rows["shot"].costs["attempts"] == 2
    assert rows["shot"].costs["resumed_from"] == 4
    assert rows["calm"].costs["attempts"] == 1


@together
def test_a_flood_is_clipped(bad: tuple[Path, dict[str, Row], Path]) -> None:
    run, rows, _ = bad
    path = run / "cells" / rows["floods"].cell / "done" / "log.txt"
    assert 2**16 < path.stat().st_size < 2**18
    assert "bytes left out" in path.read_text()


@together
def test_no_orphan_lives_on(bad: tuple[Path, dict[str, Row], Path]) -> None:
    told = bad[2] / "pids"
    until(lambda: not lives(int(told.read_text()), told.stat().st_mtime), 10)


def lives(pid: int, then: float) -> bool:
    """Whether a process of that time is at work; its number may be another's by now, or a dead one's not yet taken."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    booted = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    began = booted + int(fields[18]) / os.sysconf("SC_CLK_TCK")
    return state not in "ZX" and began < then + 2


@together
@fault(8, "a metric segfaults", "that number is n/a with the reason; the cell's other scores stand")
def test_a_metric_that_crashes_costs_its_own_number(bad: tuple[Path, dict[str, Row], Path]) -> None:
    scores = bad[1]["calm"].scores
    assert scores["elbo"].value < 0  # type: ignore[union-attr]
    assert isinstance(scores["deadly"], NotAvailable)
    assert "its process died while it was computed: signal SIGSEGV" in scores["deadly"].reason


@together
@fault(8, "failed cells in a table", "every cell has its line, with status and reason")
def test_the_table_hides_nothing(bad: tuple[Path, dict[str, Row], Path]) -> None:
    table = pd.read_csv(bad[0] / "table.csv")
    assert sorted(table["label"]) == sorted(BAD)
    assert table.loc[table["status"] != "ok", "reason"].str.len().min() > 5


# the supervisor is killed

GRID = (
    "--variants", "vae,vqvae,gan", "--steps", "40", "--batch-size", "32", "--jobs", "2",
    "--metrics", "elbo,bce,kl,sharpness",
)  # fmt: skip


SAME = "the same command ends with the same table.csv, byte for byte"
PHASES = {"training vae", "training vqvae, stage 0", "training vqvae, stage 1", "training gan", "scoring"}


def chaos(start: Start, tmp_path: Path, kills: int, seed: int) -> Counter[str]:
    """Kill runs at random times; one that ends by itself before is followed by another in a new folder.

    Returns:
        How many of them were at what.
    """
    draw, hit, resumed, killed = random.Random(seed), Counter[str](), 0, 0
    whole = tmp_path / "whole"
    began = time.monotonic()
    end(start(whole, *GRID), 0)
    took = time.monotonic() - began
    while killed < kills:
        out, over = tmp_path / f"shot-{killed}", False
        while killed < kills and not over:
            began = time.time()
            process = start(out, *GRID)
            try:
                over = process.wait(draw.random() * took) == 0
                assert over, process.communicate()
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                hit.update(phases(out, began))
        end(start(out, *GRID), 0)
        resumed += sum(row.costs["resumed_from"] > 0 for row in Run(out).rows())
        unharmed(out, whole)
        shutil.rmtree(out)
    assert resumed or kills < 20
    return hit


def phases(out: Path, began: float) -> set[str]:
    """What a run was at that began then and is dead now."""
    found = set()
    for home in out.glob("cells/*/work/attempt-*"):
        if home.stat().st_ctime < began:
            continue
        path = home / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        event = json.loads(lines[-1]) if lines else {"event": "none"}
        name = home.parents[1].name.partition("-")[0]
        stage = f", stage {event.get('stage', 0)}" if name == "vqvae" else ""
        told = {"none": "starting a cell", "Scoring": "scoring"}
        found.add(told.get(event["event"], f"training {name}{stage}"))
    done = len(list(out.glob("cells/*/done")))
    return found or {"before the first cell" if not done else "between cells" if done < 3 else "after the last cell"}


def unharmed(out: Path, whole: Path) -> None:
    """A run that was killed and finished is as one that wasn't; it removes what was being written, and gc the rest."""
    assert (out / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert weights(out) == weights(whole)
    assert [p for p in out.rglob("*") if p.name.startswith(".tmp-")] == []
    assert cli.main(["gc", str(out)]) == 0
    assert [p for p in out.rglob("*") if p.name in ("work", "lease.json")] == []


@fault(1, "kill -9 of the supervisor at 8 random times", SAME)
def test_a_run_survives_its_supervisor(start: Start, tmp_path: Path) -> None:
    chaos(start, tmp_path, 8, 1)


@fault(1, "kill -9 of the supervisor at 50 random times", SAME)
@pytest.mark.costly
def test_a_run_survives_fifty_kills(start: Start, tmp_path: Path) -> None:
    hit = chaos(start, tmp_path, 50, 0)
    assert hit.keys() >= PHASES


@fault(1, "kill -9 of the supervisor, none of whose processes we forked", SAME)
def test_a_real_run_survives_its_supervisor(start: Start, really: Start, tmp_path: Path) -> None:
    """With imports and all: neither it nor its fork server was forked by us."""
    one = (*GRID, "--variants", "vae", "--jobs", "1", "--steps", "150")
    end(start(tmp_path / "whole", *one), 0)
    process = really(tmp_path / "shot", *one)
    until(lambda: list((tmp_path / "shot").glob("cells/*/work/checkpoints/0*")))
    process.kill()
    process.communicate()  # its fork server, which has the same stderr, ends with it
    end(start(tmp_path / "shot", *one), 0)
    (row,) = Run(tmp_path / "shot").rows()
    assert row.costs["resumed_from"] > 0
    unharmed(tmp_path / "shot", tmp_path / "whole")


# signals


SLOW = ("--variants", "calm,slow", "--steps", "200", "--metrics", "bce")
"""A cell that takes a second, and one that takes 4 more."""


@fault(21, "Ctrl-C once", "checkpoint, tables, summary, exit 130; the same command goes on")
@fault(22, "SIGTERM, as of a cluster's pre-emption", "the same, exit 143")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_so_that_it_goes_on(
    start: Start, really: Start, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "run"
    process = (really if number == signal.SIGINT else start)(out, *SLOW)
    until(lambda: list(out.glob("cells/slow-*/work/checkpoints/0*")))
    process.send_signal(number)
    shown, said = end(process, code, 20)
    assert "Traceback" not in said
    assert "the same command does the rest" in said
    assert "calm" in shown
    assert "stopped by the user" in shown
    rows = {row.label: row for row in Run(out).rows()}
    assert (rows["calm"].status, rows["slow"].status) == ("ok", "interrupted")
    assert set(pd.read_csv(out / "table.csv")["status"]) == {"ok", "interrupted"}
    if number == signal.SIGTERM:
        return
    at = max(int(p.name) for p in out.glob("cells/slow-*/work/checkpoints/0*"))
    end(start(out, *SLOW), 0)
    after = {row.label: row for row in Run(out).rows()}["slow"]
    assert after.status == "ok"
    assert after.costs["resumed_from"] == at
    assert weights(out)["slow"] == weights(out)["calm"]


@fault(21, "Ctrl-C twice", "at once; what was finished stays")
def test_two_signals_stop_a_run_at_once(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--variants", "calm,hangs", "--steps", "400", "--metrics", "bce")
    until(lambda: list(out.glob("cells/hangs-*/work/attempt-*/events.jsonl")))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it hangs, and has its grace
    process.send_signal(signal.SIGINT)
    _, said = end(process, 130, 20)  # its grace is 30
    assert "Traceback" not in said
    assert {row.label: row.status for row in Run(out).rows()} == {"calm": "ok", "hangs": "interrupted"}


def test_a_timeout_ends_a_cell_and_leaves_its_checkpoint(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "run"
    end(start(out, "--variants", "slow", "--steps", "400", "--metrics", "bce", "--timeout", "2s"), 3)
    (row,) = Run(out).rows()
    assert row.status == "timeout"
    assert "longer than 2 s" in row.reason
    assert not Run(out).has_ended(row.cell)
    assert list(out.glob("cells/slow-*/work/checkpoints/0*"))


# two at once


@fault(16, "two runs of one grid in one folder at once", "each cell is executed once; both end with the same table")
def test_two_runs_share_the_work(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "run"
    grid = ("--variants", "calm,vae", "--seeds", "4", "--steps", "30", "--metrics", "bce")
    both = [start(out, *grid, "--json") for _ in range(2)]
    shown = [json.loads(end(process, 0)[0]) for process in both]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 8
    rows = Run(out).rows()
    assert all(row.costs["attempts"] == 1 for row in rows)
    logs = [p.read_text() for p in out.glob("cells/*/done/log.txt")]
    assert sum(text.count("trained 30 steps") for text in logs) == 8
    assert list(out.glob("cells/*/lease.json")) == []
    assert list(out.glob("cells/*/different")) == []


# the disk


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system takes root's rights")
    yield place
    subprocess.run(["umount", "-l", place], check=False)


@fault(13, "the disk is full", "nothing partial, one message with the space left, exit 4; goes on when there is room")
def test_a_full_disk(start: Start, tiny: Path, tmp_path: Path) -> None:
    grid = ("--variants", "calm,ae", "--seeds", "2", "--steps", "20", "--metrics", "bce")
    _, said = end(start(tiny / "run", *grid), 4)
    assert "No space left on device" in said
    assert "MiB free" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 25
    done = [p.parent for p in (tiny / "run").glob("cells/*/done/SHA256SUMS")]
    assert done
    for cell in done:
        assert Run(tiny / "run").damage(cell.parent.name) == []
    subprocess.run(["mount", "-o", "remount,size=64m", tiny], check=True)
    end(start(tiny / "run", *grid), 0)
    end(start(tmp_path / "whole", *grid, "--in-process"), 0)
    assert (tiny / "run" / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


@fault(13, "a limit on the size of files (RLIMIT_FSIZE)", "the same as a full disk; exit 4")
def test_a_limit_on_file_sizes(start: Start, tmp_path: Path) -> None:
    grid = ("--variants", "ae", "--steps", "5", "--metrics", "bce")
    _, said = end(start(tmp_path / "run", *grid, file_size=100_000), 4)
    assert "can't be written" in said
    assert list((tmp_path / "run").glob("cells/*/done")) == []


@fault(14, "no room for temporary files (TMPDIR), no HOME, the C locale", "no effect: all is staged beside its place")
def test_a_bare_environment(cache: Path, tiny: Path, tmp_path: Path) -> None:
    (tiny / "filled").write_bytes(b"x" * (600 * 2**10 - 8192))
    bare = {k: v for k, v in environment(cache, LC_ALL="C", TMPDIR=str(tiny)).items() if k not in ("HOME", "LANG")}
    grid = ("--variants", "calm", "--steps", "5", "--metrics", "bce")
    end(execute(["-m", "bench.cli", *run_to(tmp_path / "run"), *grid], bare), 0)


@fault(15, "a results folder that can't be written", "found before training; exit 4")
def test_a_read_only_folder(start: Start, tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny], check=True)
    _, said = end(start(tiny / "run", "--variants", "calm", "--steps", "5"), 4)
    assert "can't be written: Read-only file system" in " ".join(said.split()) or "Read-only file system" in said
    assert "step" not in said.split("error:")[0]


@fault(3, "kill -9 just before and just after a rename", "the cell is absent or complete")
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_around_the_rename(tmp_path: Path, after: bool) -> None:
    from tests.results.test_store import ROW, fill

    run = Run(tmp_path)
    pid = os.fork()
    if pid == 0:
        rename = os.rename

        def shot(a: Any, b: Any) -> None:
            if after:
                rename(a, b)
            os.kill(os.getpid(), signal.SIGKILL)

        os.rename = shot  # type: ignore[assignment]
        try:
            fill(run)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert run.is_done(ROW.cell) == after
    if after:
        assert run.damage(ROW.cell) == []
    else:
        assert run.row(ROW.cell) is None
        fill(run)
    assert run.is_done(ROW.cell)


@fault(29, "a result edited by hand", "noticed when it's used: put aside, and made anew")
def test_an_edited_result_is_put_aside(tmp_path: Path) -> None:
    request = RunRequest(
        ("vae",), ("digits",), steps=5, baseline=False, sanity=False, metrics=("bce",), in_process=True,
        threads=1, out=str(tmp_path),
    )  # fmt: skip
    runner.run(request)
    (path,) = tmp_path.glob("cells/*/done/weights.safetensors")
    before = sha256(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    runner.run(replace(request, metrics=("bce", "kl")))
    assert sha256(path) == before
    assert len(list(tmp_path.glob("cells/*/damaged/1"))) == 1


@fault(29, "foreign files among the cells", "ignored")
def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    from tests.results.test_store import fill

    run = Run(tmp_path / "run")
    run.create(RunRequest())
    fill(run)
    (run.cells / ".DS_Store").write_bytes(b"\0")
    (run.cells / "notes.txt").write_text("mine")
    (run.cells / "empty").mkdir()
    (run.cells / "vae-digits-s0-000000000000" / "failed").mkdir(parents=True)
    assert len(run.rows()) == 1


def test_a_script_without_a_guard_runs_cells_in_processes(cache: Path, tmp_path: Path) -> None:
    """The children import neither the script again nor what lies in the folder that it stands in."""
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "mine.py"
    script.write_text(
        "import bench\n"
        "found = bench.run(['calm', 'shot'], 'digits', steps=4, metrics=('bce',), jobs=2,\n"
        "                  baseline=False, sanity=False)\n"
        "print(*found['status'], end='')\n"
    )
    out, err = end(execute([script], environment(cache), cwd=tmp_path), 0)
    assert out == "ok ok", err
