"""Every registered variant: shapes, meaning of its losses, who moves whom; and what each one's paper says of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Batch, Phase, Spec, Unsuitable, Variant
from bench.blocks import CausalTransformer, ConvDecoder, ConvEncoder, EMAQuantizer, GaussianVAE, MLPEncoder, gaussian_kl
from bench.contracts import abilities
from bench.contracts.dataset import Data
from bench.contracts.images import to_float
from bench.contracts.protocol import Training
from bench.contracts.variant import VARIANTS
from bench.engine.trainer import train
from tests.conftest import build, scored, trained

ALL = sorted(VARIANTS)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 13, 9), (3, 31, 17)]


def spec(shape: tuple[int, int, int], classes: int = 3) -> Spec:
    return Spec(shape, classes, 100, 6, "bernoulli" if shape[0] == 1 else "logistic")


def batch(shape: tuple[int, int, int], n: int = 6, classes: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *shape), generator=generator) / 255
    return Batch(x, torch.arange(n) % classes, torch.arange(n), torch.tensor(0.5))


def phases(model: Variant) -> list[Phase]:
    return [phase for stage in model.stages() for phase in stage.phases]


def model_of(name: str, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3) -> Variant:
    torch.manual_seed(0)
    return VARIANTS.load(name)(spec(shape, classes))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_any_image_shape(name: str, shape: tuple[int, int, int]) -> None:
    if name == "ppca" and math.prod(shape) > 4_096:  # it decomposes a covariance of all pixels
        with pytest.raises(Unsuitable, match="takes too long"):
            model_of(name, shape)
        return
    model = model_of(name, shape)
    b = batch(shape, n=2)
    for phase in phases(model):
        loss, terms = phase.loss(b)
        assert loss.ndim == 0
        assert loss.isfinite()
        assert all(t.ndim == 0 for t in terms.values())
    model.eval()
    if isinstance(model, abilities.Samples):
        x = model.sample(b.y)
        assert x.shape == b.x.shape
        assert 0 <= x.min() <= x.max() <= 1
    if isinstance(model, abilities.Encodes) and isinstance(model, abilities.Decodes):
        z = model.encode(b.x, b.y)
        assert z.ndim == 2
        assert model.decode(z, b.y).shape == b.x.shape
    if isinstance(model, abilities.Bound) and abilities.why_not(model, abilities.Bound) is None:
        log_px, rate = model.elbo_terms(b.x, torch.full_like(b.y, -1))
        assert log_px.shape == (2,)
        assert len(rate) == 2
        assert (rate.reshape(2, -1).sum(1) >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_every_moved_parameter_gets_a_gradient_and_no_other_player_does(name: str) -> None:
    model = model_of(name)
    for phase in phases(model):
        movers = [p for m in phase.moves or (model,) for p in m.parameters() if p.requires_grad]
        grads = torch.autograd.grad(phase.loss(batch((1, 8, 8)))[0], movers, allow_unused=True)
        assert all(g is not None and g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", ALL)
def test_no_phase_moves_another_player(name: str, digits: Data) -> None:
    """Through the trainer: with one phase alone, exactly what it moves has changed."""
    for number in range(len(phases(build(name, digits)))):
        model = build(name, digits)
        stages = model.stages()
        places = [(s, p) for s, stage in enumerate(stages) for p in range(len(stage.phases))]
        s, p = places[number]
        phase = stages[s].phases[p]
        only = (replace(stages[s], phases=(phase,), start=None),)
        model.stages = lambda only=only: only  # type: ignore[method-assign,misc]
        before = {k: v.clone() for k, v in model.named_parameters()}
        train(model, digits.train, Training(2, 16), seed=0)
        movers = {id(q) for m in phase.moves or (model,) for q in m.parameters() if q.requires_grad}
        for key, q in model.named_parameters():
            assert (id(q) in movers) == (not torch.equal(before[key], q)), key


@pytest.mark.parametrize("name", ALL)
def test_all_is_trained_but_what_no_loss_depends_on(name: str) -> None:
    frozen = [key for key, p in model_of(name).named_parameters() if not p.requires_grad]
    assert frozen == (["critic.dense.2.bias"] if name == "gan" else [])


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("wae", "gan")])  # mmd is the batch's, R1 is of a part
def test_no_loss_changes_its_meaning_with_the_batch_size(name: str) -> None:
    """The mean of the losses on single images is the loss on the batch (noise off)."""
    model = model_of(name).eval()
    b = batch((1, 8, 8), n=6)
    with Noiseless():
        for phase in phases(model):
            whole, terms = phase.loss(b)
            parts = [
                phase.loss(Batch(b.x[i : i + 1], b.y[i : i + 1], b.index[i : i + 1], b.progress)) for i in range(6)
            ]
            torch.testing.assert_close(torch.stack([v for v, _ in parts]).mean(), whole, rtol=1e-4, atol=1e-5)
            for key, value in terms.items():
                torch.testing.assert_close(torch.stack([t[key] for _, t in parts]).mean(), value, rtol=1e-4, atol=1e-5)


class Noiseless(torch.overrides.TorchFunctionMode):
    """Every draw of Gaussian noise is .3: the same for each image, whatever the batch."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        return torch.full_like(out, 0.3) if func in (torch.randn, torch.randn_like) else out


def test_the_mmd_of_wae_is_unbiased_at_any_batch_size(digits: Data) -> None:
    """Its expectation doesn't depend on B; a biased one would rise as 1/B."""
    model = trained("wae", digits, 20)
    x = digits.test.take(torch.arange(360)) / 255
    found = {}
    for size in (12, 90):
        torch.manual_seed(0)
        draws = []
        for _ in range(20):
            for part in torch.randperm(360).split(size):
                b = Batch(x[part], torch.zeros(len(part), dtype=torch.long), part, torch.tensor(0.0))
                with torch.no_grad():
                    draws.append(model.loss(b)[1]["mmd"])
        found[size] = torch.stack(draws)
    a, b = found[12], found[90]
    error = (a.var() / len(a) + b.var() / len(b)).sqrt()
    assert abs(a.mean() - b.mean()) < 4 * error
    assert a.mean() > 10 * error  # the test could tell: a bias of 1/B would be seen


@pytest.mark.parametrize("name", ["vae", "beta", "cvae", "conv"])
def test_warm_up_reaches_full_weight_by_its_share(name: str) -> None:
    plain, ramped = (VARIANTS.load(name)(spec((1, 8, 8)), warmup=w).eval() for w in (0.0, 0.2))
    ramped.load_state_dict(plain.state_dict())
    b = batch((1, 8, 8))
    with Noiseless():
        for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.9, 1.0)):
            b = b._replace(progress=torch.tensor(progress))
            (full, terms), (part, _) = plain.loss(b), ramped.loss(b)
            weight = getattr(plain, "beta", 1.0) * share
            torch.testing.assert_close(part, terms["rec"] + weight * terms["kl"])
            if share == 1.0:
                torch.testing.assert_close(part, full)


def test_beta_1_is_vae_to_the_last_bit(digits: Data) -> None:
    vae, beta = trained("vae", digits, 30), trained("beta[beta=1]", digits, 30)
    for (key, a), (other, b) in zip(vae.state_dict().items(), beta.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(a, b)


def test_the_kl_against_quadrature() -> None:
    """KL(N(.7, .5^2) || N(0, 1)) by a Riemann sum."""
    t = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    q = torch.distributions.Normal(0.7, 0.5).log_prob(t)
    p = torch.distributions.Normal(0.0, 1.0).log_prob(t)
    integral = ((q.exp() * (q - p)).sum() * (t[1] - t[0])).item()
    assert gaussian_kl(torch.tensor(0.7), torch.tensor(math.log(0.25))).item() == pytest.approx(integral, abs=1e-6)


def test_log_weights_average_to_the_elbo_and_bound_it(digits: Data) -> None:
    model = trained("vae", digits, 100)
    assert isinstance(model, abilities.Weighs)
    assert isinstance(model, abilities.Bound)
    x, y = digits.test.take(torch.arange(50)) / 255, torch.full((50,), -1)
    with torch.no_grad():
        log_w = model.log_weights(x, y, 500)
        log_px, rate = model.elbo_terms(x.repeat(100, 1, 1, 1), y.repeat(100))
    elbo = (log_px - rate.sum(1)).mean()
    assert log_w.mean().item() == pytest.approx(elbo.item(), abs=0.15)
    assert log_w.logsumexp(0).sub(math.log(500)).mean() > log_w.mean()


def test_a_dataset_without_labels_is_unsuitable_for_cvae() -> None:
    with pytest.raises(Unsuitable, match="labels"):
        model_of("cvae", classes=0)


def test_the_elbo_of_cvae_is_the_logsumexp_over_classes(digits: Data) -> None:
    """Against the formula itself: log sum_y p(y) exp ELBO(x|y), each ELBO(x|y) by many draws."""
    model = trained("cvae", digits, 300)
    x = digits.test.take(torch.arange(24)) / 255
    frequency = torch.bincount(digits.train.labels(), minlength=10) + 1
    log_py = (frequency / frequency.sum()).log()
    with torch.no_grad():
        terms = []
        for y in range(10):
            log_px, rate = model.conditional_elbo_terms(x.repeat(400, 1, 1, 1), torch.full((9600,), y))  # type: ignore[operator]
            terms.append((log_px - rate.sum(1)).view(400, 24).mean(0) + log_py[y])
        exact = torch.stack(terms).logsumexp(0)
        log_px, rate = model.elbo_terms(x.repeat(400, 1, 1, 1), torch.full((9600,), -1))  # type: ignore[operator]
        ours = (log_px - rate).view(400, 24).mean(0)
    assert (ours - exact).mean().item() == pytest.approx(0, abs=0.08)
    assert (ours <= exact + 0.3).all()


def test_labels_that_are_ruled_out_cost_cvae_no_decoding(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of log p(x) is that of all labels, and what isn't a number stays none."""
    model = trained("cvae", digits, 300)
    x, y, k = digits.test.take(torch.arange(100)) / 255, torch.full((100,), -1), 300
    decoded: list[int] = []
    decode = GaussianVAE.log_weights
    with torch.no_grad():
        log_py = model.log_py[:, None].expand(-1, 100)  # type: ignore[index]
        every = torch.stack([decode(model, x, torch.full((100,), c), k) for c in range(10)])  # type: ignore[arg-type]
        exact = (log_py[:, None] + every).logsumexp(0).logsumexp(0) - math.log(k)

        def counted(self: GaussianVAE, x: Tensor, y: Tensor, k: int) -> Tensor:
            decoded.append(len(x))
            return decode(self, x, y, k)

        monkeypatch.setattr(GaussianVAE, "log_weights", counted)
        ours = model.log_weights(x, y, k).logsumexp(0) - math.log(k)  # type: ignore[operator]
        likely = model.at_mean(x, log_py).likely  # type: ignore[operator]
        assert sum(decoded) == likely.sum() < 800
        assert (ours - exact).mean().item() == pytest.approx(0, abs=0.05)

        decoded.clear()
        model.log_weights(x, torch.full((100,), 3), k)  # type: ignore[operator]
        assert decoded == [100], "a label that is given rules out the others"

        log_px, rate = model.elbo_terms(x * math.nan, y)  # type: ignore[operator]
        assert (log_px - rate).isnan().all()
        assert model.log_weights(x * math.nan, y, 2).isnan().all()  # type: ignore[operator]


def test_no_test_label_reaches_the_elbo_of_cvae(digits: Data) -> None:
    model = trained("cvae", digits, 20)
    shuffled = replace(digits, test=digits.test.subset(torch.arange(360)))
    shuffled.test._labels = shuffled.test._labels[torch.randperm(360)]  # type: ignore[index]
    assert scored(model, digits, "elbo") == scored(model, shuffled, "elbo")
    assert scored(model, digits, "elbo_given_y") != scored(model, shuffled, "elbo_given_y")


def test_the_label_enters_encoder_and_decoder_of_cvae() -> None:
    model = model_of("cvae").eval()
    b = batch((1, 8, 8))
    other = (b.y + 1) % 3
    assert not torch.equal(model.encode(b.x, b.y), model.encode(b.x, other))  # type: ignore[operator]
    z = torch.zeros(6, 6)
    assert not torch.equal(model.decode(z, b.y), model.decode(z, other))  # type: ignore[operator]


class Squared(nn.Linear):
    """What it makes of an image and of a label doesn't add up."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


class Dimmed(MLPEncoder):
    """Inherits `each`, which knows nothing of its `forward`."""

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return super().forward(0.5 * x, c)


@pytest.mark.parametrize(
    "networks", ["", "[hidden=none]", "[hidden=8-6]", "[backbone=conv]", "dimmed", "wrapped", "own"]
)
def test_every_label_at_once_is_each_label_in_turn(networks: str, digits: Data) -> None:
    model = build("cvae" if networks.isalpha() else f"cvae{networks}", digits)
    assert isinstance(model, GaussianVAE)
    if networks == "dimmed":
        model.encoder.__class__ = Dimmed
    if networks == "wrapped":
        model.encoder.layers[0].__class__ = Squared  # type: ignore[index,union-attr]
    if networks == "own":
        terms = GaussianVAE.encode_terms
        own = {"encode_terms": lambda self, x, y: tuple(v.sin() for v in terms(self, x, y))}
        model.__class__ = type("Own", (type(model),), own)
    x, labels = digits.test.take(torch.arange(6)) / 255, torch.arange(10)
    with torch.no_grad():
        together = model.encode_each(x, labels)  # type: ignore[operator]
        in_turn = [model.encode_terms(x, y.expand(6)) for y in labels]
    for values, each in zip(together, zip(*in_turn, strict=True), strict=True):
        assert values.shape == (10, 6, model.latent_dim)
        torch.testing.assert_close(values, torch.stack(each))


def test_the_gan_s_generator_is_as_large_as_conv_s_decoder_and_its_critic_half_as_wide_as_the_encoder() -> None:
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    for shape in SHAPES[:4]:
        gan, conv = model_of("gan", shape), model_of("conv", shape)
        assert isinstance(gan.generator, nn.Module)
        assert isinstance(conv.decoder, nn.Module)
        assert isinstance(gan.critic, nn.Module)
        assert isinstance(conv.encoder, nn.Module)
        assert size(gan.generator) == pytest.approx(size(conv.decoder), rel=0.10)
        halved, whole = (
            [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (gan.critic, conv.encoder)
        )
        assert [2 * channels for channels in halved] == whole


class Bowl(nn.Module):
    """A critic of known slope: D(x) = a |x|^2 / 2, dD/dx = a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().flatten(1).sum(1, keepdim=True) / 2


class Always(nn.Module):
    """A generator of the same raw outputs, whatever the code."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, _: Tensor) -> Tensor:
        return self.out


def test_the_gan_s_losses_are_relativistic_and_its_critic_pays_for_its_slope() -> None:
    model, b = VARIANTS.load("gan")(spec((1, 8, 8)), gamma=6.0), batch((1, 8, 8), n=8)
    b.x[:2] *= 0.5  # the quarter that the slope is taken at isn't like the rest
    model.critic = Bowl(0.3)
    with Noiseless():
        loss, terms = model.critic_loss(b)  # type: ignore[operator]
        descended, _ = model.generator_loss(b)  # type: ignore[operator]
        fake = model.judge(model.sample(b.y))[:, 0]  # type: ignore[operator]
    real, norm = model.judge(b.x)[:, 0], b.x[:2].square().flatten(1).sum(1).mean()  # type: ignore[operator]
    torch.testing.assert_close(terms["r1"], 0.3**2 * norm)
    torch.testing.assert_close(loss, (1 + (fake - real).exp()).log().mean() + 3 * 0.3**2 * norm)
    torch.testing.assert_close(descended, (1 + (real - fake).exp()).log().mean())
    (moved,) = torch.autograd.grad(terms["r1"], [model.critic.a])  # type: ignore[union-attr]
    torch.testing.assert_close(moved, 2 * 0.3 * norm)


def test_the_gan_smooths_checkerboards_away() -> None:
    """Gone but for the border; a slope stays as it is, and half of a point, the rest in its four neighbours."""
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    away = (i - 3).abs() + (j - 4).abs()
    board, slope, point, spread = (-1) ** (i + j), 0.3 * i - 0.2 * j, 1.0 * (away == 0), 1.0 * (away == 1)
    model, z = VARIANTS.load("gan")(spec((1, 8, 8))), torch.zeros(1, 2)
    for logits, expected in ((7 * board, 0 * i), (slope, slope), (8 * point, 4 * point + spread)):
        model.generator = Always(logits[None, None])
        inside = model.decode(z, torch.zeros(1)).logit()[0, 0, 1:-1, 1:-1]  # type: ignore[operator]
        torch.testing.assert_close(inside, expected[1:-1, 1:-1], rtol=0, atol=1e-5)


@pytest.mark.costly
def test_the_gan_doesn_t_collapse(digits: Data) -> None:
    """Samples vary over z nearly as images do: with a critic that scores images by themselves, a quarter as much."""
    model = build("gan", digits)
    train(model, digits.train, Training(1_600, 32), seed=0)
    assert isinstance(model, abilities.Samples)
    torch.manual_seed(0)
    drawn = model.eval().sample(torch.full((500,), -1)).std(0).mean()
    real = to_float(digits.train.take(torch.arange(500))).std(0).mean()
    assert drawn > 0.6 * real


def test_the_gan_updates_its_generator_once_a_step() -> None:
    (stage,) = model_of("gan").stages()
    assert [phase.repeat for phase in stage.phases] == [1, 1]


def test_the_networks_are_those_of_their_papers() -> None:
    vae = VARIANTS.load("vae")(Spec((1, 28, 28), 10, 60_000, 20))
    widths = [tuple(p.shape) for p in vae.parameters() if p.ndim == 2]
    assert widths == [(400, 784), (40, 400), (400, 20), (784, 400)]
    encoder, decoder = ConvEncoder((1, 28, 28), 40), ConvDecoder(20, (1, 28, 28))
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs] == [(1, 32, 2), (32, 64, 2), (64, 128, 1)]
    assert encoder.down.grid == (128, 7, 7)
    mirrored = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in mirrored] == [(128, 64, 1), (64, 32, 2), (32, 1, 2)]


# vector quantisation


def test_the_nearest_code_is_the_nearest() -> None:
    torch.manual_seed(0)
    quantizer = EMAQuantizer(7, 3)
    z = torch.randn(50, 3)
    assert torch.equal(quantizer.nearest(z), torch.cdist(z, quantizer.codebook).argmin(1))


def test_an_ema_codebook_converges_to_the_means_of_its_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0]])
    quantizer = EMAQuantizer(3, 2).train()
    quantizer.start(centres[torch.arange(90) % 3] + 0.1 * torch.randn(90, 2))
    for _ in range(300):
        quantizer(centres[torch.arange(90) % 3] + 0.1 * torch.randn(90, 2), torch.tensor(0))
    found = quantizer.codebook[quantizer.nearest(centres)]
    torch.testing.assert_close(found, centres, atol=0.1, rtol=0)


def test_a_dead_code_is_restarted_among_the_latents_only_while_it_may() -> None:
    torch.manual_seed(0)
    quantizer = EMAQuantizer(4, 2).train()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [900.0, 900.0]]))
        quantizer.counts.copy_(torch.tensor([10.0, 10.0, 10.0, 0.5]))
        quantizer.sums.copy_(quantizer.codebook * quantizer.counts[:, None])
    z = torch.rand(64, 2)
    quantizer(z, torch.tensor(0))
    assert quantizer.codebook[3].norm() > 100
    quantizer(z, torch.tensor(1))
    assert (z - quantizer.codebook[3]).norm(dim=1).min() < 1e-5


def test_the_codebook_of_a_frozen_quantizer_stays() -> None:
    quantizer = EMAQuantizer(4, 2).eval()
    before = quantizer.codebook.clone()
    quantizer(torch.randn(64, 2), torch.tensor(1))
    assert torch.equal(before, quantizer.codebook)


def test_commitment_is_a_mean_over_latents_of_the_squared_norm() -> None:
    model = VARIANTS.load("vqvae")(spec((1, 8, 8))).eval()
    b = batch((1, 8, 8))
    z_e = model.latents(b.x)  # type: ignore[operator]
    z_q = model.look_up(model.codes(b.x))  # type: ignore[operator]
    loss, terms = model.loss(b)
    assert terms["commit"].item() == pytest.approx((z_e - z_q).square().sum(1).mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx((terms["rec"] + 0.25 * terms["commit"]).item(), rel=1e-6)


def test_one_code_costs_nothing_and_reconstructs_the_mean_image(digits: Data) -> None:
    """K = 1: rate exactly 0, and the cross-entropy of the training mean."""
    model = trained("vqvae[codes=1]", digits, 400)
    got = scored(model, digits, "kl", "bce")
    mean = (digits.train.take(torch.arange(len(digits.train))) / 255).mean(0)
    x = digits.test.take(torch.arange(360)) / 255
    floor = F.binary_cross_entropy(mean.expand_as(x), x, reduction="none").flatten(1).sum(1).mean().item()
    assert got["kl"] == 0
    assert got["bce"] == pytest.approx(floor, abs=0.15)


def fit(prior: CausalTransformer, draw: object, steps: int) -> None:
    adam = torch.optim.Adam(prior.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        prior.code_length(draw(256)).sum(1).mean().backward()  # type: ignore[operator]
        adam.step()
        schedule.step()


def test_a_prior_on_uniform_codes_pays_t_ln_k() -> None:
    torch.manual_seed(0)
    prior = CausalTransformer(8, 9, width=16, layers=1)
    fit(prior, lambda n: torch.randint(8, (n, 9)), 300)
    with torch.no_grad():
        length = prior.code_length(torch.randint(8, (20_000, 9))).sum(1).mean().item()
    assert length == pytest.approx(9 * math.log(8), rel=1e-3)


def test_a_prior_on_a_markov_chain_pays_its_entropy() -> None:
    torch.manual_seed(0)
    t, k = 9, 4
    step = torch.full((k, k), 0.1) + 0.6 * torch.eye(k).roll(1, 1)

    def chain(n: int) -> Tensor:
        seq = [torch.randint(k, (n,))]
        for _ in range(t - 1):
            seq.append(torch.multinomial(step[seq[-1]], 1).squeeze(1))
        return torch.stack(seq, 1)

    prior = CausalTransformer(k, t, width=32, layers=1)
    fit(prior, chain, 500)
    entropy = math.log(k) - (t - 1) * (step[0] * step[0].log()).sum().item()
    with torch.no_grad():
        length = prior.code_length(chain(40_000)).sum(1).mean().item()
    assert length == pytest.approx(entropy, rel=5e-3)


def test_sampling_a_prior_with_a_cache_follows_its_own_probabilities() -> None:
    """The frequency of each first pair of symbols against p(k1) p(k2|k1) from the uncached forward pass."""
    torch.manual_seed(0)
    prior = CausalTransformer(3, 4, width=16, layers=2).eval()
    with torch.no_grad():
        for p in prior.parameters():
            p.mul_(2)
        prior.head.weight.normal_()
        drawn = prior.sample(60_000)
        pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        logp = prior(F.pad(pairs, (0, 2))).log_softmax(-1)
        expected = (logp[:, 0].gather(1, pairs[:, :1]) + logp[:, 1].gather(1, pairs[:, 1:])).exp().squeeze(1)
    seen = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / len(drawn)
    torch.testing.assert_close(seen, expected, atol=0.008, rtol=0)


def test_a_prior_sees_only_what_came_before() -> None:
    torch.manual_seed(0)
    prior = CausalTransformer(5, 6, width=16).eval()
    k = torch.randint(5, (1, 6))
    changed = k.clone()
    changed[0, 3] = (k[0, 3] + 1) % 5
    a, b = prior(k), prior(changed)
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-6)
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-4)


def test_the_prior_of_vqvae_trains_after_its_codes_are_frozen(digits: Data) -> None:
    model = build("vqvae", digits)
    first, second = model.stages()
    model.stages = lambda: (first,)  # type: ignore[method-assign]
    train(model, digits.train, Training(10), seed=0)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("prior.")}
    prior = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("prior.")}
    model.stages = lambda: (second,)  # type: ignore[method-assign]
    train(model, digits.train, Training(10), seed=0)
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in frozen.items())
    assert any(not torch.equal(v, state[k]) for k, v in prior.items())
