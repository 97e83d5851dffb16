"""The command `bench score`, for samples of a model that is not a plugin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import completion
from bench.cli.options import names
from bench.cli.sections import examples
from bench.cli.verbs.common import data_root as _root
from bench.cli.verbs.common import print_rows

_path = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "score samples.npz --dataset fashion --name mine",
        "score ./pngs --dataset mnist --bounds elbo.csv --likelihood bernoulli",
        "table results/mine results/fashion",
    )
)
@click.argument("samples", type=_path)
@click.option("--dataset", required=True, help="Dataset whose test images the samples are compared with.")
@click.option("--name", help="Label of the row.  [default: the name of the file]")
@click.option(
    "--bounds", type=_path, metavar="FILE", help="File with the elbo, or log_likelihood and rate, of each test image."
)
@click.option("--likelihood", help="Pixel likelihood that the bounds were computed with, for example bernoulli.")
@click.option("--fid-reference", type=_path, metavar="FILE.npz", help="Statistics of pytorch-fid for a further FID.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    metavar="WHITE",
    help="Pixel value that means white.  [default: 1 for floats, else 255]",
)
@names("--metrics", completion.metrics, "Comma-separated metrics, as for `bench run`.")
@click.option("--out", type=_path, metavar="DIR", help="Folder of a new or existing run.  [default: results/NAME]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@_root
@click.option("--json", "as_json", is_flag=True, help="Print the row as JSON.")
def score(samples: Path, dataset: str, metrics: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """Score samples of your own model.

    SAMPLES is an .npz file with an array `samples` of shape (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats
    from 0 to 1; or a folder of .png files. 10,000 samples are scored, the number drawn from every variant; if there are
    fewer, metrics that need more are n/a and name the number. Nothing is unpickled.
    """
    from bench import data
    from bench.plugins.unpublished import hand_over
    from bench.running.submission import Feedback, Submission, namesakes, submit
    from bench.show.progress import time_expected, working

    hand_over([*data.words(dataset), *(name.lstrip("+-") for name in metrics)])

    def foretell(metric: str, seconds: float | None) -> None:
        if text := time_expected(metric, seconds):
            sys.stderr.write(f"{text}\n")  # which goes above the line of `working`, and click.echo through it

    def note(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with working() as say:
        submission = Submission(samples, dataset, metrics=metrics, **settings)
        row, run = submit(submission, Feedback(say, foretell, note))
    print_rows([row], as_json, str(run.path))
    newest, *others = (other.cell for other in namesakes(row, run))
    if others:
        click.echo(
            f"this run has several results with the label {row.label!r}: tables show the newest, {newest}, and not "
            f"{', '.join(others)}. Use another --name to show both.",
            err=True,
        )
