"""How far the codes of the test split are, as a whole, from the prior that samples are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bench import abilities
from bench.abilities import require
from bench.blocks.kernels import imq, mmd2
from bench.errors import NotAvailable
from bench.images import to_float
from bench.measurement import Context, Request, Score, metric
from bench.protocol import seed_for

BATCH = 128  #: codes a side of each estimate: the resolution at which a training batch sees the discrepancy
DRAWS = 1_000  #: of each side, behind the floor


@dataclass(frozen=True)
class AggregatePosterior(Request[Tensor]):
    """A draw from q(z|x), or the code where it is deterministic, for each test image: (N, d) float64.

    In random order, since test splits have one of their own (MNIST's second half comes from other writers). n/a where
    the prior isn't N(0, I).
    """

    def resolve(self, context: Context) -> Tensor:
        model, images = context.model, context.data.test
        if isinstance(model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: their prior is no N(0, I)")
        able = require(model, abilities.Encodes)
        found = []
        for part in context.chunks(len(images), "aggregate-posterior"):
            index = torch.arange(part.start, part.stop)
            x, y = to_float(images.take(index, context.device)), images.labels(index, context.device)
            if isinstance(model, abilities.HasPosterior):
                found.append(model.posterior(x, y).sample().cpu().double())
            else:
                found.append(able.encode(x, y).cpu().double())
        codes = torch.cat(found)
        if len(codes) < 2:
            raise NotAvailable("needs two test images")
        if isinstance(model, abilities.HasPrior) and not _is_standard_normal(model, codes[:2], context.device):
            raise NotAvailable("its prior isn't N(0, I)")
        order = torch.Generator().manual_seed(seed_for("aggregate-posterior", "order"))
        return codes[torch.randperm(len(codes), generator=order)]


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
