"""Training curves: each term of the losses over the steps, a line for each label and a band over its seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from bench.contracts.row import Row
from bench.drawing.figures import Drawing, Part, Scale, Spot, Stroke, Words, bottom_axis, left_axis, shortened, width_of
from bench.results.store import Run
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.util import inside
from bench.util.errors import Damaged
from bench.util.text import plain

WIDTH, HEIGHT = 540.0, 236.0
LEFT, TOP, BOTTOM = 62.0, 12.0, 40.0
SKIPPED = 0.05  #: share of the steps at the beginning that isn't drawn: large first values would flatten the rest
STEP = 14.0  #: pixels between labels
WIDE = 30.0  #: ratio of values from which on their axis is logarithmic


@dataclass(frozen=True)
class LearningCurve:
    """A term of one label: at each step its mean over seeds, the least and the largest value."""

    label: str
    colour: str
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    stages: tuple[int, ...]  #: steps at which a stage ends and another one begins


@dataclass(frozen=True)
class Panel:
    """A term drawn over steps."""

    term: str
    drawn: Shown[str]


def history(run: Run, cell: str) -> list[dict[str, float]]:
    """Return the lines of a cell's history; none if the file is missing or damaged."""
    try:
        text = inside.content(run.done(cell) / "history.csv").decode()
        return [_numbers(row) for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, csv.Error, Damaged):
        return []


def _numbers(row: Mapping[str | None, object]) -> dict[str, float]:
    numbers = {}
    for key, value in row.items():
        try:
            if key is not None and math.isfinite(number := float(str(value))):
                numbers[plain(key)] = number
        except ValueError:
            continue
    return numbers


def curves(exhibit: Exhibit, runs: Mapping[int, Run]) -> dict[str, LearningCurve]:
    """Return the terms of a label by name, over its finished seeds."""
    rows = exhibit.line.rows
    terms: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        for at in history(runs[id(row)], row.cell):
            for name, value in at.items():
                if name not in ("stage", "step") and "step" in at:
                    terms.setdefault(name, {}).setdefault(at["step"], []).append(value)
    return {name: _curve(exhibit, rows[0], values) for name, values in terms.items() if len(values) > 1}


def _curve(exhibit: Exhibit, row: Row, by_step: Mapping[float, Sequence[float]]) -> LearningCurve:
    steps = sorted(by_step)
    values = [by_step[s] for s in steps]
    mean = tuple(sum(v / len(at) for v in at) for at in values)  # the sum of `at` may be too large for a float
    stages = tuple(accumulate(row.steps))[:-1]
    low, high = tuple(map(min, values)), tuple(map(max, values))
    return LearningCurve(exhibit.label, exhibit.colour, tuple(steps), mean, low, high, stages)


def panels(shown: Sequence[Exhibit], runs: Mapping[int, Run]) -> list[Panel]:
    """Return a panel for each term: first the terms that most labels have, and `loss` last."""
    by_term: dict[str, list[LearningCurve]] = {}
    for exhibit in shown:
        for name, curve in curves(exhibit, runs).items():
            by_term.setdefault(name, []).append(curve)
    order = sorted(by_term, key=lambda name: (name == "loss", -len(by_term[name])))
    return [Panel(name, attempt(_drawn, name, by_term[name])) for name in order]


def _drawn(term: str, found: Sequence[LearningCurve]) -> str:
    found = [_settled(c) for c in found]
    labels = [shortened(c.label, 22) for c in found]
    height = max(HEIGHT, TOP + BOTTOM + STEP * len(found))
    right = WIDTH - max(width_of(words, 12) for words in labels) - 14
    x = Scale(0, max(c.steps[-1] for c in found), LEFT, right)
    values = [v for c in found for v in (*c.low, *c.high)]
    y = Scale.over(values, height - BOTTOM, TOP, log=min(values) > 0 and max(values) > WIDE * min(values))
    parts = [*left_axis(x, y), *bottom_axis(x, y.start, "steps")]
    for c in found:
        parts += _line(c, x, y)
    places = spread_out([y(c.mean[-1]) for c in found], STEP, y.end + 4, y.start)
    for c, words, at in zip(found, labels, places, strict=True):
        parts.append(Words(words, right + 8, at + 4, colour=c.colour))
    title = "; ".join(f"{c.label} ends at {c.mean[-1]:.4g}" for c in found)
    return Drawing(WIDTH, height, f"{term} by training step. {title}", parts).inline()


def _settled(c: LearningCurve) -> LearningCurve:
    """Return a curve without its first steps."""
    first = next(i for i, s in enumerate(c.steps) if s >= c.steps[0] + SKIPPED * (c.steps[-1] - c.steps[0]))
    return replace(c, steps=c.steps[first:], mean=c.mean[first:], low=c.low[first:], high=c.high[first:])


def _line(c: LearningCurve, x: Scale, y: Scale) -> list[Part]:
    """Return the line of a label, its band over seeds, and dashed lines where stages end."""

    def at(values: Sequence[float]) -> list[Spot]:
        return [(x(s), y(v)) for s, v in zip(c.steps, values, strict=True)]

    parts: list[Part] = []
    if c.high != c.low:
        parts.append(Stroke([*at(c.high), *reversed(at(c.low))], c.colour, closed=True, opacity=0.18))
    parts.append(Stroke(at(c.mean), f"{c.colour} curve", 1.8, title=c.label))
    ends = [s for s in c.stages if s <= x.high]
    return parts + [Stroke([(x(s), y.end), (x(s), y.start)], c.colour, 1.2, dashes="3 4") for s in ends]


def spread_out(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, `step` apart, and between `low` and `high` as far as there is room."""
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
