"""Whether samples are copies of training images: distances between pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.blocks.kernels import squared_distances
from bench.contracts.images import Images, to_float
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.evidence import Generated, positions
from bench.metrics.sharpness import ratio
from bench.util.errors import NotAvailable

ASKED = 1_000  #: samples, and test images, whose nearest training image is looked for
EACH = 10_000  #: training images at most, and as many unseen ones, that compete for a sample
BLOCK = 5_000  #: real images at a time


class Nearest(NamedTuple):
    """The nearest of some images to each of N queries: L2 distance on the [0, 1] scale, and position, both (N,)."""

    distance: Tensor
    position: Tensor


def nearest(queries: Tensor, images: Images, alive: Callable[[], None] = lambda: None) -> Nearest:
    """The nearest of `images` to each of `queries` (N, C, H, W) uint8; of equals, the first."""
    x = to_float(queries.cpu()).flatten(1)
    centre = x.mean(0)  # a matrix product rounds small distances between long vectors away
    least, where = torch.full((len(x),), math.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
    for index in torch.split(torch.arange(len(images)), BLOCK):
        alive()
        block = to_float(images.take(index, "cpu")).flatten(1)
        there = squared_distances(x - centre, block - centre).argmin(1)
        exact = (x - block[there]).double().square().sum(1)  # that of a copy is 0
        nearer = exact < least
        least, where = torch.where(nearer, exact, least), torch.where(nearer, index[there], where)
    return Nearest(least.sqrt(), where)


class Distances(NamedTuple):
    """From each sample and from each test image to its nearest training image: (N,) and (M,) float64."""

    samples: Tensor
    test: Tensor


@dataclass(frozen=True)
class NearestTraining(Request[Distances]):
    """Distances of 1,000 prior samples, and of as many test images, to all training images."""

    def resolve(self, context: Context) -> Distances:
        data, samples = context.data, context.get(Generated("prior"))[:ASKED]
        real = data.test.take(positions(data.test, ASKED), "cpu")
        of_samples, of_test = (nearest(x, data.train, context.alive).distance for x in (samples, real))
        return Distances(of_samples, of_test)


class Contest(NamedTuple):
    """For each sample, the nearest of `each` training images, and of as many that weren't trained on."""

    train: Nearest
    unseen: Nearest
    each: int


@dataclass(frozen=True)
class NearestOfEither(Request[Contest]):
    """Distances of 1,000 prior samples to equally many training and test images."""

    def resolve(self, context: Context) -> Contest:
        data, samples = context.data, context.get(Generated("prior"))[:ASKED]
        each = min(len(data.train), len(data.test), EACH)
        generator = torch.Generator().manual_seed(seed_for("contest"))
        some = data.train.subset(torch.randperm(len(data.train), generator=generator)[:each])
        others = data.test.subset(positions(data.test, each))
        return Contest(nearest(samples, some, context.alive), nearest(samples, others, context.alive), each)


@metric(NearestTraining(), unit="× test", range=(0, math.inf), default=False, few="unbiased")
def nearest_train(distances: Distances) -> Score:
    """Mean pixel distance of prior samples to their nearest training image, over that of test images.

    About 1 where samples are as new as test images are, 0 for copies. Blur brings an image nearer to all others and
    errors take it away, so 1 alone proves nothing: see `dcr_share`.
    """
    if len(distances.test) < 2:
        raise NotAvailable("one test image is no measure of distances")
    if distances.test.max() == 0:
        raise NotAvailable("every test image is a training image")
    note = f"samples at {distances.samples.mean():.2f}, test images at {distances.test.mean():.2f}"
    return ratio(*distances).noted(note)


@metric(NearestOfEither(), unit="share of samples", range=(0, 1), default=False, few="unbiased")
def dcr_share(contest: Contest) -> Score:
    """Share of prior samples whose nearest real image is a training image, out of as many training as test images.

    .5 where nothing is memorised, blurred or not; copies of training images raise it. Ties count half. Samples with
    the same nearest image win or lose together; the error is that of a fair coin for each such image.
    (Distance to closest record, from tests of synthetic data for privacy.)
    """
    if contest.each < 2:
        raise NotAvailable("one training or test image stands for no split")
    ours, theirs = contest.train, contest.unseen
    won = ((theirs.distance - ours.distance).sign() + 1) / 2
    nearest_of_all = torch.where(ours.distance <= theirs.distance, ours.position, contest.each + theirs.position)
    error = 0.5 * torch.bincount(nearest_of_all).double().norm().item() / len(won)
    return Score(
        won.mean().item(), min(len(won), contest.each), error, f"{contest.each:,} training and as many test images"
    )
