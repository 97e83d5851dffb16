"""What is scored and when: splits, ways of scoring, the metrics that are asked for, the bound while training."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench.datasets.digits import Digits
from safetensors.torch import load_file
from torch import Tensor

from bench import Images, UsageError
from bench.contracts.dataset import Data, Splits, prepare
from bench.contracts.images import drawn
from bench.contracts.measurement import METRICS, NotAvailable
from bench.contracts.protocol import RunRequest, Scoring, Training
from bench.engine.evaluator import Evaluator
from bench.engine.snapshot import seeded
from bench.engine.trainer import train
from bench.evidence import FOLLOWED, BoundOn, EarlierBound, Terms, earlier
from bench.running.grid import Config, cell
from bench.running.planning import choose_metrics, plan
from bench.running.runner import run
from bench.util.errors import UnknownName
from tests.conftest import build
from tests.misbehaving_plugins import Mean, install


def split(**settings: object) -> Data:
    return prepare("digits", Digits(), Digits().load(Path()), **settings)  # type: ignore[arg-type]


def rows(images: Images) -> set[bytes]:
    return {row.numpy().tobytes() for row in images.take(torch.arange(len(images)))}


def test_validation_images_come_out_of_training_and_are_scored() -> None:
    whole, held = split(), split(split="validation")
    assert len(held.test) == held.validation == len(whole.train) // 6
    assert len(held.train) + len(held.test) == len(whole.train)
    assert rows(held.test).isdisjoint(rows(whole.test) | rows(held.train))
    assert held.source.digest == whole.train.digest
    assert len(split(split="validation", validation=100).test) == 100


def test_a_validation_split_of_the_source_is_scored_and_all_of_train_is_trained_on() -> None:
    loaded = Digits().load(Path())
    own = loaded.train.subset(torch.arange(1000, len(loaded.train)))
    splits = replace(loaded, train=loaded.train.subset(torch.arange(1000)), validation=own)

    def of(**settings: object) -> Data:
        return prepare("digits", Digits(), splits, **settings)  # type: ignore[arg-type]

    whole, held = of(), of(split="validation")
    assert held.test.digest == own.digest
    assert held.train.digest == held.source.digest == whole.train.digest == splits.train.digest
    assert whole.test.digest == loaded.test.digest
    assert (held.validation, held.held, held.own_validation, split().own_validation) == (0, None, True, False)
    request = RunRequest(steps=5)
    assert cell(Config("vae"), held, 0, request).name == cell(Config("vae"), whole, 0, request).name
    some = of(split="validation", validation=100, limit=1000)
    assert (len(some.test), len(some.train)) == (100, 1000)
    assert rows(some.test) <= rows(own)
    with pytest.raises(UsageError, match=f"validation split of {len(own)} images"):
        of(validation=len(own) + 1)


def test_how_a_cell_is_scored_is_no_part_of_its_identity() -> None:
    request = RunRequest(steps=5)
    held, plain = split(validation=100, split="validation"), split(validation=100)
    names = {cell(Config("vae"), data, 0, request).name for data in (held, plain)}
    assert len(names) == 1
    assert held.test.digest != plain.test.digest  # their scores are filed apart


def test_grids_over_hyperparameters_are_scored_on_validation_images(tmp_path: Path) -> None:
    def of(*variants: str, **settings: object) -> str | None:
        return plan(RunRequest(variants, steps=1, out=str(tmp_path / "x"), **settings)).request.eval_split  # type: ignore[arg-type]

    assert of("beta[beta=1|4]") == of("vae", set=("vae.latent_dim=2|3",)) == "validation"
    assert of("beta", "vae[latent_dim=2]") is None
    assert of("beta[beta=1|4]", eval_split="test") == "test"


def test_metrics_are_chosen_by_name_beside_the_default_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    costly = {name for name in METRICS if not METRICS.load(name).default}
    plain = set(choose_metrics(()))
    assert plain == set(METRICS) - costly
    assert set(choose_metrics(("all",))) == set(METRICS)
    assert set(choose_metrics(("all", "-elbo"))) == set(METRICS) - {"elbo"}
    assert set(choose_metrics(("-elbo",))) == plain - {"elbo"}
    assert set(choose_metrics(("kl", "bce"))) == {"kl", "bce"}
    for name in sorted(costly)[:2]:
        assert set(choose_metrics((f"+{name}",))) == plain | {name}
        assert set(choose_metrics(("kl", f"+{name}"))) == {"kl", name}
    with pytest.raises(UnknownName):
        choose_metrics(("+elbow",))


def test_the_bound_is_taken_at_four_fifths_and_changes_nothing(tmp_path: Path, digits: Data) -> None:
    run(RunRequest(("vae",), steps=50, metrics=("elbo",), baseline=False, sanity=False, out=str(tmp_path), device="cpu",
                   threads=1, in_process=True))  # fmt: skip
    (done,) = tmp_path.glob("cells/*/done")
    model, states, turns = build("vae", digits), {}, 0

    def watch(_: object) -> None:
        nonlocal turns
        turns += 1
        states[turns] = copy.deepcopy(model.state_dict())

    train(model, digits.train, Training(50), seed=0, on_turn=watch)
    stored = load_file(done / "weights.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in model.state_dict().items())
    model.load_state_dict(states[40])
    kept = load_file(done / "evidence.safetensors")
    evaluator = Evaluator(model, digits, Scoring(), tmp_path, kept=kept)
    with torch.inference_mode():
        torch.testing.assert_close(evaluator.get(FOLLOWED).float(), kept[earlier(digits.test)], rtol=0, atol=0)
        assert torch.equal(evaluator.get(EarlierBound()).float(), kept[earlier(digits.test)])
        with pytest.raises(NotAvailable, match="wasn't followed on these images"):
            Evaluator(model, split(split="validation"), Scoring(), tmp_path, kept=kept).get(EarlierBound())


class Unbounded(Mean):
    """It trains well, and its bound raises."""

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        raise ZeroDivisionError("no bound today")


def test_a_bound_that_raises_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, unbounded="tests.data.test_splits:Unbounded")
    (row,) = run(RunRequest(("unbounded",), steps=10, metrics=("elbo", "still_falling"), baseline=False, sanity=False,
                            out=str(tmp_path), device="cpu", threads=1, in_process=True))  # fmt: skip
    assert row.status == "ok"
    assert "no bound today" in str(row.scores["elbo"])
    assert isinstance(row.scores["still_falling"], NotAvailable)


def test_a_bound_on_some_images_is_one_of_all(digits: Data, tmp_path: Path) -> None:
    evaluator = Evaluator(build("vae[latent_dim=2]", digits), digits, Scoring(), tmp_path)
    with torch.inference_mode():
        terms = evaluator.get(Terms())
        some = evaluator.get(BoundOn("test", 100))
    assert some.shape == (100,)
    assert abs(some.mean() - (terms.log_likelihood - terms.rate).mean()) < 4 * some.std() / 10


def grey(level: int, n: int = 64) -> Images:
    return Images(torch.full((n, 1, 16, 16), level, dtype=torch.uint8), torch.arange(n) % 2, ("a", "b"), redrawn=True)


def test_redrawn_images_are_bernoulli_of_their_grey_levels() -> None:
    everything = torch.arange(64)
    with seeded(0, torch.device("cpu")):
        first, second = grey(51).take(everything), grey(51).take(everything)
    assert set(first.unique().tolist()) == {0, 255}
    assert not torch.equal(first, second)
    share = torch.cat([first, second]).double().mean().item() / 255
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / first.numel() / 2) ** 0.5
    assert grey(0).take(everything).unique().tolist() == [0]
    assert grey(255).take(everything).unique().tolist() == [255]


def test_redrawn_images_stay_so_and_are_named_so() -> None:
    images = grey(51)
    plain = Images(torch.full((64, 1, 16, 16), 51, dtype=torch.uint8), images.labels(), images.classes)
    assert images.digest != plain.digest
    for kept in (images.subset(torch.arange(8)), images.to("cpu")):
        assert kept.redrawn
        assert set(kept.take(torch.arange(8)).unique().tolist()) == {0, 255}
    before = torch.get_rng_state()
    images.subset(torch.arange(8)), plain.take(torch.arange(8))
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(1)
    level = drawn(torch.full((10_000,), 51, dtype=torch.uint8), generator).double().mean().item() / 255
    assert abs(level - 0.2) < 0.016


@pytest.mark.parametrize("wrong", [{"nll_samples": 0}, {"nll_images": 0}, {"validation": 10**6}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plan(RunRequest(("vae",), steps=1, out=str(tmp_path / "x"), **wrong))  # type: ignore[arg-type]


def test_redrawn_validation_images_are_drawn_once() -> None:
    class Grey(Digits):
        def load(self, root: Path) -> Splits:
            found = super().load(root).train
            pixels, labels = found.take(torch.arange(len(found))), found.labels()
            return Splits(Images(pixels, labels, found.classes, redrawn=True), Images(pixels, labels, found.classes))

    data = prepare("grey", Grey(), Grey().load(Path()), split="validation")
    again = prepare("grey", Grey(), Grey().load(Path()), split="validation")
    assert data.train.redrawn
    assert not data.test.redrawn
    assert set(data.test.take(torch.arange(len(data.test))).unique().tolist()) == {0, 255}
    assert data.test.digest == again.test.digest
    assert len(data.test) == len(data.source) // 6
