"""The commands `bench list`, `info`, `check` and `new`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.cli import completion
from bench.cli.options import names
from bench.cli.sections import examples
from bench.cli.verbs.common import INTEGRITY, plugins, print_json


@click.command("list", epilog=examples("list", "list --check", "list --json"))
@click.option("--check", is_flag=True, help="Import each plugin, in a process of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(check: bool, as_json: bool) -> int:
    """Show the installed variants, datasets, metrics and other plugins.

    Without --check, nothing is imported. With --check, the exit code is 2 if a plugin can't be used.
    """
    from bench.cli import catalogue
    from bench.show import console

    plugins = catalogue.checked() if check else catalogue.listed()
    print_json([asdict(one) for one in plugins]) if as_json else catalogue.print_list(plugins, console.out())
    return 2 if check and any(one.problem for one in plugins) else 0


@click.command(epilog=examples("info vqvae", "info fashion", "info fd"))
@click.argument("name", shell_complete=completion.plugins)
def info(name: str) -> None:
    """Show all about a plugin: what it is, and its hyperparameters or options.

    NAME is an installed plugin, or one in a file: ./mine.py:MyVAE.
    """
    from bench.cli import catalogue
    from bench.show import console

    catalogue.print_info(name, console.out())


@click.command(
    epilog=examples(
        "check beta",
        "check ./mine.py:MyVAE --set gamma=10",
        "check fashion",
        "check folder:./my-images --only splits_are_disjoint",
    )
)
@click.argument("name", shell_complete=completion.plugins)
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a hyperparameter of a variant or an option of a dataset. Repeatable.",
)
@names("--only", None, "Comma-separated checks to run.  [default: all]")
@plugins()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(name: str, given: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> int:
    """Check that a variant, dataset or metric keeps its contract.

    The exit code is 5 if a check fails.

    NAME is an installed plugin, or one in a file: ./mine.py:MyVAE.
    """
    from bench.cli import conformance

    reports = conformance.run(name, given, only, quiet=as_json)
    if as_json:
        print_json([report.to_json() for report in reports])
    return 0 if all(report.ok for report in reports) else INTEGRITY


@click.command(epilog=examples("new variant free-bits", "new metric my-metric --out ../my-metric"))
@click.argument("kind", type=click.Choice(["variant", "dataset", "metric"]))
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the package.  [default: ./vaebench-NAME]")
def new(kind: Any, name: str, out: Path | None) -> None:
    """Write a package for a plugin of your own.

    The package works and passes `bench check`: replace its formulas by yours.
    """
    from bench.cli import scaffold

    home = scaffold.new(kind, name, out)
    click.echo(f"{home}: a {kind} that works. Next:\n")
    click.echo(f"  pip install -e '{home}[test]'\n  bench check {name}\n  pytest {home}")
