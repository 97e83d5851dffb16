"""ELBO surgery: the mean KL, split into the information of codes on images and the KL of all codes from the prior.

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
    given_label: bool = False

    @property
    def most(self) -> float:
        """The largest possible mean of `values`, ln N."""
        return math.log(len(self.values))

    @property
    def saturated(self) -> bool:
        return self.values.mean().item() > self.most - SATURATED


def information(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ln q(z_n|x_n) - ln 1/N sum_m q(z_n|x_m), for one draw z_n of each of N diagonal Gaussians: (N, d) to (N,).

    Its mean is I_q(n; z) = ln N - E H[q(n|z)]. In float64: the square is expanded into a product of matrices, and
    narrow posteriors cancel there. Values within the rounding error of 0 are set to 0.
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
    values = -0.5 * terms.sum(1) - mixture + most
    rounding = torch.finfo(z.dtype).eps * (terms.shape[1] * terms.abs().sum(1) + most)
    return values.masked_fill(values.abs() < rounding, 0.0)


@dataclass(frozen=True)
class Information(Request[Pointwise]):
    """`information` on `n` test images, drawn by a fixed seed."""

    n: int = IMAGES

    def resolve(self, context: Context) -> Pointwise:
        z, mean, std = context.get(Posteriors())
        if len(z) < 2:
            raise NotAvailable("needs two test images")
        where = positions(context.data.test, self.n)
        return Pointwise(information(z[where], mean[where], std[where]), where, context.model.uses_labels)


def _notes(pointwise: Pointwise, saturated: str) -> list[Note]:
    notes = [Note("the largest possible estimate is ln N = {most}", "largest_estimate", {"most": pointwise.most})]
    if pointwise.given_label:
        notes.append(Note("of q(z|x, y), given the label", "given_label"))
    if pointwise.saturated:
        notes.append(Note(saturated, "saturated"))
    return notes


@metric(Information(), unit="nats")
def mutual_information(pointwise: Pointwise) -> Score:
    """Mutual information of code and image, nats: I_q(n; z) = ln N - E H[q(n|z)] over N test images.

    Hoffman & Johnson 2016, over all N at once, one draw each. It can't exceed ln N: within a nat of that a note calls
    it saturated, and it is only a lower bound of the information over all images.
    """
    return Score.of(pointwise.values, _notes(pointwise, "saturated: within 1 nat of ln N, so a lower bound"))


@metric(Information(), PosteriorKL(), unit="nats")
def marginal_kl(pointwise: Pointwise, kl: Tensor) -> Score:
    """KL(q(z) || p(z)) of the aggregated posterior of N test images, nats: their mean KL minus `mutual_information`.

    Not below 0 but by the noise of one draw each. Where the information is saturated, this is that of N narrow peaks
    and an upper bound of that of all images.
    """
    notes = _notes(pointwise, "an upper bound: `mutual_information` is saturated")
    return Score.of(kl[pointwise.where].sum(1) - pointwise.values, notes)
