"""What is installed: names from metadata alone, and what one plugin says of itself."""

from __future__ import annotations

import inspect
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.plugins import failures, unpublished
from bench.plugins.entry import Entry
from bench.plugins.registry import Registry, defaults, disabled
from bench.running.kinds import KINDS, registry_of
from bench.util.errors import PluginError, UnknownName


@dataclass(frozen=True)
class Listed:
    """A line of `bench list`."""

    kind: str
    name: str  #: what to ask for it by
    distribution: str
    version: str
    address: str
    origin: str = ""  #: where the distribution came from, if it wasn't an index; else where it lies
    default: bool = False
    problem: str = ""  #: why it can't be used: in its metadata, or when it was loaded last


def listed() -> list[Listed]:
    """All plugins, those with faults among them. Imports none of them."""
    found, roles = [], defaults()
    for kind, (group, _) in KINDS.items():
        registry = Registry[Any](group, kind)
        role = roles.get({"variant": "baseline"}.get(kind, kind))
        for e in registry.entries:
            name = registry.key(e)
            problem = failures.last(group, e) or ""
            origin = _origin(e.distribution)
            found.append(Listed(kind, name, e.distribution, e.version, e.value, origin, name == role, problem))
        for f in registry.faults:
            found.append(Listed(kind, f.name, f.distribution, f.version, "", _origin(f.distribution), problem=f.reason))
    return found


@cache
def _origin(name: str) -> str:
    with suppress(PackageNotFoundError, ValueError):
        found = distribution(name)
        direct = json.loads(found.read_text("direct_url.json") or "{}")
        return str(direct.get("url") or found.locate_file(""))
    return ""


def checked() -> list[Listed]:
    """The same, after each has been loaded in a process of its own."""
    from bench.running.executors.local import Local
    from bench.running.vetting import vet

    local = Local(1)
    try:
        vet([(one.kind, one.name) for one in listed() if one.address], local, one_by_one=True)
    finally:
        local.close()
    return listed()


def print_list(found: list[Listed], console: Console) -> None:
    """A table for each kind, and then what is wrong."""
    for kind in KINDS:
        table = Table.grid()  # its own padding would take as long as all the rest
        for one in (one for one in found if one.kind == kind):
            mark = "untuned anchor, joins every run" if kind == "variant" else "default"
            words = Text("can't be used", "red") if one.problem else Text(mark if one.default else "", "italic")
            where = f"{one.distribution} {one.version}   "
            table.add_row(Text(f"   {shown(one.name)}   "), Text(where, "dim"), words)
        console.print(Text(f"{kind}s", "bold"))
        console.print(table if table.row_count else Text("   none", "dim"))
    for one in found:
        if one.problem:
            owner = Text(f"{one.kind} {shown(one.name)} of {one.distribution} {one.version}: ", "red")
            console.print(owner + Text(shown(one.problem), ""), soft_wrap=True)
    if disabled():
        console.print(Text("BENCH_DISABLE_PLUGINS is set: built-ins alone", "dim"))
    console.print(Text("bench info NAME tells more of each; a plugin is code that runs with your rights", "dim"))


def shown(text: str) -> str:
    """A name from somebody's metadata, as it can be shown: on one line, no control characters, not too long."""
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return clean if len(clean) <= 300 else f"{clean[:300]}..."


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
    return [_describe(kind, registry, name) for kind, registry in homes(name)]


def homes(name: str) -> list[tuple[str, Registry[Any]]]:
    """The registries that have something called `name`; of a file, that which its object belongs to.

    Raises:
        UnknownName: there is none.
        PluginError: it's no plugin at all, or two distributions claim it.
    """
    registries = [(kind, registry_of(kind)) for kind in KINDS]
    if unpublished.take(name) is not None:
        obj = Registry[Any]("", "plugin").load(name)
        fitting = [(kind, registry) for kind, registry in registries if registry.check(obj) is None]
        if not fitting:
            reasons = "; ".join(f"as a {kind} it's {registry.check(obj)}" for kind, registry in registries)
            raise PluginError(f"{name} is no plugin", cause=f"{reasons}.")
        return fitting[:1]
    found = [(kind, r) for kind, r in registries if name in {e.name for e in r.entries} or name in r]
    if not found:
        known = {key for _, r in registries for key in r}
        raise UnknownName("plugin", name, known, fix="`bench list` shows all there is.")
    return found


def _describe(kind: str, registry: Registry[Any], name: str) -> Description:
    from bench.plugins.hyperparameters import show

    entry, obj = registry.entry(name), registry.load(name)
    facts = {"from": f"{entry.distribution} {entry.version}".rstrip() + f", {entry.value}"}
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
    from bench.plugins.hyperparameters import hyperparameters

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


__all__ = ["Description", "Listed", "checked", "describe", "homes", "listed", "print_description", "print_list"]
