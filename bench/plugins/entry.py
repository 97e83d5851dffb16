"""Registered plugin entries."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A plugin's name, its distribution, that distribution's version, and the object's address ('module:name')."""

    name: str
    distribution: str
    version: str
    value: str

    installed = True  # by a distribution, whose metadata list it

    def __str__(self) -> str:
        return f"{self.name!r} of {self.distribution} {self.version}".rstrip()

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

    def load(self) -> Any:
        """Import the object."""
        return EntryPoint(self.name, self.value, "").load()
