"""Histograms over classes, and how far one is from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence(counts: Tensor, reference: Tensor) -> float:
    """KL(p || q) of two histograms given as counts (K,), in nats; inf where p has a class that q hasn't."""
    p, q = counts.double() / counts.sum(), reference.double() / reference.sum()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


def expected_divergence(classes: int, n: int) -> float:
    """What `n` draws from q itself come to on average, over `classes` that q has: (K - 1) / (2 N), for large N."""
    return (classes - 1) / (2 * n)


def spread(counts: Tensor, reference: Tensor) -> float:
    """Standard deviation of `divergence` over redraws of the counts.

    By the delta method, to the second order since the first vanishes at p = q:
    Var_p[log p/q] / N + (K - 1) / (2 N^2).
    """
    n, seen = int(counts.sum()), counts > 0
    p, q = (counts.double() / n)[seen], (reference.double() / reference.sum())[seen]
    logs = (p / q).log()
    first = (p * logs.square()).sum() - (p * logs).sum().square()
    return math.sqrt(max(first.item(), 0.0) / n + (int((reference > 0).sum()) - 1) / (2 * n * n))
