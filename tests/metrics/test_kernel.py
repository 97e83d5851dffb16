"""Kernel distances: the estimate against loops and torchmetrics, and whether its standard error is right."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Metric, Score
from bench.metrics import inception, kernel
from bench.metrics.inception import PUBLISHED, InceptionFeatures, InceptionWeights, Weights
from bench.metrics.kernel import (
    COMPARED,
    KernelDistance,
    _sums_within,
    cubic,
    kernel_distance,
    paired_kernel_distance,
)
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, TrainedClassifier
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, kinds, note

D = torch.float64
TRAINED = TrainedClassifier(None, "fd-v1-x", 0.97)  # type: ignore[arg-type]


def law(n: int, d: int, generator: torch.Generator, shift: float = 0.0) -> Tensor:
    """Correlated and never negative, like a ReLU network's features."""
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=D) / d**0.5
    return 2 * ((torch.randn(n, d, generator=generator, dtype=D) + shift) @ mix).relu()


def test_the_estimate_equals_loops() -> None:
    x, y = torch.randn(51, 3, dtype=D), torch.randn(60, 3, dtype=D) + 1

    def mean(a: Tensor, b: Tensor, *, same: bool) -> float:
        pairs = itertools.product(range(len(a)), range(len(b)))
        values = [(float(a[i] @ b[j]) / 3 + 1) ** 3 for i, j in pairs if not (same and i == j)]
        return sum(values) / len(values)

    expected = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    pairs = mean(x, x, same=True) + mean(y[:51], y[:51], same=True) - 2 * mean(x, y[:51], same=True)
    assert paired_kernel_distance(x, y[:51])[0] == pytest.approx(pairs, rel=1e-10)
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y, x)[:2] == pytest.approx(kernel_distance(x, y)[:2], rel=1e-10)


def test_the_estimate_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    generator = torch.Generator().manual_seed(0)
    x, y = law(230, 12, generator), law(230, 12, generator, shift=0.2)
    assert kernel_distance(x, y)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)
    assert kernel_distance(x.float(), y.float())[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)


@pytest.mark.parametrize("n", [99, 100, 101, 230])
def test_sums_within_a_set_are_those_of_all_pairs(n: int) -> None:
    x = law(n, 12, torch.Generator().manual_seed(0))
    torch.testing.assert_close(_sums_within(x), cubic(x, x).sum(1), rtol=1e-12, atol=0)


def test_a_set_against_itself_is_below_zero() -> None:
    """No image is paired with itself within a set, but between the two it is."""
    x = law(200, 12, torch.Generator().manual_seed(0))
    k = cubic(x, x)
    within = (k.sum() - k.diagonal().sum()) / (200 * 199)
    assert kernel_distance(x, x)[0] == pytest.approx(float(2 * within - 2 * k.mean()), rel=1e-9)
    assert kernel_distance(x, x)[0] < 0


@pytest.mark.parametrize(("n", "m", "d", "shift"), [(150, 150, 16, 0.0), (120, 300, 32, 0.1), (150, 100, 16, 0.5)])
def test_the_standard_error_is_the_spread_over_draws(n: int, m: int, d: int, shift: float) -> None:
    """Of 300 estimates, of one law and of two; and those of one law are 0 on average, many below it."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(law(n, d, generator), law(m, d, generator, shift)) for _ in range(300)]
    values, errors, *_ = torch.tensor([kernel_distance(x, y) for x, y in pairs], dtype=D).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.2)
    if shift == 0:
        assert abs(values.mean().item()) < 3 * values.std().item() / 300**0.5
        assert 90 < (values < 0).sum().item() < 210
        truth = 0.0
    else:
        truth = values.mean().item()
        assert truth > values.std().item()
    assert ((values - truth).abs() < 1.96 * errors).double().mean().item() > 0.9


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_error_over_redraws_is_the_spread_over_draws_of_the_first_alone(shift: float) -> None:
    """With the same references each time, far fewer: they'd have the larger part in the error of both."""
    generator = torch.Generator().manual_seed(0)
    y = law(100, 16, generator)
    drawn = [kernel_distance(law(200, 16, generator, shift), y) for _ in range(200)]
    values, both, redraws, _ = torch.tensor(drawn, dtype=D).T
    assert redraws.mean().item() == pytest.approx(values.std().item(), rel=0.2)
    assert both.mean() > 1.4 * redraws.mean()


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_pairs_are_compared_without_bias_and_with_the_right_error(noise: float) -> None:
    """Images and what is made of them: the mean is that of strangers, the error the spread over draws of pairs."""
    generator = torch.Generator().manual_seed(0)

    def pairs(n: int) -> tuple[Tensor, Tensor]:
        x = law(n, 16, generator)
        return (x + noise * torch.randn(n, 16, generator=generator, dtype=D)).relu(), x

    values, errors = torch.tensor([paired_kernel_distance(*pairs(150)) for _ in range(200)], dtype=D).T
    truth, error, *_ = kernel_distance(pairs(3_000)[0], law(3_000, 16, generator))
    assert abs(values.mean().item() - truth) < 3 * math.hypot(values.std().item() / 200**0.5, error)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.2)
    x = law(100, 8, generator)
    assert paired_kernel_distance(x, x) == pytest.approx((0, 0), abs=1e-12)


def test_no_batch_changes_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = law(130, 8, generator), law(210, 8, generator, shift=0.1)
    before = kernel_distance(x, y)
    monkeypatch.setattr(kernel, "ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(before, rel=1e-9)


def test_what_has_no_kernel_distance() -> None:
    x = torch.rand(50, 4)
    kernel_distance(x, x)
    with pytest.raises(NotAvailable, match="50 images on both sides: there are 49"):
        kernel_distance(x, x[:49])
    for odd in (float("nan"), float("inf")):
        with pytest.raises(NotAvailable, match="aren't finite"):
            kernel_distance(x, torch.where(torch.arange(50)[:, None] == 3, odd, x))
    flat = torch.ones(60, 4)
    assert kernel_distance(flat, flat) == (0, 0, 0, 60)


def test_the_classifiers_distance_compares_some_of_each_in_random_order() -> None:
    """A split that is sorted: some of it, drawn at random, stand for the whole."""
    ramp = torch.linspace(0, 2, 2 * COMPARED)[:, None].expand(-1, 8)
    mixed = ramp[torch.randperm(len(ramp), generator=torch.Generator().manual_seed(3))]
    found = kernel.kd(TRAINED, Predictions(mixed, mixed), Predictions(ramp, ramp), KernelDistance(0.5, 0.2, 0.1, 70))
    assert found.n == COMPARED
    assert found.notes[0] == TRAINED.note
    assert note(found, "real_images").values == {"n": 70, "floor": 0.5, "se": 0.2}  # type: ignore[union-attr]
    both = kernel_distance(kernel._some(mixed), kernel._some(ramp))
    assert found.se == both.redraws
    assert abs(found.value) < 3 * both.se
    first = kernel_distance(mixed[:COMPARED], ramp[:COMPARED])
    assert first[0] > 10 * first[1]


def test_kid_takes_all_and_names_weights_that_are_not_the_published() -> None:
    x, y = torch.rand(70, 6), torch.rand(60, 6)
    distance = kernel_distance(x, y)
    found = kernel.kid(Weights(Path("w.pth"), PUBLISHED + "0" * 56), distance)
    assert (found.value, found.se, found.n, found.notes) == (distance.value, distance.redraws, 60, ())
    assert kinds(kernel.kid(Weights(Path("w.pth"), "f" * 64), distance)) == {"inception_weights"}


def images(n: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8))


def context(cache: Path, source: Images, features: dict[str, Tensor]) -> Bare:
    data = Data("d", source, images(80, 1), source, latent_dim=2, steps=1, likelihood="bernoulli")
    planted: dict[Any, Any] = {FeatureNetwork(): TRAINED, InceptionWeights(): Weights(Path("w.pth"), PUBLISHED)}
    for split, f in features.items():
        planted |= {InceptionFeatures(split): f, PredictedReal(split): Predictions(f, f)}  # type: ignore[arg-type]
    planted |= {Predicted(of): Predictions(features[of], features[of]) for of in ("prior", "reconstructions")}  # type: ignore[arg-type]
    return Bare(data=data, cache=cache, planted=planted)


def test_real_images_are_set_beside_it_and_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of some images is never taken for that of others."""
    generator = torch.Generator().manual_seed(0)
    features = {name: law(80, 8, generator, s) for name, s in (("test", 0.0), ("train", 0.0), ("prior", 0.4))}
    features["reconstructions"] = 0.9 * features["test"]
    source = images(200, 0)
    real = kernel_distance(kernel._some(features["train"]), kernel._some(features["test"]))

    def score(metric: Metric) -> Score:
        c = context(tmp_path, source, features)
        return metric(*(c.get(need) for need in metric.needs))

    expected = {"n": 80, "floor": real.value, "se": real.se}
    assert note(score(kernel.kd), "real_images").values == expected  # type: ignore[union-attr]
    some = [kernel._some(features[name]) for name in ("prior", "train", "reconstructions", "test")]
    assert score(kernel.kd_train).value == kernel_distance(some[0], some[1]).value
    assert (score(kernel.kd_rec).value, score(kernel.kd_rec).se) == paired_kernel_distance(some[2], some[3])
    assert score(kernel.kid).value == kernel_distance(features["prior"], features["test"]).value
    monkeypatch.setattr(kernel, "kernel_distance", lambda *_: pytest.fail("compared again"))
    assert context(tmp_path, source, features).get(kernel.RealDistance()) == real
    with pytest.raises(pytest.fail.Exception):
        context(tmp_path, images(200, 5), features).get(kernel.RealDistance())


def test_the_time_that_it_takes_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for a block of pairs, and what features take that nobody has made yet."""
    clock = iter(range(100))
    monkeypatch.setattr(kernel.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(inception, "features", lambda *_, **__: torch.zeros(20, 4))
    monkeypatch.setattr(inception, "build", lambda *_: None)
    c = context(tmp_path, images(200, 0), {"prior": torch.zeros(80, 4), "reconstructions": torch.zeros(80, 4)})
    samples, test = c.scoring.samples, 80
    each = 1 / (kernel.ROWS * kernel.CENTRED)
    pairs = (samples**2 / 2 + samples * test + test**2 / 2) * each  # within a set each pair once
    assert kernel.kid.predicted is not None
    assert kernel.kid.predicted(c) == pytest.approx(pairs + (samples + test) / 10)
    c.get(inception.Computed()).add("prior")
    assert kernel.kid.predicted(c) == pytest.approx(pairs + test / 10)
