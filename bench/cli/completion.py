"""What a shell offers behind TAB: plugins by name, runs, cells, and what a run's table has. Nothing heavy is imported.

Names are read from metadata and runs from the disk; what can't be read offers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from bench.util.text import is_plain

RESULTS = "results"  # where runs lie by default
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _listed(group: str) -> Callable[[], list[str]]:
    """The names in an entry-point group."""

    def names() -> list[str]:
        from bench.plugins.registry import Registry

        return list(Registry[object](group, "plugin"))

    return names


def _by_commas(names: Callable[[], Sequence[str]], signs: str = "") -> Completer:
    """The last of a list by commas; `signs` may stand before a name."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        head, comma, last = typed.rpartition(",")
        if last.count("[") > last.count("]") or typed.count("[") > typed.count("]"):
            return []  # within a selector's brackets
        sign = last[:1] if last[:1] in tuple(signs) else ""
        already = {part.lstrip(signs) for part in head.split(",")}
        found = [n for n in names() if n.startswith(last[len(sign) :]) and n not in already]
        return [CompletionItem(f"{head}{comma}{sign}{name}") for name in found]

    return complete


variants = _by_commas(_listed("bench.variants"))
datasets = _by_commas(_listed("bench.datasets"))
metrics = _by_commas(_listed("bench.metrics"), "+-")
loggers = _by_commas(_listed("bench.loggers"))
backbones = _by_commas(_listed("bench.backbones"))
executors = _by_commas(_listed("bench.executors"))
plugins = _by_commas(
    lambda: [n for kind in ("variants", "datasets", "metrics", "backbones") for n in _listed(f"bench.{kind}")()]
)


def runs(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Folders of runs that begin as typed, those under results/ by their names alone; else folders."""
    found = _runs(typed) or (_runs(os.path.join(RESULTS, typed)) if not os.path.dirname(typed) else [])
    return [CompletionItem(path) for path in found] or [CompletionItem(typed, type="dir")]


def cells(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Cells of a run, behind its folder and '/', and its labels, behind ':'; else runs."""
    folder, colon, label = typed.rpartition(":")
    if colon and _is_run(Path(folder)):
        return [CompletionItem(f"{folder}:{name}") for name in _labels(Path(folder)) if name.startswith(label)]
    folder, _, begun = typed.rpartition("/")
    folder = folder.removesuffix("/cells")
    if folder and _is_run(Path(folder)):
        names = (name for name in _listing(Path(folder) / "cells") if name.startswith(begun))
        return [CompletionItem(f"{folder}/cells/{name}") for name in names]
    return runs(ctx, param, typed)


def labels(ctx: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The labels of the run that stands before."""
    given = next(filter(None, (ctx.params.get("cell"), ctx.params.get("a"), *ctx.args)), "")  # args: an option is open
    head, comma, last = typed.rpartition(",")
    return [CompletionItem(f"{head}{comma}{n}") for n in _labels(Path(str(given))) if n.startswith(last)]


def _runs(begun: str) -> list[str]:
    """Paths of runs that begin so."""
    folder, begin = os.path.split(begun)
    inside = (os.path.join(folder, name) for name in _listing(Path(folder or ".")) if name.startswith(begin))
    return [path for path in inside if _is_run(Path(path))]


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


def _listing(folder: Path) -> Iterable[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith(".") and is_plain(name))
    except OSError:
        return []


def _labels(run: Path) -> list[str]:
    """The labels in a run's table."""
    import csv

    from bench.util import inside
    from bench.util.errors import Damaged

    try:
        lines = inside.content(run / "table.csv").decode().splitlines()
        return list(filter(is_plain, dict.fromkeys(line["label"] for line in csv.DictReader(lines))))
    except (OSError, KeyError, ValueError, csv.Error, Damaged):
        return []
