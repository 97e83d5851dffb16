"""Provenance: the command that repeats a run, its settings, and those of each label."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from bench.contracts.protocol import ONCE, RunRequest
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.results.store import Run

ELSEWHERE = (*ONCE, "data_root", "address")
"""Settings without a meaning on another machine, or another day."""
PLURAL = {"variants": "--variants", "datasets": "--dataset"}
_FILE = re.compile(r"(^|[=|,\[])(?:/|~|[A-Za-z]:[\\/])[^|,=\[\]]*?([^\\/|,=\[\]]+\.py:)")
"""An absolute path of a code file in a setting, with the character before it; group 2 is the file's name."""


@dataclass(frozen=True)
class LabelSettings:
    """A label with all its hyperparameters."""

    label: str
    hyperparameters: str
    parameters: str  #: '' if no row has them
    plugin: str


@dataclass(frozen=True)
class Origin:
    """A run."""

    name: str
    command: str
    request: str  #: run.json


def command(request: RunRequest) -> str:
    """Return the command line that repeats a run, without settings of one machine.

    Seeds that `--seeds` can't express are left to `--config run.json`.
    """
    plain, words = RunRequest(), ["bench", "run"]
    seeds = request.seeds
    if len(seeds) == 1 and seeds != (0,):
        return "bench run --config run.json"
    for f in fields(request):
        value = getattr(request, f.name)
        if f.name in ELSEWHERE or value == getattr(plain, f.name):
            continue
        words += _option(f.name, value)
    return shlex.join(map(portable, words))


def portable(text: str) -> str:
    """Return a setting with files of code by their names, without their folders."""
    return _FILE.sub(r"\1./\2", text)


def _option(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if name in PLURAL:
        return [PLURAL[name], ",".join(value)]
    if name == "seeds":
        counted = value == tuple(range(len(value)))
        return [flag, str(len(value)) if counted else ",".join(map(str, value))]
    if name == "metrics":
        return [f"{flag}={','.join(value)}"]
    if name == "set":
        return [word for setting in value for word in (flag, setting)]
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    return [flag, repr(value).removesuffix(".0") if isinstance(value, float) else str(value)]


def origin(run: Run) -> Origin:
    """Return the command and the settings of a run."""
    request = run.request()
    settings = {k: _portable(v) for k, v in request.lasting().to_json().items() if k not in ELSEWHERE}
    return Origin(run.path.resolve().name, command(request), json.dumps(settings, indent=1))


def _portable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_portable(part) for part in value]
    return portable(value) if isinstance(value, str) else value


def settings(rows: Sequence[Row]) -> list[LabelSettings]:
    """Return each label once, with its hyperparameters; parameters may differ between datasets."""
    parameters: dict[tuple[str, str, str], set[float]] = {}
    for row in rows:
        h = " ".join(f"{name}={portable(show(value))}" for name, value in sorted(row.hyperparameters.items()))
        plugin = " ".join(str(row.plugin[k]) for k in ("distribution", "version") if k in row.plugin)
        numbers = parameters.setdefault((row.label, h, plugin), set())
        numbers |= {row.costs["parameters"]} if row.costs.get("parameters") is not None else set()
    found = []
    for (label, h, plugin), numbers in parameters.items():
        ends = sorted({min(numbers), max(numbers)}) if numbers else []
        found.append(LabelSettings(label, h, " to ".join(f"{n:,.0f}" for n in ends), plugin))
    return found
