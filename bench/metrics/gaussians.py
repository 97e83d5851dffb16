"""Gaussians fitted to features, and the Fréchet distance between two."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.util.errors import DataError, NotAvailable


@dataclass(frozen=True)
class FeatureGaussian:
    """Mean (d,) and covariance (d, d) in float64, of n feature vectors; n is None where a file does not say it."""

    mean: Tensor
    cov: Tensor
    n: int | None

    @classmethod
    def of(cls, features: Tensor) -> FeatureGaussian:
        """Return mean and unbiased covariance of (N, d). Raises NotAvailable if N < 2, or for non-finite features."""
        f = features.double()
        if len(f) < 2:
            raise NotAvailable(f"a covariance needs two images: there is {len(f) or 'none'}")
        if not bool(f.isfinite().all()):
            raise NotAvailable("some features aren't finite")
        mean = f.mean(0)
        centred = f - mean
        return cls(mean, centred.T @ centred / (len(f) - 1), len(f))

    @property
    def dim(self) -> int:
        return len(self.mean)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write the arrays that `python -m pytorch_fid --save-stats` writes, and `n`, which its reader ignores."""
        arrays: dict[str, Any] = {"mu": self.mean.cpu().numpy(), "sigma": self.cov.cpu().numpy()}
        if self.n is not None:
            arrays["n"] = np.array(self.n)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> FeatureGaussian:
        """Return the Gaussian in a file of `to_npz` or of pytorch-fid, which does not store the number of images.

        Raises:
            DataError: the file can't be read, or its `mu` and `sigma` are no mean and covariance.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                mean, cov = (torch.as_tensor(file[name], dtype=torch.float64) for name in ("mu", "sigma"))
                n = int(file["n"]) if "n" in file else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{os.fspath(path)} holds no statistics of features: {error}",
                fix="Make it by `python -m pytorch_fid --save-stats FOLDER FILE.npz`.",
            ) from None
        if fault := _fault(mean, cov):
            raise DataError(f"{os.fspath(path)}: {fault}")
        return cls(mean, cov, n)


def _fault(mean: Tensor, cov: Tensor) -> str:
    """Return why these are no mean and covariance; "" if they are."""
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        return f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)} aren't (d,) and (d, d)"
    if not bool(mean.isfinite().all() and cov.isfinite().all()):
        return "mu and sigma aren't finite"
    scale = float(cov.abs().max())
    if float((cov - cov.T).abs().max()) > 1e-6 * scale or float(cov.diagonal().min()) < -1e-6 * scale:
        return "sigma is no covariance: it isn't symmetric, or has negative variances"
    return ""


def frechet_distance(a: FeatureGaussian, b: FeatureGaussian) -> float:
    """Return |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    tr (A B)^(1/2) = tr (R B R)^(1/2) with R the symmetric root of A: only symmetric matrices are
    decomposed, so singular covariances are no special case. Rounding may leave the value a little below 0.
    """
    root = _root(a.cov)
    product = root @ b.cov @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * overlap
    return float(distance)


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def influence(features: Tensor, reference: FeatureGaussian) -> Tensor:
    """Return what each of `features` (N, d) adds, to first order, to N times their distance to `reference`: (N,).

    With a feature's deviation c from their mean mu, their covariance A, the reference's mean nu and R the root of its
    covariance,

        2 c.(mu - nu) + c.(I - R (R A R)^(-1/2) R) c        centred

    is the derivative of `frechet_distance` towards that feature. Over draws of the features, the distance has the
    standard error of the mean of these values (the infinitesimal jackknife).
    """
    law = FeatureGaussian.of(features)
    root = _root(reference.cov)
    product = root @ law.cov @ root
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    varies = values > 1e-12 * values.max()  # directions without variance have no influence
    inverse = (vectors * torch.where(varies, values, torch.inf).rsqrt()) @ vectors.T
    c = features.double() - law.mean
    derivative: Tensor = 2 * c @ (law.mean - reference.mean) + (c * (c - c @ (root @ inverse @ root))).sum(1)
    return derivative - derivative.mean()


def expected_bias(law: FeatureGaussian, n: int | None, m: int | None) -> float:
    """Return the mean Fréchet distance between n and m draws from one law; None stands for an exact side.

    With l the eigenvalues of its covariance, to first order in 1/n and 1/m:

        sum_i l_i (1/n + 1/m) + (sum_ij l_i l_j / (l_i + l_j) + sum_i l_i / 2) / 2 (1/(n-1) + 1/(m-1))

    For N(0, I_d) and n = m = N that is 2 d / N + d (d + 1) / (2 (N - 1)). Exact for Gaussian features; heavier tails
    make it larger.
    """
    counts = [count for count in (n, m) if count is not None]
    values = torch.linalg.eigvalsh(law.cov).clamp_min(0)
    pairs = values[:, None] * values / (values[:, None] + values).clamp_min(torch.finfo(values.dtype).tiny)
    of_mean = values.sum() * sum(1 / count for count in counts)
    of_covariance = (pairs.sum() + values.sum() / 2) / 2 * sum(1 / (count - 1) for count in counts)
    return float(of_mean + of_covariance)
