"""Precision and recall, density and coverage: balls around real images and around samples, on the features of `fd`.

A point's ball reaches to its k-th nearest neighbour in its own set, itself not counted.

    precision   share of samples in the ball of some real image           k = 3, closed   Kynkäänniemi et al. 2019
    recall      share of real images in the ball of some sample           k = 3, closed
    density     real balls that a sample lies in, on average, over k      k = 5, open     Naeem et al. 2020
    coverage    share of real images whose ball holds some sample         k = 5, open
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.blocks.kernels import squared_distances
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.evidence import positions
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, TrainedClassifier, unseen
from bench.metrics.notes import real_images
from bench.util.errors import NotAvailable

K_RECALL = 3  #: of precision and recall
K_COVERAGE = 5  #: of density and coverage
POINTS = 3_000  #: real images, and samples, at most: distances between all of them
ROWS = 500  #: of a matrix of distances at a time
COPY = 1e-6  #: a squared distance for each feature, in training variances, below which two images are one
FEW = 0.05  #: the largest share of test images with so many copies that their ball has no inside
HALVINGS = 50  #: random halvings of twice as many samples: their standard error is off by a tenth
NEIGHBOURS = 16  #: neighbours among which the third of a point's own half is searched: it is missing once in 500 times
SURE = 24  #: smallest balls around a real image, of which some will be in either half


class Shares(NamedTuple):
    """What each point adds to the four means: `precision` and `density` (M,) by sample, the others (N,) by real one."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def radii(points: Tensor) -> Tensor:
    """Return squared distances from each point (N, d) to its five nearest others: (N, 5), ascending."""
    if len(points) <= K_COVERAGE:
        raise ValueError(f"{len(points)} points have no {K_COVERAGE} neighbours each")
    return _nearest(points, K_COVERAGE)[0]


def _nearest(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return squared distances from each point (N, d) to its k nearest others, ascending, and their positions."""
    nearest = []
    for rows in torch.split(torch.arange(len(points)), ROWS):
        distances = squared_distances(points[rows], points)
        distances[torch.arange(len(rows)), rows] = math.inf
        nearest.append(distances.topk(k, largest=False))
    return torch.cat([distances for distances, _ in nearest]), torch.cat([where for _, where in nearest])


def shares(real: Tensor, fake: Tensor, real_radii: Tensor | None = None) -> Shares:
    """Return all four of samples `fake` (M, d) against `real` (N, d). ValueError: fewer than six of either."""
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


class Errors(NamedTuple):
    """Standard errors of `recall` and `coverage` over other draws of the samples; None where too few were drawn."""

    recall: float | None
    coverage: float | None


def redraw_errors(real: Tensor, real_radii: Tensor, pool: Tensor) -> Errors:
    """Return the errors of M samples against `real` (N, d), from a `pool` of 2 M samples (2 M, d).

    Two halves of the pool are two draws: half the squared difference of any statistic is its variance, without bias.
    The mean is taken over random halvings. (A jackknife is up to twice too large, for the real images that a single
    sample covers.)
    """
    n, generator = len(pool), torch.Generator().manual_seed(seed_for("halvings"))
    first = torch.stack([torch.randperm(n, generator=generator) < n // 2 for _ in range(HALVINGS)])
    reach, others = _nearest(pool, min(NEIGHBOURS, n - 1))
    covered, image, sample, away = [], [], [], []
    for rows in torch.split(torch.arange(len(real)), ROWS):
        distances = squared_distances(real[rows], pool)
        within = (distances < real_radii[rows, -1:]).float()
        inside = within @ first.float().T
        covered.append((inside > 0).float() - (within.sum(1, keepdim=True) > inside).float())
        unsure = (distances <= reach[:, K_RECALL - 1]).sum(1) < SURE
        rows, distances = rows[unsure], distances[unsure]
        i, j = (distances <= reach[:, -1]).nonzero(as_tuple=True)
        image.append(rows[i])
        sample.append(j)
        away.append(distances[i, j])
    i, j, d = torch.cat(image), torch.cat(sample), torch.cat(away)

    def recalled(half: Tensor) -> Tensor:
        third = (half[others].to(torch.int8).cumsum(1, dtype=torch.int8) < K_RECALL).sum(1, keepdim=True)
        balls = reach.gather(1, third.clamp_max(reach.shape[1] - 1))[:, 0].where(half, -1)
        return torch.zeros(len(real)).index_fill_(0, i[d <= balls[j]], 1)

    apart = torch.stack([recalled(half).mean() - recalled(~half).mean() for half in first])
    return Errors(
        *(math.sqrt(difference.square().mean().item() / 2) for difference in (apart, torch.cat(covered).mean(0)))
    )


def expected_coverage(real: int, fake: int, k: int = K_COVERAGE) -> float:
    """Return the coverage expected of samples from the real images' own law, if that is continuous.

    A real image isn't covered if its k nearest among all others are real: 1 - prod_{j=1..k} (N - j) / (N + M - j).
    """
    return 1 - math.prod((real - j) / (real + fake - j) for j in range(1, k + 1))


@dataclass(frozen=True)
class RealPoints:
    """Features (N, 64) of test images, their `radii`, and the means of `shares` of unseen training images (4,)."""

    features: Tensor
    radii: Tensor
    others: Tensor
    drawn: int  #: number of unseen training images


@dataclass(frozen=True)
class TestPoints(Request[RealPoints]):
    """Up to 3,000 test images, drawn by a fixed seed, and the `shares` of as many unseen training images."""

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

        pair = f"{test.digest[:16]}-{unseen(context.data).digest[:16]}"
        path = statistics(context, f"balls-{trained.name}-{pair}-{len(real)}")
        known = remembered_tensors(path, compute, "radii", "others")
        if (copies := (known["radii"][:, -1] <= COPY * real.shape[1]).double().mean().item()) > FEW:
            raise NotAvailable(
                f"{copies:.0%} of the test images have {K_COVERAGE} copies or more: their balls are points"
            )
        return RealPoints(real, known["radii"], known["others"], len(others))


def _check(features: Tensor, what: str) -> None:
    if len(features) <= K_COVERAGE:
        raise NotAvailable(f"{K_COVERAGE} neighbours each need more than {len(features)} {what}")
    if not bool(features.isfinite().all()):
        raise NotAvailable(f"features of the {what} aren't finite")


@dataclass(frozen=True)
class PriorShares(Request[Shares]):
    """`shares` of as many prior samples as there are test points."""

    def resolve(self, context: Context) -> Shares:
        real = context.get(TestPoints())
        fake = context.get(Predicted("prior")).features[: len(real.features)]
        _check(fake, "samples")
        return shares(real.features, fake, real.radii)


@dataclass(frozen=True)
class PriorErrors(Request[Errors]):
    """Standard errors from twice as many prior samples as there are test points; None if there are fewer."""

    def resolve(self, context: Context) -> Errors:
        real, features = context.get(TestPoints()), context.get(Predicted("prior")).features
        if len(features) < 2 * len(real.features):
            return Errors(None, None)
        pool = features[: 2 * len(real.features)]
        _check(pool, "samples")
        return redraw_errors(real.features, real.radii, pool)


def as_many(context: Context) -> int:
    """Return the number of samples that `recall` and `coverage` need: that of the test points.

    The third nearest of few samples is far away, so their balls hold nearly every real image; and few cover few.
    """
    return min(POINTS, len(context.data.test))


def _score(
    name: Literal["precision", "recall", "density", "coverage"],
    shares: Shares,
    real: RealPoints,
    trained: TrainedClassifier,
    se: float | None,
    expected: float | None = None,
) -> Score:
    """Return the mean of one of the four, with the score of unseen training images and that `expected` of their law."""
    n, m, of_samples = len(shares.recall), len(shares.precision), name in ("precision", "density")
    k = K_RECALL if name in ("precision", "recall") else K_COVERAGE
    notes = [
        trained.note,
        Note(f"k = {k}, {{real}} real images, {{samples}} samples", "balls", {"real": n, "samples": m}),
    ]
    if real.drawn == m or of_samples:  # fewer real images have the same mean over samples
        notes.append(real_images(real.drawn, real.others[Shares._fields.index(name)].item()))
    else:
        notes.append(Note("{n} held-out real images are too few to compare with", "real_images", {"n": real.drawn}))
    if expected is not None:
        notes.append(Note("expected of a perfect sampler: {expected}", "expected", {"expected": expected}))
    return Score(getattr(shares, name).mean().item(), min(n, m), se, notes)


_of_images = partial(metric, unit="share of real images", direction="higher", range=(0, 1), redraws=True, few=as_many)
_of_samples = partial(metric, default=False, redraws=True, few="unbiased")


@_of_images(PriorShares(), TestPoints(), FeatureNetwork(), PriorErrors())
def recall(shares: Shares, real: RealPoints, trained: TrainedClassifier, errors: Errors) -> Score:
    """Share of real images in the ball of some prior sample (Kynkäänniemi et al. 2019, eq. 1-2, k = 3).

    What the model can make, rather than how often: one far sample has a large ball. Samples of the very law of
    the test images do not reach 1; a note has the score of real images.
    """
    return _score("recall", shares, real, trained, errors.recall)


@_of_images(PriorShares(), TestPoints(), FeatureNetwork(), PriorErrors())
def coverage(shares: Shares, real: RealPoints, trained: TrainedClassifier, errors: Errors) -> Score:
    """Share of real images whose ball holds some prior sample (Naeem et al. 2020, eq. 4, k = 5).

    Balls stand around real images only, so far samples add nothing. Samples of the test images' own law score
    `expected_coverage` on average.
    """
    expected = expected_coverage(len(shares.coverage), len(shares.density))
    return _score("coverage", shares, real, trained, errors.coverage, expected)


@_of_samples(PriorShares(), TestPoints(), FeatureNetwork(), unit="share of samples", direction="higher", range=(0, 1))
def precision(shares: Shares, real: RealPoints, trained: TrainedClassifier) -> Score:
    """Share of prior samples in the ball of some test image (Kynkäänniemi et al. 2019, eq. 1-2, k = 3).

    The image of one class's mean is precise: read it beside `recall`.
    """
    return _score("precision", shares, real, trained, Score.of(shares.precision).se)


@_of_samples(PriorShares(), TestPoints(), FeatureNetwork(), unit="real balls / k", range=(0, math.inf))
def density(shares: Shares, real: RealPoints, trained: TrainedClassifier) -> Score:
    """Test images' balls that a prior sample lies in, on average, over k (Naeem et al. 2020, eq. 3, k = 5).

    1 is expected of the test images' own law. It is higher where samples crowd together where real images do, so
    it has no direction.
    """
    return _score("density", shares, real, trained, Score.of(shares.density).se, 1)
