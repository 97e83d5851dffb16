"""The commands `bench table` and `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import completion
from bench.cli.options import names
from bench.cli.sections import examples
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
    tables = alike(*(frames.read(path) if path.is_file() else Run(path).rows() for path in files))
    return [row for rows in tables for row in rows]


_metrics = names(
    "--metrics",
    completion.metrics,
    "Comma-separated columns. +NAME and -NAME add to or remove from the default columns: --metrics=+kl,-fd.",
)
_all = click.option("--all", "every", is_flag=True, help="Show all columns.  [default: the most important ones]")


@click.command(
    epilog=examples(
        "table results/monday",
        "table results/monday --columns elbo,fd,blur --sort fd",
        "table results/monday --costs",
        "table results/grid --select val:elbo",
        "table results/monday --with published",
        "table results/a results/b --format latex",
        "table results/monday --json > monday.json",
    )
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@names(
    "--columns",
    completion.metrics,
    "Comma-separated columns, in this order. +NAME and -NAME add to or remove from the default columns.  "
    "[default: $BENCH_COLUMNS]",
    "--metrics",
    "columns",
    envvar="BENCH_COLUMNS",
)
@click.option("--all", "every", is_flag=True, help="Show all columns, in as many tables as needed.")
@click.option("--notes", is_flag=True, help="Show all notes: caveats of scores, and why scores are missing.")
@click.option("--sort", metavar="COLUMN", default="", help="Sort the variants of each block by COLUMN, the best first.")
@click.option(
    "--select",
    metavar="val:METRIC",
    help="Choose each variant's setting with the best METRIC on validation images; score it on the test split.",
)
@click.option("--costs", is_flag=True, help="Show the seconds of training and of each metric instead.")
@click.option("--methods", is_flag=True, help="Print a methods paragraph for a paper instead.")
@click.option("--with", "beside", type=click.Choice(["published"]), help="Add a table of values from papers.")
@plugins()
@click.option(
    "--format", "form", type=click.Choice(["md", "csv", "latex"]), help="Print the table as text for other programs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as one JSON array.")
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
    """Show the scores of one or more runs: means over seeds.

    RUN is the folder of a run, or a file that `bench table --json` wrote.

    By default the table has a few columns that matter most; the files in the run's folder have all.
    """
    if beside is not None and (as_json or form not in (None, "md")):
        refused = "--json" if as_json else f"--format {form}"
        raise UsageError(
            f"--with published can't be combined with {refused}", fix=f"Leave out {refused}, or use --format md."
        )
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
            f"--costs can't be printed as {form}",
            fix="Use --format md or --json, or read costs.csv in the run's folder.",
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
        click.echo("no published values for these datasets", err=True)


@click.command(
    epilog=examples(
        "compare results/monday results/tuesday",
        "compare results/monday --between vae,beta",
        "compare results/monday results/tuesday --fail-if 'elbo<-0.5' --fail-if 'fd>5%'",
    )
)
@click.argument("a", metavar="A", shell_complete=completion.runs)
@click.argument("b", metavar="[B]", required=False, shell_complete=completion.runs)
@names("--between", completion.labels, "Compare two labels of run A, instead of run B.", metavar="LABEL,LABEL")
@_metrics
@_all
@click.option(
    "--fail-if",
    multiple=True,
    metavar="[LABEL:]METRIC<VALUE",
    help="Exit with code 6 if b - a is below (<) or above (>) VALUE, a number or a percentage of a. Repeatable.",
)
@plugins()
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def compare(
    a: str,
    b: str | None,
    between: tuple[str, ...],
    metrics: tuple[str, ...],
    every: bool,
    fail_if: tuple[str, ...],
    as_json: bool,
) -> int:
    """Test the differences between two runs, or between two labels of one run.

    Rows are paired by label, dataset and seed. Rows with different training or scoring protocols are not compared.

    A and B are folders of runs, or files that `bench table --json` wrote.
    """
    from bench.show import console
    from bench.tables import compare as comparing
    from bench.tables.threshold import Threshold

    if (b is None) == (not between) or len(between) not in (0, 2):
        raise UsageError(
            "bench compare needs two runs, or one run and two of its labels",
            fix="For example: bench compare A B, or bench compare A --between vae,beta.",
        )
    thresholds = [Threshold.parse(text, differences=True) for text in fail_if]
    shown = ("all",) if every or (as_json and not metrics) else metrics
    rows, others = _rows([a]), [] if b is None else _rows([b])
    if between:
        comparison = comparing.between(rows, between[0], between[1], _evidence(a), shown)
    else:
        evidence = _evidence(a), _evidence(b or "")
        comparison = comparing.compare(rows, others, evidence, (a, b or ""), shown)
    print_json(comparison.to_json()) if as_json else console.comparison(comparison)
    crossed = dict.fromkeys(line for threshold in thresholds for line in threshold.crossed_by(comparison))
    for line in crossed:
        say(line, err=True)
    if not crossed:
        refuse_damaged([*rows, *others])
    return THRESHOLD if crossed else 0


def _evidence(path: str) -> Any:
    from bench.results.store import Run

    run = Run(Path(path))
    return lambda row: run.evidence(row.cell)
