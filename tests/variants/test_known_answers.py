"""Known answers, end to end: what the one trainer must reach and the one evaluator must say, on real images.

Closed forms: entropy of the pixels, cross-entropy of mean images, PCA, probabilistic PCA (Tipping & Bishop 1999).
Training here is the shipped trainer at falling learning rates, so that the optimum is reached and not only approached.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_float
from bench.contracts.protocol import Scoring, Training
from bench.contracts.variant import Variant
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.evidence import LogLikelihood, Terms
from tests.conftest import build, real, scored, trained

SETS = ["mnist", "fashion"]


def pixels(images: Images) -> Tensor:
    """(N, D) float64 in [0, 1]."""
    return to_float(images.take(torch.arange(len(images)))).flatten(1).double()


def reach(selector: str, data: Data, rounds: list[tuple[int, float]], likelihood: str | None = None) -> Variant:
    """Train in rounds of (steps, learning rate)."""
    model = build(selector, data, likelihood=likelihood)
    for k, (steps, lr) in enumerate(rounds):
        train(model, data.train, Training(steps, lr=lr), seed=k)
    return model


def cross_entropy(p: Tensor, x: Tensor) -> float:
    """Mean over images of the BCE summed over pixels, of probabilities p for grey targets x, float64."""
    p = p.clamp(1e-12, 1 - 1e-12)
    return -(x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean().item()


@cache
def pca(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the training pixels (D,), their directions in columns (D, D), and eigenvalues (D,), in falling order."""
    x = pixels(real(name).train)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    return mean, vectors.flip(1), values.flip(0)


@pytest.mark.parametrize(("name", "floor"), [("mnist", 45.534), ("fashion", 189.858)])
def test_the_entropy_floor_of_the_test_pixels(name: str, floor: float) -> None:
    data = real(name)
    x = pixels(data.test)
    entropy = -(torch.special.xlogy(x, x) + torch.special.xlogy(1 - x, 1 - x)).sum(1).mean().item()
    assert entropy == pytest.approx(floor, abs=5e-4)
    got = scored(build("vae", data), data, "bce", "bce_excess")
    assert got["bce"] - got["bce_excess"] == pytest.approx(floor, abs=1e-3)


@pytest.mark.parametrize(("name", "known"), [("mnist", 205.81), ("fashion", 385.02)])
def test_a_collapsed_vae_says_the_mean_image(name: str, known: float) -> None:
    """beta = 1000: KL vanishes, and -ELBO is the cross-entropy of the training split's mean."""
    data = real(name)
    mean = pca(name)[0]
    assert cross_entropy(mean, pixels(data.test)) == pytest.approx(known, abs=0.25)  # with p = 0 clamped, not learned

    model = reach("beta[beta=1000,hidden=64]", data, [(500, 1e-2), (150, 1e-3), (100, 1e-4)])
    got = scored(model, data, "elbo", "kl")
    assert got["kl"] < 0.05
    assert -got["elbo"] == pytest.approx(known, abs=0.4)


@pytest.mark.parametrize(("name", "known"), [("mnist", 171.63), ("fashion", 308.48)])
def test_a_collapsed_cvae_says_the_mean_image_of_the_class(name: str, known: float) -> None:
    """The labels reach the decoder."""
    data = real(name)
    model = reach("cvae[beta=1000,hidden=64]", data, [(500, 5e-3), (200, 1e-3), (150, 1e-4)])
    got = scored(model, data, "elbo", "elbo_given_y")
    assert -got["elbo_given_y"] == pytest.approx(known, abs=0.6)
    # summing the labels out costs at most the label's own code length: log sum_y p(y) a_y >= log p(y) + log a_y
    assert got["elbo"] >= got["elbo_given_y"] - math.log(10) - 0.05


@pytest.mark.parametrize(
    ("name", "d", "known"),
    [
        ("mnist", 2, 43.645), ("mnist", 8, 29.354), ("mnist", 20, 18.454),
        ("fashion", 2, 36.139), ("fashion", 8, 20.860), ("fashion", 20, 14.665),
    ],
)  # fmt: skip
def test_a_linear_autoencoder_is_pca(name: str, d: int, known: float) -> None:
    data = real(name)
    mean, directions = pca(name)[0], pca(name)[1][:, :d]
    centred = pixels(data.test) - mean
    sse = (centred - centred @ directions @ directions.T).square().sum(1).mean().item()
    assert sse == pytest.approx(known, abs=2e-3)

    model = reach(f"ae[hidden=none,latent_dim={d}]", data, [(2000, 5e-3), (700, 1e-3), (500, 1e-4)], "gaussian")
    distortion = scored(model, data, "distortion")["distortion"]
    assert 2 * (distortion - 392 * math.log(2 * math.pi)) == pytest.approx(known, rel=0.01)


@pytest.mark.parametrize(
    ("name", "d", "known", "variance"),
    [
        ("mnist", 20, 306.55, 0.02460), pytest.param("mnist", 8, 154.1, None, marks=pytest.mark.costly),
        ("fashion", 20, 396.70, 0.01919), pytest.param("fashion", 8, 285.4, None, marks=pytest.mark.costly),
    ],
)  # fmt: skip
def test_a_linear_gaussian_vae_is_probabilistic_pca(name: str, d: int, known: float, variance: float | None) -> None:
    """With learned sigma its bound is tight: the test log-likelihood of pPCA, in nats."""
    data = real(name)
    mean, directions, values = pca(name)
    noise = values[d:].mean()
    scale = directions[:, :d] * (values[:d] - noise).sqrt()
    covariance = scale @ scale.T + noise * torch.eye(784, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    assert law.log_prob(pixels(data.test)).mean().item() == pytest.approx(known, abs=0.06)

    rounds = [(4000, 5e-3), (1000, 1e-3), (1000, 2e-4), (700, 5e-5)]
    model = reach(f"vae[hidden=none,latent_dim={d}]", data, rounds, "gaussian[learned=true]")
    elbo = scored(model, data, "elbo")["elbo"]
    assert known - 1.5 < elbo < known + 0.5
    if variance is not None:
        log_sigma = model.likelihood.log_sigma  # type: ignore[union-attr]
        assert math.exp(2 * float(log_sigma.detach())) == pytest.approx(variance, rel=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "entropy"), [("mnist", 2.3012), ("fashion", 2.3026)])
def test_the_label_entropy_of_the_training_split(name: str, entropy: float) -> None:
    share = real(name).train.labels().bincount() / 60_000
    assert -(share * share.log()).sum().item() == pytest.approx(entropy, abs=5e-5)
    model = build("cvae", real(name))
    model.stages()[0].start(real(name).train)  # type: ignore[misc]
    torch.testing.assert_close(model.log_py.exp(), share, atol=1e-4, rtol=0)  # type: ignore[operator]


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.costly), pytest.param(2, marks=pytest.mark.costly)]
)
def test_the_reference_vae_on_mnist(mnist: Data, seed: int) -> None:
    """784-400-20, batch 128, 4,690 steps, all 60,000 images: test -ELBO 105.5 +- .4 nats, for each seed."""
    found = -scored(trained("vae", mnist, 4690, seed=seed), mnist, "elbo")["elbo"]
    assert found == pytest.approx(105.5, abs=0.4)


@pytest.mark.costly
def test_wae_at_8_dimensions_brings_its_codes_to_the_prior(mnist: Data) -> None:
    """Held-out MMD within twice that of N(0, I) against itself."""
    model = trained("wae[latent_dim=8]", mnist, 4690)
    got = scored(model, mnist, "mmd", "mmd_floor")
    assert got["mmd"] < 2 * got["mmd_floor"]


def test_grey_cross_entropy_bounds_binarised_images(mnist: Data, tmp_path: Path) -> None:
    """BCE is linear in its target: on binarised targets with the same z, the same number within error."""
    model = trained("vae", mnist, 300)
    grey = Evaluator(model, mnist, Scoring(), tmp_path).get(LogLikelihood())
    x = to_float(mnist.test.take(torch.arange(10_000)))
    torch.manual_seed(0)
    drawn = []
    evaluator = Evaluator(model, mnist, Scoring(), tmp_path)
    with torch.no_grad():
        for part in evaluator.chunks(10_000, "bound"):
            mu, logvar = model.encode_terms(x[part], torch.full((200,), -1))  # type: ignore[operator]
            z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
            drawn.append(model.log_px(torch.bernoulli(x[part]), z, torch.full((200,), -1)))  # type: ignore[operator]
    gap = (torch.cat(drawn).double() - grey).mean().item()
    assert abs(gap) < 0.4
    assert evaluator.get(Terms()).log_likelihood.mean().item() == pytest.approx(grey.mean().item())
