"""The plane of codes: the axes themselves if a code has two dimensions, principal components if it has more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.util.errors import NotAvailable

REACH = (0.005, 0.995)  #: quantiles of codes that the frame holds


@dataclass(frozen=True)
class CodePlane:
    """A square through codes: its centre (d,), its directions (2, d), and its ranges; a line if d is 1."""

    centre: Tensor
    basis: Tensor
    u: tuple[float, float]  #: from left to right
    v: tuple[float, float]  #: from bottom to top
    at: Tensor  #: (N, 2), the finite codes projected onto the plane; of a line, upwards by class
    labels: Tensor  #: (N,)
    axes: tuple[str, str]

    @property
    def flat(self) -> bool:
        """True for a line: the vertical direction has no meaning."""
        return self.basis.shape[1] == 1

    def lattice(self, side: int) -> tuple[Tensor, int]:
        """Return codes (rows * side, d) on a lattice of `side` columns, the upper left first, and the rows' number."""
        rows = 1 if self.flat else side
        u = self.u[0] + (torch.arange(side) + 0.5) / side * (self.u[1] - self.u[0])
        v = self.v[1] - (torch.arange(rows) + 0.5) / rows * (self.v[1] - self.v[0])
        if self.flat:
            return self.centre + u[:, None] * self.basis[:1], rows
        grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], -1).view(-1, 2)
        return self.centre + grid @ self.basis, rows


def code_plane(codes: Tensor, labels: Tensor) -> CodePlane:
    """Return the plane of codes (N, d) with labels (N,).

    Raises:
        NotAvailable: the codes are discrete, or none is finite.
    """
    if not codes.is_floating_point() or codes.ndim != 2:
        raise NotAvailable("its codes are discrete: there is no plane through them")
    finite = codes.isfinite().all(1)
    z, labels = codes[finite].float(), labels[finite]
    if not len(z) or not z.shape[1]:
        raise NotAvailable("none of its codes is finite")
    d = z.shape[1]
    if d == 1:
        rank = torch.unique(labels, return_inverse=True)[1] + 0.8 * (torch.arange(len(z)) % 97 / 96 - 0.5)
        at = torch.stack([z[:, 0], rank], 1)
        u, v = _range(at[:, 0]), _range(at[:, 1])
        return CodePlane(torch.zeros(1), torch.ones(1, 1), u, v, at, labels, ("z[0]", ""))
    if d == 2:
        centre, basis, axes = torch.zeros(2), torch.eye(2), ("z[0]", "z[1]")
    else:
        centre = z.mean(0)
        _, s, basis = torch.linalg.svd(z - centre, full_matrices=False)
        basis = torch.cat([basis, torch.zeros(2, d)])[:2]  # a single code has no second direction
        sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()  # a principal direction has none of its own
        basis = basis * sign.where(sign != 0, torch.ones_like(sign))
        share = [*(s.square() / s.square().sum().clamp(min=1e-30)).tolist(), 0.0, 0.0]
        axes = (f"PC 1 ({share[0]:.0%} of variance)", f"PC 2 ({share[1]:.0%})")
    at = (z - centre) @ basis.T
    u, v = _range(at[:, 0]), _range(at[:, 1])
    half = max(u[1] - u[0], v[1] - v[0]) / 2
    u, v = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (u, v))
    return CodePlane(centre, basis, u, v, at, labels, axes)


def _range(values: Tensor) -> tuple[float, float]:
    low, high = (float(q) for q in values.quantile(torch.tensor(REACH)))
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room
