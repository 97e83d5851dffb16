"""Exit codes, options and printing that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bench.contracts.row import Row

_Function = TypeVar("_Function", bound=Callable[..., Any])
UNFINISHED, INTEGRITY, THRESHOLD, INTERRUPTED = 3, 5, 6, 130
STOPPED = "interrupted: every finished cell is on disk, and the same command does the rest"

data_root = click.option(
    "--data-root", metavar="DIR", help="Where datasets lie; else BENCH_DATA, else the user's cache."
)


def _take(_: click.Context, __: click.Parameter, addresses: tuple[str, ...]) -> tuple[str, ...]:
    from bench.plugins import unpublished
    from bench.util.errors import UsageError

    for address in addresses:
        if unpublished.take(address) is None:
            raise UsageError(f"--plugin {address} is no file's", fix="For example: --plugin ./mine.py:Mine")
    return addresses


def plugins(*, passed_on: bool = False) -> Callable[[_Function], _Function]:
    """Return the option that hands code over to a verb that reads results, which never name code to be run.

    Args:
        passed_on: whether the verb has a parameter `plugins` of the addresses. They are handed over anyway.
    """
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        expose_value=passed_on,
        callback=_take,
        metavar="FILE.py:NAME",
        help="Code that cells were made with and that isn't installed: results never name code to be run.",
    )


def print_rows(rows: Sequence[Row], as_json: bool, folder: str = "") -> None:
    from bench.show import console
    from bench.tables import frames

    if as_json:
        print_json(frames.records(rows))
    else:
        console.summary(rows, [folder] if folder else ())


def refuse_damaged(rows: Iterable[Row]) -> None:
    """Name the files that some of the rows shown couldn't be read from.

    Raises:
        Damaged: there are such rows.
    """
    from bench.util.errors import StoreError

    lines = [row.reason for row in rows if row.status == "damaged"]
    if lines:
        more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
        raise StoreError(
            f"{len(lines)} row{' is' if len(lines) == 1 else 's are'} damaged",
            cause="\n".join([*lines[:5], *more]),
            fix="The same `bench run` puts these files aside, and makes anew what was in them.",
        )


def print_json(document: Any) -> None:
    import json

    from bench.util.text import json_text

    click.echo(json_text(json.dumps(document, indent=1, ensure_ascii=False)))


def say(text: object, *, err: bool = False) -> None:
    """Print lines that tell of files and folders, whose names may be anything."""
    from bench.util.text import plain

    click.echo(plain(str(text), lines=True), err=err)
