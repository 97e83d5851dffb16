"""Training: each term of the losses over the steps, a line for each label and a band over its seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from bench.contracts.row import Row
from bench.drawing.figures import Box, element, shortened, text_of, width_of
from bench.results.store import Run
from bench.show.report.chart import Scale, bottom_axis, figure, left_axis, path, spread_out, text
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.util import inside
from bench.util.errors import Damaged
from bench.util.text import plain

WIDTH, HEIGHT = 540.0, 236.0
LEFT, TOP, BOTTOM = 62.0, 12.0, 40.0
SKIPPED = 0.05  #: share of the steps at the beginning that doesn't set the height of the frame
STEP = 14.0  #: between labels
APART = 30.0  #: ratio of values from which on their axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """A term of one label: at each step its mean over seeds, the least and the largest."""

    label: str
    colour: str
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    total: int  #: steps of all stages
    stages: tuple[int, ...]  #: where one ends and another begins
    seconds: float | None  #: of training, a mean over seeds


@dataclass(frozen=True)
class Panel:
    """A term, drawn over steps; the page's script redraws it over seconds."""

    term: str
    drawn: Shown[str]


def history(run: Run, cell: str) -> list[dict[str, float]]:
    """What a cell wrote down while it trained; of a damaged or missing file, what can be read."""
    try:
        text = inside.content(run.done(cell) / "history.csv").decode()
        return [_numbers(row) for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, csv.Error, Damaged):
        return []


def _numbers(row: Mapping[str | None, object]) -> dict[str, float]:
    found = {}
    for key, value in row.items():
        try:
            if key is not None and math.isfinite(number := float(str(value))):
                found[plain(key)] = number
        except ValueError:
            continue
    return found


def curves(exhibit: Exhibit, runs: Mapping[int, Run]) -> dict[str, Curve]:
    """The terms of a label by name, over the seeds that came out."""
    rows = exhibit.line.rows
    terms: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        for at in history(runs[id(row)], row.cell):
            for name, value in at.items():
                if name not in ("stage", "step") and "step" in at:
                    terms.setdefault(name, {}).setdefault(at["step"], []).append(value)
    return {name: _curve(exhibit, rows, found) for name, found in terms.items() if len(found) > 1}


def _curve(exhibit: Exhibit, rows: Sequence[Row], found: Mapping[float, Sequence[float]]) -> Curve:
    steps = sorted(found)
    values = [found[s] for s in steps]
    times = [row.costs["train_seconds"] for row in rows if row.costs.get("train_seconds")]
    stages = tuple(accumulate(rows[0].steps))
    return Curve(
        exhibit.label,
        exhibit.colour,
        tuple(steps),
        tuple(sum(v / len(at) for v in at) for at in values),  # whose sum may be too large for a float
        tuple(map(min, values)),
        tuple(map(max, values)),
        int(stages[-1]) if stages else int(steps[-1]),
        stages[:-1],
        fmean(times) if times else None,
    )


def panels(shown: Sequence[Exhibit], runs: Mapping[int, Run]) -> list[Panel]:
    """A panel for each term, those that most labels have first; their common loss isn't one, but is drawn last."""
    by_term: dict[str, list[Curve]] = {}
    for exhibit in shown:
        for name, curve in curves(exhibit, runs).items():
            by_term.setdefault(name, []).append(curve)
    order = sorted(by_term, key=lambda name: (name == "loss", -len(by_term[name])))
    return [Panel(name, attempt(_drawn, name, by_term[name])) for name in order]


def _drawn(term: str, found: Sequence[Curve]) -> str:
    labels = [shortened(c.label, 22) for c in found]
    room = max(width_of(words, 12) for words in labels) + 14
    height = max(HEIGHT, TOP + BOTTOM + STEP * len(found))
    frame = Box(LEFT, TOP, WIDTH - room, height - BOTTOM)
    longest = max(c.total for c in found)
    x = Scale(0, longest, frame.left, frame.right)
    settled = [v for c in found for s, *vs in zip(c.steps, c.low, c.high, strict=True) for v in vs if s >= _from(c)]
    apart = min(settled, default=0) > 0 and max(settled) > APART * min(settled)
    y = Scale.over(settled, frame.bottom, frame.top, log=apart)
    times = [c.seconds for c in found if c.seconds]
    slowest = max(times) if len(times) == len(found) else None
    inside = element(
        "svg",
        *(_line(c, x, y, frame, slowest) for c in found),
        x=frame.left,
        y=frame.top,
        width=frame.right - frame.left + 1,
        height=frame.bottom - frame.top,
    )  # what leaves it is cut off
    ends = [(x(c.steps[-1]), min(max(y(c.mean[-1]), frame.top), frame.bottom)) for c in found]
    places = spread_out([e[1] for e in ends], STEP, frame.top + 4, frame.bottom)
    names = [
        text(words, frame.right + 8, at + 4, kind=f"name {c.colour}")
        for c, words, at in zip(found, labels, places, strict=True)
    ]
    axes = [element("g", *bottom_axis(x, frame), text("steps", frame.right, frame.bottom + 34, anchor="end"),
                    class_="by-step")]  # fmt: skip
    if slowest:
        seconds = Scale(0, slowest, frame.left, frame.right)
        axes.append(element("g", *bottom_axis(seconds, frame),
                            text("seconds of training", frame.right, frame.bottom + 34, anchor="end"),
                            class_="by-time"))  # fmt: skip
    told = "; ".join(f"{c.label} ends at {c.mean[-1]:.4g}" for c in found)
    return figure(WIDTH, height, f"{term} by training step. {told}", *left_axis(y, frame), *axes, inside, *names)


def _from(curve: Curve) -> float:
    """The step from which on a curve sets the height of the frame: past the first steps of its own stage."""
    return curve.steps[0] + SKIPPED * (curve.steps[-1] - curve.steps[0])


def _line(c: Curve, x: Scale, y: Scale, frame: Box, slowest: float | None) -> str:
    """A label's line, its band over seeds and its marks of stages, from the frame's upper left.

    `data-time` is its stretch on the axis of time.
    """

    def at(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(x(s) - frame.left, y(v) - frame.top) for s, v in zip(c.steps, values, strict=True)]

    inner = []
    if c.high != c.low:
        inner.append(path([*at(c.high), *reversed(at(c.low))], "band", close=True))
    inner.append(path(at(c.mean), "curve"))
    for stage in c.stages:
        inner.append(path([(x(stage) - frame.left, 0.0), (x(stage) - frame.left, frame.bottom)], "stage"))
    by_time = (c.seconds / slowest) / (c.total / x.high) if c.seconds and slowest else None
    drawn = element("g", *inner, class_="stretch", **({"data_time": f"{by_time:.4f}"} if by_time else {}))
    told = f"<title>{text_of(c.label)}</title>"
    return element("g", told, drawn, class_=f"line {c.colour}")
