"""The columns of a table: which metrics there are, and every row's score in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.contracts.measurement import METRICS, Direction, Metric, Score
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.plugins.registry import default
from bench.util.errors import NotAvailable, PluginError, UnknownName

Scores = dict[str, Score | NotAvailable]
MANY = 10  #: columns above which a screen shows a choice of them


@dataclass(frozen=True)
class Column:
    """A metric as the head of a column. One that isn't installed any more keeps its name and scores."""

    name: str
    unit: str = ""
    direction: Direction | None = None
    metric: Metric | None = None
    problem: str = ""  #: why the metric can't be loaded

    @property
    def usual(self) -> bool:
        """Whether it's computed unasked; of a metric that isn't installed nobody knows."""
        return self.metric is None or self.metric.default

    @property
    def redraws(self) -> bool:
        """Whether its standard errors are what other draws of the samples would change, and nothing else."""
        return self.metric is not None and self.metric.redraws

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", None: ""}[self.direction]

    @property
    def family(self) -> str:
        """The module that its metric is written in."""
        return getattr(getattr(self.metric, "function", None), "__module__", None) or ""

    @property
    def line(self) -> int:
        """Where in its family it's written."""
        code = getattr(getattr(self.metric, "function", None), "__code__", None)
        return getattr(code, "co_firstlineno", 0)


def columns(rows: Sequence[Row]) -> list[Column]:
    """All registered metrics in the registry's order, then those that only `rows` know."""
    names = dict.fromkeys([*METRICS, *sorted({name for row in rows for name in row.scores})])
    return [_column(name) for name in names]


def _column(name: str) -> Column:
    if name not in METRICS:
        return Column(name, problem="its plugin isn't installed")
    try:
        found = METRICS.load(name)
    except PluginError as error:
        return Column(name, problem=error.what)
    return Column(name, found.unit, found.direction, found)


def reading_order(found: Sequence[Column]) -> list[Column]:
    """Merits before coordinates; in each, families (metrics of one module) together, in their source's order.

    The family of the metric that is registered as the default `headline` comes first.
    """
    first = _headline(found)

    def key(column: Column) -> tuple[bool, bool, bool, str, int, str]:
        other = not first or column.family != first
        return column.metric is None, column.direction is None, other, column.family, column.line, column.name

    return sorted(found, key=key)


def _headline(found: Sequence[Column]) -> str:
    """The family of the metric that is registered as the default `headline`; '' where there's none."""
    name = default("headline")
    return next((c.family for c in found if c.name == name), "")


def chosen(found: Sequence[Column], names: Sequence[str] = (), known: Sequence[Column] = ()) -> list[Column]:
    """Those of `found` (in reading order) that `names` choose.

    Names alone are those columns; '+name' and '-name' change what a screen shows by itself: of more than ten columns
    the family of the headline, and of each other family the first merit. 'all' is every one. Names of the `known` may
    be said too, and choose nothing.

    Raises:
        UnknownName: there is no such metric.
    """
    there = dict.fromkeys(c.name for c in (*found, *known))
    for name in (n.lstrip("+-") for n in names if n != "all"):
        if name not in METRICS and name not in there:
            raise UnknownName("metric", name, [*there])
    plain = {n for n in names if not n.startswith(("+", "-"))}
    more, fewer = ({n[1:] for n in names if n.startswith(sign)} for sign in "+-")
    first = _headline(found)
    leading = {c.family: c for c in reversed(found) if c.direction is not None}
    usual = [c for c in found if (first and c.family == first) or c is leading.get(c.family)]
    if plain - {"all"}:
        usual = [c for c in found if c.name in plain]
    elif "all" in plain or len(found) <= MANY or not usual:
        usual = list(found)
    return [c for c in found if (c in usual or c.name in more) and c.name not in fewer]


def scores(rows: Sequence[Row], found: Sequence[Column]) -> list[Scores]:
    """Each row's score in each column; where there is none, `NotAvailable` with the reason.

    Derived metrics are made here, from the stored scores of the row and of its baseline: the row
    of the baseline on the same dataset and seed, trained and scored by the same protocols.
    """
    stored = [_stored(row, found) for row in rows]
    baselines: dict[str, Scores] = {}
    anchor = default("baseline")
    for row, s in sorted(zip(rows, stored, strict=True), key=lambda pair: not pair[0].baseline):
        if row.baseline or row.variant == anchor:  # it may have been asked for by name
            baselines.setdefault(_setting(row, row.scoring), s)
    made = []
    for row, s in zip(rows, stored, strict=True):
        unscored = baselines.get(_setting(row, {}))  # a baseline that failed has a reason to pass on
        baseline = baselines.get(_setting(row, row.scoring), unscored)
        made.append({column.name: _score(column, row, s, baseline) for column in found})
    return made


def _setting(row: Row, scoring: Mapping[str, Any]) -> str:
    return canonical([row.dataset, row.seed, dict(row.data), dict(row.training), dict(scoring)])


def _stored(row: Row, found: Sequence[Column]) -> Scores:
    if row.status == "ok":
        return {c.name: row.scores.get(c.name, NotAvailable(c.problem or "not scored")) for c in found}
    verdict = NotAvailable(f"{row.status}: {row.reason}" if row.reason else row.status)
    return {c.name: verdict for c in found}


def _score(column: Column, row: Row, stored: Scores, baseline: Scores | None) -> Score | NotAvailable:
    if row.status != "ok" or column.metric is None or not column.metric.derived:
        return stored[column.name]
    try:
        return column.metric.from_scores(stored, baseline)
    except NotAvailable as missing:
        return missing
    except Exception as error:  # a plugin's mistake costs its own cell, not the table
        return NotAvailable(f"its formula failed: {type(error).__name__}: {error}")
