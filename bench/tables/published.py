"""Published values on the datasets of a table: shown below it, marked, and not ranked with it.

They stand in the TOML file that is registered in `bench.defaults` for the role `published`, as 'package:file.toml'.
Every entry says how its protocol differs from a run of this suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from bench.plugins.registry import default, registered_document
from bench.util.errors import PluginError
from bench.util.text import escape_markdown

if TYPE_CHECKING:
    from rich.console import RenderableType

ROLE = "published"
MARK = "published by others, not ranked"


@dataclass(frozen=True)
class Published:
    """One published value."""

    dataset: str
    metric: str
    model: str  #: its name in the source
    value: float
    text: str  #: '16.6 ± 0.4', with the digits of its source and a real minus sign
    unit: str
    direction: Literal["higher", "lower"]
    source: str
    link: str
    differs: tuple[str, ...]  #: from a run of this suite


def published(datasets: Iterable[str]) -> list[Published]:
    """Return the values on these datasets, as users type them: by dataset, then in the order of the file.

    Options of a dataset are ignored: each entry says how its data differ.

    Raises:
        PluginError: the registered file cannot be read.
    """
    known = _all()
    wanted = dict.fromkeys(name.partition("[")[0].partition(":")[0] for name in datasets)
    return [entry for name in wanted for entry in known if entry.dataset == name]


@cache
def _all() -> tuple[Published, ...]:
    if (document := registered_document(ROLE)) is None:
        return ()
    try:
        return tuple(entry for table in document["table"] for entry in _entries(table))
    except (ValueError, KeyError, TypeError) as error:
        raise PluginError(f"the published values ({default(ROLE)}) cannot be read", cause=f"{error!r}") from None


def _entries(table: Mapping[str, Any]) -> list[Published]:
    fields = {name: table[name] for name in ("metric", "unit", "direction", "source", "link")}
    return [
        Published(dataset, model=model, value=float(value), text=" ± ".join([value.replace("-", "−"), *sd]),
                  differs=tuple(table["differs"]), **fields)
        for dataset, values in table["datasets"].items()
        for model, value, *sd in values
    ]  # fmt: skip


def _sources(entries: Iterable[Published]) -> list[tuple[str, str, list[Published]]]:
    """Return the entries by dataset and source: each is a table with its own caveats."""
    return [(dataset, source, list(of)) for (dataset, source), of in groupby(entries, lambda e: (e.dataset, e.source))]


def as_markdown(entries: Iterable[Published]) -> str:
    """Return a table for each dataset and source with what differs below; '' without entries."""
    out = []
    for dataset, source, of in _sources(entries):
        out += [f"#### {escape_markdown(dataset)}: {escape_markdown(source)} ({MARK})", ""]
        out += [f"| model | {_head(of[0], '<br>')} |", "| :-- | --: |"]
        out += [f"| {escape_markdown(entry.model)} | {entry.text} |" for entry in of]
        out += ["", *(f"- {escape_markdown(text)}" for text in of[0].differs), f"- <{of[0].link}>", ""]
    return "\n".join(out)


def as_renderables(entries: Iterable[Published]) -> list[RenderableType]:
    """Return the same for a terminal, as a list of what rich prints."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made: list[RenderableType] = []
    for dataset, source, of in _sources(entries):
        table = Table(box=SIMPLE_HEAD)
        table.add_column("model")
        table.add_column(Text(_head(of[0], "\n")), justify="right")
        for entry in of:
            table.add_row(Text(entry.model), entry.text)
        below = "\n".join([*(f"differs: {text}" for text in of[0].differs), of[0].link])
        made += [Text(f"{dataset} · {source} · {MARK}"), table, Text(f"{below}\n", style="dim")]
    return made


def _head(entry: Published, end: str) -> str:
    return f"{entry.metric} {'↓' if entry.direction == 'lower' else '↑'}{end}{entry.unit}"
