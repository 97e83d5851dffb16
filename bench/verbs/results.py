"""Looking at results: `bench table`, `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.options import Names
from bench.verbs.common import THRESHOLD, print_json, print_rows

if TYPE_CHECKING:
    from bench.row import Row


def _rows(paths: Sequence[str]) -> list[Row]:
    from bench.store import Run

    return [row for path in paths for row in Run(Path(path)).rows()]


_metrics = click.option(
    "--metrics", type=Names(), default=(), help="Those columns; or more or fewer than usual: --metrics=+kl,-fd."
)
_all = click.option("--all", "every", is_flag=True, help="All columns. By default the most important of many.")


@click.command(
    epilog="""\b
Examples:
  bench table results/monday
  bench table results/monday --metrics elbo,fd,sharpness
  bench table results/a results/b --format latex"""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@_metrics
@_all
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex"]), help="Text for other programs.")
@click.option("--json", "as_json", is_flag=True, help="The rows as one JSON array.")
def table(runs: tuple[str, ...], metrics: tuple[str, ...], every: bool, form: Any, as_json: bool) -> None:
    """Show the table of one run or several, over seeds.

    Where there are many columns, a screen shows the family of the headline metric and one merit of each other family;
    files have all.
    """
    rows = _rows(runs)
    if as_json:
        print_rows(rows, as_json)
    elif form is None:
        from bench import console

        console.summary(rows, metrics=("all",) if every else metrics)
    else:
        from bench.render import render

        click.echo(render(rows, form, None if every else metrics or None), nl=False)


@click.command(
    epilog="""\b
Examples:
  bench compare results/monday results/tuesday
  bench compare results/monday --between vae,beta
  bench compare results/monday results/tuesday --fail-if 'elbo<-0.5nat' --fail-if 'fd>5%'"""
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--between", type=Names(), metavar="LABEL,LABEL", help="Two labels of the one run A, instead of B.")
@_metrics
@_all
@click.option(
    "--fail-if",
    multiple=True,
    metavar="[LABEL:]METRIC<VALUE",
    help="Exit with 6 if b - a is so; or >. In the metric's unit, or percent where it has a zero.",
)
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def compare(
    a: str,
    b: str | None,
    between: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    every: bool,
    fail_if: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show what differs from run A to run B, whether that is real, and in which direction.

    Rows are paired by label, dataset and seed. Rows made under different conditions aren't compared.
    """
    from bench import compare as comparing
    from bench import console
    from bench.errors import UsageError
    from bench.threshold import Threshold

    if (b is None) == (between is None) or (between is not None and len(between) != 2):
        raise UsageError(
            "bench compare takes two runs, or one and two of its labels",
            fix="bench compare A B, or bench compare A --between vae,beta.",
        )
    thresholds = [Threshold.parse(text, differences=True) for text in fail_if]
    if between is not None:
        found = comparing.between(_rows([a]), between[0], between[1], _evidence(a))
    else:
        found = comparing.compare(_rows([a]), _rows([b or ""]), (_evidence(a), _evidence(b or "")), (a, b or ""))
    print_json(found.to_json()) if as_json else console.comparison(found, metrics=("all",) if every else metrics)
    crossed = [line for threshold in thresholds for line in threshold.crossed_by(found)]
    for line in crossed:
        click.echo(line, err=True)
    return THRESHOLD if crossed else 0


def _evidence(path: str) -> Any:
    from bench.store import Run

    run = Run(Path(path))
    return lambda row: run.evidence(row.cell)
