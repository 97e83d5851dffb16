"""Cells without a result: the reason, and the end of their log."""

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

APART = ("unreadable", "unfinished", "missing")  #: statuses of cells without a row
TAIL = 20  #: lines of a log that are shown
LINE = 400  #: letters of a line that are shown
ROOM = 16_384  #: bytes that are read for each line, which may have terminal colours


@dataclass(frozen=True)
class Failure:
    """A cell without a result, or cells of one label that never began."""

    label: str
    dataset: str
    seed: str
    status: str
    reason: str
    log: str = ""
    cells: int = 1


def gathered(run: Run) -> tuple[list[Row], list[Failure]]:
    """Return the rows of a run, and a failure for each cell whose row is missing or can't be read."""
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
            why, log = "still training, or interrupted: it has no result", _end(_newest(run.work(name)))
            failures.append(Failure(name, "", "", "unfinished", why, log))
        else:
            rows.append(row)
    return in_order(rows, run.request()), failures


def failures(run: Run, rows: Iterable[Row]) -> list[Failure]:
    """Return a failure for each row that isn't ok, or whose two attempts differ."""
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
    """Return a failure for each label of the request with cells that have neither a row nor a folder.

    Variants that aren't installed are left out, and so are variants in files.
    """
    request = run.request()
    there = {(row.label, row.dataset, row.seed) for row in rows}
    folders = [failure.label for failure in broken] + [row.cell for row in rows if row.dataset == UNKNOWN]
    begun = {name.rpartition("-")[0] for name in folders}
    absent = []
    for dataset in map(called, request.datasets or (default("dataset") or "",)):
        for config in _installed(request):
            seeds = [
                seed
                for seed in (request.seeds[:1] if config.sanity else request.seeds)
                if (config.label, dataset, seed) not in there
                and slug(f"{config.label}-{dataset}-s{seed}", "").rpartition("-")[0] not in begun
            ]
            if seeds:
                why, numbers = "requested, but not begun", ", ".join(map(str, seeds))
                absent.append(Failure(config.label, dataset, numbers, "missing", why, cells=len(seeds)))
    return absent


def _installed(request: RunRequest) -> list[Config]:
    """Return the variants of a request that are installed."""
    known = tuple(text for text in request.variants if text.partition("[")[0].strip() in VARIANTS)
    if request.variants and not known:
        return []
    try:
        return expand(replace(request, variants=known), {})
    except BenchError:
        return []


def _tail(run: Run, cell: str) -> str:
    attempts = run.failures(cell)
    return _end(attempts[-1] / "log.txt" if attempts else None)


def _newest(work: Path) -> Path | None:
    """Return the log of the last attempt."""
    try:
        logs = [Path(entry, "log.txt") for entry in inside.entries(work) if entry.is_dir(follow_symlinks=False)]
        return max(filter(os.path.lexists, logs), key=lambda log: log.lstat().st_mtime_ns, default=None)
    except (OSError, Damaged):  # deleted in the meantime
        return None


def _end(log: Path | None) -> str:
    """Return the last lines of a log as plain text."""
    try:
        text = unstyle(inside.tail(log, TAIL * ROOM).decode(errors="replace")) if log is not None else ""
    except OSError as error:
        return f"(its log can't be read: {error.strerror})"
    except Damaged as error:
        return f"(its log {error.why})"
    text = plain(text, lines=True)
    return "\n".join(line[:LINE] for line in text.rstrip().splitlines()[-TAIL:])
