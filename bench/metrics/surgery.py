"""ELBO surgery: the mean KL as what a code tells of its image, and how far all codes together are from the prior.

mean KL(q(z|x) || p(z)) = I_q(n; z) + KL(q(z) || p(z)),   q(z) = 1/N sum_n q(z|x_n)

Hoffman & Johnson 2016, "ELBO surgery: yet another way to carve up the variational evidence lower bound".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.evidence import positions
from bench.metrics.latent import PosteriorKL, Posteriors
from bench.util.errors import NotAvailable

IMAGES = 3_000  #: N: each of their draws meets each of their posteriors
SATURATED = 1.0  #: nats below ln N from which an estimate may be no more than ln N


class Pointwise(NamedTuple):
    """ln q(z_n|x_n) / q(z_n) of N images, (N,) float64 in nats, and where they are in the test split."""

    values: Tensor
    where: Tensor
    note: str = ""

    @property
    def most(self) -> float:
        """ln N, which no mean of `values` exceeds."""
        return math.log(len(self.values))

    @property
    def saturated(self) -> bool:
        return self.values.mean().item() > self.most - SATURATED


def information(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """ln q(z_n|x_n) - ln 1/N sum_m q(z_n|x_m), for one draw z_n of each of N diagonal Gaussians: (N, d) to (N,).

    Its mean is I_q(n; z) = ln N - E H[q(n|z)]. In float64: the square is expanded into a product of matrices, and
    narrow posteriors cancel there. What that rounding could make of 0 is 0.
    """
    z, mean, std = z.double(), mean.double(), std.double()
    centre = mean.mean(0)
    z, mean = z - centre, mean - centre
    precision = std**-2
    constant = (mean.square() * precision).sum(1) + 2 * std.log().sum(1)
    rows = torch.cat([z.square(), -2 * z, torch.ones_like(z[:, :1])], 1)
    columns = torch.cat([precision, mean * precision, constant[:, None]], 1)
    mixture = torch.cat([(-0.5 * block @ columns.T).logsumexp(1) for block in torch.split(rows, 500)])
    terms, most = rows * columns, math.log(len(z))
    found = -0.5 * terms.sum(1) - mixture + most
    rounding = torch.finfo(z.dtype).eps * (terms.shape[1] * terms.abs().sum(1) + most)
    return found.masked_fill(found.abs() < rounding, 0.0)


@dataclass(frozen=True)
class Information(Request[Pointwise]):
    """`information` on `n` test images, drawn by a fixed seed."""

    n: int = IMAGES

    def resolve(self, context: Context) -> Pointwise:
        z, mean, std, note = context.get(Posteriors())
        if len(z) < 2:
            raise NotAvailable("needs two test images")
        where = positions(context.data.test, self.n)
        return Pointwise(information(z[where], mean[where], std[where]), where, note)


def _caveats(pointwise: Pointwise, *others: str) -> list[Note | str]:
    return [Note("ln N = {most}", "largest_estimate", {"most": pointwise.most}), pointwise.note, *others]


@metric(Information(), unit="nats")
def mutual_information(found: Pointwise) -> Score:
    """I_q(n; z) = ln N - E H[q(n|z)]: how much a code tells which of N test images it comes from.

    Hoffman & Johnson 2016, over all N at once, one draw each. It can't exceed ln N: within a nat of that it's
    "saturated", and no more than a lower bound of what codes tell of images.
    """
    about = "saturated: within 1 nat of ln N, so a lower bound" if found.saturated else ""
    return Score.of(found.values, _caveats(found, about))


@metric(Information(), PosteriorKL(), unit="nats")
def marginal_kl(found: Pointwise, kl: Tensor) -> Score:
    """KL(q(z) || p(z)) of the aggregated posterior of N test images: their mean KL minus `mutual_information`.

    Never below 0 but by the noise of one draw each. Where the information is saturated, it's that of N narrow peaks
    and an upper bound of that of all images.
    """
    about = "an upper bound: `mutual_information` is saturated" if found.saturated else ""
    return Score.of(kl[found.where].sum(1) - found.values, _caveats(found, about))
