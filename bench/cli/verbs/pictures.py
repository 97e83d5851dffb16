"""Commands that look at a trained model, from `bench sample` to `bench encode`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import completion
from bench.cli.options import names
from bench.cli.sections import examples
from bench.cli.verbs.common import data_root, plugins, say

if TYPE_CHECKING:
    from bench.show.views import TrainedCell

CELL = """\
CELL is the folder of a cell (the beginning of its name is enough, as in results/monday/vae-fashion-s0), the folder of a
run, or RUN:VARIANT. If several finished cells match, the first one is used."""


def _command(
    name: str,
    callback: Any,
    about: str,
    *lines: str,
    n: str,
    seed: str = "Seed that chooses the images.  [default: 0]",
    classes: str = "Show test images of these classes only; names or numbers.",
    out: str = "Image file, .png or .svg.  [default: {}-CELL.png in this folder]",
) -> click.Command:
    """Return a command for one finished cell, with the options that all these commands have and `lines` as examples."""
    options = [
        click.argument("cell", metavar="CELL", shell_complete=completion.cells),
        click.option("--variant", metavar="LABEL", shell_complete=completion.labels, help="Variant, if CELL is a run."),
        click.option("--cell-seed", type=int, metavar="N", help="Use the cell that was trained with this seed."),
        names("--class", None, classes, "classes", metavar="NAME,..."),
        click.option("--n", type=click.IntRange(1), metavar="N", help=n),
        click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help=seed),
        click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=out.format(name)),
        plugins(passed_on=True),
        data_root,
    ]
    command = click.command(name, help=f"{about}\n\n{CELL}", epilog=examples(*(f"{name} {line}" for line in lines)))
    for option in reversed(options):
        callback = option(callback)
    made: click.Command = command(callback)
    return made


def _cell(
    cell: str,
    variant: str | None,
    cell_seed: int | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    **options: Any,
) -> tuple[TrainedCell, dict[str, Any]]:
    """Load the cell that the arguments name; return it and the other options. Print a note if several cells match."""
    from bench.show.views import trained

    model, note = trained(cell, variant, cell_seed, data_root, plugins)
    if note:
        say(note, err=True)
    return model, options


def _draw(name: str, view: str, *, out: Path | None, **settings: Any) -> None:
    """Draw a cell by the function `view` of `bench.show.views`, and print the path of the picture."""
    from bench.drawing.pictures import SUFFIXES, checked_suffix, write
    from bench.show import views

    if out is not None:
        checked_suffix(out, SUFFIXES)
    cell, options = _cell(**settings)
    path = out or Path(f"{name}-{cell.row.cell}.png")
    write(getattr(views, view)(cell, **options).drawing(), path)
    click.echo(path)


def _encode(out: Path | None, split: str, **settings: Any) -> None:
    from io import BytesIO

    import numpy as np

    from bench.drawing.pictures import checked_suffix, write_file
    from bench.show import views

    if out is not None:
        checked_suffix(out, [".npz"])
    cell, options = _cell(**settings)
    encoded = views.encode(cell, split=split, **options)
    path, content = out or Path(f"encode-{cell.row.cell}.npz"), BytesIO()
    codes, labels, index = (part.numpy() for part in (encoded.codes, encoded.labels, encoded.index))
    np.savez_compressed(content, codes=codes, labels=labels, index=index)
    write_file(path, content.getvalue())
    unit = "indices" if codes.dtype.kind == "i" else "units"
    click.echo(f"{codes.shape[0]:,} codes of {codes.shape[1]:,} {unit}", err=True)
    click.echo(path)


sample = _command(
    "sample",
    partial(_draw, "sample", "samples"),
    "Draw images from a trained model.\n\nThe images are decoder means. A conditional model draws one row per class.",
    "results/monday",
    "results/monday:cvae --class 3,8 --n 40 --out cvae.svg",
    "results/monday --variant gan --cell-seed 1",
    n="Number of images.  [default: 48, or 10 per class]",
    seed="Seed of the draws.  [default: 0]",
    classes="Classes that a conditional model draws; names or numbers.",
)
reconstruct = _command(
    "reconstruct",
    partial(_draw, "reconstruct", "reconstructions"),
    "Draw test images, their reconstructions and the errors.",
    "results/monday:vqvae",
    "results/monday --class Sandal,Bag --n 36",
    n="Number of images.  [default: 24]",
)
interpolate = _command(
    "interpolate",
    partial(_draw, "interpolate", "interpolations"),
    "Decode points on the line between the codes of two test images.\n\n"
    "A conditional decoder gets the label of the nearer image.",
    "results/monday:vae",
    "results/monday:vae --class Trouser,Dress --n 10 --out strips.svg",
    n="Number of strips.  [default: 6]",
    classes="Class of the first image and class of the second, or one class for both.",
)
traverse = _command(
    "traverse",
    partial(_draw, "traverse", "traversals"),
    "Vary the most active units of a test image's code, one at a time.\n\n"
    "Each unit goes from -3 to 3 standard deviations of its codes; the other units stay fixed.",
    "results/monday:beta",
    "results/monday:beta --class 7 --n 20",
    n="Number of units.  [default: 10, or all if there are fewer]",
    seed="Seed that chooses the image.  [default: 0]",
)
latent = _command(
    "latent",
    partial(_draw, "latent", "plane"),
    "Draw the codes of test images in a plane, coloured by class.\n\n"
    "Codes of two dimensions are drawn as they are, those of more dimensions by their first two principal components, "
    "and those of one dimension as a band per class.",
    "results/monday:vae",
    "results/monday:vae --class 3,5,8 --out latent.svg",
    n="Number of images.  [default: 2000, or all if there are fewer]",
)
encode = _command(
    "encode",
    click.option(
        "--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Split to encode."
    )(_encode),
    "Write the codes of a split's images to an .npz file.\n\n"
    "Its arrays are `codes` (N, d), or indices (N, L) of discrete codes; `labels` (N,), -1 if an image has none; and "
    "`index` (N,), the positions in the split.",
    "results/monday:vae --out codes.npz",
    "results/monday:vae --split train --n 10000",
    n="Number of images.  [default: all]",
    seed="Seed that chooses the images, if not all are encoded.  [default: 0]",
    classes="Encode images of these classes only; names or numbers.",
    out="Output file.  [default: {}-CELL.npz in this folder]",
)
