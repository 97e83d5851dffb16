"""What several verbs share: exit codes, options, and how rows and JSON are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.row import Row

UNFINISHED, INTEGRITY, THRESHOLD, INTERRUPTED = 3, 5, 6, 130
STOPPED = "interrupted: every finished cell is on disk, and the same command does the rest"

data_root = click.option(
    "--data-root", metavar="DIR", help="Where datasets lie; else BENCH_DATA, else the user's cache."
)


def print_rows(rows: Sequence[Row], as_json: bool, folder: str = "") -> None:
    from bench import console, tables

    if as_json:
        print_json(tables.records(rows))
    else:
        console.summary(rows, folder)


def print_json(document: Any) -> None:
    import json

    from bench.text import json_text

    click.echo(json_text(json.dumps(document, indent=1, ensure_ascii=False)))


def say(text: object, *, err: bool = False) -> None:
    """Print lines that tell of files and folders, whose names may be anything."""
    from bench.text import plain

    click.echo(plain(str(text), lines=True), err=err)
