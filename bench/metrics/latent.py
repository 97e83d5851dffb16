"""Codes of the test split: which dimensions are used, and how far all together are from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bench.blocks.gaussian import gaussian_kl
from bench.blocks.kernels import imq, mmd2
from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.images import to_float
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.util.errors import NotAvailable

BATCH = 128  #: codes a side of each estimate: the resolution at which a training batch sees the discrepancy
DRAWS = 1_000  #: of each side, behind the floor
ACTIVE = 0.01  #: variance of a dimension's posterior mean, or nats of its KL, above which it's in use
ROUNDING = 4 * torch.finfo(torch.float64).eps  #: nats that a KL of 0 may come to, as a sum of four terms about 1


class Draws(NamedTuple):
    """One code for each of N test images, in their order, and the diagonal Gaussians that it comes from, if any.

    All (N, d) float64.
    """

    z: Tensor
    mean: Tensor | None
    std: Tensor | None


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag std^2) of each of N test images and a draw from it: all (N, d) float64."""

    z: Tensor
    mean: Tensor
    std: Tensor
    note: str = ""


@dataclass(frozen=True)
class DrawnCodes(Request[Draws]):
    """A draw from q(z|x), or the code where it is deterministic, for each test image: one pass for the whole family."""

    def resolve(self, context: Context) -> Draws:
        model, images = context.model, context.data.test
        if isinstance(model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: their prior is no N(0, I)")
        able = require(model, abilities.Encodes)
        found, normal = [], []
        for part in context.chunks(len(images), "aggregate-posterior"):
            index = torch.arange(part.start, part.stop)
            x, y = to_float(images.take(index, context.device)), images.labels(index, context.device)
            if isinstance(model, abilities.HasPosterior):
                q = model.posterior(x, y)
                found.append(q.sample().cpu().double())
                normal.append(_moments(q))
            else:
                found.append(able.encode(x, y).cpu().double())
        z, moments = torch.cat(found), [m for m in normal if m is not None]
        if not bool(z.isfinite().all()):
            raise NotAvailable("its codes aren't finite")
        if len(moments) < len(found):
            return Draws(z, None, None)
        return Draws(z, *(torch.cat(parts).cpu().double() for parts in zip(*moments, strict=True)))


def _moments(q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of a diagonal Gaussian, (B, d); None of any other law."""
    while isinstance(q, Independent):
        q = q.base_dist
    return (q.mean, q.stddev) if isinstance(q, Normal) and q.mean.ndim == 2 else None


@dataclass(frozen=True)
class AggregatePosterior(Request[Tensor]):
    """`DrawnCodes` as draws from the aggregated posterior: (N, d) float64.

    In random order, since test splits have one of their own (MNIST's second half comes from other writers). n/a where
    the prior isn't N(0, I).
    """

    def resolve(self, context: Context) -> Tensor:
        codes = context.get(DrawnCodes()).z
        if len(codes) < 2:
            raise NotAvailable("needs two test images")
        _require_standard_normal(context, codes)
        order = torch.Generator().manual_seed(seed_for("aggregate-posterior", "order"))
        return codes[torch.randperm(len(codes), generator=order)]


@dataclass(frozen=True)
class Posteriors(Request[Posterior]):
    """The posterior of each test image. n/a unless it's a diagonal Gaussian with a density."""

    def resolve(self, context: Context) -> Posterior:
        model = context.model
        if not isinstance(model, abilities.HasPosterior) and not isinstance(model, abilities.HasCodes):
            own = getattr(model, "lacks", {}).get(abilities.Bound)
            raise NotAvailable(own or abilities.why_not(model, abilities.HasPosterior) or "")
        z, mean, std = context.get(DrawnCodes())
        if mean is None or std is None:
            raise NotAvailable("its posterior is no diagonal Gaussian")
        if not bool(mean.isfinite().all() and std.isfinite().all()):
            raise NotAvailable("its posterior isn't finite")
        if not bool((std > 0).all()):
            raise NotAvailable("its posterior has no density: a standard deviation of 0")
        return Posterior(z, mean, std, "of q(z|x, y), given the label" if model.uses_labels else "")


@dataclass(frozen=True)
class PosteriorKL(Request[Tensor]):
    """KL(q(z_j|x) || N(0, 1)) of each test image and dimension: (N, d) float64, in nats. n/a with another prior."""

    def resolve(self, context: Context) -> Tensor:
        z, mean, std, _ = context.get(Posteriors())
        _require_standard_normal(context, z)
        kl = gaussian_kl(mean, 2 * std.log())
        return kl.masked_fill(kl < ROUNDING, 0.0)

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {"kl_per_dimension": value.mean(0).float()}


def _require_standard_normal(context: Context, codes: Tensor) -> None:
    model: Any = context.model
    if isinstance(model, abilities.HasPrior) and not _is_standard_normal(model, codes[:2], context.device):
        raise NotAvailable("its prior isn't N(0, I)")


def _is_standard_normal(model: abilities.HasPrior, z: Tensor, device: torch.device) -> bool:
    z = torch.cat([z, torch.zeros_like(z[:1])]).float()
    own = model.log_prior(z.to(device)).cpu()
    standard = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return torch.allclose(own, standard, rtol=1e-3, atol=1e-3)


def _normal(n: int, dim: int, *purpose: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed_for("mmd", *purpose))
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


@metric(AggregatePosterior(), unit="MMD²")
def mmd(codes: Tensor) -> Score:
    """Squared maximum mean discrepancy between held-out codes and draws from N(0, I), a mean over batches of 128.

    Unbiased, so below 0 at times; the kernel is the one that the Wasserstein autoencoder trains with. A
    coordinate and no merit: codes that ignore the image reach 0.
    """
    pairs = zip(torch.split(codes, BATCH), torch.split(_normal(*codes.shape, "prior"), BATCH), strict=True)
    found = torch.stack([mmd2(x, y) for x, y in pairs if len(x) == min(BATCH, len(codes))])
    return replace(Score.of(found), n=len(codes))


@metric(AggregatePosterior(), unit="MMD²", range=(0, float("inf")))
def mmd_floor(codes: Tensor) -> Score:
    """What one batch of `mmd` comes to for codes that are N(0, I): root mean square of the estimate from 128 codes.

    Between equal laws the estimate is a sum of uncorrelated terms: its variance is the mean square of the kernel
    centred in both arguments, times 4 / n(n - 1) + 4 / n^2.
    """
    return Score(_floor(min(BATCH, len(codes)), codes.shape[1]), len(codes))


@lru_cache
def _floor(n: int, dim: int) -> float:
    kernel = imq(_normal(DRAWS, dim, "floor", 0), _normal(DRAWS, dim, "floor", 1), dim)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    square = centred.square().sum().item() / (DRAWS - 1) ** 2
    return math.sqrt(square * (4 / (n * (n - 1)) + 4 / n**2))


@metric(Posteriors(), unit="dimensions", range=(0, math.inf))
def active_units(posterior: Posterior) -> Score:
    """Latent dimensions whose posterior mean varies over the test images, by a variance above .01.

    Burda et al. 2016, section 5: Cov_x(E_q[z_j]) > .01, here over the whole test split, with N - 1. A dimension that
    doesn't reach it says nothing of the image; how much the others say, it doesn't tell.
    """
    n, d = posterior.mean.shape
    if n < 2:
        raise NotAvailable("needs two test images")
    return Score((posterior.mean.var(0, correction=1) > ACTIVE).sum().item(), n, notes=f"of {d}")


@metric(PosteriorKL(), unit="dimensions", range=(0, math.inf))
def active_kl(kl: Tensor) -> Score:
    """Latent dimensions that carry more than .01 nats: mean over test images of KL(q(z_j|x) || N(0, 1)).

    Above `active_units`, the posterior leaves the prior without following the image.
    """
    return Score((kl.mean(0) > ACTIVE).sum().item(), len(kl), notes=f"of {kl.shape[1]}")
