"""The first-party metrics against closed forms, loops and hand-made evidence."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from bench.blocks.kernels import SCALES, imq, mmd2, squared_distances
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import METRICS, Context, Note, Request, Score
from bench.contracts.protocol import Scoring
from bench.contracts.variant import Spec
from bench.evidence import BoundTerms, Indices, TheSpec
from bench.metrics import codes, latent, likelihood, modes
from bench.metrics.judge import Judge, TrainedJudge, divergence
from bench.metrics.modes import expected_divergence, spread
from bench.util.errors import NotAvailable


@dataclass
class Bare(Context):
    """The least that a request needs: evidence may be planted, the rest is resolved once."""

    model: Any = None
    data: Any = None
    scoring: Scoring = field(default_factory=Scoring)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Path = Path("/dev/null/nowhere")  # where nothing can be kept
    planted: dict[Any, Any] = field(default_factory=dict)

    def get(self, request: Request[Any]) -> Any:
        if request not in self.planted:
            with torch.inference_mode():
                self.planted[request] = request.resolve(self)
        return self.planted[request]

    def chunks(self, n: int, purpose: str) -> Iterator[slice]:
        for i, start in enumerate(range(0, n, self.scoring.chunk)):
            torch.manual_seed(i)
            yield slice(start, min(n, start + self.scoring.chunk))


def note(score: Score, kind: str) -> Note | None:
    """Return the one note of a kind; None if there is none."""
    of_kind = [n for n in score.notes if n.kind == kind]
    assert len(of_kind) < 2
    return of_kind[0] if of_kind else None


def kinds(score: Score) -> set[str]:
    return {n.kind for n in score.notes}


def images(pixels: Tensor, labels: Tensor | None = None, classes: tuple[str, ...] = ()) -> Images:
    return Images(pixels, labels, classes)


def data_of(train: Images, test: Images) -> Data:
    return Data("toy", train, test, train, latent_dim=2, steps=1, likelihood="bernoulli")


def spec(text: str = "bernoulli") -> Spec:
    return Spec((1, 4, 4), classes=0, size=10, latent_dim=2, likelihood=text)


# --- all of them ---


def test_every_registered_metric_loads_and_explains_itself() -> None:
    for name in METRICS:
        metric = METRICS.load(name)
        assert metric.doc, name
        assert metric.unit, name
        assert metric.needs, name


def test_coordinates_carry_no_direction() -> None:
    for name in (
        "distortion",
        "bce",
        "bce_excess",
        "kl",
        "mmd",
        "rate_uniform",
        "perplexity",
        "sharpness",
        "noise",
    ):
        assert METRICS.load(name).direction is None, name
    assert METRICS.load("elbo").direction == "higher"
    assert METRICS.load("fd").direction == "lower"


# --- kernels ---


def test_kernel_and_mmd_equal_loops() -> None:
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64) + 1

    def k(a: Tensor, b: Tensor) -> float:
        r = (a - b).square().sum().item()
        return sum(2 * 3 * s / (2 * 3 * s + r) for s in SCALES)

    torch.testing.assert_close(imq(x, y, 3), torch.tensor([[k(a, b) for b in y] for a in x], dtype=torch.float64))
    xx = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    yy = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    xy = sum(k(a, b) for a in x for b in y) / 20
    assert mmd2(x, y).item() == pytest.approx(xx + yy - 2 * xy, abs=1e-12)


def test_mmd_reaches_its_known_values() -> None:
    """B = 128, d = 20: normal codes 0 +- .006, of twice the spread .528, in 8 of 20 directions .267."""
    torch.manual_seed(0)
    prior = [torch.randn(128, 20) for _ in range(60)]
    other = [torch.randn(128, 20) for _ in range(60)]
    null = torch.stack([mmd2(x, y) for x, y in zip(other, prior, strict=True)])
    assert null.mean().abs().item() < 3 * 0.006 / math.sqrt(60)
    assert null.std().item() == pytest.approx(0.006, rel=0.3)
    wide = torch.stack([mmd2(2 * x, y) for x, y in zip(other, prior, strict=True)])
    assert wide.mean().item() == pytest.approx(0.528, abs=0.01)
    mask = (torch.arange(20) < 8).float()
    flat = torch.stack([mmd2(x * mask, y) for x, y in zip(other, prior, strict=True)])
    assert flat.mean().item() == pytest.approx(0.267, abs=0.01)


def test_distances_are_never_negative_and_have_finite_gradients() -> None:
    x = (torch.randn(50, 4) + 1e3).requires_grad_()
    assert squared_distances(x, x).min().item() >= 0
    with torch.autocast("cpu", torch.bfloat16):
        assert squared_distances(x, x).dtype == torch.float32, "products are rounded, norms aren't"
    (gradient,) = torch.autograd.grad(mmd2(x, torch.randn(50, 4)), x)
    assert gradient.isfinite().all()


def test_mmd_stacks_and_compiles() -> None:
    x, y = torch.randn(3, 10, 2), torch.randn(3, 10, 2)
    stacked = torch.vmap(mmd2)(x, y)
    torch.testing.assert_close(stacked, torch.stack([mmd2(a, b) for a, b in zip(x, y, strict=True)]))
    compiled = torch.compile(mmd2, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0], y[0]), mmd2(x[0], y[0]))


# --- likelihood ---


def test_the_bound_and_its_halves() -> None:
    terms = BoundTerms(torch.tensor([-10.0, -20.0]).double(), torch.tensor([1.0, 5.0]).double())
    score = likelihood.elbo(terms, None)
    assert (score.value, score.n) == (-18.0, 2)
    assert score.se == pytest.approx(7.0)  # values -11 and -25: sd 9.899 over sqrt 2
    assert likelihood.kl(terms).value == 3
    assert likelihood.distortion(spec("logistic"), terms.log_likelihood).value == 15
    assert likelihood.elbo(terms, None).value == pytest.approx(
        -likelihood.distortion(spec("logistic"), terms.log_likelihood).value - likelihood.kl(terms).value
    )
    assert likelihood.elbo_given_y(terms) == score


@pytest.mark.parametrize(
    ("kind", "pixels", "noted"),
    [("bernoulli", (0, 7, 255), True), ("bernoulli", (0, 255), False), ("logistic", (0, 7, 255), False)],
)
def test_a_bound_on_binarised_images_is_called_so(kind: str, pixels: tuple[int, ...], noted: bool) -> None:
    split = images(torch.tensor(pixels, dtype=torch.uint8).repeat(4)[:, None, None, None].expand(-1, 1, 4, 4))
    of = Bare(data=data_of(split, split), planted={TheSpec(): spec(kind)}).get(likelihood.OfBinarised())
    assert (of is not None) == noted
    terms = BoundTerms(torch.tensor([-10.0, -20.0]).double(), torch.tensor([1.0, 5.0]).double())
    assert kinds(likelihood.elbo(terms, of)) == ({"dynamic_binarisation"} if noted else set())


def test_bits_per_dimension_of_uniform_levels_are_eight() -> None:
    terms = BoundTerms(torch.full((5,), -16 * math.log(256), dtype=torch.float64), torch.zeros(5).double())
    assert likelihood.bpd(spec("logistic"), terms).value == pytest.approx(8)
    model = toy_context(nn.Identity())
    model.model.spec = spec("bernoulli")  # type: ignore[assignment]
    with pytest.raises(NotAvailable, match="no mass and no density of grey pixels"):
        model.get(likelihood.OwnTerms())


def test_bce_is_for_bernoulli_pixels_only() -> None:
    log_likelihood = torch.tensor([-3.0, -5.0]).double()
    assert likelihood.bce(spec(), log_likelihood).value == 4
    with pytest.raises(NotAvailable, match=r"logistic.*distortion"):
        likelihood.bce(spec("logistic"), log_likelihood)
    with pytest.raises(NotAvailable, match="distortion"):
        likelihood.bce_excess(spec("gaussian[sigma=0.1]"), log_likelihood, None)


def test_bce_excess_of_a_perfect_decoder_is_zero() -> None:
    pixels = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    pixels[0] = 0
    x = pixels.double() / 255
    perfect = -nn.functional.binary_cross_entropy(x, x, reduction="none").flatten(1).sum(1)
    score = likelihood.bce_excess(spec(), perfect, images(pixels))
    assert score.value == pytest.approx(0, abs=1e-5)
    worse = likelihood.bce_excess(spec(), perfect - torch.tensor([1.0, 2, 3, 4, 5, 6]).double(), images(pixels))
    assert worse.value == pytest.approx(3.5, abs=1e-5)
    assert worse.se == pytest.approx(math.sqrt(3.5 / 6), abs=1e-5)  # paired: the images' own entropies cancel


def test_pixel_entropy_has_its_closed_form() -> None:
    pixels = torch.tensor([0, 255, 51, 204], dtype=torch.uint8).reshape(1, 1, 2, 2)
    h = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert likelihood.pixel_entropy(images(pixels)).item() == pytest.approx(2 * h, abs=1e-6)


@pytest.mark.parametrize(("name", "floor"), [("mnist", 45.534), ("fashion", 189.858)])
def test_entropy_floor_of_real_test_images(name: str, floor: float) -> None:
    real = real_data(name)
    assert likelihood.pixel_entropy(real.test).mean().item() == pytest.approx(floor, abs=1e-3)


def real_data(name: str) -> Any:
    from bench.contracts.dataset import DATASETS

    dataset, root = DATASETS.load(name)(), Path(os.environ.get("BENCH_DATA", "nowhere"))
    if not dataset.ready(root):
        pytest.skip(f"needs {name} in the folder that BENCH_DATA names")
    return dataset.load(root)


# --- codes ---


def test_even_use_of_half_a_codebook() -> None:
    indices = Indices(torch.arange(4).repeat(6).reshape(6, 4), size=8)
    assert codes.perplexity(indices).value == pytest.approx(4)
    assert codes.live_codes(indices).value == 0.5
    assert codes.rate_uniform(indices).value == pytest.approx(4 * math.log(8))
    assert codes.rate_uniform(indices).n == 6


def test_one_code() -> None:
    indices = Indices(torch.zeros(3, 5, dtype=torch.long), size=1)
    assert codes.perplexity(indices).value == 1
    assert codes.live_codes(indices).value == 1
    assert codes.rate_uniform(indices).value == 0


# --- latent ---


class Encoder(nn.Module):
    """Codes are the first two pixels of an image."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


class Posterior(Encoder):
    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        return Normal(torch.zeros(len(x), 2), 1.0)


class NormalPrior(Encoder):
    def log_prior(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)


class WidePrior(Encoder):
    def log_prior(self, z: Tensor) -> Tensor:
        return Normal(0.0, 2.0).log_prob(z).sum(-1)


class Discrete(Encoder):
    codebook_size = 4

    def codes(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2].long()


def toy_context(model: nn.Module, n: int = 600) -> Bare:
    split = images(torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return Bare(model=model, data=data_of(split, split))


def test_mmd_takes_draws_from_the_posterior() -> None:
    drawn = toy_context(Posterior()).get(latent.AggregatePosterior())
    assert drawn.shape == (600, 2)
    assert drawn.std().item() == pytest.approx(1, abs=0.1)
    assert abs(latent.mmd(drawn).value) < 3 * latent.mmd_floor(drawn).value


def test_mmd_of_codes_that_are_not_normal_stands_out() -> None:
    context = toy_context(Encoder())
    score, floor = latent.mmd(context.get(latent.AggregatePosterior())), latent.mmd_floor(torch.zeros(600, 2))
    assert score.n == 600
    assert score.value > 10 * floor.value > 0


def test_mmd_is_a_mean_over_batches_in_random_order() -> None:
    """A split whose halves differ: each batch sees both, so the mean is that of the whole."""
    drawn = toy_context(Posterior()).get(latent.AggregatePosterior())
    ramp = torch.arange(600.0, dtype=torch.float64)[:, None].expand(-1, 2) / 100
    split = images(torch.zeros(600, 1, 4, 4, dtype=torch.uint8))

    class Ordered(nn.Module):
        def encode(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.at = getattr(self, "at", 0)
            self.at += len(x)
            return ramp[self.at - len(x) : self.at]

    codes = Bare(model=Ordered(), data=data_of(split, split)).get(latent.AggregatePosterior())
    assert sorted(codes[:, 0].tolist()) == ramp[:, 0].tolist()
    assert codes[:128, 0].std() > 1
    whole = mmd2(codes, torch.randn(600, 2, dtype=torch.float64)).item()
    assert latent.mmd(codes).value == pytest.approx(whole, abs=0.25)
    assert latent.mmd(drawn[:100]).n == 100


@pytest.mark.parametrize(("n", "dim"), [(128, 20), (60, 2)])
def test_the_floor_is_the_spread_of_normal_codes(n: int, dim: int) -> None:
    torch.manual_seed(0)
    null = torch.stack([mmd2(torch.randn(n, dim), torch.randn(n, dim)) for _ in range(300)])
    floor = latent.mmd_floor(torch.zeros(n, dim)).value
    assert floor == pytest.approx(null.square().mean().sqrt().item(), rel=0.2)


def test_mmd_is_for_a_standard_normal_prior() -> None:
    assert toy_context(NormalPrior()).get(latent.AggregatePosterior()).shape == (600, 2)
    with pytest.raises(NotAvailable, match="prior isn't"):
        toy_context(WidePrior()).get(latent.AggregatePosterior())
    with pytest.raises(NotAvailable, match="discrete"):
        toy_context(Discrete()).get(latent.AggregatePosterior())
    with pytest.raises(NotAvailable, match="doesn't map an image to a code"):
        toy_context(nn.Identity()).get(latent.AggregatePosterior())


# --- modes ---


def judged(classes: Tensor, k: int, sure: float = 1.0) -> Tensor:
    hot = nn.functional.one_hot(classes, k).double()
    return sure * hot + (1 - sure) / (k - 1) * (1 - hot)


JUDGE = TrainedJudge(Judge((1, 2, 2), 2), "judge-v1-x", 0.97, 0.002)


def test_a_class_is_reached_by_a_tenth_of_its_share() -> None:
    labels = torch.tensor([0] * 500 + [1] * 400 + [2] * 100)
    predicted = torch.tensor([0] * 960 + [1] * 39 + [2] * 1)
    assert modes.reached(predicted, labels, 3).tolist() == [True, False, False]  # 39 of 40; 1 of 10
    predicted = torch.tensor([0] * 950 + [1] * 40 + [2] * 10)
    assert modes.reached(predicted, labels, 3).tolist() == [True, True, True]
    assert modes.reached(torch.zeros(10).long(), torch.zeros(10).long(), 2).tolist() == [True, False]


def test_five_samples_at_least() -> None:
    labels = torch.arange(2).repeat(50)
    assert modes.reached(torch.tensor([0] * 16 + [1] * 4), labels, 2).tolist() == [True, False]


def test_classes_without_test_images_arent_asked_for() -> None:
    """Nine of ten are there; all samples are of one: a ninth. With a single class there is nothing to reach."""
    names = tuple("abcdefghij")
    nine = images(torch.zeros(90, 1, 4, 4, dtype=torch.uint8), torch.arange(9).repeat(10), names)
    score = modes.modes(judged(torch.zeros(100).long(), 10), JUDGE, nine)
    assert score.value == pytest.approx(1 / 9)
    missing = note(score, "modes_missing")
    assert missing is not None
    assert missing.warns
    assert missing.text.endswith(": b, c, d, e, f, g, h, i")
    one = images(torch.zeros(90, 1, 4, 4, dtype=torch.uint8), torch.full((90,), 7), names)
    with pytest.raises(NotAvailable, match="of one class"):
        modes.modes(judged(torch.zeros(100).long(), 10), JUDGE, one)


def test_few_samples_say_nothing_of_classes() -> None:
    """A class is asked for if ten real images out of as many would be of it."""
    names = ("ant", "bee", "cat")
    real = images(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), torch.tensor([0] * 49 + [1] * 49 + [2] * 2), names)
    score = modes.modes(judged(torch.arange(2).repeat(50), 3), JUDGE, real)
    assert (score.value, kinds(score)) == (1, {"rare_classes", "judge"})
    assert note(score, "rare_classes").values == {"n": 1}  # type: ignore[union-attr]
    with pytest.raises(NotAvailable, match="of 20 samples no two classes would have 10"):
        modes.modes(judged(torch.arange(2).repeat(10), 3), JUDGE, real)
    with pytest.raises(NotAvailable, match="9 samples are too few for 2 classes"):
        modes.class_kl(
            judged(torch.arange(2).repeat(5)[:9], 2), JUDGE, of_classes(torch.arange(2).repeat(9), ("a", "b"))
        )


def test_modes_and_confidence_name_the_judge_and_missing_classes() -> None:
    real = images(torch.zeros(30, 1, 4, 4, dtype=torch.uint8), torch.arange(3).repeat(10), ("ant", "bee", "cat"))
    seen = judged(torch.arange(2).repeat(50), 3, sure=0.9)
    score = modes.modes(seen, JUDGE, real)
    assert score.value == pytest.approx(2 / 3)
    assert note(score, "modes_missing").text.endswith(": cat")  # type: ignore[union-attr]
    assert note(score, "judge").values == {"accuracy": 97}  # type: ignore[union-attr]
    assert modes.modes(judged(torch.arange(3).repeat(50), 3), JUDGE, real).value == 1
    assert modes.confidence(seen, JUDGE).value == pytest.approx(0.9)


TEN = tuple("abcdefghij")


def of_classes(labels: Tensor, classes: tuple[str, ...] = TEN) -> Data:
    split = images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, classes)
    return data_of(split, split)


def test_a_dropped_class_has_its_divergence() -> None:
    """Nine of ten classes, evenly: ln(10/9), and nine modes."""
    data, seen = of_classes(torch.arange(10).repeat(20)), judged(torch.arange(9).repeat(1_000), 10)
    score = modes.class_kl(seen, JUDGE, data)
    assert score.value == pytest.approx(math.log(10 / 9), abs=1e-12)
    assert score.n == 200  # training images
    assert modes.modes(seen, JUDGE, data.test).value == pytest.approx(0.9)
    assert modes.class_kl(judged(torch.arange(10).repeat(5), 10), JUDGE, data).value == pytest.approx(0, abs=1e-12)


def test_the_divergence_is_taken_to_the_training_classes() -> None:
    data = of_classes(torch.tensor([0] * 90 + [1] * 10), ("a", "b"))
    score = modes.class_kl(judged(torch.tensor([0] * 500 + [1] * 500), 2), JUDGE, data)
    assert score.value == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    assert note(score, "real_images").values == {"floor": 0.0005}  # type: ignore[union-attr]
    assert note(score, "judge_error").values == {"error": 0.002}  # type: ignore[union-attr]


@pytest.mark.parametrize("even", [True, False])
def test_draws_from_the_training_classes_have_the_expected_divergence(even: bool) -> None:
    prior = torch.full((10,), 0.1) if even else torch.arange(1.0, 11) / 55
    drawn = torch.distributions.Multinomial(2_000, prior)
    torch.manual_seed(0)
    found = torch.tensor([divergence(drawn.sample(), prior) for _ in range(1_000)])
    floor = expected_divergence(10, 2_000)
    assert abs(found.mean() - floor) < 3 * found.std() / 1_000**0.5
    assert spread((2_000 * prior).round(), prior) == pytest.approx(found.std().item(), rel=0.1)


def test_the_error_of_a_divergence_is_its_scatter() -> None:
    p, q = torch.arange(1.0, 11) / 55, torch.full((10,), 0.1)
    torch.manual_seed(0)
    draws = [torch.distributions.Multinomial(3_000, p).sample() for _ in range(1_000)]
    found = torch.tensor([divergence(counts, q) for counts in draws])
    assert spread(draws[0], q) == pytest.approx(found.std().item(), rel=0.1)


def test_a_divergence_that_is_not_finite_is_not_available() -> None:
    data = of_classes(torch.tensor([0, 1] * 10), ("a", "b", "c"))
    assert modes.class_kl(judged(torch.tensor([0, 1] * 10), 3), JUDGE, data).value == pytest.approx(0, abs=1e-12)
    with pytest.raises(NotAvailable, match="no training image has"):
        modes.class_kl(judged(torch.tensor([0, 1, 2]), 3), JUDGE, data)
    with pytest.raises(NotAvailable, match="one class"):
        modes.class_kl(judged(torch.tensor([0, 0]), 2), JUDGE, of_classes(torch.zeros(9).long(), ("a", "b")))
