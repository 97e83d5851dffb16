"""Kernel distances of images to real ones: `kid` on Inception features, `kd` on a small classifier's.

Unlike Fréchet distances they are unbiased at any number of images.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.contracts.measurement import Context, Metric, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.metrics.cache import remembered, statistics
from bench.metrics.inception import DIMENSIONS, InceptionFeatures, InceptionWeights, Weights, seconds
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, TrainedClassifier, unseen
from bench.metrics.notes import real_images
from bench.util.errors import NotAvailable

LEAST = 50  #: images on each side: a standard error from fewer says little
COMPARED = 4_000  #: images on each side of `kd`: two fifths of a second, where 10,000 take two and a half
ROWS = 100  #: kernel values that are in the caches at once, times the other side
CENTRED = 1_000  #: images a side that the kernel's second moments are estimated on


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """Return (x.y / d + 1)^3 for every pair of rows: (N, d) and (M, d) to (N, M). Binkowski et al. 2018."""
    k = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return (k * k).mul_(k)


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """Return sum_j k(x_i, y_j): (N,)."""
    return torch.cat([cubic(rows, y).sum(1) for rows in torch.split(x, ROWS)])


def _sums_within(x: Tensor) -> Tensor:
    """Return sum_j k(x_i, x_j): (N,). Each pair is computed once."""
    sums = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), ROWS):
        k = cubic(x[start : start + ROWS], x[start:])
        after = start + len(k)
        sums[start:after] += k.sum(1)
        sums[after:] += k[:, len(k) :].sum(0)
    return sums


def _centred(x: Tensor, y: Tensor) -> Tensor:
    """Return the kernel between rows, less its mean over rows and over columns: (N, M)."""
    k = cubic(x, y)
    return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()


class KernelDistance(NamedTuple):
    """A squared MMD, its standard error over draws of both sides, that over redraws of the first side, and the images.

    `n` is the number of images on the smaller side.
    """

    value: float
    se: float
    redraws: float
    n: int


def kernel_distance(x: Tensor, y: Tensor) -> KernelDistance:
    """Return the unbiased estimate of the squared MMD under the cubic kernel, and its standard errors: (N, d), (M, d).

    The mean of k over all pairs within x, plus that within y, less twice that between them, no image being paired with
    itself (Gretton et al. 2012, eq. 3). Between equal laws it is 0 on average, and as often below.

    Hoeffding's decomposition gives the variance. With the witness w = E_P k(., x) - E_Q k(., y) and the centred kernels
    k_P, k_Q and k_PQ:

        4 Var_P w / N + 4 Var_Q w / M + 2 E k_P^2 / (N (N-1)) + 2 E k_Q^2 / (M (M-1)) + 4 E k_PQ^2 / (N M)

    Between equal laws the witness is flat, and the last three terms are all there is. The variance of the estimated
    witness also holds the noise of its own means, E k_P^2 / (N-1) + E k_PQ^2 / M, which is subtracted. Where y stays as
    it is, the first and the third term remain, and the witness is the one between P and these very y.

    Raises:
        NotAvailable: there are fewer than 50 on a side, or features aren't finite.
    """
    x, y = _checked(x, y)
    n, m = len(x), len(y)
    within_x = (_sums_within(x) - _of_itself(x)) / (n - 1)
    within_y = (_sums_within(y) - _of_itself(y)) / (m - 1)
    across = torch.zeros(m, dtype=x.dtype, device=x.device)
    from_x = []
    for rows in torch.split(x, ROWS):
        k = cubic(rows, y)
        from_x.append(k.mean(1))
        across += k.sum(0)
    over_x, over_y = within_x - torch.cat(from_x), within_y - across / n  # the witness, on either side
    value = over_x.mean() + over_y.mean()

    some_x, some_y = _few(x), _few(y)
    square_p, square_q = (_off_diagonal(_centred(f, f).square()) for f in (some_x, some_y))
    square_pq = _centred(some_x, some_y).square().mean()
    of_x = over_x.var() - square_p / (n - 1)
    of_witness = (of_x - square_pq / m).clamp_min(0) / n
    of_witness += (over_y.var() - square_q / (m - 1) - square_pq / n).clamp_min(0) / m
    of_pairs = square_p / (n * (n - 1)) + square_q / (m * (m - 1)) + 2 * square_pq / (n * m)
    redrawn = 4 * of_x.clamp_min(0) / n + 2 * square_p / (n * (n - 1))
    return KernelDistance(
        float(value), math.sqrt(float(4 * of_witness + 2 * of_pairs)), math.sqrt(float(redrawn)), min(n, m)
    )


def paired_kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the squared MMD of pairs, x_i made from y_i, both (N, d), and its standard error over other pairs.

    The mean over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i) (Gretton et al. 2012, lemma 6):
    unbiased although x depends on y, and 0 where x = y. Raises NotAvailable like `kernel_distance`.
    """
    x, y = _checked(x, y)
    n = len(x)
    sums = _sums_within(x) + _sums_within(y) - _row_sums(x, y) - _row_sums(y, x)
    own = _of_itself(x) + _of_itself(y) - 2 * ((x * y).sum(1) / x.shape[1] + 1).pow(3)
    means = (sums - own) / (n - 1)
    a, b = _few(x), _few(y)
    square = _off_diagonal((_centred(a, a) + _centred(b, b) - _centred(a, b) - _centred(b, a)).square())
    variance = 4 * (means.var() - square / (n - 1)).clamp_min(0) / n + 2 * square / (n * (n - 1))
    return float(means.mean()), math.sqrt(float(variance))


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if (least := min(len(x), len(y))) < LEAST:
        raise NotAvailable(f"needs {LEAST} images on both sides: there are {least}")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise NotAvailable("some features aren't finite")
    return x.double(), y.double()


def _of_itself(f: Tensor) -> Tensor:
    """Return k(f_i, f_i): (N,)."""
    return (f.square().sum(1) / f.shape[1] + 1).pow(3)


def _few(f: Tensor) -> Tensor:
    """Return the rows on which second moments are estimated."""
    return f[torch.linspace(0, len(f) - 1, min(len(f), CENTRED)).long()]


def _off_diagonal(k: Tensor) -> Tensor:
    """Return the mean of a square matrix (N, N) off its diagonal."""
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


def _some(features: Tensor) -> Tensor:
    """Return the rows that `kd` compares, drawn by a fixed seed, since a split may be sorted."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed_for("compared")))
    return features[order[:COMPARED]]


@dataclass(frozen=True)
class RealDistance(Request["KernelDistance | None"]):
    """`kd` of unseen training images to the test split, kept between runs; None where there are too few images."""

    def resolve(self, context: Context) -> KernelDistance | None:
        name, data = context.get(FeatureNetwork()).name, context.data
        pair = f"{data.test.digest[:16]}-{unseen(data).digest[:16]}"

        def compute() -> Tensor:
            other, test = (context.get(PredictedReal(split)).features for split in ("train", "test"))
            return torch.tensor(kernel_distance(_some(other), _some(test)), dtype=torch.float64)

        try:
            distance = remembered(statistics(context, f"kernel-{name}-{pair}-{COMPARED}"), "distance", compute)
        except NotAvailable:
            return None
        value, se, redraws, n = distance.tolist()
        return KernelDistance(value, se, redraws, int(n))


_kd = partial(metric, unit="KD", direction="lower")


def _kd_to(split: Literal["test", "train"], doc: str) -> Metric:
    """Return the metric of prior samples against one split."""

    def score(
        trained: TrainedClassifier, samples: Predictions, reference: Predictions, real: KernelDistance | None
    ) -> Score:
        distance = kernel_distance(_some(samples.features), _some(reference.features))
        notes = [trained.note, *([] if real is None else [real_images(real.n, real.value, real.se)])]
        return Score(distance.value, distance.n, distance.redraws, notes)

    score.__doc__ = doc
    needs = FeatureNetwork(), Predicted("prior"), PredictedReal(split), RealDistance()
    return _kd(*needs, default=split == "test", redraws=True, few="unbiased")(score)


kd = _kd_to(
    "test",
    """Squared MMD of 4,000 prior samples to 4,000 test images, on the features of `fd`, under KID's cubic kernel.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Compares rows of one dataset.
    Its standard error is over other draws of the samples.
    """,
)
kd_train = _kd_to("train", "`kd` to training images that the classifier has not seen: much lower for copies.")


@_kd(FeatureNetwork(), Predicted("reconstructions"), PredictedReal("test"), default=False)
def kd_rec(trained: TrainedClassifier, reconstructions: Predictions, test: Predictions) -> Score:
    """`kd` of the reconstructions of 4,000 test images to those same images.

    No image is compared with its own reconstruction: 0 for a perfect decoder, and unbiased. Its standard error is over
    test images: nothing is drawn.
    """
    x, y = _some(reconstructions.features), _some(test.features)
    value, se = paired_kernel_distance(x, y)
    return Score(value, len(x), se, trained.note)


@dataclass(frozen=True)
class InceptionDistance(Request[KernelDistance]):
    """The kernel distance of all prior samples to the test split, on Inception features."""

    def resolve(self, context: Context) -> KernelDistance:
        return kernel_distance(*(context.get(InceptionFeatures(of)) for of in ("prior", "test")))


def _seconds(context: Context) -> float:
    """Predict the time of the features and of all pairs, from a few of each."""
    n, m = context.scoring.samples, len(context.data.test)
    some = torch.ones(CENTRED, DIMENSIONS, dtype=torch.float64)
    began = time.perf_counter()
    cubic(some[:ROWS], some)
    each = (time.perf_counter() - began) / (ROWS * CENTRED)
    return seconds("prior", "test")(context) + ((n * n + m * m) // 2 + n * m) * each


@metric(
    InceptionWeights(),
    InceptionDistance(),
    unit="KID",
    direction="lower",
    predicted=_seconds,
    redraws=True,
    few="unbiased",
)
def kid(weights: Weights, distance: KernelDistance) -> Score:
    """Kernel Inception distance: squared MMD of prior samples to the test split under (x.y/d + 1)^3, over all pairs.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Its standard error is over other
    draws of the samples. Binkowski et al. 2018.
    """
    return Score(distance.value, distance.n, distance.redraws, weights.note or ())
