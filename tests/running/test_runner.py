"""A run from end to end, in miniature: what is kept, what is reused, and what one bad cell costs the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import bench
from bench.contracts import abilities
from bench.contracts.events import CellEnded, CellStarted, Event, RunEnded, RunStarted, Step
from bench.contracts.measurement import METRICS
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running import job, planning, runner
from bench.running.planning import plan
from bench.util.errors import NotAvailable, PluginError, StoreError, UnknownName, UsageError
from tests.conftest import Bench
from tests.misbehaving_plugins import install

QUICK = ("elbo", "bce", "kl")


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., list[Row]]:
    def go(*variants: str, **settings: object) -> list[Row]:
        request = RunRequest(
            variants=variants, datasets=("digits",), steps=6, baseline=False, sanity=False, metrics=QUICK,
            out=str(tmp_path / "run"), device="cpu", threads=1, in_process=True,
        )  # fmt: skip
        listener = settings.pop("listener", lambda _: None)
        return runner.run(replace(request, **settings), listener)  # type: ignore[arg-type]

    return go


def states(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.label, row.status) for row in rows]


def test_a_run_leaves_what_design_promises(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    events: list[Event] = []
    rows = go("vae", "vqvae", seeds=(0, 1), listener=events.append)
    run = tmp_path / "run"

    assert states(rows) == [("vae", "ok"), ("vae", "ok"), ("vqvae", "ok"), ("vqvae", "ok")]
    assert {p.name for p in run.iterdir()} == {
        "run.json",
        "cells",
        "table.csv",
        "costs.csv",
        "table.parquet",
        "table.md",
    }
    assert rows[2].steps == (6, 6)
    for row in rows:
        done = run / "cells" / row.cell / "done"
        kept = {"cell.json", "weights.safetensors", "evidence.safetensors", "history.csv", "log.txt", "SHA256SUMS"}
        assert {p.name for p in done.iterdir()} == {*kept, "samples.png", "reconstructions.png"}
        evidence = load_file(done / "evidence.safetensors")
        assert evidence["rate"].shape == evidence["distortion"].shape == (360,)
        elbo = -(evidence["rate"] + evidence["distortion"]).double().mean().item()
        assert row.scores["elbo"].value == pytest.approx(elbo, rel=1e-6)  # type: ignore[union-attr]
    table = pd.read_csv(run / "table.csv")
    assert len(table) == 4
    assert table["elbo"].tolist() == [row.scores["elbo"].value for row in rows]  # type: ignore[union-attr]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded)
    assert sum(isinstance(e, CellStarted) for e in events) == sum(isinstance(e, CellEnded) for e in events) == 4
    last = [e for e in events if isinstance(e, Step) and e.cell == rows[3].cell][-1]
    assert last.step == 12
    assert last.stage == 1


def test_the_same_command_again_repeats_nothing_and_changes_nothing(
    go: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go("vae", "beta")
    table = (tmp_path / "run" / "table.csv").read_bytes()
    monkeypatch.setattr("bench.running.job.train_together", None)
    events: list[Event] = []
    rows = go("vae", "beta", listener=events.append)

    assert [e.reused for e in events if isinstance(e, CellEnded)] == [True, True]
    assert states(rows) == [("vae", "ok"), ("beta", "ok")]
    assert (tmp_path / "run" / "table.csv").read_bytes() == table


def test_a_fresh_run_gives_the_same_table_byte_for_byte(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    go("vae", "vqvae", "gan", metrics=(*QUICK, "fd", "sharpness"))
    go("gan", "vae", "vqvae", metrics=(*QUICK, "fd", "sharpness"), out=str(tmp_path / "other"))
    a, b = (pd.read_csv(tmp_path / name / "table.csv").sort_values("label") for name in ("run", "other"))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), check_exact=True)


def test_more_variants_seeds_and_metrics_extend_a_run(
    go: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go("vae")
    calls = []
    train = job.train_together
    monkeypatch.setattr(job, "train_together", lambda *a, **k: (calls.append(1), train(*a, **k))[1])
    rows = go("vae", "beta", seeds=(0, 1), metrics=(*QUICK, "sharpness"))

    assert len(calls) == 3
    assert [set(row.scores) for row in rows] == [{*QUICK, "sharpness"}] * 4
    assert len(Run(tmp_path / "run").rows()) == 4


def test_one_bad_cell_costs_the_others_nothing(
    go: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch,
        raises="tests.misbehaving_plugins:Raises",
        diverges="tests.misbehaving_plugins:Diverges",
        honest="tests.misbehaving_plugins:Mean",
    )
    rows = go("raises", "diverges", "honest")

    assert states(rows) == [("raises", "failed"), ("diverges", "diverged"), ("honest", "ok")]
    assert "RuntimeError: the third step is too much for me" in rows[0].reason
    assert rows[1].reason.startswith("non-finite loss at step 3; the last finite loss was ")
    log = (tmp_path / "run" / "cells" / rows[0].cell / "failed" / "1" / "log.txt").read_text()
    assert "tests/misbehaving_plugins.py" in log.replace("\\", "/")
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert sorted(table["status"]) == ["diverged", "failed", "ok"]
    mean = rows[2].scores
    assert isinstance(mean["elbo"], NotAvailable)
    assert mean["bce"].value > 0  # type: ignore[union-attr]


def test_what_failed_is_tried_again_only_when_asked(
    go: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, raises="tests.misbehaving_plugins:Raises", diverges="tests.misbehaving_plugins:Diverges")
    first = go("raises", "diverges")
    second = go("raises", "diverges")
    cells = tmp_path / "run" / "cells"
    assert states(second) == states(first) == [("raises", "failed"), ("diverges", "diverged")]
    assert [len(list((cells / row.cell / "failed").iterdir())) for row in second] == [1, 1]
    go("raises", "diverges", retry_failed=True)
    assert [len(list((cells / row.cell / "failed").iterdir())) for row in second] == [2, 2]


def test_ctrl_c_loses_nothing_that_was_earned(
    go: Callable[..., list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, stopped="tests.misbehaving_plugins:Interrupted")
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        go("vae", "stopped", "beta", listener=events.append)

    assert isinstance(events[-1], RunEnded)
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert dict(zip(table["label"], table["status"], strict=True)) == {"vae": "ok", "stopped": "interrupted"}
    rows = go("vae", "beta")
    assert states(rows) == [("vae", "ok"), ("beta", "ok")]


@pytest.mark.fault(28, "a dataset without labels", "label metrics n/a with the reason, cvae skipped")
def test_a_dataset_without_labels_skips_what_needs_them(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "plain.npz"
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, x_train=x[:50], x_test=x[50:])
    rows = go("cvae", "vae", datasets=(f"npz:{path}",), metrics=())

    assert states(rows) == [("cvae", "skipped"), ("vae", "ok")]
    assert "labels" in rows[0].reason
    assert isinstance(rows[1].scores["fd"], NotAvailable)
    assert "label" in rows[1].scores["fd"].reason


def test_colour_is_a_discretised_logistic_for_every_variant(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "colour.npz"
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (80, 9, 11, 3), dtype=np.uint8)
    np.savez(path, x_train=x[:60], y_train=np.arange(60) % 2, x_test=x[60:], y_test=np.arange(20) % 2)
    metrics = ("elbo", "distortion", "bce", "kl", "sharpness")
    rows = go("vae", "conv", "cvae", "vqvae", "wae", "ae", "gan", datasets=(f"npz:{path}",), metrics=metrics)

    assert {row.status for row in rows} == {"ok"}
    assert {row.likelihood for row in rows} == {"logistic"}
    for row in rows:
        assert isinstance(row.scores["bce"], NotAvailable)
    assert rows[0].scores["distortion"].value > 0  # type: ignore[union-attr]


def test_loading_a_cell_gives_the_model_that_was_scored(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    rows = go("beta[beta=2,latent_dim=3]", "vqvae[codes=7]")
    model = bench.load(tmp_path / "run" / "cells" / rows[0].cell)
    assert model.latent_dim == 3
    assert isinstance(model, abilities.Samples)
    assert isinstance(model, abilities.Encodes)
    assert isinstance(model, abilities.Decodes)
    y = torch.zeros(4, dtype=torch.long)
    z = model.encode(torch.rand(4, 1, 8, 8), y)
    assert z.shape == (4, 3)
    assert model.decode(z, y).shape == model.sample(y).shape == (4, 1, 8, 8)
    assert not model.training
    weights = load_file(tmp_path / "run" / "cells" / rows[1].cell / "done" / "weights.safetensors")
    again = bench.load(str(tmp_path / "run" / "cells" / rows[1].cell / "done")).state_dict()
    assert all(torch.equal(weights[k], again[k]) for k in weights)


def test_loading_what_is_no_cell_says_so(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="finished cell"):
        bench.load(tmp_path)
    (row,) = go("vae")
    weights = tmp_path / "run" / "cells" / row.cell / "done" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(StoreError, match="don't fit"):
        bench.load(tmp_path / "run" / "cells" / row.cell)


def test_python_gets_a_data_frame(tmp_path: Path) -> None:
    table = bench.run(
        ["vae", "beta"], "digits", seeds=2, steps=4, set={"beta.beta": 2}, metrics=("elbo",), baseline=False,
        sanity=False, out=str(tmp_path / "run"), progress=False, threads=1,
    )  # fmt: skip
    assert isinstance(table, pd.DataFrame)
    assert table["label"].tolist() == ["vae", "vae", "beta[beta=2]", "beta[beta=2]"]
    assert table["elbo"].notna().all()
    with pytest.raises(UsageError, match="stepz"):
        bench.run("vae", stepz=3)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"variants": ("vea",)}, UnknownName, "vae"),
        ({"datasets": ("fashon",)}, UnknownName, "fashion"),
        ({"metrics": ("fd", "elb")}, UnknownName, "elbo"),
        ({"likelihood": "bernouli"}, UnknownName, "bernoulli"),
        ({"set": ("vae.bta=1",)}, UnknownName, "backbone"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"limit": 10_000}, UsageError, "1,437"),
        ({"device": "cudda"}, UsageError, "cuda"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    go: Callable[..., list[Row]], tmp_path: Path, settings: dict[str, object], error: type[Exception], says: str
) -> None:
    variants = settings.pop("variants", ("vae",))
    with pytest.raises(error) as caught:
        go(*variants, **settings)  # type: ignore[misc]
    assert says in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(go: Callable[..., list[Row]]) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        go("vae", device="cuda")


def test_a_variant_that_cannot_be_built_names_itself(
    go: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, unbuildable="tests.misbehaving_plugins:Unbuildable")
    with pytest.raises(PluginError, match="unbuildable") as caught:
        go("unbuildable")
    assert "ZeroDivisionError" in str(caught.value)


def test_limit_and_validation_are_marked_in_the_row(go: Callable[..., list[Row]]) -> None:
    (row,) = go("vae", limit=200, validation=100)
    assert row.training["limit"] == 200
    assert row.training["validation"] == 100
    assert row.data["train_images"] == 200
    (full,) = go("vae")
    assert full.cell != row.cell


def test_scores_are_kept_as_json_that_anybody_reads(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    (row,) = go("ae")
    (path,) = (tmp_path / "run" / "cells" / row.cell / "scores").iterdir()
    document = json.loads(path.read_text())
    assert set(document["scores"]) == set(QUICK)
    assert "deterministic encoder" in str(document["scores"]["elbo"])
    assert document["scores"]["bce"]["n"] == 360


def test_every_metric_gives_a_number_or_a_reason_for_every_variant(go: Callable[..., list[Row]]) -> None:
    rows = go(metrics=(), baseline=True)
    stored = {name for name in METRICS if METRICS.load(name).default and not METRICS.load(name).derived}
    assert len(rows) == 8
    for row in rows:
        assert set(row.scores) == stored
        for name, score in row.scores.items():
            if isinstance(score, NotAvailable):
                assert len(score.reason) > 10
                assert "raised" not in score.reason, (row.label, name, score.reason)
            else:
                low, high = METRICS.load(name).range
                assert low <= score.value <= high, (row.label, name)


@pytest.mark.usefixtures("warm_servers")
def test_cells_at_once_are_the_same_cells(go: Callable[..., list[Row]], tmp_path: Path) -> None:
    """Two processes: every event arrives, every row comes in order, and the table is that of one process."""
    events: list[Event] = []
    one = go("vae", "wae", "vqvae", out=str(tmp_path / "one"), threads=1)
    two = go(
        "vae", "wae", "vqvae", out=str(tmp_path / "two"), jobs=2, threads=1, in_process=False, listener=events.append
    )

    assert [row.label for row in two] == [row.label for row in one]
    assert sum(isinstance(e, CellEnded) for e in events) == 3
    assert {e.cell for e in events if isinstance(e, Step)} == {row.cell for row in two}
    assert (tmp_path / "one" / "table.csv").read_bytes() == (tmp_path / "two" / "table.csv").read_bytes()


def test_force_makes_anew_what_is_there(go: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = go("vae")
    calls = []
    train = job.train_together
    monkeypatch.setattr(job, "train_together", lambda *a, **k: (calls.append(1), train(*a, **k))[1])
    (same,) = go("vae")
    (anew,) = go("vae", force=True)
    assert calls == [1]
    assert same.provenance == before.provenance
    assert anew.scores["elbo"] == before.scores["elbo"]


def test_fail_fast_stops_at_the_first_failure(
    go: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, raises="tests.misbehaving_plugins:Raises")
    rows = go("vae", "raises", "beta", fail_fast=True)
    assert states(rows) == [("vae", "ok"), ("raises", "failed")]
    assert len(pd.read_csv(tmp_path / "run" / "table.csv")) == 2


def test_shards_share_out_the_cells(tmp_path: Path) -> None:
    request = RunRequest(
        ("vae", "conv", "ae"), seeds=(0, 1, 2), steps=6, out=str(tmp_path), baseline=False, sanity=False
    )  # fmt: skip
    whole = {c.name for c in plan(request).cells}
    shards = [{c.name for c in plan(replace(request, shard=(i, 4))).cells} for i in (1, 2, 3, 4)]
    assert sorted(name for shard in shards for name in shard) == sorted(whole)
    assert sorted(map(len, shards)) == [2, 2, 2, 3]
    conv = [sum(name.startswith("conv") for name in shard) for shard in shards]
    assert max(conv) == 1  # the long ones are dealt out first


def test_a_broken_variant_beside_others_is_a_row_and_alone_an_error(
    go: Callable[..., list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, unbuildable="tests.misbehaving_plugins:Unbuildable", gone="tests.nowhere:Gone")
    rows = go("unbuildable", "gone", "vae")
    assert sorted(states(rows)) == [("gone", "failed"), ("unbuildable", "failed"), ("vae", "ok")]
    assert "ModuleNotFoundError" in next(row.reason for row in rows if row.label == "gone")
    with pytest.raises(PluginError, match="unbuildable"):
        go("unbuildable")


def test_a_disk_that_will_be_full_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = RunRequest(("vae",), ("digits",), baseline=False, sanity=False, out=str(tmp_path / "run"))
    usage = shutil.disk_usage(tmp_path)
    found = planning.plan(request)
    need = planning.space(found.cells, 1)
    parameters = found.cells[0].parameters
    assert need > (4 + 24) * parameters
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=need))
    assert not any("of disk" in note for note in planning.plan(request).notes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=need - 1))
    assert any("of disk" in note for note in planning.plan(request).notes)


def test_a_run_may_end_with_its_report(tmp_path: Path, bench: Bench) -> None:
    few = ("--steps", 3, "--limit", 200, "--no-baseline", "--no-sanity", "--metrics", "elbo")
    code, out, err = bench("run", "--variants", "vae", *few, "--in-process", "--report", "--out", tmp_path / "run")
    assert code == 0
    assert "vae" in out
    assert str(tmp_path / "run" / "report.html") in err
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("seconds", "says"), [({"a": 60.0, "gan": 60.0}, "50% of it"), ({"a": 90.0, "gan": 10.0}, "")])
def test_a_large_share_of_the_baseline_is_said_before_it_is_trained(seconds: dict[str, float], says: str) -> None:
    cells = [SimpleNamespace(row=SimpleNamespace(label=label, baseline=label == "gan")) for label in seconds]
    run = SimpleNamespace(request=SimpleNamespace(jobs=1), plan=SimpleNamespace(cells=cells))
    (note,) = runner._Runner._time_ahead(run, seconds)  # type: ignore[arg-type]
    assert ("--no-baseline" in note) == bool(says)
    assert says in note
