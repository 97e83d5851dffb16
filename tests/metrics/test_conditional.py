"""Samples by class: whether they're of it, whether classifiers learn from them, and distances within classes."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_float
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import Scoring
from bench.contracts.variant import Spec, Variant
from bench.engine.evaluator import Evaluator
from bench.metrics import conditional, judge, within
from bench.metrics.gaussians import FeatureGaussian, frechet_distance, influence
from bench.metrics.judge import TrainedJudge
from bench.metrics.networks import Predictions, find
from bench.metrics.shelf import SHIPPED
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, data_of, images, note


class Copier(Variant):
    """It samples training images of the class that it's asked for."""

    uses_labels = True

    def __init__(self, data: Data) -> None:
        super().__init__(Spec(data.train.shape, data.classes, len(data.train), 2, "bernoulli"))
        self.images = data.train

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        labels = self.images.labels()
        where = [torch.multinomial((labels == c).float(), 1) for c in y.tolist()]
        return to_float(self.images.take(torch.cat(where)))


class Shuffler(Copier):
    """It samples training images of any class."""

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return super().sample(y[torch.randperm(len(y))])


class Unconditional(Copier):
    uses_labels = False


def asked(model: Variant, data: Data, cache: Path, *names: str) -> list[Any]:
    evaluator = Evaluator(model, data, Scoring(samples=500), cache)
    return [evaluator.score(METRICS.load(name))[0] for name in names]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Classifiers of 120 steps; the list grows with each."""
    calls: list[int] = []

    def few(images: Images, **_: object) -> judge.Judge:
        calls.append(len(images))
        return judge.train(images, steps=120)

    monkeypatch.setattr(conditional, "train", few)
    return calls


def test_a_copier_of_training_images_is_worth_training_images(digits: Data, tmp_path: Path, quick: list[int]) -> None:
    names = ("label_accuracy", "cas", "cas_augmented")
    right, cas, more = asked(Copier(digits), digits, tmp_path, *names)
    assert right.value > 0.97
    assert right.n == 500
    assert cas.value > 0.9
    assert abs(more.value) < 0.04
    assert quick == [500, 500, 1_000]
    assert more.se is not None
    assert more.se < 0.02  # of pairs
    values = note(cas, "real_images").values  # type: ignore[union-attr]
    assert values["accuracy"] > 90
    assert (values["samples"], values["real"]) == (500, 500)
    asked(Copier(digits), digits, tmp_path, "cas")
    assert quick[3:] == [500], "real images teach once"


def test_labels_that_mean_nothing_teach_nothing(digits: Data, tmp_path: Path, quick: list[int]) -> None:
    right, cas, more = asked(Shuffler(digits), digits, tmp_path, "label_accuracy", "cas", "cas_augmented")
    assert right.value == pytest.approx(0.1, abs=0.04)
    assert cas.value < 0.3
    assert more.value < 0


def test_they_are_for_models_that_are_asked_by_class(digits: Data, tmp_path: Path, quick: list[int]) -> None:
    for name in ("label_accuracy", "cas", "cas_augmented"):
        (found,) = asked(Unconditional(digits), digits, tmp_path, name)
        assert isinstance(found, NotAvailable)
        assert "isn't conditional" in found.reason
    assert not quick


def test_label_accuracy_counts_agreement() -> None:
    seen = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    known = TrainedJudge(judge.Judge((1, 2, 2), 3), "judge-v1-x", 0.9, 0.0)
    score = conditional.label_accuracy(seen, torch.tensor([0, 1, 2, 0]), known)
    assert (score.value, score.n) == (0.75, 4)
    assert score.se == pytest.approx(0.25)


def test_unlabelled_and_single_class_data_have_no_score(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    model = SimpleNamespace(uses_labels=True, sample=lambda y, temperature=1.0: to_float(pixels))
    one = images(pixels, torch.zeros(40).long(), ("only",))
    for split, reason in ((images(pixels), "needs class labels"), (one, "of one class")):
        with pytest.raises(NotAvailable, match=reason):
            Bare(model=model, data=data_of(split, split), cache=tmp_path).get(conditional.Learned("samples"))


# --- within classes ---


def normal(shift: float, n: int = 400) -> Tensor:
    return torch.randn(n, 8, dtype=torch.float64) + shift


def test_the_mean_over_classes_is_weighted_by_their_real_share() -> None:
    torch.manual_seed(0)
    a, b, c, d = normal(0), normal(5, 1_200), normal(0.5), normal(5, 800)
    real, labels = torch.cat([a, b]), torch.tensor([0] * 400 + [1] * 1_200)
    samples, classes = torch.cat([d, c]), torch.tensor([1] * 800 + [0] * 400)
    first, second = (frechet_distance(FeatureGaussian.of(x), FeatureGaussian.of(y)) for x, y in ((c, a), (d, b)))
    found, se = within.mean_distance(samples, classes, real, labels, ("a", "b"))
    assert found == pytest.approx(first / 4 + second * 3 / 4, rel=1e-9)
    errors = [influence(x, FeatureGaussian.of(y)).std().item() / len(x) ** 0.5 for x, y in ((c, a), (d, b))]
    assert se == pytest.approx(math.hypot(errors[0] / 4, errors[1] * 3 / 4), rel=1e-9)
    assert within.mean_distance(real, labels, real, labels, ("a", "b"))[0] == pytest.approx(0, abs=1e-6)


def test_classes_that_are_exchanged_are_seen_within_and_not_overall() -> None:
    torch.manual_seed(0)
    real, labels = torch.cat([normal(0), normal(5)]), torch.arange(2).repeat_interleave(400)
    overall = frechet_distance(FeatureGaussian.of(real), FeatureGaussian.of(real))
    exchanged, _ = within.mean_distance(real, 1 - labels, real, labels, ("a", "b"))
    assert overall == pytest.approx(0, abs=1e-6)
    assert exchanged == pytest.approx(8 * 5**2, rel=0.05)


def test_a_class_with_too_few_images_is_named() -> None:
    x, labels = normal(0, 100), torch.arange(2).repeat(50)
    few = torch.tensor([0] * 90 + [1] * 10)
    with pytest.raises(NotAvailable, match="8 features need 40 samples of each class: bee has 10"):
        within.mean_distance(x, few, x, labels, ("ant", "bee"))
    with pytest.raises(NotAvailable, match="test images of each class: bee has 10"):
        within.mean_distance(x, labels, x, few, ("ant", "bee"))
    only, _ = within.mean_distance(x, torch.zeros(100), x, torch.zeros(100).long(), ("ant", "bee"))
    assert only == pytest.approx(0, abs=1e-6)


def test_the_class_of_a_sample_is_what_it_was_asked_for_or_the_judges() -> None:
    planted: dict[Any, Any] = {
        judge.Judged("prior"): torch.eye(2)[[0, 1, 1]],
        conditional.GivenLabels(): torch.tensor([1, 0, 0]),
    }
    for uses, expected in ((True, [1, 0, 0]), (False, [0, 1, 1])):
        context = Bare(model=SimpleNamespace(uses_labels=uses), planted=dict(planted))
        assert context.get(within.SampleClasses()).tolist() == expected


def test_fd_within_says_what_real_images_come_to(fashion: Data) -> None:
    """Test images in the place of samples: nothing but their own order differs."""
    network = find(fashion.source, SHIPPED)
    assert network is not None
    torch.manual_seed(0)
    labels = fashion.test.labels()
    test = Predictions(torch.randn(len(labels), 16) + labels[:, None], torch.ones(len(labels), 10))
    order = torch.randperm(len(labels))
    mixed = Predictions(test.features[order], test.probabilities)
    score: Score = within.fd_within(network, mixed, labels[order], test, test, fashion)
    assert score.value == pytest.approx(0, abs=1e-6)
    assert score.n == 10_000
    assert note(score, "real_images").values["n"] == 10_000  # type: ignore[union-attr]
