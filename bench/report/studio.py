"""What only a trained model can show: asked for by its abilities, never by its name, on the CPU.

The plane of its codes decoded, traversals of its most active dimensions, interpolations between test images, samples of
each class, its codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import abilities
from bench.abilities import require
from bench.dataset import Data
from bench.errors import NotAvailable
from bench.evidence import SHOWN, positions
from bench.images import to_float, to_uint8
from bench.protocol import seed_for
from bench.report import plane as planes
from bench.report.codebook import Codebook, codebook
from bench.report.exhibit import Exhibit, Shown, attempt
from bench.report.sheet import Sheet, sheet
from bench.variant import Variant

LATTICE = 20  #: tiles to a side of the decoded plane
COARSE = 14  #: of images larger than those that are kept to the bit
BATCH = 100
PAIRS, BETWEEN = 4, 7  #: interpolations, and images decoded in each
STEPS = 9  #: images of a traversal
UNITS = 6  #: dimensions that are traversed
DRAWN = 6  #: samples of a class
CLASSES = 10  #: classes that are shown


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

    said: tuple[str, ...]  #: while it was loaded
    explorer: Shown[Explorer]
    kl: Shown[str]
    traversals: Shown[Strips]
    interpolations: Shown[Strips]
    classes: Shown[Strips]
    codebook: Shown[Codebook]


def studio(exhibit: Exhibit, data: Data | None, names: Sequence[str], plugins: Sequence[str], why: str) -> Studio:
    """All that the exhibit's model has to show.

    Args:
        data: the dataset, or None with the reason `why`.
        names: the classes'.
        plugins: as `bench.load` takes them.
    """
    loaded = attempt(exhibit.model, plugins)
    model, said = loaded.figure or (None, ())

    def ask(make: Callable[..., Any], *arguments: Any) -> Shown[Any]:
        if model is None:
            return Shown(missing=loaded.missing)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("report", make.__name__))
            return attempt(make, model, *arguments)

    def of_data(make: Callable[..., Any], *arguments: Any) -> Shown[Any]:
        return Shown(missing=why) if data is None else ask(make, data, *arguments)

    return Studio(
        said,
        _explored(exhibit, names, ask),
        attempt(_kl, exhibit),
        ask(_traversals, exhibit, names),
        of_data(_interpolations, names),
        ask(_classes, names, exhibit.label),
        ask(codebook, exhibit, data),
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


def _codes(exhibit: Exhibit) -> tuple[Tensor, Tensor]:
    """Codes of test images (N, d), and labels (N,), as the cell keeps them."""
    if not exhibit.evidence:
        raise NotAvailable("its evidence is missing or damaged")
    if (codes := exhibit.evidence.get("codes")) is None:
        raise NotAvailable("it keeps no codes")
    return codes, exhibit.evidence.get("labels", torch.full((len(codes),), -1))


def _explored(exhibit: Exhibit, names: Sequence[str], ask: Callable[..., Shown[Any]]) -> Shown[Explorer]:
    def explorer() -> Explorer:
        codes, labels = _codes(exhibit)
        found = planes.plane(codes, labels)
        kept = labels[codes.isfinite().all(1)]
        told = f"{len(kept):,} codes of test images by {exhibit.label}, coloured by class"
        tiles = ask(_tiles, exhibit, found)
        given = _named(0, names) if exhibit.row.uses_labels else ""
        return Explorer(
            planes.scatter(found, kept, told), found.axes, found.u, found.v, found.flat, tiles, given
        )  # fmt: skip

    return attempt(explorer)


def _tiles(model: Variant, exhibit: Exhibit, found: planes.Plane) -> Sheet:
    side = LATTICE if max(model.spec.shape[1:]) <= 40 else COARSE
    z, rows = found.lattice(side)
    images = decoded(model, z, torch.zeros(len(z), dtype=torch.long))
    alt = f"What {exhibit.label} decodes from {side} by {rows} points of that plane"
    return sheet(images, side, alt, gap=0)


def _kl(exhibit: Exhibit) -> str:
    if (kl := exhibit.evidence.get("kl_per_dimension")) is None or not len(kl):
        raise NotAvailable("the cell keeps no KL by dimension")
    return planes.bars(kl, f"KL of each of {len(kl)} latent dimensions of {exhibit.label}, the largest first, in nats")


def _traversals(model: Variant, exhibit: Exhibit, names: Sequence[str]) -> Strips:
    codes, labels = _codes(exhibit)
    if isinstance(model, abilities.HasCodes) or not codes.is_floating_point():
        raise NotAvailable("its codes are discrete: there is nothing between two of them")
    z = codes[codes.isfinite().all(1)].float()
    kl = exhibit.evidence.get("kl_per_dimension")
    by_kl = kl is not None and len(kl) == z.shape[1]
    active = kl if by_kl else z.var(0, correction=0)
    assert active is not None
    units = active.argsort(descending=True)[:UNITS].tolist()
    base, y, rows, told = z[0], labels[:1].clamp(min=0), [], []
    for unit in units:
        low, high = (float(q) for q in z[:, unit].quantile(torch.tensor((0.01, 0.99))))
        along = base.repeat(STEPS, 1)
        along[:, unit] = torch.linspace(low, high, STEPS)
        rows.append(along)
        what = f"{active[unit]:.2g} nats" if by_kl else f"variance {active[unit]:.2g}"
        told.append(f"z{unit + 1} from {low:.1f} to {high:.1f} ({what})".replace("-", "−"))
    images = decoded(model, torch.cat(rows), y.expand(len(rows) * STEPS))
    alt = (
        f"One code of {exhibit.label} with a dimension at a time moved through its range, a row each: {'; '.join(told)}"
    )
    return Strips(sheet(images, STEPS, alt), tuple(told))


def pairs(labels: Tensor) -> list[tuple[int, int]]:
    """Positions of images of two classes each: of the classes in order of their names; without labels, neighbours."""
    first: dict[int, int] = {}
    for i, label in enumerate(labels.tolist()):
        first.setdefault(label, i)
    where = [first[label] for label in sorted(first)] if len(first) > 1 else list(range(len(labels)))
    return list(zip(where[::2], where[1::2], strict=False))[:PAIRS]


def _interpolations(model: Variant, data: Data, names: Sequence[str]) -> Strips:
    encoder, index = require(model, abilities.Encodes), positions(data.test, SHOWN)
    require(model, abilities.Decodes)
    images, labels = data.test.take(index, "cpu"), data.test.labels(index, "cpu")
    found = pairs(labels)
    if not found:
        raise NotAvailable("there are no two test images to go between")
    ends = torch.tensor([i for pair in found for i in pair])
    x, y = images[ends], labels[ends]
    z = encoder.encode(to_float(x), y).float()
    rows = []
    for a in range(0, len(ends), 2):
        at = torch.linspace(0, 1, BETWEEN)[:, None]
        classes = torch.where(at[:, 0] < 0.5, y[a], y[a + 1])
        strip = decoded(model, (1 - at) * z[a] + at * z[a + 1], classes)
        rows.append(torch.cat([x[a : a + 1], strip, x[a + 1 : a + 2]]))
    told = tuple(f"{_named(int(y[a]), names)} to {_named(int(y[a + 1]), names)}" for a in range(0, len(ends), 2))
    alt = (
        f"Interpolations between the codes of two test images, which stand at both ends, a row each: {'; '.join(told)}"
    )
    return Strips(sheet(torch.cat(rows), BETWEEN + 2, alt), told)


def _classes(model: Variant, names: Sequence[str], label: str) -> Strips:
    if not model.uses_labels or not model.spec.classes:
        raise NotAvailable("it isn't conditional: its samples aren't asked for by class")
    able = require(model, abilities.Samples)
    classes = min(model.spec.classes, CLASSES)
    y = torch.arange(classes).repeat(DRAWN)
    x = able.sample(y)
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise NotAvailable("its samples aren't images in [0, 1]")
    told = tuple(_named(c, names) for c in range(classes))
    return Strips(
        sheet(
            to_uint8(x.float()),
            classes,
            f"Samples of {label}, a class in each column: {', '.join(told)}",
        ),
        told,
    )


def _named(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else f"class {label}" if label >= 0 else "an image"
