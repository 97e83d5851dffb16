"""Codes in two dimensions: the axes themselves where there are two, principal components of more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.drawing.figures import element, text_of
from bench.show.report.chart import Scale, figure, line, number, text
from bench.util.errors import NotAvailable

SIDE = 340.0  #: of the scatter plot and of the sheet of tiles, in pixels
CLASSES = 20  #: colours of the style sheet
REACH = (0.005, 0.995)  #: quantiles of codes that the frame holds


@dataclass(frozen=True)
class Plane:
    """A square of codes: centre (d,), and the two directions (2, d) in which it's spanned; a line if d is 1."""

    centre: Tensor
    basis: Tensor
    u: tuple[float, float]  #: from left to right
    v: tuple[float, float]  #: from bottom to top
    at: Tensor  #: (N, 2), where the codes are
    axes: tuple[str, str]

    @property
    def flat(self) -> bool:
        """Whether it's a line: what is drawn upwards means nothing."""
        return self.basis.shape[1] == 1

    def lattice(self, side: int) -> tuple[Tensor, int]:
        """Codes (rows * side, d) at the centres of `side` columns and as many rows, the upper left first."""
        rows = 1 if self.flat else side
        u = self.u[0] + (torch.arange(side) + 0.5) / side * (self.u[1] - self.u[0])
        v = self.v[1] - (torch.arange(rows) + 0.5) / rows * (self.v[1] - self.v[0])
        if self.flat:
            return self.centre + u[:, None] * self.basis[:1], rows
        grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], -1).view(-1, 2)
        return self.centre + grid @ self.basis, rows


def plane(codes: Tensor, labels: Tensor) -> Plane:
    """The plane of codes (N, d).

    Raises:
        NotAvailable: they are discrete, or none is finite.
    """
    if not codes.is_floating_point() or codes.ndim != 2:
        raise NotAvailable("its codes are discrete: there is no plane through them")
    z = codes[codes.isfinite().all(1)].float()
    if not len(z) or not z.shape[1]:
        raise NotAvailable("none of its codes is finite")
    d = z.shape[1]
    if d == 1:
        steps = labels[codes.isfinite().all(1)].float()
        at = torch.stack([z[:, 0], steps + 0.8 * (torch.arange(len(z)) % 97 / 96 - 0.5)], 1)
        return Plane(torch.zeros(1), torch.ones(1, 1), _span(at[:, 0]), _span(at[:, 1]), at, ("z[0]", "class"))
    if d == 2:
        centre, basis, axes = torch.zeros(2), torch.eye(2), ("z[0]", "z[1]")
    else:
        centre = z.mean(0)
        _, s, basis = torch.linalg.svd(z - centre, full_matrices=False)
        basis = _upright(torch.cat([basis, torch.zeros(2, d)])[:2])  # of a single code there is no second direction
        share = [*(s.square() / s.square().sum().clamp(min=1e-30)).tolist(), 0.0, 0.0]
        axes = (f"PC 1 ({share[0]:.0%} of variance)", f"PC 2 ({share[1]:.0%})")
    at = (z - centre) @ basis.T
    u, v = _span(at[:, 0]), _span(at[:, 1])
    half = max(u[1] - u[0], v[1] - v[0]) / 2
    middle = (u[0] + u[1]) / 2, (v[0] + v[1]) / 2
    return Plane(centre, basis, (middle[0] - half, middle[0] + half), (middle[1] - half, middle[1] + half), at, axes)


def _upright(basis: Tensor) -> Tensor:
    """Directions whose largest component is positive: a principal component has no sign of its own."""
    sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return basis * sign.where(sign != 0, torch.ones_like(sign))


def _span(values: Tensor) -> tuple[float, float]:
    low, high = (float(q) for q in values.quantile(torch.tensor(REACH)))
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def scatter(found: Plane, labels: Tensor, told: str) -> str:
    """Codes as dots, coloured by label (N,), without margins: it lies on the sheet of tiles."""
    x, y = Scale(*found.u, 0.0, SIDE), Scale(*found.v, SIDE, 0.0)
    out = []
    for value, words in x.ticks(5):
        if 20 < x(value) < SIDE - 20:
            out += [
                line((x(value), 0), (x(value), SIDE), "rule"),
                text(words, x(value) + 3, SIDE - 5, kind="tick", size=9),
            ]
    if not found.flat:
        for value, _ in y.ticks(5):
            if 20 < y(value) < SIDE - 20:
                out += [
                    line((0, y(value)), (SIDE, y(value)), "rule"),
                    text(number(value), 4, y(value) - 3, kind="tick", size=9),
                ]
    for label in sorted(set(labels.tolist())):
        spots = [(x(u), y(v)) for u, v in found.at[labels == label].tolist()]
        inside = [(px, py) for px, py in spots if 2 <= px <= SIDE - 2 and 2 <= py <= SIDE - 2]
        if inside:  # dots are lines of no length with round ends: a tenth of what circles would take
            d = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in inside)
            out.append(element("path", d=d, class_=f"dots k{label % CLASSES if label >= 0 else 'x'}"))
    out.append(
        element(
            "g",
            element("circle", cx=0, cy=0, r=7),
            class_="pointer",
            transform=f"translate({SIDE / 2:.0f} {SIDE / 2:.0f})",
        )
    )
    return figure(SIDE, SIDE, told, *out, name="scatter")


def bars(values: Tensor, told: str, name: str = "z[{}]", most: int = 64) -> str:
    """Values (d,) as bars, the largest first; `name` is what the one of an index is called."""
    found = values.sort(descending=True)
    shown = found.values[:most].tolist()
    width, height, top = 340.0, 96.0, 14.0
    y = Scale(0.0, max(max(shown), 1e-9) * 1.02, height - 18, top)
    step = (width - 40) / len(shown)
    out = [
        line((34, y(0)), (width - 4, y(0)), "axis"),
        text(number(float(f"{shown[0]:.2g}")), 30, y(shown[0]) + 4, anchor="end", size=9),
    ]
    out.append(text("0", 30, y(0) + 3, anchor="end", size=9))
    for i, (value, unit) in enumerate(zip(shown, found.indices.tolist(), strict=False)):
        title = f"<title>{text_of(f'{name.format(unit)}: {value:.3g}')}</title>"
        tall = max(y(0) - y(max(value, 0.0)), 0.5)
        out.append(
            element(
                "rect", title, x=36 + i * step, y=y(0) - tall, width=max(step - 1.5, 0.8), height=tall, class_="bar"
            )
        )
    return figure(width, height, told, *out, name="bars")
