"""Errors that other libraries have, found by reading their code: each as a test that this one doesn't have it.

Left out, because there is nothing here that could have them:

- pythae 8 (RAE-GP penalises the gradient by the image) and 9 (the two-stage sampler's noise is trained away): neither
  model is here; the learned sigma that 9 comes down to is under `pythae_9`.
- PyTorch-VAE 7, first half (FactorVAE permutes dimensions within a sample): no FactorVAE here. The kit's own, in
  `tests/correct_variants.py`, draws a permutation for each dimension.
- No importance weights over a mini-batch (pythae 12, disentangling-vae 2) are used: what takes their place is under
  `disentangling_vae_2`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from bench.blocks import EMAQuantizer, GaussianVAE, imq, mmd2
from bench.contracts import abilities
from bench.contracts.dataset import Data
from bench.contracts.images import to_float, to_uint8
from bench.contracts.likelihood import Gaussian
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import Scoring, Training
from bench.contracts.variant import VARIANTS, Batch, Loss, Optimizer, Phase, Spec, Stage, Variant
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.evidence import Generated, Terms
from bench.metrics.surgery import information
from bench.metrics.weighing import weighed
from bench.util.errors import NotAvailable
from docs.examples.iwae import IWAE
from tests.conftest import build, scored, trained
from tests.correct_variants import VampPrior


def spec(shape: tuple[int, int, int] = (1, 8, 8), likelihood: str = "bernoulli") -> Spec:
    return Spec(shape, 10, 100, 4, likelihood)


def batch(n: int = 8, shape: tuple[int, int, int] = (1, 8, 8)) -> Batch:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(n) % 10, torch.arange(n), torch.tensor(1.0))


def judge(model: Variant, data: Data, **scoring: int) -> Evaluator:
    return Evaluator(model, data, Scoring(**scoring), Path("nowhere"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vqvae(digits: Data) -> Variant:
    return trained("vqvae", digits, 5).eval()


# pythae


def test_pythae_1_no_term_of_a_vq_loss_grows_with_the_batch(vqvae: Variant) -> None:
    """Their quantiser's losses were sums over the batch, beside a mean."""
    b = batch()
    twice = Batch(b.x.repeat(2, 1, 1, 1), b.y.repeat(2), b.index.repeat(2), b.progress)
    (loss, terms), (double, doubled) = vqvae.loss(b), vqvae.loss(twice)
    torch.testing.assert_close(loss, double)
    torch.testing.assert_close(terms["commit"], doubled["commit"])


def test_pythae_2_unused_codes_stay_where_latents_are() -> None:
    """Their counts started at 0 and their sums didn't: unused codes jumped to +-193."""
    torch.manual_seed(0)
    quantizer = EMAQuantizer(512, 16).train()
    for step in range(20):
        z = torch.randn(1600, 16)
        if step == 0:
            quantizer.start(z)
        quantizer(z, torch.tensor(0))
        assert quantizer.codebook.abs().max() < 6
    fresh = EMAQuantizer(512, 16).train()
    before = fresh.codebook.abs().max()
    fresh(torch.zeros(1600, 16), torch.tensor(0))
    assert fresh.codebook.abs().max() <= before


@pytest.mark.parametrize("n", [1, 3])
def test_pythae_3_a_learned_prior_samples_any_number_and_says_its_rate(vqvae: Variant, digits: Data, n: int) -> None:
    """Their last partial batch raised, one sample among them, and the prior's code length wasn't reported."""
    assert vqvae.sample(torch.zeros(n, dtype=torch.long)).shape == (n, 1, 8, 8)  # type: ignore[operator]
    few = replace(digits, test=digits.test.subset(torch.arange(n)))
    x = to_float(few.test.take(torch.arange(n)))
    with torch.no_grad():
        length = vqvae.prior.code_length(vqvae.codes(x)).sum(1).mean().item()  # type: ignore[operator,union-attr]
    assert scored(vqvae, few, "kl")["kl"] == pytest.approx(length, rel=1e-5)


def test_pythae_4_discrete_codes_are_never_sampled_from_a_gaussian(
    vqvae: Variant, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs may be, and samplers decode with gradients."""
    evaluator = judge(vqvae, digits, samples=10)
    with pytest.raises(NotAvailable, match="discrete"), torch.inference_mode():
        evaluator.get(Generated("gmm"))
    gradients, sample = [], vqvae.sample  # type: ignore[attr-defined]
    monkeypatch.setattr(vqvae, "sample", lambda y: (gradients.append(torch.is_grad_enabled()), sample(y))[1])
    assert len(evaluator.keep((Generated("prior"),))["samples"]) == 10
    assert gradients == [False]


def test_pythae_5_importance_weights_are_normalised_over_draws(digits: Data) -> None:
    """Theirs were, over another axis: hidden where both have one size."""
    model = build("vae", digits).eval()
    b = batch(3)
    torch.manual_seed(0)
    log_w = model.log_weights(b.x, b.y, 7)  # type: ignore[operator]
    assert log_w.shape == (7, 3)
    each = torch.stack([(sum(w.exp() for w in column.double()) / 7).log() for column in log_w.T])  # type: ignore[union-attr]
    torch.testing.assert_close(weighed(log_w).bound, each)


def test_pythae_6_the_loss_of_an_iwae_is_minus_its_bound() -> None:
    """Theirs has the gradient, and another value, by which checkpoints are chosen; ours are not chosen."""
    torch.manual_seed(0)
    model, b = IWAE(spec(), k=5), batch()
    torch.manual_seed(1)
    loss, _ = model.loss(b)
    torch.manual_seed(1)
    assert loss.item() == pytest.approx(-weighed(model.log_weights(b.x, b.y, 5)).bound.mean().item(), rel=1e-5)


class Leaky(Variant):
    """Two players; the second's loss isn't detached from the first's weights."""

    def __init__(self, spec: Spec, detached: bool) -> None:
        super().__init__(spec)
        self.detached = detached
        self.encoder, self.critic = nn.Linear(64, 2), nn.Linear(2, 1)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.encode_loss, (self.encoder,)), Phase(self.critic_loss, (self.critic,)))),)

    def encode_loss(self, batch: Batch) -> Loss:
        return (self.encoder(batch.x.flatten(1)) - 1).square().mean(), {}

    def critic_loss(self, batch: Batch) -> Loss:
        z = self.encoder(batch.x.flatten(1))
        return (self.critic(z.detach() if self.detached else z) - 5).square().mean(), {}


def test_pythae_7_and_disentangling_vae_3_no_player_moves_by_anothers_loss(digits: Data) -> None:
    """Their encoder took the discriminator's gradient too; here a phase moves what it says, whatever its graph."""
    weights = []
    for detached in (True, False):
        torch.manual_seed(0)
        model = Leaky(spec(), detached)
        train(model, digits.train, Training(5, 16), seed=0)
        weights.append(model.encoder.weight)
    assert torch.equal(*weights)


def test_pythae_9_a_learned_sigma_ends_at_the_error_and_not_at_0() -> None:
    """Theirs had no normaliser; the density's gradient vanishes where sigma is the root mean square error."""
    torch.manual_seed(0)
    x, out = torch.rand(50, 1, 8, 8), torch.rand(50, 1, 8, 8)
    p = Gaussian((1, 8, 8), sigma=(x - out).square().mean().sqrt().item(), learned=True)
    (gradient,) = torch.autograd.grad(p.log_prob(x, out).mean(), p.log_sigma)
    assert abs(gradient.item()) < 1e-3
    p.log_sigma.data -= 1
    (gradient,) = torch.autograd.grad(p.log_prob(x, out).mean(), p.log_sigma)
    assert gradient.item() > 100


@pytest.mark.parametrize("k", [1, 7])
def test_pythae_10_k_samples_are_k_samples(digits: Data, k: int) -> None:
    """Theirs used 100 for any number below, dropped remainders, and gave log p for its negative."""

    class Counts(GaussianVAE):
        drawn = 0

        def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
            self.drawn += k * len(x)
            return super().log_weights(x, y, k)

    model = Counts(spec())
    score = judge(model, digits, nll_samples=k).score(METRICS.load("nll"))[0]
    assert model.drawn == k * 360
    assert isinstance(score, Score)
    assert score.value > 0


def test_pythae_11_wae_has_the_weights_of_its_source() -> None:
    """.05 SSE and lambda 10, a ratio of 200; theirs was .03."""
    b = batch(32)
    model = VARIANTS.load("wae")(spec())
    loss, terms = model.loss(b)
    torch.testing.assert_close(loss, 0.05 * terms["sse"] + 10 * terms["mmd"])
    out = model.decode(model.encode(b.x, b.y), b.y)  # type: ignore[operator]
    torch.testing.assert_close(terms["sse"], (out - b.x).square().sum((1, 2, 3)).mean())


def test_pythae_12_images_are_rounded_and_clamped() -> None:
    """Theirs were truncated, half a level too dark, and wrapped around where they left the range."""
    levels = torch.arange(256) / 255
    assert torch.equal(to_uint8(levels.clone()), torch.arange(256, dtype=torch.uint8))
    assert to_uint8(torch.tensor([-0.1, 0.999, 1.1])).tolist() == [0, 255, 255]


# PyTorch-VAE


def test_pytorch_vae_1_what_is_scored_is_what_the_vae_descends() -> None:
    """Their validation weighed the KL 4,000 times as much as their training."""
    torch.manual_seed(0)
    b, vae, beta = batch(), VARIANTS.load("vae")(spec()), VARIANTS.load("beta")(spec())
    beta.load_state_dict(vae.state_dict())
    found = []
    for model in (vae, beta):
        torch.manual_seed(1)
        log_px, rate = model.elbo_terms(b.x, b.y)  # type: ignore[operator]
        found.append(rate.sum(1).mean() - log_px.mean())
    torch.manual_seed(1)
    torch.testing.assert_close(vae.loss(b)[0], found[0])
    assert torch.equal(*found), "at beta = 1 whatever was trained"


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64)])
def test_pytorch_vae_2_no_image_size_changes_the_weight_of_the_kl(shape: tuple[int, int, int]) -> None:
    """Their mean of squares made it 1.5 at 3x64x64 and .1 at 1x28x28."""
    loss, terms = VARIANTS.load("vae")(spec(shape), hidden=(4,)).loss(batch(2, shape))
    by_rec, by_kl = torch.autograd.grad(loss, (terms["rec"], terms["kl"]))
    assert (by_rec.item(), by_kl.item()) == (1, 1)


def test_pytorch_vae_3_the_kl_is_reported_as_it_is(digits: Data) -> None:
    """Theirs was logged as its negative."""
    model = build("vae", digits)
    assert model.loss(batch())[1]["kl"] > 0
    assert scored(model, digits, "kl")["kl"] > 0


def test_pytorch_vae_4_the_best_draw_weighs_most(digits: Data) -> None:
    """Theirs were weighed by their loss: the worst most. d L_K / d log w = softmax(log w)."""
    log_w = torch.tensor([[-90.0], [-95.0], [-99.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad((log_w.logsumexp(0) - math.log(3)).sum(), log_w)
    assert gradient[0] > 0.99
    torch.testing.assert_close(weighed(log_w.detach()).bound.float(), (log_w.logsumexp(0) - math.log(3)).detach())
    torch.manual_seed(0)
    model, b = IWAE(spec(), k=5), batch()
    (theirs,) = torch.autograd.grad(_seeded(lambda: model.loss(b)[0]), [model.encoder.parameters().__next__()])
    log_w = _seeded(lambda: model.log_weights(b.x, b.y, 5))
    by_hand = -(log_w.detach().softmax(0) * log_w).sum(0).mean()
    (ours,) = torch.autograd.grad(by_hand, [model.encoder.parameters().__next__()])
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def _seeded(draw: object) -> Tensor:
    torch.manual_seed(3)
    found: Tensor = draw()  # type: ignore[operator]
    return found


def test_pytorch_vae_5_the_mmd_sums_distances_and_keeps_the_cross_terms_diagonal() -> None:
    """Theirs averaged distances over dimensions, normalised twice, and left out x_i against y_i."""
    x, y = torch.zeros(4, 5), torch.full((4, 5), 2.0)
    kernel = imq(x, y, 5)
    torch.testing.assert_close(
        kernel, sum(10 * s / (10 * s + 20) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)) * torch.ones(4, 4)
    )
    torch.testing.assert_close(mmd2(x, y), 2 * 7 - 2 * kernel[0, 0])
    moved = y.clone()
    moved[0] = 0
    cross = imq(x, moved, 5)
    assert cross.mean() == pytest.approx(((4 * 7 + 12 * kernel[0, 0]) / 16).item(), rel=1e-5)


def test_pytorch_vae_6_densities_of_codes_are_torchs_own() -> None:
    """A parenthesis was misplaced in theirs, and the mixture wasn't what they sampled from."""
    torch.manual_seed(0)
    model, b = VampPrior(spec()), batch()
    mu, logvar = model.mixture()
    z = torch.randn(20, 4)
    each = Independent(Normal(mu, (0.5 * logvar).exp()), 1).log_prob(z[:, None])
    torch.testing.assert_close(model.log_prior(z), each.logsumexp(1) - math.log(10))
    plain = VARIANTS.load("vae")(spec())
    log_w = _seeded(lambda: plain.log_weights(b.x, b.y, 3))  # type: ignore[operator]
    mu, logvar = plain.encode_terms(b.x, b.y)  # type: ignore[operator]
    q = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    z = _seeded(lambda: q.rsample((3,)))
    px = torch.stack([plain.log_px(b.x, draw, b.y) for draw in z])  # type: ignore[operator]
    torch.testing.assert_close(log_w, px + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z), rtol=1e-4, atol=1e-4)


def test_pytorch_vae_7_players_share_no_parameter() -> None:
    """Their first optimiser held the discriminator's parameters too."""
    (stage,) = build_gan().stages()
    players = [{id(p) for module in phase.moves for p in module.parameters()} for phase in stage.phases]
    assert all(players)
    assert not players[0] & players[1]


def build_gan() -> Variant:
    return VARIANTS.load("gan")(spec())


def test_pytorch_vae_8_the_last_steps_still_move_and_a_vqvae_samples(vqvae: Variant, digits: Data) -> None:
    """Their learning rate was 0 after one epoch, and sample() raised."""
    assert Optimizer().schedule == "constant"
    last = [trained("vae", digits, steps).state_dict() for steps in (24, 25)]  # two epochs and more
    assert all(not torch.equal(a, b) for a, b in zip(*(s.values() for s in last), strict=True))
    assert isinstance(vqvae, abilities.Samples)
    assert vqvae.sample(torch.zeros(2, dtype=torch.long)).isfinite().all()


def test_pytorch_vae_9_outputs_have_the_range_and_size_of_the_data(digits: Data) -> None:
    """Theirs were Tanh's, 3x64x64, and the images that were tested on were flipped at random."""
    model = VARIANTS.load("vae")(spec((3, 13, 9)))
    z = 1e4 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    x = model.decode(z, torch.zeros(50, dtype=torch.long))  # type: ignore[operator]
    assert x.shape == (50, 3, 13, 9)
    assert (x.min().item(), x.max().item()) == (0, 1)
    every = torch.arange(len(digits.test))
    assert torch.equal(digits.test.take(every), digits.test.take(every))


# disentangling-vae


def test_disentangling_vae_1_the_bound_is_of_all_test_images(digits: Data) -> None:
    """Theirs returned inside of the loop: the first batch, of training images, over the number of batches."""

    class Ink(Variant):
        def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return -x.flatten(1).sum(1), torch.zeros(len(x))

    with torch.inference_mode():
        terms = judge(Ink(spec()), digits).get(Terms())
    ink = to_float(digits.test.take(torch.arange(360))).flatten(1).sum(1)
    torch.testing.assert_close(terms.log_likelihood, -ink.double())


def test_disentangling_vae_2_a_sample_weighs_its_own_posterior_as_any_other() -> None:
    """Their weights hit a column in place of the diagonal; TC came out at -57 nats, and information above ln N."""
    torch.manual_seed(0)
    mean, std = torch.randn(40, 3).double(), torch.rand(40, 3).double() + 0.1
    z = mean + std * torch.randn(40, 3).double()
    q = Independent(Normal(mean[None], std[None]), 1).log_prob(z[:, None])  # (sample, posterior)
    torch.testing.assert_close(information(z, mean, std), q.diagonal() - q.logsumexp(1) + math.log(40))
    far = 1e3 * torch.arange(40.0).double()[:, None].expand(-1, 3)
    apart = information(far, far, torch.ones(40, 3).double())
    torch.testing.assert_close(apart, torch.full_like(apart, math.log(40)))


@pytest.mark.parametrize("sigma", [1.0, 0.1])
def test_disentangling_vae_4_gaussian_nats_are_nats(sigma: float) -> None:
    """Theirs were 255 SSE: a KL weight of 1/510."""
    b = batch()
    out = torch.zeros_like(b.x)
    sse = b.x.square().flatten(1).sum(1)
    expected = -sse / (2 * sigma**2) - 64 * math.log(sigma * math.sqrt(2 * math.pi))
    torch.testing.assert_close(Gaussian((1, 8, 8), sigma=sigma).log_prob(b.x, out), expected)
