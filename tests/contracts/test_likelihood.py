"""Pixel likelihoods: normalised where they claim to be, in nats, summed over pixels."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.likelihood import ContinuousBernoulli, Gaussian, Logistic, likelihood
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import Scoring
from bench.contracts.variant import Spec, Variant
from bench.engine.evaluator import Evaluator
from bench.metrics.likelihood import binary
from bench.util.errors import NotAvailable, UsageError

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


def test_grey_cross_entropy_is_that_of_all_binarisations_by_their_probabilities() -> None:
    """Linear in the target: all 16 black-or-white versions of 4 grey pixels, exactly."""
    torch.manual_seed(0)
    p = likelihood("bernoulli", (1, 2, 2))
    x, out = torch.rand(1, 1, 2, 2, dtype=torch.float64), 3 * torch.randn(1, 1, 2, 2, dtype=torch.float64)
    b = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    weight = (b * x + (1 - b) * (1 - x)).flatten(1).prod(1)
    mean = (weight * p.log_prob(b, out.expand(16, 1, 2, 2))).sum()
    torch.testing.assert_close(mean, p.log_prob(x, out)[0], rtol=0, atol=1e-12)


def test_a_wrong_certainty_costs_its_logit() -> None:
    """No clamp: 200 nats, where cross-entropies of probabilities stop at 100."""
    p = likelihood("bernoulli", (1, 1, 1))
    assert p.log_prob(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), -200.0)).item() == -200


# the continuous Bernoulli

LOGITS = [-30.0, -4.0, -0.5, -0.2001, -0.1999, -1e-3, 0.0, 1e-4, 0.02, 0.1999, 0.2001, 1.0, 9.0]


def one(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=dtype)


@pytest.mark.parametrize("logit", LOGITS)
def test_a_continuous_bernoulli_is_torchs_own(logit: float) -> None:
    """Value and gradient, far from and around l = 1/2; in float64, and in float32 to its precision."""
    p = ContinuousBernoulli((1, 1, 1))
    for x in (0.0, 0.3, 1.0):
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
            out, other = one(logit, dtype).requires_grad_(), one(logit).requires_grad_()
            ours = p.log_prob(one(x, dtype), out)
            # torch's own is 0 / 0 next to l = 1/2, and in its own series there
            theirs = torch.distributions.ContinuousBernoulli(logits=other).log_prob(one(x)).flatten(1).sum(1)
            assert ours.item() == pytest.approx(theirs.item(), abs=tolerance * max(1, abs(logit)))
            (a,), (b,) = torch.autograd.grad(ours, out), torch.autograd.grad(theirs, other)
            assert a.item() == pytest.approx(b.item(), abs=1e-4 if abs(logit) < 0.01 else 2e-5)


@pytest.mark.parametrize("logit", [-9.0, -1.0, -1e-3, 0.0, 0.15, 3.0])
def test_a_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit: float) -> None:
    p = ContinuousBernoulli((1, 1, 1))
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    density = p.log_prob(x.view(-1, 1, 1, 1), one(logit).expand(20_001, 1, 1, 1)).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
    assert p.location(one(logit)).item() == pytest.approx(torch.trapezoid(x * density, x).item(), abs=1e-6)


def test_known_values_of_the_continuous_bernoulli() -> None:
    p = ContinuousBernoulli((1, 1, 1))

    def log_c(probability: float) -> float:
        """p(x) at x = 1, over l."""
        logit = math.log(probability / (1 - probability))
        return p.log_prob(one(1.0), one(logit)).item() - math.log(probability)

    assert log_c(0.5) == pytest.approx(math.log(2), abs=1e-12)
    assert log_c(0.1) == pytest.approx(1.010339, abs=1e-6)
    for a in (0.01, 0.1, 0.3, 0.499):
        assert log_c(a) == pytest.approx(log_c(1 - a), abs=1e-9)
    tenth = one(math.log(1 / 9))
    assert p.mean(tenth).item() == pytest.approx(0.3301, abs=5e-5), "its mean isn't l"
    assert p.mean(one(0.0)).item() == 0.5


@pytest.mark.parametrize(
    "text", ["bernoulli", "continuous_bernoulli", "gaussian", "logistic", "gaussian[sigma=0.3,learned=true]"]
)
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


# bits for each dimension


class Says(Variant):
    """log p(x|z) = `log_px` of every image, at no rate."""

    def __init__(self, likelihood: str, log_px: float) -> None:
        super().__init__(Spec((1, 2, 2), 0, 10, 2, likelihood))
        self.log_px = log_px

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(x),), self.log_px), torch.zeros(len(x))


def bits(model: Variant, pixels: Tensor) -> Score | NotAvailable:
    images = Images(pixels)
    data = Data("toy", images, images, images, latent_dim=2, steps=1, likelihood="bernoulli")
    return Evaluator(model, data, Scoring(), Path("nowhere")).score(METRICS.load("bpd"))[0]


GREY = torch.arange(0, 240, 10, dtype=torch.uint8).view(6, 1, 2, 2)
BINARY = GREY % 20 // 10 * 255


@pytest.mark.parametrize("text", ["gaussian[sigma=0.1]", "continuous_bernoulli"])
def test_a_flat_density_takes_the_bits_of_its_levels(text: str) -> None:
    """Density 1 on [0, 1]: each of the cells of one level's width has probability 1/255."""
    found = bits(Says(text, 0.0), GREY)
    assert isinstance(found, Score)
    assert found.value == pytest.approx(math.log2(255), abs=1e-6)
    assert found.notes[0].kind == "density"
    narrow = bits(Says(text, 4 * math.log(255)), GREY)
    assert isinstance(narrow, Score)
    assert narrow.value == pytest.approx(0, abs=1e-6)


def test_a_coin_for_each_binary_pixel_takes_one_bit() -> None:
    found = bits(Says("bernoulli", -4 * math.log(2)), BINARY)
    assert isinstance(found, Score)
    assert (found.value, found.notes) == (pytest.approx(1), ())
    mass = bits(Says("logistic", -4 * math.log(256)), GREY)
    assert isinstance(mass, Score)
    assert (mass.value, mass.notes) == (pytest.approx(8), ())


def test_grey_pixels_under_bernoulli_likelihood_have_no_bits() -> None:
    found = bits(Says("bernoulli", -4 * math.log(2)), GREY)
    assert isinstance(found, NotAvailable)
    assert "grey pixels" in found.reason
    one_grey = BINARY.repeat(300, 1, 1, 1)
    assert binary(Images(one_grey))
    one_grey[-1, 0, 1, 1] = 254
    assert not binary(Images(one_grey))
