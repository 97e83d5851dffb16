"""Plugins by name: one lazy registry over an entry-point group.

Names are read from metadata without importing anything; an object is imported when asked for, and checked then. What
isn't installed is asked for by its file, './mine.py:Mine', or handed over as an object (`bench.plugins.unpublished`).

A built-in can't be shadowed: whatever is called like one, but for upper and lower case, has to be asked for with its
distribution, as 'their-package:vae'. So has a name that two distributions claim.
"""

from __future__ import annotations

import io
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import Distribution, EntryPoint, entry_points
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
    """A name in some distribution's metadata that can't be offered, and why."""

    name: str
    distribution: str
    version: str
    reason: str


def disabled() -> bool:
    """Whether `BENCH_DISABLE_PLUGINS` keeps out all but the built-ins."""
    return os.environ.get("BENCH_DISABLE_PLUGINS", "") not in ("", "0")


@cache
def installed() -> dict[str, list[tuple[EntryPoint, str, str]]]:
    """By group, all entry points with distribution and version, each once. Metadata are read once a process."""
    points, owner = entry_points(), cache(_owner)  # which parses a file
    return {group: _sorted(points.select(group=group), owner) for group in points.groups if group.startswith("bench.")}


def _sorted(points: Iterable[EntryPoint], owner: Callable[[Any], tuple[str, str]]) -> list[tuple[EntryPoint, str, str]]:
    found = {(point.name, *owner(point.dist), point.value): point for point in points}
    return [(point, name, version) for (_, name, version, _), point in sorted(found.items(), key=lambda p: p[0][:2])]


def _owner(dist: Distribution | None) -> tuple[str, str]:
    return ("unknown", "0") if dist is None else (dist.name, dist.version)


def _points(group: str) -> list[tuple[EntryPoint, str, str]]:
    return [found for found in installed().get(group, []) if found[1] == OURS or not disabled()]


def _wrong(point: EntryPoint) -> str | None:
    if not _NAME.fullmatch(point.name):
        return "its name isn't one: up to 64 letters, digits and . _ + -, the first a letter or digit"
    if not _VALUE.fullmatch(point.value):
        return f"{point.value!r} isn't the address of an object, which is written module:name"
    return None


class _Mute(io.TextIOBase):
    """Somewhere to print to."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _muted() -> Iterator[None]:
    """What a plugin prints while it's imported is no result of ours."""
    with redirect_stdout(_Mute()), redirect_stderr(_Mute()):
        yield


@dataclass
class Registry(Generic[T]):
    """The plugins of one entry-point `group`; `check(obj)` says what is wrong with a loaded object, or None."""

    group: str
    kind: str  # what one of them is called in messages: "variant", "dataset", ...
    check: Callable[[Any], str | None] = lambda _: None
    _loaded: dict[Entry, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _found(self) -> list[tuple[EntryPoint, str, str]]:
        return _points(self.group)

    @cached_property
    def entries(self) -> list[Entry]:
        """All that is installed and can be asked for."""
        return [Entry(p.name, d, v, p.value) for p, d, v in self._found if _wrong(p) is None]

    @cached_property
    def faults(self) -> list[Fault]:
        """All that is installed and can't."""
        wrong = [(p, d, v, _wrong(p)) for p, d, v in self._found]
        return [Fault(p.name, d, v, reason) for p, d, v, reason in wrong if reason is not None]

    def __iter__(self) -> Iterator[str]:
        """Each installed plugin by the shortest name that is its own."""
        return iter(dict.fromkeys(map(self.key, self.entries)))

    def __contains__(self, name: str) -> bool:
        try:
            self.entry(name)
        except BenchError:
            return False
        return True

    def key(self, entry: Entry | str) -> str:
        """The one name that an entry goes by, however it was asked for."""
        entry = self.entry(entry) if isinstance(entry, str) else entry
        if not entry.installed or entry.distribution == OURS or self.rivals(entry) == [entry]:
            return entry.name
        return f"{entry.distribution}:{entry.name}"

    def take(self, text: str) -> str:
        """Hand over what a user asks for as `text`, and return its name: of a file, as it is now."""
        return self.key(unpublished.take(text) or self.entry(text))

    def rivals(self, entry: Entry) -> list[Entry]:
        """The entries of the same name but for upper and lower case, itself among them."""
        same = [e for e in self.entries if e.name.casefold() == entry.name.casefold()]
        return sorted(same, key=lambda e: e.distribution)

    def entry(self, name: str) -> Entry:
        """The entry called `name`, `distribution:name`, or in a file that was handed over, './mine.py:Mine'.

        Raises:
            UnknownName: nothing is called so; the message has the closest names.
            UsageError: there is no such file.
            PluginError: two distributions claim the name, or it's a built-in's but for upper and lower case.
            NotHandedOver: it lies in a file, which the user hasn't named.
        """
        if (own := unpublished.entry(name)) is not None:
            return own
        distribution, _, short = name.rpartition(":")
        found = [e for e in self.entries if e.name == short and distribution in ("", e.distribution)]
        if not found:
            raise self._unknown(name, distribution, short)
        ours = next((e for e in found if e.distribution == OURS), None)
        if distribution or ours is not None:
            return ours or found[0]
        rivals = self.rivals(found[0])
        if builtin := next((e for e in rivals if e.distribution == OURS), None):
            raise PluginError(
                f"the {self.kind} {short!r} of {found[0].distribution} is called like the built-in {builtin.name!r}",
                cause="They differ by upper and lower case alone.",
                fix=f"Ask for {builtin.name!r}, or for {found[0].distribution}:{short}.",
            )
        if len(rivals) > 1:
            owners = " and ".join(f"{e.distribution}:{e.name}" for e in rivals)
            raise PluginError(
                f"the {self.kind} name {short!r} is claimed by {len(rivals)} distributions",
                cause=f"They are {owners}.",
                fix="Ask for one of them by that longer name, or uninstall the other.",
            )
        return found[0]

    def _unknown(self, name: str, distribution: str, short: str) -> BenchError:
        for fault in self.faults:
            if fault.name == short and distribution in ("", fault.distribution):
                return PluginError(
                    f"the {self.kind} {short!r} of {fault.distribution} {fault.version} can't be offered",
                    cause=f"In its metadata {fault.reason}.",
                )
        if "@" in name:
            own, _, file = name.partition("@")
            address = f"./{file}:{own}" if file.endswith(".py") else own
            flag = f"--plugin {unpublished.shown(address)}, or " if file.endswith(".py") else ""
            return NotHandedOver(
                f"the {self.kind} {name!r} was handed over in a file or a notebook, and isn't known here",
                address,
                fix=f"Hand it over again: {flag}plugins=[{unpublished.shown(own)}] in Python.",
            )
        fix = "`bench list` shows all there is."
        if len(words := name.split()) > 1 and any(word in self for word in words):
            fix = f"Names are separated by commas: {','.join(words)}. {fix}"
        if disabled():
            fix += " BENCH_DISABLE_PLUGINS is set, which leaves the built-ins alone."
        return UnknownName(self.kind, name, self, fix=fix)

    def load(self, name: str) -> T:
        """Import and check the object called `name`. Why it failed is kept for `bench list`.

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
            with uncopied(), _muted():
                obj: T = entry.load()
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"the {self.kind} {entry} can't be imported",
                cause=f"{entry.value}: {type(error).__name__}: {error}",
                fix="Mend or reinstall that distribution; nothing else is affected." if entry.installed else "",
            ) from error
        if (wrong := self.check(obj)) is not None:
            raise PluginError(
                f"the {self.kind} {entry} isn't one",
                cause=f"{entry.value} is {_what(obj)}, {wrong}.",
                fix=f"Its entry point in group {self.group!r} should name one." if entry.installed else "",
            )
        return obj


def _what(obj: object) -> str:
    if isinstance(obj, type):
        return f"the class {obj.__qualname__}"
    named = getattr(obj, "__qualname__", None)
    return f"the {type(obj).__name__} {named}" if named else f"a {type(obj).__name__}"


def default(role: str) -> str | None:
    """The name registered for `role` in the group `bench.defaults`: plain text in the place of an object's address."""
    return defaults().get(role)


def defaults() -> dict[str, str]:
    """The names of all roles; where a stranger names one too, ours."""
    points = sorted(_points("bench.defaults"), key=lambda found: found[1] == OURS)
    return {p.name: p.value for p, _, _ in points}


def registered_document(role: str) -> dict[str, Any] | None:
    """Return the TOML file that is registered for `role` as 'package:file.toml'; None if none is.

    Raises:
        PluginError: it cannot be read.
    """
    if (address := default(role)) is None:
        return None
    package, _, file = address.partition(":")
    try:
        return tomllib.loads((files(package) / file).read_text(encoding="utf-8"))
    except (OSError, ImportError, ValueError) as error:
        raise PluginError(f"the file of {role} ({address}) cannot be read", cause=f"{error!r}") from None
