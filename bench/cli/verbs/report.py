"""`bench report`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import completion
from bench.cli.options import Names
from bench.cli.verbs.common import data_root as _root
from bench.cli.verbs.common import plugins as _plugins


@click.command(
    epilog="""\b
Examples:
  bench report results/monday
  bench report results/monday results/tuesday --out both.html
  bench report results/monday --metrics elbo,fd,sharpness"""
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Where the report goes.  [default: of a single run, report.html in its own folder]",
)
@click.option(
    "--metrics",
    type=Names(),
    default=(),
    help="The first table's columns; another one has all of them.",
    shell_complete=completion.metrics,
)
@_plugins(passed_on=True)
@_root
def report(
    runs: tuple[str, ...],
    out: Path | None,
    metrics: tuple[str, ...],
    plugins: tuple[str, ...],
    data_root: str | None,
) -> None:
    """Write one HTML file with the tables and the pictures of runs.

    It needs no server and no network, and loads nothing from anywhere. Pictures show the first seed of each label.
    Without the dataset, or without a variant's code, what needs them is missing, and the report says so.
    """
    from bench.results.locate import opened
    from bench.show.progress import working
    from bench.show.report.page import REPORT, write
    from bench.util.errors import UsageError

    stores = [opened(path) for path in runs]
    if out is None and len(stores) > 1:
        raise UsageError("the report of several runs needs a place", fix="For example --out report.html.")
    path = out or stores[0].path / REPORT
    with working() as say:
        write(stores, path, metrics=metrics, data_root=data_root, plugins=plugins, say=say)
    click.echo(path)
