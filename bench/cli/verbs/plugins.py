"""What is installed, and what its authors need: `bench list`, `info`, `check`, `new`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.cli import completion
from bench.cli.options import Names
from bench.cli.verbs.common import INTEGRITY, plugins, print_json


@click.command("list")
@click.option("--check", is_flag=True, help="Load each, in a process of its own.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON array.")
def list_(check: bool, as_json: bool) -> int:
    """Show the installed variants, datasets and metrics.

    Also backbones, and what is known to be wrong with any of them. Nothing is imported, unless by --check; then the
    exit code is 2 if one can't be used.
    """
    from bench.cli import catalogue
    from bench.show import console

    found = catalogue.checked() if check else catalogue.listed()
    print_json([asdict(one) for one in found]) if as_json else catalogue.print_list(found, console.out())
    return 2 if check and any(one.problem for one in found) else 0


@click.command(epilog="\b\nExamples:\n  bench info vqvae\n  bench info fashion\n  bench info fd")
@click.argument("name", shell_complete=completion.plugins)
def info(name: str) -> None:
    """Show what a plugin is, and its hyperparameters."""
    from bench.cli import catalogue
    from bench.show import console

    for found in catalogue.describe(name):
        catalogue.print_description(found, console.out())


@click.command(
    epilog="""\b
Examples:
  bench check beta
  bench check ./mine.py:MyVAE --set gamma=10
  bench check fashion
  bench check folder:./my-images --only splits_are_disjoint"""
)
@click.argument("name", shell_complete=completion.plugins)
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A hyperparameter, or an option.")
@click.option("--only", type=Names(), default=(), help="Those checks alone, by commas.")
@plugins()
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def check(name: str, given: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> int:
    """Check whether a plugin keeps its contract.

    A variant, a dataset or a metric. Exits with 5 if it doesn't.

    NAME is one that is installed, or in a file: ./mine.py:MyVAE.
    """
    from bench.cli import conformance

    reports = conformance.run(name, given, only, quiet=as_json)
    if as_json:
        print_json([report.to_json() for report in reports])
    return 0 if all(report.ok for report in reports) else INTEGRITY


@click.command(epilog="\b\nExamples:\n  bench new variant free-bits\n  bench new metric my-metric --out ../my-metric")
@click.argument("kind", type=click.Choice(["variant", "dataset", "metric"]))
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="The package's folder.  [default: ./vaebench-NAME]")
def new(kind: Any, name: str, out: Path | None) -> None:
    """Write a package with a plugin of your own.

    It works as it stands, and passes `bench check`: change it into yours.
    """
    from bench.cli import scaffold

    home = scaffold.new(kind, name, out)
    click.echo(f"{home}: a {kind} that works as it stands. From here:\n")
    click.echo(f"  pip install -e '{home}[test]'\n  bench check {name}\n  pytest {home}")
