"""Runs that came from somebody else: edited, full of links, of the wrong shape. They're data, and nothing but."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.api import load
from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.engine.checkpoint import Checkpoints
from bench.results.store import Run
from bench.running import runner
from bench.util import inside
from bench.util.durable import SCHEMA, SUMS, own_sum_fits, sha256
from bench.util.errors import Damaged, StoreError, UsageError
from tests.conftest import Bench
from tests.results.test_store import ROW, WAY, fill
from tests.upkeep.test_integrity import content, edit, forge, rescore, seal

pytestmark = pytest.mark.usefixtures("warm_servers")

fault = pytest.mark.fault
SECRET = "what nobody asked for"
REQUEST = RunRequest(
    ("vae[latent_dim=2]",), ("digits",), seeds=(0, 1), steps=4, baseline=False, sanity=False, metrics=("elbo", "kl"),
    device="cpu", threads=1, in_process=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """A test that waits for a writer that never comes is stopped."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, done."""
    out = tmp_path_factory.mktemp("made") / "run"
    runner.run(replace(REQUEST, out=str(out)))
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy that may be spoilt."""
    return Run(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def small(tmp_path: Path) -> Run:
    """A run of three cells that were never trained: two done, one failed."""
    run = Run(tmp_path / "small")
    run.create(RunRequest(variants=("beta",), datasets=("digits",)))
    for seed in (0, 1):
        cell = f"beta-digits-s{seed}"
        fill(run, replace(ROW, seed=seed, cell=cell))
        run.write_scores(cell, WAY, {"elbo": Score(-1.5, 10, 0.25)}, {"elbo": 2.0})
    run.write_failed(Row("vae", "vae", "digits", 0, "failed", "boom", cell="vae-digits-s0"), "its log\n")
    return run


FIRST, FAILED = "beta-digits-s0", "vae-digits-s0"


def scores_of(run: Run, cell: str) -> Path:
    (path,) = (run.cells / cell / "scores").glob("*.json")
    return path


def one(run: Run, cell: str) -> Row:
    row = run.row(cell)
    assert row is not None
    return row


def again(run: Run) -> list[Row]:
    """The same command."""
    return runner.run(replace(REQUEST, out=str(run.path)))


# edited


@fault(31, "a score edited in scores/*.json", "its row is `damaged`; `bench verify --only-sums` exits with 5")
@pytest.mark.parametrize("what", ["value", "n", "scoring", "sum", "no sum", "cut"])
def test_an_edited_score_is_marked(small: Run, bench: Bench, what: str) -> None:
    path = scores_of(small, FIRST)
    document = json.loads(path.read_text())
    match what:
        case "value":
            document["scores"]["elbo"]["value"] = -1.4
        case "n":
            document["scores"]["elbo"]["n"] = 11
        case "scoring":
            document["scoring"]["samples"] = 11
        case "sum":
            document["sum"] = 64 * "0"
        case "no sum":
            del document["sum"]
    path.write_text(path.read_text()[:-9] if what == "cut" else json.dumps(document, indent=1) + "\n")
    file = f"cells/{FIRST}/scores/{path.name}"
    row = one(small, FIRST)
    assert (row.status, row.scores) == ("damaged", {})
    assert file in row.reason
    code, out, err = bench("table", small.path, "--json")
    assert code == 4
    by_cell = {document["cell"]: document for document in json.loads(out)}
    assert by_cell[FIRST]["scores"]["elbo"] == {"not_available": f"damaged: {row.reason}"}
    assert by_cell["beta-digits-s1"]["scores"]["elbo"]["value"] == -1.5
    assert path.name in err
    code, out, _ = bench("verify", small.path, "--only-sums")
    assert (code, file in out) == (5, True)
    code, out, _ = bench("merge", small.path.parent / "all", small.path)
    assert (code, file in out) == (5, True)
    assert one(Run(small.path.parent / "all"), FIRST).scores == {}


@fault(31, "a label, steps or a latent size edited in cell.json", "its row is `damaged`, and names the file")
@pytest.mark.parametrize("changes", [{"label": "best"}, {"steps": [9]}, {"hyperparameters": {"latent_dim": 64}}])
@pytest.mark.parametrize("part", ["done", "failed/1"])
def test_an_edited_row_is_marked(small: Run, bench: Bench, changes: dict[str, Any], part: str) -> None:
    cell = FIRST if part == "done" else FAILED
    edit(small.cells / cell / part / "cell.json", **changes)
    row = one(small, cell)
    assert (row.status, row.scores) == ("damaged", {})
    assert row.reason.startswith(f"cells/{cell}/{part}/cell.json has changed")
    code, out, err = bench("table", small.path)
    assert code == 4
    assert "cell.json has changed" in " ".join(out.split())
    assert f"cells/{cell}/{part}/cell.json" in err
    assert not small.has_ended(cell)


@fault(31, "edited scores, and the same `bench run`", "put aside and scored again; nothing is trained again")
def test_edited_scores_are_made_again_without_training(run: Run) -> None:
    first, second = run.names()
    weights = run.cells / first / "done" / "weights.safetensors"
    before, inode = scores_of(run, first).read_bytes(), weights.stat().st_ino
    edit(scores_of(run, first), scores={"elbo": {"value": -1.0, "n": 360}, "kl": {"value": 1.0, "n": 360}})
    forged, known = scores_of(run, first).read_bytes(), content(run.cells / second)
    rows = again(run)
    assert [row.status for row in rows] == ["ok", "ok"]
    assert weights.stat().st_ino == inode
    assert json.loads(scores_of(run, first).read_bytes())["scores"] == json.loads(before)["scores"]
    assert [p.read_bytes() for p in (run.cells / first / "damaged").rglob("*.json")] == [forged]
    assert content(run.cells / second) == known
    assert "damaged" not in (run.path / "table.csv").read_text()


@fault(31, "an edited cell.json, and the same `bench run`", "put aside, and trained again")
def test_an_edited_row_is_made_again(run: Run, bench: Bench) -> None:
    first, second = run.names()
    weights = sha256(run.cells / first / "done" / "weights.safetensors")
    edit(run.cells / first / "done" / "cell.json", label="best")
    known = content(run.cells / second)
    assert {row.status for row in run.rows()} == {"ok", "damaged"}
    rows = again(run)
    assert [(row.label, row.status) for row in rows] == 2 * [("vae[latent_dim=2]", "ok")]
    assert sha256(run.cells / first / "done" / "weights.safetensors") == weights
    assert json.loads((run.cells / first / "damaged" / "1" / "cell.json").read_text())["label"] == "best"
    assert content(run.cells / second) == known
    assert bench("verify", run.path, "--only-sums")[0] == 0


@fault(31, "SHA256SUMS deleted, or a schema that had none written in", "a line below the table says so, once for all")
@pytest.mark.parametrize("schema", [SCHEMA, 1])
def test_what_has_no_sums_is_told_below_the_table(small: Run, bench: Bench, schema: int) -> None:
    for cell in (FIRST, "beta-digits-s1"):
        edit(small.cells / cell / "done" / "cell.json", schema=schema, label="best")
        (small.cells / cell / "done" / SUMS).unlink()
    edit(scores_of(small, FIRST), schema=2)
    document = json.loads(scores_of(small, FIRST).read_text())
    del document["sum"]
    scores_of(small, FIRST).write_text(json.dumps(document))
    code, out, _ = bench("table", small.path, "--format", "md")
    lines = [line for line in out.splitlines() if "no checksums" in line]
    assert (code, len(lines)) == (0, 1)
    assert "the files of 2 of 3 cells and the scores of 1 of 3 cells" in lines[0]
    assert bench("verify", small.path, "--only-sums")[0] == (5 if schema > 1 else 0)


def test_scores_that_are_whole_have_a_sum_of_their_own(small: Run) -> None:
    written = scores_of(small, FIRST).read_bytes()
    assert own_sum_fits(written)
    assert json.loads(written)["schema"] == SCHEMA
    small.write_scores(FIRST, WAY, {"kl": Score(2.0, 10)}, {"kl": 1.0})
    assert own_sum_fits(scores_of(small, FIRST).read_bytes())
    row = one(small, FIRST)
    assert row.scores == {"elbo": Score(-1.5, 10, 0.25), "kl": Score(2.0, 10)}
    assert (row.seconds, row.unsummed) == ({"elbo": 2.0, "kl": 1.0}, ())
    for i in range(0, len(written), 7):
        assert not own_sum_fits(written[:i] + bytes([written[i] ^ 1]) + written[i + 1 :])


# links, FIFOs, devices, and files that are too large


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What isn't the run's."""
    place = tmp_path / "elsewhere"
    (place / "attempt-0123456789ab").mkdir(parents=True)
    (place / "attempt-0123456789ab" / "log.txt").write_text(SECRET)
    (place / "log.txt").write_text(SECRET)
    return place


@fault(32, "a failure's log that is a link out of the run", "named; neither embedded by `report` nor copied by `merge`")
def test_a_log_elsewhere_is_neither_shown_nor_copied(small: Run, elsewhere: Path, bench: Bench) -> None:
    log = small.cells / FAILED / "failed" / "1" / "log.txt"
    log.unlink()
    log.symlink_to(elsewhere / "log.txt")
    assert bench("report", small.path)[0] == 0
    html = (small.path / "report.html").read_text()
    assert SECRET not in html
    assert "its log is a link" in html
    code, out, _ = bench("merge", small.path.parent / "all", small.path)
    assert (code, f"{log} is a link" in out) == (5, True)
    assert SECRET not in str(content(small.path.parent / "all"))


@fault(32, "work/ is a link to another folder", "`gc` removes nothing, and names the link; exit 4")
@pytest.mark.parametrize("name", ["work", "failed", "different", "profile", "lease.json", "."])
def test_nothing_is_removed_through_a_link(small: Run, elsewhere: Path, bench: Bench, name: str) -> None:
    place = small.cells / FIRST / name if name != "." else small.cells / "vae-digits-s9"
    place.symlink_to(elsewhere)
    (small.path / ".tmp-old").write_text("x")
    os.utime(small.path / ".tmp-old", (0, 0))
    before = content(elsewhere), content(small.path)
    code, out, err = bench("gc", small.path)
    assert (code, out) == (4, "")
    assert f"{place} is a link" in " ".join(err.split())
    assert (content(elsewhere), content(small.path)) == before


@fault(32, "a cell's folder, or a folder in it, is a link out of the run", "`bench run` names it; exit 4")
def test_nothing_is_written_through_a_link(run: Run, elsewhere: Path) -> None:
    cell = run.names()[0]
    shutil.rmtree(run.cells / cell / "done")
    (run.cells / cell / "work").symlink_to(elsewhere)
    before = content(elsewhere)
    with pytest.raises(StoreError, match="work is a link"):
        again(run)
    (run.cells / cell / "work").unlink()
    shutil.move(run.cells / cell, elsewhere / cell)
    (run.cells / cell).symlink_to(elsewhere / cell)
    with pytest.raises(StoreError, match="is a link"):
        again(run)
    shutil.rmtree(elsewhere / cell)
    assert content(elsewhere) == before
    assert one(run, cell).status == "damaged"


@pytest.mark.parametrize("what", ["done", "done/cell.json", f"done/{SUMS}", "scores", "scores/*.json"])
@fault(
    32, "a result that is a link out of the run", "not read; its row is `damaged`; the same `bench run` makes it anew"
)
def test_a_result_elsewhere_is_not_read(run: Run, tmp_path: Path, bench: Bench, what: str) -> None:
    cell = run.names()[0]
    (path,) = (run.cells / cell).glob(what)
    theirs = tmp_path / "theirs"
    shutil.move(path, theirs)
    path.symlink_to(theirs)
    before = theirs.read_bytes() if theirs.is_file() else content(theirs)
    row = one(run, cell)
    assert (row.status, row.scores) == ("damaged", {})
    assert f"{path.relative_to(run.path)} is a link" in row.reason
    assert bench("table", run.path)[0] == 4
    assert bench("verify", run.path, "--only-sums")[0] == 5
    assert {row.status for row in again(run)} == {"ok"}
    assert (theirs.read_bytes() if theirs.is_file() else content(theirs)) == before
    assert not path.is_symlink()


def spoil(path: Path, how: str) -> None:
    path.unlink()
    match how:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            here = os.getcwd()
            os.chdir(path.parent)
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
            os.chdir(here)
        case "folder":
            path.mkdir()
        case "large":
            path.touch()
            os.truncate(path, inside.limit(path) + 1)


VERBS = (
    ("table", "{run}"), ("table", "{run}", "--json"), ("compare", "{run}", "{run}"), ("pareto", "{run}", "--json"),
    ("report", "{run}"), ("verify", "--why", "{run}/" + FIRST), ("verify", "{run}", "--only-sums"), ("gc", "{run}"),
    ("merge", "{run}-all", "{run}"),
)  # fmt: skip


@fault(
    32, "a FIFO, a device, a socket, a folder or a huge file in the place of a file", "refused by name; nothing hangs"
)
@pytest.mark.parametrize("how", ["fifo", "device", "socket", "folder", "large"])
@pytest.mark.parametrize(
    "file",
    ["done/cell.json", f"done/{SUMS}", "done/history.csv", "done/evidence.safetensors", "scores/*.json",
     "failed/1/cell.json", "failed/1/log.txt", "lease.json"],
)  # fmt: skip
def test_no_verb_waits_for_what_is_no_file(small: Run, bench: Bench, file: str, how: str) -> None:
    if file == "lease.json":
        (small.cells / FIRST / file).touch()
    ((path,),) = [list((small.cells / cell).glob(file)) for cell in (FAILED if "failed" in file else FIRST,)]
    if how == "large" and path.suffix not in (".json", ""):
        pytest.skip("takes too large a file")
    spoil(path, how)
    for verb in VERBS:
        code, out, err = bench(*(word.format(run=small.path) for word in verb))
        assert code in (0, 4, 5), (verb, out, err)
        assert "mistake in the suite" not in err
    rows = {row.cell: row for row in small.rows()}
    assert rows["beta-digits-s1"].scores == {"elbo": Score(-1.5, 10, 0.25)}
    if file != "lease.json" and path.name in ("cell.json", SUMS, path.stem + ".json"):
        assert str(path.relative_to(small.path)) in rows[path.relative_to(small.cells).parts[0]].reason


def test_a_model_elsewhere_is_not_loaded(run: Run, tmp_path: Path) -> None:
    cell = run.cells / run.names()[0]
    assert load(cell) is not None
    (tmp_path / "best").symlink_to(cell)
    assert load(tmp_path / "best") is not None  # whoever names a cell says where it lies
    shutil.move(cell / "done" / "weights.safetensors", tmp_path / "theirs")
    (cell / "done" / "weights.safetensors").symlink_to(tmp_path / "theirs")
    with pytest.raises(Damaged, match=r"weights\.safetensors is a link"):
        load(cell)


@fault(32, "checkpoints/ is a link to another folder", "named; nothing there is removed")
def test_checkpoints_are_not_removed_through_a_link(elsewhere: Path, tmp_path: Path) -> None:
    for step in range(4):
        (elsewhere / f"{step:010}").mkdir()
    (tmp_path / "checkpoints").symlink_to(elsewhere)
    found = Checkpoints(tmp_path / "checkpoints", "cell")
    with pytest.raises(Damaged, match="checkpoints is a link"):
        found.load()
    found.discard()
    assert len(list(elsewhere.iterdir())) == 6


def test_a_runs_own_folder_may_be_a_link_and_its_cells_may_not(run: Run, tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").symlink_to(run.path)
    (tmp_path / "also").symlink_to(tmp_path / "results")
    linked = Run(tmp_path / "also" / "mine")
    assert [row.status for row in linked.rows()] == ["ok", "ok"]
    assert [row.status for row in again(linked)] == ["ok", "ok"]
    assert bench("gc", linked.path)[0] == 0
    assert bench("verify", linked.path, "--only-sums")[0] == 0
    (tmp_path / "best").symlink_to(run.cells / run.names()[0])  # somebody's own name for a cell
    assert bench("verify", "--why", tmp_path / "best")[0] == 0

    shutil.move(run.cells, tmp_path / "cells")
    run.cells.symlink_to(tmp_path / "cells")
    for verb in ("table", "gc", "verify"):
        code, _, err = bench(verb, run.path)
        assert code == 4
        assert "cells is a link" in " ".join(err.split())
        assert "whole folder" in " ".join(err.split())
    with pytest.raises(StoreError, match="cells is a link"):
        again(Run(run.path))


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"a" * 100_000 + b"the end")
    assert inside.tail(tmp_path / "log.txt", 7) == b"the end"
    assert inside.tail(tmp_path / "log.txt", 10**6) == b"a" * 100_000 + b"the end"
    assert inside.content(tmp_path / "log.txt") == (tmp_path / "log.txt").read_bytes()


# of the wrong shape


WRONG: tuple[tuple[str, tuple[Any, ...], Any], ...] = (
    ("scores", ("scores", "elbo", "value"), "abc"),
    ("scores", ("scores", "elbo", "value"), None),
    ("scores", ("scores", "elbo", "value"), float("nan")),
    ("scores", ("scores", "elbo", "value"), float("inf")),
    ("scores", ("scores", "elbo", "value"), 10**400),
    ("scores", ("scores", "elbo", "n"), -1),
    ("scores", ("scores", "elbo", "se"), "wide"),
    ("scores", ("scores", "elbo"), 3),
    ("scores", ("scores",), []),
    ("scores", ("scoring",), None),
    ("scores", ("scoring", "split"), 5),
    ("scores", ("seconds", "elbo"), "long"),
    ("done", ("label",), 5),
    ("done", ("seed",), "x"),
    ("done", ("seed",), 10**30),
    ("done", ("steps",), None),
    ("done", ("steps",), ["many"]),
    ("done", ("status",), "fine"),
    ("done", ("training", "steps"), "many"),
    ("done", ("costs",), 3),
    ("done", ("costs", "parameters"), "few"),
    ("done", ("hyperparameters", "latent_dim"), [1]),
    ("done", ("hyperparameters", "beta"), float("inf")),
    ("failed", ("reason",), {}),
    ("failed", ("label",), None),
    ("failed", ("status",), "ok"),
)


def reshaped(run: Run, part: str, at: tuple[Any, ...], value: Any) -> Path:
    """Put a value into a document, and make sums that fit, as a forger would."""
    cell = FAILED if part == "failed" else FIRST
    path = (
        scores_of(run, cell)
        if part == "scores"
        else run.cells / cell / ("done", "failed/1")[part == "failed"] / "cell.json"
    )
    document = inner = json.loads(path.read_text())
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    if part == "scores":
        patched = {k: v for k, v in document.items() if k not in ("schema", "sum")}
        text = json.dumps({"schema": 2, **patched})
        path.write_text(text)
    else:
        path.write_text(json.dumps(document))
        seal(path.parent)
    return path


@fault(33, "JSON of the wrong shape in a run", "that cell is a row that names the file; the others stand; exit 4")
@pytest.mark.parametrize(("part", "at", "value"), WRONG, ids=lambda part: str(part)[:24])
def test_one_cell_of_the_wrong_shape_hides_no_other(
    small: Run, bench: Bench, part: str, at: tuple[Any, ...], value: Any
) -> None:
    path = reshaped(small, part, at, value)
    name = str(path.relative_to(small.path))
    rows = {row.cell: row for row in small.rows()}
    row = rows.pop(path.relative_to(small.cells).parts[0])
    assert (row.status, row.scores) == ("damaged", {})
    assert name in row.reason
    assert {other.status for other in rows.values()} <= {"ok", "failed"}
    for verb in VERBS:
        code, _, err = bench(*(word.format(run=small.path) for word in verb))
        assert "mistake in the suite" not in err
        if verb[0] in ("table", "compare", "pareto"):
            assert (code, name in err) == (4, True)
    assert name in " ".join((small.path / "report.html").read_text().split())


@pytest.mark.parametrize("text", ["[]", '{"seeds": "x"}', '{"steps": []}', '{"schema": "x"}', '{"who": 1}', "{"])
@fault(33, "a run.json of the wrong shape", "named, with the way out; exit 4")
def test_a_request_of_the_wrong_shape_is_named(small: Run, bench: Bench, text: str) -> None:
    (small.path / "run.json").write_text(text)
    code, _, err = bench("table", small.path)
    assert (code, "run.json" in err, "{}" in err) == (4, True, True)
    (small.path / "run.json").write_text("{}")
    assert len(small.rows()) == 3


@fault(33, "a document nested 200,000 deep, in a run or in --config", "named; exit 4, or 2 for --config")
def test_deep_nesting_is_no_mistake_of_ours(small: Run, bench: Bench, tmp_path: Path) -> None:
    deep = '{"a": ' * 200_000 + "1" + "}" * 200_000
    path = small.cells / FIRST / "done" / "cell.json"
    path.write_text(deep)
    seal(path.parent)
    assert "nested too deeply" in one(small, FIRST).reason
    assert bench("table", small.path)[0] == 4
    shallow = {"variant": "v", "label": "v", "dataset": "d", "seed": 0, "status": "ok"}
    path.write_text(json.dumps({**shallow, "data": json.loads('{"a": ' * 200 + "1" + "}" * 200)}))
    seal(path.parent)
    assert "nested too deeply" in one(small, FIRST).reason
    for name in ("deep.json", "deep.yaml"):
        (tmp_path / name).write_text(deep)
        code, _, err = bench("run", "--config", tmp_path / name)
        assert (code, name in err) == (2, True)


def test_a_model_of_the_wrong_shape_is_named(run: Run) -> None:
    cell = run.names()[0]
    for changes in ({"data": {}}, {"data": {"shape": "square"}}, {"hyperparameters": []}):
        forge(run, cell, **changes)
        with pytest.raises(Damaged, match=r"cell\.json"):
            load(run.cells / cell)


def test_a_configuration_whose_schema_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="schema"):
        RunRequest.from_json({"schema": "new"})


def test_a_forger_who_makes_sums_anew_is_found_by_scoring_again(run: Run, bench: Bench) -> None:
    """What sums don't keep out: docs/durability.md says so."""
    rescore(run, run.names()[0], lambda s: s["elbo"].update(value=s["elbo"]["value"] + 1))
    assert bench("table", run.path)[0] == 0
    assert bench("verify", run.path, "--only-sums")[0] == 0
    assert bench("verify", run.path)[0] == 5


@pytest.mark.parametrize("verb", ["table", "gc", "verify --why", "report"])
def test_a_request_that_is_no_file_is_named(verb: str, small: Run, bench: Bench) -> None:
    (small.path / "run.json").unlink()
    os.mkfifo(small.path / "run.json")
    code, _, err = bench(*verb.split(), small.path)
    assert (code, "run.json is a FIFO" in err) == (4, True)
