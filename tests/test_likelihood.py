"""Pixel likelihoods: normalised where they claim to be, in nats, summed over pixels."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import UsageError
from bench.likelihood import Gaussian, Logistic, likelihood

SHAPE = (3, 2, 2)


def test_a_discretised_logistic_sums_to_one_over_the_levels() -> None:
    p = Logistic((1, 1, 1))
    levels = (torch.arange(256) / 255).view(256, 1, 1, 1)
    for out, log_scale in ((0.0, -2.0), (3.0, -4.0), (-9.0, -6.0), (0.3, 0.0)):
        p.log_scale.data.fill_(log_scale)
        total = p.log_prob(levels, torch.full((256, 1, 1, 1), out)).double().exp().sum().item()
        assert total == pytest.approx(1, abs=1e-4)


def test_a_discretised_logistic_is_a_difference_of_distribution_functions() -> None:
    p = Logistic((1, 1, 1))
    p.log_scale.data.fill_(math.log(0.05))
    mean, level = 0.4, 100
    cdf = [1 / (1 + math.exp(-((level + s) / 255 - mean) / 0.05)) for s in (-0.5, 0.5)]
    got = p.log_prob(torch.full((1, 1, 1, 1), level / 255), torch.full((1, 1, 1, 1), math.log(mean / (1 - mean))))
    assert got.item() == pytest.approx(math.log(cdf[1] - cdf[0]), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_a_gaussian_is_torchs_own(sigma: float) -> None:
    x, out = torch.rand(5, *SHAPE), torch.randn(5, *SHAPE)
    expected = torch.distributions.Normal(out, sigma).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(SHAPE, sigma=sigma).log_prob(x, out), expected, rtol=1e-4, atol=1e-3)


def test_bernoulli_is_minus_the_cross_entropy_in_nats_per_image() -> None:
    p = likelihood("bernoulli", SHAPE)
    x, out = torch.rand(4, *SHAPE), torch.randn(4, *SHAPE)
    q = out.sigmoid()
    expected = (x * q.log() + (1 - x) * (1 - q).log()).flatten(1).sum(1)
    torch.testing.assert_close(p.log_prob(x, out), expected)
    half = p.log_prob(x, torch.zeros_like(out))
    torch.testing.assert_close(half, torch.full((4,), -12 * math.log(2)))


def test_grey_cross_entropy_is_the_expected_one_of_binarised_images() -> None:
    torch.manual_seed(0)
    p = likelihood("bernoulli", SHAPE)
    x, out = torch.rand(1, *SHAPE), torch.randn(1, *SHAPE)
    drawn = p.log_prob(torch.bernoulli(x.expand(200_000, *SHAPE)), out.expand(200_000, *SHAPE))
    assert drawn.mean().item() == pytest.approx(p.log_prob(x, out).item(), abs=4 * drawn.std().item() / 447)


@pytest.mark.parametrize("text", ["bernoulli", "gaussian", "logistic", "gaussian[sigma=0.3,learned=true]"])
def test_leading_sample_dimensions_broadcast(text: str) -> None:
    p = likelihood(text, SHAPE)
    x, out = torch.rand(5, *SHAPE), torch.randn(7, 5, *SHAPE)
    many = p.log_prob(x, out)
    assert many.shape == (7, 5)
    torch.testing.assert_close(many[3], p.log_prob(x, out[3]))
    assert 0 <= p.mean(out).min() <= p.mean(out).max() <= 1


def test_a_learned_sigma_is_a_parameter_and_a_fixed_one_is_not() -> None:
    assert len(list(likelihood("gaussian", SHAPE).parameters())) == 0
    assert len(list(likelihood("gaussian[learned=true]", SHAPE).parameters())) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bernouli", "bernoulli"),
        ("gaussian[sigma=0]", "0 < value"),
        ("gaussian[sigma=wide]", "a number"),
        ("gaussian[sgma=1]", "sigma"),
        ("gaussian[sigma=1", "bracket"),
    ],
)
def test_a_wrong_likelihood_says_the_right_one(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        likelihood(text, SHAPE)
    assert says in str(caught.value)
