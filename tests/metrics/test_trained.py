"""Is it trained: the generalisation gap, what more steps would still have brought, and what was descended."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.blocks import GaussianVAE
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import Scoring, Training
from bench.contracts.variant import Batch, Loss, Phase, Spec, Stage, Variant
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.evidence import FOLLOWED, BoundTerms, earlier
from bench.metrics import training
from bench.metrics.likelihood import pixel_entropy
from bench.metrics.training import Content, PixelContent
from bench.util.errors import NotAvailable
from bench.util.places import cache_dir
from tests.conftest import build, trained

Kept = dict[str, Tensor]


def judge(model: Variant, data: Data, name: str, kept: Kept | None = None) -> Score | NotAvailable:
    return Evaluator(model, data, Scoring(), cache_dir(), kept=kept).score(METRICS.load(name))[0]


def value(model: Variant, data: Data, name: str, kept: Kept | None = None) -> Score:
    found = judge(model, data, name, kept)
    assert isinstance(found, Score), found
    return found


def terms(elbo: Tensor) -> BoundTerms:
    return BoundTerms(elbo, torch.zeros_like(elbo))


# generalisation


def test_the_gap_of_images_of_equal_entropy_is_the_plain_difference() -> None:
    torch.manual_seed(0)
    seen, unseen = torch.randn(300).double() - 90, 2 * torch.randn(500).double() - 100
    found = training.generalisation_gap(
        seen, terms(unseen), Content(torch.zeros(300, 2).double(), torch.zeros(500, 2).double())
    )
    assert found.value == pytest.approx((seen.mean() - unseen.mean()).item(), abs=1e-9)
    assert found.se == pytest.approx(math.sqrt(1 / 300 + 4 / 500), rel=0.1)
    assert found.n == 300, "the smaller set"


def test_what_images_have_to_describe_is_no_gap() -> None:
    """Test images of 3 more nats of entropy and another residual, and a true gap of half a nat."""
    torch.manual_seed(0)
    entropy, residual = torch.tensor([70.0, 0]).double(), torch.tensor([0, 6.0]).double()
    h = Content(
        *(m + torch.randn(n, 2).double() @ torch.stack([entropy, residual]) for m, n in ((200, 5_000), (203, 10_000)))
    )
    seen, unseen = (-40 - e[:, 0] - 3 * e[:, 1] + 20 * torch.randn(len(e)).double() for e in h)
    found = training.generalisation_gap(seen + 0.5, terms(unseen), h)
    assert found.se == pytest.approx(20 * math.sqrt(1 / 5_000 + 1 / 10_000), rel=0.05)
    assert abs(found.value - 0.5) < 3 * found.se
    assert (seen.mean() + 0.5 - unseen.mean()).item() > 2, "the plain difference is something else"


def test_a_model_that_learns_its_images_by_heart_has_a_gap(digits: Data) -> None:
    few = replace(digits, train=digits.train.subset(torch.arange(60)))
    hearted, fresh = trained("vae", few, 200, lr=3e-3), build("vae", few)
    gap, none = value(hearted, few, "generalisation_gap"), value(fresh, few, "generalisation_gap")
    assert gap.se is not None
    assert none.se is not None
    assert gap.value > 5 * gap.se
    assert abs(none.value) < 3 * none.se
    assert gap.n == 60


def test_the_gap_of_one_test_image_has_no_error(digits: Data) -> None:
    alone = replace(digits, test=digits.test.subset(torch.arange(1)))
    assert value(build("vae", alone), alone, "generalisation_gap").se is None


def test_entropies_are_those_of_the_images_at_these_positions(digits: Data) -> None:
    where = torch.tensor([5, 0, 700])
    assert torch.equal(pixel_entropy(digits.train, where), pixel_entropy(digits.train)[where])


def test_content_is_entropy_and_what_components_of_other_images_leave(digits: Data, tmp_path: Path) -> None:
    """Images in a plane of 20 dimensions leave nothing, on whichever side; the rest is their distance from it."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(20, 64, generator=generator)
    mixed = torch.rand(16_000, 20, generator=generator) @ base
    pixels = (mixed / mixed.max() * 255).round().to(torch.uint8).view(-1, 1, 8, 8)
    pixels[-500:] = 255 - 255 * torch.randint(2, (500, 1, 8, 8), generator=generator, dtype=torch.uint8)
    train, test = Images(pixels[:15_000]), Images(pixels[15_000:])
    model = build("vae", digits)
    content = Evaluator(model, replace(digits, train=train, test=test), Scoring(), tmp_path).get(PixelContent())
    assert (content.train.shape, content.test.shape) == ((5_000, 2), (1_000, 2))
    assert torch.equal(content.test[:, 0], pixel_entropy(test))
    rounding = 64 / 12 / 255**2
    assert content.train[:, 1].mean().item() == pytest.approx(44 / 64 * rounding, rel=0.1)
    assert content.test[:500, 1].mean().item() == pytest.approx(44 / 64 * rounding, rel=0.1)
    assert content.test[500:, 1].min() > 1
    few = replace(digits, train=train.subset(torch.arange(9_000)), test=test)
    assert Evaluator(model, few, Scoring(), tmp_path).get(PixelContent()).train.shape == (5_000, 1)


def test_components_are_the_principal_ones() -> None:
    """Of a spectrum without a gap, against the eigenvectors of the covariance: the same plane."""
    x = torch.randn(3_000, 100, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.1, 100) + 5
    mean, components = training._principal(x)
    exact = torch.linalg.eigh(torch.cov(x.T)).eigenvectors[:, -20:]
    torch.testing.assert_close(mean, x.mean(0))
    assert torch.linalg.svdvals(components.T @ exact).min() > 0.99


# the end of training


def test_still_falling_is_paired_and_flagged_above_a_third_of_a_nat() -> None:
    torch.manual_seed(0)
    before = 50 * torch.randn(400).double()
    for lost, warned in ((0.2, False), (0.5, True), (-1.0, False)):
        found = training.still_falling(before + lost + 0.1 * torch.randn(400).double(), before)
        assert found.value == pytest.approx(lost, abs=0.02)
        assert found.se == pytest.approx(0.1 / 20, rel=0.15)
        assert (found.n, [n.warns for n in found.notes]) == (400, [True] if warned else [])


def test_an_unchanged_model_has_lost_nothing(digits: Data) -> None:
    """The same images under the same noise: the difference is exactly 0."""
    model = build("vae", digits)
    with torch.inference_mode():
        bound = Evaluator(model, digits, Scoring(), cache_dir()).get(FOLLOWED)
    found = value(model, digits, "still_falling", {earlier(digits.test): bound})
    assert (found.value, found.se) == (0, 0)
    train(model, digits.train, Training(60), seed=0)
    found = value(model, digits, "still_falling", {earlier(digits.test): bound})
    assert [(n.kind, n.warns) for n in found.notes] == [("still_falling", True)]


def test_a_bound_that_was_not_followed_on_these_images_says_so(digits: Data) -> None:
    other = earlier(digits.train)
    for kept in (None, {other: torch.zeros(360)}):
        found = judge(build("vae", digits), digits, "still_falling", kept)
        assert isinstance(found, NotAvailable)
        assert "wasn't followed" in found.reason
    found = judge(build("ae", digits), digits, "still_falling")
    assert isinstance(found, NotAvailable)
    assert "deterministic" in found.reason


# what was descended


class Capacity(GaussianVAE):
    """Burgess et al. 2018: gamma |KL - C|."""

    def __init__(self, spec: Spec, *, capacity: float) -> None:
        super().__init__(spec)
        self.capacity = capacity

    def weigh(self, kl: Tensor) -> Tensor:
        return 30 * (kl - self.capacity).abs()


class MeanSquares(GaussianVAE):
    """Scales its reconstruction by a hundredth, and not its KL."""

    def loss(self, batch: Batch) -> Loss:
        _, reported = super().loss(batch)
        return 0.01 * reported["rec"] + 0.5 * reported["kl"], reported


class Detached(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        loss, reported = super().loss(batch)
        return loss, {name: term.detach() for name, term in reported.items()}


class Beside(GaussianVAE):
    """Reports a KL, and descends another one."""

    def loss(self, batch: Batch) -> Loss:
        loss, reported = super().loss(batch)
        return loss, {**reported, "kl": self.encode_terms(batch.x, batch.y)[0].square().mean()}


class OnlyTheScale(GaussianVAE):
    """Its one phase on the bound moves the likelihood's sigma, which the KL doesn't depend on."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.rec, (self.encoder, self.decoder)), Phase(self.loss, (self.likelihood,)))),)

    def rec(self, batch: Batch) -> Loss:
        loss = -self.log_px(batch.x, self.encode(batch.x, batch.y), batch.y).mean()
        return loss, {"rec": loss}


def spec_of(data: Data, likelihood: str = "bernoulli") -> Spec:
    return Spec(data.train.shape, data.classes, len(data.train), 4, likelihood)


@pytest.mark.parametrize(
    ("selector", "weight"),
    [
        ("vae", 1), ("conv", 1), ("cvae", 1), ("beta", 4), ("beta[beta=0.25]", 0.25), ("beta[beta=0]", 0),
        ("beta[beta=3,warmup=0.2]", 3), ("vae[warmup=0.25]", 1), ("cvae[beta=2]", 2),
    ],
)  # fmt: skip
def test_the_weight_of_the_kl_is_the_one_at_the_end(selector: str, weight: float, digits: Data) -> None:
    assert value(build(selector, digits), digits, "beta_eff").value == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian[sigma=0.1]", "logistic", "gaussian[learned=true]"])
def test_no_likelihood_changes_the_weight_of_a_vae(likelihood: str, digits: Data) -> None:
    assert value(build("vae", digits, likelihood=likelihood), digits, "beta_eff").value == pytest.approx(1)


def test_the_weight_is_what_is_descended_and_not_what_is_declared(digits: Data) -> None:
    assert value(MeanSquares(spec_of(digits)), digits, "beta_eff").value == pytest.approx(50)
    assert value(Capacity(spec_of(digits), capacity=0.0), digits, "beta_eff").value == pytest.approx(30)
    assert value(Capacity(spec_of(digits), capacity=500.0), digits, "beta_eff").value == pytest.approx(-30)


@pytest.mark.parametrize("selector", ["ae", "wae", "gan", "vqvae"])
def test_objectives_without_a_kl_have_no_weight(selector: str, digits: Data) -> None:
    found = judge(build(selector, digits), digits, "beta_eff")
    assert isinstance(found, NotAvailable)
    assert "`rec` and `kl`" in found.reason
    assert not found.retry


@pytest.mark.parametrize("cls", [Detached, Beside, OnlyTheScale])
def test_terms_that_the_loss_is_not_made_of_have_no_weight(cls: type[GaussianVAE], digits: Data) -> None:
    found = judge(cls(spec_of(digits, "gaussian[learned=true]")), digits, "beta_eff")
    assert isinstance(found, NotAvailable)
    assert "`rec` and `kl`" in found.reason


class Normalised(GaussianVAE):
    """With buffers that its loss changes."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.norm = nn.BatchNorm2d(spec.shape[0])
        self.register_buffer("calls", torch.zeros(()))

    def loss(self, batch: Batch) -> Loss:
        self.calls += 1
        return super().loss(batch._replace(x=self.norm(batch.x).sigmoid()))


def test_the_model_is_left_as_it_was(digits: Data) -> None:
    model = Normalised(spec_of(digits)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    assert value(model, digits, "beta_eff").value == pytest.approx(1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_made_in_inference_mode_can_be_asked(digits: Data) -> None:
    with torch.inference_mode():
        model = build("beta", digits)
    assert value(model, digits, "beta_eff").value == pytest.approx(4)


def test_the_weight_needs_no_more_than_one_training_image(digits: Data) -> None:
    alone = replace(digits, train=digits.train.subset(torch.arange(1)))
    found: Any = value(build("beta", alone), alone, "beta_eff")
    assert (found.value, found.n) == (pytest.approx(4), 1)
