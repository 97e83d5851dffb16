"""`--fail-if`: what a table must not show, for scripts and continuous integration."""

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
    from bench.tables.compare import Comparison, Difference

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WRITTEN = re.compile(
    rf"(?:(?P<label>.+):)?(?P<metric>\w+)\s*(?P<sign>[<>])\s*(?P<value>{_NUMBER})\s*(?P<unit>[^\s\d<>.+-].*)?"
)


@dataclass(frozen=True)
class Threshold:
    """`elbo<-110`, or `vae:fd>20` for the rows of one label. Of differences also `elbo<-0.5nat`, or `fd>5%`."""

    label: str
    metric: str
    below: bool
    value: float
    unit: str = ""
    percent: bool = False  #: of a's mean

    @classmethod
    def parse(cls, text: str, *, differences: bool = False) -> Threshold:
        """
        Args:
            differences: whether it's about b - a, of which there may be percentages.

        Raises:
            UsageError: it isn't written so, there is no such metric, or its unit is another one.
        """
        if re.search(r"[<>]\s*[-+]?\d*,\d[^<>]*$", text):
            raise UsageError(
                f"--fail-if {text!r} has a comma in its number",
                fix="Decimals take a point, thousands nothing: 'elbo<-0.5nat', 'elbo<-2000'.",
            )
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"--fail-if {text!r} isn't [LABEL:]METRIC<VALUE or [LABEL:]METRIC>VALUE",
                fix="For example: --fail-if 'elbo<-110', or --fail-if 'vae:fd>20'.",
            )
        METRICS.entry(found["metric"])
        unit = (found["unit"] or "").strip()
        if unit:
            _check(text, METRICS.load(found["metric"]), found["metric"], unit, differences)
        value = float(found["value"])
        return cls(found["label"] or "", found["metric"], found["sign"] == "<", value, unit, unit == "%")

    @property
    def _side(self) -> str:
        unit = f" {self.unit}" if self.unit and not self.percent else self.unit
        return f"{'below' if self.below else 'above'} {self.value:g}{unit}"

    def _crosses(self, value: float) -> bool:
        return value < self.value if self.below else value > self.value

    def crossed(self, rows: Iterable[Row]) -> list[str]:
        """A line for each row on the wrong side, and for each that has no such score though its label was named.

        A threshold that no row has a score for is crossed: a gate that measures nothing isn't open.
        """
        rows = [row for row in rows if self.label in ("", row.label) and not row.anchor and row.status == "ok"]
        if not rows:
            return [f"--fail-if: no row is called {self.label!r}" if self.label else "--fail-if: no row has a score"]
        lines, measured = [], 0
        for row, by_name in zip(rows, scores(rows, columns(rows)), strict=True):
            found = by_name.get(self.metric)
            where = f"{row.label} · {row.dataset} · seed {row.seed}: {self.metric}"
            measured += isinstance(found, Score)
            if isinstance(found, Score) and self._crosses(found.value):
                lines.append(f"{where} {found.value:.6g} is {self._side}")
            elif not isinstance(found, Score) and self.label:
                lines.append(f"{where} is n/a: {found}")
        return lines if measured or lines else [f"--fail-if: no row has a score in {self.metric}"]

    def crossed_by(self, comparison: Comparison) -> list[str]:
        """A line for each label whose mean difference b - a is on the wrong side, and for each that newly failed.

        Where a label was named, also if there's no difference; and if there's none at all.
        """
        every = [(f"{line.label} · {group.dataset}", line) for group in comparison.groups for line in group.lines]
        lines = [(where, line) for where, line in every if self.label in ("", line.label)]
        if self.label and not lines:
            return [f"--fail-if: no row is called {self.label!r}"]
        crossed = [f"{where}: new failure: a came out ok, b didn't" for where, line in lines if "!" in line.marks]
        without, measured = [], False
        for where, line in lines:
            if line.anchor and not self.label:
                continue
            found = line.cells.get(self.metric)
            value = None if found is None else self._of(found)
            measured |= value is not None
            if found is not None and value is not None and self._crosses(value):
                crossed.append(f"{where}: {self.metric} {self._told(found, value)}")
            elif value is None and "!" not in line.marks:
                without.append(f"{where}: {self.metric} has no difference: {_why_not(found)}")
        if self.label:
            return [*crossed, *without]
        missing = [text for text in without if text.endswith(OF_NOTHING)] or [f"--fail-if: no pair has {self.metric}"]
        return crossed if measured else [*crossed, *missing]

    def _told(self, found: Difference, value: float) -> str:
        if math.isinf(value):
            return f"{found.difference:+.6g} is {self._side}: {OF_NOTHING}"
        return f"{value:+.6g}{'%' if self.percent else ''} is {self._side}"

    def _of(self, found: Difference) -> float | None:
        if found.difference is None or not self.percent:
            return found.difference
        if not found.a:  # its range begins at 0
            return math.copysign(math.inf, found.difference) if found.difference else None
        return 100 * found.difference / found.a


OF_NOTHING = "a's mean is 0: no percentage of it"


def _why_not(found: Difference | None) -> str:
    if found is not None and found.difference is not None:
        return OF_NOTHING
    return (found and found.reason) or "no pair of rows to compare"


def _check(text: str, metric: Metric, name: str, unit: str, differences: bool) -> None:
    """Whether a threshold on a metric can be in a unit."""
    if unit == "%":
        if not differences:
            raise UsageError(
                f"--fail-if {text!r} is a percentage of nothing",
                cause="A run by itself has no other to hold it against.",
                fix=f"Give a value; or compare two runs: bench compare A B --fail-if {text!r}.",
            )
        if metric.range[0] != 0:
            raise UsageError(
                f"--fail-if {text!r}: {name} has no percentages",
                cause=f"Its scale has no zero to count from (its range is {metric.range[0]:g} to {metric.range[1]:g}), "
                "so a share of it means nothing.",
                fix=f"Give a difference in {metric.unit or 'its own unit'}.",
            )
    elif _singular(unit) not in (_singular(metric.unit), _singular(metric.unit.split("/")[0])):
        raise UsageError(
            f"--fail-if {text!r}: {name} isn't measured in {unit}",
            cause=f"Its unit is {metric.unit}." if metric.unit else "It has no unit.",
            fix=f"Give the value in {metric.unit}." if metric.unit else "Give a plain number.",
        )


def _singular(unit: str) -> str:
    head, slash, rest = unit.strip().lower().partition("/")
    return head.strip().removesuffix("s") + slash + rest.strip()
