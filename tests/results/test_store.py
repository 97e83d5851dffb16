"""Results on disk: whole or not at all, read back as they were, refused when they can't be trusted."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.util import inside
from bench.util.durable import SCHEMA, SUMS, damage, read_json, read_json_if_any, write_file, write_json
from bench.util.errors import NotAvailable, StoreError

ROW = Row(
    "beta",
    "beta[beta=10]",
    "digits",
    3,
    "ok",
    hyperparameters={"beta": 10.0, "hidden": [400, 200]},
    likelihood="bernoulli",
    steps=(20, 20),
    plugin={"distribution": "vaebench", "version": "1", "source": "ab"},
    training={"steps": 20},
    costs={"parameters": 7},
    cell="beta_beta_10_-digits-s3-0123",
)
WAY = {"samples": 10}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.create(RunRequest(variants=("beta",), datasets=("digits",)))
    return run


def fill(run: Run, row: Row = ROW) -> None:
    weights = {"w": torch.arange(6.0).view(2, 3).T}
    evidence = {"rate": torch.rand(5)}
    pictures = {"samples": Image.new("L", (4, 4))}
    run.write_done(row, weights, [{"step": 1, "loss": 2.0}, {"step": 2, "rec": 1.0}], evidence, pictures, "a line\n")


def test_a_row_comes_back_as_it_was(run: Run) -> None:
    fill(run)
    scores = {"elbo": Score(-1.5, 10, 0.25, "careful"), "fid": NotAvailable("no weights")}
    run.write_scores(ROW.cell, WAY, scores, {"elbo": 2.0, "fid": 1.0})
    (row,) = run.rows()

    assert row.scores["elbo"] == scores["elbo"]
    assert isinstance(row.scores["fid"], NotAvailable)
    assert row.scores["fid"].reason == "no weights"
    assert row.scoring == WAY
    assert row.costs == {"parameters": 7, "score_seconds": 3.0}
    for name in ("variant", "label", "dataset", "seed", "status", "hyperparameters", "steps", "plugin", "cell"):
        assert getattr(row, name) == getattr(ROW, name)


def test_a_done_cell_holds_what_design_promises(run: Run) -> None:
    fill(run)
    done = run.cells / ROW.cell / "done"
    assert sorted(p.name for p in done.iterdir()) == [
        "SHA256SUMS", "cell.json", "evidence.safetensors", "history.csv", "log.txt", "samples.png",
        "weights.safetensors",
    ]  # fmt: skip
    assert (done / "history.csv").read_text() == "step,loss,rec\n1,2.0,\n2,,1.0\n"
    assert not (run.cells / ROW.cell / "work").exists()


def test_a_write_that_breaks_off_leaves_nothing_to_be_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.util.durable.write_file", full)
    with pytest.raises(StoreError, match="No space"):
        fill(run)
    assert not run.is_done(ROW.cell)
    assert run.row(ROW.cell) is None
    monkeypatch.undo()
    fill(run)
    assert run.is_done(ROW.cell)


def test_a_new_metric_joins_the_scores_and_another_way_of_scoring_stands_apart(run: Run) -> None:
    fill(run)
    run.write_scores(ROW.cell, WAY, {"elbo": Score(1, 1)}, {"elbo": 1.0})
    before = run.read_scores(ROW.cell, WAY)
    run.write_scores(ROW.cell, WAY, {**before, "kl": Score(2, 1)}, {"kl": 1.0})
    assert set(run.read_scores(ROW.cell, WAY)) == {"elbo", "kl"}
    assert run.read_scores(ROW.cell, {"samples": 11}) == {}
    row = run.row(ROW.cell)
    assert row is not None
    assert row.costs["score_seconds"] == 2.0


def test_failures_are_kept_and_numbered_and_a_skip_is_noted_once(run: Run) -> None:
    failed = Row("beta", "beta", "digits", 0, "failed", "boom", cell="c")
    run.write_failed(failed, "first")
    run.write_failed(failed, "second")
    assert [(run.cells / "c" / "failed" / n / "log.txt").read_text() for n in "12"] == ["first", "second"]
    skipped = Row("cvae", "cvae", "digits", 0, "skipped", "no labels", cell="d")
    run.write_failed(skipped, "")
    run.write_failed(skipped, "")
    assert [p.name for p in (run.cells / "d" / "failed").iterdir()] == ["1"]
    assert [(r.status, r.reason) for r in run.rows()] == [("failed", "boom"), ("skipped", "no labels")]


def test_a_done_cell_counts_more_than_an_earlier_failure(run: Run) -> None:
    run.write_failed(Row("beta", "beta", "digits", 3, "failed", "boom", cell=ROW.cell), "")
    fill(run)
    (row,) = run.rows()
    assert row.status == "ok"


def test_rows_stand_in_the_order_of_the_request(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create(RunRequest(variants=("vae", "beta[beta=10|4]"), datasets=("mnist", "digits")))
    wanted = [
        Row(v, label, d, s, "ok", baseline=b, cell=f"{d}-{label}-{s}".replace("[", "").replace("]", ""))
        for d in ("mnist", "digits")
        for v, label, b in (("vae", "vae", False), ("beta", "beta", False), ("beta", "beta[beta=10]", False),
                            ("gan", "gan", True))
        for s in (0, 2, 10)
    ]  # fmt: skip
    for row in reversed(wanted):
        fill(run, row)
    assert [r.cell for r in run.rows()] == [r.cell for r in wanted]


def test_a_run_is_extended_by_the_next_request(run: Run) -> None:
    run.create(RunRequest(variants=("vae",), datasets=("digits",), seeds=(0, 1)))
    joined = RunRequest.from_json(read_json(run.path / "run.json"))
    assert joined.variants == ("beta", "vae")
    assert joined.seeds == (0, 1)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(StoreError, match="something else"):
        Run(tmp_path).create(RunRequest())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_found_before_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="can't be written"):
        Run(tmp_path / "run").create(RunRequest())


def test_a_path_through_a_file_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        Run(tmp_path / "file" / "run").create(RunRequest())


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", "null", f'{{"schema": {SCHEMA + 1}}}', '{"schema": null}', '{"schema": true}',
        '{"schema": "2"}',
        '{"a": NaN}', '{"a": -Infinity}', '{"a": ' + 200_000 * "[" + 200_000 * "]" + "}", "\x00\xff", "{}{}",
        "\xef\xbb\xbf{}",
    ],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_a_damaged_or_newer_document_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(StoreError):
        read_json(path)


def test_blanks_around_a_document_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('\n {"schema": 1}\r\n\t')
    assert read_json(tmp_path / "x.json") == {"schema": 1}
    assert read_json_if_any(tmp_path / "y.json") is None
    assert read_json_if_any(tmp_path / "x.json" / "y.json") is None


@pytest.mark.parametrize("file", ["done/cell.json", "scores/*.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_rows_name_the_file_that_is_damaged(run: Run, file: str, content: bytes | None) -> None:
    for seed in (3, 4):
        cell = f"{ROW.cell}{seed}"
        fill(run, replace(ROW, seed=seed, cell=cell))
        run.write_scores(cell, WAY, {"elbo": Score(-1.5, 10)}, {})
    (path,) = (run.cells / f"{ROW.cell}3").glob(file)
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    by_status = {row.status: row for row in run.rows()}
    assert by_status["ok"].scores == {"elbo": Score(-1.5, 10)}
    wrong = by_status["damaged"]
    assert str(path.relative_to(run.path)) in wrong.reason
    assert (wrong.cell, wrong.scores) == (f"{ROW.cell}3", {})


def test_a_newer_document_is_refused_whatever_its_sum(run: Run) -> None:
    fill(run)
    run.write_scores(ROW.cell, WAY, {"elbo": Score(-1.5, 10)}, {})
    for file in ("scores/*.json", "done/cell.json"):
        (path,) = (run.cells / ROW.cell).glob(file)
        path.write_text(f'{{"schema": {SCHEMA + 1}}}')
        with pytest.raises(StoreError, match=path.name) as caught:
            run.rows()
        assert "Upgrade" in caught.value.fix
        assert gc.isenabled()


def test_a_row_of_fewer_fields_than_now_is_read(run: Run) -> None:
    fill(run)
    path = run.cells / ROW.cell / "done" / "cell.json"
    document = json.loads(path.read_text())
    del document["engine"], document["parts"]
    path.write_text(json.dumps({**document, "of_tomorrow": 1}))
    (path.parent / SUMS).unlink()
    (row,) = run.rows()
    assert row == ROW


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="isn't a run"):
        Run(tmp_path).rows()


def test_documents_are_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": Path()})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "x.json", {"a": (1, 2)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"schema": SCHEMA, "a": [1, 2]}


def test_a_replaced_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_file(path, "one\r\n")
    write_file(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


# who comes second


@pytest.mark.fault(17, "a cell is done twice with equal weights", "the first stays, the second is dropped")
def test_the_same_result_again_is_dropped(run: Run) -> None:
    fill(run)
    before = (run.cells / ROW.cell / "done" / "cell.json").read_bytes()
    fill(run, replace(ROW, costs={"parameters": 8}))
    assert (run.cells / ROW.cell / "done" / "cell.json").read_bytes() == before
    assert [p.name for p in (run.cells / ROW.cell).iterdir()] == ["done"]


@pytest.mark.fault(18, "a cell is done twice with other weights", "both are kept, and its row says so")
def test_another_result_is_kept_beside_and_the_row_says_so(run: Run) -> None:
    fill(run)
    run.write_done(ROW, {"w": torch.zeros(1)}, [], {}, {}, "")
    run.write_done(ROW, {"w": torch.ones(1)}, [], {}, {}, "")
    (row,) = run.rows()
    assert row.status == "ok"
    assert row.conflict
    assert sorted(p.name for p in (run.cells / ROW.cell / "different").iterdir()) == ["1", "2"]
    assert damage(run.cells / ROW.cell / "different" / "2") == []


def test_what_is_damaged_is_said(run: Run) -> None:
    fill(run)
    assert run.damage(ROW.cell) == []
    done = run.cells / ROW.cell / "done"
    (done / "log.txt").unlink()
    (done / "extra").touch()
    (done / "history.csv").write_text("step\n")
    assert run.damage(ROW.cell) == ["extra doesn't belong here", "history.csv has changed", "log.txt is missing"]


def test_what_failed_is_tried_again_if_another_try_can_help(run: Run) -> None:
    for status, ended in (("failed", True), ("diverged", True), ("interrupted", False), ("timeout", False)):
        run.write_failed(replace(ROW, status=status, reason="why", cell=status), "")  # type: ignore[arg-type]
        assert run.has_ended(status) == ended
    assert not run.has_ended("never seen")


def test_a_settings_for_this_once_are_not_repeated(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.create(RunRequest(force=True, retry_failed=True, shard=(1, 2), in_process=True, fail_fast=True, jobs=3))
    assert run.request() == RunRequest(jobs=3)


@pytest.mark.fault(29, "20,000 cells in one run", "read within seconds, 60,000 files opened once each")
def test_every_cell_costs_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised of 20,000 cells is a matter of files opened: no more than a cell's own, its sums, its scores."""
    run = Run(tmp_path / "r")
    run.create(RunRequest())
    for seed in range(30):
        cell = f"{seed:05}"
        fill(run, replace(ROW, seed=seed, cell=cell))
        run.write_scores(cell, WAY, {"elbo": Score(1.0, 10)}, {})
    read: list[str] = []
    reading = inside.reading
    monkeypatch.setattr(inside, "reading", lambda path: (read.append(str(path)), reading(path))[1])
    assert len(run.rows()) == 30
    assert len(read) == len(set(read)) == 3 * 30 + 2, "and run.json and names.json once"
