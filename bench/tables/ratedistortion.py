"""The rate-distortion plane: where each label's bound comes from, and which of them no other one dominates.

-ELBO = D + R for every model with a bound, so labels on one falling diagonal have the same ELBO (Alemi et al. 2018,
"Fixing a Broken ELBO", https://arxiv.org/abs/1711.00464). D and R are means over the rows' own evidence, no metric's;
of a table without its run, scores have to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from bench.contracts.measurement import Score
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.drawing.figures import FONT, MARK, Box, Spot, element, placed, shortened, text_of, ticks, width_of
from bench.plugins.registry import default
from bench.results.store import EVIDENCE, Run
from bench.util import inside
from bench.util.durable import write_file
from bench.util.errors import Damaged, StoreError

FIGURE = "rate-distortion.svg"
NO_BOUND = "no bound"
WORTH = 3  #: labels in one plane from which on a run draws it unasked


@dataclass(frozen=True)
class Point:
    """A label in the plane: means over seeds, and standard deviations where there are several, in nats per image."""

    label: str
    variant: str
    anchor: bool  #: to hold others against: it dominates nobody
    rates: tuple[float, ...]  #: of each seed
    distortions: tuple[float, ...]
    dominated_by: str | None = None  #: a label with no more rate, no more distortion, and less of one

    @property
    def rate(self) -> float:
        return fmean(self.rates)

    @property
    def distortion(self) -> float:
        return fmean(self.distortions)

    @property
    def negative_elbo(self) -> float:
        return self.rate + self.distortion

    @property
    def on_front(self) -> bool:
        return self.dominated_by is None and not self.anchor

    @property
    def spread(self) -> tuple[float, float]:
        """Standard deviations of rate and distortion over seeds; 0 of a single one."""
        return (stdev(self.rates), stdev(self.distortions)) if len(self.rates) > 1 else (0.0, 0.0)


@dataclass(frozen=True)
class Plane:
    """Labels that may stand in one plane: one dataset, likelihood, use of labels and protocol."""

    dataset: str
    heading: str  #: what its labels have in common
    points: tuple[Point, ...]  #: by rate

    @property
    def front(self) -> tuple[Point, ...]:
        return tuple(p for p in self.points if p.on_front)

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "heading": self.heading,
            "unit": "nats/image",
            "points": [
                {
                    "label": p.label,
                    "seeds": len(p.rates),
                    "rate": p.rate,
                    "rate_sd": p.spread[0] if len(p.rates) > 1 else None,
                    "distortion": p.distortion,
                    "distortion_sd": p.spread[1] if len(p.rates) > 1 else None,
                    "negative_elbo": p.negative_elbo,
                    "on_front": p.on_front,
                    "dominated_by": p.dominated_by,
                }
                for p in self.points
            ],
        }


def dominators(points: Sequence[tuple[float, float]]) -> list[int | None]:
    """For each (rate, distortion) a point that dominates it, or None: it's on the Pareto front.

    One dominates another that has no less of both, and more of one; equal points don't. Of several dominators it's
    the one with the least sum, the first of those.
    """

    def better(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    found = []
    for p in points:
        above = [i for i, q in enumerate(points) if better(q, p)]
        found.append(min(above, key=lambda i: (sum(points[i]), i), default=None))
    return found


def planes(runs: Iterable[tuple[Run | None, Iterable[Row]]]) -> tuple[list[Plane], dict[str, str]]:
    """The planes of the rows of these runs (None: of a table alone), and why labels are in none."""
    made: dict[tuple[Hashable, ...], dict[str, list[tuple[Row, float, float]]]] = {}
    without: dict[str, dict[int, str]] = {}
    for run, rows in runs:
        for row in rows:
            if row.status != "ok":
                why = f"{row.status}: {row.reason}" if row.reason else row.status
                without.setdefault(row.label, {}).setdefault(row.seed, why)
                continue
            means = _of_scores(row) if run is None else _of_evidence(run, row)
            if isinstance(means, str):
                without.setdefault(row.label, {}).setdefault(row.seed, means)
                continue
            images = row.data.get("test") if run is not None else row.scoring.get("test", row.data.get("test"))
            known = made.setdefault((*_plane(row), images), {}).setdefault(row.label, [])
            if row.seed not in {other.seed for other, _, _ in known}:  # the first named; of one run's, the newest
                known.append((row, *means))
    shown = {label for labels in made.values() for label in labels}
    found = [_made(list(labels.values()), key[-1]) for key, labels in made.items()]
    return found, {label: "; ".join(sorted({*why.values()})) for label, why in without.items() if label not in shown}


def _plane(row: Row) -> tuple[Hashable, ...]:
    """What must be equal for two rows to stand in one plane."""
    return row.dataset, row.likelihood, row.uses_labels, canonical([dict(row.training), dict(row.data)])


def _of_evidence(run: Run, row: Row) -> tuple[float, float] | str:
    """Mean rate and distortion of a row's evidence, or why there are none."""
    try:
        with safe_open(inside.file(run.done(row.cell) / EVIDENCE), framework="pt") as file:
            if not {"rate", "distortion"} <= set(file.keys()):
                return NO_BOUND
            rate, distortion = (file.get_tensor(name).double().mean().item() for name in ("rate", "distortion"))
    except (OSError, SafetensorError, Damaged):
        return NO_BOUND
    return (rate, distortion) if math.isfinite(rate) and math.isfinite(distortion) else NO_BOUND


def _of_scores(row: Row) -> tuple[float, float] | str:
    """The same by the metrics that stand for the bound and for its rate."""
    found = []
    for role in ("bound", "rate"):
        score = row.scores.get(name := default(role) or role)
        if not isinstance(score, Score):
            return f"its table has no {name}" if score is None else f"{name}: {score.reason}"
        found.append(score.value)
    bound, rate = found
    return rate, -bound - rate


def _made(labels: Sequence[Sequence[tuple[Row, float, float]]], images: Hashable) -> Plane:
    points = []
    for rows in labels:
        row, anchor = rows[0][0], all(row.anchor for row, _, _ in rows)
        rates, distortions = tuple(r for _, r, _ in rows), tuple(d for _, _, d in rows)
        points.append(Point(row.label, row.variant, anchor, rates, distortions))
    own = [p for p in points if not p.anchor]
    where = dominators([(p.rate, p.distortion) for p in own])
    by = {p.label: own[i].label for p, i in zip(own, where, strict=True) if i is not None}
    made = [replace(p, dominated_by=by.get(p.label)) for p in points]
    every = [row for rows in labels for row, _, _ in rows]
    return Plane(
        every[0].dataset, _heading(every, images), tuple(sorted(made, key=lambda p: (p.rate, p.distortion, p.label)))
    )


def _heading(rows: Sequence[Row], test: Hashable) -> str:
    """Return what the rows of a plane have in common; `test` is the digest of the images that it's about."""
    row = rows[0]
    splits = {r.scoring.get("split", "test") if r.scoring.get("test") == r.data.get("test") else "" for r in rows}
    split = splits.pop() if len(splits) == 1 else ""
    images, steps = (n if isinstance(n, int) else 0 for n in (row.data.get("test_images"), row.training.get("steps")))
    words = [f"{row.likelihood} likelihood"] if row.likelihood else []
    words += ["uses labels"] if row.uses_labels else []
    words += [f"{images:,} {split or 'held-out'} images"] if images and test == row.data.get("test") else []
    words += [f"{steps:,} steps a stage"] if steps else []
    return " · ".join(words)


# the picture

WIDTH, PLOT = 860.0, (580.0, 400.0)
LEFT, TOP, RIGHT, BOTTOM = 78.0, 62.0, 22.0, 78.0
SIZE = 12.5  # of labels' letters
LETTERS = 44  # of a label that are shown
INSET = 12.0  # of an arrow's middle from the frame
COLOURS = ("#1b4f9c", "#b5460f", "#1f7a4d", "#7a3a8f", "#8a6d00", "#a01c4a", "#2c7a86", "#5b5b5b")
GREY, FAINT, INK = "#6b6b6b", "#c9ced6", "#1a1a1a"


def draw(found: Sequence[Plane], without: Iterable[str] = (), alone: Iterable[Point] = ()) -> str:
    """An SVG file: a panel for each plane, one below the other.

    Full points are on the Pareto front, hollow ones dominated; the dotted staircase bounds what is dominated. An
    anchor that is far from all others is no part of the axes, but an arrow at the border.

    Args:
        without: labels without a place in any plane.
        alone: those whose planes aren't drawn.
    """
    found = list(found)
    panels, top = [], 0.0
    for plane in found:
        drawn, height = _panel(plane)
        panels.append(element("g", drawn, transform=f"translate(0 {top:.0f})"))
        top += height
    below = []
    if missing := sorted(without):
        below.append(f"Not shown, for want of a bound or a result: {', '.join(missing)}")
    if others := [f"{p.label}, at {_place(p)}" for p in alone]:
        below.append(f"Alone in {'its plane' if len(others) == 1 else 'their planes'}: {'; '.join(others)}")
    for words in below:
        panels.append(_text(shortened(words, 130), LEFT, top + 4, 11, fill=GREY))
        top += 18
    names = ", ".join(dict.fromkeys(plane.dataset for plane in found))
    told = "; ".join(
        f"{p.label}: rate {p.rate:.2f}, distortion {p.distortion:.2f}, -ELBO {p.negative_elbo:.2f}, "
        + ("on the Pareto front" if p.on_front else f"dominated by {p.dominated_by}" if p.dominated_by else "anchor")
        for plane in found
        for p in plane.points
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{top:.0f}" '
        f'viewBox="0 0 {WIDTH:.0f} {top:.0f}" role="img" aria-labelledby="title desc" font-family="{text_of(FONT)}">\n'
        f'<title id="title">{text_of(f"Rate and distortion on {names}")}</title>\n'
        f'<desc id="desc">{text_of(told)}</desc>\n'
        f"{element('rect', width='100%', height='100%', fill='#ffffff')}\n" + "\n".join(panels) + "\n</svg>\n"
    )


@dataclass(frozen=True)
class _Scales:
    """From nats to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    frame: Box

    @classmethod
    def over(cls, points: Sequence[Point], frame: Box) -> _Scales:
        """Axes over what is held against each other; with the anchors where that is less than two labels."""
        own = [p for p in points if not p.anchor]
        points = own if len(own) > 1 else points

        def span(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
            low, high = min(v - s for v, s in values), max(v + s for v, s in values)
            pad = 0.09 * (high - low) or 0.05 * abs(high) or 1.0
            return low - pad, high + pad

        rates = span([(p.rate, p.spread[0]) for p in points])
        distortions = span([(p.distortion, p.spread[1]) for p in points])
        return cls(rates, distortions, frame)

    def __call__(self, rate: float, distortion: float) -> Spot:
        f = self.frame
        u, v = (rate - self.x[0]) / (self.x[1] - self.x[0]), (distortion - self.y[0]) / (self.y[1] - self.y[0])
        return f.left + u * (f.right - f.left), f.bottom - v * (f.bottom - f.top)

    def hold(self, p: Point) -> bool:
        return self.x[0] <= p.rate <= self.x[1] and self.y[0] <= p.distortion <= self.y[1]


def _panel(plane: Plane) -> tuple[str, float]:
    """A plane's drawing, and how tall it is."""
    crowd = max(0, len(plane.points) - 12)
    frame = Box(LEFT, TOP, WIDTH - RIGHT, TOP + PLOT[1] + 14.0 * crowd)
    scales = _Scales.over(plane.points, frame)
    variants = list(dict.fromkeys(p.variant for p in plane.points))
    out = [element("rect", x=frame.left, y=frame.top, width=frame.right - frame.left,
                   height=frame.bottom - frame.top, fill="#fbfcfd", stroke="#9aa2ad")]  # fmt: skip
    inner = frame.grown(-INSET)
    spots = [s if scales.hold(p) else inner.nearest(s) for p in plane.points for s in [scales(p.rate, p.distortion)]]
    lines, taken = _diagonals(scales, [Box.around(spot, MARK + 2) for spot in spots])
    corners = _staircase(plane, scales)
    out += [*_axes(scales), *lines]
    if corners:
        out.append(element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), fill="none",
                           stroke="#8790a0", stroke_width=1.2, stroke_dasharray="2 3"))  # fmt: skip
    labels = [_name(p, scales.hold(p)) for p in plane.points]
    sizes = [(width_of(t, SIZE), SIZE * 1.25) for t in labels]
    whiskers = [line for p in plane.points if scales.hold(p) for line in _whiskers(p, scales)]
    boxes = placed(spots, sizes, frame.grown(-3.0), taken, [*pairwise(corners), *whiskers])
    for spot, box in zip(spots, boxes, strict=True):
        if box is not None and math.dist(spot, end := box.nearest(spot)) > 14:
            out.append(_line(spot, end, stroke=GREY, stroke_width=0.8))
    for p, spot in zip(plane.points, spots, strict=True):
        kind = variants.index(p.variant)
        out.append(_mark(p, spot, scales, kind) if scales.hold(p) else _pointer(p, spot, frame))
    for p, text, box in zip(plane.points, labels, boxes, strict=True):
        if box is not None:
            colour = GREY if p.anchor else COLOURS[variants.index(p.variant) % len(COLOURS)]
            out.append(_text(text, box.left + 1, box.bottom - 0.3 * SIZE, SIZE, fill=colour, halo=True))
    homeless = [(p, t) for p, t, box in zip(plane.points, labels, boxes, strict=True) if box is None]
    seeds = {len(p.rates) for p in [p for p in plane.points if not p.anchor] or plane.points}
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    spread = "one seed" if seeds == {1} else f"means over {count} seeds, whiskers ± sd"
    title = f"Rate and distortion · {plane.dataset}"
    out.append(_text(shortened(title, 80), frame.left, 26, 17, weight="bold"))
    out.append(_text(shortened(f"{plane.heading} · {spread}", 120), frame.left, 47, 12, fill=GREY))
    held = {scales.hold(p) for p in plane.points if p.anchor}
    legend, height = _legend(frame.left, frame.bottom + 64, frame.right, held)
    out += legend
    for p, text in homeless:
        words = f"no room for {text}" + (f", at {_place(p)}" if scales.hold(p) else "")
        out.append(_text(words, frame.left, height - 6, 11, fill=GREY))
        height += 15
    return "\n".join(out), height


def _place(p: Point) -> str:
    return f"rate {p.rate:.1f}, distortion {p.distortion:.1f}"


def _name(p: Point, inside: bool) -> str:
    """A point's label; where the axes don't say where it is, it does."""
    name = shortened(p.label, LETTERS)
    return name if inside else f"{name}: R {p.rate:.1f}, D {p.distortion:.1f}"


def _legend(left: float, y: float, right: float, held: Set[bool]) -> tuple[list[str], float]:
    """What the signs mean, in as many lines as it takes, and how far down it goes.

    Args:
        held: whether there are anchors that the axes hold, and others.
    """
    out, x = [], left
    beyond = "the same, beyond the axes" if True in held else "to hold others against, beyond the axes"
    signs: list[tuple[str, Callable[[Spot], str]]] = [
        ("on the Pareto front", lambda at: _circle(at, 4.8, fill=INK, stroke=INK, stroke_width=1.6)),
        (
            "dominated: another has no more of both",
            lambda at: _circle(at, 4.8, fill="#ffffff", stroke=INK, stroke_width=1.6),
        ),
        *[("to hold others against", lambda at: _circle(at, 4.8, fill="#ffffff", stroke=GREY))] * (True in held),
        *[(beyond, lambda at: "".join(_arrow(at, (0, -1))))] * (False in held),
        (
            "equal −ELBO = D + R, lower left is better",
            lambda at: _line((at[0] - 9, at[1]), (at[0] + 9, at[1]), stroke="#9aa2ad", stroke_width=1.5),
        ),
    ]
    for words, sign in signs:
        width = 26 + width_of(words, 12)
        if x + width > right + 10:
            x, y = left, y + 19
        out += [sign((x + 9, y - 4)), _text(words, x + 24, y, 12)]
        x += width + 16
    return out, y + 24


def _axes(scales: _Scales) -> list[str]:
    f, out = scales.frame, []
    for value in ticks(*scales.x, 8):
        x, _ = scales(value, scales.y[0])
        out.append(_line((x, f.bottom), (x, f.bottom + 5), stroke=INK))
        out.append(_text(_number(value), x, f.bottom + 19, 12, anchor="middle"))
    for value in ticks(*scales.y, 6):
        _, y = scales(scales.x[0], value)
        out.append(_line((f.left - 5, y), (f.left, y), stroke=INK))
        out.append(_text(_number(value), f.left - 9, y + 4, 12, anchor="end"))
    middle = (f.top + f.bottom) / 2
    out.append(_text("rate R (nats/image)", (f.left + f.right) / 2, f.bottom + 39, 13, anchor="middle"))
    out.append(element("text", "distortion D (nats/image)", x=0, y=0, font_size=13, fill=INK, text_anchor="middle",
                       transform=f"translate(20 {middle:.0f}) rotate(-90)"))  # fmt: skip
    return out


def _diagonals(scales: _Scales, marks: Sequence[Box]) -> tuple[list[str], list[Box]]:
    """Lines of equal -ELBO with their numbers, and where the numbers are."""
    (x0, x1), (y0, y1) = scales.x, scales.y
    lines: list[str] = []
    numbers: list[str] = []
    taken: list[Box] = []
    for c in ticks(x0 + y0, x1 + y1, 12):
        left, right = max(x0, c - y1), min(x1, c - y0)
        a, b = scales(left, c - left), scales(right, c - right)
        if right - left < 0.03 * (x1 - x0):
            continue
        lines.append(_line(a, b, stroke=FAINT, stroke_width=1.3))
        text = f"−ELBO {_number(c)}" if not numbers else _number(c)
        w = width_of(text, 10.5)
        for at in (0.12, 0.25, 0.5, 0.75):
            x, y = a[0] + at * (b[0] - a[0]), a[1] + at * (b[1] - a[1])
            box = Box(x - w / 2, y - 7, x + w / 2, y + 7)
            if box.within(scales.frame.grown(-4.0)) and not any(box.meets(other) for other in (*taken, *marks)):
                numbers.append(_text(text, x, y + 3.7, 10.5, fill=GREY, anchor="middle", halo=True))
                taken.append(box)
                break
    return lines + numbers, taken


def _staircase(plane: Plane, scales: _Scales) -> list[Spot]:
    """The border of what the front dominates."""
    front = sorted({(p.rate, p.distortion) for p in plane.front})
    if not front:
        return []
    corners = [(front[0][0], scales.y[1])]
    for (r, d), following in zip(front, [*(r for r, _ in front[1:]), scales.x[1]], strict=True):
        corners += [(r, d), (following, d)]
    return [scales(*corner) for corner in corners]


def _mark(p: Point, spot: Spot, scales: _Scales, kind: int) -> str:
    colour = GREY if p.anchor else COLOURS[kind % len(COLOURS)]
    whiskers = [_line(*ends, stroke=colour, stroke_width=1.2) for ends in _whiskers(p, scales)]
    fill = colour if p.on_front else "#ffffff"
    style: dict[str, object] = {"fill": fill, "stroke": colour, "stroke_width": 1.6}
    shape = _SHAPES[kind % len(_SHAPES)](spot, style)
    return element("g", _title(p), *whiskers, shape)


def _whiskers(p: Point, scales: _Scales) -> list[tuple[Spot, Spot]]:
    """One standard deviation either way, of both coordinates that have one, as far as the frame."""
    (r, dr), (d, dd) = zip((p.rate, p.distortion), p.spread, strict=True)
    across = [(scales(r - dr, d), scales(r + dr, d))] * bool(dr)
    along = [(scales(r, d - dd), scales(r, d + dd))] * bool(dd)
    return [(scales.frame.nearest(a), scales.frame.nearest(b)) for a, b in across + along]


def _title(p: Point) -> str:
    told = f"{p.label}: rate {p.rate:.2f}, distortion {p.distortion:.2f}, -ELBO {p.negative_elbo:.2f} nats/image"
    return f"<title>{text_of(told)}</title>"


def _pointer(p: Point, spot: Spot, frame: Box) -> str:
    """An arrow out of the frame, towards a point beyond it."""
    (x, y), near = spot, INSET + 1
    dx = (x > frame.right - near) - (x < frame.left + near)
    dy = (y > frame.bottom - near) - (y < frame.top + near)
    return element("g", _title(p), *_arrow(spot, (dx, dy)))


def _arrow(at: Spot, towards: Spot) -> list[str]:
    """A short arrow whose middle is at a spot."""
    length = math.hypot(*towards)
    u, v = towards[0] / length, towards[1] / length

    def along(by: float, aside: float) -> Spot:
        return at[0] + by * u - aside * v, at[1] + by * v + aside * u

    ends = (along(-7, 0), along(1.5, 4.5), along(1.5, -4.5))
    return [_line(end, along(7, 0), stroke=GREY, stroke_width=1.6) for end in ends]


def _polygon(*corners: Spot) -> Callable[[Spot, dict[str, object]], str]:
    def drawn(at: Spot, style: dict[str, object]) -> str:
        points = " ".join(f"{at[0] + dx:.1f},{at[1] + dy:.1f}" for dx, dy in corners)
        return element("polygon", points=points, **style)

    return drawn


_SHAPES = (
    lambda at, style: _circle(at, 4.8, **style),
    _polygon((-4.3, -4.3), (4.3, -4.3), (4.3, 4.3), (-4.3, 4.3)),
    _polygon((0, -5.8), (5.4, 4.0), (-5.4, 4.0)),
    _polygon((0, -6.2), (6.2, 0), (0, 6.2), (-6.2, 0)),
)


def _number(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")


def _line(a: Spot, b: Spot, **style: object) -> str:
    return element("line", x1=a[0], y1=a[1], x2=b[0], y2=b[1], **style)


def _circle(at: Spot, r: float, **style: object) -> str:
    return element("circle", cx=at[0], cy=at[1], r=r, **style)


def _text(
    text: str,
    x: float,
    y: float,
    size: float,
    *,
    fill: str = INK,
    anchor: str = "start",
    weight: str = "normal",
    halo: bool = False,
) -> str:
    around: dict[str, object] = {"stroke": "#fbfcfd", "stroke_width": 3, "paint_order": "stroke"} if halo else {}
    return element("text", text_of(text), x=x, y=y, font_size=size, fill=fill, text_anchor=anchor,
                   font_weight=weight, **around)  # fmt: skip


# the file


def write(path: Path, found: Iterable[Plane], without: Iterable[str] = ()) -> bool:
    """Draw the planes that have two labels or more into a file, whole; False: there is none, and no file.

    Raises:
        StoreError: it can't be written.
    """
    found = list(found)
    if not (worth := [plane for plane in found if len(plane.points) > 1]):
        return False
    alone = [point for plane in found if len(plane.points) == 1 for point in plane.points]
    try:
        write_file(path, draw(worth, without, alone))
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror or error}", fix="Choose another file with --out."
        ) from None
    return True


def write_unasked(run: Run, rows: Sequence[Row]) -> Path | None:
    """Draw a run's figure into its folder, where some plane of it is worth one.

    Raises:
        StoreError: it can't be written.
    """
    if len({row.label for row in rows if row.status == "ok"}) < WORTH:
        return None
    found, without = planes([(run, rows)])
    path = run.path / FIGURE
    return path if any(len(plane.points) >= WORTH for plane in found) and write(path, found, without) else None


# the table


def table(found: Iterable[Plane], without: Mapping[str, str]) -> list[Table | Text]:
    """What `bench pareto` prints: a table for each plane, then who is in none, and why."""
    made: list[Table | Text] = []
    for plane in found:
        heads = ("", "seeds", "rate", "distortion", "−ELBO", "")
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for i, head in enumerate(heads):
            shown.add_column(head, justify="right" if 0 < i < 5 else "left")
        for p in plane.points:
            numbers = [_spread(v, s) for v, s in zip((p.rate, p.distortion), p.spread, strict=True)]
            place = "on the front" if p.on_front else f"dominated by {p.dominated_by}" if p.dominated_by else "anchor"
            style = "bold green" if p.on_front else "dim"
            cells = [str(len(p.rates)), *numbers, f"{p.negative_elbo:.2f}"]
            shown.add_row(Text(p.label), *map(Text, cells), Text(place, style))
        made += [Text(f"{plane.dataset} · {plane.heading} · nats/image", "bold"), shown, Text("")]
    reasons: dict[str, list[str]] = {}
    for label, why in without.items():
        reasons.setdefault(why, []).append(label)
    return [*made, *(Text(f"{', '.join(labels)}: {why}", "dim") for why, labels in reasons.items())]


def _spread(value: float, sd: float) -> str:
    return f"{value:.2f}" + (f" ± {sd:.2f}" if sd else "")
