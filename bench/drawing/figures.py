"""Figures of words, strokes, marks and image tiles at places in pixels (y grows downwards), as SVG or PNG.

A colour is a name in `PALETTE`. SVG has the name as a class beside the value, so that the style sheet of a page can
give the name another value in the dark.
"""

from __future__ import annotations

import math
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from bench.util.text import plain

Spot = tuple[float, float]
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
VARIANTS = ("#1b4f9c", "#b5460f", "#1f7a4d", "#7a3a8f", "#8a6d00", "#a01c4a", "#2c7a86", "#5b5b5b")
CLASSES = (  # Petroff 2021, arXiv:2107.02270: ten colours for readers with and without colour blindness
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
PALETTE = {
    "ink": "#1a1a1a",
    "grey": "#666666",
    "axis": "#666666",
    "rule": "#dddddd",
    "accent": "#1b4f9c",
    "ca": "#6b6b6b",  # baseline and reference rows
    **{f"c{i}": colour for i, colour in enumerate(VARIANTS)},
    **{f"k{i}": colour for i, colour in enumerate(CLASSES)},
    "kx": "#c0c0c0",  # no class, or one beyond those that look different
}
SHAPES = {  # corners, in degrees; a circle has none
    "circle": (),
    "square": (45, 135, 225, 315),
    "triangle": (-90, 30, 150),
    "diamond": (0, 90, 180, 270),
    "wedge": (90, 210, 330),
}


# text


def text_of(value: object) -> str:
    """Return any text as XML may hold it, in an element or an attribute."""
    text = plain(str(value), lines=True)
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(letter, entity)
    return text


def element(tag: str, *inner: str, **attributes: object) -> str:
    """Return an XML element around others; 'stroke_width' is the attribute stroke-width. Numbers get two decimals."""
    shown = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(v)}"' for name, v in attributes.items())
    return f"<{tag}{shown}>{''.join(inner)}</{tag}>" if inner else f"<{tag}{shown}/>"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else text_of(value)


def shortened(text: str, letters: int) -> str:
    """Return `text` on one line, with its middle cut out if it has more than `letters` letters."""
    text = " ".join(plain(text).split())
    if len(text) <= letters:
        return text
    return f"{text[: letters * 2 // 3]}…{text[-(letters - letters * 2 // 3 - 1) :]}"


def width_of(text: str, size: float) -> float:
    """Return about the greatest width of a line of text in pixels; viewers use fonts of their own."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return size * (0.6 * (len(text) - wide) + 1.05 * wide)


def number(value: float) -> str:
    """Return the number beside a tick."""
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, power = f"{value:.3g}".partition("e")
        return (f"{mantissa}e{int(power)}" if power else mantissa).replace("-", "−")
    return f"{value:,.10g}".replace("-", "−")


# parts of a drawing


@dataclass(frozen=True)
class Words:
    """A line of text on the baseline y, with its start, middle or end at x."""

    text: str
    x: float
    y: float
    size: float = 12.0
    anchor: str = "start"  #: or 'middle', 'end'
    colour: str = "grey"
    bold: bool = False

    def svg(self) -> str:
        weight = {"font_weight": "bold"} if self.bold else {}
        return element("text", text_of(self.text), x=self.x, y=self.y, font_size=self.size, text_anchor=self.anchor,
                       **weight, **_ink(self.colour), fill="currentColor")  # fmt: skip

    def paint(self, draw: ImageDraw.ImageDraw, zoom: int) -> None:
        text = " ".join(self.text.split()).replace("\u2212", "-")  # Pillow's own font has no minus sign
        anchor, font = (
            {"start": "ls", "middle": "ms", "end": "rs"}[self.anchor],
            ImageFont.load_default(self.size * zoom),
        )
        draw.text((self.x * zoom, self.y * zoom), text, _hex(self.colour), font, anchor)


@dataclass(frozen=True)
class Stroke:
    """Straight lines through spots; a closed path is an area in its colour."""

    spots: Sequence[Spot]
    colour: str = "rule"
    width: float = 1.0
    closed: bool = False
    opacity: float = 1.0  #: SVG alone has it, as it alone has dashes and titles
    dashes: str = ""
    title: str = ""  #: shown on hover

    def svg(self) -> str:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in self.spots) + "Z" * self.closed
        style: dict[str, object] = {"stroke_dasharray": self.dashes} if self.dashes else {}
        style |= {"opacity": self.opacity} if self.opacity < 1 else {}
        paint = {"fill": "currentColor"} if self.closed else {"fill": "none", "stroke": "currentColor"}
        width = {} if self.closed or self.width == 1 else {"stroke_width": self.width}
        return element("path", *_title(self.title), d=d, **_ink(self.colour), **paint, **width, **style)

    def paint(self, draw: ImageDraw.ImageDraw, zoom: int) -> None:
        spots = [(x * zoom, y * zoom) for x, y in self.spots]
        if self.closed:
            draw.polygon(spots, _hex(self.colour))
        else:
            draw.line(spots, _hex(self.colour), round(self.width * zoom))


@dataclass(frozen=True)
class Mark:
    """A small shape about (x, y): one of `SHAPES`, filled, or hollow."""

    x: float
    y: float
    colour: str
    shape: str = "circle"
    radius: float = 5.0
    hollow: bool = False
    title: str = ""  #: shown on hover

    def corners(self) -> list[Spot]:
        """Return the corners of the shape; all shapes have about the same area."""
        reach = self.radius * (1.3 if self.shape in ("triangle", "wedge") else 1.2)
        turns = map(math.radians, SHAPES[self.shape])
        return [(self.x + reach * math.cos(a), self.y + reach * math.sin(a)) for a in turns]

    def svg(self) -> str:
        style: dict[str, object] = {**_ink(self.colour), "fill": "currentColor"}
        if self.hollow:
            style = {**_ink(f"{self.colour} hollow"), "fill": "#ffffff", "stroke": "currentColor", "stroke_width": 1.6}
        if self.shape == "circle":
            return element("circle", *_title(self.title), cx=self.x, cy=self.y, r=self.radius, **style)
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in self.corners())
        return element("polygon", *_title(self.title), points=corners, **style)

    def paint(self, draw: ImageDraw.ImageDraw, zoom: int) -> None:
        fill, outline = ("white" if self.hollow else _hex(self.colour)), _hex(self.colour)
        if self.shape == "circle":
            x, y, r = self.x * zoom, self.y * zoom, self.radius * zoom
            draw.ellipse((x - r, y - r, x + r, y + r), fill, outline, zoom)
        else:
            draw.polygon([(x * zoom, y * zoom) for x, y in self.corners()], fill, outline, zoom)


@dataclass(frozen=True)
class Tile:
    """An image with its upper left corner at (x, y); each of its pixels is `scale` wide."""

    picture: Image.Image
    x: int
    y: int
    scale: int

    def svg(self) -> str:
        size = {"width": self.picture.width * self.scale, "height": self.picture.height * self.scale}
        return element("image", x=self.x, y=self.y, **size, href=data_uri(self.picture), image_rendering="pixelated")


Part = Words | Stroke | Mark | Tile


def _ink(colours: str) -> dict[str, object]:
    """Return the attributes of a colour, which may have further classes behind it."""
    return {"class_": colours, "color": _hex(colours)}


def _hex(colours: str) -> str:
    return PALETTE[colours.split()[0]]


def _title(words: str) -> list[str]:
    return [element("title", text_of(words))] if words else []


@dataclass
class Drawing:
    """Parts on a white ground; later ones cover earlier ones, and tiles cover all."""

    width: float
    height: float
    title: str  #: a description for readers who can't see the drawing
    parts: list[Part] = field(default_factory=list)

    def image(self) -> Image.Image:
        """Return the drawing in pixels."""
        width, height = round(self.width), round(self.height)
        zoom = 3 if width * height < 4_000_000 else 1  # drawn larger and averaged, so that edges are smooth
        canvas = Image.new("RGB", (width * zoom, height * zoom), "white")
        draw = ImageDraw.Draw(canvas)
        for part in self.parts:
            if not isinstance(part, Tile):
                part.paint(draw, zoom)
        made = canvas.reduce(zoom) if zoom > 1 else canvas
        for part in self.parts:
            if isinstance(part, Tile):
                size = part.picture.width * part.scale, part.picture.height * part.scale
                made.paste(part.picture.resize(size, Image.Resampling.NEAREST), (part.x, part.y))
        return made

    def svg(self) -> str:
        """Return an SVG file: images stay images and text stays text."""
        ground = element("rect", width="100%", height="100%", fill="#ffffff")
        inner = "\n".join([element("title", text_of(self.title)), ground, *(part.svg() for part in self.parts)])
        size = {"width": round(self.width), "height": round(self.height)}
        box = f"0 0 {size['width']} {size['height']}"
        return element("svg", f"\n{inner}\n", xmlns="http://www.w3.org/2000/svg", viewBox=box, **size, role="img",
                       font_family=FONT) + "\n"  # fmt: skip

    def inline(self, kind: str = "", *more: str) -> str:
        """Return an SVG element for a page, with further elements behind its parts; `kind` is a class."""
        inner = [part.svg() for part in self.parts]
        return element("svg", *inner, *more, viewBox=f"0 0 {self.width:.0f} {self.height:.0f}",
                       width=f"{self.width:.0f}", class_=f"chart {kind}".strip(), role="img",
                       aria_label=self.title)  # fmt: skip

    def _repr_png_(self) -> bytes:
        return png(self.image())


def png(picture: Image.Image) -> bytes:
    """Return the content of a PNG file, without a date."""
    out = BytesIO()
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


def data_uri(picture: Image.Image) -> str:
    """Return the picture as an address that needs no file."""
    return f"data:image/png;base64,{b64encode(png(picture)).decode()}"


# axes, labels and legends


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return about so many round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next((m for m in (1, 2, 5) if raw <= m * power * 1.0001), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    places = max(0, -math.floor(math.log10(step)))
    return [round(i * step, places) + 0.0 for i in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels, linear or logarithmic; calling it clips nothing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Scale:
        """Return a scale that holds all `values` (of a logarithm the positive ones), with some room around them."""
        at = [math.log10(v) for v in values if v > 0] if log else list(values)
        low, high = (min(at), max(at)) if at else (0.0, 1.0)
        room = pad * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - room, high + room, start, end, log)

    def __call__(self, value: float) -> float:
        at = (math.log10(value) if value > 0 else self.low) if self.log else value
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)

    def clipped(self, value: float, inset: float = 0.0) -> float:
        """Return the pixel of a value, or the nearest one that is `inset` pixels inside of both ends."""
        first, last = sorted((self.start, self.end))
        return min(max(self(value), first + inset), last - inset)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Return round values, and how they are written."""
        if not self.log:
            return [(v, number(v)) for v in ticks(self.low, self.high, about)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        fine = self.high - self.low < 1.6
        values = [m * 10.0**d for d in decades for m in ((1, 2, 5) if fine else (1,))]
        return [(v, number(v)) for v in values if self.low <= math.log10(v) <= self.high]


def left_axis(x: Scale, y: Scale, about: int = 4) -> list[Part]:
    """Return faint lines from end to end of `x` at round values of `y`, with their numbers on the left."""
    out: list[Part] = []
    for value, words in y.ticks(about):
        out.append(Stroke([(x.start, y(value)), (x.end, y(value))]))
        out.append(Words(words, x.start - 7, y(value) + 4, anchor="end"))
    return out


def bottom_axis(x: Scale, bottom: float, words: str = "", about: int = 5) -> list[Part]:
    """Return the lower edge of a frame, with ticks, numbers, and words below its right end."""
    out: list[Part] = [Stroke([(x.start, bottom), (x.end, bottom)], "axis")]
    for value, digits in x.ticks(about):
        out.append(Stroke([(x(value), bottom), (x(value), bottom + 4)], "axis"))
        out.append(Words(digits, x(value), bottom + 17, anchor="middle"))
    return [*out, Words(words, x.end, bottom + 34, anchor="end")] if words else out


def numbered(spots: Sequence[Spot], size: float = 11.0) -> list[Part]:
    """Return the numbers 1, 2, ... beside spots; spots that are close together share one text, as in '2, 3'."""
    groups: list[tuple[Spot, list[int]]] = []
    for i, (x, y) in enumerate(spots, 1):
        known = next((of for (px, py), of in groups if abs(px - x) < 18 and abs(py - y) < 12), None)
        if known is None:
            groups.append(((x, y), [i]))
        else:
            known.append(i)
    return [Words(", ".join(map(str, of)), x + 8, y - 5, size, colour="ink") for (x, y), of in groups]


def legend(entries: Iterable[tuple[Mark, str]], left: float, right: float, top: float) -> tuple[list[Part], float]:
    """Return marks with words beside them, in as many columns as there is room for, and where they end below."""
    entries = list(entries)
    wide = 30 + max((width_of(words, 12) for _, words in entries), default=0)
    deep = math.ceil(len(entries) / max(1, (right - left) // wide))
    out: list[Part] = []
    for i, (mark, words) in enumerate(entries):
        x, y = left + wide * (i // deep), top + 18 * (i % deep)
        out += [replace(mark, x=x + 6, y=y - 4), Words(words, x + 18, y, colour="ink")]
    return out, top + 18 * deep
