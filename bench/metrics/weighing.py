"""log p(x) by importance weighting: Burda et al. 2016, eq. 8.

L_K(x) = log 1/K sum_k p(x, z_k) / q(z_k|x),   z_k ~ q(z|x),   ELBO = L_1 <= L_K <= log p(x) on average
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.images import to_float
from bench.contracts.measurement import Context, Request, Score, metric
from bench.evidence import positions
from bench.metrics.likelihood import OfBinarised
from bench.util.errors import NotAvailable

AT_ONCE = 1_000  #: images that are decoded at once, whatever K is
RISE = 0.3  #: nats between L_{K/2} and L_K above which K is said to be small


class Weighed(NamedTuple):
    """What K importance weights say of each image, all (n,) float64."""

    bound: Tensor  #: L_K, in nats
    half: Tensor  #: L_{K/2}, of the first half of the same draws; NaN at K = 1
    ess: Tensor  #: effective sample size, 1 to K


def weighed(log_weights: Tensor) -> Weighed:
    """(K, n) log p(x, z) - log q(z|x) to what they say of n images: one logsumexp over all K, in float64."""
    log_w = log_weights.double()
    total = log_w.logsumexp(0)
    return Weighed(_bound(log_w), _bound(log_w[: len(log_w) // 2]), (2 * total - (2 * log_w).logsumexp(0)).exp())


def _bound(log_w: Tensor) -> Tensor:
    k = len(log_w)
    return log_w.logsumexp(0) - math.log(k) if k else torch.full(log_w.shape[1:], math.nan, dtype=log_w.dtype)


@dataclass(frozen=True)
class Weighing(Request[Weighed]):
    """K importance weights for each of a fixed set of images of the scored split: K and how many, by the protocol.

    No label reaches the model. Draws come in blocks, so that memory doesn't grow with K.
    """

    def resolve(self, context: Context) -> Weighed:
        model = require(context.model, abilities.Weighs)
        images, scoring = context.data.test, context.scoring
        where = positions(images, scoring.nll_images)
        block = max(1, AT_ONCE // scoring.chunk)
        found = []
        for part in context.chunks(len(where), "log-weights"):
            x = to_float(images.take(where[part], context.device))
            y = torch.full((len(x),), -1, device=context.device)
            draws = []
            for k in range(0, scoring.nll_samples, block):
                context.alive()
                draws.append(model.log_weights(x, y, min(block, scoring.nll_samples - k)).cpu().double())
            found.append(weighed(torch.cat(draws)))
        return Weighed(*map(torch.cat, zip(*found, strict=True)))


def _seconds(context: Context) -> float:
    """What the weights will take, by the second of two blocks: the first one warms up."""
    model, scoring = require(context.model, abilities.Weighs), context.scoring
    where = positions(context.data.test, scoring.nll_images)
    block = min(max(1, AT_ONCE // scoring.chunk), scoring.nll_samples)
    x = to_float(context.data.test.take(where[: scoring.chunk], context.device))
    y = torch.full((len(x),), -1, device=context.device)
    model.log_weights(x, y, block)
    began = time.perf_counter()
    model.log_weights(x, y, block).cpu()
    return (time.perf_counter() - began) * len(where) / len(x) * scoring.nll_samples / block


@metric(Weighing(), OfBinarised(), unit="nats/image", direction="lower", predicted=_seconds)
def nll(weights: Weighed, of: str) -> Score:
    """-L_K, an upper bound on -log p(x) that tightens with K: importance weighting with K draws from q(z|x).

    Of grey pixels under Bernoulli likelihood it bounds what `elbo` does: dynamically binarised images. A model that
    knows labels sums them out. Burda et al. 2016, eq. 8.
    """
    rises = (weights.bound - weights.half).mean().item() > RISE
    falls = "still falls with the number of draws: ask for more --nll-samples" if rises else ""
    return Score.of(-weights.bound, (of, falls))


@metric(Weighing(), unit="of K draws", range=(0, math.inf), predicted=_seconds)
def ess(weights: Weighed) -> Score:
    """Effective sample size behind `nll`, (sum w)^2 / sum w^2: the median over images.

    A few of 100 is usual for a healthy VAE, and no alarm by itself: that is whether `nll` still falls with K.
    """
    if not bool(weights.ess.isfinite().all()):
        raise NotAvailable("its importance weights aren't finite")
    return Score(weights.ess.median().item(), len(weights.ess))
