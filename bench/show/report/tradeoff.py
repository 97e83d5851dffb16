"""Cost against quality: each label's training time beside its merits, means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.drawing.figures import MARK, Box, element, placed, shortened, text_of, width_of
from bench.show.report.chart import SIZE, Scale, bottom_axis, figure, left_axis, text
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.tables.columns import Column

WIDTH, HEIGHT = 540.0, 280.0
FRAME = Box(62.0, 14.0, WIDTH - 14.0, HEIGHT - 44.0)
MOST = 4  #: merits that are drawn


@dataclass(frozen=True)
class Tradeoff:
    """A merit over training time."""

    column: Column
    drawn: Shown[str]


def tradeoffs(shown: Sequence[Exhibit], columns: Sequence[Column]) -> list[Tradeoff]:
    """A figure for each of the first merits of `columns` that two labels have."""
    made: list[Tradeoff] = []
    for column in columns:
        if column.direction is None or len(made) == MOST:
            continue
        points = [
            (e, seconds, mean) for e in shown if (seconds := _seconds(e)) and (mean := _mean(e, column)) is not None
        ]
        if len(points) > 1:
            made.append(Tradeoff(column, attempt(_drawn, points, column)))
    return made


def _seconds(exhibit: Exhibit) -> float | None:
    found = [row.costs["train_seconds"] for row in exhibit.line.rows if row.costs.get("train_seconds")]
    return fmean(found) if found else None


def _mean(exhibit: Exhibit, column: Column) -> float | None:
    cell = exhibit.line.cells.get(column.name)
    return None if cell is None else cell.mean


def _drawn(points: Sequence[tuple[Exhibit, float, float]], column: Column) -> str:
    times, values = [p[1] for p in points], [p[2] for p in points]
    x = Scale.over(times, FRAME.left, FRAME.right, log=max(times) > 8 * min(times), pad=0.12)
    y = Scale.over(values, FRAME.bottom, FRAME.top, pad=0.12)
    spots = [(x(t), y(v)) for _, t, v in points]
    labels = [shortened(e.label, 30) for e, _, _ in points]
    boxes = placed(spots, [(width_of(words, SIZE), SIZE * 1.25) for words in labels], FRAME)
    out = [*left_axis(y, FRAME), *bottom_axis(x, FRAME)]
    out.append(text("seconds of training", FRAME.right, HEIGHT - 8, anchor="end"))
    for (e, seconds, mean), (px, py) in zip(points, spots, strict=True):
        told = f"<title>{text_of(f'{e.label}: {mean:.4g} {column.unit}, {seconds:.3g} s')}</title>"
        out.append(element("g", told, element("circle", cx=px, cy=py, r=MARK - 1, class_=f"mark {e.colour}")))
    for (e, _, _), words, box in zip(points, labels, boxes, strict=True):
        if box is not None:
            out.append(text(words, box.left + 1, box.bottom - 0.3 * SIZE, kind=f"name {e.colour}"))
    told = "; ".join(f"{e.label} {mean:.4g} after {seconds:.3g} s" for e, seconds, mean in points)
    return figure(WIDTH, HEIGHT, f"{column.name} against seconds of training: {told}", *out)
