"""What a figure is made of: SVG elements with escaped text, round ticks, labels that keep out of each other's way."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from bench.util.text import plain

Spot = tuple[float, float]
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


def text_of(value: object) -> str:
    """Any text as XML may hold it, in an element or an attribute."""
    text = plain(str(value), lines=True)
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(letter, entity)
    return text


def element(tag: str, *inner: str, **attributes: object) -> str:
    """An element around elements; 'stroke_width' is the attribute stroke-width. Numbers get two decimals."""
    shown = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(v)}"' for name, v in attributes.items())
    return f"<{tag}{shown}>{''.join(inner)}</{tag}>" if inner else f"<{tag}{shown}/>"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else text_of(value)


def shortened(text: str, letters: int) -> str:
    """`text` on one line, cut in its middle if it's longer."""
    text = " ".join(plain(text).split())
    if len(text) <= letters:
        return text
    return f"{text[: letters * 2 // 3]}…{text[-(letters - letters * 2 // 3 - 1) :]}"


def width_of(text: str, size: float) -> float:
    """How wide a line of text will be at most, or nearly so: what shows it has fonts of its own."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return size * (0.6 * (len(text) - wide) + 1.05 * wide)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten, about so many."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next((m for m in (1, 2, 5) if raw <= m * power * 1.0001), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    places = max(0, -math.floor(math.log10(step)))
    return [round(i * step, places) + 0.0 for i in range(first, last + 1)]


class Box(NamedTuple):
    """A rectangle from (left, top) to (right, bottom); y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, spot: Spot, reach: float) -> Box:
        return cls(spot[0] - reach, spot[1] - reach, spot[0] + reach, spot[1] + reach)

    def grown(self, by: float) -> Box:
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def holds(self, spot: Spot) -> bool:
        return self.left <= spot[0] <= self.right and self.top <= spot[1] <= self.bottom

    def nearest(self, spot: Spot) -> Spot:
        """The point of the rectangle that is nearest to a spot."""
        return min(max(spot[0], self.left), self.right), min(max(spot[1], self.top), self.bottom)

    def crossed(self, a: Spot, b: Spot) -> bool:
        """Whether the segment from a to b meets the rectangle (Liang and Barsky 1984)."""
        enter, leave = 0.0, 1.0
        for start, end, low, high in ((a[0], b[0], self.left, self.right), (a[1], b[1], self.top, self.bottom)):
            delta = end - start
            if delta == 0:
                if not low < start < high:
                    return False
                continue
            near, far = sorted(((low - start) / delta, (high - start) / delta))
            enter, leave = max(enter, near), min(leave, far)
        return enter < leave


def crossing(a: Spot, b: Spot, c: Spot, d: Spot) -> bool:
    """Whether the segments ab and cd cross."""

    def side(p: Spot, q: Spot, r: Spot) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


TRIES = 12  #: orders in which labels are placed, those that found no room first
MARK = 6.0  #: half a mark's size
RADII = (8.0, 13.0, 20.0, 30.0, 42.0, 56.0, 72.0, 90.0, 110.0, 135.0, 165.0, 200.0, 240.0)
ANGLES = tuple(math.radians(a) for a in (-30, 150, 0, 180, 30, -150, -60, 120, 60, -120, -90, 90))


def placed(
    spots: Sequence[Spot],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    taken: Sequence[Box] = (),
    lines: Sequence[tuple[Spot, Spot]] = (),
) -> list[Box | None]:
    """Where each spot's label of (width, height) goes: as near as it can, inside the frame and on nothing else.

    No label covers a spot, a box in `taken` or another label, and no line from a spot to its label crosses one; the
    segments in `lines` are left free where that can be. None where there's no room left.
    """
    near = [sum(math.dist(p, q) < 60 for q in spots) for p in spots]
    order = sorted(range(len(spots)), key=lambda i: (-near[i], spots[i]))  # the crowded ones choose first
    possible = [
        [b for b in _around(s, z) if _free(b, s, spots, frame, taken)] for s, z in zip(spots, sizes, strict=True)
    ]
    best: dict[int, Box] = {}
    for _ in range(TRIES):
        found = _placed(order, spots, possible, lines)
        best = max(best, found, key=len)
        left = [i for i in order if i not in found]
        if not left:
            break
        order = left + [i for i in order if i in found]
    return [best.get(i) for i in range(len(spots))]


def _placed(
    order: Sequence[int], spots: Sequence[Spot], possible: Sequence[Sequence[Box]], lines: Sequence[tuple[Spot, Spot]]
) -> dict[int, Box]:
    """One label after the other, each at the first of its possible places that those before it have left."""
    found: dict[int, Box] = {}
    for i in order:
        leaders = [(spots[j], box.nearest(spots[j])) for j, box in found.items()]
        there = [b for b in possible[i] if _apart(b, spots[i], list(found.values()), leaders)]
        clear = (b for b in there if not any(b.crossed(*line) for line in lines))
        if (box := next(clear, next(iter(there), None))) is not None:
            found[i] = box
    return found


def _around(spot: Spot, size: tuple[float, float]) -> list[Box]:
    """Places for a box about a spot, the nearest first."""
    (x, y), (w, h) = spot, size
    boxes = []
    for radius in RADII:
        for angle in ANGLES:
            cos, sin = math.cos(angle), math.sin(angle)
            left = x + radius * cos + (0.0 if cos > 0.1 else -w if cos < -0.1 else -w / 2)
            top = y + radius * sin + (-h / 2 if abs(sin) < 0.1 else 0.0 if sin > 0 else -h)
            boxes.append(Box(left, top, left + w, top + h))
    return boxes


def _free(box: Box, spot: Spot, spots: Sequence[Spot], frame: Box, taken: Sequence[Box]) -> bool:
    """Whether a label fits and covers neither a spot nor what is taken, and its line meets no other spot."""
    marks = [Box.around(q, MARK) for q in spots]
    if not box.within(frame) or any(box.meets(other) for other in (*taken, *marks)):
        return False
    end = box.nearest(spot)
    return not any(mark.crossed(spot, end) for mark in marks if not mark.grown(MARK).holds(spot))


def _apart(box: Box, spot: Spot, labels: Sequence[Box], leaders: Sequence[tuple[Spot, Spot]]) -> bool:
    """Whether a label and its line keep clear of the labels and lines that are there."""
    end = box.nearest(spot)
    if any(box.meets(label.grown(1.0)) or label.crossed(spot, end) for label in labels):
        return False
    return not any(crossing(spot, end, *leader) or box.crossed(*leader) for leader in leaders)
