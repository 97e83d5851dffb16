"""What is installed: names from metadata alone, and what one plugin says of itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import UnknownName
from bench.hyperparameters import hyperparameters, show
from bench.registry import Entry, Registry, default

KINDS = {
    "variant": ("bench.variants", "bench.variant:VARIANTS"),
    "dataset": ("bench.datasets", "bench.dataset:DATASETS"),
    "metric": ("bench.metrics", "bench.metric:METRICS"),
    "backbone": ("bench.backbones", "bench.blocks.backbone:BACKBONES"),
}


def entries() -> Iterator[tuple[str, Entry]]:
    """All plugins: (kind, entry). Imports none of them."""
    for kind, (group, _) in KINDS.items():
        yield from ((kind, entry) for entry in Registry[Any](group, kind).entries)


def records() -> list[dict[str, Any]]:
    """All plugins as JSON documents."""
    return [
        {
            "kind": kind,
            "name": e.name,
            "distribution": e.distribution,
            "version": e.version,
            "address": e.value,
        }
        | {"default": _is_default(kind, e)}
        for kind, e in entries()
    ]


def _is_default(kind: str, entry: Entry) -> bool:
    role = {"variant": "baseline"}.get(kind, kind)
    return default(role) == entry.name


def print_list(console: Console) -> None:
    """All plugins, a table for each kind."""
    for kind in KINDS:
        found = [entry for k, entry in entries() if k == kind]
        table = Table.grid(padding=(0, 3))
        for entry in found:
            mark = ""
            if _is_default(kind, entry):
                mark = "untuned anchor, joins every run" if kind == "variant" else "default"
            where = f"{entry.distribution} {entry.version}"
            table.add_row("", Text(entry.name), Text(where, "dim"), Text(entry.value, "dim"), Text(mark, "italic"))
        console.print(Text(f"{kind}s", "bold"))
        console.print(table if found else Text("   none", "dim"))
    console.print(Text("bench info NAME tells more of each", "dim"))


@dataclass(frozen=True)
class Description:
    """A plugin in words: `facts` by name, and its arguments as (name, type and range, default, meaning)."""

    kind: str
    entry: Entry
    doc: str
    facts: dict[str, str]
    arguments: list[tuple[str, str, str, str]]


def describe(name: str) -> list[Description]:
    """All plugins called `name`, of whatever kind.

    Raises:
        UnknownName: there is none.
        PluginError: it can't be imported.
    """
    found = [(kind, e) for kind, e in entries() if name in (e.name, f"{e.distribution}:{e.name}")]
    if not found:
        raise UnknownName("plugin", name, {e.name for _, e in entries()}, fix="`bench list` shows all there is.")
    return [_describe(kind, entry) for kind, entry in found]


def _describe(kind: str, entry: Entry) -> Description:
    module, _, attribute = KINDS[kind][1].partition(":")
    obj = getattr(import_module(module), attribute).load(f"{entry.distribution}:{entry.name}")
    facts = {"from": f"{entry.distribution} {entry.version}, {entry.value}"}
    if kind == "metric":
        low, high = obj.range
        direction = f"{obj.direction} is better" if obj.direction else "none: a coordinate, never marked"
        needs = ", ".join(map(str, obj.needs)) or "nothing"
        facts |= {
            "unit": obj.unit,
            "direction": direction,
            "range": f"{low:g} to {high:g}",
            "requests": needs,
        }
        return Description(kind, entry, inspect.cleandoc(obj.doc), facts, [])
    if kind == "dataset":
        size = sum(file.size for file in obj.files) / 1e6
        facts |= {
            "title": obj.title,
            "license": obj.license,
            "files": f"{size:.1f} MB" if obj.files else "none to fetch",
        }
    if kind == "variant":
        facts |= {"labels": "used" if obj.uses_labels else "not used"}
        facts |= {f"no {ability.__name__}": reason for ability, reason in obj.lacks.items()}
    arguments = [
        (h.name, f"{h.type_name}{f', {h.range}' if h.range else ''}", show(h.default), h.doc) for h in _arguments(obj)
    ]
    return Description(kind, entry, inspect.getdoc(obj) or "", {k: v for k, v in facts.items() if v}, arguments)


def _arguments(obj: type) -> list[Any]:
    return [] if inspect.isabstract(obj) or "__init__" not in dir(obj) else list(hyperparameters(obj).values())


def print_description(found: Description, console: Console) -> None:
    """One plugin on one screen."""
    console.print(Text.assemble((found.entry.name, "bold"), f"  {found.kind}"))
    for paragraph in re.split(r"\n\s*\n", found.doc):
        indented = any(line.startswith(" ") for line in paragraph.splitlines())
        console.print(Text(paragraph if indented else " ".join(paragraph.split())))
    console.print()
    facts = Table.grid(padding=(0, 2))
    for name, value in found.facts.items():
        facts.add_row(Text(name, "dim"), Text(value))
    console.print(facts)
    if found.arguments:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for head in (
            "hyperparameter" if found.kind == "variant" else "option",
            "takes",
            "default",
            "meaning",
        ):
            table.add_column(head)
        for argument in found.arguments:
            table.add_row(*map(Text, argument))
        console.print()
        console.print(table)
    console.print()


__all__ = ["Description", "describe", "entries", "print_description", "print_list", "records"]
