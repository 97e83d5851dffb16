"""The columns of a table: which there are, in which order, and every row's score in each.

The order, the families and the default columns are declared in the TOML file that is registered in `bench.defaults` for
the role `columns`, as 'package:file.toml'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bench.contracts.measurement import METRICS, Direction, Metric, Score
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.plugins.registry import default, registered_document
from bench.util.errors import NotAvailable, NotScored, PluginError, UnknownName

Scores = dict[str, Score | NotAvailable]
ROLE = "columns"


@dataclass(frozen=True)
class Column:
    """A metric, or a cost of training, as a column. A metric that is no longer installed keeps its name and scores."""

    name: str
    unit: str = ""
    direction: Direction | None = None
    metric: Metric | None = None
    problem: str = ""  #: why the metric cannot be loaded
    cost: str = ""  #: the field of `Row.costs` that a cost column shows, in seconds

    @property
    def computed_by_default(self) -> bool:
        """Whether a run computes the metric without being asked; assumed for metrics that are not installed."""
        return self.metric is None or self.metric.default

    @property
    def redraws(self) -> bool:
        """Whether standard errors are over other draws of the samples alone."""
        return self.metric is not None and self.metric.redraws

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", None: ""}[self.direction]

    @property
    def summary(self) -> str:
        """The first sentence of the metric's description."""
        text = self.metric.doc if self.metric is not None else self.problem
        return " ".join(text.partition("\n\n")[0].split()).removesuffix(".")

    @property
    def family(self) -> str:
        return layout().families.get(self.name, self.name)


@dataclass(frozen=True)
class Layout:
    """How tables show columns, as declared."""

    default: tuple[tuple[str, ...], ...] = ()  #: each entry is a column, or alternatives of which the first is shown
    narrow: tuple[str, ...] = ()  #: left out first on a narrow terminal
    instead: Mapping[str, str] = field(default_factory=dict)  #: the sentence that says why an alternative is shown
    costs: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)  #: by column, in reading order


@cache
def layout() -> Layout:
    """Return the registered layout; an empty one if none is registered.

    Raises:
        PluginError: the registered file cannot be read.
    """
    if (declared := registered_document(ROLE)) is None:
        return Layout()
    try:
        return Layout(
            tuple(tuple(entry.split("|")) for entry in declared["default"]),
            tuple(declared["narrow"]),
            dict(declared["instead"]),
            dict(declared["costs"]),
            {name: family for family, names in declared["families"].items() for name in names},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PluginError(f"the declared columns ({default(ROLE)}) cannot be read", cause=f"{error!r}") from None


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return all registered metrics in the registry's order, then those that only `rows` have scores of."""
    names = dict.fromkeys([*METRICS, *sorted({name for row in rows for name in row.scores})])
    return [_column(name) for name in names]


def _column(name: str) -> Column:
    if name not in METRICS:
        return Column(name, problem="its plugin is not installed")
    try:
        metric = METRICS.load(name)
    except PluginError as error:
        return Column(name, problem=error.what)
    return Column(name, metric.unit, metric.direction, metric)


def cost_columns() -> list[Column]:
    return [Column(name, cost=field) for name, field in layout().costs.items()]


def reading_order(known: Sequence[Column]) -> list[Column]:
    """Return columns in the declared order; those that are not declared follow as they come."""
    place = {name: i for i, name in enumerate(layout().families)}
    return sorted(known, key=lambda column: place.get(column.name, len(place)))


def chosen(
    known: Sequence[Column], names: Sequence[str] = (), scored: Callable[[Column], bool] = lambda _: True
) -> list[Column]:
    """Return the columns that `names` choose of `known`.

    Args:
        known: in reading order.
        names: none for the default columns; 'all'; names alone, in the order wanted; '+name' and '-name' to add to the
            default columns or to leave out.
        scored: whether a column has a score in the table: decides between the alternatives of a default column.

    Raises:
        UnknownName: there is no such column.
    """
    by_name = {column.name: column for column in known}
    for name in (n.lstrip("+-") for n in names if n != "all"):
        if name not in by_name:
            raise UnknownName("metric", name, [*by_name])
    picked = [name for name in names if not name.startswith(("+", "-"))]
    added, removed = ([n[1:] for n in names if n.startswith(sign)] for sign in "+-")
    shown = [c.name for c in (known if "all" in picked else _by_default(known, scored))]
    if picked and "all" not in picked:
        shown = picked
    return [by_name[name] for name in dict.fromkeys([*shown, *added]) if name not in removed]


def _by_default(known: Sequence[Column], scored: Callable[[Column], bool]) -> list[Column]:
    by_name = {column.name: column for column in known}
    shown = []
    for alternatives in layout().default:
        there = [by_name[name] for name in alternatives if name in by_name]
        shown += [next(filter(scored, there), there[0])] if there else []
    return shown if any(scored(c) for c in shown if not c.cost) else [c for c in known if not c.cost]


def scores(rows: Sequence[Row], known: Sequence[Column]) -> list[Scores]:
    """Return each row's score in each column; where there is none, `NotAvailable` with the reason.

    Derived metrics are computed here, from the stored scores of the row and of its baseline: the row of the baseline on
    the same dataset and seed, trained and scored by the same protocols.
    """
    stored = [_stored(row, known) for row in rows]
    baselines: dict[str, Scores] = {}
    baseline_name = default("baseline")
    for row, by_name in sorted(zip(rows, stored, strict=True), key=lambda pair: not pair[0].baseline):
        if row.baseline or row.variant == baseline_name:  # a user may also name the baseline as a variant
            baselines.setdefault(_setting(row, row.scoring), by_name)
    derived = []
    for row, by_name in zip(rows, stored, strict=True):
        unscored = baselines.get(_setting(row, {}))  # a baseline that failed has a reason to pass on
        baseline = baselines.get(_setting(row, row.scoring), unscored)
        derived.append({column.name: _score(column, row, by_name, baseline) for column in known})
    return derived


def _setting(row: Row, scoring: Mapping[str, Any]) -> str:
    return canonical([row.dataset, row.seed, dict(row.data), dict(row.training), dict(scoring)])


def _stored(row: Row, known: Sequence[Column]) -> Scores:
    if row.status != "ok":
        return dict.fromkeys((c.name for c in known), NotAvailable(": ".join(filter(None, (row.status, row.reason)))))
    costs = {c.name: _cost(row, c) for c in known if c.cost}
    missing = {c.name: NotAvailable(c.problem) if c.problem else NotScored("not scored") for c in known}
    return missing | costs | {c.name: row.scores[c.name] for c in known if c.name in row.scores}


def _cost(row: Row, column: Column) -> Score | NotAvailable:
    seconds = row.costs.get(column.cost)
    return Score(seconds, 1) if seconds is not None and any(row.steps) else NotAvailable("it is not trained")


def _score(column: Column, row: Row, stored: Scores, baseline: Scores | None) -> Score | NotAvailable:
    if row.status != "ok" or column.metric is None or not column.metric.derived:
        return stored[column.name]
    try:
        return column.metric.from_scores(stored, baseline)
    except NotAvailable as missing:
        return missing
    except Exception as error:  # a plugin's mistake costs its own score, not the table
        return NotAvailable(f"its formula failed: {type(error).__name__}: {error}", retry=True)
