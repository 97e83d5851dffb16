"""Kernel distances of images to real ones: `kid` on Inception features, `kd` on a small classifier's.

Unlike Fréchet distances they're unbiased at any number of images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.metrics.cache import read_tensors, remembered_tensors, statistics
from bench.metrics.inception import (
    DIMENSIONS,
    InceptionFeatures,
    InceptionWeights,
    Source,
    Weights,
    kept_at,
    seconds,
)
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, Trained, unseen
from bench.util.errors import NotAvailable

LEAST = 50  #: images on each side: a standard error from fewer says little
COMPARED = 4_000  #: images on each side of `kd`: two fifths of a second, where 10,000 take two and a half
ROWS = 100  #: kernel values that are in the caches at once, times the other side
CENTRED = 1_000  #: images a side that the kernel's second moments are estimated on


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3 for every pair of rows: (N, d) and (M, d) to (N, M). Binkowski et al. 2018."""
    k = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return (k * k).mul_(k)


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """sum_j k(x_i, y_j): (N,)."""
    return torch.cat([cubic(rows, y).sum(1) for rows in torch.split(x, ROWS)])


def _sums_within(x: Tensor) -> Tensor:
    """sum_j k(x_i, x_j): (N,), from each pair once."""
    sums = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for start in range(0, len(x), ROWS):
        k = cubic(x[start : start + ROWS], x[start:])
        after = start + len(k)
        sums[start:after] += k.sum(1)
        sums[after:] += k[:, len(k) :].sum(0)
    return sums


def _centred(x: Tensor, y: Tensor) -> Tensor:
    """The kernel between rows with both of its means taken out: (N, M)."""
    k = cubic(x, y)
    return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()


class KernelDistance(NamedTuple):
    """A squared MMD of n images, its standard error over draws of both sides, and over redraws of the first alone."""

    value: float
    se: float
    redraws: float
    n: int


def kernel_distance(x: Tensor, y: Tensor) -> KernelDistance:
    """The unbiased estimate of the squared MMD under the cubic kernel, and its standard errors: (N, d), (M, d).

    The mean of k over all pairs within x, plus that within y, less twice that between them, no image being paired with
    itself (Gretton et al. 2012, eq. 3). Between equal laws it's 0 on average, and as often below.

    Hoeffding's decomposition gives the variance. With the witness w = E_P k(., x) - E_Q k(., y) and the centred kernels
    k_P, k_Q and k_PQ:

        4 Var_P w / N + 4 Var_Q w / M + 2 E k_P^2 / (N (N-1)) + 2 E k_Q^2 / (M (M-1)) + 4 E k_PQ^2 / (N M)

    Between equal laws the witness is flat, and the last three terms are all there is. The variance of the estimated
    witness also holds the noise of its own means, E k_P^2 / (N-1) + E k_PQ^2 / M: it's taken off. Where y stays as it
    is, the first and the third term remain, and the witness is the one between P and these very y.

    Raises:
        NotAvailable: there are fewer than 50 on a side, or features aren't finite.
    """
    x, y = _checked(x, y)
    n, m = len(x), len(y)
    of_itself_x, of_itself_y = _of_itself(x), _of_itself(y)
    within_x = (_sums_within(x) - of_itself_x) / (n - 1)
    within_y = (_sums_within(y) - of_itself_y) / (m - 1)
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
    return KernelDistance(float(value), math.sqrt(float(4 * of_witness + 2 * of_pairs)), math.sqrt(float(redrawn)), n)


def paired_kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The same of pairs, x_i made from y_i: both (N, d). And its standard error over other pairs.

    No pair meets itself, not even across: with g_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), the mean
    of g over i != j (Gretton et al. 2012, lemma 6). That's unbiased for what hangs together, too, and 0 where x = y.

    Raises:
        NotAvailable: there are fewer than 50, or features aren't finite.
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
        raise NotAvailable("its features aren't finite")
    return x.double(), y.double()


def _of_itself(f: Tensor) -> Tensor:
    """k(f_i, f_i): (N,)."""
    return (f.square().sum(1) / f.shape[1] + 1).pow(3)


def _few(f: Tensor) -> Tensor:
    """The rows that second moments are estimated on."""
    return f[torch.linspace(0, len(f) - 1, min(len(f), CENTRED)).long()]


def _off_diagonal(k: Tensor) -> Tensor:
    """The mean of a square matrix (N, N) off its diagonal."""
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


def _some(features: Tensor) -> Tensor:
    """As many rows as are compared, drawn by a fixed seed, since a split may be in an order of its own."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed_for("compared")))
    return features[order[:COMPARED]]


def _kept(path: Path, compute: Callable[[], KernelDistance]) -> KernelDistance:
    return _read(
        remembered_tensors(path, lambda: {"distance": torch.tensor(compute(), dtype=torch.float64)}, "distance")
    )


def _read(kept: dict[str, Tensor]) -> KernelDistance:
    value, se, redraws, n = kept["distance"].tolist()
    return KernelDistance(value, se, redraws, int(n))


@dataclass(frozen=True)
class RealDistance(Request["KernelDistance | None"]):
    """`kd` of training images that the classifier hasn't seen to the test split; None where there are too few.

    Kept between runs.
    """

    def resolve(self, context: Context) -> KernelDistance | None:
        name, data = context.get(FeatureNetwork()).name, context.data
        pair = f"{data.test.digest[:16]}-{unseen(data).digest[:16]}"

        def compute() -> KernelDistance:
            other, test = (context.get(PredictedReal(split)).features for split in ("train", "test"))
            return kernel_distance(_some(other), _some(test))

        try:
            return _kept(statistics(context, f"kernel-{name}-{pair}-{COMPARED}"), compute)
        except NotAvailable:
            return None


def _inception_path(context: Context) -> Path:
    weights, data = context.get(InceptionWeights()), context.data
    return kept_at(context, weights, data.test, f"-kernel-{unseen(data).digest[:16]}")


@dataclass(frozen=True)
class RealInceptionDistance(Request[KernelDistance]):
    """`kid` of as many training images to the test split. Kept between runs."""

    def resolve(self, context: Context) -> KernelDistance:
        def compute() -> KernelDistance:
            return kernel_distance(*(context.get(InceptionFeatures(split)) for split in ("train", "test")))

        return _kept(_inception_path(context), compute)


@dataclass(frozen=True)
class KnownInceptionDistance(Request["KernelDistance | None"]):
    """`RealInceptionDistance` where an earlier scoring has left it in the cache; features of training take minutes."""

    def resolve(self, context: Context) -> KernelDistance | None:
        kept = read_tensors(_inception_path(context), "distance")
        return None if kept is None else _read(kept)


def _score(network: Trained | Weights, x: Tensor, y: Tensor, real: KernelDistance | None) -> Score:
    """Its standard error is over redraws; what real images come to is in the note, ± over both sides."""
    found = kernel_distance(x, y)
    notes: list[Note | str] = [network.note]
    if real is not None:
        values = {"n": real.n, "floor": real.value, "se": real.se}
        notes.append(Note("{n} held-out real images score {floor} ± {se}", "real_images", values))
    return Score(found.value, min(len(x), len(y)), found.redraws, notes)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    PredictedReal("test"),
    RealDistance(),
    unit="KD",
    direction="lower",
    redraws=True,
    few="unbiased",
)
def kd(trained: Trained, samples: Predictions, test: Predictions, real: KernelDistance | None) -> Score:
    """Squared MMD of 4,000 prior samples to 4,000 test images, on the features of `fd`, under KID's cubic kernel.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Compares rows of one dataset.
    Its standard error is over other draws of the samples.
    """
    return _score(trained, _some(samples.features), _some(test.features), real)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    PredictedReal("train"),
    RealDistance(),
    unit="KD",
    direction="lower",
    default=False,
    redraws=True,
    few="unbiased",
)
def kd_train(trained: Trained, samples: Predictions, train: Predictions, real: KernelDistance | None) -> Score:
    """`kd` to training images that the classifier hasn't seen: well below `kd`, it hints at copying."""
    return _score(trained, _some(samples.features), _some(train.features), real)


@metric(
    FeatureNetwork(),
    Predicted("reconstructions"),
    PredictedReal("test"),
    unit="KD",
    direction="lower",
    default=False,
)
def kd_rec(trained: Trained, reconstructions: Predictions, test: Predictions) -> Score:
    """`kd` of the reconstructions of 4,000 test images to those same images.

    No image is compared with its own reconstruction: 0 for a perfect decoder, and unbiased. Its standard error is over
    test images: nothing is drawn.
    """
    x, y = _some(reconstructions.features), _some(test.features)
    value, se = paired_kernel_distance(x, y)
    return Score(value, len(x), se, trained.note)


def _announced(*sources: Source) -> Callable[[Context], float]:
    """What features of `sources` will take, and all their pairs, told from a few of each."""

    def predicted(context: Context) -> float:
        n, m = context.scoring.samples, len(context.data.test)
        pairs = 3 * m * m if "reconstructions" in sources else (n * n + m * m) // 2 + n * m
        if "train" in sources and context.get(KnownInceptionDistance()) is None:
            pairs += 2 * m * m  # of real images to each other
        some = torch.ones(CENTRED, DIMENSIONS, dtype=torch.float64)
        began = time.perf_counter()
        cubic(some[:ROWS], some)
        each = (time.perf_counter() - began) / (ROWS * CENTRED)
        return seconds(*sources)(context) + pairs * each

    return predicted


@metric(
    InceptionWeights(),
    InceptionFeatures("prior"),
    InceptionFeatures("test"),
    KnownInceptionDistance(),
    unit="KID",
    direction="lower",
    predicted=_announced("prior", "test"),
    redraws=True,
    few="unbiased",
)
def kid(weights: Weights, samples: Tensor, test: Tensor, real: KernelDistance | None) -> Score:
    """Kernel Inception distance: squared MMD of prior samples to the test split under (x.y/d + 1)^3, over all pairs.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Its standard error is over other
    draws of the samples. Binkowski et al. 2018.
    """
    return _score(weights, samples, test, real)


@metric(
    InceptionWeights(),
    InceptionFeatures("prior"),
    InceptionFeatures("train"),
    RealInceptionDistance(),
    unit="KID",
    direction="lower",
    default=False,
    predicted=_announced("prior", "train", "test"),
    redraws=True,
    few="unbiased",
)
def kid_train(weights: Weights, samples: Tensor, train: Tensor, real: KernelDistance) -> Score:
    """`kid` to as many training images as the test split has: well below `kid`, it hints at copying."""
    return _score(weights, samples, train, real)


@metric(
    InceptionWeights(),
    InceptionFeatures("reconstructions"),
    InceptionFeatures("test"),
    unit="KID",
    direction="lower",
    default=False,
    predicted=_announced("reconstructions", "test"),
)
def kid_rec(weights: Weights, reconstructions: Tensor, test: Tensor) -> Score:
    """`kid` of the reconstructions of all test images to those same images.

    No image is compared with its own reconstruction: 0 for a perfect decoder, and unbiased. Its standard error is over
    test images: nothing is drawn.
    """
    value, se = paired_kernel_distance(reconstructions, test)
    return Score(value, len(test), se, weights.note)
