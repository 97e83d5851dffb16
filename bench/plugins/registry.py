"""Plugins by name: one lazy registry for each entry-point group.

Names are read from metadata without importing anything; an object is imported and checked when it is loaded. A plugin
that isn't installed has the address of its file as a name, './mine.py:Mine', or is handed over as a class
(`bench.plugins.unpublished`).

Built-ins can't be shadowed: a plugin of the same name, in upper or lower case, needs its distribution in front, as in
'their-package:vae'. So does a name that two distributions claim.
"""

from __future__ import annotations

import io
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import Distribution, entry_points
from importlib.resources import files
from typing import Any, Generic, TypeVar

from bench.plugins import unpublished
from bench.plugins.entry import Entry
from bench.plugins.failures import forget, note
from bench.util.errors import BenchError, NotHandedOver, PluginError, UnknownName
from bench.util.process import uncopied

T = TypeVar("T")

OURS = "vaebench"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_VALUE = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class Fault:
    """A plugin in a distribution's metadata that can't be offered, and why."""

    name: str
    distribution: str
    version: str
    reason: str


def disabled() -> bool:
    """Return whether `BENCH_DISABLE_PLUGINS` leaves only the built-ins."""
    return os.environ.get("BENCH_DISABLE_PLUGINS", "") not in ("", "0")


@cache
def installed() -> dict[str, list[Entry]]:
    """Return all entries by group, each once. Metadata are read once a process."""
    points, owner = entry_points(), cache(_owner)  # which parses a file

    def entries(group: str) -> list[Entry]:
        unique = dict.fromkeys(Entry(p.name, *owner(p.dist), p.value) for p in points.select(group=group))
        return sorted(unique, key=lambda entry: (entry.name, entry.distribution))

    return {group: entries(group) for group in points.groups if group.startswith("bench.")}


def _owner(dist: Distribution | None) -> tuple[str, str]:
    return ("unknown", "0") if dist is None else (dist.name, dist.version)


def _entries(group: str) -> list[Entry]:
    return [entry for entry in installed().get(group, []) if entry.distribution == OURS or not disabled()]


def _wrong(entry: Entry) -> str:
    """Return what is wrong with an entry's metadata; '' if nothing is."""
    if not _NAME.fullmatch(entry.name):
        return f"invalid name {entry.name!r}: use up to 64 letters, digits and . _ + - (first a letter or digit)"
    if not _VALUE.fullmatch(entry.value):
        return f"invalid address {entry.value!r}: write module:name"
    return ""


class _Mute(io.TextIOBase):
    """A text stream that drops what is written to it."""

    def write(self, text: str) -> int:
        return len(text)


@dataclass
class Registry(Generic[T]):
    """The plugins of one entry-point `group`; `check(obj)` returns what is wrong with a loaded object, or None."""

    group: str
    kind: str  # in messages: "variant", "dataset", ...
    check: Callable[[Any], str | None] = lambda _: None
    _loaded: dict[Entry, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def entries(self) -> list[Entry]:
        """The installed plugins that can be used."""
        return [entry for entry in _entries(self.group) if not _wrong(entry)]

    @cached_property
    def faults(self) -> list[Fault]:
        """The installed plugins that can't be used."""
        return [Fault(e.name, e.distribution, e.version, why) for e in _entries(self.group) if (why := _wrong(e))]

    def __iter__(self) -> Iterator[str]:
        """Yield the shortest unambiguous name of each installed plugin."""
        return iter(dict.fromkeys(map(self.key, self.entries)))

    def __contains__(self, name: str) -> bool:
        try:
            self.entry(name)
        except BenchError:
            return False
        return True

    def key(self, entry: Entry | str) -> str:
        """Return the one name of an entry: its own, with the distribution in front where that is needed."""
        entry = self.entry(entry) if isinstance(entry, str) else entry
        if not entry.installed or entry.distribution == OURS or self.rivals(entry) == [entry]:
            return entry.name
        return f"{entry.distribution}:{entry.name}"

    def take(self, text: str) -> str:
        """Return the name of the plugin that a user typed as `text`; code in a file is handed over by that."""
        return self.key(unpublished.take(text) or self.entry(text))

    def rivals(self, entry: Entry) -> list[Entry]:
        """Return the entries with the same name in upper or lower case, itself among them."""
        same = [e for e in self.entries if e.name.casefold() == entry.name.casefold()]
        return sorted(same, key=lambda e: e.distribution)

    def entry(self, name: str) -> Entry:
        """Return the entry called `name`, `distribution:name`, or './mine.py:Mine', if that file was handed over.

        Raises:
            UnknownName: there is none; the message has the closest names.
            UsageError: there is no such file.
            PluginError: two distributions claim the name, or it differs from a built-in's in upper and lower case only.
            NotHandedOver: it lies in a file that the user hasn't named.
        """
        if (own := unpublished.entry(name)) is not None:
            return own
        distribution, _, short = name.rpartition(":")
        entries = [e for e in self.entries if e.name == short and distribution in ("", e.distribution)]
        if not entries:
            raise self._unknown(name, distribution, short)
        ours = next((e for e in entries if e.distribution == OURS), None)
        if distribution or ours is not None:
            return ours or entries[0]
        rivals = self.rivals(entries[0])
        if builtin := next((e for e in rivals if e.distribution == OURS), None):
            raise PluginError(
                f"the {self.kind} {short!r} of {entries[0].distribution} is named like the built-in {builtin.name!r}",
                cause="Their names differ in upper and lower case only.",
                fix=f"Write {builtin.name!r}, or {entries[0].distribution}:{short}.",
            )
        if len(rivals) > 1:
            owners = " and ".join(f"{e.distribution}:{e.name}" for e in rivals)
            raise PluginError(
                f"the {self.kind} name {short!r} is claimed by {len(rivals)} distributions",
                cause=f"They are {owners}.",
                fix="Use one of these longer names, or uninstall the other distribution.",
            )
        return entries[0]

    def _unknown(self, name: str, distribution: str, short: str) -> BenchError:
        for fault in self.faults:
            if fault.name == short and distribution in ("", fault.distribution):
                return PluginError(
                    f"the {self.kind} {short!r} of {fault.distribution} {fault.version} can't be used",
                    cause=f"Its metadata have an {fault.reason}.",
                )
        if "@" in name:
            own, _, file = name.partition("@")
            address = f"./{file}:{own}" if file.endswith(".py") else own
            flag = f"--plugin {unpublished.shown(address)}, or " if file.endswith(".py") else ""
            return NotHandedOver(
                f"the {self.kind} {name!r} is code in a file or a notebook, and isn't known here",
                address,
                fix=f"Hand it over again: {flag}plugins=[{unpublished.shown(own)}] in Python.",
            )
        fix = "`bench list` shows all names."
        if len(words := name.split()) > 1 and any(word in self for word in words):
            fix = f"Names are separated by commas: {','.join(words)}. {fix}"
        if disabled():
            fix += " BENCH_DISABLE_PLUGINS is set: only the built-ins can be used."
        return UnknownName(self.kind, name, self, fix=fix)

    def load(self, name: str) -> T:
        """Import and check the object called `name`; a failure is written down for `bench list`.

        Raises:
            UnknownName, UsageError, PluginError
        """
        entry = self.entry(name)
        if entry not in self._loaded:
            try:
                self._loaded[entry] = self._import(entry)
            except PluginError as error:
                if entry.installed:
                    note(self.group, entry, error.cause)
                raise
            if entry.installed:
                forget(self.group, entry)
        loaded: T = self._loaded[entry]
        return loaded

    def _import(self, entry: Entry) -> T:
        try:
            with uncopied(), redirect_stdout(_Mute()), redirect_stderr(_Mute()):
                obj: T = entry.load()
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"the {self.kind} {entry} can't be imported",
                cause=f"{entry.value}: {type(error).__name__}: {error}",
                fix="Repair or reinstall that distribution; nothing else is affected." if entry.installed else "",
            ) from error
        if (wrong := self.check(obj)) is not None:
            raise PluginError(
                f"the {self.kind} {entry} is no {self.kind}",
                cause=f"{entry.value} is {_kind(obj)}, {wrong}.",
                fix=f"Its entry point in group {self.group!r} should name one." if entry.installed else "",
            )
        return obj


def _kind(obj: object) -> str:
    if isinstance(obj, type):
        return f"the class {obj.__qualname__}"
    named = getattr(obj, "__qualname__", None)
    return f"the {type(obj).__name__} {named}" if named else f"a {type(obj).__name__}"


def default(role: str) -> str | None:
    """Return the plugin's name that the group `bench.defaults` has for `role`; None where it has none."""
    return defaults().get(role)


def defaults() -> dict[str, str]:
    """Return the plugins' names of all roles; where another distribution has the same role, ours."""
    entries = sorted(_entries("bench.defaults"), key=lambda entry: entry.distribution == OURS)
    return {entry.name: entry.value for entry in entries}


def document(address: str) -> dict[str, Any]:
    """Return the TOML file at 'package:file.toml', as `default` names one for some roles.

    Raises:
        PluginError: it cannot be read.
    """
    package, _, file = address.partition(":")
    try:
        return tomllib.loads((files(package) / file).read_text(encoding="utf-8"))
    except (OSError, ImportError, ValueError) as error:
        raise PluginError(f"{address} cannot be read", cause=f"{error!r}") from None
