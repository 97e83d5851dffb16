"""Two runs against each other: rows paired by label, dataset and seed, and b - a in every metric.

Rows that were made under different conditions aren't compared: the refusal names the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from bench.columns import Column, Scores, columns, reading_order, scores
from bench.errors import IncomparableRows, UsageError
from bench.measurement import Score
from bench.protocol import canonical, differences
from bench.row import Row
from bench.summary import column_parts, decimals, printed

Verdict = Literal["better", "worse", "equal", ""]
SHOWN = 12  # lines that a refusal has for differing fields


@dataclass(frozen=True)
class Difference:
    """b - a of one metric over the seeds that both have. `verdict` is b's; '' where there's no direction."""

    n: int
    a: float | None = None
    b: float | None = None
    difference: float | None = None  #: None: n/a in one of them or both
    sd: float | None = None
    verdict: Verdict = ""
    text: str = "n/a"
    sd_text: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """One dataset: differences by label and metric."""

    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, dict[str, Difference]], ...]
    notes: tuple[str, ...]

    @property
    def parts(self) -> list[tuple[Column, ...]]:
        return column_parts(self.columns)


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, and what has no counterpart."""

    groups: tuple[Group, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unscored: tuple[str, ...]  #: pairs that aren't ok in one of them or both

    @property
    def notes(self) -> list[str]:
        lists = (("only in a", self.only_a), ("only in b", self.only_b), ("without scores", self.unscored))
        legend = "▲ b is better, ▼ worse, = equal as printed, no sign: a coordinate; no test of significance"
        return [legend, *(f"{what}: {'; '.join(names)}" for what, names in lists if names)]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        found = [
            {"dataset": group.dataset, "label": label, "metric": column.name, "unit": column.unit, "n": d.n}
            | {"a": d.a, "b": d.b, "difference": d.difference, "sd": d.sd}
            | {"verdict": d.verdict or None, "reason": d.reason or None}
            for group in self.groups
            for label, by_name in group.lines
            for column in group.columns
            if (d := by_name[column.name])
        ]
        lists = {"only_a": self.only_a, "only_b": self.only_b, "unscored": self.unscored}
        return {"differences": found, **{name: list(names) for name, names in lists.items()}}


def compare(a: Iterable[Row], b: Iterable[Row]) -> Comparison:
    """Pair the rows of two runs, and take the differences.

    Raises:
        IncomparableRows: paired rows differ in protocol, data, likelihood or hyperparameters.
        UsageError: no row has a counterpart.
    """
    a, b = list(a), list(b)
    found = reading_order(columns([*a, *b]))
    left, right = _by_key(a, found), _by_key(b, found)
    pairs = [(left[key], right[key]) for key in left if key in right]
    if not pairs:
        raise UsageError(
            "no row of one run has a counterpart in the other",
            cause=f"Rows are paired by label, dataset and seed. a has {_some(left)}; b has {_some(right)}.",
            fix="Compare runs that share variants, datasets and seeds.",
        )
    ok = [pair for pair in pairs if all(row.status == "ok" for row, _ in pair)]
    _refuse([(x, y) for (x, _), (y, _) in ok])
    datasets = dict.fromkeys(x.dataset for (x, _), _ in ok)
    groups = tuple(_group(d, [pair for pair in ok if pair[0][0].dataset == d], found) for d in datasets)
    unscored = [f"{_name(x)} ({x.status}, {y.status})" for (x, _), (y, _) in pairs if not _both_ok(x, y)]
    return Comparison(
        groups,
        tuple(_name(row) for key, (row, _) in left.items() if key not in right),
        tuple(_name(row) for key, (row, _) in right.items() if key not in left),
        tuple(unscored),
    )


_Scored = tuple[Row, Scores]


def _by_key(rows: Sequence[Row], found: Sequence[Column]) -> dict[tuple[str, str, int], _Scored]:
    made: dict[tuple[str, str, int], _Scored] = {}
    for row, by_name in zip(rows, scores(rows, found), strict=True):
        made.setdefault((row.label, row.dataset, row.seed), (row, by_name))
    return made


def _name(row: Row) -> str:
    return f"{row.label} on {row.dataset}, seed {row.seed}"


def _some(rows: Mapping[tuple[str, str, int], _Scored]) -> str:
    names = [_name(row) for row, _ in rows.values()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("; ".join(names[:3]) or "no rows") + more


def _both_ok(a: Row, b: Row) -> bool:
    return a.status == b.status == "ok"


def _conditions(row: Row) -> dict[str, Any]:
    """What must be equal in a pair, by the name that a refusal gives it."""
    parts = ("training", "scoring", "data", "hyperparameters")
    flat = {f"{part}.{key}": _plain(v) for part in parts for key, v in getattr(row, part).items()}
    return {"likelihood": row.likelihood, "steps": _plain(row.steps), **flat}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse(pairs: Sequence[tuple[Row, Row]]) -> None:
    where: dict[tuple[str, str, str], dict[str, None]] = {}
    for x, y in pairs:
        for name, (in_a, in_b) in differences(_conditions(x), _conditions(y)).items():
            where.setdefault((name, _short(in_a), _short(in_b)), {})[x.label] = None
    if not where:
        return
    lines = [f"{name}: {a} in a, {b} in b  ({_few(labels)})" for (name, a, b), labels in where.items()]
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
    raise IncomparableRows(
        "these rows weren't made under the same conditions, so their scores can't be compared",
        cause="\n".join(f"  {line}" for line in lines),
        fix="Run both with the same settings, or look at them side by side: bench table A B.",
    )


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 28 else f"{text[:25]}..."


def _few(labels: Iterable[str]) -> str:
    names = list(labels)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _group(dataset: str, pairs: Sequence[tuple[_Scored, _Scored]], found: Sequence[Column]) -> Group:
    by_label: dict[str, list[tuple[Scores, Scores]]] = {}
    for (x, of_x), (_, of_y) in pairs:
        by_label.setdefault(x.label, []).append((of_x, of_y))
    lines: list[tuple[str, dict[str, Difference]]] = [(label, {}) for label in by_label]
    for column in found:
        values = [list(_values(both, column.name)) for both in by_label.values()]
        places = decimals([[v for pair in line for v in pair] for line in values])
        for (label, by_name), line in zip(lines, values, strict=True):
            by_name[column.name] = _difference(by_label[label], column, line, places)
    shown = tuple(c for c in found if any(by_name[c.name].n for _, by_name in lines))
    seeds = sorted({x.seed for (x, _), _ in pairs})
    spread = "; mean ± standard deviation of the differences" if len(seeds) > 1 else ""
    notes = [f"paired seeds: {','.join(map(str, seeds))}{spread}"]
    why: dict[str, dict[str, None]] = {}
    for label, by_name in lines:
        for column in shown:
            if reason := by_name[column.name].reason:
                why.setdefault(f"{label}: {reason}", {})[column.name] = None
    notes += [f"n/a {', '.join(names)}: {reason}" for reason, names in why.items()]
    hidden = [c.name for c in found if c not in shown]
    notes += [f"in no pair of rows: {', '.join(hidden)}"] if hidden else []
    return Group(dataset, shown, tuple(lines), tuple(notes))


def _values(both: Iterable[tuple[Scores, Scores]], name: str) -> Iterable[tuple[float, float]]:
    for of_a, of_b in both:
        a, b = of_a[name], of_b[name]
        if isinstance(a, Score) and isinstance(b, Score):
            yield a.value, b.value


def _difference(
    both: Sequence[tuple[Scores, Scores]],
    column: Column,
    values: Sequence[tuple[float, float]],
    places: int,
) -> Difference:
    reason = "; ".join(dict.fromkeys(text for of in both for text in _missing(of, column.name)))
    if not values:
        return Difference(0, reason=reason)
    a, b = fmean(x for x, _ in values), fmean(y for _, y in values)
    each = [y - x for x, y in values]
    mean, sd = fmean(each), stdev(each) if len(each) > 1 else None
    text = printed(mean, places)
    zero = not float(text.replace("−", "-"))
    verdict: Verdict = ""
    if zero:
        verdict = "equal"
    elif column.direction is not None:
        verdict = "better" if (mean > 0) == (column.direction == "higher") else "worse"
    signed = text if zero or mean < 0 else f"+{text}"
    sd_text = "" if sd is None else printed(sd, places)
    return Difference(len(values), a, b, mean, sd, verdict, signed, sd_text, reason)


def _missing(of: tuple[Scores, Scores], name: str) -> list[str]:
    a, b = ("" if isinstance(s[name], Score) else str(s[name]) for s in of)
    if a == b:
        return [a] if a else []
    return [f"{which}: {reason}" for which, reason in (("a", a), ("b", b)) if reason]
