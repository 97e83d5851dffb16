"""Pictures: images on a sheet and codes in a plane, with words beside them, as PNG or SVG alike."""

from __future__ import annotations

import base64
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bench.drawing.figures import FONT, element, text_of, ticks, width_of
from bench.util.errors import StoreError, UsageError

INK, QUIET, RULE = "#222222", "#666666", "#dddddd"
SUFFIXES = (".png", ".svg")
COLOURS = (  # Petroff 2021, arXiv:2107.02270: ten that the colour-blind tell apart as well
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "wedge")
OF_COLOUR = (0, 1, 2, 3, 4, 0, 3, 2, 1, 4)  #: the shape beside a colour: hues that are near each other differ in it
TOLD = len(COLOURS) * len(SHAPES)  #: classes that look different
REST = "#c0c0c0"  #: of the classes beyond, and of what has none where others have
Spot = tuple[float, float]


def grid(images: Tensor, columns: int = 16, gap: int = 1) -> Image.Image:
    """(N, C, H, W) uint8 as one picture, row by row, enlarged by whole pixels to be seen."""
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
    """Rows of originals, each above the row of their reconstructions."""
    n = len(originals) // columns * columns or len(originals)
    columns = min(columns, n)
    rows = [t[:n].view(-1, columns, *t.shape[1:]) for t in (originals, reconstructions)]
    return torch.stack(rows, 1).flatten(0, 2)


def tile(image: Tensor) -> Image.Image:
    """One image (C, H, W) uint8, in grey or colour; of other numbers of channels, their mean."""
    array = image.permute(1, 2, 0).cpu().numpy()
    if array.shape[2] not in (1, 3):
        array = array.mean(2, keepdims=True).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def png(picture: Image.Image) -> bytes:
    """The file's content; nothing in it says when it was made."""
    out = BytesIO()
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


def data_uri(picture: Image.Image) -> str:
    """The picture as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


# what a drawing is made of, at places in pixels, y downwards


@dataclass(frozen=True)
class Tile:
    """An image with its upper left corner at (x, y), each of its pixels `scale` wide."""

    picture: Image.Image
    x: int
    y: int
    scale: int


@dataclass(frozen=True)
class Words:
    """A line of text whose baseline is at y; it starts, ends or has its middle at x. `turned`: it runs upwards."""

    text: str
    x: float
    y: float
    size: int = 12
    anchor: str = "start"  #: or 'middle', 'end'
    colour: str = INK
    turned: bool = False


@dataclass(frozen=True)
class Stroke:
    """A thin line."""

    start: Spot
    end: Spot
    colour: str = RULE


@dataclass(frozen=True)
class Mark:
    """A small filled shape about (x, y)."""

    x: float
    y: float
    radius: float
    colour: str
    shape: str = "circle"


Part = Tile | Words | Stroke | Mark


@dataclass
class Drawing:
    """Parts on a white ground; later ones cover earlier ones, and tiles cover all."""

    width: int
    height: int
    title: str  #: what it shows, for those who can't see it
    parts: list[Part] = field(default_factory=list)

    def image(self) -> Image.Image:
        """The drawing in pixels."""
        sharp = 3 if self.width * self.height < 4_000_000 else 1  # drawn larger, and averaged: smooth edges
        canvas = Image.new("RGB", (self.width * sharp, self.height * sharp), "white")
        draw = ImageDraw.Draw(canvas)
        for part in self.parts:
            if isinstance(part, Words) and part.turned:
                _turned(canvas, part, sharp)
            elif not isinstance(part, Tile):
                _paint(draw, part, sharp)
        made = canvas.reduce(sharp) if sharp > 1 else canvas
        for part in self.parts:
            if isinstance(part, Tile):
                size = part.picture.width * part.scale, part.picture.height * part.scale
                made.paste(part.picture.resize(size, Image.Resampling.NEAREST), (part.x, part.y))
        return made

    def svg(self) -> str:
        """The same as SVG: images as they are, text as text."""
        inner = [element("title", text_of(self.title)), element("rect", width="100%", height="100%", fill="white")]
        return element(
            "svg",
            *inner,
            *map(_vector, self.parts),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {self.width} {self.height}",
            width=self.width,
            height=self.height,
            role="img",
            font_family=FONT,
        )

    def _repr_png_(self) -> bytes:
        return png(self.image())

    def write(self, path: Path) -> None:
        """Write it as what `path` ends with.

        Raises:
            UsageError: that is neither .png nor .svg.
            StoreError: it can't be written.
        """
        checked_suffix(path, SUFFIXES)
        content = self.svg().encode() + b"\n" if path.suffix.lower() == ".svg" else png(self.image())
        write_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Write what somebody asked for with --out.

    Raises:
        StoreError: it can't be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror or error}",
            cause="Its folder doesn't exist or isn't yours to write, or the disk is full.",
            fix="Choose another place with --out.",
        ) from None


def checked_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file whose name doesn't end as what will be in it.

    Raises:
        UsageError: the way out.
    """
    if path.suffix.lower() not in suffixes:
        ends = " or ".join(suffixes)
        found = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise UsageError(f"--out {path} {found}", fix=f"Files that can be written end in {ends}.")


def _paint(draw: ImageDraw.ImageDraw, part: Part, sharp: int) -> None:
    match part:
        case Words():
            place = part.x * sharp, part.y * sharp
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[part.anchor]
            draw.text(place, _plain(part.text), part.colour, ImageFont.load_default(part.size * sharp), anchor)
        case Stroke():
            ends = [(x * sharp, y * sharp) for x, y in (part.start, part.end)]
            draw.line(ends, part.colour, sharp)
        case Mark():
            corners = [(x * sharp, y * sharp) for x, y in _corners(part)]
            if corners:
                draw.polygon(corners, part.colour)
            else:
                reach = part.radius
                box = (part.x - reach, part.y - reach, part.x + reach, part.y + reach)
                draw.ellipse([v * sharp for v in box], part.colour)


def _turned(canvas: Image.Image, words: Words, sharp: int) -> None:
    font, text = ImageFont.load_default(words.size * sharp), _plain(words.text)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    strip = Image.new("RGB", (math.ceil(right - left), math.ceil(bottom - top)), "white")
    ImageDraw.Draw(strip).text((-left, -top), text, words.colour, font, "ls")
    strip = strip.rotate(90, expand=True)
    shift = {"start": strip.height, "middle": strip.height / 2, "end": 0}[words.anchor]
    canvas.paste(strip, (round(words.x * sharp + top), round(words.y * sharp - shift)))


def _plain(text: str) -> str:
    """Text as Pillow's own font can show it, which has no minus sign."""
    return " ".join(text.split()).replace("\u2212", "-")


def _corners(mark: Mark) -> list[Spot]:
    """A mark's corners, about as much ink for each shape; none of a circle."""
    angles = {"square": (45, 135, 225, 315), "triangle": (-90, 30, 150), "diamond": (0, 90, 180, 270)}
    angles["wedge"] = (90, 210, 330)
    reach = mark.radius * (1.3 if mark.shape in ("triangle", "wedge") else 1.2)
    turns = [math.radians(a) for a in angles.get(mark.shape, ())]
    return [(mark.x + reach * math.cos(a), mark.y + reach * math.sin(a)) for a in turns]


def _vector(part: Part) -> str:
    match part:
        case Tile():
            size = {"width": part.picture.width * part.scale, "height": part.picture.height * part.scale}
            address = data_uri(part.picture)
            return element("image", x=part.x, y=part.y, **size, href=address, image_rendering="pixelated")
        case Words():
            style: dict[str, object] = {"font_size": part.size, "fill": part.colour, "text_anchor": part.anchor}
            if part.turned:
                style["transform"] = f"rotate(-90 {part.x:g} {part.y:g})"
            return element("text", text_of(part.text), x=float(part.x), y=float(part.y), **style)
        case Stroke():
            (x1, y1), (x2, y2) = part.start, part.end
            return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), stroke=part.colour)
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in _corners(part))
    if corners:
        return element("polygon", points=corners, fill=part.colour)
    return element("circle", cx=float(part.x), cy=float(part.y), r=float(part.radius), fill=part.colour)


# a sheet of images


@dataclass(frozen=True)
class Sheet:
    """Rows of images (n, C, H, W) uint8 with a label each and, above the columns, a head each.

    Args:
        title: what it shows; wrapped to the sheet's width.
        apart: of how many rows a group consists, with more room before the next; 0: of all.
    """

    title: str
    rows: Sequence[Tensor]
    labels: Sequence[str] = ()
    heads: Sequence[str] = ()
    apart: int = 0

    def drawing(self) -> Drawing:
        """The sheet, images enlarged by whole pixels to be seen."""
        h, w = self.rows[0].shape[-2:]
        scale = max(1, 64 // max(h, w))
        gap, edge, size = 3, 12, 12
        left = edge + (8 + math.ceil(max(width_of(t, size) for t in self.labels)) if any(self.labels) else 0)
        columns = max(map(len, self.rows))
        step = w * scale + gap
        if any(self.heads):  # room for the widest
            step = max(step, math.ceil(max(width_of(t, 11) for t in self.heads)) + gap)
        wide = max(left + columns * step - gap + edge, 360)
        lines = wrapped(self.title, wide - 2 * edge, 14)
        top = edge + 20 * len(lines) + (18 if any(self.heads) else 2)
        parts: list[Part] = [Words(line, edge, edge + 12 + 20 * i, 14) for i, line in enumerate(lines)]
        inset = (step - gap - w * scale) // 2
        for j, head in enumerate(self.heads):
            parts.append(Words(head, left + j * step + (step - gap) / 2, top - 5, 11, "middle", QUIET))
        y = top
        for i, row in enumerate(self.rows):
            if i and self.apart and i % self.apart == 0:
                y += 4 * gap
            if self.labels:
                parts.append(Words(self.labels[i], left - 8, y + h * scale / 2 + 4, size, "end", QUIET))
            parts += [Tile(tile(image), left + inset + j * step, y, scale) for j, image in enumerate(row)]
            y += h * scale + gap
        return Drawing(wide, y - gap + edge, self.title, parts)


def wrapped(text: str, width: float, size: int) -> list[str]:
    """`text` in lines that are at most `width` pixels wide."""
    return textwrap.wrap(text, max(int(width / width_of("x", size)), 20)) or [""]


def rows_of(images: Tensor, columns: int) -> list[Tensor]:
    """(N, ...) in rows of `columns`, the last one as long as it gets."""
    return list(torch.split(images, columns))


# codes in a plane


@dataclass(frozen=True)
class Scatter:
    """Points (N, 2) in a plane, coloured by class.

    Args:
        labels: (N,) class indices; -1 where there is none.
        axes: what is along x and y; a class's band along y where `bands`.
        bands: y is the class, with its name in the place of a number.
    """

    title: str
    points: Tensor
    labels: Tensor
    classes: Sequence[str]
    axes: tuple[str, str]
    bands: bool = False

    def drawing(self) -> Drawing:
        """The plane at 640 x 480 with its legend."""
        edge, width, height = 12, 640, 480
        shown = [c for c in torch.unique(self.labels).tolist() if c >= 0]
        names = {c: self.classes[c] if c < len(self.classes) else str(c) for c in shown}
        if self.bands:
            height = max(160, 34 * max(len(shown), 1))
        beside = max((width_of(name, 12) for name in names.values()), default=0)
        left = edge + 60 + (math.ceil(max(0, beside - 30)) if self.bands else 0)
        deep = max(1, (height - 8) // 18)  # lines of the legend in one of its columns
        column = 30 + math.ceil(beside)
        legend = 0 if self.bands or not shown else 16 + column * math.ceil(len(shown) / deep)
        wide = left + width + max(legend, 16) + edge  # an axis' last number may reach beyond it
        lines = wrapped(self.title, wide - 2 * edge, 14)
        top = edge + 20 * len(lines) + 6
        drawing = Drawing(wide, top + height + 52, self.title)
        drawing.parts += [Words(line, edge, edge + 12 + 20 * i, 14) for i, line in enumerate(lines)]
        frame = left, top, left + width, top + height
        drawing.parts += self._axes(frame, names)
        drawing.parts += self._marks(frame)
        if legend:
            for i, (c, name) in enumerate(names.items()):
                x, y = left + width + 24 + column * (i // deep), top + 14 + 18 * (i % deep)
                drawing.parts += [_mark(x, y - 4, 5, c), Words(name, x + 12, y, 12)]
        return drawing

    def _ranges(self) -> tuple[Spot, Spot]:
        """What is shown along x and y: all points, with a little room."""
        found = []
        for low, high in zip(self.points.amin(0).tolist(), self.points.amax(0).tolist(), strict=True):
            room = 0.04 * (high - low) or 1.0
            found.append((low - room, high + room))
        if self.bands:
            rows = max(len(torch.unique(self.labels)), 1)
            found[1] = (-0.5, rows - 0.5)
        return found[0], found[1]

    def _axes(self, frame: tuple[int, int, int, int], names: dict[int, str]) -> Iterator[Part]:
        left, top, right, bottom = frame
        (x0, x1), (y0, y1) = self._ranges()
        for value in ticks(x0, x1, 7):
            x = left + (value - x0) / (x1 - x0) * (right - left)
            yield Stroke((x, top), (x, bottom))
            yield Words(_number(value), x, bottom + 16, 11, "middle", QUIET)
        rows = list(enumerate(names.values())) if self.bands else [(v, _number(v)) for v in ticks(y0, y1, 6)]
        for at, text in rows:
            y = bottom - (at - y0) / (y1 - y0) * (bottom - top)
            yield Stroke((left, y), (right, y))
            yield Words(text, left - 6, y + 4, 11, "end", QUIET)
        yield Words(self.axes[0], (left + right) / 2, bottom + 38, 12, "middle")
        if self.axes[1]:
            yield Words(self.axes[1], 24, (top + bottom) / 2, 12, "middle", turned=True)

    def _marks(self, frame: tuple[int, int, int, int]) -> Iterator[Part]:
        left, top, right, bottom = frame
        (x0, x1), (y0, y1) = self._ranges()
        radius = 2.2 if len(self.points) > 500 else 3.5
        labels = self.labels if bool((self.labels >= 0).any()) else torch.zeros_like(self.labels)
        for (px, py), c in zip(self.points.tolist(), labels.tolist(), strict=True):
            x = left + (px - x0) / (x1 - x0) * (right - left)
            yield _mark(x, bottom - (py - y0) / (y1 - y0) * (bottom - top), radius, c)


def _mark(x: float, y: float, radius: float, c: int) -> Mark:
    """The mark of a class: colours first, and each with a shape, so that colour isn't all."""
    if not 0 <= c < TOLD:
        return Mark(x, y, radius, REST)
    turn, colour = divmod(c, len(COLOURS))
    return Mark(x, y, radius, COLOURS[colour], SHAPES[(OF_COLOUR[colour] + turn) % len(SHAPES)])


def _number(value: float) -> str:
    return f"{value:.10g}".replace("-", "\u2212")
