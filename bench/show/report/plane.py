"""Figures of codes: their plane as a scatter plot, and values of each unit or code as bars."""

from __future__ import annotations

from torch import Tensor

from bench.drawing.figures import Drawing, Part, Scale, Stroke, Words, element, number, text_of
from bench.show.plane import CodePlane

SIDE = 340.0  #: pixels of the scatter plot and of the sheet of tiles
CLASSES = 20  #: colours of the style sheet


def scatter(plane: CodePlane, title: str) -> str:
    """Return an SVG of codes as dots, coloured by label, as large as the sheet of tiles."""
    x, y = Scale(*plane.u, 0.0, SIDE), Scale(*plane.v, SIDE, 0.0)
    parts: list[Part] = []
    for value, words in x.ticks(5):
        if 20 < x(value) < SIDE - 20:
            parts += [Stroke([(x(value), 0), (x(value), SIDE)]), Words(words, x(value) + 3, SIDE - 5, 9)]
    for value, words in [] if plane.flat else y.ticks(5):
        if 20 < y(value) < SIDE - 20:
            parts += [Stroke([(0, y(value)), (SIDE, y(value))]), Words(words, 4, y(value) - 3, 9)]
    dots = []
    for label in sorted(set(plane.labels.tolist())):
        spots = [(x(u), y(v)) for u, v in plane.at[plane.labels == label].tolist()]
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
    y = Scale(0.0, max(max(shown), 1e-9) * 1.02, 78.0, 14.0)
    step = (SIDE - 40) / len(shown)
    parts: list[Part] = [
        Stroke([(34, y(0)), (SIDE - 4, y(0))], "axis"),
        Words(number(float(f"{shown[0]:.2g}")), 30, y(shown[0]) + 4, 9, "end"),
        Words("0", 30, y(0) + 3, 9, "end"),
    ]
    rectangles = []
    for i, (value, unit) in enumerate(zip(shown, ordered.indices.tolist(), strict=False)):
        about = element("title", text_of(f"{name.format(unit)}: {value:.3g}"))
        tall = max(y(0) - y(max(value, 0.0)), 0.5)
        size = {"width": max(step - 1.5, 0.8), "height": tall}
        rectangles.append(element("rect", about, x=36 + i * step, y=y(0) - tall, **size, class_="bar"))
    return Drawing(SIDE, 96.0, title, parts).inline("bars", *rectangles)
