"""Pictures: images on a sheet and codes in a plane, with words beside them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.drawing.figures import (
    CLASSES,
    SHAPES,
    Drawing,
    Mark,
    Part,
    Scale,
    Tile,
    Words,
    bottom_axis,
    left_axis,
    legend,
    png,
    width_of,
)
from bench.util.errors import StoreError, UsageError

SUFFIXES = (".png", ".svg")
SHAPE_OF = (0, 1, 2, 3, 4, 0, 3, 2, 1, 4)  #: the shape of each colour: similar hues have different shapes
DISTINCT = len(CLASSES) * len(SHAPES)  #: classes that look different


# images without words


def grid(images: Tensor, columns: int = 16, gap: int = 1) -> Image.Image:
    """Return images (N, C, H, W) uint8 as one picture, row by row, enlarged by whole pixels."""
    n, c, h, w = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    picture = tile(sheet)
    scale = max(1, 56 // max(h, w))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def paired(originals: Tensor, reconstructions: Tensor, columns: int = 16) -> Tensor:
    """Return rows of originals, each above the row of their reconstructions."""
    n = len(originals) // columns * columns or len(originals)
    columns = min(columns, n)
    rows = [t[:n].view(-1, columns, *t.shape[1:]) for t in (originals, reconstructions)]
    return torch.stack(rows, 1).flatten(0, 2)


def tile(image: Tensor) -> Image.Image:
    """Return one image (C, H, W) uint8, in grey or colour; of other numbers of channels, their mean."""
    array = image.permute(1, 2, 0).cpu().numpy()
    if array.shape[2] not in (1, 3):
        array = array.mean(2, keepdims=True).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def rows_of(images: Tensor, columns: int) -> list[Tensor]:
    """Return images (N, ...) in rows of `columns`; the last row may be shorter."""
    return list(torch.split(images, columns))


# files


def write(drawing: Drawing, path: Path) -> None:
    """Write a drawing as PNG or SVG, by the ending of `path`.

    Raises:
        UsageError: the path ends in neither .png nor .svg.
        StoreError: the file can't be written.
    """
    checked_suffix(path, SUFFIXES)
    write_file(path, drawing.svg().encode() if path.suffix.lower() == ".svg" else png(drawing.image()))


def write_file(path: Path, content: bytes) -> None:
    """Write a file that a user asked for with --out.

    Raises:
        StoreError: the file can't be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror or error}",
            cause="Its folder doesn't exist or isn't yours to write, or the disk is full.",
            fix="Choose another file with --out.",
        ) from None


def checked_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file name whose ending isn't among `suffixes`.

    Raises:
        UsageError: with the endings that can be written.
    """
    if path.suffix.lower() not in suffixes:
        found = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise UsageError(f"--out {path} {found}", fix=f"Use a name that ends in {' or '.join(suffixes)}.")


# pictures with words


@dataclass(frozen=True)
class Sheet:
    """Rows of images (n, C, H, W) uint8 with a label for each row and a head above each column.

    Args:
        title: what the sheet shows; wrapped to its width.
        apart: rows in a group; there is more room between groups. 0: all rows are one group.
    """

    title: str
    rows: Sequence[Tensor]
    labels: Sequence[str] = ()
    heads: Sequence[str] = ()
    apart: int = 0

    def drawing(self) -> Drawing:
        """Return the sheet, with images enlarged by whole pixels."""
        h, w = self.rows[0].shape[-2:]
        scale = max(1, 64 // max(h, w))
        gap, edge = 3, 12
        left = edge + (8 + math.ceil(max(width_of(t, 12) for t in self.labels)) if any(self.labels) else 0)
        columns = max(map(len, self.rows))
        step = w * scale + gap
        if any(self.heads):
            step = max(step, math.ceil(max(width_of(t, 11) for t in self.heads)) + gap)
        width = max(left + columns * step - gap + edge, 360)
        parts, top = _heading(self.title, edge, width - edge)
        top += 16 if any(self.heads) else 0
        inset = (step - gap - w * scale) // 2
        for j, head in enumerate(self.heads):
            parts.append(Words(head, left + j * step + (step - gap) / 2, top - 5, 11, "middle"))
        y = top
        for i, row in enumerate(self.rows):
            if i and self.apart and i % self.apart == 0:
                y += 4 * gap
            if self.labels:
                parts.append(Words(self.labels[i], left - 8, y + h * scale / 2 + 4, anchor="end"))
            parts += [Tile(tile(image), left + inset + j * step, y, scale) for j, image in enumerate(row)]
            y += h * scale + gap
        return Drawing(width, y - gap + edge, self.title, parts)


def _heading(text: str, left: int, right: int) -> tuple[list[Part], int]:
    """Return a heading in lines that end before `right`, and where it ends below."""
    lines = textwrap.wrap(text, max(int((right - left) / width_of("x", 14)), 20)) or [""]
    return [Words(line, left, 24 + 20 * i, 14, colour="ink") for i, line in enumerate(lines)], 14 + 20 * len(lines)


@dataclass(frozen=True)
class Scatter:
    """Points (N, 2) in a plane, coloured by class.

    Args:
        labels: (N,) class indices; -1 for a point without a class.
        axes: the names of x and y.
        bands: each class has a band of y, at 0, 1, ... in the order of the classes, and its name beside the band.
    """

    title: str
    points: Tensor
    labels: Tensor
    classes: Sequence[str]
    axes: tuple[str, str]
    bands: bool = False

    def drawing(self) -> Drawing:
        """Return the plane, 640 pixels wide, above its legend."""
        shown = [c for c in torch.unique(self.labels).tolist() if c >= 0]
        names = {c: self.classes[c] if c < len(self.classes) else str(c) for c in shown}
        left, height = 72, 480
        if self.bands:
            left = 24 + math.ceil(max((width_of(name, 12) for name in names.values()), default=40))
            height = max(160, 34 * max(len(shown), 1))
        right = left + 640
        parts, top = _heading(self.title, 12, right + 12)
        parts.append(Words(self.axes[1], left, top + 14))
        top += 24
        bottom = top + height
        us, vs = self.points.T.tolist()
        x = Scale.over(us, left, right, pad=0.04)
        y = Scale(-0.5, max(len(names), 1) - 0.5, bottom, top) if self.bands else Scale.over(vs, bottom, top, pad=0.04)
        if self.bands:
            parts += [Words(name, left - 8, y(i) + 4, anchor="end") for i, name in enumerate(names.values())]
        else:
            parts += left_axis(x, y, 6)
        parts += bottom_axis(x, bottom, self.axes[0], 7)
        radius = 2.2 if len(us) > 500 else 3.5
        labels = self.labels if names else torch.zeros_like(self.labels)
        parts += [_mark(c, x(u), y(v), radius) for u, v, c in zip(us, vs, labels.tolist(), strict=True)]
        entries = [] if self.bands else [(_mark(c), name) for c, name in names.items()]
        listed, below = legend(entries, left, right, bottom + 62)
        return Drawing(right + 24, below - 8, self.title, [*parts, *listed])


def _mark(c: int, x: float = 0, y: float = 0, radius: float = 5.0) -> Mark:
    """Return the mark of a class: ten colours with a shape each, and then other shapes of the same colours."""
    if not 0 <= c < DISTINCT:
        return Mark(x, y, "kx", "circle", radius)
    turn, colour = divmod(c, len(CLASSES))
    return Mark(x, y, f"k{colour}", list(SHAPES)[(SHAPE_OF[colour] + turn) % len(SHAPES)], radius)
