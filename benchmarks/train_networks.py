"""Train the feature networks that are shipped with the package, and write them where it finds them.

    python benchmarks/train_networks.py digits mnist
    python benchmarks/train_networks.py fashion --steps 4000

One whose `fd` doesn't rise with the blur and the noise of real images isn't written. Data is looked for in BENCH_DATA.
A network's bytes are the same again on the same machine with the same torch and number of threads; elsewhere rounding
differs, and with it the hash in the name.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from feature_networks import distances, disturbances, not_rising

from bench.contracts.dataset import DATASETS
from bench.metrics.classifier import STEPS, accuracy, halves, train
from bench.metrics.networks import save
from bench.metrics.shelf import SHIPPED

KINDS = ("blur", "noise")  #: of disturbances that every network must see


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--out", default=SHIPPED, type=click.Path(path_type=Path), show_default=True)
def main(names: tuple[str, ...], steps: int, out: Path) -> None:
    """Train a network for each dataset in NAMES."""
    for name in names:
        splits = DATASETS.load(name)().load(Path(os.environ.get("BENCH_DATA", ".")))
        network = train(splits.train, steps=steps)
        right = accuracy(network, splits.test)
        real = splits.train.subset(halves(len(splits.train))[1][:3_000])
        wrong = not_rising(distances(network, disturbances(real, KINDS), splits.test), KINDS)
        if wrong:
            raise click.ClickException(f"{name}: fd doesn't rise with {' and '.join(wrong)}: not written")
        path = save(network, out, splits.train, right)
        click.echo(f"{name}: {right:.2%} of test images right, {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
