"""Completion in the shell: names of plugins, runs, cells and labels. Imports nothing heavy.

Names are read from metadata and runs from the disk. A file or folder that can't be read gives no completions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from bench.util.text import is_plain

RESULTS = "results"  # default folder of runs
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _listed(group: str) -> Callable[[], list[str]]:
    """Return a function that returns the names in an entry-point group."""

    def names() -> list[str]:
        from bench.plugins.registry import Registry

        return list(Registry[object](group, "plugin"))

    return names


def _by_commas(names: Callable[[], Sequence[str]], signs: str = "") -> Completer:
    """Return a completer of the last name in a comma-separated list; a name may have one of `signs` before it."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        head, comma, last = typed.rpartition(",")
        if last.count("[") > last.count("]") or typed.count("[") > typed.count("]"):
            return []  # inside the brackets of a variant's settings
        sign = last[:1] if last[:1] in tuple(signs) else ""
        already = {part.lstrip(signs) for part in head.split(",")}
        fitting = [n for n in names() if n.startswith(last[len(sign) :]) and n not in already]
        return [CompletionItem(f"{head}{comma}{sign}{name}") for name in fitting]

    return complete


variants = _by_commas(_listed("bench.variants"))
datasets = _by_commas(_listed("bench.datasets"))
metrics = _by_commas(_listed("bench.metrics"), "+-")
loggers = _by_commas(_listed("bench.loggers"))
backbones = _by_commas(_listed("bench.backbones"))
executors = _by_commas(_listed("bench.executors"))
plugins = _by_commas(
    lambda: [
        name
        for kind in ("variants", "datasets", "metrics", "backbones", "executors", "loggers")
        for name in _listed(f"bench.{kind}")()
    ]
)


def runs(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the folder of a run, also by its name in results/; if no run fits, any folder."""
    paths = _runs(typed) or (_runs(os.path.join(RESULTS, typed)) if not os.path.dirname(typed) else [])
    return [CompletionItem(path) for path in paths] or [CompletionItem(typed, type="dir")]


def cells(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete a run; after the run and '/', one of its cells; after the run and ':', one of its labels."""
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
    """Complete labels of the run that was typed before."""
    given = next(
        filter(None, (ctx.params.get("cell"), ctx.params.get("a"), *ctx.args)), ""
    )  # args: after an open option
    head, comma, last = typed.rpartition(",")
    return [CompletionItem(f"{head}{comma}{n}") for n in _labels(Path(str(given))) if n.startswith(last)]


def _runs(begun: str) -> list[str]:
    """Return the paths of runs that begin with `begun`."""
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
    """Return the labels in a run's table.csv, or nothing if it can't be read."""
    import csv

    from bench.util import inside
    from bench.util.errors import Damaged

    try:
        lines = inside.content(run / "table.csv").decode().splitlines()
        return list(filter(is_plain, dict.fromkeys(line["label"] for line in csv.DictReader(lines))))
    except (OSError, KeyError, ValueError, csv.Error, Damaged):
        return []
