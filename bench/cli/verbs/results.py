"""Looking at results: `bench table`, `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import completion
from bench.cli.options import Names
from bench.cli.verbs.common import THRESHOLD, UNFINISHED, plugins, print_json, print_rows, refuse_damaged, say
from bench.util.errors import UsageError

if TYPE_CHECKING:
    from bench.contracts.row import Row
    from bench.tables.choices import Choice


def _rows(paths: Sequence[str]) -> list[Row]:
    from bench.contracts.naming import alike
    from bench.results.store import Run
    from bench.tables import frames

    files = (Path(path) for path in paths)
    found = alike(*(frames.read(path) if path.is_file() else Run(path).rows() for path in files))
    return [row for rows in found for row in rows]


_metrics = click.option(
    "--metrics",
    type=Names(),
    default=(),
    help="Those columns; or more or fewer than usual: --metrics=+kl,-fd.",
    shell_complete=completion.metrics,
)
_all = click.option("--all", "every", is_flag=True, help="All columns. By default the most important of many.")


@click.command(
    epilog="""\b
Examples:
  bench table results/monday
  bench table results/monday --metrics elbo,fd,sharpness
  bench table results/monday --costs
  bench table results/grid --select val:elbo
  bench table results/monday --with published
  bench table results/a results/b --format latex
  bench table results/monday --json > monday.json"""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--columns",
    "--metrics",
    "columns",
    type=Names(),
    default=(),
    envvar="BENCH_COLUMNS",
    metavar="NAMES",
    help="Columns, in this order; +NAME and -NAME add to or leave out of the default ones. Also BENCH_COLUMNS.",
    shell_complete=completion.metrics,
)
@click.option("--all", "every", is_flag=True, help="All columns, in as many tables as needed.")
@click.option("--notes", is_flag=True, help="All notes: caveats of scores, and why scores are missing.")
@click.option(
    "--sort", metavar="COLUMN", default="", help="Order the variants of each block by COLUMN, the best first."
)
@click.option(
    "--select",
    metavar="val:METRIC",
    help="Of a run scored on validation images: the best setting of each variant by METRIC, scored on the test split.",
)
@click.option("--costs", is_flag=True, help="Seconds of training, and of each metric.")
@click.option("--methods", is_flag=True, help="The paragraph that a paper has to have about the table.")
@click.option("--with", "beside", type=click.Choice(["published"]), help="Published values below it, marked as such.")
@plugins()
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex"]), help="Text for other programs.")
@click.option("--json", "as_json", is_flag=True, help="The rows as one JSON array.")
def table(
    runs: tuple[str, ...],
    columns: tuple[str, ...],
    every: bool,
    notes: bool,
    sort: str,
    select: str | None,
    costs: bool,
    methods: bool,
    beside: str | None,
    form: Any,
    as_json: bool,
) -> int:
    """Show the table of one run or several, over seeds.

    RUN may also be a file that --json made: a table without its run.

    Where there are many columns, a screen shows the family of the headline metric and one merit of each other family;
    files have all.
    """
    if beside is not None and (as_json or form not in (None, "md")):
        refused = "--json" if as_json else f"--format {form}"
        raise UsageError(f"--with published isn't printed by {refused}", fix="Leave that out, or use --format md.")
    tuning: tuple[str, ...] | None = None
    choices: tuple[Choice, ...] = ()
    unfinished = False
    if select is None:
        rows = _rows(runs)
    else:
        rows, choices, unfinished = _selected(runs, select)
        tuning = tuple(line for choice in choices for line in choice.lines)
    if methods or costs:
        _print_about(rows, choices, methods, form, as_json)
    elif as_json:
        print_rows(rows, as_json)
    elif form is None:
        from bench.show import console

        console.summary(rows, runs, names=("all",) if every else columns, tuning=tuning, notes=notes, sort=sort)
    else:
        from bench.tables.render import render

        click.echo(render(rows, form, ("all",) if every else columns, tuning, notes=notes, sort=sort), nl=False)
    if beside is not None:
        _print_published(rows, form)
    refuse_damaged(rows)
    return UNFINISHED if unfinished else 0


def _selected(runs: Sequence[str], text: str) -> tuple[list[Row], tuple[Choice, ...], bool]:
    from bench.contracts.naming import alike
    from bench.results.store import Run
    from bench.running.selection import selected
    from bench.show.progress import Console

    with Console() as display:
        chosen = [selected(Run(Path(path)), text, display) for path in runs]
    rows = [row for rows in alike(*(one.rows for one in chosen)) for row in rows]
    return rows, tuple(choice for one in chosen for choice in one.choices), any(one.unfinished for one in chosen)


def _print_about(
    rows: Sequence[Row], choices: Sequence[Choice], methods: bool, form: str | None, as_json: bool
) -> None:
    from bench.show import console
    from bench.tables import costs as costing
    from bench.tables.methods import methods as paragraph

    if methods:
        text = paragraph(rows, choices)
        print_json(text) if as_json else click.echo(text)
    elif as_json:
        print_json([cost.to_json() for cost in costing.costs(rows)])
    elif form == "md":
        click.echo(costing.markdown(rows), nl=False)
    elif form is not None:
        raise UsageError(
            f"--costs isn't printed as {form}", fix="--format md, --json, or costs.csv in the run's folder."
        )
    else:
        screen = console.out()
        for part in costing.printed(rows, screen.width):
            screen.print(part)


def _print_published(rows: Sequence[Row], form: str | None) -> None:
    from bench.show import console
    from bench.tables.published import as_markdown, as_renderables, published

    entries = published(dict.fromkeys(row.dataset for row in rows))
    if form == "md":
        click.echo(as_markdown(entries), nl=False)
    else:
        for part in as_renderables(entries):
            console.out().print(part)
    if not entries:
        click.echo("no published values are known for these datasets", err=True)


@click.command(
    epilog="""\b
Examples:
  bench compare results/monday results/tuesday
  bench compare results/monday --between vae,beta
  bench compare results/monday results/tuesday --fail-if 'elbo<-0.5nat' --fail-if 'fd>5%'"""
)
@click.argument("a", metavar="A", shell_complete=completion.runs)
@click.argument("b", metavar="[B]", required=False, shell_complete=completion.runs)
@click.option(
    "--between",
    type=Names(),
    metavar="LABEL,LABEL",
    shell_complete=completion.labels,
    help="Two labels of the one run A, instead of B.",
)
@_metrics
@_all
@click.option(
    "--fail-if",
    multiple=True,
    metavar="[LABEL:]METRIC<VALUE",
    help="Exit with 6 if b - a is so; or >. In the metric's unit, or percent where it has a zero.",
)
@plugins()
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

    Rows are paired by label, dataset and seed. Rows made under different conditions aren't compared. A and B may also
    be files that `bench table --json` made.
    """
    from bench.show import console
    from bench.tables import compare as comparing
    from bench.tables.threshold import Threshold

    if (b is None) == (between is None) or (between is not None and len(between) != 2):
        raise UsageError(
            "bench compare takes two runs, or one and two of its labels",
            fix="bench compare A B, or bench compare A --between vae,beta.",
        )
    thresholds = [Threshold.parse(text, differences=True) for text in fail_if]
    shown = ("all",) if every or (as_json and not metrics) else metrics
    rows, others = _rows([a]), [] if b is None else _rows([b])
    if between is not None:
        found = comparing.between(rows, between[0], between[1], _evidence(a), shown)
    else:
        evidence = _evidence(a), _evidence(b or "")
        found = comparing.compare(rows, others, evidence, (a, b or ""), shown)
    print_json(found.to_json()) if as_json else console.comparison(found)
    crossed = dict.fromkeys(line for threshold in thresholds for line in threshold.crossed_by(found))
    for line in crossed:
        say(line, err=True)
    if not crossed:
        refuse_damaged([*rows, *others])
    return THRESHOLD if crossed else 0


def _evidence(path: str) -> Any:
    from bench.results.store import Run

    run = Run(Path(path))
    return lambda row: run.evidence(row.cell)
