"""Axes of the page's own figures. Colours are classes of the style sheet, so that light and dark are one drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.drawing.figures import Box, Spot, element, text_of, ticks

SIZE = 12.0  #: of letters


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Scale:
        """One that holds all of `values` (positive ones of a logarithm), with some room around them."""
        at = [math.log10(v) for v in values if v > 0] if log else list(values)
        low, high = (min(at), max(at)) if at else (0.0, 1.0)
        room = pad * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - room, high + room, start, end, log)

    def __call__(self, value: float) -> float:
        at = (math.log10(value) if value > 0 else self.low) if self.log else value
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values on it, and how they are written."""
        if not self.log:
            return [(v, number(v)) for v in ticks(self.low, self.high, about)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        fine = self.high - self.low < 1.6
        values = [m * 10.0**d for d in decades for m in ((1, 2, 5) if fine else (1,))]
        return [(v, number(v)) for v in values if self.low <= math.log10(v) <= self.high]


def number(value: float) -> str:
    """A tick's number."""
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, power = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def figure(width: float, height: float, told: str, *inner: str, name: str = "") -> str:
    """An SVG that fills its box; `told` is what it shows, for those who don't see it."""
    kinds = {"class_": f"chart {name}".strip(), "role": "img", "aria_label": told}
    return element("svg", *inner, viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}", **kinds)


def text(words: str, x: float, y: float, *, anchor: str = "start", kind: str = "", size: float = SIZE) -> str:
    style: dict[str, object] = {"class_": kind} if kind else {}
    return element("text", text_of(words), x=x, y=y, text_anchor=anchor, font_size=size, **style)


def line(a: Spot, b: Spot, kind: str) -> str:
    return element("line", x1=a[0], y1=a[1], x2=b[0], y2=b[1], class_=kind)


def path(spots: Sequence[Spot], kind: str, *, close: bool = False, **more: object) -> str:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots) + ("Z" if close else "")
    return element("path", d=d, class_=kind, **more)


def left_axis(scale: Scale, frame: Box, about: int = 4) -> list[str]:
    """Faint lines across the frame, with their numbers on the left."""
    out = []
    for value, words in scale.ticks(about):
        y = scale(value)
        out += [line((frame.left, y), (frame.right, y), "rule"), text(words, frame.left - 7, y + 4, anchor="end")]
    return out


def bottom_axis(scale: Scale, frame: Box, about: int = 5) -> list[str]:
    """The frame's lower edge, with marks and numbers."""
    out = [line((frame.left, frame.bottom), (frame.right, frame.bottom), "axis")]
    for value, words in scale.ticks(about):
        x = scale(value)
        out += [
            line((x, frame.bottom), (x, frame.bottom + 4), "axis"),
            text(words, x, frame.bottom + 17, anchor="middle"),
        ]
    return out


def spread_out(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places for labels near `wanted` ones, `step` apart, between `low` and `high` as far as there's room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    at = {i: wanted[i] for i in order}
    for previous, i in pairwise(order):
        at[i] = max(at[i], at[previous] + step)
    ceiling = high
    for i in reversed(order):
        at[i] = min(at[i], ceiling)
        ceiling = at[i] - step
    floor = low
    for i in order:
        at[i] = max(at[i], floor)
        floor = at[i] + step
    return [at[i] for i in range(len(wanted))]
