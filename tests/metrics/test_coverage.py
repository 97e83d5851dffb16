"""Precision, recall, density and coverage against their definitions, and what is known of equal laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.metrics import coverage as family
from bench.metrics.coverage import PriorErrors, PriorShares, TestPoints, expected_coverage, radii, redraw_errors, shares
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, TrainedClassifier
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, data_of, images, note

D = torch.float64


def by_definition(real: np.ndarray, fake: np.ndarray) -> tuple[float, float, float, float]:
    """Kynkäänniemi et al. 2019 with k = 3 and Naeem et al. 2020 with k = 5, point by point."""

    def ball(points: np.ndarray, i: int, k: int) -> float:
        return float(sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1])

    def d(i: int, j: int) -> float:
        return float(np.linalg.norm(real[i] - fake[j]))

    n, m = range(len(real)), range(len(fake))
    r3, r5, f3 = [ball(real, i, 3) for i in n], [ball(real, i, 5) for i in n], [ball(fake, j, 3) for j in m]
    precision = np.mean([any(d(i, j) <= r3[i] for i in n) for j in m])
    recall = np.mean([any(d(i, j) <= f3[j] for j in m) for i in n])
    density = sum(d(i, j) < r5[i] for i in n for j in m) / (5 * len(fake))
    coverage = np.mean([min(d(i, j) for j in m) < r5[i] for i in n])
    return float(precision), float(recall), float(density), float(coverage)


def means(real: Tensor, fake: Tensor) -> list[float]:
    return [v.mean().item() for v in shares(real, fake)]


@pytest.mark.parametrize("rows", [7, 500])
def test_they_are_what_the_papers_define(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "ROWS", rows)
    torch.manual_seed(0)
    real, fake = torch.randn(40, 4, dtype=D), 0.8 * torch.randn(31, 4, dtype=D) + 0.5
    found = means(real, fake)
    assert found == pytest.approx(by_definition(real.numpy(), fake.numpy()), abs=1e-12)
    assert all(0.1 < v < 1.5 and v != 1 for v in found)


def test_a_set_against_itself_and_against_a_far_one() -> None:
    x = torch.randn(200, 16, dtype=D, generator=torch.Generator().manual_seed(0))
    assert means(x, x.clone()) == [1, 1, 1, 1]
    assert means(x, x + 100) == [0, 0, 0, 0]


def test_no_order_of_points_matters() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(80, 5, dtype=D), torch.randn(70, 5, dtype=D) + 0.4
    assert means(real[torch.randperm(80)], fake[torch.randperm(70)]) == pytest.approx(means(real, fake), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 600)])
def test_samples_of_the_real_law_have_the_expected_density_and_coverage(n: int, m: int) -> None:
    torch.manual_seed(0)
    found = torch.tensor([means(torch.randn(n, 4), torch.randn(m, 4)) for _ in range(60)], dtype=D)
    error = found.std(0) / 60**0.5
    assert abs(found[:, 2].mean() - 1) < 3 * error[2]
    assert abs(found[:, 3].mean() - expected_coverage(n, m)) < 3 * error[3]
    assert expected_coverage(n, m) == pytest.approx({300: 0.9695, 600: 0.9960}[m], abs=1e-4)
    assert expected_coverage(10**9, 10**9) == pytest.approx(1 - 2**-5)


def test_a_tight_cluster_in_a_wide_cloud_is_precise_and_recalls_little() -> None:
    torch.manual_seed(0)
    tight, wide = 0.1 * torch.randn(200, 16), 3 * torch.randn(200, 16)
    precision, recall, *_ = means(wide, tight)
    assert precision > 0.8
    assert recall < 0.3
    assert means(tight, wide)[:2] == [recall, precision]


def test_balls_are_closed_for_recall_and_open_for_coverage() -> None:
    line, end = torch.arange(11, dtype=D)[:, None], torch.zeros(6, 1, dtype=D)
    assert radii(line)[10].tolist() == [1, 4, 9, 16, 25]
    assert means(line, end + 13)[0] == 1  # the last ball of k = 3 reaches from 10 to 13
    assert means(line, end + 13.01)[0] == 0
    assert means(end + 13, line)[1] == 1
    assert means(line, end + 15)[2:] == [0, 0]  # that of k = 5 to 15, which isn't in it
    assert means(line, end + 14.99)[2:] == [pytest.approx(1 / 5), pytest.approx(1 / 11)]


def test_a_cluster_that_is_never_sampled_is_missed() -> None:
    torch.manual_seed(0)
    centres = 20 * torch.randn(10, 8)
    real = (centres[:, None] + torch.randn(10, 60, 8)).flatten(0, 1)
    fake = (centres[:9, None] + torch.randn(9, 60, 8)).flatten(0, 1)
    _, recall, _, coverage = means(real, fake)
    perfect = expected_coverage(60, 60)
    assert coverage == pytest.approx(0.9 * perfect, abs=0.03)
    assert recall <= 0.9


def test_single_precision_is_enough() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(400, 64, dtype=D).relu() + 3, torch.randn(400, 64, dtype=D).mul(1.05).relu() + 3
    assert means(real.float(), fake.float()) == pytest.approx(means(real, fake), abs=0.003)


def skewed(n: int, spread: float) -> Tensor:
    mix = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    return (spread * torch.randn(n, 6) @ mix).relu()


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_the_standard_errors_are_the_spread_over_redraws(spread: float) -> None:
    """Of 80 draws of samples, of the real images' own law and of a narrower one; a jackknife is up to twice that."""
    torch.manual_seed(0)
    real = skewed(400, 1.0)
    around = radii(real)
    drawn = [shares(real, skewed(400, spread), around) for _ in range(80)]
    errors = torch.tensor([redraw_errors(real, around, skewed(800, spread)) for _ in range(10)], dtype=D)
    estimated = errors.square().mean(0).sqrt().tolist()
    for which, found in (("recall", estimated[0]), ("coverage", estimated[1])):
        spreads = torch.stack([getattr(s, which).mean() for s in drawn]).std().item()
        assert found == pytest.approx(spreads, rel=0.25)
    assert (errors.std(0) / errors.mean(0)).max() < 0.3


def test_redraws_of_what_is_recalled_for_sure_have_no_error() -> None:
    torch.manual_seed(0)
    real, fake = torch.zeros(40, 3) + 0.1 * torch.randn(40, 3), 3 * torch.randn(80, 3)
    assert redraw_errors(real, radii(real), 100 + fake) == (0, 0)
    near = 0.1 * torch.randn(80, 3)
    recall, coverage = redraw_errors(real, radii(real), near)
    assert 0 < recall < 0.1  # type: ignore[operator]
    assert 0 < coverage < 0.1  # type: ignore[operator]


# --- as metrics ---


TRAINED = TrainedClassifier(torch.nn.Identity(), "fd-v1-x", 0.97)  # type: ignore[arg-type]


def seen(features: Tensor) -> Predictions:
    return Predictions(features, torch.ones(len(features), 1))


def context(real: Tensor, others: Tensor, samples: Tensor, cache: Path = Path("nowhere")) -> Bare:
    test = images(torch.randint(0, 256, (len(real), 1, 4, 4), dtype=torch.uint8))
    planted: dict[Any, Any] = {
        FeatureNetwork(): TRAINED,
        PredictedReal("test"): seen(real),
        PredictedReal("train"): seen(others),
        Predicted("prior"): seen(samples),
    }
    return Bare(model=SimpleNamespace(), data=data_of(test, test), cache=cache, planted=planted)


def test_they_say_what_real_images_come_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real, others, samples = torch.randn(90, 64), torch.randn(90, 64), 0.9 * torch.randn(500, 64)
    c = context(real, others, samples, tmp_path)
    evidence = [c.get(need) for need in family.recall.needs]
    real_means, expected = means(real, others), means(real, samples[:90])
    for metric, which in ((family.precision, 0), (family.recall, 1), (family.density, 2), (family.coverage, 3)):
        score = metric(*evidence[: len(metric.needs)])
        assert score.se is not None
        assert 0 < score.se < 0.2
        assert score.value == pytest.approx(expected[which], abs=0.02)
        assert score.n == 90
        real_note = note(score, "real_images")
        assert real_note is not None
        assert real_note.values == {"n": 90, "floor": pytest.approx(real_means[which])}
    assert note(family.coverage(*evidence), "expected").values == {"expected": expected_coverage(90, 90)}  # type: ignore[union-attr]


def test_fewer_samples_than_twice_the_real_images_have_no_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = torch.randn(90, 64)
    assert context(real, real, torch.randn(179, 64), tmp_path).get(PriorErrors()) == (None, None)
    assert None not in context(real, real, torch.randn(180, 64), tmp_path).get(PriorErrors())


def test_other_unseen_images_are_compared_anew(tmp_path: Path) -> None:
    """A cached share of them isn't taken for that of others, as where the scored images are taken out of them."""
    torch.manual_seed(0)
    real = torch.randn(90, 64)
    first = context(real, real + 100, real, tmp_path)
    assert first.get(TestPoints()).others.sum() == 0
    second = context(real, real, real, tmp_path)
    second.data = replace(first.data, held=torch.arange(5))
    assert second.get(TestPoints()).others.sum() > 0


def test_a_subset_of_real_images_stands_for_them_and_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "POINTS", 40)
    made: list[int] = []
    monkeypatch.setattr(family, "radii", lambda points: made.append(len(points)) or radii(points))  # type: ignore[func-returns-value]
    torch.manual_seed(0)
    real, others = torch.randn(100, 64), torch.randn(100, 64)
    first = context(real, others, real, tmp_path)
    points = first.get(TestPoints())
    assert points.features.shape == (40, 64)
    assert points.drawn == 40
    assert len(first.get(PriorShares()).precision) == 40
    again = Bare(model=None, data=first.data, cache=tmp_path, planted=dict(list(first.planted.items())[:4]))
    made.clear()
    torch.testing.assert_close(again.get(TestPoints()).radii, points.radii)
    assert not made


def test_what_has_no_balls_has_no_shares(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64)
    with pytest.raises(NotAvailable, match="more than 1 test images"):
        context(x[:1], x, x).get(PriorShares())
    with pytest.raises(NotAvailable, match="more than 5 samples"):
        context(x, x, x[:5], tmp_path).get(PriorShares())
    with pytest.raises(NotAvailable, match="100% of the test images have 5 copies"):
        context(x[:1].expand(50, -1), x, x, tmp_path / "a").get(PriorShares())
    with pytest.raises(NotAvailable, match="aren't finite"):
        context(x, x, x.log(), tmp_path / "b").get(PriorShares())
    with pytest.raises(ValueError, match="no 5 neighbours"):
        radii(x[:5])


def test_samples_that_are_all_one_image_cover_next_to_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = torch.randn(200, 64)
    found = context(real, real, real[:1].expand(200, -1), tmp_path).get(PriorShares())
    assert found.precision.mean() == 1
    assert found.recall.mean() <= 1 / 200
    assert found.coverage.mean() < 0.1
