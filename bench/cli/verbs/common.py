"""Exit codes, options and printing that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bench.contracts.row import Row

_Function = TypeVar("_Function", bound=Callable[..., Any])
UNFINISHED, INTEGRITY, THRESHOLD, INTERRUPTED = 3, 5, 6, 130
STOPPED = "interrupted: all finished cells are saved, and the same command does the rest"

data_root = click.option(
    "--data-root", metavar="DIR", help="Folder of the datasets.  [default: $BENCH_DATA, else the user's cache]"
)


def _take(_: click.Context, __: click.Parameter, addresses: tuple[str, ...]) -> tuple[str, ...]:
    from bench.plugins import unpublished
    from bench.util.errors import UsageError

    for address in addresses:
        if unpublished.take(address) is None:
            raise UsageError(f"--plugin {address} names no file", fix="For example: --plugin ./mine.py:Mine")
    return addresses


def plugins(*, passed_on: bool = False) -> Callable[[_Function], _Function]:
    """Return the option --plugin, which allows code from files to run: a results folder alone never can.

    Args:
        passed_on: whether the command has a parameter `plugins` for the addresses; they are allowed to run either way.
    """
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        expose_value=passed_on,
        callback=_take,
        metavar="FILE.py:NAME",
        help="A plugin that the cells were made with and that is not installed. Its code runs only if named here.",
    )


def print_rows(rows: Sequence[Row], as_json: bool, folder: str = "") -> None:
    from bench.show import console
    from bench.tables import frames

    if as_json:
        print_json(frames.records(rows))
    else:
        console.summary(rows, [folder] if folder else ())


def refuse_damaged(rows: Iterable[Row]) -> None:
    """Raise an error that names the files of unreadable rows.

    Raises:
        StoreError: some of the rows are damaged.
    """
    from bench.util.errors import StoreError

    reasons = [row.reason for row in rows if row.status == "damaged"]
    if reasons:
        more = [f"and {len(reasons) - 5} more"] if len(reasons) > 5 else []
        raise StoreError(
            f"{len(reasons)} row{' is' if len(reasons) == 1 else 's are'} damaged",
            cause="\n".join([*reasons[:5], *more]),
            fix="Run the same `bench run` again: it moves these files to damaged/ and computes their cells anew.",
        )


def print_json(document: Any) -> None:
    import json

    from bench.util.text import json_text

    click.echo(json_text(json.dumps(document, indent=1, ensure_ascii=False)))


def say(text: object, *, err: bool = False) -> None:
    """Print lines that may hold names of files and folders, without control characters."""
    from bench.util.text import plain

    click.echo(plain(str(text), lines=True), err=err)
