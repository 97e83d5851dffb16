"""`--fail-if`: limits that rows or differences must not cross, for scripts and continuous integration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.contracts.measurement import METRICS, Metric, Score
from bench.contracts.row import Row
from bench.tables.columns import columns, scores
from bench.util.errors import UsageError

if TYPE_CHECKING:
    from bench.tables.compare import Comparison
    from bench.tables.difference import Difference

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LIMIT = re.compile(rf"(?:(?P<label>.+):)?(?P<metric>\w+)\s*(?P<sign>[<>])\s*(?P<value>{_NUMBER})(?P<percent>\s*%)?")


@dataclass(frozen=True)
class Threshold:
    """`elbo<-110`; `vae:fd>20` for the rows of one label; of differences also `fd>5%`, relative to a's mean."""

    label: str
    metric: str
    below: bool
    value: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str, *, differences: bool = False) -> Threshold:
        """Return the limit that `text` writes, in the metric's own unit or in percent.

        Args:
            differences: whether it limits differences b - a; only these may be in percent.

        Raises:
            UsageError: it is not written as above, or the metric has no percentages.
            UnknownName: there is no such metric.
        """
        limit = _LIMIT.fullmatch(text.strip())
        if limit is None:
            raise UsageError(
                f"--fail-if {text!r} is not written as [LABEL:]METRIC<VALUE or [LABEL:]METRIC>VALUE",
                cause="VALUE is a number with a decimal point, in the metric's own unit (bench info METRIC).",
                fix="For example: --fail-if 'elbo<-110', or --fail-if 'vae:fd>20'.",
            )
        METRICS.entry(limit["metric"])
        if limit["percent"]:
            _check_percent(text, METRICS.load(limit["metric"]), differences)
        return cls(
            limit["label"] or "", limit["metric"], limit["sign"] == "<", float(limit["value"]), bool(limit["percent"])
        )

    def _crossed(self, value: float) -> bool:
        return value < self.value if self.below else value > self.value

    def __str__(self) -> str:
        return f"{'below' if self.below else 'above'} {self.value:g}{'%' if self.percent else ''}"

    def crossed(self, rows: Iterable[Row]) -> list[str]:
        """Return a line for each row beyond the limit, and for each without a score if its label was named.

        A limit is also crossed if no row has a score: a check that measures nothing must not pass.
        """
        rows = [row for row in rows if self.label in ("", row.label) and not row.reference and row.status == "ok"]
        if not rows:
            return [f"--fail-if: no row is called {self.label!r}" if self.label else "--fail-if: no row has a score"]
        lines, measured = [], 0
        for row, by_name in zip(rows, scores(rows, columns(rows)), strict=True):
            score = by_name.get(self.metric)
            where = f"{row.label} · {row.dataset} · seed {row.seed}: {self.metric}"
            measured += isinstance(score, Score)
            if isinstance(score, Score) and self._crossed(score.value):
                lines.append(f"{where} {score.value:.6g} is {self}")
            elif not isinstance(score, Score) and self.label:
                lines.append(f"{where} is n/a: {score}")
        return lines if measured or lines else [f"--fail-if: no row has a score in {self.metric}"]

    def crossed_by(self, comparison: Comparison) -> list[str]:
        """Return a line for each label whose mean difference is beyond the limit, and for each that newly failed.

        If a label was named, also if it has no difference; and if there is no difference at all.
        """
        every = [(f"{line.label} · {d.dataset}", line) for d in comparison.datasets for line in d.lines]
        lines = [(where, line) for where, line in every if self.label in ("", line.label)]
        if self.label and not lines:
            return [f"--fail-if: no row is called {self.label!r}"]
        crossed = [f"{where}: new failure: a has a result, b has none" for where, line in lines if "!" in line.marks]
        missing, of_zero, measured = [], [], False
        for where, line in lines:
            if line.reference and not self.label:
                continue
            d = line.values.get(self.metric)
            value = None if d is None else self._value(d)
            measured |= value is not None
            if value is not None and self._crossed(value):
                crossed.append(f"{where}: {self.metric} {value:+.6g}{'%' if self.percent else ''} is {self}")
            elif d is not None and d.difference is not None and value is None:
                of_zero.append(f"{where}: {self.metric} has no percentage: a's mean is 0")
            elif value is None and "!" not in line.marks:
                reason = (d.reason if d is not None else "") or "no pair of rows to compare"
                missing.append(f"{where}: {self.metric} has no difference: {reason}")
        if self.label or measured:
            return [*crossed, *((*missing, *of_zero) if self.label else ())]
        return [*crossed, *(of_zero or [f"--fail-if: no pair has {self.metric}"])]

    def _value(self, d: Difference) -> float | None:
        if d.difference is None or not self.percent:
            return d.difference
        if not d.a:  # its range begins at 0
            return math.copysign(math.inf, d.difference) if d.difference else None
        return 100 * d.difference / d.a


def _check_percent(text: str, metric: Metric, differences: bool) -> None:
    if not differences:
        raise UsageError(
            f"--fail-if {text!r}: a percentage needs two runs",
            fix=f"Give a value; or compare two runs: bench compare A B --fail-if {text!r}.",
        )
    if metric.range[0] != 0:
        raise UsageError(
            f"--fail-if {text!r}: this metric has no percentages",
            cause=f"Its range, {metric.range[0]:g} to {metric.range[1]:g}, does not begin at 0.",
            fix=f"Give a difference in {metric.unit or 'its own unit'}.",
        )
