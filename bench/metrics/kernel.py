"""Kernel distances of images to real ones: `kid` on Inception features, `kd` on a small classifier's.

Unlike Fréchet distances they're unbiased at any number of images, and have a standard error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.errors import NotAvailable
from bench.measurement import Score, metric
from bench.metrics.inception import InceptionFeatures, InceptionWeights, Weights
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, Trained
from bench.protocol import seed_for

LEAST = 50  #: images on each side: a standard error from fewer says little
COMPARED = 4_000  #: images on each side of `kd`: three tenths of a second, where 10,000 take two
ROWS = 100  #: kernel values that are in the caches at once, times the other side
CENTRED = 1_000  #: images a side that the kernel's second moments are estimated on


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3 for every pair of rows: (N, d) and (M, d) to (N, M). Binkowski et al. 2018."""
    k = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return (k * k).mul_(k)


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """sum_j k(x_i, y_j): (N,)."""
    return torch.cat([cubic(rows, y).sum(1) for rows in torch.split(x, ROWS)])


def _centred(x: Tensor, y: Tensor) -> Tensor:
    """The kernel between rows with both of its means taken out: (N, M)."""
    k = cubic(x, y)
    return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The unbiased estimate of the squared MMD under the cubic kernel, and its standard error: (N, d), (M, d).

    The mean of k over all pairs within x, plus that within y, less twice that between them, no image being paired with
    itself (Gretton et al. 2012, eq. 3). Between equal laws it's 0 on average, and as often below.

    Hoeffding's decomposition gives the variance. With the witness w = E_P k(., x) - E_Q k(., y) and the centred kernels
    k_P, k_Q and k_PQ:

        4 Var_P w / N + 4 Var_Q w / M + 2 E k_P^2 / (N (N-1)) + 2 E k_Q^2 / (M (M-1)) + 4 E k_PQ^2 / (N M)

    Between equal laws the witness is flat, and the last three terms are all there is. The variance of the estimated
    witness also holds the noise of its own means, E k_P^2 / (N-1) + E k_PQ^2 / M: it's taken off.

    Raises:
        NotAvailable: there are fewer than 50 on a side, or features aren't finite.
    """
    n, m = len(x), len(y)
    if min(n, m) < LEAST:
        raise NotAvailable(f"needs {LEAST} images on both sides: there are {min(n, m)}")
    x, y = x.double(), y.double()
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise NotAvailable("its features aren't finite")
    of_itself_x, of_itself_y = ((f.square().sum(1) / f.shape[1] + 1).pow(3) for f in (x, y))
    within_x = (_row_sums(x, x) - of_itself_x) / (n - 1)
    within_y = (_row_sums(y, y) - of_itself_y) / (m - 1)
    across = torch.zeros(m, dtype=x.dtype, device=x.device)
    from_x = []
    for rows in torch.split(x, ROWS):
        k = cubic(rows, y)
        from_x.append(k.mean(1))
        across += k.sum(0)
    over_x, over_y = within_x - torch.cat(from_x), within_y - across / n  # the witness, on either side
    value = over_x.mean() + over_y.mean()

    some_x, some_y = (f[torch.linspace(0, len(f) - 1, min(len(f), CENTRED)).long()] for f in (x, y))
    square_p, square_q = (_off_diagonal(_centred(f, f).square()) for f in (some_x, some_y))
    square_pq = _centred(some_x, some_y).square().mean()
    of_witness = (over_x.var() - square_p / (n - 1) - square_pq / m).clamp_min(0) / n
    of_witness += (over_y.var() - square_q / (m - 1) - square_pq / n).clamp_min(0) / m
    of_pairs = square_p / (n * (n - 1)) + square_q / (m * (m - 1)) + 2 * square_pq / (n * m)
    return float(value), math.sqrt(float(4 * of_witness + 2 * of_pairs))


def _off_diagonal(k: Tensor) -> Tensor:
    """The mean of a square matrix (N, N) off its diagonal."""
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


def _some(features: Tensor) -> Tensor:
    """As many rows as are compared, drawn by a fixed seed, since a split may be in an order of its own."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed_for("compared")))
    return features[order[:COMPARED]]


@metric(FeatureNetwork(), Predicted("prior"), PredictedReal("test"), unit="KD", direction="lower")
def kd(trained: Trained, samples: Predictions, test: Predictions) -> Score:
    """Squared MMD of 4,000 prior samples to 4,000 test images, on the features of `fd`, under KID's cubic kernel.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Compares rows of one dataset.
    """
    x, y = _some(samples.features), _some(test.features)
    value, se = kernel_distance(x, y)
    return Score(value, len(x), se, trained.note)


@metric(InceptionWeights(), InceptionFeatures("prior"), InceptionFeatures("test"), unit="KID", direction="lower")
def kid(weights: Weights, samples: Tensor, test: Tensor) -> Score:
    """Kernel Inception distance: squared MMD of prior samples to the test split under (x.y/d + 1)^3, over all pairs.

    Unbiased: about 0, on either side, for a perfect sampler at any number of images. Binkowski et al. 2018.
    """
    value, se = kernel_distance(samples, test)
    return Score(value, len(samples), se, weights.note)
