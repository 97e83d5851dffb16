"""The order of columns, their families and the default columns, as declared.

The TOML file is registered in `bench.defaults` for the role `columns`, as 'package:file.toml'.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from bench.plugins.registry import default
from bench.util.errors import PluginError

ROLE = "columns"


@dataclass(frozen=True)
class Layout:
    """How tables show columns, as declared."""

    default: tuple[tuple[str, ...], ...] = ()  #: each entry is a column, or alternatives of which the first is shown
    narrow: tuple[str, ...] = ()  #: left out first on a narrow terminal
    instead: Mapping[str, str] = field(default_factory=dict)  #: the sentence that says why an alternative is shown
    costs: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)  #: by column, in reading order


def layout() -> Layout:
    """Return the registered layout; an empty one if none is registered.

    Raises:
        PluginError: the registered file cannot be read.
    """
    address = default(ROLE)
    return Layout() if address is None else _declared(address)


@cache
def _declared(address: str) -> Layout:
    package, _, file = address.partition(":")
    try:
        declared = tomllib.loads((files(package) / file).read_text(encoding="utf-8"))
        return Layout(
            tuple(tuple(entry.split("|")) for entry in declared["default"]),
            tuple(declared["narrow"]),
            dict(declared["instead"]),
            dict(declared["costs"]),
            {name: family for family, names in declared["families"].items() for name in names},
        )
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PluginError(f"the columns declared in {address} cannot be read", cause=f"{error!r}") from None
