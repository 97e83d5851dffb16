"""Codes in two dimensions: the axes themselves if there are two, principal components if there are more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.drawing.figures import Drawing, Part, Scale, Stroke, Words, element, number, text_of
from bench.show.views import principal_directions
from bench.util.errors import NotAvailable

SIDE = 340.0  #: pixels of the scatter plot and of the sheet of tiles
CLASSES = 20  #: colours of the style sheet
REACH = (0.005, 0.995)  #: quantiles of codes that the frame holds


@dataclass(frozen=True)
class CodePlane:
    """A square through codes: its centre (d,), its directions (2, d), and its ranges; a line if d is 1."""

    centre: Tensor
    basis: Tensor
    u: tuple[float, float]  #: from left to right
    v: tuple[float, float]  #: from bottom to top
    at: Tensor  #: (N, 2), the codes projected onto the plane
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


def plane(codes: Tensor, labels: Tensor) -> CodePlane:
    """Return the plane of codes (N, d) with labels (N,).

    Raises:
        NotAvailable: the codes are discrete, or none is finite.
    """
    if not codes.is_floating_point() or codes.ndim != 2:
        raise NotAvailable("its codes are discrete: there is no plane through them")
    finite = codes.isfinite().all(1)
    z = codes[finite].float()
    if not len(z) or not z.shape[1]:
        raise NotAvailable("none of its codes is finite")
    d = z.shape[1]
    if d == 1:  # spread upwards by class
        spread = labels[finite].float() + 0.8 * (torch.arange(len(z)) % 97 / 96 - 0.5)
        at = torch.stack([z[:, 0], spread], 1)
        return CodePlane(torch.zeros(1), torch.ones(1, 1), _range(at[:, 0]), _range(at[:, 1]), at, ("z[0]", "class"))
    if d == 2:
        centre, basis, axes = torch.zeros(2), torch.eye(2), ("z[0]", "z[1]")
    else:
        centre, basis, shares = principal_directions(z)
        axes = (f"PC 1 ({shares[0]:.0%} of variance)", f"PC 2 ({shares[1]:.0%})")
    at = (z - centre) @ basis.T
    u, v = _range(at[:, 0]), _range(at[:, 1])
    half = max(u[1] - u[0], v[1] - v[0]) / 2
    u, v = ((sum(ends) / 2 - half, sum(ends) / 2 + half) for ends in (u, v))
    return CodePlane(centre, basis, u, v, at, axes)


def _range(values: Tensor) -> tuple[float, float]:
    low, high = (float(q) for q in values.quantile(torch.tensor(REACH)))
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def scatter(found: CodePlane, labels: Tensor, title: str) -> str:
    """Return an SVG of codes as dots, coloured by label (N,), as large as the sheet of tiles."""
    x, y = Scale(*found.u, 0.0, SIDE), Scale(*found.v, SIDE, 0.0)
    parts: list[Part] = []
    for value, words in x.ticks(5):
        if 20 < x(value) < SIDE - 20:
            parts += [Stroke([(x(value), 0), (x(value), SIDE)]), Words(words, x(value) + 3, SIDE - 5, 9)]
    for value, words in [] if found.flat else y.ticks(5):
        if 20 < y(value) < SIDE - 20:
            parts += [Stroke([(0, y(value)), (SIDE, y(value))]), Words(words, 4, y(value) - 3, 9)]
    dots = []
    for label in sorted(set(labels.tolist())):
        spots = [(x(u), y(v)) for u, v in found.at[labels == label].tolist()]
        inside = [(px, py) for px, py in spots if 2 <= px <= SIDE - 2 and 2 <= py <= SIDE - 2]
        if inside:  # dots are lines of no length with round ends: a tenth of the bytes of circles
            d = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in inside)
            dots.append(element("path", d=d, class_=f"dots k{label % CLASSES if label >= 0 else 'x'}"))
    middle = f"translate({SIDE / 2:.0f} {SIDE / 2:.0f})"
    pointer = element("g", element("circle", cx=0, cy=0, r=7), class_="pointer", transform=middle)
    return Drawing(SIDE, SIDE, title, parts).inline("scatter", *dots, pointer)


def bars(values: Tensor, title: str, name: str = "z[{}]", most: int = 64) -> str:
    """Return an SVG of values (d,) as bars, the largest first; `name` names the value of an index."""
    ordered = values.sort(descending=True)
    shown = ordered.values[:most].tolist()
    width, height, top = SIDE, 96.0, 14.0
    y = Scale(0.0, max(max(shown), 1e-9) * 1.02, height - 18, top)
    step = (width - 40) / len(shown)
    parts: list[Part] = [
        Stroke([(34, y(0)), (width - 4, y(0))], "axis"),
        Words(number(float(f"{shown[0]:.2g}")), 30, y(shown[0]) + 4, 9, "end"),
        Words("0", 30, y(0) + 3, 9, "end"),
    ]
    out = []
    for i, (value, unit) in enumerate(zip(shown, ordered.indices.tolist(), strict=False)):
        about = f"<title>{text_of(f'{name.format(unit)}: {value:.3g}')}</title>"
        tall = max(y(0) - y(max(value, 0.0)), 0.5)
        size = {"width": max(step - 1.5, 0.8), "height": tall}
        out.append(element("rect", about, x=36 + i * step, y=y(0) - tall, **size, class_="bar"))
    return Drawing(width, height, title, parts).inline("bars", *out)
