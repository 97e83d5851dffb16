"""What a report was made of: the command that repeats a run, its settings, and each cell with its weights' digest."""

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
from bench.results.store import WEIGHTS, Run
from bench.util.durable import sums
from bench.util.errors import StoreError

ELSEWHERE = (*ONCE, "data_root", "address")
"""Settings that mean nothing on another machine, or another day."""
PLURAL = {"variants": "--variants", "datasets": "--dataset"}
_FILE = re.compile(r"(^|[=|,\[])(?:/|~|[A-Za-z]:[\\/])[^|,=\[\]]*?([^\\/|,=\[\]]+\.py:)")
"""What an absolute path in a setting ends with, and what may stand before one."""


@dataclass(frozen=True)
class CellLine:
    """A cell in the list of all."""

    label: str
    dataset: str
    seed: int
    status: str
    weights: str  #: sha256, its beginning; '' where there are none
    seconds: float | None
    ended: str
    cell: str


@dataclass(frozen=True)
class Setting:
    """A label with all its hyperparameters."""

    label: str
    hyperparameters: str
    parameters: str  #: '' where nobody knows
    plugin: str


@dataclass(frozen=True)
class Origin:
    """A run."""

    name: str
    command: str
    request: str  #: run.json
    cells: tuple[CellLine, ...]


def command(request: RunRequest) -> str:
    """The command line that asks for the same run, without what belongs to a machine.

    Seeds that no `--seeds` says are left to `--config run.json`.
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
    """A setting with files of code by their names alone: where they lay is the machine's own affair."""
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


def origin(run: Run, rows: Sequence[Row]) -> Origin:
    """What there is to say about a run and its cells."""
    request = run.request()
    told = {name: _told(value) for name, value in request.lasting().to_json().items() if name not in ELSEWHERE}
    return Origin(
        run.path.resolve().name, command(request), json.dumps(told, indent=1), tuple(_cell(run, r) for r in rows)
    )


def _told(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_told(part) for part in value]
    return portable(value) if isinstance(value, str) else value


def _cell(run: Run, row: Row) -> CellLine:
    digest = ""
    if row.status == "ok":
        try:
            digest = (sums(run.done(row.cell)) or {}).get(WEIGHTS, "unreadable")[:16]
        except StoreError:
            digest = "unreadable"
    ended = str(row.provenance.get("ended", ""))[:16].replace("T", " ")
    seconds = row.costs.get("train_seconds")
    return CellLine(row.label, row.dataset, row.seed, row.status, digest, seconds, ended, row.cell)


def settings(rows: Sequence[Row]) -> list[Setting]:
    """Each label once, with what it was made of."""
    found: dict[tuple[str, str, str], set[float]] = {}
    for row in rows:
        h = " ".join(f"{name}={portable(show(value))}" for name, value in sorted(row.hyperparameters.items()))
        plugin = " ".join(str(row.plugin[k]) for k in ("distribution", "version") if k in row.plugin)
        numbers = found.setdefault((row.label, h, plugin), set())
        numbers |= {row.costs["parameters"]} if row.costs.get("parameters") is not None else set()
    return [Setting(label, h, _between(numbers), plugin) for (label, h, plugin), numbers in found.items()]


def _between(numbers: set[float]) -> str:
    """Return the numbers of parameters that a label has on its datasets, from the least to the largest."""
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return " to ".join(f"{n:,.0f}" for n in ends)
