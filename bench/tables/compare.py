"""Two runs against each other, or two labels of one: rows paired by dataset and seed, and b - a in every metric.

The same images are one dataset wherever they lie and whatever they're called; other images under one name are not.

Rows that were made under different conditions aren't compared: the fields in which they differ are named instead.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from bench.contracts.measurement import Score
from bench.contracts.naming import alike
from bench.contracts.protocol import canonical, differences
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.tables.columns import Column, Scores, chosen, columns, reading_order, scores
from bench.tables.numbers import decimals, printed
from bench.tables.statistics import LEAST, OverImages, Paired, paired, paired_over_images, verdicts
from bench.util.errors import IncomparableRows, UnknownName, UsageError
from bench.util.wording import listed, seeds_in_words

Mark = Literal["+", "-", "~", "x", "!", "*", ""]
"""b is better, b is worse, no significant difference or too few seeds to say, not comparable, new failure, fixed; '' is
a coordinate that differs, neither better nor worse."""
SHOWN = 12  # lines that a refusal has for differing fields

Evidence = Callable[[Row], Mapping[str, Tensor]]
"""What a row's cell keeps, by name."""


@dataclass(frozen=True)
class Difference:
    """b - a of one metric, over the seeds on which both have a score."""

    mark: Mark
    a: float | None = None
    b: float | None = None
    seeds: Paired | None = None  #: None: n/a in one of them or both
    p: float | None = None  #: corrected by Holm over all differences that the comparison shows
    images: OverImages | None = None  #: over test images, where a metric has values for each
    redraw: float | None = None  #: sd that b - a would have by drawing the samples anew alone, where a metric knows it
    reason: str = ""  #: why seeds are missing
    places: int = 3  #: decimals of a and b
    fine: int = 3  #: decimals of what is made of differences

    @property
    def n(self) -> int:
        return 0 if self.seeds is None else self.seeds.n

    @property
    def difference(self) -> float | None:
        return None if self.seeds is None else self.seeds.mean

    @property
    def training(self) -> float | None:
        """What redraws leave of the sd over seeds; 0 where they'd make more."""
        if self.redraw is None or self.seeds is None or self.seeds.sd is None:
            return None
        return math.sqrt(max(0.0, self.seeds.sd**2 - self.redraw**2))

    @property
    def text(self) -> str:
        """The difference with its sign."""
        return "n/a" if self.seeds is None else _signed(self.seeds.mean, self.fine)

    @property
    def interval(self) -> str:
        if self.seeds is None or self.seeds.low is None or self.seeds.high is None:
            return ""
        return f"{_signed(self.seeds.low, self.fine)} … {_signed(self.seeds.high, self.fine)}"

    @property
    def detectable(self) -> str:
        least = None if self.seeds is None else self.seeds.detectable
        return "" if least is None else printed(least, self.fine)

    @property
    def se(self) -> str:
        """Of the difference, over images."""
        return "" if self.images is None else printed(self.images.se, decimals([[self.images.se]]))

    @property
    def p_text(self) -> str:
        if 0 < self.n < LEAST:
            return "can't say"
        return "" if self.p is None else "<0.001" if self.p < 0.001 else f"{self.p:.3f}"


def _signed(value: float, places: int) -> str:
    text = printed(value, places)
    return text if value < 0 or not float(text) else f"+{text}"


@dataclass(frozen=True)
class Line:
    """A label, its differences by metric, and what befell the line as a whole."""

    label: str
    marks: str  #: of 'x', '!' and '*' those that hold for some seed
    seeds: str  #: how many were compared: '5', or '4 of 5'
    cells: Mapping[str, Difference]  #: by metric, those that aren't shown among them: neither corrected nor marked
    anchor: bool


@dataclass(frozen=True)
class Group:
    """One dataset."""

    dataset: str
    columns: tuple[Column, ...]  #: those that are shown: chosen ones with a difference in some line
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def shown(self) -> list[tuple[Column, Difference]]:
        return [(column, line.cells[column.name]) for line in self.lines for column in self.columns]


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, and what has no counterpart."""

    names: tuple[str, str]  #: what a and b are
    groups: tuple[Group, ...]
    only_a: tuple[Row, ...] = ()
    only_b: tuple[Row, ...] = ()
    unscored: tuple[str, ...] = ()  #: pairs that aren't ok in either

    @property
    def family(self) -> tuple[int, int]:
        """How many differences p is corrected over: of merits, and apart from them of coordinates."""
        directions = [c.direction for group in self.groups for c, d in group.shown if d.p is not None]
        coordinates = directions.count(None)
        return len(directions) - coordinates, coordinates

    @property
    def notes(self) -> list[str]:
        alone = (("only in a", _gathered(self.only_a)), ("only in b", _gathered(self.only_b)))
        lists = (*alone, ("without scores", self.unscored))
        return [f"{what}: {'; '.join(names)}" for what, names in lists if names] + self._corrected()

    def _corrected(self) -> list[str]:
        merits, coordinates = self.family
        over = [f"the {merits} in merits"] if merits > 1 else []
        over += [f"the {coordinates} in coordinates"] if coordinates > 1 else []
        family = ", and apart over ".join(over)
        return [f"p is corrected (Holm) over the differences shown: {family}; the other columns aren't"] if over else []

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        found = [
            {"dataset": group.dataset, "label": line.label, "metric": column.name, "unit": column.unit}
            | _document(line.cells[column.name])
            for group in self.groups
            for line in group.lines
            for column in group.columns
        ]
        lines = [
            {"dataset": group.dataset, "label": line.label, "marks": list(line.marks), "seeds": line.seeds}
            for group in self.groups
            for line in group.lines
        ]
        notes = {group.dataset: list(group.notes) for group in self.groups}
        corrected = dict(zip(("merits", "coordinates"), self.family, strict=True))
        return {"a": self.names[0], "b": self.names[1], "corrected_over": corrected, "differences": found} | {
            "lines": lines,
            "notes": notes,
            "only_a": [_name(row) for row in self.only_a],
            "only_b": [_name(row) for row in self.only_b],
            "unscored": list(self.unscored),
        }


def _document(d: Difference) -> dict[str, Any]:
    s = d.seeds or Paired(0, 0.0)
    over = d.images and {"n": d.images.n, "difference": d.images.mean, "se": d.images.se}
    numbers = {"difference": d.difference, "sd": s.sd, "low": s.low, "high": s.high, "p": s.p, "p_holm": d.p}
    return {"n": d.n, "a": d.a, "b": d.b, **numbers, "detectable": s.detectable, "images": over} | {
        "redraw_sd": d.redraw,
        "training_sd": d.training,
        "mark": d.mark,
        "reason": d.reason or None,
    }


def compare(
    a: Iterable[Row],
    b: Iterable[Row],
    evidence: tuple[Evidence, Evidence] | None = None,
    names: tuple[str, str] = ("a", "b"),
    metrics: Sequence[str] | None = None,
) -> Comparison:
    """Pair the rows of two runs by label, dataset and seed, and take the differences.

    A dataset of somebody's own that has the same images in both is one dataset, under whichever names.

    Args:
        evidence: what rows of a and of b keep; with it, differences are paired over test images too.
        names: what a and b are called.
        metrics: those that are shown, as `bench.tables.columns.chosen` takes them; None is all. p is corrected over
            these.

    Raises:
        IncomparableRows: no pair was made under the same conditions.
        UnknownName: there is no such metric.
        UsageError: no row has a counterpart.
    """
    before = _models(a), _models(b)
    a, b = alike(*before)
    found = reading_order(columns([*a, *b]))
    left, right = _by_key(a, found), _by_key(b, found)
    if not left.keys() & right.keys():
        raise UsageError(
            "no row of one run has a counterpart in the other",
            cause=f"Rows are paired by label, dataset and seed, somebody's own images by what they are. a has "
            f"{_some(left)}; b has {_some(right)}.",
            fix="Compare runs that share variants, datasets and seeds; two labels of one: bench compare RUN --between.",
        )
    made = _compared(left, right, found, _conditions, evidence, names, metrics)
    other = _other_names(before, (a, b))
    return replace(made, groups=tuple(replace(g, notes=(*other.get(g.dataset, ()), *g.notes)) for g in made.groups))


def _other_names(before: Iterable[Sequence[Row]], now: Iterable[Sequence[Row]]) -> dict[str, list[str]]:
    """Return the other names of each dataset in the runs, by the name that stands for all."""
    found: dict[str, dict[str, None]] = {}
    for which, old, new in zip("ab", before, now, strict=True):
        for row, renamed in zip(old, new, strict=True):
            if row.dataset != renamed.dataset:
                found.setdefault(renamed.dataset, {})[f"the same images are {row.dataset} in {which}"] = None
    return {name: list(notes) for name, notes in found.items()}


def between(
    rows: Iterable[Row], a: str, b: str, evidence: Evidence | None = None, metrics: Sequence[str] | None = None
) -> Comparison:
    """Pair the rows of labels `a` and `b` in one run by dataset and seed, and take the differences.

    Hyperparameters and stages may differ, they are what is compared; all else must be equal.

    Args:
        evidence, metrics: as `compare`.

    Raises:
        IncomparableRows, UsageError: as `compare`.
        UnknownName: there are no rows of that label, or there is no such metric.
    """
    rows = list(rows)
    labels = list(dict.fromkeys(row.label for row in rows))
    for name in (a, b):
        if name not in labels:
            raise UnknownName("label in this run", name, labels)
    found = reading_order(columns(rows))
    every = _by_key(rows, found)
    left, right = (
        {(f"{b} − {a}", dataset, seed): s for (label, dataset, seed), s in every.items() if label == name}
        for name in (a, b)
    )
    if a == b or not left.keys() & right.keys():
        raise UsageError(f"no row of {a!r} has a counterpart among those of {b!r}", cause="They are paired by seed.")
    made = _compared(left, right, found, _surroundings, evidence and (evidence, evidence), (a, b), metrics)
    pairs = [(left[key][0], right[key][0]) for key in left if key in right]
    said = {g.dataset: _settings(pair for pair in pairs if pair[0].dataset == g.dataset) for g in made.groups}
    return replace(made, groups=tuple(replace(g, notes=(*g.notes, *said[g.dataset])) for g in made.groups))


def _settings(pairs: Iterable[tuple[Row, Row]]) -> list[str]:
    """Return the hyperparameters in which pairs of rows differ, with the seeds where those aren't the same in all."""
    seeds: dict[str, list[int]] = {}
    for x, y in pairs:
        apart = differences(_plain_all(x.hyperparameters), _plain_all(y.hyperparameters))
        said = ", ".join(f"{k} {_said(v)} → {_said(w)}" for k, (v, w) in apart.items())
        seeds.setdefault(said, []).append(x.seed)
    return [
        f"hyperparameters{'' if len(seeds) == 1 else f', {seeds_in_words(sorted(of))}'}: {said}"
        for said, of in sorted(seeds.items(), key=lambda pair: pair[1])
        if said
    ]


_Scored = tuple[Row, Scores]
_Key = tuple[str, str, int]
_Pair = tuple[_Scored, _Scored]


def _models(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.sanity]


def _by_key(rows: Sequence[Row], found: Sequence[Column]) -> dict[_Key, _Scored]:
    made: dict[_Key, _Scored] = {}
    for row, by_name in zip(rows, scores(rows, found), strict=True):
        made.setdefault((row.label, row.dataset, row.seed), (row, by_name))
    return made


def _name(row: Row) -> str:
    return f"{row.label} on {row.dataset}, seed {row.seed}"


def _gathered(rows: Iterable[Row]) -> tuple[str, ...]:
    """Rows by dataset and seeds: 'vae and beta on fashion, seeds 0 to 4'."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        seeds.setdefault((row.dataset, row.label), []).append(row.seed)
    labels: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (dataset, label), found in seeds.items():
        labels.setdefault((dataset, tuple(sorted(found))), []).append(label)
    return tuple(f"{listed(names)} on {dataset}, {seeds_in_words(found)}" for (dataset, found), names in labels.items())


def _some(rows: Mapping[_Key, _Scored]) -> str:
    names = [_name(row) for row, _ in rows.values()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ("; ".join(names[:3]) or "no rows") + more


def _compared(
    left: Mapping[_Key, _Scored],
    right: Mapping[_Key, _Scored],
    found: Sequence[Column],
    conditions: Callable[[Row], dict[str, Any]],
    evidence: tuple[Evidence, Evidence] | None,
    names: tuple[str, str],
    metrics: Sequence[str] | None,
) -> Comparison:
    pairs = {key: (left[key], right[key]) for key in left if key in right}
    unlike = {key: _unlike(pair, conditions) for key, pair in pairs.items() if _standing(pair) == "ok"}
    moved = {key for key, pair in pairs.items() if _standing(pair) in ("!", "*")}
    if unlike and all(unlike.values()) and not moved:
        lines = _listed_fields(unlike)
        lines = lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
        raise IncomparableRows(
            "these rows weren't made under the same conditions, so their scores can't be compared",
            cause="\n".join(f"  {line}" for line in lines),
            fix="Run both with the same settings, or look at them side by side: bench table A B.",
        )
    datasets = dict.fromkeys(dataset for _, dataset, _ in (*unlike, *moved))
    metrics = ("all",) if metrics is None else metrics
    groups = [
        _group(d, {key: pair for key, pair in pairs.items() if key[1] == d}, unlike, found, evidence, metrics)
        for d in dict.fromkeys(key[1] for key in pairs)
        if d in datasets
    ]
    return Comparison(
        names,
        _judged(groups),
        tuple(row for key, (row, _) in left.items() if key not in right),
        tuple(row for key, (row, _) in right.items() if key not in left),
        tuple(f"{_name(x)} ({x.status}, {y.status})" for (x, _), (y, _) in pairs.values() if _neither(x, y)),
    )


def _neither(a: Row, b: Row) -> bool:
    return "ok" not in (a.status, b.status)


def _standing(pair: _Pair) -> Literal["ok", "!", "*", ""]:
    """Whether both came out, or b alone failed, or a alone; '' if none came out."""
    (a, _), (b, _) = pair
    if _neither(a, b):
        return ""
    return "ok" if a.status == b.status else "!" if a.status == "ok" else "*"


def _conditions(row: Row) -> dict[str, Any]:
    """What must be equal in a pair, by the name that a reason gives it."""
    own = _plain_all({f"hyperparameters.{key}": v for key, v in row.hyperparameters.items()})
    return {**_surroundings(row), "steps": _plain(row.steps), **own}


def _surroundings(row: Row) -> dict[str, Any]:
    parts = ("training", "scoring", "data")
    flat = {f"{part}.{key}": _plain(v) for part in parts for key, v in getattr(row, part).items()}
    return {"likelihood": row.likelihood, "uses_labels": row.uses_labels, **flat}


def _plain_all(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _unlike(pair: _Pair, conditions: Callable[[Row], dict[str, Any]]) -> tuple[str, ...]:
    (a, _), (b, _) = pair
    apart = differences(conditions(a), conditions(b))
    said = [f"{name}: {_short(in_a)} in a, {_short(in_b)} in b" for name, (in_a, in_b) in apart.items()]
    same = not {"training.limit", "training.validation", "scoring.split"} & apart.keys()
    other = [words for digest, words in _OTHER.items() if same and None not in apart.get(digest, (None,))]
    words = [f"{a.dataset} isn't the same data: {' and '.join(other)} in b"] if other else []
    return (*words, *said)


_OTHER = {"data.train": "other training images", "data.test": "other test images"}


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 28 else f"{text[:25]}..."


def _said(value: Any) -> str:
    return "none" if value is None else show(value)


def _listed_fields(unlike: Mapping[_Key, Sequence[str]]) -> list[str]:
    """Fields in which rows differ, each with the labels for which they do."""
    where: dict[str, dict[str, None]] = {}
    for (label, _, _), texts in unlike.items():
        for text in texts:
            where.setdefault(text, {})[label] = None
    return [f"{text}  ({_few(labels)})" for text, labels in where.items()]


def _few(labels: Iterable[str]) -> str:
    names = list(labels)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _group(
    dataset: str,
    pairs: Mapping[_Key, _Pair],
    unlike: Mapping[_Key, Sequence[str]],
    found: Sequence[Column],
    evidence: tuple[Evidence, Evidence] | None,
    metrics: Sequence[str],
) -> Group:
    labels = list(dict.fromkeys(label for label, _, _ in pairs))
    of = {label: {key: pair for key, pair in pairs.items() if key[0] == label} for label in labels}
    marks = {label: _marks(of[label], unlike) for label in labels}
    labels = [label for label in labels if marks[label] or any(_standing(p) for p in of[label].values())]
    like = {label: [of[label][k] for k in of[label] if k in unlike and not unlike[k]] for label in labels}
    values = {label: _per_image(like[label], found, evidence) for label in labels}
    cells: dict[str, dict[str, Difference]] = {label: {} for label in labels}
    for column in found:
        drafts = [_difference(like[label], column, values[label].get(column.name), marks[label]) for label in labels]
        for label, made in zip(labels, _spaced(drafts), strict=True):
            cells[label][column.name] = made
    scored = [c for c in found if any(by_name[c.name].n for by_name in cells.values())]
    wanted = chosen(found, metrics, lambda column: column in scored)
    shown = tuple(column for column in wanted if column in scored)
    lines = tuple(
        Line(label, marks[label], _count(len(like[label]), len(of[label])), cells[label], _anchor(of[label].values()))
        for label in labels
    )
    notes = _paired_seeds({label: sorted(x.seed for (x, _), _ in members) for label, members in like.items()})
    apart = {key: texts for key, texts in unlike.items() if key in pairs and texts}
    notes += [f"x {text}" for text in _listed_fields(apart)]
    notes += [_failure(pair) for pair in pairs.values() if _standing(pair) in ("!", "*")]
    notes += [*_lacking(lines, shown), *_redrawn(lines, shown)]
    named = set(metrics) - {"all"}
    notes += _unscored(lines, [c.name for c in (wanted if named else found) if c not in scored])
    if more := 0 if named else len(scored) - len(shown):
        notes.append(f"{more} more metric{'' if more == 1 else 's'}: --all, or --metrics NAMES")
    return Group(dataset, shown, lines, tuple(notes))


def _paired_seeds(seeds: Mapping[str, Sequence[int]]) -> list[str]:
    """Return which seeds the lines are compared by: those of most, and the labels that have others."""
    by = Counter(tuple(of) for of in seeds.values() if of)
    if not by:
        return []
    most = max(by, key=lambda of: (by[of], len(of), of))
    apart = [f"{label}: {','.join(map(str, of))}" for label, of in sorted(seeds.items()) if of and tuple(of) != most]
    others = f" ({'; '.join(apart)})" if apart else ""
    few = CANT_SAY if all(len(of) < LEAST for of in by) else ""
    return [f"paired seeds: {','.join(map(str, most))}{others}{few}"]


def _lacking(lines: Sequence[Line], shown: Sequence[Column]) -> list[str]:
    """Why lines have no difference in a metric, or lack seeds."""
    why: dict[str, dict[str, None]] = {}
    for line in lines:
        for column in shown:
            if reason := line.cells[column.name].reason:
                why.setdefault(f"{line.label}: {reason}", {})[column.name] = None
    return [f"n/a {', '.join(names)}: {reason}" for reason, names in why.items()]


def _unscored(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    """Metrics without a difference: those that neither run was asked for, and those that didn't come out in both."""
    reasons = {name: {line.cells[name].reason for line in lines} - {""} for name in names}
    unasked = [n for n in names if reasons[n] and all(_UNASKED.fullmatch(reason) for reason in reasons[n])]
    lists = (("not scored in either", unasked), ("in no pair of rows", [n for n in names if n not in unasked]))
    return [f"{what}: {', '.join(own) if len(own) <= 8 else f'{len(own)} metrics'}" for what, own in lists if own]


_UNASKED = re.compile(r"(?!a: |b: )(.*: )?not scored")


def _redrawn(lines: Sequence[Line], shown: Sequence[Column]) -> list[str]:
    """What of the spread over seeds is the noise of samples drawn anew, where a score says how large that is."""
    found: dict[str, list[str]] = {}
    for line, column in ((line, column) for line in lines for column in shown):
        d = line.cells[column.name]
        if d.seeds is not None and d.redraw is not None and d.training is not None and d.seeds.sd is not None:
            sd, redraw, training = (printed(v, max(d.fine, 0)) for v in (d.seeds.sd, d.redraw, d.training))
            found.setdefault(line.label, []).append(f"{column.name} {sd} ({redraw}, {training})")
    what = "spread of b − a over seeds (redraws of samples alone, training alone)"
    said = "; ".join(f"{label}: {', '.join(texts)}" for label, texts in found.items())
    return [f"{what}: {said}"] if found else []


CANT_SAY = f"; fewer than {LEAST} can't say whether a difference is real"


def _marks(pairs: Mapping[_Key, _Pair], unlike: Mapping[_Key, Sequence[str]]) -> str:
    found = {_standing(pair) for pair in pairs.values()} | {"x" for key in pairs if unlike.get(key)}
    return "".join(mark for mark in "x!*" if mark in found)


def _count(n: int, of: int) -> str:
    return str(n) if n == of else f"{n} of {of}"


def _anchor(pairs: Iterable[_Pair]) -> bool:
    return any(x.anchor or y.anchor for (x, _), (y, _) in pairs)


def _failure(pair: _Pair) -> str:
    (a, _), (b, _) = pair
    bad, which = (b, "b") if a.status == "ok" else (a, "a")
    what = f"{bad.status} in {which}" + (f": {bad.reason}" if bad.reason else "")
    return f"{_standing(pair)} {bad.label}, seed {bad.seed}: {what}"


def _difference(
    pairs: Sequence[_Pair], column: Column, per_image: tuple[list[Tensor], list[Tensor]] | None, marks: str
) -> Difference:
    """One metric of one label, before other lines are known: without correction and decimals."""
    both = [(of_a[column.name], of_b[column.name]) for (_, of_a), (_, of_b) in pairs]
    reason = "; ".join(dict.fromkeys(text for pair in both for text in _missing(*pair)))
    values = [(x.value, y.value) for x, y in both if isinstance(x, Score) and isinstance(y, Score)]
    if not values:
        mark: Mark = "" if pairs else "x" if "x" in marks else "!" if "!" in marks else "*"
        return Difference(mark, reason=reason)
    a, b = [x for x, _ in values], [y for _, y in values]
    images = None
    if per_image is not None and len(per_image[0]) == len(values):
        images = paired_over_images(*([v.numpy() for v in side] for side in per_image))
    redraw = (
        _redraw([(x, y) for x, y in both if isinstance(x, Score) and isinstance(y, Score)]) if column.redraws else None
    )
    return Difference("~", fmean(a), fmean(b), paired(a, b), None, images, redraw, reason)


def _redraw(pairs: Sequence[tuple[Score, Score]]) -> float | None:
    """The sd that b - a has from redraws alone, by the standard errors of the scores; None where one has none."""
    variances = [x.se**2 + y.se**2 for x, y in pairs if x.se is not None and y.se is not None]
    return math.sqrt(fmean(variances)) if len(variances) == len(pairs) else None


def _missing(a: object, b: object) -> list[str]:
    in_a, in_b = ("" if isinstance(s, Score) else str(s) for s in (a, b))
    if in_a == in_b:
        return [in_a] if in_a else []
    return [f"{which}: {reason}" for which, reason in (("a", in_a), ("b", in_b)) if reason]


def _spaced(drafts: Sequence[Difference]) -> list[Difference]:
    """The lines of one metric, with decimals that suit them all."""
    places = decimals([[d.a, d.b] for d in drafts if d.a is not None and d.b is not None])
    fine = decimals([[d.seeds.mean, *_ends(d.seeds)] for d in drafts if d.seeds is not None]) or places
    return [replace(d, places=places, fine=fine) for d in drafts]


def _judged(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The same, with marks and a p that is corrected over all differences shown: they're looked at together."""
    shown = [(d, column) for group in groups for column, d in group.shown]
    family = [(d, d.seeds, column.direction) for d, column in shown if d.seeds is not None]
    found = verdicts([(test, direction) for _, test, direction in family])
    said = {id(d): verdict for (d, _, _), verdict in zip(family, found, strict=True)}

    def judged(d: Difference) -> Difference:
        return replace(d, mark=said[id(d)].mark, p=said[id(d)].p) if id(d) in said else d

    def line(of: Line) -> Line:
        return replace(of, cells={name: judged(d) for name, d in of.cells.items()})

    return tuple(replace(group, lines=tuple(map(line, group.lines))) for group in groups)


def _ends(seeds: Paired) -> list[float]:
    return [end for end in (seeds.low, seeds.high) if end is not None]


def _per_image(
    pairs: Sequence[_Pair], found: Sequence[Column], evidence: tuple[Evidence, Evidence] | None
) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Values by image of each metric that has them for every pair, by the metric's name: those of a and of b."""
    asked = [c for c in found if c.metric is not None and c.metric.per_image is not None]
    made: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    if evidence is None or not asked:
        return made
    for pair in pairs:
        sides = [(by_name, source(row)) for (row, by_name), source in zip(pair, evidence, strict=True)]
        for column in asked:
            of_a, of_b = (_values(column, by_name[column.name], kept) for by_name, kept in sides)
            if of_a is not None and of_b is not None and of_a.shape == of_b.shape:
                kept_a, kept_b = made.setdefault(column.name, ([], []))
                kept_a.append(of_a)
                kept_b.append(of_b)
    lengths = {name: {len(v) for side in sides for v in side} for name, sides in made.items()}
    return {name: sides for name, sides in made.items() if len(lengths[name]) == 1}


def _values(column: Column, score: object, kept: Mapping[str, Tensor]) -> Tensor | None:
    """A row's values by image; None where what is kept doesn't come to its score: it's of another scoring."""
    if not isinstance(score, Score) or column.metric is None or column.metric.per_image is None:
        return None
    try:
        values = column.metric.per_image(kept).double().flatten()
    except Exception:  # evidence that is missing, or a plugin's mistake: the table has one standard error less
        return None
    if len(values) < 2 or not math.isclose(values.mean().item(), score.value, rel_tol=1e-5, abs_tol=1e-9):
        return None
    return values
