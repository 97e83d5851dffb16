"""Active units, ELBO surgery and what posteriors they are for: closed forms, loops, and the toy of a known truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal, kl_divergence

from bench.contracts.abilities import Bound
from bench.contracts.dataset import Data
from bench.contracts.measurement import Metric, Score
from bench.contracts.protocol import Scoring
from bench.engine.evaluator import Evaluator
from bench.evidence import BoundTerms
from bench.metrics import latent, surgery
from bench.metrics.likelihood import kl
from bench.util.errors import NotAvailable
from tests.conftest import build
from tests.metrics.test_metrics import Bare, data_of, images, kinds, note


class Toy(nn.Module):
    """q(z|x) of image n is N(mean[n], diag std[n]^2): an image holds its n."""

    uses_labels = False

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std.expand_as(mean)

    def at(self, x: Tensor) -> Tensor:
        levels = (x * 255).round().long().flatten(1)
        return levels[:, 0] * 256 + levels[:, 1]

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.mean[self.at(x)]

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        n = self.at(x)
        return Independent(Normal(self.mean[n], self.std[n], validate_args=False), 1, validate_args=False)

    def log_prior(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)


def context(model: Any) -> Bare:
    n = torch.arange(len(model.mean))
    pixels = torch.stack([n // 256, n % 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2)
    return Bare(model=model, data=data_of(images(pixels), images(pixels)))


def score(metric: Metric, where: Bare) -> Score:
    return metric(*(where.get(need) for need in metric.needs))


def matched(n: int, d: int, variance: float, seed: int = 0) -> Toy:
    """q(z|x) = N(m, variance), m ~ N(0, 1 - variance): all together are N(0, I), and mean KL = I in closed form."""
    generator = torch.Generator().manual_seed(seed)
    m = math.sqrt(1 - variance) * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return Toy(m, torch.tensor(math.sqrt(variance), dtype=torch.float64))


def pointwise(n: int, d: int, variance: float) -> surgery.Pointwise:
    found: surgery.Pointwise = context(matched(n, d, variance)).get(surgery.Information(n))
    return found


# --- the toy: q(z|x) = N(m, .05), m ~ N(0, .95 I) in 10 dimensions ---


def test_the_toy_is_saturated_at_any_number_of_images_at_hand() -> None:
    true = 5 * math.log(1 / 0.05)
    assert true == pytest.approx(14.979, abs=1e-3)
    few = pointwise(50, 10, 0.05)
    assert few.saturated
    assert few.values.mean().item() == pytest.approx(math.log(50), abs=0.05)
    where = context(matched(5_000, 10, 0.05))
    found = score(surgery.mutual_information, where)
    assert found.value == pytest.approx(8.0, abs=0.02)  # of ln 3,000 = 8.006: far below the truth, and it says so
    assert found.n == 3_000
    assert note(found, "largest_estimate").values["most"] == pytest.approx(8.006, abs=1e-3)  # type: ignore[union-attr]
    assert "saturated" in kinds(found)
    gap = score(surgery.marginal_kl, where)
    assert "saturated" in kinds(gap)
    kl = where.get(latent.PosteriorKL()).sum(1)
    assert kl.mean().item() == pytest.approx(true, abs=3 * kl.std().item() / math.sqrt(5_000))


def test_collapsed_dimensions_change_nothing() -> None:
    plain = matched(5_000, 10, 0.05)
    zeros = torch.zeros(5_000, 5, dtype=torch.float64)
    wider = Toy(torch.cat([plain.mean, zeros], 1), torch.cat([plain.std, zeros + 1], 1))
    a, b = context(plain), context(wider)
    for where, d in ((a, 10), (b, 15)):
        assert score(latent.active_units, where).value == 10
        assert score(latent.active_kl, where).value == 10
        assert note(score(latent.active_units, where), "of").values == {"total": d}  # type: ignore[union-attr]
    torch.testing.assert_close(a.get(latent.PosteriorKL()).sum(1), b.get(latent.PosteriorKL()).sum(1))


# --- information ---


@pytest.mark.parametrize("variance", [0.5, 0.2])
def test_below_saturation_it_is_the_closed_form(variance: float) -> None:
    where = context(matched(3_000, 2, variance))
    found, true = score(surgery.mutual_information, where), -math.log(variance)
    assert found.se is not None
    assert found.value == pytest.approx(true, abs=3 * found.se)
    assert "saturated" not in kinds(found)
    gap = score(surgery.marginal_kl, where)
    assert gap.se is not None
    assert gap.value == pytest.approx(0, abs=3 * gap.se)


def test_it_equals_a_loop_however_narrow_and_far_the_posteriors_are() -> None:
    torch.manual_seed(0)
    mean = 1e3 + torch.randn(40, 3, dtype=torch.float64)
    std = torch.rand(40, 3, dtype=torch.float64) + 1e-3
    z = mean + std * torch.randn_like(mean)
    log_q = Normal(mean, std).log_prob(z[:, None]).sum(2)
    expected = log_q.diagonal() - log_q.logsumexp(1) + math.log(40)
    torch.testing.assert_close(surgery.information(z, mean, std), expected, atol=1e-7, rtol=0)


def test_its_limits() -> None:
    z, one = torch.randn(60, 2), torch.ones(60, 2)
    for mean, std in ((0.0, 1.0), (0.3, 0.7), (-50.0, 1e-3)):
        same = surgery.information(mean + std * z, mean * one, std * one)
        assert torch.equal(same, torch.zeros(60, dtype=torch.float64))  # and no rounding of it
    near = surgery.information(z, 1e-6 * torch.randn(60, 2), one)
    assert (near != 0).all()
    apart = 100.0 * torch.arange(60)[:, None].expand(-1, 2)
    torch.testing.assert_close(surgery.information(apart + z, apart, one), torch.full((60,), math.log(60)).double())
    six = 100.0 * (torch.arange(60) % 6)[:, None].expand(-1, 2)  # ten images a posterior
    torch.testing.assert_close(surgery.information(six + z, six, one), torch.full((60,), math.log(6)).double())


def test_the_kl_is_cut_in_two_without_a_rest() -> None:
    """All codes together are N(1, I) in two dimensions: half a nat each from the prior."""
    toy = matched(3_100, 2, 0.3)
    where = context(Toy(toy.mean + 1, toy.std))
    information, gap = score(surgery.mutual_information, where), score(surgery.marginal_kl, where)
    found = where.get(surgery.Information())
    kl = where.get(latent.PosteriorKL()).sum(1)[found.where].mean().item()
    assert information.value + gap.value == pytest.approx(kl, abs=1e-12)
    assert gap.n == 3_000
    assert gap.se is not None
    assert gap.value == pytest.approx(1, abs=3 * gap.se)


def test_images_are_drawn_by_a_fixed_seed_where_there_are_more() -> None:
    where = context(matched(500, 2, 0.5))
    some = where.get(surgery.Information(200))
    z, mean, std = where.get(latent.Posteriors())
    at = some.where
    assert len(set(at.tolist())) == 200
    torch.testing.assert_close(some.values, surgery.information(z[at], mean[at], std[at]))


# --- active units ---


def test_active_units_have_a_variance_above_a_hundredth_with_one_less_than_n() -> None:
    mean = torch.tensor([[0, 0, 0.1420, 0], [0.1420, 0.1410, 0, 0]], dtype=torch.float64)  # .01008, .00994, .01008, 0
    where = context(Toy(mean, torch.tensor(1.0).double()))
    assert score(latent.active_units, where).value == 2
    assert score(latent.active_units, where).n == 2


def test_a_posterior_that_leaves_the_prior_for_all_images_alike_is_active_by_its_kl_alone() -> None:
    where = context(Toy(torch.tensor([1.0, 0.14, 0.15, 0.0]).double().expand(50, 4), torch.tensor(1.0).double()))
    assert score(latent.active_units, where).value == 0
    assert score(latent.active_kl, where).value == 2  # .5, .0098, .01125 and 0 nats


def test_a_collapsed_posterior_is_warned_of_once() -> None:
    """By its rate and by its active units, in the same words; a tenth of a nat is the border."""
    collapsed = context(Toy(torch.zeros(50, 4).double(), torch.tensor(1.0).double()))
    of_units = score(latent.active_units, collapsed).notes
    low, high = (kl(BoundTerms(torch.zeros(9), torch.full((9,), rate))).notes for rate in (0.09, 0.11))
    warned = [note for note in (*of_units, *low) if note.warns]
    assert [note.kind for note in warned] == ["posterior_collapse"] * 2
    assert len({str(note) for note in warned}) == 1
    assert not any(note.warns for note in high)


def test_the_kl_of_each_dimension_is_kept() -> None:
    toy = matched(300, 4, 0.3)
    where = context(toy)
    expected = kl_divergence(Normal(toy.mean, toy.std), Normal(0.0, 1.0))
    kl = where.get(latent.PosteriorKL())
    torch.testing.assert_close(kl, expected)
    kept = latent.PosteriorKL().keep(kl)
    torch.testing.assert_close(kept["kl_per_dimension"], expected.mean(0).float())


def test_it_is_the_kl_of_the_bound(digits: Data) -> None:
    evaluator = Evaluator(build("vae", digits), digits, Scoring(), None)  # type: ignore[arg-type]
    with torch.inference_mode():
        by_dimension = evaluator.get(latent.PosteriorKL())
        from bench.evidence import Terms

        torch.testing.assert_close(by_dimension.sum(1), evaluator.get(Terms()).rate, atol=1e-5, rtol=1e-4)


def test_a_collapsed_posterior_has_nothing() -> None:
    where = context(Toy(torch.zeros(400, 3).double(), torch.tensor(1.0).double()))
    for metric in (latent.active_units, latent.active_kl, surgery.mutual_information, surgery.marginal_kl):
        assert score(metric, where).value == 0


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1 + 1e-9), (0.3, 0.7), (1.7, 0.05)])
def test_what_rounding_leaves_of_nothing_is_not_shown(mean: float, std: float) -> None:
    """One posterior for all images: its codes tell nothing of them, and its KL is all distance from the prior."""
    where = context(Toy(*torch.tensor([mean, std], dtype=torch.float64)[:, None, None].expand(2, 400, 3)))
    found, gap = score(surgery.mutual_information, where), score(surgery.marginal_kl, where)
    assert (found.value, found.se) == (0, 0)
    assert gap.value == pytest.approx(1.5 * (mean**2 + std**2 - 1 - math.log(std**2)), rel=1e-12, abs=1e-17)


# --- what they aren't for ---

ALL = (latent.active_units, latent.active_kl, surgery.mutual_information, surgery.marginal_kl)


def refused(where: Bare, metrics: tuple[Metric, ...], why: str) -> None:
    for metric in metrics:
        with pytest.raises(NotAvailable, match=why):
            score(metric, where)


def test_a_deterministic_encoder_says_so() -> None:
    class Deterministic(nn.Module):
        lacks = {Bound: "deterministic encoder: no density"}  # noqa: RUF012
        mean = torch.zeros(9, 2)

        def encode(self, x: Tensor, y: Tensor) -> Tensor:
            return x.flatten(1)

    refused(context(Deterministic()), ALL, "deterministic encoder")
    Deterministic.lacks = {}
    refused(context(Deterministic()), ALL, "posterior")


def test_another_prior_has_information_and_no_kl_in_closed_form() -> None:
    class Wide(Toy):
        def log_prior(self, z: Tensor) -> Tensor:
            return Normal(0.0, 2.0).log_prob(z).sum(-1)

    toy = matched(300, 2, 0.5)
    where = context(Wide(toy.mean, toy.std))
    refused(where, (latent.active_kl, surgery.marginal_kl), "prior isn't")
    assert score(latent.active_units, where).value == 2
    assert score(surgery.mutual_information, where) == score(surgery.mutual_information, context(toy))


def test_another_posterior_has_codes_and_no_more() -> None:
    class Peaked(Toy):
        def posterior(self, x: Tensor, y: Tensor) -> Distribution:
            return Laplace(self.mean[self.at(x)], 1.0)

    where = context(Peaked(torch.zeros(300, 2), torch.ones(2)))
    refused(where, ALL, "no diagonal Gaussian")
    assert score(latent.mmd, where).n == 300


@pytest.mark.parametrize(
    ("mean", "std", "why"),
    [(math.nan, 1.0, "aren't finite"), (0.0, math.inf, "finite"), (0.0, 0.0, "standard deviation of 0")],
)
def test_posteriors_without_a_density(mean: float, std: float, why: str) -> None:
    means = torch.zeros(20, 2).double()
    means[7] = mean
    refused(context(Toy(means, torch.tensor(std).double())), ALL, why)


def test_one_test_image_varies_in_nothing() -> None:
    where = context(Toy(torch.zeros(1, 2).double(), torch.tensor(0.5).double()))
    refused(
        where, (latent.active_units, surgery.mutual_information, surgery.marginal_kl, latent.mmd), "two test images"
    )
    assert score(latent.active_kl, where).value == 2


def test_given_a_label_the_note_says_so(digits: Data) -> None:
    evaluator = Evaluator(build("cvae", digits), digits, Scoring(), None)  # type: ignore[arg-type]
    found, _ = evaluator.score(surgery.mutual_information)
    assert isinstance(found, Score)
    assert "given_label" in kinds(found)
