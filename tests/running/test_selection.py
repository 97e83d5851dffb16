"""Settings are chosen on validation images, and the chosen alone are scored on the test split."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import load
from bench.contracts.events import RunStarted
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import RunRequest, Scoring
from bench.data import load as load_data
from bench.engine.evaluator import Evaluator
from bench.results.store import Run
from bench.running.runner import run as run_request
from bench.running.selection import Choice, choose, parse, selected
from bench.tables.methods import methods
from bench.upkeep.verify import Verifier
from bench.util.errors import IntegrityError, NotAvailable, UnknownName, UsageError
from tests.conftest import once
from tests.example_rows import failed, row

ON_VALIDATION = {"samples": 10_000, "split": "validation", "version": 1, "test": "vvvv", "source": "ssss"}
ON_TEST = {**ON_VALIDATION, "split": "test", "test": "tttt"}


@pytest.mark.parametrize("text", ["val:elbo", "validation:elbo", " val : elbo "])
def test_what_is_chosen_by(text: str) -> None:
    assert parse(text) == "elbo"


@pytest.mark.parametrize("text", ["elbo", "test:elbo", "val:", ":elbo", "", "va:elbo", "train:elbo"])
def test_nothing_is_chosen_on_the_test_split(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@pytest.fixture
def store(tmp_path: Path) -> Run:
    store = Run(tmp_path / "run")
    store.create(RunRequest(variants=("beta", "vae"), seeds=(0, 1), eval_split="validation"))
    return store


def keep(
    store: Run, label: str, seed: int, scores: dict[str, Any], way: dict[str, Any] = ON_VALIDATION, **own: Any
) -> None:
    made = row(label, seed, cell=f"{label}-{seed}", **own)
    store.write_done(made, {"w": torch.zeros(1)}, [], {}, {}, "")
    store.write_scores(made.cell, way, scores, {})


def sweep(store: Run, metric: str, values: dict[str, Sequence[float]]) -> None:
    for label, found in values.items():
        for seed, value in enumerate(found):
            keep(store, label, seed, {metric: Score(value, 10)})


def of(choices: list[Choice], variant: str) -> Choice:
    (found,) = [choice for choice in choices if choice.variant == variant]
    return found


def winner(choice: Choice) -> str | None:
    return choice.winner and choice.winner.label


def test_the_best_mean_over_seeds_wins_whichever_way_is_better(store: Run) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10, -30), "beta[beta=2]": (-19, -20), "beta": (-90, -1), "vae": (-5, -5)})
    choices = choose(store, "elbo")
    assert winner(of(choices, "beta")) == "beta[beta=2]"
    assert [s.mean for s in of(choices, "beta").settings if s.label == "beta[beta=2]"] == [-19.5]
    assert of(choices, "beta").words == "best of 3 settings by validation elbo (2 seeds)"
    assert of(choices, "vae").words == "its only setting, untuned (2 seeds)"


def test_nothing_is_said_of_an_anchor_that_has_no_choice(store: Run) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10, -30), "beta[beta=2]": (-19, -20)})
    keep(store, "mean", 0, {"elbo": Score(-90, 10)}, sanity=True)
    keep(store, "gan[width=1]", 0, {"elbo": Score(-90, 10)}, baseline=True)
    keep(store, "gan[width=2]", 0, {"elbo": Score(-80, 10)}, baseline=True)
    mean, gan = (of(choose(store, "elbo"), name) for name in ("mean", "gan"))
    assert (winner(mean), mean.words, mean.lines) == ("mean", "", [])
    assert gan.lines == ["gan on fashion: gan[width=2], best of 2 settings by validation elbo (1 seed)"]


def test_lower_wins_where_lower_is_better(store: Run) -> None:
    sweep(store, "fd", {"beta[beta=1]": (10, 30), "beta[beta=2]": (19, 20)})
    assert winner(of(choose(store, "fd"), "beta")) == "beta[beta=2]"


def test_a_failed_cell_is_a_trial_and_cant_win(store: Run) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10, -10), "beta[beta=2]": (-1,), "beta[beta=3]": (-2,)})
    store.write_failed(failed("beta[beta=2]", 1, cell="beta[beta=2]-1"), "")
    keep(store, "beta[beta=4]", 0, {"elbo": Score(-1, 10)})
    keep(store, "beta[beta=4]", 1, {"elbo": NotAvailable("the metric raised")})
    choice = of(choose(store, "elbo"), "beta")

    assert winner(choice) == "beta[beta=1]"
    assert choice.words.startswith("best of 4 settings")
    why = {s.label: s.why for s in choice.settings}
    assert why["beta[beta=1]"] == ""
    assert "seed 1: diverged" in why["beta[beta=2]"]
    assert "seed 1 isn't there" in why["beta[beta=3]"]
    assert "the metric raised" in why["beta[beta=4]"]
    assert any("beta[beta=4] cannot be chosen" in line for line in choice.lines)


def test_without_one_whole_setting_there_is_no_winner(store: Run) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10,), "beta[beta=2]": (-1,), "vae": (-1, -1)})
    store.write_failed(failed("beta[beta=1]", 1, cell="x"), "")
    store.write_failed(failed("beta[beta=2]", 1, cell="y"), "")
    assert of(choose(store, "elbo"), "beta").winner is None


def test_a_single_setting_needs_no_score(store: Run) -> None:
    sweep(store, "elbo", {"vae": (-1, -1)})
    keep(store, "ae", 0, {"elbo": NotAvailable("no bound")})
    assert winner(of(choose(store, "elbo"), "ae")) == "ae"


def test_rows_trained_otherwise_are_another_choice(store: Run) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10,)})
    other = row("beta[beta=2]", 0, cell="other", training={"steps": 7})
    store.write_done(other, {"w": torch.zeros(1)}, [], {}, {}, "")
    store.write_scores("other", ON_VALIDATION, {"elbo": Score(-1, 10)}, {})
    assert sorted(str(winner(c)) for c in choose(store, "elbo")) == ["beta[beta=1]", "beta[beta=2]"]


@pytest.mark.parametrize(("metric", "said"), [("kl", "no direction"), ("nll", "no row"), ("confidence", "direction")])
def test_what_cant_be_chosen_by(store: Run, metric: str, said: str) -> None:
    sweep(store, "elbo", {"beta[beta=1]": (-10,), "beta[beta=2]": (-1,)})
    with pytest.raises(UsageError, match=said):
        choose(store, metric)


def test_an_unknown_metric(store: Run) -> None:
    with pytest.raises(UnknownName):
        choose(store, "elbow")


def test_a_run_scored_on_the_test_split_is_refused(store: Run) -> None:
    keep(store, "beta", 0, {"elbo": Score(-1, 10)}, ON_TEST)
    with pytest.raises(UsageError, match="isn't scored on validation images"):
        choose(store, "elbo")


def test_a_row_shows_the_split_that_the_run_was_asked_for(store: Run) -> None:
    """Though the scores on the test split are newer."""
    keep(store, "beta", 0, {"elbo": Score(-1, 10)})
    store.write_scores("beta-0", ON_TEST, {"elbo": Score(-2, 10)}, {"elbo": 1.0})
    path = store.cells / "beta-0" / "scores"
    for newest in sorted(path.iterdir()):
        os.utime(newest)  # whichever is the newest
        assert {r.scoring["split"] for r in store.rows()} == {"validation"}
    for split, value in (("validation", -1), ("test", -2)):
        shown = store.row("beta-0", split)
        assert shown is not None
        assert (shown.scoring["split"], shown.scores["elbo"].value) == (split, value)  # type: ignore[union-attr]


def test_a_row_without_scores_on_a_split_is_unscored_there(store: Run) -> None:
    keep(store, "beta", 0, {"elbo": Score(-1, 10)})
    shown = store.row("beta-0", "test")
    assert shown is not None
    assert (shown.status, dict(shown.scoring), dict(shown.scores)) == ("ok", {}, {})


# from training to the table


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid on digits, in ten steps."""

    def make(folder: Path) -> None:
        request = RunRequest(
            variants=("beta[beta=1|400]", "vae"), steps=10, metrics=("elbo", "kl"), baseline=False, sanity=False,
            in_process=True, threads=1, out=str(folder / "run"),
        )  # fmt: skip
        notes: list[str] = []

        def listener(event: Any) -> None:
            notes.extend(event.notes if isinstance(event, RunStarted) else ())

        run_request(request, listener)
        (folder / "notes").write_text("\n".join(notes))

    return once(tmp_path_factory, "selection", make)


def files(run: Run) -> dict[str, bytes]:
    return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_a_grid_is_scored_on_validation_images_and_says_so(trained: Path) -> None:
    notes = (trained / "notes").read_text()
    assert "scored on 239 validation images" in notes
    assert "--select val:elbo" in notes
    rows = Run(trained / "run").rows()
    assert {(r.scoring["split"], r.training["validation"], r.data["test_images"]) for r in rows} == {
        ("validation", 239, 239)
    }
    assert (trained / "run" / "rate-distortion.svg").exists()


def test_winners_alone_are_scored_on_the_test_split(trained: Path) -> None:
    run = Run(trained / "run")
    before, shown = files(run), [(r.label, dict(r.scores)) for r in run.rows()]
    found = selected(run, "val:elbo")
    after = files(run)

    assert [r.label for r in found.rows] == ["beta[beta=1]", "vae"]
    assert {r.scoring["split"] for r in found.rows} == {"test"}
    assert not found.unfinished
    new = after.keys() - before.keys()
    assert all("/scores/" in name for name in new)
    assert sorted({name.split("/")[1].partition("-digits")[0] for name in new}) == ["beta_beta=1_", "vae"]
    assert all(after[name] == content for name, content in before.items())
    assert [(r.label, dict(r.scores)) for r in run.rows()] == shown

    beta = found.rows[0]
    data = load_data("digits", Path())
    assert beta.scoring["test"] == data.test.digest
    cache = Path(os.environ["BENCH_CACHE"])
    again, _ = Evaluator(load(run.cells / beta.cell), data, Scoring(), cache).score(METRICS.load("elbo"))
    score = beta.scores["elbo"]
    assert isinstance(score, Score)
    assert isinstance(again, Score)
    assert (score.value, score.n) == (pytest.approx(again.value, rel=1e-6), len(data.test))
    assert score.notes == again.noted("best of 2 settings by validation elbo (1 seed)").notes

    seen: list[Any] = []
    assert selected(run, "val:elbo", seen.append).rows == found.rows
    assert seen == []
    assert files(run) == after

    (text,) = methods(found.rows, found.choices).split("\n\n")
    assert "Trained on 1,198 images" in text
    assert "239 more held out for validation; scored on 360 of the test split." in text
    assert "Settings chosen by mean validation elbo (1 seed): beta[beta=1] out of 2; " in text
    assert "100 importance samples for each of 360 images" in text
    assert {(r.data["test"], r.data["test_images"]) for r in found.rows} == {(data.test.digest, 360)}

    finding = Verifier()(run, beta.cell)
    assert (finding.wrong, finding.unchecked) == ([], [])


def test_a_damaged_winner_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    run = Run(tmp_path / "run")
    for folder in run.cells.glob("*/scores"):
        for path in folder.glob("*.json"):
            if '"split": "test"' in path.read_text():
                path.unlink()
    for weights in run.cells.glob("beta_beta=1_*/done/weights.safetensors"):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        selected(run, "val:elbo")
