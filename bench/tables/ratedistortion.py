"""The rate-distortion plane: rate R and distortion D of each label, the Pareto front, its figure and its table.

-ELBO = D + R for every model with a bound, so labels on one falling diagonal have the same ELBO (Alemi et al. 2018,
"Fixing a Broken ELBO", https://arxiv.org/abs/1711.00464). D and R are means over the evidence that cells keep; for a
table without its run they come from two scores.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from bench.contracts.measurement import Score
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.drawing.figures import (
    VARIANTS,
    Drawing,
    Mark,
    Part,
    Scale,
    Stroke,
    Words,
    bottom_axis,
    legend,
    number,
    numbered,
    shortened,
    ticks,
)
from bench.plugins.registry import default
from bench.results.store import EVIDENCE, Run
from bench.util import inside
from bench.util.durable import write_file
from bench.util.errors import Damaged, StoreError

FIGURE = "rate-distortion.svg"
NO_BOUND = "no bound"
ENOUGH = 3  #: labels in one plane from which on a run draws the figure by itself


@dataclass(frozen=True)
class Point:
    """A label in the plane, in nats per image."""

    label: str
    variant: str
    reference: bool  #: the baseline or a reference row, which dominates no other label
    rates: tuple[float, ...]  #: one for each seed
    distortions: tuple[float, ...]
    dominated_by: str | None = None  #: a label with no more rate, no more distortion, and less of one of them

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
        return self.dominated_by is None and not self.reference

    @property
    def standing(self) -> str:
        """Return the relation of the label to the Pareto front, in words."""
        return (
            "on the front"
            if self.on_front
            else f"dominated by {self.dominated_by}"
            if self.dominated_by
            else "reference"
        )

    @property
    def spread(self) -> tuple[float, float]:
        """Return the standard deviations of rate and distortion over seeds; 0 for a single seed."""
        return (stdev(self.rates), stdev(self.distortions)) if len(self.rates) > 1 else (0.0, 0.0)


@dataclass(frozen=True)
class Plane:
    """Labels that may be compared: one dataset, likelihood, use of labels and protocol."""

    dataset: str
    heading: str  #: the settings that all labels share
    points: tuple[Point, ...]  #: in the order of their rates

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
    """Return, for each (rate, distortion), the index of a point that dominates it; None on the Pareto front.

    A point dominates another one if it has no more of both and less of one; equal points don't dominate each other.
    Of several dominators the one with the least sum is returned, or the first of those.
    """
    indices = []
    for p in points:
        better = [i for i, q in enumerate(points) if q[0] <= p[0] and q[1] <= p[1] and q != p]
        indices.append(min(better, key=lambda i: (sum(points[i]), i), default=None))
    return indices


def planes(runs: Iterable[tuple[Run | None, Iterable[Row]]]) -> tuple[list[Plane], dict[str, str]]:
    """Return the planes of rows, and a reason for each label that is in no plane.

    Args:
        runs: rows with the run that holds their evidence, or with None for rows of a table.
    """
    members: dict[tuple[Hashable, ...], dict[str, list[tuple[Row, float, float]]]] = {}
    reasons: dict[str, dict[int, str]] = {}
    for run, rows in runs:
        for row in rows:
            means = _means(run, row)
            if isinstance(means, str):
                reasons.setdefault(row.label, {}).setdefault(row.seed, means)
                continue
            images = row.data.get("test") if run is not None else row.scoring.get("test", row.data.get("test"))
            settings = canonical([dict(row.training), dict(row.data)])
            key = (row.dataset, row.likelihood, row.uses_labels, settings, images)
            known = members.setdefault(key, {}).setdefault(row.label, [])
            if row.seed not in {other.seed for other, _, _ in known}:  # of equal seeds the first one counts
                known.append((row, *means))
    in_a_plane = {label for labels in members.values() for label in labels}
    comparable = [_plane(list(labels.values()), key[-1]) for key, labels in members.items()]
    by_label = {label: "; ".join(sorted({*of.values()})) for label, of in reasons.items() if label not in in_a_plane}
    return comparable, by_label


def _means(run: Run | None, row: Row) -> tuple[float, float] | str:
    """Return the mean rate and distortion of a row, or the reason why there are none."""
    if row.status != "ok":
        return f"{row.status}: {row.reason}" if row.reason else row.status
    return _of_scores(row) if run is None else _of_evidence(run, row)


def _of_evidence(run: Run, row: Row) -> tuple[float, float] | str:
    try:
        with safe_open(inside.file(run.done(row.cell) / EVIDENCE), framework="pt") as file:
            if not {"rate", "distortion"} <= set(file.keys()):
                return NO_BOUND
            rate, distortion = (file.get_tensor(name).double().mean().item() for name in ("rate", "distortion"))
    except (OSError, SafetensorError, Damaged):
        return NO_BOUND
    return (rate, distortion) if math.isfinite(rate) and math.isfinite(distortion) else NO_BOUND


def _of_scores(row: Row) -> tuple[float, float] | str:
    values = []
    for role in ("bound", "rate"):
        score = row.scores.get(name := default(role) or role)
        if not isinstance(score, Score):
            return f"its table has no {name}" if score is None else f"{name}: {score.reason}"
        values.append(score.value)
    bound, rate = values
    return rate, -bound - rate


def _plane(labels: Sequence[Sequence[tuple[Row, float, float]]], images: Hashable) -> Plane:
    points = []
    for rows in labels:
        row, reference = rows[0][0], all(row.reference for row, _, _ in rows)
        rates, distortions = tuple(r for _, r, _ in rows), tuple(d for _, _, d in rows)
        points.append(Point(row.label, row.variant, reference, rates, distortions))
    own = [p for p in points if not p.reference]
    where = dominators([(p.rate, p.distortion) for p in own])
    by = {p.label: own[i].label for p, i in zip(own, where, strict=True) if i is not None}
    points = [replace(p, dominated_by=by.get(p.label)) for p in points]
    every = [row for rows in labels for row, _, _ in rows]
    in_order = tuple(sorted(points, key=lambda p: (p.rate, p.distortion, p.label)))
    return Plane(every[0].dataset, _heading(every, images), in_order)


def _heading(rows: Sequence[Row], test: Hashable) -> str:
    """Return the settings that the rows of a plane share; `test` is the digest of the images behind its numbers."""
    row = rows[0]
    splits = {r.scoring.get("split", "test") if r.scoring.get("test") == r.data.get("test") else "" for r in rows}
    split = splits.pop() if len(splits) == 1 else ""
    images, steps = (n if isinstance(n, int) else 0 for n in (row.data.get("test_images"), row.training.get("steps")))
    words = [f"{row.likelihood} likelihood"] if row.likelihood else []
    words += ["uses labels"] if row.uses_labels else []
    words += [f"{images:,} {split or 'held-out'} images"] if images and test == row.data.get("test") else []
    words += [f"{steps:,} steps a stage"] if steps else []
    return " · ".join(words)


# the figure

WIDTH, LEFT, RIGHT, HEIGHT = 860.0, 78.0, 838.0, 400.0  #: pixels: the figure, its frame's edges, its frame's height
BEYOND = 12.0  #: distance from the edge of the frame of a mark that belongs outside
SHAPES = ("circle", "square", "triangle", "diamond")


def draw(
    shown: Sequence[Plane],
    without: Iterable[str] = (),
    alone: Iterable[Point] = (),
    colours: Mapping[str, str] | None = None,
) -> Drawing:
    """Return a figure with a panel for each plane, one below the other.

    Filled marks are on the Pareto front, hollow ones are dominated, and the dotted staircase bounds what the front
    dominates. Marks have numbers, in the order of their rates, which the legend lists. A reference row that is far from
    the other labels doesn't stretch the axes: its mark is at the edge, and its numbers are in the legend.

    Args:
        without: labels without a place in any plane.
        alone: points whose planes aren't drawn.
        colours: names of the palette for variants.
    """
    parts: list[Part] = []
    bottom = 0.0
    for plane in shown:
        drawn, bottom = _panel(plane, bottom, colours or {})
        parts += drawn
    below = []
    if missing := sorted(without):
        below.append(f"Not shown, without a bound or a result: {', '.join(missing)}")
    if others := [f"{p.label} (rate {p.rate:.1f}, distortion {p.distortion:.1f})" for p in alone]:
        below.append(f"Not shown, with no other label to compare to: {'; '.join(others)}")
    parts += [Words(shortened(words, 130), LEFT, bottom + 16 * i, 11) for i, words in enumerate(below)]
    datasets = ", ".join(dict.fromkeys(plane.dataset for plane in shown))
    return Drawing(WIDTH, bottom + 16 * len(below), f"Rate and distortion on {datasets}", parts)


def _panel(plane: Plane, above: float, colours: Mapping[str, str]) -> tuple[list[Part], float]:
    """Return the parts of one plane below `above`, and where they end."""
    top = above + 84
    x, y = _scales(plane.points, top)
    variants = list(dict.fromkeys(p.variant for p in plane.points))
    kinds = [variants.index(p.variant) for p in plane.points]
    names = ["ca" if p.reference else colours.get(p.variant, f"c{kind % len(VARIANTS)}")
             for p, kind in zip(plane.points, kinds, strict=True)]  # fmt: skip
    spots = [(x.clipped(p.rate, BEYOND), y.clipped(p.distortion, BEYOND)) for p in plane.points]
    parts: list[Part] = [
        Words(shortened(f"Rate and distortion · {plane.dataset}", 80), LEFT, above + 26, 17, colour="ink", bold=True),
        Words(shortened(f"{plane.heading} · {_spread_of(plane)}", 120), LEFT, above + 47),
        Words("distortion D (nats/image)", LEFT, top - 12),
        *(Words(words, LEFT - 7, y(value) + 4, anchor="end") for value, words in y.ticks(6)),
        Stroke([(LEFT, y.start), (LEFT, y.end)], "axis"),
        *bottom_axis(x, y.start, "rate R (nats/image)", 8),
        *_diagonals(x, y),
        *_staircase(plane, x, y),
    ]
    entries = []
    for i, (p, kind, name, (px, py)) in enumerate(zip(plane.points, kinds, names, spots, strict=True), 1):
        words = f"{i}  {shortened(p.label, 44)}"
        if (x(p.rate), y(p.distortion)) == (px, py):
            parts += _whiskers(p, x, y, name)
        else:
            outside = x.clipped(p.rate, -BEYOND / 2), y.clipped(p.distortion, -BEYOND / 2)
            parts.append(Stroke([(px, py), outside], name, 1.6))
            words += f": beyond the axes, R {p.rate:.1f}, D {p.distortion:.1f}"
        title = (
            f"{p.label}: rate {p.rate:.2f}, distortion {p.distortion:.2f}, -ELBO {p.negative_elbo:.2f}, {p.standing}"
        )
        mark = Mark(px, py, name, SHAPES[kind % len(SHAPES)], hollow=not p.on_front, title=title)
        parts.append(mark)
        entries.append((replace(mark, title=""), words))
    listed, bottom = legend(entries, LEFT, RIGHT, y.start + 64)
    key = "Filled: on the Pareto front. Hollow: dominated, or grey: a reference. Diagonals: equal −ELBO = D + R."
    return [*parts, *numbered(spots), *listed, Words(key, LEFT, bottom + 4)], bottom + 24


def _scales(points: Sequence[Point], top: float) -> tuple[Scale, Scale]:
    """Return axes that hold all points and their whiskers; without reference rows if there are two other labels."""
    own = [p for p in points if not p.reference]
    points = own if len(own) > 1 else points
    rates = [p.rate + sign * p.spread[0] for p in points for sign in (-1, 1)]
    distortions = [p.distortion + sign * p.spread[1] for p in points for sign in (-1, 1)]
    return Scale.over(rates, LEFT, RIGHT, pad=0.09), Scale.over(distortions, top + HEIGHT, top, pad=0.09)


def _spread_of(plane: Plane) -> str:
    """Return how many seeds are behind the marks and whiskers, in words."""
    seeds = {len(p.rates) for p in [p for p in plane.points if not p.reference] or plane.points}
    if seeds == {1}:
        return "one seed"
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"means over {count} seeds, whiskers ± sd"


def _diagonals(x: Scale, y: Scale) -> list[Part]:
    """Return lines of equal -ELBO, each with its value at its lower end."""
    parts: list[Part] = []
    for c in ticks(x.low + y.low, x.high + y.high, 12):
        left, right = max(x.low, c - y.high), min(x.high, c - y.low)
        if right - left > 0.06 * (x.high - x.low):
            parts.append(Stroke([(x(left), y(c - left)), (x(right), y(c - right))], width=1.3))
            end = right - 0.01 * (x.high - x.low)
            parts.append(Words(f"−ELBO {number(c)}", x(end), y(c - end) - 4, 10, "end"))
    return parts


def _staircase(plane: Plane, x: Scale, y: Scale) -> list[Part]:
    """Return the border of what the front dominates."""
    front = sorted({(p.rate, p.distortion) for p in plane.points if p.on_front})
    if not front:
        return []
    corners = [(front[0][0], y.high)]
    for (r, d), following in zip(front, [*(r for r, _ in front[1:]), x.high], strict=True):
        corners += [(r, d), (following, d)]
    return [Stroke([(x(r), y(d)) for r, d in corners], "grey", dashes="2 3")]


def _whiskers(p: Point, x: Scale, y: Scale, colour: str) -> list[Part]:
    """Return one standard deviation to either side, clipped to the frame."""
    (r, d), (dr, dd) = (p.rate, p.distortion), p.spread
    across = [(x.clipped(r + sign * dr), y(d)) for sign in (-1, 1)]
    along = [(x(r), y.clipped(d + sign * dd)) for sign in (-1, 1)]
    return [Stroke(ends, colour, 1.2) for ends, sd in ((across, dr), (along, dd)) if sd]


# the file


def write(path: Path, every: Iterable[Plane], without: Iterable[str] = ()) -> bool:
    """Write the figure of the planes with two labels or more as SVG; return False, without a file, if there is none.

    Raises:
        StoreError: the file can't be written.
    """
    every = list(every)
    if not (shared := [plane for plane in every if len(plane.points) > 1]):
        return False
    alone = [point for plane in every if len(plane.points) == 1 for point in plane.points]
    try:
        write_file(path, draw(shared, without, alone).svg())
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror or error}", fix="Choose another file with --out."
        ) from None
    return True


def write_if_enough(run: Run, rows: Sequence[Row]) -> Path | None:
    """Write the figure of a run into its folder, and return its path; None, without a file, if labels are few.

    Raises:
        StoreError: the file can't be written.
    """
    if len({row.label for row in rows if row.status == "ok"}) < ENOUGH:
        return None
    every, without = planes([(run, rows)])
    path = run.path / FIGURE
    return path if any(len(plane.points) >= ENOUGH for plane in every) and write(path, every, without) else None


# the table


def table(every: Iterable[Plane], without: Mapping[str, str]) -> list[Table | Text]:
    """Return a table for each plane, and below them the labels that are in none, by their reasons."""
    shown: list[Table | Text] = []
    for plane in every:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for i, head in enumerate(("", "seeds", "rate", "distortion", "−ELBO", "")):
            table.add_column(head, justify="right" if 0 < i < 5 else "left")
        for p in plane.points:
            means = [f"{v:.2f}" + (f" ± {sd:.2f}" if sd else "")
                     for v, sd in zip((p.rate, p.distortion), p.spread, strict=True)]  # fmt: skip
            cells = [p.label, str(len(p.rates)), *means, f"{p.negative_elbo:.2f}"]
            table.add_row(*map(Text, cells), Text(p.standing, "bold green" if p.on_front else "dim"))
        shown += [Text(f"{plane.dataset} · {plane.heading} · nats/image", "bold"), table, Text("")]
    by_reason: dict[str, list[str]] = {}
    for label, why in without.items():
        by_reason.setdefault(why, []).append(label)
    return [*shown, *(Text(f"{', '.join(labels)}: {why}", "dim") for why, labels in by_reason.items())]
