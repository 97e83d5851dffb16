"""Gaussians fitted to features, and the Fréchet distance between two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of n feature vectors, in float64."""

    mean: Tensor
    cov: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Sample mean and unbiased sample covariance of (N, d)."""
        f = features.double()
        mean = f.mean(0)
        centred = f - mean
        return cls(mean, centred.T @ centred / (len(f) - 1), len(f))

    @property
    def dim(self) -> int:
        return len(self.mean)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    tr (A B)^(1/2) = tr (R B R)^(1/2) with R the symmetric root of A: only symmetric matrices are
    decomposed, so singular covariances are no special case. Rounding may leave a value a little below 0;
    it's returned as it is.
    """
    values, vectors = torch.linalg.eigh(a.cov)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ b.cov @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * overlap
    return float(distance)
