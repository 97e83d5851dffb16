"""Whether a difference is real: rows paired by seed, tested, and corrected for how many were looked at.

At one seed all variants see the same batches in the same order, so differences are taken within seeds first:
d_i = b_i - a_i. Fewer than 3 can't say anything. From 3 to 8, the paired t test (Student 1908), which takes the d_i for
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
    """What `n` pairs show of the mean difference b - a. None: they can't say, or there's no bound."""

    n: int
    mean: float
    sd: float | None = None  #: of the differences, over seeds
    low: float | None = None  #: the 95 % interval of the mean difference
    high: float | None = None
    p: float | None = None  #: two-sided, not corrected
    detectable: float | None = None  #: true difference that a test at 5 % would find with 80 % power


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """The mean of b - a, with its interval, its p and the smallest detectable difference.

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
    """Student's test that the mean of differences `d` (n,) is 0: two-sided p, and the 95 % interval of the mean."""
    from scipy.special import stdtr, stdtrit

    values = np.asarray(d, float)
    n, mean = len(values), float(values.mean())
    se = float(values.std(ddof=1)) / n**0.5
    half = float(stdtrit(n - 1, 1 - LEVEL / 2)) * se
    return float(2 * stdtr(n - 1, -abs(mean) / se)), mean - half, mean + half


def sign_flip(d: ArrayLike) -> tuple[float, float | None, float | None]:
    """The test that differences `d` (n,) are symmetric about 0: two-sided p, and the interval of their centre.

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
    """Sums and sizes of subsets, the empty one first: all of them, or random ones of many values."""
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
    """Subsets of n, a bit for each member."""
    bits = np.random.default_rng(0).integers(0, 256, (DRAWS, -(-n // 8)), np.uint8)
    bits[0] = 0
    return bits


def detectable(sd: float, n: int) -> float:
    """The true mean difference that a paired t test of `n` pairs finds with 80 % power at 5 %, if their sd is `sd`."""
    return sd / math.sqrt(n) * _noncentrality(n - 1)


@cache
def _noncentrality(freedom: int) -> float:
    """At which a two-sided t test has its power. The far tail, below 1e-5 of it, is left out."""
    from scipy.special import nctdtrinc, stdtrit

    return float(nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, 1 - LEVEL / 2)))


def holm(ps: Sequence[float]) -> list[float]:
    """p values so corrected that, of all true null hypotheses, any falls below 5 % in 5 % of cases (Holm 1979).

    Uniformly stronger than Bonferroni's, and as free of assumptions on how the tests hang together.
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """What is said of a difference among those that were looked at together.

    `mark`: b is better, b is worse, no significant difference or too few pairs to say; '' is a coordinate that differs.
    """

    mark: Literal["+", "-", "~", ""]
    p: float | None = None  #: corrected; None: too few pairs to say


def verdicts(family: Sequence[tuple[Paired, Direction | None]]) -> list[Verdict]:
    """What is said of each difference of a `family`, given which direction is better: None for a coordinate.

    Holm's correction is over the family's merits; over its coordinates apart, of which nothing is called better.
    """
    ps: list[float | None] = [test.p for test, _ in family]
    for merits in (True, False):
        tested = [i for i, (test, way) in enumerate(family) if test.p is not None and (way is not None) == merits]
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
    """What other test images, and other draws of z, would change in b - a of these very models.

    Nothing about training: other seeds may differ by far more.

    Args:
        a, b: values of the same images: (N,) of one pair of models, or (seeds, N), averaged over seeds first.

    Raises:
        ValueError: other shapes, or fewer than two images.
    """
    of_a, of_b = np.asarray(a, float), np.asarray(b, float)
    if of_a.shape != of_b.shape or of_a.ndim not in (1, 2) or of_a.shape[-1] < 2:
        raise ValueError(f"values of shape {of_a.shape} and {of_b.shape} aren't paired over images")
    d = np.atleast_2d(of_b - of_a).mean(0)
    return OverImages(len(d), float(d.mean()), float(d.std(ddof=1)) / len(d) ** 0.5)
