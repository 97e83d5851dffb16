"""The command `bench report`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import completion
from bench.cli.options import names
from bench.cli.sections import examples
from bench.cli.verbs.common import data_root as _root
from bench.cli.verbs.common import plugins as _plugins


@click.command(
    epilog=examples(
        "report results/monday",
        "report results/monday results/tuesday --out both.html",
        "report results/monday --metrics elbo,fd,sharpness",
    )
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Output file.  [default: report.html in the folder of a single run]",
)
@names("--metrics", completion.metrics, "Comma-separated columns of the first table; a second table has all columns.")
@_plugins(passed_on=True)
@_root
def report(
    runs: tuple[str, ...],
    out: Path | None,
    metrics: tuple[str, ...],
    plugins: tuple[str, ...],
    data_root: str | None,
) -> None:
    """Write one HTML file with the tables and pictures of one or more runs.

    The file needs no server and no network. Pictures show the first seed of each label. If a dataset or the code of a
    variant is missing, the report leaves out the parts that need it, and says so.
    """
    from bench.results.locate import opened
    from bench.show.progress import working
    from bench.show.report.page import REPORT, write
    from bench.util.errors import UsageError

    stores = [opened(path) for path in runs]
    if out is None and len(stores) > 1:
        raise UsageError("the report of several runs has no default file", fix="Name one: --out report.html.")
    path = out or stores[0].path / REPORT
    with working() as say:
        write(stores, path, metrics=metrics, data_root=data_root, plugins=plugins, say=say)
    click.echo(path)
