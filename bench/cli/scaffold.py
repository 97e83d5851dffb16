"""`bench new`: write a package with a working plugin, its tests and its entry point."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any, Literal

from bench.plugins.registry import OURS, Registry
from bench.running.kinds import KINDS
from bench.util.errors import StoreError, UsageError

Kind = Literal["variant", "dataset", "metric"]

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


def new(kind: Kind, name: str, folder: Path | None = None) -> Path:
    """Write a package for a plugin called `name`, and return its folder, by default ./vaebench-NAME.

    Raises:
        UsageError: the name is invalid, or an installed plugin has it.
        StoreError: the folder exists, or can't be written.
    """
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise UsageError(
            f"invalid name {name!r} for a {kind}",
            cause="A name has at most 40 lower-case letters and digits, joined by - or _, and begins with a letter.",
            fix="For example: free-bits",
        )
    taken = [e for e in Registry[Any](KINDS[kind][0], kind).entries if e.name.casefold() == name]
    if taken:
        raise UsageError(f"{taken[0].distribution} already has a {kind} called {name!r}", fix="Choose another name.")
    distribution = f"{OURS}-{name.replace('_', '-')}"
    home = folder or Path(distribution)
    words = re.split("[_-]", name)
    values = {
        "kind": kind,
        "name": name,
        "title": " ".join(words).capitalize(),
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "object": _object(kind, words),
    }
    names = {"module.py.in": f"{values['module']}.py", "test.py.in": f"tests/test_{values['module']}.py",
             "gitignore": ".gitignore", "pyproject.toml.in": "pyproject.toml"}  # fmt: skip
    templates = files("bench.cli") / "templates"
    try:
        home.mkdir(parents=True)
        for source in (*_in(templates / "all"), *_in(templates / kind)):
            target = home / names.get(source.name, source.name)
            target.parent.mkdir(exist_ok=True)
            target.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
    except FileExistsError:
        raise StoreError(f"{home} already exists", fix="Choose another folder with --out.") from None
    except OSError as error:
        raise StoreError(f"{home} can't be written: {error.strerror or error}") from None
    return home


def _in(folder: Traversable) -> list[Traversable]:
    return sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.name)


def _object(kind: Kind, words: list[str]) -> str:
    if kind == "metric":
        name = "_".join(words)
        return f"{name}_" if keyword.iskeyword(name) else name
    return "".join(word.capitalize() for word in words)
