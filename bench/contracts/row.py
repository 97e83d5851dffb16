"""A row: a cell's identity, protocols, scores and costs, and how it is read from JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from bench.contracts.measurement import Note, Score
from bench.contracts.protocol import Scoring, Training
from bench.util.errors import NotAvailable
from bench.util.text import settle

Status = Literal[
    "ok",
    "skipped",  # the variant cannot take the dataset
    "diverged",  # a loss became non-finite
    "failed",  # it raised, or its process died
    "oom",  # out of memory
    "timeout",  # longer than --timeout
    "stalled",  # no step, no score for longer than --stall
    "killed",  # killed from outside, again and again
    "interrupted",  # stopped by the user: the same command goes on from its checkpoint
    "damaged",  # a file differs from what was written: the same command makes the cell again
]


@dataclass(frozen=True)
class Row:
    """One cell: a variant with its hyperparameters, on one dataset, with one seed."""

    variant: str  #: the registered name
    label: str  #: the name with what differs from its defaults: `beta[beta=10]`
    dataset: str
    seed: int
    status: Status
    reason: str = ""  #: why, where the status isn't `ok`
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  #: all of them, resolved
    likelihood: str = ""
    uses_labels: bool = False
    baseline: bool = False  #: the baseline that was added to the run
    sanity: bool = False  #: a reference row that was added to the run: real images, or a trivial model
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
    unsummed: tuple[str, ...] = field(default=(), compare=False)  #: its files without checksums: 'files', 'scores'

    def __post_init__(self) -> None:
        settle(self)

    @property
    def steps_text(self) -> str:
        """The steps of each stage: '4690+4690'."""
        return "+".join(map(str, self.steps))

    @property
    def validation_images(self) -> int:
        """The number of training images that were held out, for choices."""
        return int(self.training.get("validation") or 0)

    @property
    def scored_images(self) -> int | None:
        """The number of images that the scores are of; None if the row does not say: scored on other test images."""
        if self.scoring.get("split") == "validation" and self.validation_images:
            return self.validation_images
        return self.data.get("test_images") if self.scoring.get("test") in (None, self.data.get("test")) else None

    @property
    def conflict(self) -> bool:
        """True if a repeated attempt at this cell gave another result."""
        return self.status == "ok" and bool(self.reason)

    @property
    def reference(self) -> bool:
        """True for the baseline and for reference rows: they are not ranked."""
        return self.baseline or self.sanity

    @property
    def block(self) -> tuple[Any, ...]:
        """The key of the table's block that the row stands in: rows with equal keys are ranked against each other."""
        if self.sanity:
            return self.dataset, "sanity"
        latent_dim = self.hyperparameters.get("latent_dim")
        return (self.dataset, self.networks, latent_dim, self.likelihood, self.uses_labels, self.baseline)

    @property
    def networks(self) -> str:
        """Its backbone, and the networks that replace a part of it; '' for networks of its own."""
        h = self.hyperparameters
        own = [f"{h[part]} as {part}" for part in ("encoder", "decoder") if isinstance(h.get(part), str)]
        return ", ".join([str(h.get("backbone") or ""), *own])


# rows from JSON: of a run's folder, or of a table in a file

UNKNOWN = "unknown"  #: the dataset of a damaged row that does not say it
DEEPEST = 16  #: levels of objects and lists inside a row
Check = Callable[[str, Any], Any]
"""Return a value read from JSON, given the name of its field; raise ValueError where it is of another kind."""


def _one(words: str, *types: type) -> Check:
    """A check for a single value of these types: finite, and within the range of a table's column."""

    def check(name: str, value: Any) -> Any:
        if type(value) not in types:
            raise ValueError(f"{name} is {_described(value)}, not {words}")
        if (type(value) is int and not -(2**63) <= value < 2**63) or (
            type(value) is float and not math.isfinite(value)
        ):
            raise ValueError(f"{name} is out of range")
        return value

    return check


def _list(item: Check) -> Check:
    def check(name: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise ValueError(f"{name} is {_described(value)}, not a list")
        return tuple(item(name, each) for each in value)

    return check


def _object(known: Mapping[str, Check], others: Check | None = None) -> Check:
    """A check for an object: `known` check some of its values, `others` the rest, which may be any JSON without it."""

    def check(name: str, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise ValueError(f"{name} is {_described(value)}, not an object")
        for key, item in value.items():
            known.get(key, others or _json)(f"{name}.{key}", item)
        return value

    return check


def _json(name: str, value: Any, depth: int = DEEPEST) -> Any:
    """Check that any JSON holds finite numbers alone, and is not nested too deeply."""
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{name} is out of range")
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"{name} is nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _json(name, item, depth - 1)
    return value


def _status(name: str, value: Any) -> Any:
    if value not in get_args(Status):
        raise ValueError(f"{name} is {_described(value)}, not a status of a row")
    return value


_TEXT, _WHOLE, _FLAG = _one("text", str), _one("a whole number", int), _one("true or false", bool)
_NUMBER, _NUMBER_OR_NULL = _one("a number", int, float), _one("a number", int, float, type(None))
_WHOLE_OR_NULL = _one("a whole number", int, type(None))
_SCALAR = _one("a single value", str, int, float, bool, type(None))


def _protocol(protocol: type, **more: Check) -> Check:
    """A check for the fields of a protocol."""
    kinds: dict[Any, Check] = {int: _WHOLE, float: _NUMBER, str: _TEXT, bool: _FLAG}
    return _object({name: kinds.get(hint, _WHOLE_OR_NULL) for name, hint in get_type_hints(protocol).items()} | more)


_SCORING = _protocol(Scoring, test=_TEXT, source=_TEXT)
_SECONDS = _object({}, _NUMBER)
CHECKS: dict[str, Check] = {
    **dict.fromkeys(("variant", "label", "dataset", "reason", "likelihood", "engine", "cell"), _TEXT),
    **dict.fromkeys(("uses_labels", "baseline", "sanity"), _FLAG),
    **dict.fromkeys(("steps", "stacked"), _list(_WHOLE)),
    "seed": _WHOLE,
    "status": _status,
    "unsummed": _list(_TEXT),
    "hyperparameters": _object({"latent_dim": _SCALAR, "backbone": _SCALAR}),
    "plugin": _object({}, _TEXT),
    "parts": _object({}),
    "data": _object(
        {
            **dict.fromkeys(("train", "test"), _TEXT),
            **dict.fromkeys(("classes", "train_images", "test_images", "latent_dim"), _WHOLE),
            "limit": _WHOLE_OR_NULL,
            "shape": _list(_WHOLE),
        }
    ),
    "training": _protocol(Training),
    "scoring": _SCORING,
    "costs": _object({}, _NUMBER_OR_NULL),
    "seconds": _SECONDS,
    "provenance": _object(
        {
            **dict.fromkeys(("device", "device_name", "torch", "python", "vaebench", "ended"), _TEXT),
            "threads": _WHOLE_OR_NULL,
        }
    ),
}
"""The check of each field of a row, but for its scores."""
_NEEDED = ("variant", "label", "dataset", "seed", "status")


def row_of(document: Mapping[str, Any], scores: Mapping[str, Score | NotAvailable]) -> Row:
    """Return the row that a JSON document holds, with these scores; unknown fields are left out.

    Raises:
        ValueError: a field is missing or of the wrong kind.
    """
    if missing := [name for name in _NEEDED if name not in document]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return Row(**{name: CHECKS[name](name, value) for name, value in document.items() if name in CHECKS}, scores=scores)


def damaged(document: Mapping[str, Any], cell: str, reason: str) -> Row:
    """Return the row of a cell whose files are damaged: the readable fields of its document, and no score."""
    values: dict[str, Any] = {"variant": cell, "label": cell, "dataset": UNKNOWN, "seed": 0}
    for name, value in document.items():
        if name in CHECKS:
            with suppress(ValueError):
                values[name] = CHECKS[name](name, value)
    return Row(**values | {"status": "damaged", "reason": reason, "cell": cell})


def scored_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row that a file of scores holds: scoring protocol, scores, and seconds of each.

    Raises:
        ValueError: a field is missing or of the wrong kind.
    """
    return {
        "scoring": _SCORING("scoring", document.get("scoring")),
        "scores": scores_of(document.get("scores")),
        "seconds": _SECONDS("seconds", document.get("seconds", {})),
    }


def scores_of(document: Any) -> dict[str, Score | NotAvailable]:
    """Return the scores that `score_document` has written, by name.

    Raises:
        ValueError: a score is of the wrong kind.
    """
    if type(document) is not dict:
        raise ValueError(f"scores is {_described(document)}, not an object")
    return {name: _score_of(f"scores.{name}", score) for name, score in document.items()}


def _score_of(name: str, score: Any) -> Score | NotAvailable:
    if type(score) is not dict:
        raise ValueError(f"{name} is {_described(score)}, not an object")
    if "value" not in score:
        reason = _TEXT(f"{name}.reason", score.get("not_available", score.get("reason")))
        return NotAvailable(reason, retry=bool(score.get("retry", False)))
    value, n, se = _NUMBER(f"{name}.value", score["value"]), score.get("n"), score.get("se")
    if type(n) is not int or not 0 <= n < 2**63:
        raise ValueError(f"{name}.n is {_described(n)}, not a count")
    if (_NUMBER_OR_NULL(f"{name}.se", se) or 0) < 0:
        raise ValueError(f"{name}.se is negative")
    return Score(value, n, se, _notes_of(name, score))


def _notes_of(name: str, score: Mapping[str, Any]) -> list[str | Note]:
    """Return the notes of a score; files of before notes had kinds hold one text."""
    plain = [_TEXT(f"{name}.note", score["note"])] if "note" in score else []
    notes = _list(_note)(f"{name}.notes", score.get("notes", []))
    return [*plain, *(Note(**{key: value for key, value in note.items() if key in _NOTE_FIELDS}) for note in notes)]


_NOTE_FIELDS = {"text": _TEXT, "kind": _TEXT, "values": _object({}, _NUMBER), "warns": _FLAG}


def _note(name: str, note: Any) -> Any:
    if "text" not in _object(_NOTE_FIELDS)(name, note):
        raise ValueError(f"{name} has a note without a text")
    return note


def score_document(score: Score | NotAvailable) -> dict[str, Any]:
    """Return a score as JSON holds it: `scores_of` reads it back."""
    if isinstance(score, NotAvailable):
        return {"not_available": score.reason, **({"retry": True} if score.retry else {})}
    document: dict[str, Any] = {"value": score.value, "n": score.n, "se": score.se}
    if score.notes:
        document["notes"] = [{f.name: v for f in fields(note) if (v := getattr(note, f.name))} for note in score.notes]
    return document


def _described(value: Any) -> str:
    """Return a JSON value in few letters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) or abs(value) < 1e300 else "a large number"
    return text if len(text) <= 40 else f"{text[:36]}...'"
