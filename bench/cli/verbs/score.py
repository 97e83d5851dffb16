"""`bench score`: samples that were made outside."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.cli.options import Names
from bench.cli.verbs.common import data_root as _root
from bench.cli.verbs.common import print_rows

_path = click.Path(path_type=Path)


@click.command(
    epilog="""\b
Examples:
  bench score samples.npz --dataset fashion --name mine
  bench score ./pngs --dataset mnist --bounds elbo.csv --likelihood bernoulli
  bench table results/mine results/fashion"""
)
@click.argument("samples", type=_path)
@click.option("--dataset", required=True, help="What the samples are meant to look like.")
@click.option("--name", help="What the row is called.  [default: as the file]")
@click.option("--bounds", type=_path, metavar="FILE", help="elbo, or log_likelihood and rate, of each test image.")
@click.option("--likelihood", help="What the bounds are of, such as bernoulli.")
@click.option("--fid-reference", type=_path, metavar="FILE.npz", help="Statistics of pytorch-fid to compare with too.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    metavar="WHITE",
    help="The number that is white in the samples.  [default: 1 for floats, else 255]",
)
@click.option("--metrics", type=Names(), default=(), help="As for `bench run`.")
@click.option("--out", type=_path, metavar="DIR", help="A run's folder, new or not.  [default: results/NAME]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@_root
@click.option("--json", "as_json", is_flag=True, help="The row as JSON.")
def score(
    samples: Path,
    dataset: str,
    name: str | None,
    bounds: Path | None,
    likelihood: str | None,
    fid_reference: Path | None,
    scale: float | None,
    metrics: tuple[str, ...],
    out: Path | None,
    device: str,
    data_root: str | None,
    as_json: bool,
) -> None:
    """Score samples of your own model.

    SAMPLES is an .npz file with `samples`, uint8 or floats from 0 to 1 of shape (N, H, W), (N, H, W, C) or
    (N, C, H, W), or a folder of .png files. At most 10,000 are scored, as of every variant; of fewer, metrics that need
    more are n/a with the number that they need. Nothing is unpickled.
    """
    from bench import data
    from bench.plugins.unpublished import hand_over
    from bench.running.submission import namesakes, submit
    from bench.show.progress import time_expected, working

    hand_over([*data.words(dataset), *(name.lstrip("+-") for name in metrics)])

    def foretell(metric: str, seconds: float | None) -> None:
        if text := time_expected(metric, seconds):
            sys.stderr.write(f"{text}\n")  # which goes above the line of `working`, and click.echo through it

    def note(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with working() as say:
        row, run = submit(
            samples,
            dataset,
            name=name,
            bounds=bounds,
            likelihood=likelihood,
            fid_reference=fid_reference,
            scale=scale,
            metrics=metrics,
            out=out,
            device=device,
            data_root=data_root,
            say=say,
            foretell=foretell,
            note=note,
        )
    print_rows([row], as_json, str(run.path))
    counted, *others = (other.cell for other in namesakes(row, run))
    if others:
        click.echo(
            f"tables count the newest result called {row.label!r}, {counted}, and not {', '.join(others)}: "
            "another --name shows both",
            err=True,
        )
