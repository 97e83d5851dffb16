"""Looking at results: `bench table`, `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.verbs.common import print_json, print_rows

if TYPE_CHECKING:
    from bench.row import Row


def _rows(paths: Sequence[str]) -> list[Row]:
    from bench.store import Run

    return [row for path in paths for row in Run(Path(path)).rows()]


@click.command(epilog="\b\nExamples:\n  bench table results/monday\n  bench table results/a results/b --format latex")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex"]), help="Text for other programs.")
@click.option("--json", "as_json", is_flag=True, help="The rows as one JSON array.")
def table(runs: tuple[str, ...], form: Any, as_json: bool) -> None:
    """Show the table of one run or several, over seeds."""
    rows = _rows(runs)
    if form is None:
        print_rows(rows, as_json)
    else:
        from bench.render import render

        click.echo(render(rows, form), nl=False)


@click.command(epilog="\b\nExamples:\n  bench compare results/monday results/tuesday")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Show what differs from run A to run B, and in which direction.

    Rows are paired by label, dataset and seed. Rows made under different conditions are refused.
    """
    from bench import console
    from bench.compare import compare as pair

    found = pair(_rows([a]), _rows([b]))
    print_json(found.to_json()) if as_json else console.comparison(found)
