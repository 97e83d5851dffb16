"""Tests of whether a difference is real: rows paired by seed, tested, and corrected for the number of comparisons.

With one seed all variants see the same batches in the same order, so differences are taken within seeds first:
d_i = b_i - a_i. Fewer than 3 show nothing. From 3 to 8, the paired t test (Student 1908), which takes the d_i for
normal; from 9, the sign-flip test (Fisher 1935), which takes them for symmetric, and for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from bench.contracts.measurement import Direction

LEVEL = 0.05  #: of a test; intervals cover 1 - LEVEL
POWER = 0.8  #: with which the smallest detectable difference is found
LEAST = 3  #: pairs below which nothing can be said
FLIPPED = 9  #: pairs from which signs are flipped
ENUMERATED = 16  #: pairs up to which all sign patterns are gone through; above,
DRAWS = 100_000  #: so many are drawn by a fixed seed, the observed one among them


@dataclass(frozen=True)
class Paired:
    """The mean difference b - a of `n` pairs with its test. None: too few pairs, or no bound."""

    n: int
    mean: float
    sd: float | None = None  #: of the differences, over seeds
    low: float | None = None  #: the 95 % interval of the mean difference
    high: float | None = None
    p: float | None = None  #: two-sided, not corrected
    detectable: float | None = None  #: the true difference that a test at 5 % finds with 80 % power


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Return the mean of b - a with its interval, its p and the smallest detectable difference.

    Differences that are all the same, to rounding, leave a t test nothing to estimate noise by: their signs are
    flipped whatever n is. So two equal rows have p = 1, and a constant difference p = 2 / 2**n, below 5 % from 6 seeds.

    Raises:
        ValueError: no pairs, or of different lengths.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values make no pairs")
    d = np.subtract(b, a)
    n, mean = len(d), float(d.mean())
    if n < 2:
        return Paired(n, mean)
    sd = float(d.std(ddof=1))
    constant = sd <= 1e-12 * float(np.abs([a, b]).max())
    sd = 0.0 if constant else sd
    if n < LEAST:
        return Paired(n, mean, sd)
    test = sign_flip if constant or n >= FLIPPED else paired_t
    p, low, high = test(np.full(n, mean) if constant else d)
    return Paired(n, mean, sd, low, high, p, None if constant else detectable(sd, n))


def paired_t(d: ArrayLike) -> tuple[float, float, float]:
    """Return p, low and high of Student's test that the mean of `d` (n,) is 0: two-sided, with the 95 % interval."""
    from scipy.stats import ttest_1samp

    test = ttest_1samp(d, 0)
    low, high = test.confidence_interval(1 - LEVEL)
    return float(test.pvalue), float(low), float(high)


def sign_flip(d: ArrayLike) -> tuple[float, float | None, float | None]:
    """Return p, low and high of the test that `d` (n,) is symmetric about 0, with the interval of its centre.

    p is the share of sign patterns that give a mean at least as far out. The interval inverts the test: flipping the
    signs in a subset S raises the sum just where the mean of S lies below the centre, so its ends are order statistics
    of the means of all subsets (Hartigan 1969). It covers 1 - 2k / 2**n exactly, k = floor(.025 * 2**n), and has no
    ends below 6 pairs.
    """
    values = np.asarray(d, float)
    sums, sizes = _subsets(values)
    none, rounding = sizes == 0, 1e-12 * float(np.abs(values).sum())
    up, down = float(np.mean(sums <= rounding)), float(np.mean(sums >= -rounding))
    means = sums / np.maximum(sizes, 1)
    k = int(LEVEL / 2 * len(sums))
    low = float(np.partition(np.where(none, -np.inf, means), k)[k])
    high = float(-np.partition(np.where(none, -np.inf, -means), k)[k])
    return min(1.0, 2 * min(up, down)), _finite(low), _finite(high)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _subsets(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return sums and sizes of subsets, the empty one first: all of them, or random ones of many values."""
    if len(values) > ENUMERATED:
        drawn, n = _drawn(len(values)), len(values)
        blocks = (np.unpackbits(drawn[i : i + 5_000], axis=1, count=n).astype(float) for i in range(0, DRAWS, 5_000))
        pairs = [(block @ values, block.sum(1)) for block in blocks]
        return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    sums, sizes = np.zeros(1), np.zeros(1)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    return sums, sizes


@lru_cache(maxsize=1)
def _drawn(n: int) -> NDArray[np.uint8]:
    """Return random subsets of n, a bit for each member."""
    bits = np.random.default_rng(0).integers(0, 256, (DRAWS, -(-n // 8)), np.uint8)
    bits[0] = 0
    return bits


def detectable(sd: float, n: int) -> float:
    """Return the true mean difference that a paired t test of `n` pairs with this sd finds at 5 % with 80 % power."""
    return sd / math.sqrt(n) * _noncentrality(n - 1)


@cache
def _noncentrality(freedom: int) -> float:
    """Return the noncentrality at which a two-sided t test has its power; the far tail, below 1e-5, is left out."""
    from scipy.special import nctdtrinc, stdtrit

    return float(nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, 1 - LEVEL / 2)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return corrected p values: that any true null hypothesis falls below 5 % happens in 5 % of cases (Holm 1979).

    Uniformly stronger than Bonferroni's correction, and as free of assumptions on how the tests depend on each other.
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """The verdict on one of several differences that are read together.

    `mark`: '+' b is better, '-' b is worse, '~' no significant difference or too few pairs, '' a significant
    difference of a metric without a direction.
    """

    mark: Literal["+", "-", "~", ""]
    p: float | None = None  #: corrected; None: too few pairs


def verdicts(family: Sequence[tuple[Paired, Direction | None]]) -> list[Verdict]:
    """Return the verdict on each difference of a `family`, given which direction is better, None for neither.

    Holm's correction is over the differences with a direction, and apart from them over the others.
    """
    ps: list[float | None] = [test.p for test, _ in family]
    for directed in (True, False):
        tested = [i for i, (test, way) in enumerate(family) if test.p is not None and (way is not None) == directed]
        for i, p in zip(tested, holm([p for i in tested if (p := ps[i]) is not None]), strict=True):
            ps[i] = p
    return [Verdict(_mark(test, way, p), p) for (test, way), p in zip(family, ps, strict=True)]


def _mark(test: Paired, direction: Direction | None, p: float | None) -> Literal["+", "-", "~", ""]:
    if p is None or p > LEVEL:
        return "~"
    if direction is None:
        return ""
    return "+" if (test.mean > 0) == (direction == "higher") else "-"


@dataclass(frozen=True)
class OverImages:
    """A mean difference b - a over `n` test images, with the standard error of that mean."""

    n: int
    mean: float
    se: float


def paired_over_images(a: ArrayLike, b: ArrayLike) -> OverImages:
    """Return b - a of two trained models with its standard error over test images and draws of z.

    It says nothing about training: other seeds may differ by far more.

    Args:
        a, b: values of the same images: (N,) of one pair of models, or (seeds, N), averaged over seeds first.

    Raises:
        ValueError: other shapes, or fewer than two images.
    """
    of_a, of_b = np.asarray(a, float), np.asarray(b, float)
    if of_a.shape != of_b.shape or of_a.ndim not in (1, 2) or of_a.shape[-1] < 2:
        raise ValueError(f"values of shape {of_a.shape} and {of_b.shape} are not paired over images")
    d = np.atleast_2d(of_b - of_a).mean(0)
    return OverImages(len(d), float(d.mean()), float(d.std(ddof=1)) / len(d) ** 0.5)
