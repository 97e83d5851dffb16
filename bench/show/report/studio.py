"""What only a trained model can show: asked for by its abilities, never by its name, on the CPU.

The plane of its codes decoded, traversals of its most active dimensions, interpolations between test images, samples of
each class, its codebook.
"""

from __future__ import annotations

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
from bench.engine.snapshot import seeded
from bench.show import views
from bench.show.report import plane as planes
from bench.show.report.codebook import Codebook, codebook
from bench.show.report.exhibit import Exhibit, Shown, attempt
from bench.show.report.sheet import Sheet, sheet
from bench.util.errors import NotAvailable

LATTICE = 20  #: tiles to a side of the decoded plane
COARSE = 14  #: of images larger than those that are kept to the bit
BATCH = 100
PAIRS = 4  #: interpolations
UNITS = 6  #: dimensions that are traversed
DRAWN = 6  #: samples of a class
CLASSES = 10  #: classes that are shown
T = TypeVar("T")


@dataclass(frozen=True)
class Explorer:
    """Codes in a plane, and what the plane decodes to."""

    scatter: str
    axes: tuple[str, str]
    u: tuple[float, float]
    v: tuple[float, float]
    flat: bool
    tiles: Shown[Sheet]
    given: str  #: the class that a conditional model was told; '' for others


@dataclass(frozen=True)
class Strips:
    """Rows of images, and what each is, in words."""

    sheet: Sheet
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Studio:
    """A model's pictures, each or why not."""

    explorer: Shown[Explorer]
    kl: Shown[str]
    traversals: Shown[Strips]
    interpolations: Shown[Strips]
    classes: Shown[Strips]
    codebook: Shown[Codebook]
    discrete: bool  #: whether the cell keeps codes, and they are

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What it has nothing to show of, and why: '' where nothing else is known."""
        parts = {
            "codes": self.codebook if self.codebook.figure or self.discrete else self.explorer,
            "traversals": self.traversals,
            "interpolations": self.interpolations,
            "KL by dimension": self.kl,
        }
        why: dict[str, list[str]] = {}
        for name, part in parts.items():
            if part.figure is None:
                reason = part.missing[:1].lower() + part.missing[1:]
                why.setdefault(reason, []).append(name)
        return [(", ".join(names), reason) for reason, names in why.items()]


def studio(exhibit: Exhibit, data: Data | None, names: Sequence[str], loaded: Shown[views.Trained], why: str) -> Studio:
    """All that a model has to show.

    Args:
        data: the dataset, or None with the reason `why`.
        names: the classes'.
    """
    cell = loaded.figure
    if cell is not None and data is not None:
        vars(cell)["data"] = data  # what it would load for itself, once for all cells

    def ask(make: Callable[..., T], *arguments: Any) -> Shown[T]:
        if cell is None:
            return Shown(missing=loaded.missing)
        with torch.inference_mode(), seeded(seed_for("report", make.__name__), torch.device("cpu")):
            return attempt(make, cell, *arguments)

    def of_data(make: Callable[..., T]) -> Shown[T]:
        return Shown(missing=why) if data is None else ask(make)

    return Studio(
        _explored(exhibit, names, cell, ask),
        ask(_kl, exhibit),
        of_data(_traversals),
        of_data(_interpolations),
        ask(_classes),
        ask(_codebook, exhibit, data),
        "codes" in exhibit.evidence and not exhibit.evidence["codes"].is_floating_point(),
    )


def decoded(model: Variant, z: Tensor, y: Tensor) -> Tensor:
    """Images of codes (N, d) for classes (N,): (N, C, H, W) uint8.

    Raises:
        NotAvailable: it doesn't decode, or not to images.
    """
    able = require(model, abilities.Decodes)
    found = []
    for start in range(0, len(z), BATCH):
        x = able.decode(z[start : start + BATCH], y[start : start + BATCH])
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise NotAvailable("what it decodes to aren't images in [0, 1]")
        found.append(to_uint8(x.float()))
    return torch.cat(found)


def _codes(exhibit: Exhibit, cell: views.Trained | None) -> tuple[Tensor, Tensor]:
    """Codes of test images (N, d), and labels (N,), as the cell keeps them."""
    if not exhibit.evidence:
        raise NotAvailable("its evidence is missing or damaged")
    if (codes := exhibit.evidence.get("codes")) is None:
        if cell is not None:
            require(cell.model, abilities.Encodes)
        raise NotAvailable("it keeps no codes")
    return codes, exhibit.evidence.get("labels", torch.full((len(codes),), -1))


def _explored(
    exhibit: Exhibit, names: Sequence[str], cell: views.Trained | None, ask: Callable[..., Shown[Any]]
) -> Shown[Explorer]:
    def explorer() -> Explorer:
        codes, labels = _codes(exhibit, cell)
        found = planes.plane(codes, labels)
        kept = labels[codes.isfinite().all(1)]
        told = f"{len(kept):,} codes of {exhibit.split} images by {exhibit.label}, coloured by class"
        tiles = ask(_tiles, exhibit, found)
        given = _named(0, names) if exhibit.row.uses_labels else ""
        return Explorer(
            planes.scatter(found, kept, told), found.axes, found.u, found.v, found.flat, tiles, given
        )  # fmt: skip

    return attempt(explorer)


def _codebook(cell: views.Trained, exhibit: Exhibit, data: Data | None) -> Codebook:
    return codebook(cell.model, exhibit, data)


def _tiles(cell: views.Trained, exhibit: Exhibit, found: planes.Plane) -> Sheet:
    model = cell.model
    side = LATTICE if max(model.spec.shape[1:]) <= 40 else COARSE
    z, rows = found.lattice(side)
    images = decoded(model, z, torch.zeros(len(z), dtype=torch.long))
    alt = f"What {exhibit.label} decodes from {side} by {rows} points of that plane"
    return sheet(images, side, alt, gap=0)


def _kl(cell: views.Trained, exhibit: Exhibit) -> str:
    if (kl := exhibit.evidence.get("kl_per_dimension")) is None or not len(kl):
        require(cell.model, abilities.HasPosterior)
        raise NotAvailable("the cell keeps no KL by dimension")
    return planes.bars(kl, f"KL of each of {len(kl)} latent dimensions of {exhibit.label}, the largest first, in nats")


def _traversals(cell: views.Trained) -> Strips:
    found = views.traversals(cell, n=min(UNITS, _units(cell)))
    rows = [row[[0, *range(1, len(row), 2)]] for row in found.rows]  # every second one says enough here
    told = f"A {_split(cell)} image and its code with one unit at a time moved: {'; '.join(found.labels)}"
    return Strips(sheet(torch.cat(rows), len(rows[0]), told), tuple(found.labels))


def _split(cell: views.Trained) -> str:
    return str(cell.row.scoring.get("split", "test"))


def _units(cell: views.Trained) -> int:
    codes = cell.run.evidence(cell.row.cell).get("codes")
    return codes.shape[1] if codes is not None and codes.ndim == 2 else UNITS


def _interpolations(cell: views.Trained) -> Strips:
    found = views.interpolations(cell, n=PAIRS)
    told = f"Between the codes of two {_split(cell)} images, at both ends: {'; '.join(filter(None, found.labels))}"
    return Strips(sheet(torch.cat(list(found.rows)), len(found.rows[0]), told), tuple(filter(None, found.labels)))


def _classes(cell: views.Trained) -> Strips:
    if not cell.conditional:
        raise NotAvailable("it isn't conditional: its samples aren't asked for by class")
    shown = cell.classes[:CLASSES]
    found = views.samples(cell, n=DRAWN * len(shown), classes=shown)
    told = f"Samples of {cell.row.label}, a row for each class: {', '.join(found.labels)}"
    return Strips(sheet(torch.cat(list(found.rows)), DRAWN, told), tuple(found.labels))


def _named(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}" if label >= 0 else "an image"
