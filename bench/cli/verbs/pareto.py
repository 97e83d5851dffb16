"""`bench pareto`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import completion
from bench.cli.verbs.common import print_json, refuse_damaged, say


@click.command(
    epilog="""\b
Examples:
  bench pareto results/monday
  bench pareto results/a results/b --out both.svg
  bench pareto results/reference/mnist/table.json"""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Where the figure goes.  [default: of a single run, its own folder]",
)
@click.option("--json", "as_json", is_flag=True, help="The points as JSON, and nothing else on stdout.")
def pareto(runs: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Show which labels trade rate for distortion best, and draw them.

    A label is dominated if another has no more rate, no more distortion, and less of one: means over seeds, on the
    images that the run was asked to score. -ELBO = D + R, whatever was trained. Labels on different data, likelihoods
    or protocols, and those that use labels, aren't held against each other. RUN may also be a file that
    `bench table --json` made.
    """
    from bench.contracts.naming import alike
    from bench.results.locate import opened
    from bench.show import console
    from bench.tables import frames
    from bench.tables.ratedistortion import FIGURE, planes, table, write
    from bench.util.errors import UsageError

    if out and any(out.resolve() == Path(path).resolve() for path in runs):
        raise UsageError(f"{out} is what is to be read", fix="Give the figure a name of its own: --out both.svg")
    stores = [None if Path(path).is_file() else opened(path) for path in runs]
    rows = [frames.read(Path(path)) if run is None else run.rows() for path, run in zip(runs, stores, strict=True)]
    found, without = planes(zip(stores, alike(*rows), strict=True))
    if as_json:
        print_json({"planes": [plane.to_json() for plane in found], "without": without})
    else:
        for shown in table(found, without):
            console.out().print(shown, soft_wrap=isinstance(shown, str))
    only = stores[0] if len(stores) == 1 else None
    path = out or (only.path / FIGURE if only else None)
    if path is not None:
        drawn = write(path, found, without)
        told = f"figure in {path}" if drawn else "no figure: no two labels with a bound can stand in one plane"
        say(told, err=True)
    refuse_damaged(row for of_run in rows for row in of_run)
