"""Looking at a trained model: `bench sample`, `reconstruct`, `interpolate`, `traverse`, `latent`, `encode`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import completion
from bench.cli.options import Names
from bench.cli.verbs.common import data_root, plugins, say

if TYPE_CHECKING:
    from bench.drawing.pictures import Scatter, Sheet
    from bench.show.views import TrainedCell

WHICH = """\
CELL is a cell's folder (results/monday/vae-fashion-s0 is enough of one), a run's, or RUN:VARIANT. Of several finished
cells it's the first."""


def _verb(name: str, about: str, n: str, seed: str, classes: str, out: str, example: str) -> Callable[[Any], Any]:
    """A verb over one finished cell, with the options that all of these have."""

    def decorate(function: Any) -> Any:
        options = [
            click.argument("cell", metavar="CELL", shell_complete=completion.cells),
            click.option(
                "--variant", metavar="LABEL", shell_complete=completion.labels, help="Which variant of a run."
            ),
            click.option("--cell-seed", type=int, metavar="N", help="The cell that was trained with this seed."),
            click.option("--class", "classes", type=Names(), default=(), metavar="NAME,...", help=classes),
            click.option("--n", type=click.IntRange(1), metavar="N", help=n),
            click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help=seed),
            click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=out),
            plugins(passed_on=True),
            data_root,
        ]
        for option in reversed(options):
            function = option(function)
        examples = "\n".join(f"  bench {name} {line}" for line in example.splitlines())
        function.__doc__ = f"{about}\n\n{WHICH}"
        return click.command(name, epilog=f"\b\nExamples:\n{examples}")(function)

    return decorate


PICTURE = "A .png or .svg.  [default: NAME-CELL.png here]"
SHOWN_CLASSES = "Test images of these classes alone, by name or number."


@_verb(
    "sample",
    "Draw images from a trained model.\n\nThey are decoder means; of a conditional model, a row for each class.",
    "Images.  [default: 48, or 10 a class]",
    "Of the draws.  [default: 0]",
    "Of a conditional model, these classes, by name or number.",
    PICTURE.replace("NAME", "sample"),
    "results/monday\nresults/monday:cvae --class 3,8 --n 40 --out cvae.svg\nresults/monday --variant gan --cell-seed 1",
)
def sample(**settings: Any) -> None:
    from bench.show import views

    _draw("sample", views.samples, **settings)


@_verb(
    "reconstruct",
    "Show test images, what a model makes of their codes, and the error.",
    "Images.  [default: 24]",
    "Which images.  [default: 0]",
    SHOWN_CLASSES,
    PICTURE.replace("NAME", "reconstruct"),
    "results/monday:vqvae\nresults/monday --class Sandal,Bag --n 36",
)
def reconstruct(**settings: Any) -> None:
    from bench.show import views

    _draw("reconstruct", views.reconstructions, **settings)


@_verb(
    "interpolate",
    "Decode the straight line between the codes of two test images.\n\n"
    "A conditional decoder is given the label of the nearer one.",
    "Strips.  [default: 6]",
    "Which images.  [default: 0]",
    "From the first of two classes to the second, or within one.",
    PICTURE.replace("NAME", "interpolate"),
    "results/monday:vae\nresults/monday:vae --class Trouser,Dress --n 10 --out strips.svg",
)
def interpolate(**settings: Any) -> None:
    from bench.show import views

    _draw("interpolate", views.interpolations, **settings)


@_verb(
    "traverse",
    "Move the most active units of a test image's code, one at a time.\n\n"
    "Each goes from -3 to 3 standard deviations of its codes; the others stay.",
    "Units.  [default: 10, or all there are]",
    "Which image.  [default: 0]",
    SHOWN_CLASSES,
    PICTURE.replace("NAME", "traverse"),
    "results/monday:beta\nresults/monday:beta --class 7 --n 20",
)
def traverse(**settings: Any) -> None:
    from bench.show import views

    _draw("traverse", views.traversals, **settings)


@_verb(
    "latent",
    "Show the codes of test images in a plane, coloured by class.\n\n"
    "Of two dimensions the axes themselves, of more the first two principal components, of one a band for each class.",
    "Images.  [default: 2000, or all there are]",
    "Which images.  [default: 0]",
    SHOWN_CLASSES,
    PICTURE.replace("NAME", "latent"),
    "results/monday:vae\nresults/monday:vae --class 3,5,8 --out latent.svg",
)
def latent(**settings: Any) -> None:
    from bench.show import views

    _draw("latent", views.plane, **settings)


@_verb(
    "encode",
    "Write the codes of a split's images to an npz.\n\n"
    "It holds `codes` (N, d), or indices (N, L) where codes are discrete; `labels` (N,), -1 where there is none; and "
    "`index` (N,), the position in the split.",
    "Images.  [default: all]",
    "Which images, where they aren't all.  [default: 0]",
    "Images of these classes alone, by name or number.",
    "An .npz.  [default: encode-CELL.npz here]",
    "results/monday:vae --out codes.npz\nresults/monday:vae --split train --n 10000",
)
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
def encode(out: Path | None, split: str, **settings: Any) -> None:
    from io import BytesIO

    import numpy as np

    from bench.drawing.pictures import checked_suffix, write_file
    from bench.show import views

    if out is not None:
        checked_suffix(out, [".npz"])
    cell, options = _cell(**settings)
    found = views.encode(cell, split=split, **options)
    path, content = out or Path(f"encode-{cell.row.cell}.npz"), BytesIO()
    codes, labels, index = (part.numpy() for part in (found.codes, found.labels, found.index))
    np.savez_compressed(content, codes=codes, labels=labels, index=index)
    write_file(path, content.getvalue())
    click.echo(
        f"{codes.shape[0]:,} codes of {codes.shape[1]:,} {'indices' if codes.dtype.kind == 'i' else 'units'}", err=True
    )
    click.echo(path)


def _cell(
    cell: str,
    variant: str | None,
    cell_seed: int | None,
    data_root: str | None,
    plugins: tuple[str, ...],
    **options: Any,
) -> tuple[TrainedCell, dict[str, Any]]:
    """The cell that is meant, said aloud where it's one of several, and the other settings."""
    from bench.show.views import trained

    found, note = trained(cell, variant, cell_seed, data_root, plugins)
    if note:
        say(note, err=True)
    return found, options


def _draw(name: str, view: Callable[..., Sheet | Scatter], out: Path | None, **settings: Any) -> None:
    """Draw a view of a cell, and say where it is."""
    from bench.drawing.pictures import SUFFIXES, checked_suffix, write

    if out is not None:
        checked_suffix(out, SUFFIXES)
    cell, options = _cell(**settings)
    path = out or Path(f"{name}-{cell.row.cell}.png")
    write(view(cell, **options).drawing(), path)
    click.echo(path)
