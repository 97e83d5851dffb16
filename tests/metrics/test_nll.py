"""The KL, and importance weighting: against closed forms, quadrature, and models whose log p(x) is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from bench.blocks import GaussianVAE, gaussian_kl
from bench.contracts.dataset import Data
from bench.contracts.events import Scoring as ScoringEvent
from bench.contracts.images import Images, to_float
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import RunRequest, Scoring
from bench.contracts.variant import VARIANTS, Spec, Variant
from bench.engine.evaluator import Evaluator
from bench.evidence import positions
from bench.metrics import weighing
from bench.metrics.weighing import AT_ONCE, Weighed, Weighing, weighed
from bench.results.store import Run
from bench.running.grid import Config, cell
from bench.running.job import Conduct, perform
from bench.running.planning import choose_metrics
from bench.util.errors import NotAvailable
from tests.conftest import build, trained


def data_of(pixels: Tensor) -> Data:
    images = Images(pixels)
    return Data("toy", images, images, images, latent_dim=2, steps=1, likelihood="bernoulli")


def weigh(model: Variant, data: Data, k: int, **scoring: int) -> Weighed:
    with torch.inference_mode():
        evaluator = Evaluator(model, data, Scoring(nll_samples=k, **scoring), Path("nowhere"))
        return evaluator.get(Weighing())


# the KL


def test_the_kl_is_torchs_own() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    q, p = Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), 1.0)
    torch.testing.assert_close(gaussian_kl(mu, logvar), kl_divergence(q, p), rtol=1e-12, atol=1e-12)
    assert torch.equal(gaussian_kl(torch.zeros(4), torch.zeros(4)), torch.zeros(4))
    assert torch.equal(gaussian_kl(torch.ones(4), torch.zeros(4)), torch.full((4,), 0.5))


def test_the_kl_is_the_mean_of_the_log_ratio() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.tensor([0.7, -1.5, 0.0]), torch.tensor([-1.0, 0.5, 0.0])
    q, p = Independent(Normal(mu, (0.5 * logvar).exp()), 1), Independent(Normal(torch.zeros(3), 1.0), 1)
    z = q.sample((200_000,))
    ratio = (q.log_prob(z) - p.log_prob(z)).double()
    assert abs(ratio.mean().item() - gaussian_kl(mu, logvar).sum().item()) < 3 * Score.of(ratio).se  # type: ignore[operator]


# a linear-Gaussian VAE: probabilistic PCA, of which log p(x) and the posterior are known


class PPCA(GaussianVAE):
    """x = W z + b + s e with orthogonal columns of W, so that the posterior is diagonal.

    Its q(z|x) is the posterior, with each variance times `wide`.
    """

    def __init__(self, wide: float = 1.0) -> None:
        super().__init__(Spec((1, 2, 3), 0, 40, 2, "gaussian[sigma=0.3]"), hidden=())
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64, generator=generator)).Q
        self.W = basis * torch.tensor([0.8, 0.4])
        self.b = torch.full((6,), 0.5, dtype=torch.float64)
        self.s = 0.3
        precision = torch.eye(2) + self.W.T @ self.W / self.s**2
        self.mean_map = torch.linalg.solve(precision, self.W.T) / self.s**2
        self.variance = wide / precision.diagonal()
        self.exact = 1 / precision.diagonal()

    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu = (x.flatten(1).double() - self.b) @ self.mean_map.T
        return mu.to(x.dtype), self.variance.log().expand_as(mu).to(x.dtype)

    def decoded(self, z: Tensor, y: Tensor) -> Tensor:
        return (z.double() @ self.W.T + self.b).to(z.dtype).view(-1, 1, 2, 3)

    def log_px_exact(self, x: Tensor) -> Tensor:
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(6, dtype=torch.float64)
        found: Tensor = MultivariateNormal(self.b, covariance).log_prob(x.flatten(1).double())
        return found

    @property
    def gap(self) -> float:
        """KL(q || posterior), the same for every image."""
        ratio = self.variance / self.exact
        return 0.5 * (ratio - 1 - ratio.log()).sum().item()


@pytest.fixture(scope="module")
def six() -> Data:
    """Forty images of 2 x 3 pixels."""
    return data_of(torch.randint(0, 256, (40, 1, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_with_the_exact_posterior_every_draw_says_log_px(six: Data, k: int) -> None:
    model = PPCA()
    exact = model.log_px_exact(to_float(six.test.take(torch.arange(40))))
    found = weigh(model, six, k)
    torch.testing.assert_close(found.bound, exact, rtol=0, atol=1e-5)  # float32 images and weights of some 10 nats
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, k), rtol=1e-6, atol=0)

    x = to_float(six.test.take(torch.arange(40))).double()
    model.likelihood.double()
    model.likelihood.log_sigma.fill_(math.log(model.s))  # type: ignore[operator]
    log_w = model.log_weights(x, torch.full((40,), -1), k)
    torch.testing.assert_close(weighed(log_w).bound, model.log_px_exact(x), rtol=0, atol=1e-10)


def test_with_a_wrong_posterior_the_gap_is_its_kl_and_closes_with_k(six: Data) -> None:
    """L_1 = log p(x) - KL(q || posterior); L_K rises to log p(x), and is no more than it."""
    model = PPCA(wide=1.5)
    x = to_float(six.test.take(torch.arange(40))).double()
    y, exact = torch.full((40,), -1), model.log_px_exact(x)
    torch.manual_seed(0)
    log_w = model.log_weights(x, y, 10_000)  # 400,000 draws
    below = exact - log_w
    assert below.mean().item() == pytest.approx(model.gap, abs=4 * below.std().item() / math.sqrt(below.numel()))
    assert model.gap == pytest.approx(0.0945, abs=1e-4)

    gaps = {}
    for k in (1, 5, 50, 500):
        bounds = weighed(log_w.view(k, -1, 40).flatten(1)).bound  # 10,000 / k bounds of each image
        gaps[k] = (exact.repeat(10_000 // k) - bounds).mean().item()
    assert gaps[1] > gaps[5] > gaps[50] > gaps[500] > -0.001
    assert gaps[500] < 0.001


def test_the_bound_rises_with_k_on_a_trained_model(digits: Data) -> None:
    """Of the same draws, nested: Jensen's inequality holds image by image."""
    model = trained("vae", digits, 100)
    x, y = to_float(digits.test.take(torch.arange(50))), torch.full((50,), -1)
    torch.manual_seed(0)
    with torch.no_grad():
        log_w = model.log_weights(x, y, 500)  # type: ignore[operator]
    blocks = {k: torch.stack([weighed(part).bound for part in log_w.split(k)]).mean(0) for k in (1, 5, 50, 500)}
    for less, more in pairwise(blocks.values()):
        assert (more > less).all()
    torch.testing.assert_close(blocks[1], log_w.double().mean(0))  # the ELBO


# the sum over K, and how it is reached


class Table(Variant):
    """Log-weights that are known beforehand: for image i, columns of `table` (K, n) in order."""

    def __init__(self, table: Tensor, data: Data) -> None:
        super().__init__(Spec((1, 1, 3), 0, 1, 2))
        self.table = table
        pixels = data.test.take(torch.arange(len(data.test))).flatten(1).tolist()
        self.place = {tuple(p): i for i, p in enumerate(pixels)}
        self.used = [0] * len(pixels)
        self.asked: list[tuple[int, int]] = []
        self.seen: set[int] = set()

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        self.asked.append((k, len(x)))
        self.seen |= set(y.tolist())
        columns = []
        for p in (x * 255).round().int().flatten(1).tolist():
            i = self.place[tuple(p)]
            columns.append(self.table[self.used[i] : self.used[i] + k, i])
            self.used[i] += k
        return torch.stack(columns, 1)


@pytest.fixture(scope="module")
def numbered() -> Data:
    """450 images that can be told apart."""
    return data_of(torch.tensor([(i // 256, i % 256, 0) for i in range(450)], dtype=torch.uint8).view(450, 1, 1, 3))


@pytest.mark.parametrize("k", [1, 2, 7, 23, 100])
@pytest.mark.parametrize("chunk", [64, 200, 2_000])
def test_chunks_over_images_and_draws_make_one_logsumexp(numbered: Data, k: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = 30 * torch.randn(k, 450, dtype=torch.float64, generator=generator)
    model = Table(table, numbered)
    found = weigh(model, numbered, k, chunk=chunk)
    torch.testing.assert_close(found.bound, table.logsumexp(0) - math.log(k), rtol=0, atol=1e-12)
    w = (table - table.max(0).values).exp()
    torch.testing.assert_close(found.ess, w.sum(0).square() / w.square().sum(0), rtol=1e-9, atol=0)
    if k > 1:
        torch.testing.assert_close(found.half, table[: k // 2].logsumexp(0) - math.log(k // 2), rtol=0, atol=1e-12)
    else:
        assert found.half.isnan().all()
    assert model.used == [k] * 450, "exactly K draws for each image"
    assert all(draws * images <= max(AT_ONCE, images) for draws, images in model.asked), "and few at once"
    assert model.seen == {-1}, "no label reaches the model"


def test_fifty_draws_are_the_first_fifty_of_a_hundred(digits: Data) -> None:
    model = build("vae", digits).eval()
    assert torch.equal(weigh(model, digits, 100, nll_images=60).half, weigh(model, digits, 50, nll_images=60).bound)


def test_what_was_scored_before_does_not_change_the_draws(digits: Data) -> None:
    model = build("vae", digits).eval()
    evaluator = Evaluator(model, digits, Scoring(nll_samples=7), Path("nowhere"))
    evaluator.score(METRICS.load("elbo"))
    again = evaluator.score(METRICS.load("nll"))[0]
    alone = Evaluator(model, digits, Scoring(nll_samples=7), Path("nowhere")).score(METRICS.load("nll"))[0]
    assert again == alone
    assert isinstance(alone, Score)
    assert alone.n == len(digits.test)


def test_the_images_are_a_fixed_set_of_the_split(digits: Data) -> None:
    asked: list[Tensor] = []

    class Spy(Variant):
        def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
            asked.append(x)
            return torch.zeros(k, len(x))

    for _ in range(2):
        assert len(weigh(Spy(Spec((1, 8, 8), 10, 1, 2)), digits, 1, nll_images=30).bound) == 30
    assert torch.equal(asked[0], asked[1])
    test = to_float(digits.test.take(torch.arange(360)))
    assert all((test == x).flatten(1).all(1).any() for x in asked[0])


# the scores


def ones(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_nll_is_minus_the_bound_and_says_when_k_is_small() -> None:
    calm = weighing.nll(Weighed(ones(-10, -20), ones(-10.2, -20.2), ones(5, 7)), None)
    assert (calm.value, calm.n, calm.se, calm.notes) == (15, 2, pytest.approx(5), ())
    steep = weighing.nll(Weighed(ones(-10, -20), ones(-10.5, -20.3), ones(5, 7)), None)
    assert [(n.kind, n.warns) for n in steep.notes] == [("few_draws", True)]
    assert weighing.nll(weighed(torch.zeros(1, 3)), None).notes == ()


def test_the_effective_sample_size_of_known_weights() -> None:
    equal, one = torch.zeros(4, 1), torch.tensor([[0.0], [-1e3], [-1e3], [-1e3]])
    two = torch.tensor([[5.0], [5.0], [-math.inf], [-math.inf]])
    torch.testing.assert_close(weighed(torch.cat([equal, one, two], 1)).ess, ones(4, 1, 2))
    assert weighing.ess(weighed(torch.cat([equal, one, two], 1))).value == pytest.approx(2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_have_no_score(bad: float) -> None:
    log_w = torch.zeros(6, 5)
    log_w[:, 2] = bad
    for score, rest in ((weighing.nll, (None,)), (weighing.ess, ())):
        with pytest.raises(NotAvailable, match=r"came out|aren't finite"):
            score(weighed(log_w), *rest)


@pytest.mark.parametrize("selector", ["ae", "wae", "gan", "vqvae"])
def test_models_without_weights_say_so(selector: str, digits: Data) -> None:
    evaluator = Evaluator(build(selector, digits), digits, Scoring(), Path("nowhere"))
    for name in ("nll", "ess"):
        found = evaluator.score(METRICS.load(name))[0]
        assert isinstance(found, NotAvailable)
        assert "importance weights" in found.reason
        assert not found.retry


@pytest.mark.parametrize("n", [1, 2])
def test_one_image_is_enough(digits: Data, n: int) -> None:
    few = replace(digits, test=digits.test.subset(torch.arange(n)))
    found = Evaluator(build("vae", digits), few, Scoring(), Path("nowhere")).score(METRICS.load("nll"))[0]
    assert isinstance(found, Score)
    assert (found.n, found.se is None) == (n, n == 1)


class Slow(GaussianVAE):
    """Writes down when it's asked for importance weights."""

    def __init__(self, spec: Spec, said: list[object]) -> None:
        super().__init__(spec, hidden=())
        self.said = said

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        self.said.append((k, len(x)))
        return torch.zeros(k, len(x))


@pytest.mark.parametrize("asked", [(), ("ess", "nll"), ("ess",)])
def test_what_the_weights_will_take_is_told_before_they_are_drawn(
    digits: Data, tmp_path: Path, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first that wants them, which is `nll` where it is asked for; then nobody waits again."""
    said: list[object] = []
    request = RunRequest(("vae",), steps=2, metrics=asked, nll_samples=10, in_process=True)
    c = cell(Config("vae"), digits, 0, request)
    monkeypatch.setattr(Config, "build", lambda config, spec, seed=0: Slow(spec, said))
    metrics = {name: m for name, m in choose_metrics(asked).items() if Weighing() in m.needs}
    perform(c, metrics, Run(tmp_path), said.append, Conduct(torch.device("cpu"), 1))

    told = {e.metric: e for e in said if isinstance(e, ScoringEvent) and e.metric != "evidence"}
    first, *others = told.values()  # a metric is named once before its time is foretold, and once with that
    assert first.metric == ("ess" if asked == ("ess",) else "nll")
    assert first.seconds is not None
    assert [e.seconds for e in others] == [None] * (asked != ("ess",))
    probe, rest = said[: said.index(first)], said[said.index(first) :]
    assert [e for e in probe if isinstance(e, tuple)] == [(5, 200)] * 2
    assert [e for e in rest if isinstance(e, tuple)] == [(5, 200)] * 2 + [(5, 160)] * 2


# by quadrature


def integral(model: Variant, x: Tensor, y: int) -> Tensor:
    """log of the integral of p(x|z, y) p(z) over a code of one dimension: (B, C, H, W) to (B,)."""
    z = torch.linspace(-8, 8, 4_001)
    out = model.decoded(z[:, None], torch.full((4_001,), y))  # type: ignore[operator]
    log_px = model.likelihood.log_prob(x, out[:, None].expand(-1, len(x), -1, -1, -1)).double()  # type: ignore[operator,union-attr]
    log_pz = Normal(0.0, 1.0).log_prob(z).double()[:, None]
    return (log_px + log_pz).logsumexp(0) + math.log(16 / 4_000)


@pytest.mark.parametrize("make", [lambda spec: VARIANTS.load("vae")(spec), lambda spec: VARIANTS.load("cvae")(spec)])
def test_a_model_of_one_latent_dimension_against_quadrature(make: Callable[[Spec], Variant]) -> None:
    """Of a conditional model: log sum_y p(y) p(x|y), with unequal p(y), the labels summed out."""
    torch.manual_seed(0)
    model = make(Spec((1, 3, 3), 3, 10, 1)).eval()
    with torch.no_grad():
        for p in model.decoder.parameters():  # type: ignore[union-attr]
            p.mul_(3)  # so that z and y matter
        x = torch.rand(6, 1, 3, 3).round()
        if model.uses_labels:
            log_py = torch.tensor([0.6, 0.3, 0.1]).log()
            model.log_py.copy_(log_py)  # type: ignore[operator]
            each = torch.stack([integral(model, x, y) for y in range(3)])
            assert (each[0] - each[1]).abs().max() > 0.2, "the label matters"
            exact = (log_py[:, None] + each).logsumexp(0)
        else:
            exact = integral(model, x, -1)
        assert exact.std() > 0.2
        found = weighed(model.log_weights(x, torch.full((6,), -1), 6_000)).bound  # type: ignore[operator]
    torch.testing.assert_close(found, exact, rtol=0, atol=0.05)


# on real images


@pytest.mark.costly
def test_the_reference_vae_on_mnist(mnist: Data) -> None:
    """Grey pixels: -L_100 is 101.3, 4.1 nats under -ELBO; with binarised targets, which that bounds, 98.3."""
    model = trained("vae", mnist, 4690)
    one, hundred = (weigh(model, mnist, k).bound.mean().item() for k in (1, 100))
    assert hundred - one == pytest.approx(4.1, abs=0.4)
    assert -weigh(model, mnist, 100, nll_images=10_000).bound.mean().item() == pytest.approx(101.3, abs=0.4)
    x = to_float(mnist.test.take(positions(mnist.test, 1_000)))
    with torch.no_grad():
        torch.manual_seed(0)
        binarised, blocks = torch.bernoulli(x), []
        q = model.posterior(x, torch.full((1_000,), -1))  # type: ignore[operator]
        for _ in range(100):
            z = q.rsample()
            log_px = model.log_px(binarised, z, torch.full((1_000,), -1))  # type: ignore[operator]
            blocks.append(log_px + model.log_prior(z) - q.log_prob(z))  # type: ignore[operator]
    sharper = weighed(torch.stack(blocks)).bound.mean().item()
    assert sharper - hundred == pytest.approx(2.7, abs=0.5)
