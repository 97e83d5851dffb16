"""A dataset's part of the report: its tables, and every figure or why it's missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.dataset import Data
from bench.contracts.row import Row
from bench.evidence import SHOWN, positions
from bench.results.store import Run
from bench.show.report import curves, sharpness, tradeoff
from bench.show.report.exhibit import Exhibit, Originals, Shown, attempt, exhibits
from bench.show.report.sheet import Sheet, error_maps, sheet, square
from bench.show.report.studio import Studio, studio
from bench.show.views import Trained
from bench.tables import costs as costing
from bench.tables import ratedistortion as rd
from bench.tables.columns import Column
from bench.tables.methods import methods, scored_images
from bench.tables.summary import Group
from bench.util.errors import NotAvailable
from bench.util.wording import counted

PICTURED = 24  #: labels with pictures of their own: of more nobody looks at each, and nobody can mail them
COMPARED = 10  #: test images whose reconstructions are shown
REAL = "real images"


@dataclass(frozen=True)
class Portrait:
    """An exhibit with its pictures."""

    exhibit: Exhibit
    samples: Shown[Sheet]
    mixture: Shown[Sheet]  #: samples by the second sampler
    reconstructions: Shown[Sheet]
    studio: Studio
    apart: str  #: that the reconstructions are of other images than the chapter's originals; '' where they aren't


@dataclass(frozen=True)
class Chapter:
    """A dataset."""

    key: str
    dataset: str
    protocol: str  #: in one line
    methods: str  #: the paragraph
    split: str  #: of the images that are shown: 'test', or 'validation'
    group: Group  #: the columns that a screen shows
    full: Group  #: all of them
    classes: tuple[str, ...]
    real: Shown[Sheet]
    originals: Shown[Sheet]
    portraits: tuple[Portrait, ...]
    unpictured: int  #: labels that are left out of pictures and curves
    ridges: tuple[sharpness.Ridge, ...]
    ridge_axis: str
    panels: tuple[curves.Panel, ...]
    timed: bool  #: whether a panel has an axis of time
    planes: tuple[Shown[str], ...]  #: rate-distortion planes, an SVG each
    without: Mapping[str, str]  #: why labels are in none, and which
    tradeoffs: tuple[tradeoff.Tradeoff, ...]
    costs: tuple[costing.Cost, ...]


def chapter(
    key: str,
    group: Group,
    full: Group,
    rows: Sequence[Row],
    whence: Mapping[int, Run],
    originals: Originals,
    plugins: Sequence[str],
    say: Callable[[str], None],
) -> Chapter:
    """All that the report says about one dataset. `whence` knows each row's run by the row's id()."""
    every = exhibits(group.lines, whence, key)
    anchors = [e for e in every if e.row.anchor]
    shown = ([e for e in every if not e.row.anchor][: max(0, PICTURED - len(anchors))] + anchors)[:PICTURED]
    say(f"{group.dataset}: images")
    data, why = _data(shown, originals)
    names = data.test.classes if data is not None else _numbers(shown)
    real, split = _real(data), _split(shown)
    made = []
    for i, exhibit in enumerate(shown, 1):
        say(f"{group.dataset}: {exhibit.label} ({i} of {len(shown)})")
        made.append(_portrait(exhibit, data, real, originals, plugins))
    panels = attempt(curves.panels, shown, whence).figure or []
    rows_of = {id(run): (run, [r for r in rows if whence[id(r)] is run]) for run in whence.values()}
    planes, without = _planes([pair for pair in rows_of.values() if pair[1]], key, every)
    found, axis = _ridges(shown, real)
    return Chapter(
        key,
        group.dataset,
        _protocol(rows),
        methods(rows),
        split,
        group,
        full,
        tuple(names),
        Shown(missing=why) if real is None else attempt(square, real, f"Images of the {split} split"),
        Shown(missing=why) if real is None else attempt(_row, real, f"{split.capitalize()} images"),
        tuple(made),
        len(every) - len(shown),
        tuple(found),
        axis,
        tuple(panels),
        any("by-time" in (panel.drawn.figure or "") for panel in panels),
        planes,
        _by_reason(without),
        tuple(attempt(tradeoff.tradeoffs, every, group.columns).figure or ()),
        tuple(costing.costs(rows)),
    )


def _protocol(rows: Sequence[Row]) -> str:
    """How the rows were trained and scored, in one line; what differs between them is told where they stand."""
    trained = [row for row in rows if row.status == "ok" and row.training and not row.sanity]
    same = {
        key: value
        for key in ("steps", "batch_size", "optimizer", "lr", "precision", "limit")
        if len(values := {row.training.get(key) for row in trained}) == 1 and (value := values.pop()) is not None
    }
    said = {
        "steps": "{:,} steps a stage",
        "batch_size": "batches of {}",
        "optimizer": "{}",
        "lr": "learning rate {:g}",
        "precision": "{}",
        "limit": "{:,} training images",
    }
    words = [text.format(same[key]) for key, text in said.items() if key in same]
    seeds: dict[str, set[int]] = {}
    for row in rows:
        if not row.sanity:
            seeds.setdefault(row.label, set()).add(row.seed)
    if numbers := [len(of) for of in seeds.values()]:
        least, most = min(numbers), max(numbers)
        words.append(counted(most, "seed") if least == most else f"{least} to {most} seeds")
    tested = {scored_images(row) for row in trained}
    words += [f"scored on {n:,} images" for n in tested if n and len(tested) == 1]
    return " · ".join(words)


def _split(shown: Sequence[Exhibit]) -> str:
    """Return what the images are called that the labels were scored on."""
    found = {exhibit.split for exhibit in shown}
    return found.pop() if len(found) == 1 else "scored"


def _data(shown: Sequence[Exhibit], originals: Originals) -> tuple[Data | None, str]:
    """The dataset as the first of `shown` was scored on that it's at hand for, or why it is for none."""
    found = [attempt(originals, exhibit.run, exhibit.row) for exhibit in shown] or [Shown(missing="no cell finished")]
    at_hand = next((own for own in found if own.figure is not None), found[0])
    return at_hand.figure, at_hand.missing


def _numbers(shown: Sequence[Exhibit]) -> tuple[str, ...]:
    """The classes of the codes that are drawn, by number: what is known of them without the dataset."""
    kept = [e.evidence["labels"] for e in shown if "labels" in e.evidence and "codes" in e.evidence]
    return tuple(map(str, range(max((int(labels.max()) for labels in kept if len(labels)), default=-1) + 1)))


def _real(data: Data | None) -> Tensor | None:
    """Test images, those that the cells' reconstructions belong to: (N, C, H, W) uint8."""
    if data is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a split may be redrawn each time
        return data.test.take(positions(data.test, SHOWN), "cpu")


def _row(images: Tensor, alt: str) -> Sheet:
    return sheet(images[:COMPARED], COMPARED, alt)


def _portrait(
    exhibit: Exhibit,
    shared: Data | None,
    real: Tensor | None,
    originals: Originals,
    plugins: Sequence[str],
) -> Portrait:
    """An exhibit beside the images that it was scored on itself: those of others may be of another split or size."""
    loaded = attempt(exhibit.trained, plugins)
    data, why = _data([exhibit], originals)
    same = data is not None and shared is not None and data.test.digest == shared.test.digest
    return Portrait(
        exhibit,
        attempt(_sampled, exhibit, loaded, "samples", f"Samples of {exhibit.label}"),
        attempt(_sampled, exhibit, loaded, "samples_gmm", f"Samples of {exhibit.label} by the second sampler"),
        attempt(_reconstructed, exhibit, real if same else None),
        studio(exhibit, data, known.test.classes if (known := data or shared) is not None else (), loaded, why),
        _apart(exhibit, data, shared) if not same else "",
    )


def _apart(exhibit: Exhibit, data: Data | None, shared: Data | None) -> str:
    """Why the reconstructions have no error maps."""
    if data is None or shared is None:
        return ""
    return f"of other images than these originals ({exhibit.split} split): no errors"


def _sampled(exhibit: Exhibit, loaded: Shown[Trained], name: str, alt: str) -> Sheet:
    """Samples that the cell keeps; where there are none, the model's own reason comes before that."""
    wanted: type = abilities.Samples if name == "samples" else abilities.Encodes
    model = loaded.figure.model if loaded.figure is not None else None
    if name not in exhibit.evidence and model is not None:
        if (reason := abilities.why_not(model, wanted)) is not None:
            raise NotAvailable(reason)
        if isinstance(model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: no mixture of Gaussians is fitted on them")
    return square(exhibit.images(name), alt)


def _reconstructed(exhibit: Exhibit, real: Tensor | None) -> Sheet:
    """Reconstructions above their error maps; without originals, alone."""
    found = exhibit.images("reconstructions")[:COMPARED]
    alt = f"{exhibit.label}'s reconstructions of {len(found)} {exhibit.split} images"
    if real is None or real[: len(found)].shape != found.shape:
        return sheet(found, COMPARED, alt)
    colours = found if found.shape[1] == 3 else found[:, :1].expand(-1, 3, -1, -1)
    return sheet(torch.cat([colours, error_maps(real[: len(found)], found)]), len(found), f"{alt}, above their errors")


def _ridges(shown: Sequence[Exhibit], real: Tensor | None) -> tuple[list[sharpness.Ridge], str]:
    sets = [] if real is None else [sharpness.Set(REAL, "ca", real)]
    for exhibit in shown:
        if (images := attempt(exhibit.images, "samples").figure) is not None:
            sets.append(sharpness.Set(exhibit.label, exhibit.colour, images))
    found = attempt(sharpness.ridges, sets, REAL)
    return found.figure or ([], "")


def _planes(
    pairs: Sequence[tuple[Run, list[Row]]], key: str, every: Sequence[Exhibit]
) -> tuple[tuple[Shown[str], ...], dict[str, str]]:
    """Rate-distortion planes of two labels or more, and why labels are in none."""
    found = attempt(rd.planes, pairs)
    if found.figure is None:
        return (Shown(missing=found.missing),), {}
    planes, without = found.figure

    def drawn(i: int, plane: rd.Plane) -> str:
        return _recoloured(_own(rd.draw([plane]), f"{key}p{i}"), plane, every)

    alone = {p.points[0].label: _alone(p) for p in planes if not _worth(p)}
    return tuple(attempt(drawn, i, p) for i, p in enumerate(planes) if _worth(p)), {**without, **alone}


def _own(svg: str, key: str) -> str:
    """A figure's ids as ids of this page, of which it may have several."""
    return re.sub(r'\b(id|aria-labelledby)="(title|desc|title desc)"', lambda m: _prefixed(m, key), svg)


def _worth(plane: rd.Plane) -> bool:
    """Whether there are two labels in it to be held against each other."""
    return len({point.label for point in plane.points}) > 1


def _alone(plane: rd.Plane) -> str:
    p = plane.points[0]
    return f"rate {p.rate:.2f}, distortion {p.distortion:.2f}, alone in its plane ({plane.heading})"


def _by_reason(without: Mapping[str, str]) -> dict[str, str]:
    """Labels, joined, by why they aren't there."""
    found: dict[str, list[str]] = {}
    for label, why in without.items():
        found.setdefault(why, []).append(label)
    return {why: ", ".join(labels) for why, labels in found.items()}


def _recoloured(svg: str, plane: rd.Plane, shown: Sequence[Exhibit]) -> str:
    """The figure with each variant in the colour that its first label has on this page."""
    own = {e.row.variant: int(e.colour[1]) for e in reversed(shown) if not e.row.anchor}
    variants = dict.fromkeys(p.variant for p in plane.points)
    new = {
        rd.COLOURS[i % len(rd.COLOURS)]: rd.COLOURS[own[name]] for i, name in enumerate(variants) if name in own
    }  # fmt: skip
    return re.sub(r'(fill|stroke)="(#\w{6})"', lambda m: f'{m[1]}="{new.get(m[2], m[2])}"', svg)


def _prefixed(found: re.Match[str], key: str) -> str:
    return f'{found[1]}="{" ".join(f"{key}-{word}" for word in found[2].split())}"'


def described(column: Column) -> str:
    """What a metric measures: the first paragraph of its documentation."""
    doc = column.metric.doc if column.metric is not None else column.problem
    return " ".join(doc.split("\n\n")[0].replace("`", "").split())
