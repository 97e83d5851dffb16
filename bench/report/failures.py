"""Cells without a result: why, and the end of what they said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from click import unstyle

from bench.errors import BenchError, StoreError
from bench.grid import Config, expand, slug
from bench.naming import called
from bench.protocol import RunRequest
from bench.registry import default
from bench.row import Row
from bench.store import Run, in_order
from bench.variant import VARIANTS

APART = ("damaged", "unfinished", "missing")  #: what isn't a row's status: there is no row
TAIL = 20  #: lines of a log that are shown
LINE = 400  #: letters of each


@dataclass(frozen=True)
class Failure:
    """A cell that didn't finish, or whose files are damaged; or cells of a label that never began."""

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
        if not (run.cells / name).is_dir():
            continue
        try:
            row = run.row(name)
        except StoreError as error:
            failures.append(Failure(name, "", "", "damaged", f"its row can't be read. {error.cause}".strip()))
            continue
        except (KeyError, TypeError, ValueError, AttributeError):  # JSON, and no row
            failures.append(Failure(name, "", "", "damaged", "its row can't be read. It isn't what was written"))
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
            "" if row.conflict else _tail(run, row.cell),
        )
        for row in rows
        if row.status != "ok" or row.conflict
    ]


def missing(run: Run, rows: Iterable[Row], broken: Sequence[Failure]) -> list[Failure]:
    """What the run was asked for and has neither a row nor a folder of, by label: it was broken off, or is a part.

    Variants that aren't installed are left out, and so is what only a file's code could tell.
    """
    request = run.request()
    there = {(row.label, row.dataset, row.seed) for row in rows}
    begun = {failure.label.rpartition("-")[0] for failure in broken}
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
    """The variants of a request. A results folder never names code to be run: addresses of files are passed over."""
    known = tuple(t for t in request.variants if ".py:" not in t and _name(t) in VARIANTS)
    if any(".py:" in text for text in (*request.set, request.backbone or "")) or (request.variants and not known):
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
        return max(work.glob("*/log.txt"), key=lambda log: log.stat().st_mtime_ns, default=None)
    except OSError:  # it has just gone
        return None


def _end(log: Path | None) -> str:
    """A log's last lines, as plain text."""
    try:
        text = unstyle(log.read_text(encoding="utf-8", errors="replace")) if log is not None else ""
    except OSError as error:
        return f"(its log can't be read: {error.strerror})"
    return "\n".join(line[:LINE] for line in text.rstrip().splitlines()[-TAIL:])
