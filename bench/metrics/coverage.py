"""Precision and recall, density and coverage: balls around real images and around samples, on the features of `fd`.

A point's ball reaches to its k-th nearest neighbour among its own kind, itself not counted.

    precision   share of samples in the ball of some real image           k = 3, closed   Kynkäänniemi et al. 2019
    recall      share of real images in the ball of some sample           k = 3, closed
    density     real balls that a sample lies in, on average, over k      k = 5, open     Naeem et al. 2020
    coverage    share of real images whose ball holds some sample         k = 5, open
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.blocks.kernels import squared_distances
from bench.errors import NotAvailable
from bench.evidence import positions
from bench.measurement import Context, Request, Score, metric
from bench.metrics.cache import remembered_tensors
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Trained

K_RECALL = 3  #: of precision and recall
K_COVERAGE = 5  #: of density and coverage
POINTS = 3_000  #: real images, and samples, at most: distances between all of them
ROWS = 500  #: of a matrix of distances at a time
COPY = 1e-6  #: a squared distance for each feature, in training variances, below which two images are one
FEW = 0.05  #: of test images may have so many copies that their ball has no inside


class Shares(NamedTuple):
    """What each point adds to the four means: `precision` and `density` (M,) by sample, the others (N,) by real one."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def radii(points: Tensor) -> Tensor:
    """Squared distance from each point (N, d) to its nearest to fifth-nearest other: (N, 5), ascending.

    Raises:
        ValueError: fewer than six points.
    """
    if len(points) <= K_COVERAGE:
        raise ValueError(f"{len(points)} points have no {K_COVERAGE} neighbours each")
    found = []
    for rows in torch.split(torch.arange(len(points)), ROWS):
        distances = squared_distances(points[rows], points)
        distances[torch.arange(len(rows)), rows] = math.inf
        found.append(distances.topk(K_COVERAGE, largest=False).values)
    return torch.cat(found)


def shares(real: Tensor, fake: Tensor, real_radii: Tensor | None = None) -> Shares:
    """All four, of samples `fake` (M, d) against `real` (N, d).

    Raises:
        ValueError: fewer than six of either.
    """
    around_real = radii(real) if real_radii is None else real_radii
    near, far = around_real[:, K_RECALL - 1], around_real[:, K_COVERAGE - 1]
    around_fake = radii(fake)[:, K_RECALL - 1]
    precise, density = torch.zeros(len(fake), dtype=torch.bool), torch.zeros(len(fake), dtype=torch.float64)
    recalled, covered = [], []
    for rows in torch.split(torch.arange(len(real)), ROWS):
        distances = squared_distances(real[rows], fake)
        precise |= (distances <= near[rows, None]).any(0)
        recalled.append((distances <= around_fake).any(1))
        within = distances < far[rows, None]
        density += within.sum(0).double() / K_COVERAGE
        covered.append(within.any(1))
    return Shares(precise.double(), torch.cat(recalled).double(), density, torch.cat(covered).double())


def expected_coverage(real: int, fake: int, k: int = K_COVERAGE) -> float:
    """Coverage expected of samples from the real images' own law, whatever it is, if it's continuous.

    A real image isn't covered if its k nearest among all others are real: 1 - prod_{j=1..k} (N - j) / (N + M - j).
    """
    return 1 - math.prod((real - j) / (real + fake - j) for j in range(1, k + 1))


@dataclass(frozen=True)
class RealPoints:
    """Features (N, 64) of test images, their `radii`, and the means of `shares` of unseen training images (4,)."""

    features: Tensor
    radii: Tensor
    others: Tensor
    drawn: int  #: how many unseen training images


@dataclass(frozen=True)
class TestPoints(Request[RealPoints]):
    """Up to 3,000 test images, drawn by a fixed seed, beside as many unseen training images."""

    __test__ = False

    def resolve(self, context: Context) -> RealPoints:
        trained, test = context.get(FeatureNetwork()), context.data.test
        real = context.get(PredictedReal("test")).features[positions(test, POINTS)]
        others = context.get(PredictedReal("train")).features[: len(real)]
        _check(real, "test images")
        _check(others, "unseen training images")

        def compute() -> dict[str, Tensor]:
            around = radii(real)
            return {"radii": around, "others": torch.stack([v.mean() for v in shares(real, others, around)])}

        path = context.cache / "statistics" / f"balls-{trained.name}-{test.digest[:16]}-{len(real)}.safetensors"
        kept = remembered_tensors(path, compute, "radii", "others")
        if (copies := (kept["radii"][:, -1] <= COPY * real.shape[1]).double().mean().item()) > FEW:
            raise NotAvailable(
                f"{copies:.0%} of the test images have {K_COVERAGE} copies or more: their balls are points"
            )
        return RealPoints(real, kept["radii"], kept["others"], len(others))


def _check(features: Tensor, what: str) -> None:
    if len(features) <= K_COVERAGE:
        raise NotAvailable(f"{K_COVERAGE} neighbours each need more than {len(features)} {what}")
    if not bool(features.isfinite().all()):
        raise NotAvailable(f"features of the {what} aren't finite")


@dataclass(frozen=True)
class PriorShares(Request[Shares]):
    """The four of as many prior samples as there are test points."""

    def resolve(self, context: Context) -> Shares:
        real = context.get(TestPoints())
        fake = context.get(Predicted("prior")).features[: len(real.features)]
        _check(fake, "samples")
        return shares(real.features, fake, real.radii)


def _score(
    values: Tensor, trained: Trained, found: Shares, real: RealPoints, which: int, k: int, law: str = ""
) -> Score:
    """Their mean, without a standard error: points share balls, so they scatter together, up to threefold."""
    note = (
        f"{trained.note}; k = {k}, {len(found.recall):,} test images, {len(found.precision):,} samples; "
        f"{real.drawn:,} unseen training images come to {real.others[which].item():.3f}{law}"
    )
    return Score(values.mean().item(), len(values), note=note)


@metric(PriorShares(), TestPoints(), FeatureNetwork(), unit="share of test images", direction="higher", range=(0, 1))
def recall(found: Shares, real: RealPoints, trained: Trained) -> Score:
    """Share of test images in the ball of some prior sample (Kynkäänniemi et al. 2019, eq. 1-2, k = 3).

    What the model can make, rather than how often: one far sample has a large ball. Samples of the very law of
    the test images don't reach 1; the note says what real images come to.
    """
    return _score(found.recall, trained, found, real, 1, K_RECALL)


@metric(PriorShares(), TestPoints(), FeatureNetwork(), unit="share of test images", direction="higher", range=(0, 1))
def coverage(found: Shares, real: RealPoints, trained: Trained) -> Score:
    """Share of test images whose ball holds some prior sample (Naeem et al. 2020, eq. 4, k = 5).

    Balls stand around real images only, so far samples add nothing. Samples of the test images' own law come to
    `expected_coverage`.
    """
    law = f", their own law to {expected_coverage(len(found.coverage), len(found.density)):.3f}"
    return _score(found.coverage, trained, found, real, 3, K_COVERAGE, law)


@metric(
    PriorShares(),
    TestPoints(),
    FeatureNetwork(),
    unit="share of samples",
    direction="higher",
    range=(0, 1),
    default=False,
)
def precision(found: Shares, real: RealPoints, trained: Trained) -> Score:
    """Share of prior samples in the ball of some test image (Kynkäänniemi et al. 2019, eq. 1-2, k = 3).

    The image of one class's mean is precise: read it beside `recall`.
    """
    return _score(found.precision, trained, found, real, 0, K_RECALL)


@metric(
    PriorShares(),
    TestPoints(),
    FeatureNetwork(),
    unit="real balls / k",
    range=(0, math.inf),
    default=False,
)
def density(found: Shares, real: RealPoints, trained: Trained) -> Score:
    """Test images' balls that a prior sample lies in, on average, over k (Naeem et al. 2020, eq. 3, k = 5).

    1 is expected of the test images' own law. It goes above where samples crowd together where real images do, so
    it has no direction.
    """
    return _score(found.density, trained, found, real, 2, K_COVERAGE, ", their own law to 1")
