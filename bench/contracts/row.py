"""A row: what was run, how it was trained and scored, what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from bench.contracts.measurement import Note, Score
from bench.contracts.protocol import Scoring, Training
from bench.util.errors import NotAvailable
from bench.util.text import settle

Status = Literal[
    "ok",
    "skipped",  # the variant can't take the dataset
    "diverged",  # a loss became non-finite
    "failed",  # it raised, or its process died
    "oom",  # out of memory
    "timeout",  # longer than --timeout
    "stalled",  # no step, no score for longer than --stall
    "killed",  # killed from outside, again and again
    "interrupted",  # stopped by the user: the same command goes on from its checkpoint
    "damaged",  # a file that it's read from isn't what was written: the same command makes it anew
]


@dataclass(frozen=True)
class Row:
    """One cell's line in the table."""

    variant: str  #: the registered name
    label: str  #: the name with what differs from its defaults: `beta[beta=10]`
    dataset: str
    seed: int
    status: Status
    reason: str = ""  #: why, where the status isn't `ok`
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  #: all of them, resolved
    likelihood: str = ""
    uses_labels: bool = False
    baseline: bool = False  #: the anchor that joined the run by itself
    sanity: bool = False  #: what no model, or a trivial one, comes to; joined the run by itself
    steps: tuple[int, ...] = ()  #: of each stage
    stacked: tuple[int, ...] = ()  #: the seeds that were trained in one pass, if they were
    plugin: Mapping[str, str] = field(default_factory=dict)  #: distribution, version, source digest
    parts: Mapping[str, Any] = field(default_factory=dict)  #: the same of plugins that hyperparameters name
    engine: str = ""  #: version of the suite's own code that weights depend on; older cells have a digest of its source
    data: Mapping[str, Any] = field(default_factory=dict)  #: digests, sizes, limit, validation
    training: Mapping[str, Any] = field(default_factory=dict)  #: the training protocol
    scoring: Mapping[str, Any] = field(default_factory=dict)  #: the scoring protocol; empty before scoring
    scores: Mapping[str, Score | NotAvailable] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)  #: parameters, seconds, images_per_second, peak_mib, ...
    seconds: Mapping[str, float] = field(default_factory=dict)  #: what each score took; shared evidence at the first
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: versions, machine, device, threads, times
    cell: str = ""  #: name of its folder
    unsummed: tuple[str, ...] = field(default=(), compare=False)  #: what of it has no sums: 'files', 'scores'

    def __post_init__(self) -> None:
        settle(self)

    @property
    def conflict(self) -> bool:
        """Whether another attempt at this cell gave another result."""
        return self.status == "ok" and bool(self.reason)

    @property
    def anchor(self) -> bool:
        """Whether it's there to hold others against: never marked, and in nobody's ranking."""
        return self.baseline or self.sanity

    @property
    def block(self) -> tuple[Any, ...]:
        """What must be equal for two rows' scores to be ranked against each other: one block of the table."""
        if self.sanity:
            return self.dataset, "sanity"
        latent_dim = self.hyperparameters.get("latent_dim")
        return (self.dataset, self.networks, latent_dim, self.likelihood, self.uses_labels, self.baseline)

    @property
    def networks(self) -> str:
        """Its backbone, and what stands in for a part of it; '' where it has networks of its own."""
        h = self.hyperparameters
        own = [f"{h[part]} as {part}" for part in ("encoder", "decoder") if isinstance(h.get(part), str)]
        return ", ".join([str(h.get("backbone") or ""), *own])


# out of documents: those of a run's folder, or a table in a file


UNKNOWN = "unknown"  #: the dataset of a damaged row that doesn't say it
DEEPEST = 16  #: levels of objects and lists inside a row


class _Kind:
    """A check of a value read from JSON: of these types, finite, and within the range of a table's column."""

    def __init__(self, words: str, *types: type) -> None:
        self.words, self.types = words, frozenset(types)

    def __call__(self, name: str, value: Any) -> Any:
        kind = type(value)
        if kind not in self.types:
            raise ValueError(f"{name} is {_told(value)}, not {self.words}")
        if (kind is int and not -(2**63) <= value < 2**63) or (kind is float and not math.isfinite(value)):
            raise ValueError(f"{name} is out of range")
        return value


class _Listed:
    """A list of values of one kind."""

    types: frozenset[type] = frozenset()  #: that need no look inside

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind

    def __call__(self, name: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ValueError(f"{name} is {_told(value)}, not a list")
        return tuple([self.kind(name, item) for item in value])


class _Object:
    """An object: `known` are kinds of some of its values, `others` of the rest; without, they're any JSON."""

    types: frozenset[type] = frozenset()

    def __init__(self, known: Mapping[str, _Kind | _Listed], others: _Kind | None = None) -> None:
        self.known, self.others = known, others

    def __call__(self, name: str, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise ValueError(f"{name} is {_told(value)}, not an object")
        known, others = self.known, self.others
        for key, item in value.items():  # what is as it should be costs no call
            kind, found = known.get(key, others), type(item)
            if kind is None:
                if found in _UNSURE:
                    _bounded(f"{name}.{key}", item, DEEPEST)
            elif found not in kind.types or not (found in _SURE or -(2**63) < item < 2**63):
                kind(f"{name}.{key}", item)
        return value


_TEXT, _WHOLE, _FLAG = _Kind("text", str), _Kind("a whole number", int), _Kind("true or false", bool)
_NUMBER, _ANY_NUMBER = _Kind("a number", int, float), _Kind("a number", int, float, type(None))
_ANY_WHOLE = _Kind("a whole number", int, type(None))
_SCALAR = _Kind("a single value", str, int, float, bool, type(None))
_SURE = frozenset({str, bool, type(None)})  # any value of them will do
_UNSURE = frozenset({float, dict, list})  # not so


def _kinds(protocol: type) -> dict[str, _Kind]:
    """The kinds of a protocol's fields."""
    kinds: dict[Any, _Kind] = {int: _WHOLE, float: _NUMBER, str: _TEXT, bool: _FLAG}
    return {name: kinds.get(hint, _ANY_WHOLE) for name, hint in get_type_hints(protocol).items()}


class _State(_Kind):
    """A row's status."""

    def __init__(self) -> None:
        super().__init__("a status of a row")

    def __call__(self, name: str, value: Any) -> Any:
        if value not in get_args(Status):
            raise ValueError(f"{name} is {_told(value)}, not {self.words}")
        return value


_Check = _Kind | _Listed | _Object
_PARTS: dict[str, _Check] = {
    "status": _State(),
    "hyperparameters": _Object({"latent_dim": _SCALAR, "backbone": _SCALAR}),
    "plugin": _Object({}, _TEXT),
    "data": _Object(
        {
            **dict.fromkeys(("train", "test"), _TEXT),
            **dict.fromkeys(("classes", "train_images", "test_images", "latent_dim"), _WHOLE),
            "limit": _ANY_WHOLE,
            "shape": _Listed(_WHOLE),
        }
    ),
    "training": _Object(_kinds(Training)),
    "scoring": _Object(_kinds(Scoring) | {"test": _TEXT, "source": _TEXT}),
    "costs": _Object({}, _ANY_NUMBER),
    "seconds": _Object({}, _NUMBER),
    "provenance": _Object(
        {
            **dict.fromkeys(("device", "device_name", "torch", "python", "vaebench", "ended"), _TEXT),
            "threads": _ANY_WHOLE,
        }
    ),
}
_BY_TYPE: dict[str, _Check] = {"str": _TEXT, "int": _WHOLE, "bool": _FLAG, "Mapping[str, Any]": _Object({})}
CHECKS: dict[str, _Check] = {
    f.name: _PARTS.get(f.name) or _BY_TYPE.get(str(f.type)) or _Listed(_TEXT if "str" in str(f.type) else _WHOLE)
    for f in fields(Row)
    if f.name != "scores"
}
"""For each field of a row what its value becomes, given the field's name and the value; raises ValueError."""
_NOTE = frozenset(f.name for f in fields(Note))
_NEEDED = ("variant", "label", "dataset", "seed", "status")
_PLAIN = Row("", "", "", 0, "ok")


def row_of(document: Mapping[str, Any], scores: Mapping[str, Score | NotAvailable]) -> Row:
    """The row that a document says, with these scores. What a row has no field for is left out.

    Raises:
        ValueError: it says none; which field is wrong.
    """
    if missing := [name for name in _NEEDED if name not in document]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    values: dict[str, Any] = {"scores": scores}
    for name, value in document.items():
        check, found = CHECKS.get(name), type(value)
        if check is not None:
            sure = found in check.types and (found in _SURE or -(2**63) <= value < 2**63)
            values[name] = value if sure else check(name, value)
    return with_values(_PLAIN, values)


def with_values(row: Row, values: Mapping[str, Any]) -> Row:
    """A row like another with these values, as its constructor would make it, but at once.

    That of a frozen class makes a call a field, and a run may have 20,000 rows.
    """
    made = object.__new__(Row)
    vars(made).update(vars(row), **values)
    return made


def damaged(document: Mapping[str, Any], cell: str, reason: str) -> Row:
    """The row of a cell whose files aren't what was written: what can be read of its document, and no score."""
    values: dict[str, Any] = {"variant": cell, "label": cell, "dataset": UNKNOWN, "seed": 0}
    for name, value in document.items():
        if name in CHECKS:
            with suppress(ValueError):
                values[name] = CHECKS[name](name, value)
    return Row(**values | {"status": "damaged", "reason": reason, "cell": cell})


def scored_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row that a file of scores holds: how it was scored, the scores, and what each took.

    Raises:
        ValueError: it holds none; what is wrong.
    """
    return {
        "scoring": CHECKS["scoring"]("scoring", document.get("scoring")),
        "scores": scores_of(document.get("scores")),
        "seconds": CHECKS["seconds"]("seconds", document.get("seconds", {})),
    }


def scores_of(document: Any) -> Mapping[str, Score | NotAvailable]:
    """The scores in a document, each made when it's asked for.

    Raises:
        ValueError: it holds none; which is wrong.
    """
    if type(document) is not dict:
        raise ValueError(f"scores is {_told(document)}, not an object")
    for name, score in document.items():
        if type(score) is not dict:
            raise ValueError(f"scores.{name} is {_told(score)}, not an object")
        if "value" in score:
            value, n, se = score["value"], score.get("n"), score.get("se")
            if type(value) is not float or not -(2**63) < value < 2**63:
                _NUMBER(f"scores.{name}.value", value)
            if type(n) is not int or not 0 <= n < 2**63:
                raise ValueError(f"scores.{name}.n is {_told(n)}, not a count")
            known = se is None or (type(se) is float and 0 <= se < 2**63)
            if not known and _NUMBER(f"scores.{name}.se", se) < 0:
                raise ValueError(f"scores.{name}.se is negative")
            _check_notes(f"scores.{name}", score)
        else:
            _TEXT(f"scores.{name}.reason", score.get("reason", score.get("not_available")))
    return _Scores(document)


class _Scores(Mapping[str, Score | NotAvailable]):
    """Filed scores, each made when it's asked for."""

    def __init__(self, document: Mapping[str, Mapping[str, Any]]) -> None:
        self.document = document

    def __getitem__(self, name: str) -> Score | NotAvailable:
        s = self.document[name]
        if "value" in s:
            return Score(s["value"], s["n"], s.get("se"), _notes_of(s))
        return NotAvailable(s["reason"] if "reason" in s else s["not_available"], retry=bool(s.get("retry", False)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.document)

    def __len__(self) -> int:
        return len(self.document)


def _check_notes(where: str, score: Mapping[str, Any]) -> None:
    if "note" in score:  # files of before notes had kinds
        _TEXT(f"{where}.note", score["note"])
    notes = score.get("notes", [])
    if type(notes) is not list:
        raise ValueError(f"{where}.notes is {_told(notes)}, not a list")
    for note in notes:
        if type(note) is not dict:
            raise ValueError(f"{where}.notes holds {_told(note)}, not an object")
        if unknown := note.keys() - _NOTE:
            raise ValueError(f"{where}.notes holds {min(unknown)!r}")
        _TEXT(f"{where}.notes.text", note.get("text"))
        _TEXT(f"{where}.notes.kind", note.get("kind", ""))
        _FLAG(f"{where}.notes.warns", note.get("warns", False))
        _Object({}, _NUMBER)(f"{where}.notes.values", note.get("values", {}))


def _notes_of(score: Mapping[str, Any]) -> list[str | Note]:
    return [score.get("note", ""), *(Note(**note) for note in score.get("notes", ()))]


def score_document(score: Score | NotAvailable) -> dict[str, Any]:
    """Return a score as JSON holds it: `scores_of` reads it back."""
    if isinstance(score, NotAvailable):
        return {"not_available": score.reason, **({"retry": True} if score.retry else {})}
    document: dict[str, Any] = {"value": score.value, "n": score.n, "se": score.se}
    if score.notes:
        document["notes"] = [_note_document(note) for note in score.notes]
    return document


def _note_document(note: Note) -> dict[str, Any]:
    return {f.name: value for f in fields(note) if (value := getattr(note, f.name))}


def _bounded(name: str, value: Any, depth: int) -> None:
    """Raise where a value holds a number that isn't finite, or is nested too deeply."""
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{name} is out of range")
    if type(value) is dict or type(value) is list:
        if not depth:
            raise ValueError(f"{name} is nested too deeply")
        for item in value.values() if type(value) is dict else value:
            _bounded(name, item, depth - 1)


def _told(value: Any) -> str:
    """A value of JSON in few letters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) or abs(value) < 1e300 else "a large number"
    return text if len(text) <= 40 else f"{text[:36]}...'"
