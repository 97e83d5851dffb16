"""`bench data`: datasets on this machine."""

from __future__ import annotations

import click

from bench.cli import completion
from bench.cli.verbs.common import data_root as _root


@click.group(
    epilog="\b\nExamples:\n  bench data status\n  bench data fetch mnist fashion\n  bench data clear --dry-run"
)
def data() -> None:
    """Bring datasets to this machine, or see what is there."""


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completion.datasets)
@_root
def fetch(names: tuple[str, ...], data_root: str | None) -> None:
    """Download what is missing, checked by size and sha256."""
    from bench import data as datasets
    from bench.show.progress import downloads

    _hand_over(names)
    root = datasets.data_root(data_root)
    wanted = [(name, datasets.parse(name)) for name in names]
    for name, dataset in wanted:
        with downloads() as on_progress:
            files = datasets.fetch(dataset, root, on_progress)
        click.echo(f"{name}: {f'{len(files)} files fetched into' if files else 'all there, in'} {root}")


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=completion.datasets)
@_root
def status(names: tuple[str, ...], data_root: str | None) -> None:
    """Show which datasets are there."""
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
    """Remove decoded images, which are made again when they're needed.

    A large folder of images is decoded once, and kept in the user's cache (or BENCH_CACHE). What a process is just
    making stays.
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
