"""Sanity rows: real images, the mean image, probabilistic PCA; fitted, not trained, and held against known answers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from bench.variants import ppca
from bench.variants.mean_image import MeanImage
from bench.variants.ppca import PPCA
from bench.variants.real import Real
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from bench.contracts import abilities
from bench.contracts.abilities import why_not
from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_float
from bench.contracts.protocol import RunRequest, Scoring, Training
from bench.contracts.variant import Spec
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.evidence import Generated, Terms
from bench.running import runner
from bench.running.grid import sanity
from bench.running.planning import estimate, plan
from bench.testing import check
from bench.util.errors import NotAvailable, Unsuitable
from tests.conftest import Bench, real, scored, trained

LEARNED = "gaussian[learned=true]"
split = lru_cache(real)


def fitted(model: Any, images: Images, seed: int = 0) -> Any:
    train(model, images, Training(100), seed=seed)
    return model


def pixels(images: Images) -> torch.Tensor:
    """(N, C, H, W) in [0, 1]."""
    return to_float(images.take(torch.arange(len(images))))


def spec(data: Data, likelihood: str = "bernoulli", latent_dim: int = 8) -> Spec:
    return Spec(data.train.shape, data.classes, len(data.train), latent_dim, likelihood)


def flat(*levels: int, shape: tuple[int, int, int] = (1, 6, 6)) -> Images:
    """Images of one grey level each."""
    return Images(torch.stack([torch.full(shape, level, dtype=torch.uint8) for level in levels]))


# the mean image


@pytest.mark.parametrize(("name", "known"), [("mnist", 205.81), ("fashion", 385.02)])
def test_the_mean_image_is_where_a_collapsed_vae_ends(name: str, known: float) -> None:
    data = split(name)
    got = scored(trained("mean", data, 4690), data, "elbo", "bce", "kl")
    assert got["bce"] == pytest.approx(known, abs=0.006)
    assert got["elbo"] == -got["bce"]
    assert got["kl"] == 0


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "continuous_bernoulli", "gaussian[sigma=0.3]", LEARNED, "logistic"]
)
def test_under_every_likelihood_it_is_the_mean(likelihood: str, digits: Data) -> None:
    model = fitted(MeanImage(spec(digits, likelihood)), digits.train)
    x, mean = pixels(digits.train), pixels(digits.train).double().mean(0)
    within = 0.011 if likelihood == "continuous_bernoulli" else 1e-3  # whose mean is 1 / 100 at the limit of -100
    assert torch.allclose(model.sample(torch.zeros(3).long()), mean.float().expand(3, -1, -1, -1), atol=within)
    log_px, rate = model.elbo_terms(x, torch.zeros(len(x)))
    assert torch.equal(model.log_weights(x, torch.zeros(len(x)), 5), log_px.expand(5, -1))
    assert not rate.any()


def test_its_learned_sigma_is_the_deviation_from_the_mean(digits: Data) -> None:
    model = fitted(MeanImage(spec(digits, LEARNED)), digits.train)
    deviation = (pixels(digits.train) - pixels(digits.train).mean(0)).square().mean().sqrt()
    assert float(model.likelihood.log_sigma.exp()) == pytest.approx(float(deviation), rel=0.01)  # of 1,000 of 1,437


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic", LEARNED])
@pytest.mark.parametrize("level", [0, 255])
def test_no_pixel_is_impossible(level: int, likelihood: str) -> None:
    model = fitted(MeanImage(Spec((1, 6, 6), 0, 3, 2, likelihood)), flat(level, level, level))
    bound, _ = model.elbo_terms(to_float(torch.full((1, 1, 6, 6), 255 - level)), torch.zeros(1))
    assert bool(bound.isfinite().all())


# probabilistic PCA


@pytest.fixture(scope="module")
def moments() -> object:
    """The moments of a split, computed once for all sizes of the code."""
    return lru_cache(ppca.moments)


@pytest.mark.parametrize(
    ("name", "d", "known", "variance"),
    [
        ("mnist", 20, 306.55, 0.02460), ("mnist", 8, 154.10, None),
        ("fashion", 20, 396.70, 0.01919), ("fashion", 8, 285.37, None),
    ],
)  # fmt: skip
def test_ppca_reaches_its_known_likelihood(
    name: str, d: int, known: float, variance: float | None, moments: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppca, "moments", moments)
    data = split(name)
    model = fitted(PPCA(spec(data, LEARNED, d)), data.train)
    assert scored(model, data, "elbo")["elbo"] == pytest.approx(known, abs=0.06)
    if variance is not None:
        assert float(model.variance) == pytest.approx(variance, abs=6e-6)


def test_ppca_is_scikit_learns(digits: Data) -> None:
    from sklearn.decomposition import PCA

    x, test = pixels(digits.train).flatten(1).double().numpy(), pixels(digits.test)
    reference = PCA(8, svd_solver="full").fit(x)
    reference.noise_variance_ *= (len(x) - 1) / len(x)  # the maximum of the likelihood divides by N
    reference.explained_variance_ *= (len(x) - 1) / len(x)
    model = fitted(PPCA(spec(digits, LEARNED)), digits.train)
    log_px, rate = model.elbo_terms(test, test)
    own = (log_px - rate.sum(1)).double().numpy()
    assert own == pytest.approx(reference.score_samples(test.flatten(1).double().numpy()), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("likelihood", [LEARNED, "gaussian[sigma=0.2]", "gaussian[sigma=1]"])
def test_its_bound_is_the_log_likelihood_of_the_law_that_it_samples_from(likelihood: str, digits: Data) -> None:
    model = fitted(PPCA(spec(digits, likelihood)), digits.train)
    x, y = pixels(digits.test)[:50], torch.zeros(50).long()
    w, noise = model.components.double(), model.variance.double()
    law = MultivariateNormal(model.mean.double(), w.T @ w + noise * torch.eye(64, dtype=torch.float64))
    log_px, rate = model.elbo_terms(x, y)
    known = law.log_prob(x.flatten(1).double())
    assert torch.allclose((log_px - rate.sum(1)).double(), known, rtol=1e-4, atol=2e-3)
    assert torch.allclose(model.log_weights(x, y, 3).double(), known.expand(3, -1), rtol=1e-4, atol=2e-3)

    prior = Independent(Normal(torch.zeros(50, 8), torch.ones(50, 8)), 1)
    q = model.posterior(x, y)
    assert torch.allclose(kl_divergence(q, prior), rate.sum(1), rtol=1e-4)
    assert torch.equal(q.mean, model.encode(x, y))
    z = q.sample((2_000,))
    drawn = Normal(model.mean + z @ model.components, model.variance.sqrt()).log_prob(x.flatten(1)).sum(-1).mean(0)
    assert torch.allclose(drawn, log_px, rtol=0.02, atol=1.0), "E_q[log p(x|z)] in closed form"


def test_a_fixed_sigma_is_fitted_as_such(digits: Data) -> None:
    """Directions of less variance than the noise are left out: sigma = 1 leaves none, whose law is the mean's."""
    model = fitted(PPCA(spec(digits, "gaussian[sigma=1]")), digits.train)
    mean = fitted(MeanImage(spec(digits, "gaussian[sigma=1]")), digits.train)
    x = pixels(digits.test)
    log_px, rate = model.elbo_terms(x, x)
    total = pixels(digits.train).flatten(1).var(0).sum()
    assert total < 64, "digits vary less than unit noise in every direction but few"
    assert (rate.mean(0) < 1e-6).sum() >= 5
    assert log_px.mean() - rate.sum(1).mean() >= mean.elbo_terms(x, x)[0].mean() - 1e-3


def test_under_another_likelihood_it_has_no_bound_and_says_why(digits: Data) -> None:
    model = fitted(PPCA(spec(digits)), digits.train)
    for ability in (abilities.Bound, abilities.Weighs, abilities.Reconstructs):
        assert "bernoulli" in str(why_not(model, ability))
    for ability in (abilities.Samples, abilities.Encodes, abilities.Decodes, abilities.HasPosterior):
        assert why_not(model, ability) is None
    assert why_not(PPCA(spec(digits, LEARNED)), abilities.Bound) is None
    with pytest.raises(NotAvailable, match="a Gaussian model"):
        Evaluator(model, digits, Scoring(), Path()).get(Terms())


def test_its_codes_are_white_and_its_samples_have_the_data_s_moments(digits: Data) -> None:
    model = fitted(PPCA(spec(digits, LEARNED)), digits.train)
    x = pixels(digits.train)
    torch.manual_seed(0)
    codes = model.posterior(x, x).sample()
    assert torch.allclose(torch.cov(codes.T), torch.eye(8), atol=0.15)
    samples = model.sample(torch.zeros(5_000).long())
    assert torch.allclose(samples.mean(0), x.mean(0), atol=0.06)


@pytest.mark.parametrize("images", [flat(0, 0, 0, 0), flat(7, 7), flat(0, 255, 0, 255), flat(3)], ids=len)
def test_constant_images_leave_it_finite(images: Images) -> None:
    model = fitted(PPCA(Spec((1, 6, 6), 0, len(images), 2, LEARNED)), images)
    log_px, rate = model.elbo_terms(pixels(images), torch.zeros(len(images)))
    assert bool(log_px.isfinite().all())
    assert bool((rate >= 0).all())


@pytest.mark.parametrize("wrong", [Spec((1, 4, 4), 0, 9, 16), Spec((3, 64, 64), 0, 9, 20, "logistic")])
def test_what_it_cannot_decompose_is_skipped(wrong: Spec) -> None:
    with pytest.raises(Unsuitable):
        PPCA(wrong)


# real images


def test_real_images_are_training_images_each_once(digits: Data) -> None:
    model = fitted(Real(spec(digits)), digits.train)
    known = {image.numpy().tobytes() for image in digits.train.take(torch.arange(len(digits.train)))}
    evaluator = Evaluator(model, digits, Scoring(), Path())
    found = evaluator.get(Generated("prior"))
    assert len(found) == len(digits.train), "fewer than 10,000: all of them"
    assert {image.numpy().tobytes() for image in found} == known
    some = Evaluator(model, digits, Scoring(samples=100), Path()).get(Generated("prior"))
    assert torch.equal(some, found[:100])
    other = fitted(Real(spec(digits)), digits.train, seed=1)
    assert not torch.equal(other.held, model.held), "the seed draws them"


def test_no_model_comes_closer_than_real_images(digits: Data) -> None:
    found = {name: scored(trained(name, digits, 1), digits, "fd", "sharpness") for name in ("real", "ppca", "mean")}
    assert 0 <= found["real"]["fd"] < 2 < found["ppca"]["fd"] < found["mean"]["fd"]
    assert found["real"]["sharpness"] == pytest.approx(1, abs=0.05)
    assert found["mean"]["sharpness"] < 0.5


# in a run


def test_they_join_a_run_with_its_first_seed_alone(tmp_path: Path) -> None:
    request = RunRequest(
        ("gan",), ("digits",), seeds=(3, 4), steps=2, metrics=("elbo", "sharpness"), baseline=False, device="cpu",
        threads=1, in_process=True, out=str(tmp_path / "run"),
    )  # fmt: skip
    assert sanity() == ("mean", "ppca", "real")
    rows = runner.run(request)
    assert [(row.label, row.seed, row.sanity) for row in rows] == [
        ("gan", 3, False), ("gan", 4, False), ("mean", 3, True), ("ppca", 3, True), ("real", 3, True),
    ]  # fmt: skip
    assert {row.status for row in rows} == {"ok"}
    fit = rows[2:]
    assert [row.steps for row in fit] == [(0,)] * 3
    assert all("images_per_second" not in row.costs and row.costs["train_seconds"] < 2 for row in fit)
    scores = {row.label: row.scores for row in rows}
    assert scores["mean"]["elbo"].value > -30  # type: ignore[union-attr]
    assert "a Gaussian model" in str(scores["ppca"]["elbo"])
    assert "no model" in str(scores["real"]["elbo"])
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert table["label"].tolist() == ["gan", "gan", "mean", "ppca", "real"]
    markdown = (tmp_path / "run" / "table.md").read_text()
    assert "for reference (not ranked)" in markdown


def test_without_sanity_none_joins_and_none_is_waited_for(tmp_path: Path) -> None:
    request = RunRequest(("vae",), ("digits",), baseline=False, out=str(tmp_path / "run"))
    assert [c.row.label for c in plan(RunRequest(**{**vars(request), "sanity": False})).cells] == ["vae"]
    assert estimate(plan(RunRequest(**{**vars(request), "variants": ("mean", "real", "ppca")}))) == {}


def test_they_are_listed(bench: Bench) -> None:
    _, out, _ = bench("list")
    assert all(name in out for name in sanity())


@pytest.mark.parametrize("name", ["mean", "ppca", "real"])
def test_the_kit_knows_what_takes_no_step(name: str) -> None:
    report = check(name)
    assert report.ok, [outcome for outcome in report.outcomes if outcome.status == "failed"]
    passed = {outcome.check for outcome in report.outcomes if outcome.status == "passed"}
    assert {"stages_are_well_formed", "abilities_have_their_shapes", "saved_weights_are_all"} <= passed
