"""Pictures of a trained model, made on the CPU: the plane of codes, traversals, interpolations, samples by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.dataset import Data
from bench.contracts.images import to_uint8
from bench.contracts.protocol import seed_for
from bench.contracts.variant import Variant
from bench.drawing.pictures import Sheet
from bench.engine.snapshot import seeded
from bench.show import views
from bench.show.plane import CodePlane, code_plane
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.show.report.plane import bars, scatter
from bench.show.report.sheet import Picture, sheet
from bench.show.views import TrainedCell
from bench.util.errors import NotAvailable

LATTICE = 20  #: tiles to a side of the decoded plane
COARSE = 14  #: tiles to a side for images of more than 40 pixels
BATCH = 100
PAIRS = 4  #: interpolations
UNITS = 6  #: units that are traversed
DRAWN = 6  #: samples of a class
CLASSES = 10  #: classes that are shown
T = TypeVar("T")


@dataclass(frozen=True)
class Explorer:
    """Codes in a plane, and the images that the plane decodes to."""

    plane: CodePlane
    scatter: str
    tiles: Shown[Picture]
    given: str  #: the class that a conditional model decodes; '' for other models


@dataclass(frozen=True)
class Codebook:
    """The use of a codebook on test images."""

    size: int
    used: int
    perplexity: float
    use: str  #: an SVG: the share of each code, the commonest first


@dataclass(frozen=True)
class Strips:
    """Rows of images, and a description of each row."""

    sheet: Picture
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Studio:
    """The pictures of a model; each may be missing, with the reason."""

    explorer: Shown[Explorer]
    kl: Shown[str]
    traversals: Shown[Strips]
    interpolations: Shown[Strips]
    classes: Shown[Strips]
    codebook: Shown[Codebook]
    discrete: bool  #: True if the cell keeps discrete codes

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Return the names of missing pictures by their reason; the reason may be ''."""
        pictures = {
            "codes": self.codebook if self.codebook.figure or self.discrete else self.explorer,
            "traversals": self.traversals,
            "interpolations": self.interpolations,
            "KL by dimension": self.kl,
        }
        why: dict[str, list[str]] = {}
        for name, picture in pictures.items():
            if picture.figure is None:
                reason = picture.missing[:1].lower() + picture.missing[1:]
                why.setdefault(reason, []).append(name)
        return [(", ".join(names), reason) for reason, names in why.items()]


def studio(exhibit: Exhibit, data: Data | None, names: Sequence[str], loaded: Shown[TrainedCell], why: str) -> Studio:
    """Return all pictures of a model.

    Args:
        data: the dataset, or None with the reason `why`.
        names: the names of the classes.
        loaded: the cell with its model.
    """
    cell = loaded.figure
    if cell is not None and data is not None:
        vars(cell)["data"] = data  # loaded once for all cells

    def ask(make: Callable[..., T], *arguments: Any) -> Shown[T]:
        if cell is None:
            return Shown(missing=loaded.missing)
        with torch.inference_mode(), seeded(seed_for("report", make.__name__), torch.device("cpu")):
            return attempt(make, cell, *arguments)

    def explorer() -> Explorer:
        plane = code_plane(*_codes(exhibit, cell))
        title = f"{len(plane.at):,} codes of {exhibit.split} images by {exhibit.label}, coloured by class"
        given = (names[0] if names else "class 0") if exhibit.row.uses_labels else ""
        return Explorer(plane, scatter(plane, title), ask(_tiles, exhibit, plane), given)

    def of_data(make: Callable[..., T]) -> Shown[T]:
        return Shown(missing=why) if data is None else ask(make)

    codes = exhibit.evidence.get("codes")
    return Studio(
        attempt(explorer),
        ask(_kl, exhibit),
        of_data(_traversals),
        of_data(_interpolations),
        ask(_classes),
        ask(_codebook, exhibit),
        codes is not None and not codes.is_floating_point(),
    )


def decoded(model: Variant, z: Tensor, y: Tensor) -> Tensor:
    """Return the images (N, C, H, W) uint8 of codes (N, d) with classes (N,).

    Raises:
        NotAvailable: the model has no decoder, or its output isn't in [0, 1].
    """
    able = require(model, abilities.Decodes)
    images = []
    for start in range(0, len(z), BATCH):
        x = able.decode(z[start : start + BATCH], y[start : start + BATCH])
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise NotAvailable("its decoder's output isn't in [0, 1]")
        images.append(to_uint8(x.float()))
    return torch.cat(images)


def _codes(exhibit: Exhibit, cell: TrainedCell | None) -> tuple[Tensor, Tensor]:
    """Return the codes (N, d) and labels (N,) that the cell keeps."""
    if not exhibit.evidence:
        raise NotAvailable("its evidence is missing or damaged")
    if (codes := exhibit.evidence.get("codes")) is None:
        if cell is not None:
            require(cell.model, abilities.Encodes)
        raise NotAvailable("it keeps no codes")
    return codes, exhibit.evidence.get("labels", torch.full((len(codes),), -1))


def _codebook(cell: TrainedCell, exhibit: Exhibit) -> Codebook:
    size = require(cell.model, abilities.HasCodes).codebook_size
    codes = exhibit.evidence.get("codes")
    if codes is None or codes.is_floating_point():
        raise NotAvailable("the cell keeps no discrete codes")
    counts = torch.bincount(codes.long().flatten().clamp(0, size - 1), minlength=size).double()
    share = counts / counts.sum()
    live = share[share > 0]
    perplexity = math.exp(-(live * live.log()).sum().item())
    title = f"Share of each of {size} codes of {exhibit.label}, the commonest first"
    return Codebook(size, len(live), perplexity, bars(share, title, "code {}", most=256))


def _tiles(cell: TrainedCell, exhibit: Exhibit, plane: CodePlane) -> Picture:
    side = LATTICE if max(cell.model.spec.shape[1:]) <= 40 else COARSE
    z, rows = plane.lattice(side)
    images = decoded(cell.model, z, torch.zeros(len(z), dtype=torch.long))
    return sheet(images, side, f"Images that {exhibit.label} decodes from {side} by {rows} points of the plane", gap=0)


def _kl(cell: TrainedCell, exhibit: Exhibit) -> str:
    if (kl := exhibit.evidence.get("kl_per_dimension")) is None or not len(kl):
        require(cell.model, abilities.HasPosterior)
        raise NotAvailable("the cell keeps no KL by dimension")
    return bars(kl, f"KL of each of {len(kl)} latent dimensions of {exhibit.label}, the largest first, in nats")


def _traversals(cell: TrainedCell) -> Strips:
    codes = cell.run.evidence(cell.row.cell).get("codes")
    units = codes.shape[1] if codes is not None and codes.ndim == 2 else UNITS
    found = views.traversals(cell, n=min(UNITS, units))
    every_second = [row[[0, *range(1, len(row), 2)]] for row in found.rows]
    return _strips(found, every_second, "An image and its decoded code with one unit at a time moved")


def _interpolations(cell: TrainedCell) -> Strips:
    found = views.interpolations(cell, n=PAIRS)
    return _strips(found, found.rows, "Decoded codes between two images, which are at both ends")


def _classes(cell: TrainedCell) -> Strips:
    if not cell.conditional:
        raise NotAvailable("it isn't conditional: it can't draw by class")
    classes = cell.classes[:CLASSES]
    found = views.samples(cell, n=DRAWN * len(classes), classes=classes)
    return _strips(found, found.rows, f"Samples of {cell.row.label}, a row for each class")


def _strips(found: Sheet, rows: Sequence[Tensor], about: str) -> Strips:
    labels = tuple(filter(None, found.labels))
    return Strips(sheet(torch.cat(list(rows)), len(rows[0]), f"{about}: {', '.join(labels)}"), labels)
