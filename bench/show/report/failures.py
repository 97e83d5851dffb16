"""Cells without a result: why, and the end of what they said."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from click import unstyle

from bench.contracts.naming import called
from bench.contracts.protocol import RunRequest
from bench.contracts.row import UNKNOWN, Row
from bench.contracts.variant import VARIANTS
from bench.plugins.registry import default
from bench.results.store import Run, in_order
from bench.running.grid import Config, expand, slug
from bench.util import inside
from bench.util.errors import BenchError, Damaged, StoreError
from bench.util.text import plain

APART = ("unreadable", "unfinished", "missing")  #: what isn't a row's status: there is no row
TAIL = 20  #: lines of a log that are shown
LINE = 400  #: letters of each
ROOM = 16_384  #: bytes that are read for each, colours and all


@dataclass(frozen=True)
class Failure:
    """A cell that didn't finish, or whose files can't be read; or cells of a label that never began."""

    label: str
    dataset: str
    seed: str
    status: str
    reason: str
    log: str = ""
    cells: int = 1


def gathered(run: Run) -> tuple[list[Row], list[Failure]]:
    """The rows of a run that can be read, and what has no row."""
    rows, failures = [], []
    for name in run.names():
        try:
            row = run.row(name)
        except StoreError as error:
            failures.append(Failure(name, "", "", "unreadable", f"its row can't be read. {error.cause}".strip()))
            continue
        if row is None and not (run.cells / name).is_dir():
            continue
        if row is None:
            why, log = "at work still, or broken off: it has no result", _end(_newest(run.work(name)))
            failures.append(Failure(name, "", "", "unfinished", why, log))
        else:
            rows.append(row)
    return in_order(rows, run.request()), failures


def failures(run: Run, rows: Iterable[Row]) -> list[Failure]:
    """The rows that aren't ok, and those of which two attempts differ."""
    return [
        Failure(
            row.label,
            row.dataset,
            str(row.seed),
            "conflict" if row.conflict else row.status,
            row.reason,
            "" if row.conflict or row.status == "damaged" else _tail(run, row.cell),
        )
        for row in rows
        if row.status != "ok" or row.conflict
    ]


def missing(run: Run, rows: Iterable[Row], broken: Sequence[Failure]) -> list[Failure]:
    """What the run was asked for and has neither a row nor a folder of, by label: it was broken off, or is a part.

    Variants that aren't installed are left out, and so is what only code could tell that wasn't handed over.
    """
    request = run.request()
    there = {(row.label, row.dataset, row.seed) for row in rows}
    folders = [failure.label for failure in broken] + [row.cell for row in rows if row.dataset == UNKNOWN]
    begun = {name.rpartition("-")[0] for name in folders}
    found = []
    for dataset in map(called, request.datasets or (default("dataset") or "",)):
        for config in _asked(request):
            seeds = [
                seed
                for seed in (request.seeds[:1] if config.sanity else request.seeds)
                if (config.label, dataset, seed) not in there
                and slug(f"{config.label}-{dataset}-s{seed}", "").rpartition("-")[0] not in begun
            ]
            if seeds:
                why, numbers = "asked for, without a result", ", ".join(map(str, seeds))
                found.append(Failure(config.label, dataset, numbers, "missing", why, cells=len(seeds)))
    return found


def _asked(request: RunRequest) -> list[Config]:
    """The variants of a request; those that aren't installed and weren't handed over are passed over."""
    known = tuple(text for text in request.variants if _name(text) in VARIANTS)
    if request.variants and not known:
        return []
    try:
        return expand(replace(request, variants=known), {})
    except BenchError:
        return []


def _name(text: str) -> str:
    return text.partition("[")[0].strip()


def _tail(run: Run, cell: str) -> str:
    found = run.failures(cell)
    return _end(found[-1] / "log.txt" if found else None)


def _newest(work: Path) -> Path | None:
    """The log of the last attempt."""
    try:
        logs = [Path(entry, "log.txt") for entry in inside.entries(work) if entry.is_dir(follow_symlinks=False)]
        return max(filter(os.path.lexists, logs), key=lambda log: log.lstat().st_mtime_ns, default=None)
    except (OSError, Damaged):  # it has just gone
        return None


def _end(log: Path | None) -> str:
    """A log's last lines, as plain text."""
    try:
        text = unstyle(inside.tail(log, TAIL * ROOM).decode(errors="replace")) if log is not None else ""
    except OSError as error:
        return f"(its log can't be read: {error.strerror})"
    except Damaged as error:
        return f"(its log {error.why})"
    text = plain(text, lines=True)
    return "\n".join(line[:LINE] for line in text.rstrip().splitlines()[-TAIL:])
