"""The command `bench pareto`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import completion
from bench.cli.sections import examples
from bench.cli.verbs.common import print_json, refuse_damaged, say


@click.command(
    epilog=examples(
        "pareto results/monday",
        "pareto results/a results/b --out both.svg",
        "pareto results/reference/mnist/table.json",
    )
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Output file of the figure.  [default: in the folder of a single run]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the points as JSON to stdout, and nothing else there.")
def pareto(runs: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Show and draw the labels on the rate-distortion frontier.

    A label is dominated if another label has no more rate, no more distortion, and less of one of them: means over
    seeds on the scored images, with -ELBO = distortion + rate at beta = 1. Labels are compared only within the same
    data, likelihood and protocol, and apart from variants that use class labels.

    RUN is the folder of a run, or a file that `bench table --json` wrote.
    """
    from bench.contracts.naming import alike
    from bench.results.locate import opened
    from bench.show import console
    from bench.tables import frames
    from bench.tables.ratedistortion import FIGURE, planes, table, write
    from bench.util.errors import UsageError

    if out and any(out.resolve() == Path(path).resolve() for path in runs):
        raise UsageError(f"--out {out} would replace an input file", fix="Choose another file: --out both.svg")
    stores = [None if Path(path).is_file() else opened(path) for path in runs]
    rows = [frames.read(Path(path)) if run is None else run.rows() for path, run in zip(runs, stores, strict=True)]
    drawable, without = planes(zip(stores, alike(*rows), strict=True))
    if as_json:
        print_json({"planes": [plane.to_json() for plane in drawable], "without": without})
    else:
        for part in table(drawable, without):
            console.out().print(part, soft_wrap=isinstance(part, str))
    only = stores[0] if len(stores) == 1 else None
    path = out or (only.path / FIGURE if only else None)
    if path is not None:
        drawn = write(path, drawable, without)
        say(f"figure in {path}" if drawn else "no figure: no two labels with a bound are comparable", err=True)
    refuse_damaged(row for of_run in rows for row in of_run)
