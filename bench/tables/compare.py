"""Two runs against each other, or two labels of one: rows paired by dataset and seed, and b - a in every metric.

The same images are one dataset wherever they lie and whatever they are called; other images under one name are not.
Rows that were made under different conditions are not compared: the fields in which they differ are named instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.contracts.naming import alike
from bench.contracts.protocol import canonical, differences
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.tables.columns import Column, chosen, columns, reading_order, scores
from bench.tables.difference import (
    Difference,
    Evidence,
    Mark,
    Pair,
    ScoredRow,
    difference,
    values_by_image,
    with_decimals,
)
from bench.tables.numbers import printed
from bench.tables.statistics import LEAST, verdicts
from bench.util.errors import IncomparableRows, UnknownName, UsageError
from bench.util.wording import listed, seeds_in_words

SHOWN = 12  # lines that a refusal has for differing fields
Conditions = Callable[[Row], dict[str, Any]]
_Key = tuple[str, str, int]  # label, dataset, seed


@dataclass(frozen=True)
class ComparedLine:
    """A label with its differences by metric."""

    label: str
    marks: str  #: those of 'x' (not comparable), '!' (new failure) and '*' (fixed) that hold for some seed
    seeds: str  #: how many were compared: '5', or '4 of 5'
    values: Mapping[str, Difference]  #: by metric; those that are not shown are neither corrected nor marked
    reference: bool


@dataclass(frozen=True)
class ComparedDataset:
    """The lines of one dataset."""

    dataset: str
    columns: tuple[Column, ...]  #: the shown ones: those chosen that have a difference in some line
    lines: tuple[ComparedLine, ...]
    notes: tuple[str, ...]

    @property
    def shown(self) -> list[tuple[Column, Difference]]:
        return [(column, line.values[column.name]) for line in self.lines for column in self.columns]


@dataclass(frozen=True)
class Comparison:
    """The differences between two runs, and the rows that have no counterpart."""

    names: tuple[str, str]  #: of a and b
    datasets: tuple[ComparedDataset, ...]
    only_a: tuple[Row, ...] = ()
    only_b: tuple[Row, ...] = ()
    without_scores: tuple[str, ...] = ()  #: pairs that have a result in neither run

    @property
    def corrected_over(self) -> dict[str, int]:
        """The number of differences that p is corrected over: of metrics with a direction, and of the others."""
        directions = [c.direction for dataset in self.datasets for c, d in dataset.shown if d.p is not None]
        without = directions.count(None)
        return {"with_direction": len(directions) - without, "without_direction": without}

    @property
    def notes(self) -> list[str]:
        alone = (("only in a", _by_seeds(self.only_a)), ("only in b", _by_seeds(self.only_b)))
        lists = (*alone, ("without a result in both", self.without_scores))
        notes = [f"{what}: {'; '.join(names)}" for what, names in lists if names]
        n, others = self.corrected_over.values()
        if n > 1 or others > 1:
            apart = f", and apart over {others} of metrics without one" if others > 1 else ""
            notes.append(f"p: Holm-corrected over the {n} differences of metrics with a direction{apart}")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        lines = [(dataset, line) for dataset in self.datasets for line in dataset.lines]
        return {
            "a": self.names[0],
            "b": self.names[1],
            "corrected_over": self.corrected_over,
            "differences": [
                {"dataset": dataset.dataset, "label": line.label, "metric": column.name, "unit": column.unit}
                | line.values[column.name].to_json()
                for dataset, line in lines
                for column in dataset.columns
            ],
            "lines": [
                {"dataset": dataset.dataset, "label": line.label, "marks": list(line.marks), "seeds": line.seeds}
                for dataset, line in lines
            ],
            "notes": {dataset.dataset: list(dataset.notes) for dataset in self.datasets},
            "only_a": [_name(row) for row in self.only_a],
            "only_b": [_name(row) for row in self.only_b],
            "without_scores": list(self.without_scores),
        }


def compare(
    a: Iterable[Row],
    b: Iterable[Row],
    evidence: tuple[Evidence, Evidence] | None = None,
    names: tuple[str, str] = ("a", "b"),
    metrics: Sequence[str] = ("all",),
) -> Comparison:
    """Pair the rows of two runs by label, dataset and seed, and return the differences b - a.

    Args:
        evidence: what the cells of a and of b have stored by image; with it, differences are paired over images too.
        names: of a and b.
        metrics: the columns, as `bench.tables.columns.chosen` takes them. p is corrected over those that are shown.

    Raises:
        IncomparableRows: no pair was made under the same conditions.
        UnknownName: there is no such metric.
        UsageError: no row has a counterpart.
    """
    given = [row for row in a if not row.sanity], [row for row in b if not row.sanity]
    a, b = alike(*given)
    known = reading_order(columns([*a, *b]))
    left, right = _by_key(a, known), _by_key(b, known)
    if not left.keys() & right.keys():
        raise UsageError(
            "no row of one run has a counterpart in the other",
            cause="Rows are paired by label, dataset and seed; images of your own by their content. "
            f"a has {_some(left)}; b has {_some(right)}.",
            fix="Compare runs that share variants, datasets and seeds; two labels of one: bench compare RUN --between.",
        )
    made = _compared(left, right, known, _conditions, evidence, names, metrics)
    other = _other_names(given, (a, b))
    return replace(made, datasets=tuple(replace(d, notes=(*other.get(d.dataset, ()), *d.notes)) for d in made.datasets))


def between(
    rows: Iterable[Row], a: str, b: str, evidence: Evidence | None = None, metrics: Sequence[str] = ("all",)
) -> Comparison:
    """Pair the rows of labels `a` and `b` in one run by dataset and seed, and return the differences b - a.

    Hyperparameters and stages may differ, since they are what is compared; everything else must be equal.

    Args:
        evidence, metrics: as in `compare`.

    Raises:
        IncomparableRows, UsageError: as in `compare`.
        UnknownName: there are no rows of that label, or there is no such metric.
    """
    rows = list(rows)
    labels = list(dict.fromkeys(row.label for row in rows))
    for name in (a, b):
        if name not in labels:
            raise UnknownName("label in this run", name, labels)
    known = reading_order(columns(rows))
    every = _by_key(rows, known)
    left, right = (
        {(f"{b} − {a}", dataset, seed): s for (label, dataset, seed), s in every.items() if label == name}
        for name in (a, b)
    )
    if a == b or not left.keys() & right.keys():
        raise UsageError(f"no row of {a!r} has a counterpart among those of {b!r}", cause="They are paired by seed.")
    made = _compared(left, right, known, _surroundings, evidence and (evidence, evidence), (a, b), metrics)
    pairs = [(left[key][0], right[key][0]) for key in left if key in right]
    settings = {d.dataset: _settings(pair for pair in pairs if pair[0].dataset == d.dataset) for d in made.datasets}
    return replace(made, datasets=tuple(replace(d, notes=(*d.notes, *settings[d.dataset])) for d in made.datasets))


def _by_key(rows: Sequence[Row], known: Sequence[Column]) -> dict[_Key, ScoredRow]:
    first: dict[_Key, ScoredRow] = {}
    for row, by_name in zip(rows, scores(rows, known), strict=True):
        first.setdefault((row.label, row.dataset, row.seed), (row, by_name))
    return first


def _compared(
    left: Mapping[_Key, ScoredRow],
    right: Mapping[_Key, ScoredRow],
    known: Sequence[Column],
    conditions: Conditions,
    evidence: tuple[Evidence, Evidence] | None,
    names: tuple[str, str],
    metrics: Sequence[str],
) -> Comparison:
    pairs = {key: (left[key], right[key]) for key in left if key in right}
    apart = {key: _apart(pair, conditions) for key, pair in pairs.items() if _outcome(pair) == "ok"}
    failed_once = {key for key, pair in pairs.items() if _outcome(pair) in ("!", "*")}
    if apart and all(apart.values()) and not failed_once:
        raise _incomparable(apart)
    datasets = dict.fromkeys(dataset for _, dataset, _ in pairs)
    compared = {dataset for _, dataset, _ in (*apart, *failed_once)}
    return Comparison(
        names,
        _judged(
            [
                _dataset(d, {k: pair for k, pair in pairs.items() if k[1] == d}, apart, known, evidence, metrics)
                for d in datasets
                if d in compared
            ]
        ),
        tuple(row for key, (row, _) in left.items() if key not in right),
        tuple(row for key, (row, _) in right.items() if key not in left),
        tuple(
            f"{_name(x)} ({x.status}, {y.status})"
            for (x, _), (y, _) in pairs.values()
            if "ok" not in (x.status, y.status)
        ),
    )


# which pairs can be compared


def _outcome(pair: Pair) -> Literal["ok", "!", "*", ""]:
    """Return 'ok' if both rows have a result, '!' if only a has one, '*' if only b has one, '' if neither."""
    (a, _), (b, _) = pair
    if "ok" not in (a.status, b.status):
        return ""
    return "ok" if a.status == b.status else "!" if a.status == "ok" else "*"


def _conditions(row: Row) -> dict[str, Any]:
    """Return what must be equal in a pair, by the name that a refusal gives it."""
    own = {f"hyperparameters.{key}": value for key, value in row.hyperparameters.items()}
    return {**_surroundings(row), "steps": list(row.steps), **_plain(own)}


def _surroundings(row: Row) -> dict[str, Any]:
    flat = {f"{part}.{key}": v for part in ("training", "scoring", "data") for key, v in getattr(row, part).items()}
    return {"likelihood": row.likelihood, "uses_labels": row.uses_labels, **_plain(flat)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: a row read from a file has lists where one in memory has tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


OTHER_IMAGES = {"data.train": "other training images", "data.test": "other test images"}


def _apart(pair: Pair, conditions: Conditions) -> tuple[str, ...]:
    """Return the conditions in which two rows differ, with both values."""
    (a, _), (b, _) = pair
    fields = differences(conditions(a), conditions(b))
    texts = [f"{name}: {_short(in_a)} in a, {_short(in_b)} in b" for name, (in_a, in_b) in fields.items()]
    same_part = not {"training.limit", "training.validation", "scoring.split"} & fields.keys()
    images = [what for digest, what in OTHER_IMAGES.items() if same_part and None not in fields.get(digest, (None,))]
    return (*([f"{a.dataset} is not the same data: {' and '.join(images)} in b"] if images else []), *texts)


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 28 else f"{text[:25]}..."


def _incomparable(apart: Mapping[_Key, Sequence[str]]) -> IncomparableRows:
    lines = _by_field(apart)
    lines = lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
    return IncomparableRows(
        "these rows were made under different conditions, so their scores cannot be compared",
        cause="\n".join(f"  {line}" for line in lines),
        fix="Run both with the same settings, or look at them side by side: bench table A B.",
    )


def _by_field(apart: Mapping[_Key, Sequence[str]]) -> list[str]:
    """Return the fields in which rows differ, each with the labels for which they do."""
    where: dict[str, dict[str, None]] = {}
    for (label, _, _), texts in apart.items():
        for text in texts:
            where.setdefault(text, {})[label] = None
    return [f"{text}  ({_first_three(list(labels), ', ')})" for text, labels in where.items()]


# one dataset


def _dataset(
    dataset: str,
    pairs: Mapping[_Key, Pair],
    apart: Mapping[_Key, Sequence[str]],
    known: Sequence[Column],
    evidence: tuple[Evidence, Evidence] | None,
    metrics: Sequence[str],
) -> ComparedDataset:
    by_label: dict[str, dict[_Key, Pair]] = {}
    for key, pair in pairs.items():
        by_label.setdefault(key[0], {})[key] = pair
    by_label = {label: of for label, of in by_label.items() if any(map(_outcome, of.values()))}
    comparable = {label: [of[k] for k in of if k in apart and not apart[k]] for label, of in by_label.items()}
    marks = {label: _marks(of, apart) for label, of in by_label.items()}
    values = _differences(comparable, marks, known, evidence)
    lines = tuple(
        ComparedLine(
            label,
            marks[label],
            _n_of(len(comparable[label]), len(of)),
            values[label],
            any(row.reference for pair in of.values() for row, _ in pair),
        )
        for label, of in by_label.items()
    )
    scored = {c.name for c in known if any(by_name[c.name].n for by_name in values.values())}
    wanted = chosen(known, metrics, lambda column: column.name in scored)
    shown = tuple(column for column in wanted if column.name in scored)
    notes = _seeds_notes({label: sorted(x.seed for (x, _), _ in of) for label, of in comparable.items()})
    notes += [f"x {text}" for text in _by_field({key: of for key, of in apart.items() if key in pairs and of})]
    notes += [_failure(pair) for pair in pairs.values() if _outcome(pair) in ("!", "*")]
    notes += [*_missing_notes(lines, shown), *_redraw_notes(lines, shown)]
    named = set(metrics) - {"all"}
    notes += _unscored_notes(lines, [c.name for c in (wanted if named else known) if c.name not in scored])
    if more := 0 if named else len(scored) - len(shown):
        notes.append(f"{more} more metric{'' if more == 1 else 's'}: --all, or --metrics NAMES")
    return ComparedDataset(dataset, shown, lines, tuple(notes))


def _differences(
    comparable: Mapping[str, Sequence[Pair]],
    marks: Mapping[str, str],
    known: Sequence[Column],
    evidence: tuple[Evidence, Evidence] | None,
) -> dict[str, dict[str, Difference]]:
    """Return the difference of each label in each metric."""
    images = {label: values_by_image(pairs, known, evidence) for label, pairs in comparable.items()}
    alone: dict[str, Mark] = {label: "x" if "x" in of else "!" if "!" in of else "*" for label, of in marks.items()}
    values: dict[str, dict[str, Difference]] = {label: {} for label in comparable}
    for column in known:
        made = [
            difference(of, column, images[label].get(column.name), alone[label]) for label, of in comparable.items()
        ]
        for label, d in zip(comparable, with_decimals(made), strict=True):
            values[label][column.name] = d
    return values


def _marks(pairs: Mapping[_Key, Pair], apart: Mapping[_Key, Sequence[str]]) -> str:
    outcomes = {_outcome(pair) for pair in pairs.values()} | {"x" for key in pairs if apart.get(key)}
    return "".join(mark for mark in "x!*" if mark in outcomes)


def _n_of(n: int, of: int) -> str:
    return str(n) if n == of else f"{n} of {of}"


def _judged(datasets: Sequence[ComparedDataset]) -> tuple[ComparedDataset, ...]:
    """Return the same with marks and a p that is corrected over all differences shown: they are read together."""
    shown = [(d, column) for dataset in datasets for column, d in dataset.shown if d.seeds is not None]
    found = verdicts([(d.seeds, column.direction) for d, column in shown if d.seeds is not None])
    verdict_of = {id(d): verdict for (d, _), verdict in zip(shown, found, strict=True)}

    def judged(d: Difference) -> Difference:
        verdict = verdict_of.get(id(d))
        return d if verdict is None else replace(d, mark=verdict.mark, p=verdict.p)

    def line(of: ComparedLine) -> ComparedLine:
        return replace(of, values={name: judged(d) for name, d in of.values.items()})

    return tuple(replace(dataset, lines=tuple(map(line, dataset.lines))) for dataset in datasets)


# notes


def _seeds_notes(seeds: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the seeds by which the lines are compared: those of most, and the labels that have others."""
    counts = Counter(tuple(of) for of in seeds.values() if of)
    if not counts:
        return []
    most = max(counts, key=lambda of: (counts[of], len(of), of))
    apart = [f"{label}: {','.join(map(str, of))}" for label, of in sorted(seeds.items()) if of and tuple(of) != most]
    others = f" ({'; '.join(apart)})" if apart else ""
    few = f"; fewer than {LEAST} cannot show whether a difference is real" if max(map(len, counts)) < LEAST else ""
    return [f"paired seeds: {','.join(map(str, most))}{others}{few}"]


def _missing_notes(lines: Sequence[ComparedLine], shown: Sequence[Column]) -> list[str]:
    """Return why lines have no difference in a metric, or lack seeds."""
    why: dict[str, list[str]] = {}
    for line in lines:
        for column in shown:
            if reason := line.values[column.name].reason:
                why.setdefault(f"{line.label}: {reason}", []).append(column.name)
    return [f"n/a {', '.join(names)}: {reason}" for reason, names in why.items()]


def _unscored_notes(lines: Sequence[ComparedLine], names: Sequence[str]) -> list[str]:
    """Return the metrics without a difference: those computed in neither run, and those without a score in both."""
    neither = [name for name in names if all(line.values[name].unscored for line in lines)]
    lists = (("not scored in either", neither), ("in no pair of rows", [n for n in names if n not in neither]))
    return [f"{what}: {', '.join(own) if len(own) <= 8 else f'{len(own)} metrics'}" for what, own in lists if own]


def _redraw_notes(lines: Sequence[ComparedLine], shown: Sequence[Column]) -> list[str]:
    """Return how much of the spread over seeds is noise of redrawn samples, where a score says how large that is."""
    spread: dict[str, list[str]] = {}
    for line, column in ((line, column) for line in lines for column in shown):
        d = line.values[column.name]
        if d.seeds is not None and d.redraw is not None and d.training is not None and d.seeds.sd is not None:
            sd, redraw, training = (printed(v, max(d.fine, 0)) for v in (d.seeds.sd, d.redraw, d.training))
            spread.setdefault(line.label, []).append(f"{column.name} {sd} ({redraw}, {training})")
    texts = "; ".join(f"{label}: {', '.join(of)}" for label, of in spread.items())
    return [f"sd of b − a over seeds (of redrawn samples alone, of training alone): {texts}"] if texts else []


def _failure(pair: Pair) -> str:
    (a, _), (b, _) = pair
    bad, which = (b, "b") if a.status == "ok" else (a, "a")
    what = f"{bad.status} in {which}" + (f": {bad.reason}" if bad.reason else "")
    return f"{_outcome(pair)} {bad.label}, seed {bad.seed}: {what}"


def _settings(pairs: Iterable[tuple[Row, Row]]) -> list[str]:
    """Return the hyperparameters in which pairs of rows differ, with the seeds where not all pairs agree."""
    seeds: dict[str, list[int]] = {}
    for x, y in pairs:
        apart = differences(_plain(x.hyperparameters), _plain(y.hyperparameters))
        text = ", ".join(f"{k} {_shown(v)} → {_shown(w)}" for k, (v, w) in apart.items())
        seeds.setdefault(text, []).append(x.seed)
    return [
        f"hyperparameters{'' if len(seeds) == 1 else f', {seeds_in_words(sorted(of))}'}: {text}"
        for text, of in sorted(seeds.items(), key=lambda pair: pair[1])
        if text
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else show(value)


def _other_names(given: Iterable[Sequence[Row]], renamed: Iterable[Sequence[Row]]) -> dict[str, list[str]]:
    """Return the other names of each dataset in the runs, by the name that stands for all."""
    names: dict[str, dict[str, None]] = {}
    for which, old, new in zip("ab", given, renamed, strict=True):
        for row, now in zip(old, new, strict=True):
            if row.dataset != now.dataset:
                names.setdefault(now.dataset, {})[f"the same images are {row.dataset} in {which}"] = None
    return {name: list(notes) for name, notes in names.items()}


def _name(row: Row) -> str:
    return f"{row.label} on {row.dataset}, seed {row.seed}"


def _by_seeds(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return rows by dataset and seeds: 'vae and beta on fashion, seeds 0 to 4'."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        seeds.setdefault((row.dataset, row.label), []).append(row.seed)
    labels: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (dataset, label), of in seeds.items():
        labels.setdefault((dataset, tuple(sorted(of))), []).append(label)
    return tuple(f"{listed(names)} on {dataset}, {seeds_in_words(of)}" for (dataset, of), names in labels.items())


def _some(rows: Mapping[_Key, ScoredRow]) -> str:
    return _first_three([_name(row) for row, _ in rows.values()], "; ") or "no rows"


def _first_three(names: Sequence[str], between: str) -> str:
    return between.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
