"""Train the judges that are shipped with the package, and write them where it finds them.

    python benchmarks/train_judges.py digits mnist fashion

Data is looked for in BENCH_DATA. A judge's bytes are the same again on the same machine with the same torch
and number of threads; elsewhere rounding differs, and with it the hash in the name.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.contracts.dataset import DATASETS
from bench.metrics.judge import right, save, trained_on
from bench.metrics.shelf import SHIPPED


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--out", default=SHIPPED, type=click.Path(path_type=Path), show_default=True)
def main(names: tuple[str, ...], out: Path) -> None:
    """Train a judge for each dataset in NAMES."""
    for name in names:
        splits = DATASETS.load(name)().load(Path(os.environ.get("BENCH_DATA", ".")))
        trained = trained_on(splits.train)
        path = save(trained, out, splits.train)
        share = right(trained.network, splits.test).double().mean().item()
        click.echo(
            f"{name}: {trained.accuracy:.2%} of unseen training images and {share:.2%} of test images right, "
            f"{path} ({path.stat().st_size:,} bytes)"
        )


if __name__ == "__main__":
    main()
