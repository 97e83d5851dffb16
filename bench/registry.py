"""Plugins by name: one lazy registry over an entry-point group.

Names are read from metadata without importing anything; an object is imported when asked for, and checked then.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from bench.errors import PluginError, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """Where a name comes from: its distribution, that distribution's version, and the object's address."""

    name: str
    distribution: str
    version: str
    point: EntryPoint

    @property
    def value(self) -> str:
        return self.point.value


def _entries(group: str) -> list[Entry]:
    found: dict[tuple[str, str, str], Entry] = {}
    for point in entry_points(group=group):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist is not None else ("unknown", "0")
        found.setdefault((point.name, name, point.value), Entry(point.name, name, version, point))
    return sorted(found.values(), key=lambda e: (e.name, e.distribution))


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
    """The plugins of one entry-point `group`; `check(obj)` says what is wrong with a loaded object, or None.

    A name that two distributions claim must be asked for as `distribution:name`.
    """

    group: str
    kind: str  # what one of them is called in messages: "variant", "dataset", ...
    check: Callable[[Any], str | None] = lambda _: None
    _loaded: dict[Entry, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def entries(self) -> list[Entry]:
        return _entries(self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(entry.name for entry in self.entries))

    def __contains__(self, name: str) -> bool:
        return any(entry.name == name for entry in self.entries)

    def entry(self, name: str) -> Entry:
        """The entry called `name` or `distribution:name`.

        Raises:
            UnknownName: nothing is called so; the message has the closest names.
            PluginError: two distributions claim the name.
        """
        distribution, _, short = name.rpartition(":")
        found = [e for e in self.entries if e.name == short and distribution in ("", e.distribution)]
        if not found:
            raise UnknownName(self.kind, name, self, fix="`bench list` shows all there is.")
        if len(found) > 1:
            owners = ", ".join(f"{e.distribution}:{e.name}" for e in found)
            raise PluginError(
                f"the {self.kind} name {short!r} is claimed by {len(found)} distributions",
                cause=f"They are {owners}.",
                fix="Ask for one of them by that longer name, or uninstall the other.",
            )
        return found[0]

    def load(self, name: str) -> T:
        """Import and check the object called `name`.

        Raises:
            UnknownName, PluginError
        """
        entry = self.entry(name)
        if entry not in self._loaded:
            try:
                with _muted():
                    obj = entry.point.load()
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"the {self.kind} {entry.name!r} of {entry.distribution} {entry.version} can't be imported",
                    cause=f"{entry.value}: {type(error).__name__}: {error}",
                    fix="Mend or reinstall that distribution; nothing else is affected.",
                ) from error
            if (wrong := self.check(obj)) is not None:
                raise PluginError(
                    f"the {self.kind} {entry.name!r} of {entry.distribution} {entry.version} isn't one: {wrong}",
                    cause=f"Its entry point in group {self.group!r} names {entry.value!r}.",
                )
            self._loaded[entry] = obj
        loaded: T = self._loaded[entry]
        return loaded


def default(role: str) -> str | None:
    """The name registered for `role` in the group `bench.defaults`: plain text in the place of an object's address."""
    named = [e.value for e in _entries("bench.defaults") if e.name == role]
    return named[0] if named else None
