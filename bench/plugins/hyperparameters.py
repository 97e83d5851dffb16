"""Hyperparameters: the typed keyword arguments of a constructor, read from its signature, parsed and checked.

    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the KL"] = 4.0) -> None: ...

A default of `None` means "from the dataset"; the constructor stores the value that it chose under the same name.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bench.plugins import unpublished
from bench.util.errors import UnknownName, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """A range of numbers: `low` <= value <= `high`; `exclusive` leaves out both ends."""

    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high if self.exclusive else self.low <= value <= self.high

    def __str__(self) -> str:
        less = "<" if self.exclusive else "<="
        low = f"{self.low:g} {less} " if math.isfinite(self.low) else ""
        high = f" {less} {self.high:g}" if math.isfinite(self.high) else ""
        return f"{low}value{high}"


@dataclass(frozen=True)
class Plugin:
    """Marks a hyperparameter whose value names a plugin of this entry-point group."""

    group: str


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword argument of a constructor."""

    name: str
    type: Any
    default: Any
    doc: str = ""
    range: Range | None = None
    group: str | None = None  # the entry-point group that its value names a plugin of

    @property
    def type_name(self) -> str:
        return _type_name(self.type)

    def parse(self, text: str) -> Any:
        """Return the value written as `text`, checked.

        Raises:
            UsageError: it has another type, or is out of range.
        """
        try:
            value = _parse(self.type, text.strip())
        except ValueError:
            allowed = f"{self.type_name}{f', {self.range}' if self.range else ''}"
            raise self._refused(f"{self.name}={text} is no value of {self.name}", f"It takes {allowed}") from None
        return self.validate(value)

    def validate(self, value: Any) -> Any:
        """Return `value` in the hyperparameter's type.

        Raises:
            UsageError: wrong type, or out of range.
        """
        try:
            value = convert(self.type, value)
        except ValueError:
            raise self._refused(f"{self.name}={value!r} has the wrong type", f"It takes {self.type_name}") from None
        if self.range is not None and value is not None and value not in self.range:
            raise self._refused(f"{self.name}={show(value)} is out of range", f"It must be {self.range}")
        if self.group is not None and value is not None and (entry := unpublished.entry(value)) is not None:
            return entry.name
        return value

    def _refused(self, what: str, rule: str) -> UsageError:
        cause = f"{rule}: {self.doc or 'see `bench info`'}"
        return UsageError(what, cause=cause, fix=f"The default is {show(self.default)}.")


def hyperparameters(cls: type) -> dict[str, Hyperparameter]:
    """Return the keyword-only arguments of `cls.__init__`, in order; `**rest` adds those of the next base class."""
    known: dict[str, Hyperparameter] = {}
    for owner in (c for c in cls.__mro__ if "__init__" in vars(c)):
        for name, hyperparameter in _own(owner).items():
            known.setdefault(name, hyperparameter)
        rest = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(vars(owner)["__init__"]).parameters.values())
        if not rest:
            break
    return known


def _own(cls: type) -> dict[str, Hyperparameter]:
    init = vars(cls)["__init__"]
    hints = get_type_hints(init, include_extras=True)
    own = {}
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        hint: Any = hints.get(name, str)
        extras: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            extras = tuple(rest)
        own[name] = Hyperparameter(
            name,
            hint,
            parameter.default,
            doc=next((e for e in extras if isinstance(e, str)), ""),
            range=next((e for e in extras if isinstance(e, Range)), None),
            group=next((e.group for e in extras if isinstance(e, Plugin)), None),
        )
    return own


def check(owner: str, cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values`, each checked against the signature of `cls`; text is parsed.

    Raises:
        UsageError: an unknown name (with the closest right one), a wrong type, a value out of range.
    """
    known = hyperparameters(cls)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownName(f"hyperparameter of {owner}", name, known)
        checked[name] = known[name].parse(value) if isinstance(value, str) else known[name].validate(value)
    return checked


def split(text: str, separator: str = ",") -> list[str]:
    """Split at `separator` outside of square brackets: 'a[b=1,c=2],d' gives 'a[b=1,c=2]' and 'd'.

    Raises:
        UsageError: brackets that don't match.
    """
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth < 0:
            break
        if char == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise UsageError(
            f"the brackets of {text!r} don't match",
            cause="A selector is NAME or NAME[key=value,...].",
            fix='For example: "beta[beta=1|4|10],vae" (quote it: the shell reads brackets too).',
        )
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def selector(text: str) -> tuple[str, dict[str, str]]:
    """Split 'beta[beta=4,latent_dim=8]' into ('beta', {'beta': '4', 'latent_dim': '8'}).

    Raises:
        UsageError: it is not written so.
    """
    name, bracket, rest = text.strip().partition("[")
    if not bracket:
        return name.strip(), {}
    if not rest.endswith("]"):
        raise UsageError(f"{text!r} lacks its closing bracket", fix="A selector is NAME or NAME[key=value,...].")
    values = {}
    for item in split(rest[:-1]):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"{item!r} in {text!r} isn't key=value", fix="For example: beta[beta=4,latent_dim=8].")
        values[key.strip()] = value.strip()
    return name.strip(), values


def parse_call(kind: str, text: str, classes: Mapping[str, type[T]]) -> tuple[type[T], dict[str, Any]]:
    """Return the class that a selector names, and its checked arguments.

    Raises:
        UsageError
    """
    name, values = selector(text)
    if name not in classes:
        raise UnknownName(kind, name, classes)
    return classes[name], check(name, classes[name], values)


def show(value: Any) -> str:
    """Return a value as a user would type it."""
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "-".join(map(show, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _optional(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in get_args(kind) if a is not type(None)]
        return inner[0], len(inner) < len(get_args(kind))
    return kind, False


def _type_name(kind: Any) -> str:
    inner, optional = _optional(kind)
    if get_origin(inner) is Literal:
        name = " or ".join(map(repr, get_args(inner)))
    elif get_origin(inner) is tuple:
        name = "numbers joined by '-', or 'none'"
    else:
        name = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(inner, str(inner))
    return f"{name}, or none" if optional and get_origin(inner) is not tuple else name


def _parse(kind: Any, text: str) -> Any:
    kind, optional = _optional(kind)
    if optional and text.lower() == "none" and get_origin(kind) is not tuple:
        return None
    if get_origin(kind) is Literal:
        return next((c for c in get_args(kind) if str(c) == text), text)
    if get_origin(kind) is tuple:
        return () if text.lower() == "none" else tuple(_parse(get_args(kind)[0], part) for part in text.split("-"))
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    return kind(text.replace("_", "") if kind is int else text)


def convert(kind: Any, value: Any) -> Any:
    """Return `value` as an instance of the type `kind`: int, float, bool, str, Literal, tuple[T, ...], or T | None.

    Raises:
        ValueError: it can't be one.
    """
    kind, optional = _optional(kind)
    if value is None and optional:
        return None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(value)
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(value)
        return tuple(convert(get_args(kind)[0], v) for v in value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(value)
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError(value)
