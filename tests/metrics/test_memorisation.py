"""Copies of training images, and samples that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.measurement import Metric, Score
from bench.evidence import Generated
from bench.metrics import memorisation
from bench.metrics.memorisation import dcr_share, nearest, nearest_train
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, data_of, images


def drawn(n: int, seed: int) -> Tensor:
    """Images of one law: smooth, of a few degrees of freedom."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, generator=generator) @ torch.randn(3, 36, generator=torch.Generator().manual_seed(9))
    return (z.sigmoid() * 255).to(torch.uint8).reshape(n, 1, 6, 6)


TRAIN, TEST = drawn(2_000, seed=0), drawn(400, seed=1)


def score(metric: Metric, samples: Tensor, train: Tensor = TRAIN, test: Tensor = TEST) -> Score:
    data: Data = data_of(images(train), images(test))
    context = Bare(data=data, planted={Generated("prior"): samples})
    return metric(*[context.get(need) for need in metric.needs])


def test_distances_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorisation, "BLOCK", 130)
    x, y = TEST[:50].numpy() / 255, TRAIN.numpy() / 255
    pairs = np.sqrt(((x.reshape(50, 1, -1) - y.reshape(1, 2_000, -1)) ** 2).sum(-1))
    found = nearest(TEST[:50], images(TRAIN))
    np.testing.assert_allclose(found.distance.numpy(), pairs.min(1), rtol=1e-6)
    assert found.position.tolist() == pairs.argmin(1).tolist()


def test_copies_are_at_no_distance() -> None:
    bright = torch.full((20, 1, 28, 28), 200, dtype=torch.uint8)
    bright[:, 0, 0, 0] = torch.arange(20)
    assert nearest(bright, images(bright)).distance.max() == 0
    assert score(nearest_train, TRAIN[:300]).value == 0


def test_samples_of_the_same_law_are_as_far_as_test_images() -> None:
    found = score(nearest_train, drawn(1_000, seed=2))
    assert found.se is not None
    assert abs(found.value - 1) < 3 * found.se < 0.3
    assert score(nearest_train, TEST).value == 1


def blurred(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False).to(torch.uint8)


def test_a_copier_is_told_from_a_sampler_however_blurred() -> None:
    fresh, copies = drawn(800, seed=2), TRAIN[:800]
    for honest in (fresh, blurred(fresh)):
        share = score(dcr_share, honest)
        assert share.se is not None
        assert abs(share.value - 0.5) < 3 * share.se < 1
    assert score(nearest_train, blurred(fresh)).value != pytest.approx(1, abs=0.2)
    share = score(dcr_share, copies)
    assert share.value > 0.5 + 3 * (share.se or 1)  # a fifth of the training images compete
    assert score(dcr_share, copies, train=TRAIN[:800], test=drawn(800, seed=3)).value == 1
    assert score(dcr_share, TEST).value == 0


@pytest.mark.parametrize("blur", [True, False])
def test_the_error_of_the_share_covers_its_scatter_over_real_images(blur: bool) -> None:
    """Blurred samples share few nearest images: a binomial error, .029, would be a seventh of theirs."""
    samples = drawn(300, seed=2)
    samples = blurred(samples) if blur else samples
    found = []
    for seed in range(80):
        real = drawn(600, seed=1_000 + seed)
        found.append(score(dcr_share, samples, train=real[:300], test=real[300:]))
    values = torch.tensor([s.value for s in found])
    scatter, error = values.std().item(), sum(s.se or 0 for s in found) / 80
    assert abs(values.mean() - 0.5) < 3 * scatter / 80**0.5
    assert 0.85 * scatter < error < 1.5 * scatter


def test_ties_count_half() -> None:
    assert score(dcr_share, TEST, train=TEST, test=TEST).value == 0.5


def test_what_cannot_be_told() -> None:
    with pytest.raises(NotAvailable, match="two test images"):
        score(nearest_train, TEST, test=TEST[:1])
    with pytest.raises(NotAvailable, match="every test image is a training image"):
        score(nearest_train, TEST, test=TRAIN[:100])
    flat = torch.full((50, 1, 6, 6), 130, dtype=torch.uint8)
    with pytest.raises(NotAvailable, match="every test image is a training image"):
        score(nearest_train, TEST, train=flat, test=flat)
    with pytest.raises(NotAvailable, match="two training and two test images"):
        score(dcr_share, TEST, train=TRAIN[:1])
