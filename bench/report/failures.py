"""Cells without a result: why, and the end of what they said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.errors import StoreError
from bench.row import Row
from bench.store import Run, in_order

TAIL = 20  #: lines of a log that are shown
LINE = 400  #: letters of each


@dataclass(frozen=True)
class Failure:
    """A cell that didn't finish, or whose files are damaged."""

    label: str
    dataset: str
    seed: str
    status: str
    reason: str
    log: str


def gathered(run: Run) -> tuple[list[Row], list[Failure]]:
    """The rows of a run that can be read, and what has no row."""
    rows, failures = [], []
    for name in run.names():
        try:
            row = run.row(name)
        except StoreError as error:
            failures.append(Failure(name, "", "", "damaged", f"its row can't be read. {error.cause}".strip(), ""))
            continue
        if row is None:
            failures.append(Failure(name, "", "", "unfinished", "at work still, or broken off: it has no result", ""))
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


def _tail(run: Run, cell: str) -> str:
    found = run.failures(cell)
    try:
        text = (found[-1] / "log.txt").read_text(encoding="utf-8", errors="replace") if found else ""
    except OSError as error:
        return f"(its log can't be read: {error.strerror})"
    return "\n".join(line[:LINE] for line in text.rstrip().splitlines()[-TAIL:])
