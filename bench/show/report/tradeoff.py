"""Cost against quality: the training time of each label beside its scores, means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bench.drawing.figures import Drawing, Mark, Part, Scale, bottom_axis, left_axis, legend, numbered, shortened
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.tables.columns import Column

WIDTH, LEFT, TOP, BOTTOM = 540.0, 62.0, 14.0, 236.0
MOST = 4  #: metrics that are drawn


@dataclass(frozen=True)
class Tradeoff:
    """A metric over training time."""

    column: Column
    drawn: Shown[str]


def tradeoffs(shown: Sequence[Exhibit], columns: Sequence[Column]) -> list[Tradeoff]:
    """Return a figure for each of the first metrics with a direction that two labels or more have."""
    found: list[Tradeoff] = []
    for column in columns:
        if column.direction is None or len(found) == MOST:
            continue
        points = [
            (e, seconds, mean) for e in shown if (seconds := _seconds(e)) and (mean := _mean(e, column)) is not None
        ]
        if len(points) > 1:
            found.append(Tradeoff(column, attempt(_drawn, points, column)))
    return found


def _seconds(exhibit: Exhibit) -> float | None:
    seconds = [row.costs["train_seconds"] for row in exhibit.line.rows if row.costs.get("train_seconds")]
    return fmean(seconds) if seconds else None


def _mean(exhibit: Exhibit, column: Column) -> float | None:
    cell = exhibit.line.values.get(column.name)
    return None if cell is None else cell.mean


def _drawn(points: Sequence[tuple[Exhibit, float, float]], column: Column) -> str:
    points = sorted(points, key=lambda point: point[1])
    times, values = [p[1] for p in points], [p[2] for p in points]
    x = Scale.over(times, LEFT, WIDTH - 14, log=max(times) > 8 * min(times), pad=0.12)
    y = Scale.over(values, BOTTOM, TOP, pad=0.12)
    titles = [f"{e.label}: {mean:.4g} {column.unit}, {seconds:.3g} s" for e, seconds, mean in points]
    marks = [Mark(x(t), y(v), e.colour, title=words) for (e, t, v), words in zip(points, titles, strict=True)]
    entries = [
        (replace(mark, title=""), f"{i} {shortened(e.label, 26)}")
        for i, (mark, (e, _, _)) in enumerate(zip(marks, points, strict=True), 1)
    ]
    names, bottom = legend(entries, LEFT, WIDTH, BOTTOM + 60)
    parts: list[Part] = [*left_axis(x, y), *bottom_axis(x, BOTTOM, "seconds of training"), *marks]
    parts += [*numbered([(m.x, m.y) for m in marks]), *names]
    return Drawing(WIDTH, bottom, f"{column.name} by seconds of training. {'; '.join(titles)}", parts).inline()
