"""Kernel distances: the estimate against loops and torchmetrics, and whether its standard error is right."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.errors import NotAvailable
from bench.metrics import kernel
from bench.metrics.inception import PUBLISHED, Weights
from bench.metrics.kernel import COMPARED, cubic, kernel_distance
from bench.metrics.networks import Predictions, Trained

D = torch.float64
TRAINED = Trained(None, "fd-v1-x", 0.97)  # type: ignore[arg-type]


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
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y), rel=1e-10)


def test_the_estimate_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    generator = torch.Generator().manual_seed(0)
    x, y = law(230, 12, generator), law(230, 12, generator, shift=0.2)
    assert kernel_distance(x, y)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)
    assert kernel_distance(x.float(), y.float())[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)


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
    values, errors = torch.tensor([kernel_distance(x, y) for x, y in pairs], dtype=D).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.2)
    if shift == 0:
        assert abs(values.mean().item()) < 3 * values.std().item() / 300**0.5
        assert 90 < (values < 0).sum().item() < 210
        truth = 0.0
    else:
        truth = values.mean().item()
        assert truth > values.std().item()
    assert ((values - truth).abs() < 1.96 * errors).double().mean().item() > 0.9


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
    assert kernel_distance(flat, flat) == (0, 0)


def test_the_classifiers_distance_compares_some_of_each_in_random_order() -> None:
    """A split that is sorted: some of it, drawn at random, stand for the whole."""
    ramp = torch.linspace(0, 2, 2 * COMPARED)[:, None].expand(-1, 8)
    mixed = ramp[torch.randperm(len(ramp), generator=torch.Generator().manual_seed(3))]
    found = kernel.kd(TRAINED, Predictions(mixed, mixed), Predictions(ramp, ramp))
    assert found.n == COMPARED
    assert found.note == TRAINED.note
    assert found.se is not None
    assert abs(found.value) < 3 * found.se
    first = kernel_distance(mixed[:COMPARED], ramp[:COMPARED])
    assert first[0] > 10 * first[1]


def test_kid_takes_all_and_names_weights_that_are_not_the_published() -> None:
    x, y = torch.rand(70, 6), torch.rand(60, 6)
    found = kernel.kid(Weights(Path("w.pth"), PUBLISHED + "0" * 56), x, y)
    assert (found.value, found.se) == kernel_distance(x, y)
    assert (found.n, found.note) == (70, "")
    assert "not the published" in kernel.kid(Weights(Path("w.pth"), "f" * 64), x, y).note
