"""`bench list` and `bench info`: the installed plugins, and the description of one plugin."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.plugins import failures, unpublished
from bench.plugins.registry import OURS, Registry, default, defaults, disabled, document
from bench.running.kinds import KINDS, registry_of
from bench.util.errors import PluginError, UnknownName


@dataclass(frozen=True)
class Listed:
    """A line of `bench list`."""

    kind: str
    name: str  #: the name to use in a command
    distribution: str
    version: str
    address: str
    origin: str = ""  #: URL that the distribution was installed from, else the folder it is installed in
    default: bool = False
    problem: str = ""  #: the fault in its metadata, or the last error on import
    about: str = ""  #: title or first line of its docstring, read from the source text


def listed() -> list[Listed]:
    """Return all plugins, including faulty ones. Imports none of them."""
    found, roles = [], defaults()
    for kind, (group, _) in KINDS.items():
        registry = Registry[Any](group, kind)
        role = roles.get({"variant": "baseline"}.get(kind, kind))
        for e in registry.entries:
            name, problem = registry.key(e), failures.last(group, e) or ""
            about = _sentences(e.module).get(e.value.partition(":")[2], "")
            where = e.distribution, e.version, e.value, _origin(e.distribution)
            found.append(Listed(kind, name, *where, name == role, problem, about))
        for f in registry.faults:
            found.append(Listed(kind, f.name, f.distribution, f.version, "", _origin(f.distribution), problem=f.reason))
    return found


def checked() -> list[Listed]:
    """Import each plugin in a process of its own, then return all plugins with the problems found."""
    from bench.running.executors.local import Local
    from bench.running.vetting import vet

    local = Local(1)
    try:
        vet([(one.kind, one.name) for one in listed() if one.address], local, one_by_one=True)
    finally:
        local.close()
    return listed()


@cache
def _origin(name: str) -> str:
    with suppress(PackageNotFoundError, ValueError):
        found = distribution(name)
        direct = json.loads(found.read_text("direct_url.json") or "{}")
        return str(direct.get("url") or found.locate_file(""))
    return ""


@cache
def _sentences(module: str) -> dict[str, str]:
    """Return one line about each class, function and constant of a module, from its source: nothing is imported.

    The line is a class's `title`, else the first line of the docstring; of an assigned object that of the string below
    it, or of the last text that the call which makes it is given.
    """
    lines: dict[str, str] = {}
    with suppress(ImportError, OSError, ValueError, SyntaxError, RecursionError, AttributeError):
        body = ast.parse(_source(module).read_bytes()).body
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                lines[node.name] = _title(node) or ast.get_docstring(node) or ""
            elif isinstance(node, ast.Assign):
                text = _text(below.value) if isinstance(below, ast.Expr) else _last_text(node.value)
                lines |= {target.id: text for target in node.targets if isinstance(target, ast.Name)}
    return {name: text.partition("\n")[0] for name, text in lines.items()}


def _source(module: str) -> Path:
    """Return the file of a module, found without importing the module or the packages around it."""
    name, spec = "", None
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        folders = spec and spec.submodule_search_locations
        spec = next(filter(None, (finder.find_spec(name, folders) for finder in sys.meta_path)), None)
        if spec is None:
            break
    if spec is None or spec.origin is None:
        raise ImportError(name)
    return Path(spec.origin)


def _title(node: ast.AST) -> str:
    assigned = (s for s in getattr(node, "body", ()) if isinstance(s, ast.Assign))
    return next((_text(s.value) for s in assigned if getattr(s.targets[0], "id", "") == "title"), "")


def _last_text(node: ast.AST) -> str:
    return next((text for argument in reversed(getattr(node, "args", ())) if (text := _text(argument))), "")


def _text(node: ast.AST) -> str:
    return inspect.cleandoc(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def print_list(plugins: Sequence[Listed], console: Console) -> None:
    """Print a line for each plugin, by kind and family; below, the plugins that can't be used, and why."""
    for kind, members in groupby(plugins, key=lambda one: one.kind):
        console.print(Text(f"{kind}s", "bold"))
        families = _families() if kind == "metric" else {}
        known = [*families]
        ordered = sorted(members, key=lambda one: known.index(one.name) if one.name in families else len(known))
        width = max(len(shown(one.name)) for one in ordered)
        for family, group in groupby(ordered, key=lambda one: families.get(one.name, "others")):
            if families:
                console.print(Text(f"  {family}", "italic"))
            for one in group:
                mark = "" if not one.default else "[baseline] " if kind == "variant" else "[default] "
                origin = "" if one.distribution == OURS else f"[{one.distribution} {one.version}] "
                problem = "[can't be used, see below] " if one.problem else ""
                line = Text(f"    {shown(one.name).ljust(width)}  ")
                line.append(mark, "italic").append(origin, "dim").append(problem, "red").append(shown(one.about))
                if console.is_terminal:
                    line.truncate(console.width, overflow="ellipsis")
                console.print(line, soft_wrap=True)
    for one in plugins:
        if one.problem:
            owner = Text(f"{one.kind} {shown(one.name)} of {one.distribution} {one.version}: ", "red")
            console.print(owner + Text(shown(one.problem), ""), soft_wrap=True)
    if disabled():
        console.print(Text("BENCH_DISABLE_PLUGINS is set: only built-in plugins are listed", "dim"))
    console.print(Text("bench info NAME shows all about a plugin. A plugin's code runs with your rights.", "dim"))


def _families() -> dict[str, str]:
    """Return the families of metrics, in the order that tables show them."""
    address = default("columns")
    declared = {} if address is None else document(address).get("families", {})
    return {name: family for family, names in declared.items() for name in names}


def shown(text: str) -> str:
    """Return text from somebody's metadata on one line, without control characters, at most 300 characters long."""
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return clean if len(clean) <= 300 else f"{clean[:300]}..."


def homes(name: str) -> list[tuple[str, Registry[Any]]]:
    """Return the kinds, and their registries, that have a plugin called `name`; for a file, the kind of its object.

    Raises:
        UnknownName: no plugin has this name.
        PluginError: the object in the file is no plugin, or two distributions have a plugin of this name.
    """
    registries = [(kind, registry_of(kind)) for kind in KINDS]
    if unpublished.take(name) is not None:
        obj = Registry[Any]("", "plugin").load(name)
        fitting = [(kind, registry) for kind, registry in registries if registry.check(obj) is None]
        if not fitting:
            reasons = "; ".join(f"as a {kind}: {registry.check(obj)}" for kind, registry in registries)
            raise PluginError(f"{name} is not a plugin of any kind", cause=f"{reasons}.")
        return fitting[:1]
    found = [(kind, r) for kind, r in registries if name in {e.name for e in r.entries} or name in r]
    if not found:
        known = {key for _, r in registries for key in r}
        raise UnknownName("plugin", name, known, fix="`bench list` shows all plugins.")
    return found


def print_info(name: str, console: Console) -> None:
    """Print what each plugin called `name` is: docstring, facts, and hyperparameters or options.

    Raises:
        UnknownName, PluginError: as for `homes`; or the plugin can't be imported.
    """
    for kind, registry in homes(name):
        entry, obj = registry.entry(name), registry.load(name)
        console.print(Text.assemble((entry.name, "bold"), f"  {kind}"))
        doc = inspect.cleandoc(obj.doc) if kind == "metric" else inspect.getdoc(obj) or ""
        for paragraph in re.split(r"\n\s*\n", doc):
            indented = any(line.startswith(" ") for line in paragraph.splitlines())
            console.print(Text(paragraph if indented else " ".join(paragraph.split())))
        console.print()
        facts = Table.grid(padding=(0, 2))
        origin = f"{entry.distribution} {entry.version}".rstrip() + f", {entry.value}"
        for label, value in {"from": origin, **_facts(kind, entry.name, obj)}.items():
            if value:
                facts.add_row(Text(label, "dim"), Text(value))
        console.print(facts)
        _print_arguments(kind, obj, console)
        console.print()


def _facts(kind: str, name: str, obj: Any) -> dict[str, str]:
    """Return what a plugin of a kind declares, by label."""
    if kind == "metric":
        low, high = obj.range
        return {
            "unit": obj.unit,
            "direction": f"{obj.direction} is better" if obj.direction else "none: values are not ranked",
            "range": f"{low:g} to {high:g}",
            "computed": "by default" if obj.default else f"only with --metrics=+{name} or --metrics=all",
            "requests": ", ".join(map(str, obj.needs)) or "nothing",
        }
    if kind == "dataset":
        size = sum(file.size for file in obj.files) / 1e6
        files = f"{size:.1f} MB to download" if obj.files else "none to download"
        return {"title": obj.title, "license": obj.license, "files": files}
    if kind == "variant":
        from bench.contracts.abilities import ABILITIES

        methods = {a: [name for name in vars(a) if not name.startswith("_")] for a in ABILITIES if a not in obj.lacks}
        return {
            "labels": "used" if obj.uses_labels else "not used",
            "abilities": ", ".join(a.__name__ for a, names in methods.items() if all(hasattr(obj, n) for n in names)),
            **{f"no {ability.__name__}": reason for ability, reason in obj.lacks.items()},
        }
    return {}


def _print_arguments(kind: str, obj: Any, console: Console) -> None:
    from bench.plugins.hyperparameters import hyperparameters, show

    if kind not in ("variant", "dataset", "backbone") or inspect.isabstract(obj):
        return
    arguments = hyperparameters(obj).values()
    if not arguments:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("hyperparameter" if kind == "variant" else "option", "takes", "default", "meaning"):
        table.add_column(head)
    for h in arguments:
        table.add_row(*map(Text, (h.name, f"{h.type_name}{f', {h.range}' if h.range else ''}", show(h.default), h.doc)))
    console.print()
    console.print(table)
