"""What is on disk, doubted: cells explained, verified, tidied and joined; older schemas read, newer ones refused."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.api import load
from bench.contracts.abilities import Samples
from bench.contracts.dataset import Data
from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest, Scoring
from bench.contracts.row import Row
from bench.results import garbage, store
from bench.results.locate import cells, one
from bench.results.store import Run
from bench.running import identity, job, runner
from bench.tables import frames
from bench.upkeep.explain import explain
from bench.upkeep.merge import merge
from bench.upkeep.verify import Finding, Verifier, distance
from bench.util import lease
from bench.util.durable import SCHEMA, SUMS, appear, sha256, write_json
from bench.util.errors import NotAvailable, StoreError, UsageError
from bench.util.lease import Lease
from tests.conftest import Bench

QUICK = ("elbo", "bce", "kl")
SCHEMA_1, SCHEMA_2 = (Path(__file__).parents[1] / "assets" / name for name in ("schema-1", "schema-2"))
"""Each written by the last version of its schema."""


def go(out: Path, *variants: str, **settings: Any) -> Run:
    request = RunRequest(
        variants=variants, datasets=("digits",), steps=4, baseline=False, sanity=False, metrics=QUICK, out=str(out),
        device="cpu", threads=1, in_process=True,
    )  # fmt: skip
    runner.run(replace(request, **settings))
    return Run(out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells that are done, one that diverged."""
    variants = ("vae[latent_dim=2]", "vae", "beta[beta=1e40]")
    return go(tmp_path_factory.mktemp("made") / "run", *variants, eval_split="test").path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy that may be spoilt."""
    return Run(shutil.copytree(made, tmp_path / "run"))


def named(run: Run, start: str) -> str:
    (name,) = [name for name in run.names() if name.startswith(start)]
    return name


SMALL, VAE, BETA = "vae_latent_dim", "vae-", "beta"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def seal(folder: Path) -> None:
    """Sums that fit what lies there, as a forger would make them."""
    names = sorted(p.name for p in folder.iterdir() if p.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def forge(run: Run, cell: str, **changes: Any) -> None:
    """Change a row, sums and all."""
    done = run.cells / cell / "done"
    edit(done / "cell.json", **changes)
    seal(done)


def rescore(run: Run, cell: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change scores, sum and all."""
    (path,) = (run.cells / cell / "scores").iterdir()
    document = json.loads(path.read_text())
    change(document["scores"])
    write_json(path, {k: v for k, v in document.items() if k not in ("schema", "sum")}, summed=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def dead(path: Path) -> None:
    """A lease whose owner has gone."""
    taken = Lease.take(path)
    assert taken is not None
    edit(path, started="another process's")


def test_the_old_verb_names_the_new_option(bench: Bench) -> None:
    code, _, err = bench("explain", "results/monday/beta")
    assert (code, "bench verify --why" in err) == (2, True)


def test_json_is_for_one_explained_cell(run: Run, bench: Bench) -> None:
    assert bench("verify", run.path, "--json")[0] == 2
    assert bench("verify", "--why", run.path / SMALL, run.path / SMALL)[0] == 2


@pytest.mark.parametrize("verb", ["verify", "gc", "merge"])
def test_help_has_examples(bench: Bench, verb: str) -> None:
    code, out, _ = bench(verb, "-h")
    assert code == 0
    assert f"Examples:\n    bench {verb} " in out


# which cells a path names


def test_a_path_names_a_run_a_cell_or_the_beginning_of_one(run: Run, tmp_path: Path) -> None:
    small = named(run, SMALL)
    assert cells(run.path)[1] == run.names()
    for path in (run.cells / small, run.cells / small / "done", run.path / SMALL, run.cells / SMALL):
        found, name = one(path)
        assert (found.cells / name).samefile(run.cells / small)
    assert cells(run.path / "vae")[1] == [named(run, VAE), small]
    stray = shutil.copytree(run.cells / small, tmp_path / "elsewhere" / small)
    found, name = one(stray)
    assert found.row(name) == run.row(small)


def test_a_path_that_names_no_cell_or_several_is_refused(run: Run, bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run and no cell"):
        cells(tmp_path)
    with pytest.raises(StoreError, match="no run and no cell"):
        cells(run.path / "gan")
    with pytest.raises(UsageError, match="is 2 cells"):
        one(run.path / "vae")
    code, _, err = bench("verify", "--why", run.path / "vae")
    assert code == 2
    assert named(run, SMALL) in err
    assert bench("verify", "--why", tmp_path / "nothing")[0] == 4
    assert bench("verify", run.cells / named(run, BETA))[0] == 4


# explain


def test_a_rows_identity_is_what_its_cell_is_named_after(run: Run, digits: Data) -> None:
    for row in run.rows():
        assert identity.fits(row)
        assert not identity.fits(replace(row, seed=7))
        assert identity.fits(replace(row, engine="")) is None
        c = identity.present(row, digits)
        assert c.name == row.cell
        assert identity.recorded(row) == identity.plain(c.identity)


def test_a_cell_that_is_as_today_would_be_used(run: Run, bench: Bench) -> None:
    code, out, _ = bench("verify", "--why", run.path / SMALL, "--json")
    found = json.loads(out)
    row = run.row(named(run, SMALL))
    assert row is not None
    assert (code, found["reused"], found["fits"], found["status"]) == (0, True, True, "ok")
    assert {part["name"]: part["then"] for part in found["parts"]} == identity.recorded(row)
    assert {part["state"] for part in found["parts"]} == {"same"}
    (way,) = found["ways"]
    assert sorted(way["scored"]) == sorted(QUICK)
    assert way["differs"] == []
    assert way["scoring"] == row.scoring


def test_an_explanation_is_read_on_one_screen(run: Run, bench: Bench) -> None:
    code, out, _ = bench("verify", "--why", run.path / SMALL)
    assert code == 0
    row = run.row(named(run, SMALL))
    assert row is not None
    for text in (row.engine, row.plugin["source"], row.data["train"], "latent_dim=2", "lr=0.001", "elbo", "1 thread"):
        assert text in out
    assert "a run uses it as it is" in out
    assert len(out.splitlines()) < 30


@pytest.fixture
def otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another engine and another version of the plugins than the one that made what is on disk."""
    for module in ("running.grid", "running.identity", "upkeep.explain"):
        monkeypatch.setattr(f"bench.{module}.ENGINE", "cd34")
        monkeypatch.setattr(
            f"bench.{module}.plugin_of", lambda _: {"distribution": "vaebench", "version": "9", "source": "ef56"}
        )


@pytest.mark.usefixtures("otherwise")
def test_what_differs_is_named_with_both_values(run: Run, bench: Bench) -> None:
    row = run.row(named(run, SMALL))
    assert row is not None
    found = explain(run, row.cell)
    assert found.reused is False
    assert f"engine differs (then {row.engine}, now cd34)" in found.verdict
    assert f"source differs (then {row.plugin['source']}, now ef56)" in found.verdict
    assert "version" not in found.verdict
    assert "train it anew" in found.verdict
    assert {part.name for part in found.parts if part.state == "differs"} == {"engine", "plugin"}
    assert "now cd34" in bench("verify", "--why", run.path / SMALL)[1]


def test_other_data_under_the_same_name_are_found_out(run: Run) -> None:
    small = named(run, SMALL)
    row = run.row(small)
    assert row is not None
    forge(run, small, data={**row.data, "train": "0123"})
    found = explain(run, small)
    assert (found.fits, found.reused) == (False, False)
    assert "train differs (then 0123, now 700b" in found.verdict


def test_without_its_dataset_the_rest_is_compared(
    run: Run, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nothing"))
    small = named(run, SMALL)
    forge(run, small, dataset="mnist")
    found = explain(run, small)
    states = {part.name: part.state for part in found.parts}
    assert found.reused is None
    assert "unknown whether" in found.verdict
    assert states["engine"] == states["plugin"] == "same"
    assert states["train"] == states["hyperparameters"] == "not compared"
    assert bench("verify", "--why", run.path / SMALL)[0] == 0


def test_a_variant_that_is_gone_is_said(run: Run) -> None:
    small = named(run, SMALL)
    forge(run, small, variant="stranger", label="stranger")
    found = explain(run, small)
    assert found.reused is None
    assert "no variant called 'stranger'" in found.verdict


def test_failures_are_explained(run: Run) -> None:
    beta = named(run, BETA)
    found = explain(run, beta)
    assert (found.status, found.failures, found.reused) == ("diverged", 1, True)
    assert "non-finite loss" in found.reason
    assert "--retry-failed" in found.verdict
    row = run.row(beta)
    assert row is not None
    run.write_failed(replace(row, status="interrupted"), "")
    assert explain(run, beta).verdict == "a run tries it again"
    broken = Row("stranger", "stranger", "digits", 0, "failed", "can't be imported", cell="stranger-digits-s0-0")
    run.write_failed(broken, "")
    assert "never settled" in explain(run, broken.cell).verdict


def test_a_checkpoint_and_who_is_at_it_are_shown(run: Run, bench: Bench) -> None:
    beta = named(run, BETA)
    (run.work(beta) / "checkpoints" / "0000000040").mkdir(parents=True)
    taken = Lease.take(run.cells / beta / "lease.json")
    assert taken is not None
    found = explain(run, beta)
    assert found.checkpoint == 40
    assert found.lease is not None
    assert found.lease["pid"] == os.getpid()
    out = bench("verify", "--why", run.cells / beta)[1]
    assert "checkpoint at step 40" in out
    assert str(os.getpid()) in out
    taken.release()
    dead(run.cells / beta / "lease.json")
    assert explain(run, beta).lease is None


def test_a_cell_that_only_has_a_checkpoint_is_explained(run: Run) -> None:
    (run.work("vae-digits-s9-0") / "checkpoints" / "0000000040").mkdir(parents=True)
    found = explain(run, "vae-digits-s9-0")
    assert (found.status, found.checkpoint, found.parts) == ("no result", 40, ())
    assert "goes on from step 40" in found.verdict


def test_scores_of_another_way_are_told_apart_from_todays(run: Run) -> None:
    small = named(run, SMALL)
    way = next(iter(run.scorings(small).values()))
    run.write_scores(small, {**way, "samples": 5, "version": 0}, {"elbo": Score(-1, 5)}, {})
    old, new = sorted(explain(run, small).ways, key=lambda way: way.scoring["version"])
    assert old.differs == ("samples", "version")
    assert new.differs == ()


# verify


def check(run: Run, start: str, **options: Any) -> Finding:
    return Verifier(**options)(run, named(run, start))


def test_what_was_just_made_is_as_it_should_be(run: Run, bench: Bench) -> None:
    code, out, err = bench("verify", run.path)
    assert (code, err) == (0, "")
    assert [line.split("  ") for line in out.splitlines()] == [
        [name, "ok: files as they were made; 3 scores exact"] for name in (named(run, VAE), named(run, SMALL))
    ]
    assert bench("verify", run.path, "--only-sums")[0] == 0


@pytest.mark.parametrize("what", ["changed", "missing", "added", "no sums", "unreadable"])
def test_a_damaged_cell_is_found(run: Run, bench: Bench, what: str) -> None:
    done = run.cells / named(run, SMALL) / "done"
    if what == "changed":
        with open(done / "weights.safetensors", "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        text = "weights.safetensors has changed"
    elif what == "missing":
        (done / "history.csv").unlink()
        text = "history.csv is missing"
    elif what == "added":
        (done / "note.txt").write_text("")
        text = "note.txt doesn't belong here"
    elif what == "no sums":
        (done / SUMS).unlink()
        text = "SHA256SUMS is missing"
    else:
        (done / "cell.json").write_text("{")
        text = "cell.json has changed"
    code, out, err = bench("verify", run.path, "--only-sums")
    assert code == 5
    assert f"{named(run, SMALL)}  differs: {text}" in out
    assert f"{named(run, VAE)}  ok" in out
    assert "1 of 2 cells" in err


def test_a_score_that_is_not_reproduced_is_found(run: Run, bench: Bench) -> None:
    rescore(run, named(run, SMALL), lambda s: s["elbo"].update(value=s["elbo"]["value"] * 1.01))
    code, out, _ = bench("verify", run.path / SMALL)
    assert code == 5
    assert "differs: elbo is -" in out
    assert "kl" not in out
    assert bench("verify", run.path / SMALL, "--only-sums")[0] == 0
    assert bench("verify", run.path / SMALL, "--tolerance", 0.02)[0] == 0


def test_rounding_is_allowed_unless_it_is_asked_for_exactly(run: Run, bench: Bench) -> None:
    rescore(run, named(run, SMALL), lambda s: s["elbo"].update(value=s["elbo"]["value"] * (1 + 1e-9)))
    code, out, _ = bench("verify", run.path / SMALL)
    assert (code, "2 scores exact, 1 within 1e-09" in out) == (0, True)
    assert bench("verify", run.path / SMALL, "--tolerance", 0)[0] == 5


def test_a_number_where_there_is_none_is_found(run: Run) -> None:
    rescore(run, named(run, SMALL), lambda s: s.update(perplexity={"value": 8.0, "n": 360}))
    assert [w for w in check(run, SMALL).wrong if w.startswith("perplexity is n/a: ")]


def test_a_score_that_cannot_be_had_here_is_not_held_against_it(run: Run, bench: Bench) -> None:
    rescore(run, named(run, SMALL), lambda s: s.update(stranger={"value": 8.0, "n": 360}))
    code, out, _ = bench("verify", run.path / SMALL)
    assert code == 3
    assert "not checked: stranger is n/a: no metric called 'stranger'" in out


def test_scores_by_another_protocol_are_not_computed_by_this_one(run: Run) -> None:
    small = named(run, SMALL)
    way = next(iter(run.scorings(small).values()))
    for other in ({**way, "version": Scoring().version + 1}, {**way, "test": "0123"}, {**way, "bits": 8}):
        run.write_scores(small, other, {"elbo": Score(-1, 360)}, {})
    found = check(run, SMALL)
    assert found.wrong == []
    assert len(found.unchecked) == 3


def test_scores_under_the_name_of_another_way_are_found(run: Run) -> None:
    scores = run.cells / named(run, SMALL) / "scores"
    (path,) = scores.iterdir()
    path.rename(scores / "0123456789ab.json")
    assert check(run, SMALL).wrong == ["scores/0123456789ab.json isn't named after how it was scored"]


def test_a_forged_row_is_found_whatever_its_sums(run: Run) -> None:
    small = named(run, SMALL)
    row = run.row(small)
    assert row is not None
    forge(run, small, training={**row.training, "lr": 0.1})
    assert check(run, SMALL, only_sums=True).wrong == ["its row isn't what its folder is named after"]


def test_weights_of_another_cell_are_found_whatever_their_sums(run: Run) -> None:
    done = run.cells / named(run, SMALL) / "done"
    weights = load_file(done / "weights.safetensors")
    save_file({k: v * 1.5 for k, v in weights.items()}, done / "weights.safetensors")
    seal(done)
    assert sorted(text.split()[0] for text in check(run, SMALL).wrong) == ["bce", "elbo", "kl"]
    save_file({"w": torch.zeros(3)}, done / "weights.safetensors")
    seal(done)
    assert "don't fit its variant" in check(run, SMALL).wrong[0]


def test_another_result_of_the_same_cell_is_a_difference(run: Run) -> None:
    home = run.cells / named(run, SMALL)
    shutil.copytree(home / "done", home / "different" / "1")
    assert "not deterministic" in check(run, SMALL, only_sums=True).wrong[0]


def test_without_its_dataset_a_cell_is_not_checked(
    run: Run, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nothing"))
    forge(run, named(run, SMALL), dataset="mnist")
    code, out, _ = bench("verify", run.path / SMALL)
    assert code == 3
    assert "not checked: 'mnist' isn't under" in out


def test_training_again_gives_the_same_weights_with_the_same_threads(
    run: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = bench("verify", run.path / SMALL, "--retrain")
    assert (code, "; the same weights again" in out) == (0, True)

    small = named(run, SMALL)
    row = run.row(small)
    assert row is not None
    forge(run, small, provenance={**row.provenance, "threads": 3})
    threads, train = [], job.train_together
    monkeypatch.setattr(
        job, "train_together", lambda *a, **k: (threads.append(torch.get_num_threads()), train(*a, **k))[1]
    )
    before = torch.get_num_threads()
    assert before != 3
    check(run, SMALL, retrain=True)
    assert threads == [3]
    assert torch.get_num_threads() == before


def test_weights_that_training_does_not_give_are_found(run: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    home = run.cells / named(run, SMALL)
    weights = load_file(home / "done" / "weights.safetensors")
    first = next(iter(weights))
    weights[first].view(-1)[0] += 0.25
    save_file(weights, home / "done" / "weights.safetensors")
    seal(home / "done")
    shutil.rmtree(home / "scores")
    assert check(run, SMALL).wrong == []
    code, out, _ = bench("verify", run.path / SMALL, "--retrain")
    assert code == 5
    assert "trained again, its weights differ by up to 0.25" in out


@pytest.mark.usefixtures("otherwise")
def test_code_that_changed_since_is_named_beside_what_differs(run: Run) -> None:
    rescore(run, named(run, SMALL), lambda s: s["elbo"].update(value=-1.0))
    (wrong,) = check(run, SMALL).wrong
    assert wrong.endswith("(the engine and the plugin changed since)")


def test_only_sums_and_retrain_exclude_each_other(run: Run, bench: Bench) -> None:
    assert bench("verify", run.path, "--only-sums", "--retrain")[0] == 2


@pytest.mark.parametrize(
    ("a", "b", "far"),
    [
        (Score(1, 2), Score(1, 2), 0.0),
        (Score(-2, 2), Score(-1, 2), 0.5),
        (Score(0, 2), Score(0, 2), 0.0),
        (Score(1, 2, 4), Score(1, 2, 3), 0.25),
    ],
)
def test_distance_between_scores(a: Score, b: Score, far: float) -> None:
    assert distance(a, b) == distance(b, a) == far


def test_joined_scores_take_an_error_that_one_has_on_either_side(run: Run, made: Path, tmp_path: Path) -> None:
    """A metric that had no standard error when one of two runs was scored: nothing is wrong, and the error stays."""
    rescore(run, named(run, SMALL), lambda s: s["elbo"].pop("se"))
    for i, order in enumerate(((run.path, made), (made, run.path))):
        target = Run(tmp_path / f"all{i}")
        assert not merge(target.path, order).wrong
        row = target.row(named(target, SMALL))
        assert row is not None
        assert isinstance(elbo := row.scores["elbo"], Score)
        assert elbo.se is not None


def test_a_standard_error_may_be_newer_than_a_score_but_is_not_lost() -> None:
    assert distance(Score(1, 2), Score(1, 2, 0.1)) == 0
    assert distance(Score(1, 2, 0.1), Score(1, 2)) == math.inf


def test_a_score_may_count_its_smallest_set_by_now_but_never_more() -> None:
    assert distance(Score(1, 10_000), Score(1, 360)) == 0
    assert distance(Score(1, 10_000), Score(2, 360)) == 0.5
    assert distance(Score(1, 360), Score(1, 10_000)) == math.inf


# gc


def litter(run: Run, cell: str) -> set[str]:
    """What a killed attempt leaves behind; returns what isn't needed of it."""
    home = run.cells / cell
    gone = {
        "work/attempt-0123456789ab/log.txt", f"work/done-{32 * '0'}/cell.json", "work/checkpoints/.tmp-0/state.json",
        ".tmp-1/cell.json", "scores/.tmp-2", "stolen-3", "clock-4",
    }  # fmt: skip
    for name in gone | {"work/checkpoints/0000000040/state.json", "failed/.tmp-young"}:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(1000 * "x")
    return gone


def test_what_no_living_attempt_needs_is_removed_and_nothing_else(run: Run, bench: Bench) -> None:
    beta, before = named(run, BETA), content(run.path)
    gone = {f"cells/{beta}/{name}" for name in litter(run, beta)}
    dead(run.cells / beta / "lease.json")
    (run.path / ".tmp-old").write_text("x")
    os.utime(run.path / ".tmp-old", (0, 0))
    (run.path / ".tmp-young").write_text("x")
    full = content(run.path)
    gone |= {f"cells/{beta}/lease.json", ".tmp-old"}

    code, dry, _ = bench("gc", run.path, "--dry-run")
    assert (code, content(run.path)) == (0, full)
    assert "9 files or folders would be removed, " in dry
    code, wet, _ = bench("gc", run.path)
    assert code == 0
    assert "9 files or folders removed, " in wet
    assert sorted(wet.splitlines()[:-1]) == sorted(dry.splitlines()[:-1])
    assert full.keys() - content(run.path).keys() == gone
    assert before.items() <= content(run.path).items()
    assert not (run.work(beta) / "attempt-0123456789ab").exists()
    assert bench("gc", run.path)[1] == "0 files or folders removed, 0 B\n"


def test_of_a_done_cell_all_work_goes(run: Run, bench: Bench) -> None:
    small, before = named(run, SMALL), content(run.path)
    litter(run, small)
    (run.cells / small / "failed" / ".tmp-young").unlink()
    out = bench("gc", run.path)[1]
    assert content(run.path) == before
    assert not run.work(small).exists()
    assert f"{run.work(small)}  3.9 KiB" in out


def test_a_cell_that_somebody_is_at_is_left_alone(run: Run, bench: Bench) -> None:
    for cell in run.names():
        litter(run, cell)
    held = [Lease.take(run.cells / cell / "lease.json") for cell in run.names()]
    full = content(run.path)
    assert bench("gc", run.path, "--dry-run")[1].startswith("0 files or folders")
    assert bench("gc", run.path)[1].startswith("0 files or folders")
    assert content(run.path) == full
    for taken in held:
        assert taken is not None
        taken.release()
    assert not bench("gc", run.path)[1].startswith("0 files or folders")


def test_a_cell_that_somebody_has_just_begun_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    beta = named(run, BETA)
    litter(run, beta)
    assert Lease.take(run.cells / beta / "lease.json")
    monkeypatch.setattr(garbage, "held", lambda _: False)  # as it was an instant before
    full = content(run.path)
    assert list(garbage.collect(run)) == []
    assert content(run.path) == full


def test_nobody_begins_while_a_cell_is_cleaned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    beta = named(run, BETA)
    litter(run, beta)
    rmtree, takers = shutil.rmtree, []

    def slow(path: Path) -> None:
        takers.append(Lease.take(run.cells / beta / "lease.json"))
        rmtree(path)

    monkeypatch.setattr("bench.util.durable.shutil.rmtree", slow)
    list(garbage.collect(run))
    assert set(takers) == {None}
    assert not (run.cells / beta / "lease.json").exists()


def test_a_full_disk_makes_no_living_owner_look_dead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.cells / named(run, BETA) / "lease.json"
    taken = Lease.take(path)
    assert taken is not None

    def full(_: Path) -> float:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lease, "_now", full)
    assert lease.held(path)
    edit(path, host="another")
    assert lease.held(path)
    monkeypatch.undo()
    os.utime(path, (time.time() - 2 * lease.STALE,) * 2)
    assert not lease.held(path)


def test_an_attempt_that_was_cleaned_up_after_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint outlives gc: the cell isn't trained from its start."""
    cell = named(run, VAE)
    weights = sha256(run.cells / cell / "done" / "weights.safetensors")
    train = job.train_together

    def breaks_off(*args: Any, on_turn: Callable[[Any], None], **kwargs: Any) -> Any:
        def turn(take: Callable[[], Any]) -> None:
            on_turn(take)
            if take().done == 2:
                raise KeyboardInterrupt

        return train(*args, on_turn=turn, **kwargs)

    monkeypatch.setattr(job, "train_together", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "again", "vae", checkpoint=0.0)
    monkeypatch.undo()
    again = Run(tmp_path / "again")
    litter(again, cell)
    list(garbage.collect(again))
    shutil.rmtree(again.work(cell) / "checkpoints" / "0000000040")
    go(again.path, "vae")
    row = again.row(cell)
    assert row is not None
    assert row.costs["resumed_from"] == 2
    assert sha256(again.cells / cell / "done" / "weights.safetensors") == weights


def test_gc_of_what_is_no_run_touches_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / ".tmp-old").write_text("")
    os.utime(tmp_path / ".tmp-old", (0, 0))
    assert bench("gc", tmp_path)[0] == 4
    assert (tmp_path / ".tmp-old").exists()


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (1 << 50, "1024.0 TiB")]
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert garbage.bytes_in_words(count) == words


# merge


def shard(run: Run, path: Path, *starts: str, variants: tuple[str, ...] = ()) -> Run:
    """A part of a run."""
    part = Run(shutil.copytree(run.path, path))
    for name in part.names():
        if not name.startswith(starts):
            shutil.rmtree(part.cells / name)
    edit(part.path / "run.json", variants=variants or [s.split("[")[0] for s in starts])
    frames.write(part.path, part.rows())
    return part


def test_shards_come_together_as_if_they_had_been_one(run: Run, bench: Bench, tmp_path: Path) -> None:
    a = shard(run, tmp_path / "a", SMALL, variants=("vae[latent_dim=2]",))
    b = shard(run, tmp_path / "b", VAE, BETA, variants=("vae", "beta[beta=1e40]"))
    before = content(a.path), content(b.path)
    code, out, _ = bench("merge", tmp_path / "all", a.path, b.path)
    assert (code, out) == (0, f"{tmp_path / 'all'}: 2 cells, 6 scores and 1 failures are new\n")
    joined = Run(tmp_path / "all")
    assert joined.request().variants == ("vae[latent_dim=2]", "vae", "beta[beta=1e40]")
    whole, found = content(run.path), content(joined.path)
    assert {k: v for k, v in whole.items() if "scores/" not in k} == {
        k: v for k, v in found.items() if "scores/" not in k
    }
    assert joined.rows() == run.rows()
    assert bench("verify", joined.path)[0] == 0

    code, out, _ = bench("merge", joined.path, b.path, a.path, b.path)
    assert (code, out) == (0, f"{joined.path}: 0 cells, 0 scores and 0 failures are new\n")
    assert {**content(joined.path), "run.json": b""} == {**found, "run.json": b""}  # its order is that of the requests
    assert (content(a.path), content(b.path)) == before


def test_scores_are_joined_metric_by_metric(run: Run, bench: Bench, tmp_path: Path) -> None:
    a, b = (shard(run, tmp_path / name, SMALL) for name in "ab")
    small = named(run, SMALL)

    def spoil(scores: dict[str, Any]) -> None:
        del scores["kl"]
        scores["bce"] = {"reason": "no weights", "retry": True}
        scores["mmd"] = {"reason": "here alone"}
        scores["fd"] = {"reason": "no network yet", "retry": True}

    rescore(a, small, spoil)
    rescore(b, small, lambda s: (s.pop("elbo"), s.update(fd={"reason": "too few images"})))
    assert bench("merge", tmp_path / "all", a.path, b.path)[0] == 0
    row, whole = Run(tmp_path / "all").row(small), run.row(small)
    assert row is not None
    assert whole is not None
    reasons = {name: score.reason for name, score in row.scores.items() if isinstance(score, NotAvailable)}
    assert reasons == {"mmd": "here alone", "fd": "too few images"}
    assert {name: score for name, score in row.scores.items() if name not in reasons} == dict(whole.scores)


def test_scores_of_equal_weights_that_differ_are_told(run: Run, bench: Bench, tmp_path: Path) -> None:
    a, b = (shard(run, tmp_path / name, SMALL) for name in "ab")
    rescore(b, named(run, SMALL), lambda s: s["elbo"].update(value=-1.0))
    code, out, _ = bench("merge", tmp_path / "all", a.path, b.path)
    assert code == 5
    assert f"{b.cells / named(run, SMALL)}: elbo is -1, and -" in out
    assert Run(tmp_path / "all").rows()[0].scores == a.rows()[0].scores


def test_the_way_of_scoring_that_came_last_is_shown(run: Run, tmp_path: Path, bench: Bench) -> None:
    small = named(run, SMALL)
    a, b = (shard(run, tmp_path / name, SMALL) for name in "ab")
    way = next(iter(a.scorings(small).values()))
    rescore(a, small, lambda s: s.pop("elbo"))
    a.write_scores(small, {**way, "samples": 5}, {"elbo": Score(-1, 5)}, {})
    for source in (a, b):
        for i, path in enumerate(source.scorings(small)):
            os.utime(path, (1e9 + i, 1e9 + i))
    bench("merge", tmp_path / "all", a.path, b.path)
    row = Run(tmp_path / "all").row(small)
    assert row is not None
    assert row.scoring["samples"] == 5


@pytest.fixture
def conflict(run: Run, tmp_path: Path) -> tuple[Run, Run]:
    """Two runs that have the same cell with other weights."""
    a, b = (shard(run, tmp_path / name, SMALL, VAE) for name in "ab")
    done = b.cells / named(run, SMALL) / "done"
    weights = load_file(done / "weights.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, done / "weights.safetensors")
    seal(done)
    rescore(b, named(run, SMALL), lambda s: s.update(elbo={"value": -1.0, "n": 360}, noise={"value": 2.0, "n": 9}))
    return a, b


def test_a_different_result_is_kept_apart_and_told(conflict: tuple[Run, Run], bench: Bench, tmp_path: Path) -> None:
    a, b = conflict
    small = named(a, SMALL)
    for _ in range(2):  # once more changes nothing
        code, out, err = bench("merge", tmp_path / "all", a.path, b.path)
        assert code == 5
        assert f"{b.cells / small} has other weights" in out
        assert len(err.splitlines()) < 5
    joined = Run(tmp_path / "all")
    home = joined.cells / small
    assert content(home / "done") == content(a.cells / small / "done")
    assert [p.name for p in (home / "different").iterdir()] == ["1"]
    assert content(home / "different" / "1") == content(b.cells / small / "done")
    row = joined.row(small)
    assert row is not None
    assert row.conflict
    first = a.row(small)
    assert first is not None
    assert row.scores == first.scores

    code, out, _ = bench("merge", tmp_path / "more", joined.path)
    assert (code, content(tmp_path / "more" / "cells" / small / "different")) == (5, content(home / "different"))


def test_a_damaged_result_stays_where_it_is(conflict: tuple[Run, Run], bench: Bench, tmp_path: Path) -> None:
    _, b = conflict
    small = named(b, SMALL)
    with open(b.cells / small / "done" / "history.csv", "a") as file:
        file.write("x")
    code, out, _ = bench("merge", tmp_path / "all", b.path)
    assert code == 5
    assert "is damaged, and left out: history.csv has changed" in out
    assert Run(tmp_path / "all").names() == [named(b, VAE)]


def test_a_result_that_breaks_while_it_is_copied_does_not_appear(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = named(run, SMALL)
    monkeypatch.setattr(store.inside, "copy", lambda _, target: Path(target).write_text("torn"))
    with pytest.raises(StoreError):
        Run(tmp_path / "all").adopt(small, run.cells / small / "done")
    assert not Run(tmp_path / "all").is_done(small)


def test_failures_are_kept_until_there_is_a_result(run: Run, bench: Bench, tmp_path: Path) -> None:
    a, b = (shard(run, tmp_path / name, SMALL) for name in "ab")
    small, out = named(run, SMALL), tmp_path / "all"
    row = b.row(small)
    assert row is not None
    b.forget(small)
    for status in ("oom", "interrupted"):
        b.write_failed(replace(row, status=status, reason=status), f"log of {status}")
    for _ in range(2):
        assert bench("merge", out, b.path)[0] == 0
        found = Run(out).row(small)
        assert found is not None
        assert found.status == "interrupted"
        assert [(p / "log.txt").read_text() for p in Run(out).failures(small)] == ["log of oom", "log of interrupted"]
    assert bench("merge", out, a.path)[0] == 0
    found = Run(out).row(small)
    assert found is not None
    assert found.status == "ok"
    assert bench("merge", tmp_path / "other", a.path, b.path)[0] == 0
    assert Run(tmp_path / "other").failures(small) == []


def test_what_cannot_be_merged_is_refused_before_anything_is_written(run: Run, bench: Bench, tmp_path: Path) -> None:
    full = content(run.path)
    assert bench("merge", run.path, run.path)[0] == 2
    assert bench("merge", tmp_path / "all", run.path, tmp_path / "none")[0] == 4
    edit(run.cells / named(run, SMALL) / "done" / "cell.json", schema=SCHEMA + 1)
    assert bench("merge", tmp_path / "all", run.path)[0] == 4
    assert not (tmp_path / "all").exists()
    assert content(run.path).keys() == full.keys()


def test_a_cell_that_somebody_is_at_is_not_merged_into(run: Run, bench: Bench, tmp_path: Path) -> None:
    out = Run(tmp_path / "all")
    taken = Lease.take(out.cells / named(run, SMALL) / "lease.json")
    assert taken is not None
    (out.path / "run.json").write_bytes((run.path / "run.json").read_bytes())
    code, _, err = bench("merge", out.path, run.path)
    assert (code, "another process is training" in err) == (4, True)
    taken.release()
    assert bench("merge", out.path, run.path)[0] == 0


def test_two_writers_of_failures_get_a_number_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    beta = named(run, BETA)
    row = run.row(beta)
    assert row is not None
    rivals = []

    def racing(target: Path, *args: Any) -> bool:
        if not rivals:
            rivals.append(shutil.copytree(run.cells / beta / "failed" / "1", target))
        return appear(target, *args)

    monkeypatch.setattr(store, "appear", racing)
    run.write_failed(row, "mine")
    assert [p.name for p in run.failures(beta)] == ["1", "2", "3"]
    assert (run.failures(beta)[-1] / "log.txt").read_text() == "mine"


# schemas


@pytest.fixture
def old(tmp_path: Path) -> Run:
    return Run(shutil.copytree(SCHEMA_1, tmp_path / "old"))


def test_the_first_schema_is_read(old: Run, bench: Bench) -> None:
    assert {json.loads(p.read_text())["schema"] for p in old.path.rglob("*.json")} == {1}
    rows = old.rows()
    assert [(row.label, row.status) for row in rows] == [("vae[latent_dim=2]", "ok"), ("beta[beta=1e+40]", "diverged")]
    assert rows[0].scores["elbo"] == Score(-41.62290937604331, 360, 0.05391094048396137)
    assert rows[0].scoring == next(iter(old.scorings(rows[0].cell).values()))
    assert old.request().variants == ("vae[latent_dim=2]", "beta[beta=1e40]")
    code, out, _ = bench("table", old.path, "--format", "csv")
    assert code == 0
    assert "-41.62" in out
    frames.write(old.path, rows)
    assert "-41.62290937604331" in (old.path / "table.csv").read_text()


def test_a_model_of_the_first_schema_is_loaded(old: Run) -> None:
    model = load(old.cells / named(old, SMALL))
    assert isinstance(model, Samples)
    assert model.sample(torch.zeros(3, dtype=torch.long)).shape == (3, 1, 8, 8)


def test_a_cell_of_the_first_schema_is_explained(old: Run, bench: Bench) -> None:
    found = explain(old, named(old, SMALL))
    states = {part.name: part.state for part in found.parts}
    assert states.pop("engine") == "not recorded"
    assert (states["likelihood"], states["training"], found.fits, found.reused) == ("same", "same", None, False)
    assert "engine not recorded" in found.verdict or "plugin" in found.verdict
    assert bench("verify", "--why", old.path / BETA)[0] == 0


def test_a_cell_of_the_first_schema_is_verified_without_sums(old: Run, bench: Bench) -> None:
    code, out, _ = bench("verify", old.path, "--only-sums")
    assert code == 0
    assert "ok: no sums (schema 1 has none)" in out
    code, out, _ = bench("verify", old.path)
    assert code == 3, "there's something that it can't say"
    assert "scored by another version of the protocol" in " ".join(out.split())


def test_a_run_of_the_first_schema_is_joined_and_cleaned(old: Run, bench: Bench, tmp_path: Path) -> None:
    for _ in range(2):
        assert bench("merge", tmp_path / "all", old.path)[0] == 0
    joined = Run(tmp_path / "all")
    assert joined.rows() == old.rows()
    assert len(joined.failures(named(joined, BETA))) == 1
    assert bench("gc", old.path)[1].startswith("0 files or folders")


@pytest.fixture
def second(tmp_path: Path) -> Run:
    return Run(shutil.copytree(SCHEMA_2, tmp_path / "second"))


def test_the_second_schema_is_read_and_its_scores_have_no_sums(second: Run, bench: Bench) -> None:
    assert {json.loads(p.read_text())["schema"] for p in second.path.rglob("*.json")} == {2}
    done, diverged = second.rows()
    assert (done.label, done.status, done.unsummed) == ("vae[latent_dim=2]", "ok", ("scores",))
    assert (diverged.label, diverged.status, diverged.unsummed) == ("beta[beta=1e+40]", "diverged", ())
    assert isinstance(elbo := done.scores["elbo"], Score)
    assert (elbo.value, elbo.n, elbo.se) == (-41.62290937604331, 360, 0.05391094048396137)
    code, out, _ = bench("table", second.path, "--format", "md")
    assert (code, sum("no checksums" in line for line in out.splitlines())) == (0, 1)
    assert "the scores of 1 of 2 cells" in out
    code, out, _ = bench("verify", second.path, "--only-sums")
    assert (code, "files as they were made; no sums of scores" in out) == (0, True)
    assert isinstance(load(second.cells / done.cell), Samples)


def test_a_row_of_the_second_schema_is_held_against_its_sums(second: Run) -> None:
    edit(second.cells / named(second, SMALL) / "done" / "cell.json", label="best")
    edit(second.cells / named(second, BETA) / "failed" / "1" / "cell.json", label="worst")
    assert {row.status for row in second.rows()} == {"damaged"}


def test_a_run_of_the_second_schema_is_joined(second: Run, tmp_path: Path, bench: Bench) -> None:
    for _ in range(2):
        assert bench("merge", tmp_path / "all", second.path)[0] == 0
    assert Run(tmp_path / "all").rows() == second.rows()


@pytest.mark.parametrize("verb", ["table", "verify --why", "verify", "merge"])
@pytest.mark.parametrize("what", ["run.json", "done/cell.json", "scores/*.json", "failed/1/cell.json"])
def test_a_newer_schema_is_refused(run: Run, bench: Bench, tmp_path: Path, what: str, verb: str) -> None:
    start = BETA if what.startswith("failed") else SMALL
    cell = run.cells / named(run, start)
    (path,) = [run.path / what] if what == "run.json" else cell.glob(what)
    edit(path, schema=SCHEMA + 1)
    if what == "done/cell.json":
        seal(path.parent)
    arguments: dict[str, tuple[Path, ...]] = {
        "table": (run.path,), "verify --why": (cell,), "verify": (cell,), "merge": (tmp_path / "all", run.path)
    }  # fmt: skip
    code, out, err = bench(*verb.split(), *arguments[verb])
    if verb == "verify" and start == BETA:  # nothing to verify
        assert code == 4
        return
    assert (code, out) == (4, "")
    assert f"{path.name} has schema {SCHEMA + 1}, and this version reads up to {SCHEMA}" in err.replace("\n", "")
    assert "Upgrade" in err
    assert len(err.splitlines()) < 5
