"""The difference b - a of one metric over paired rows, with what seeds and test images show of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.tables.columns import Column, Scores
from bench.tables.numbers import decimals, printed
from bench.tables.statistics import LEAST, OverImages, Paired, paired, paired_over_images
from bench.util.errors import NotAvailable, NotScored

Mark = Literal["+", "-", "~", "x", "!", "*", ""]
"""b is better, b is worse, no significant difference or too few seeds, not comparable, new failure, fixed; '' is a
significant difference of a metric without a direction."""
Evidence = Callable[[Row], Mapping[str, Tensor]]
"""The per-image evidence that a row's cell has stored, by name."""
ScoredRow = tuple[Row, Scores]
Pair = tuple[ScoredRow, ScoredRow]


@dataclass(frozen=True)
class Difference:
    """b - a of one metric, over the seeds on which both have a score."""

    mark: Mark
    a: float | None = None
    b: float | None = None
    seeds: Paired | None = None  #: None: n/a in one of them or both
    p: float | None = None  #: Holm-corrected over all differences that the comparison shows
    images: OverImages | None = None  #: over test images, where a metric has a value for each
    redraw: float | None = None  #: sd that b - a would have from drawing the samples anew alone, if the metric knows it
    reason: str = ""  #: why seeds are missing
    unscored: bool = False  #: neither run has computed the metric
    places: int = 3  #: decimals of a and b
    fine: int = 3  #: decimals of differences

    @property
    def n(self) -> int:
        return 0 if self.seeds is None else self.seeds.n

    @property
    def difference(self) -> float | None:
        return None if self.seeds is None else self.seeds.mean

    @property
    def training(self) -> float | None:
        """The sd over seeds without the part that redraws explain; 0 where they would explain more than all."""
        if self.redraw is None or self.seeds is None or self.seeds.sd is None:
            return None
        return math.sqrt(max(0.0, self.seeds.sd**2 - self.redraw**2))

    @property
    def text(self) -> str:
        """The difference with its sign."""
        return "n/a" if self.seeds is None else signed(self.seeds.mean, self.fine)

    @property
    def interval(self) -> str:
        if self.seeds is None or self.seeds.low is None or self.seeds.high is None:
            return ""
        return f"{signed(self.seeds.low, self.fine)} … {signed(self.seeds.high, self.fine)}"

    @property
    def detectable(self) -> str:
        least = None if self.seeds is None else self.seeds.detectable
        return "" if least is None else printed(least, self.fine)

    @property
    def se(self) -> str:
        """The standard error of the difference over test images."""
        return "" if self.images is None else printed(self.images.se, decimals([[self.images.se]]))

    @property
    def p_text(self) -> str:
        if 0 < self.n < LEAST:
            return "too few"
        return "" if self.p is None else "<0.001" if self.p < 0.001 else f"{self.p:.3f}"

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        s = self.seeds or Paired(0, 0.0)
        return {
            "n": self.n,
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "sd": s.sd,
            "low": s.low,
            "high": s.high,
            "p": s.p,
            "p_holm": self.p,
            "detectable": s.detectable,
            "images": self.images and {"n": self.images.n, "difference": self.images.mean, "se": self.images.se},
            "redraw_sd": self.redraw,
            "training_sd": self.training,
            "mark": self.mark,
            "reason": self.reason or None,
        }


def signed(value: float, places: int) -> str:
    text = printed(value, places)
    return text if value < 0 or not float(text) else f"+{text}"


def difference(
    pairs: Sequence[Pair], column: Column, per_image: tuple[list[Tensor], list[Tensor]] | None, mark: Mark
) -> Difference:
    """Return the difference of one metric for one label, before it is corrected for the others.

    Args:
        pairs: rows of a and b with their scores.
        per_image: values by image of each row of a and of b; None: the metric has none, or they were not stored.
        mark: the mark of a line that has no pairs.
    """
    both = [(of_a[column.name], of_b[column.name]) for (_, of_a), (_, of_b) in pairs]
    reason = "; ".join(dict.fromkeys(text for pair in both for text in _missing(*pair)))
    scored = [(x, y) for x, y in both if isinstance(x, Score) and isinstance(y, Score)]
    if not scored:
        unscored = all(isinstance(score, NotScored) for pair in both for score in pair)
        return Difference("" if pairs else mark, reason=reason, unscored=unscored)
    a, b = [x.value for x, _ in scored], [y.value for _, y in scored]
    images = None
    if per_image is not None and len(per_image[0]) == len(scored):
        images = paired_over_images(*([v.numpy() for v in side] for side in per_image))
    redraw = _redraw(scored) if column.redraws else None
    return Difference("~", fmean(a), fmean(b), paired(a, b), None, images, redraw, reason)


def _redraw(pairs: Sequence[tuple[Score, Score]]) -> float | None:
    """Return the sd of b - a from redraws alone, by the scores' standard errors; None where a score has none."""
    variances = [x.se**2 + y.se**2 for x, y in pairs if x.se is not None and y.se is not None]
    return math.sqrt(fmean(variances)) if len(variances) == len(pairs) else None


def _missing(a: Score | NotAvailable, b: Score | NotAvailable) -> list[str]:
    in_a, in_b = ("" if isinstance(s, Score) else str(s) for s in (a, b))
    if in_a == in_b:
        return [in_a] if in_a else []
    return [f"{which}: {reason}" for which, reason in (("a", in_a), ("b", in_b)) if reason]


def with_decimals(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences of one metric with decimals that suit all of them."""
    places = decimals([[d.a, d.b] for d in differences if d.a is not None and d.b is not None])
    tests = [d.seeds for d in differences if d.seeds is not None]
    fine = decimals([[t.mean, *(end for end in (t.low, t.high) if end is not None)] for t in tests]) or places
    return [replace(d, places=places, fine=fine) for d in differences]


def values_by_image(
    pairs: Sequence[Pair], columns: Sequence[Column], evidence: tuple[Evidence, Evidence] | None
) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Return the values by image of a and of b, for each metric that has them in every pair and of equal length."""
    with_values = [c for c in columns if c.metric is not None and c.metric.per_image is not None]
    stored: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for pair in pairs if evidence is not None and with_values else ():
        sides = [(by_name, source(row)) for (row, by_name), source in zip(pair, evidence or (), strict=True)]
        for column in with_values:
            of_a, of_b = (_values(column, by_name[column.name], tensors) for by_name, tensors in sides)
            if of_a is not None and of_b is not None and of_a.shape == of_b.shape:
                for side, values in zip(stored.setdefault(column.name, ([], [])), (of_a, of_b), strict=True):
                    side.append(values)
    lengths = {name: {len(v) for side in sides for v in side} for name, sides in stored.items()}
    return {name: sides for name, sides in stored.items() if len(lengths[name]) == 1}


def _values(column: Column, score: object, evidence: Mapping[str, Tensor]) -> Tensor | None:
    """Return a row's values by image; None where their mean is not the score: they are of another scoring."""
    if not isinstance(score, Score) or column.metric is None or column.metric.per_image is None:
        return None
    try:
        values = column.metric.per_image(evidence).double().flatten()
    except Exception:  # missing evidence, or a plugin's mistake: the table has one standard error less
        return None
    if len(values) < 2 or not math.isclose(values.mean().item(), score.value, rel_tol=1e-5, abs_tol=1e-9):
        return None
    return values
