"""The commands `bench data fetch`, `status` and `clear`."""

from __future__ import annotations

import click

from bench.cli import completion
from bench.cli.sections import examples
from bench.cli.verbs.common import data_root as _root


@click.group(epilog=examples("data status", "data fetch mnist fashion", "data clear --dry-run"))
def data() -> None:
    """Download datasets, and show which ones are on this machine."""


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completion.datasets)
@_root
def fetch(names: tuple[str, ...], data_root: str | None) -> None:
    """Download the missing files of datasets, and check their size and sha256."""
    from bench import data as datasets
    from bench.show.progress import downloads

    _hand_over(names)
    root = datasets.data_root(data_root)
    wanted = [(name, datasets.parse(name)) for name in names]
    for name, dataset in wanted:
        with downloads() as on_progress:
            files = datasets.fetch(dataset, root, on_progress)
        click.echo(f"{name}: {f'{len(files)} files downloaded to' if files else 'complete, in'} {root}")


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=completion.datasets)
@_root
def status(names: tuple[str, ...], data_root: str | None) -> None:
    """Show which datasets are complete on this machine."""
    from bench import data as datasets
    from bench.show import console

    _hand_over(names)
    console.print_data(names, datasets.data_root(data_root))


def _hand_over(names: tuple[str, ...]) -> None:
    from bench import data as datasets
    from bench.plugins import unpublished

    for name in names:
        unpublished.hand_over(datasets.words(name))


@data.command()
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def clear(dry_run: bool) -> None:
    """Remove the cached copies of large image folders.

    The images of a large folder are decoded once into the user's cache (or BENCH_CACHE); a run that needs a removed
    copy makes it again. A copy that a process is making is not removed.
    """
    from bench import data as datasets
    from bench.results.garbage import bytes_in_words

    total = 0
    for copy in datasets.copies():
        click.echo(f"{copy.path}  {bytes_in_words(copy.size)}  {'being made' if copy.busy else copy.of}")
        if not copy.busy:
            total += copy.size
            if not dry_run:
                datasets.clear(copy)
    click.echo(f"{bytes_in_words(total)} {'would be removed' if dry_run else 'removed'}")
