"""Gaussians fitted to features, and the Fréchet distance between two."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.util.errors import DataError, NotAvailable

PARTS = (1, 2, 4, 8)  #: a distance is extrapolated from all images, halves, quarters and eighths of them


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) in float64, of n feature vectors; None where nobody says of how many."""

    mean: Tensor
    cov: Tensor
    n: int | None

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Sample mean and unbiased sample covariance of (N, d).

        Raises:
            NotAvailable: there are fewer than two, or some aren't finite.
        """
        f = features.double()
        if len(f) < 2:
            raise NotAvailable(f"a covariance needs two images: there is {len(f) or 'none'}")
        if not bool(f.isfinite().all()):
            raise NotAvailable("its features aren't finite")
        mean = f.mean(0)
        centred = f - mean
        return cls(mean, centred.T @ centred / (len(f) - 1), len(f))

    @property
    def dim(self) -> int:
        return len(self.mean)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write what `python -m pytorch_fid --save-stats` writes, and `n` beside it; its reader passes over that.

        Raises:
            OSError: the file can't be written.
        """
        held: dict[str, Any] = {"mu": self.mean.cpu().numpy(), "sigma": self.cov.cpu().numpy()}
        if self.n is not None:
            held["n"] = np.array(self.n)
        with open(path, "wb") as file:
            np.savez_compressed(file, **held)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> Gaussian:
        """The Gaussian in a file of `to_npz` or of pytorch-fid; that one doesn't say of how many images.

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
        fault = _fault(mean, cov)
        if fault:
            raise DataError(f"{os.fspath(path)}: {fault}")
        return cls(mean, cov, n)


def _fault(mean: Tensor, cov: Tensor) -> str:
    """What keeps these from being a mean and a covariance; "" where nothing does."""
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        return f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)} aren't (d,) and (d, d)"
    if not bool(mean.isfinite().all() and cov.isfinite().all()):
        return "mu and sigma aren't finite"
    scale = float(cov.abs().max())
    if float((cov - cov.T).abs().max()) > 1e-6 * scale or float(cov.diagonal().min()) < -1e-6 * scale:
        return "sigma is no covariance: it isn't symmetric, or has negative variances"
    return ""


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


def influence(features: Tensor, reference: Gaussian) -> Tensor:
    """What each of `features` (N, d) adds, to first order, to N times their `frechet_distance` to `reference`: (N,).

    With a feature's deviation c from their mean mu, their covariance A, the reference's mean nu and R the root of its
    covariance,

        2 c.(mu - nu) + c.(I - R (R A R)^(-1/2) R) c        centred

    is the derivative of the distance towards that feature. Over draws of the features the distance has the standard
    error of its mean (the infinitesimal jackknife).
    """
    law = Gaussian.of(features)
    values, vectors = torch.linalg.eigh(reference.cov)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ law.cov @ root
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    there = values > 1e-12 * values.max()  # directions in which features don't vary have no part in it
    inverse = (vectors * torch.where(there, values, torch.inf).rsqrt()) @ vectors.T
    c = features.double() - law.mean
    found: Tensor = 2 * c @ (law.mean - reference.mean) + (c * (c - c @ (root @ inverse @ root))).sum(1)
    return found - found.mean()


def expected_bias(law: Gaussian, n: int | None, m: int | None) -> float:
    """What the Fréchet distance between n and m draws from one law comes to on average; None: that side is exact.

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


class Line(NamedTuple):
    """Least squares of y on x: y at x = 0, the standard error that the residuals give it, and the slope."""

    intercept: float
    se: float
    slope: float


def line(x: Tensor, y: Tensor) -> Line:
    """The line through the points x, y: both (P,), P >= 3."""
    design = torch.stack([torch.ones_like(x), x], 1).double()
    inverse = torch.linalg.inv(design.T @ design)
    found = inverse @ design.T @ y.double()
    residual = (y.double() - design @ found).square().sum() / (len(x) - 2)
    return Line(float(found[0]), float((inverse[0, 0] * residual).sqrt()), float(found[1]))


def extrapolated(x: Tensor, y: Tensor, least: int) -> Line:
    """The Fréchet distance of the laws behind x (N, d) and y (M, d), free of the bias of finite samples.

    That bias is a line in 1/N, whose end at 0 is where infinitely many would be (Chong & Forsyth 2020). Its points are
    the distance between as many of each, and the mean distances between their halves, quarters and, if `least` rows
    are left, eighths: parts without common rows, in a fixed random order. So every point has seen all rows, and the
    slope is that of the bias alone. The line's standard error says how straight it is, not how far another sample lies.

    Raises:
        NotAvailable: quarters would have fewer than `least` rows.
    """
    most = min(len(x), len(y))
    if most < PARTS[2] * least:
        raise NotAvailable(f"an extrapolation needs {PARTS[2] * least:,} images on both sides: there are {most:,}")
    generator = torch.Generator().manual_seed(0)
    x, y = (f[torch.randperm(len(f), generator=generator)[:most]] for f in (x, y))
    sizes, found = [], []
    for parts in PARTS:
        if (size := most // parts) < least:
            break
        pairs = zip(torch.split(x, size)[:parts], torch.split(y, size)[:parts], strict=True)
        distances = [frechet_distance(Gaussian.of(a), Gaussian.of(b)) for a, b in pairs]
        sizes.append(size)
        found.append(sum(distances) / parts)
    return line(1 / torch.tensor(sizes).double(), torch.tensor(found).double())
