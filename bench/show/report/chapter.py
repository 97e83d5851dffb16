"""One dataset in the report: its tables, and its figures or the reasons why they are missing."""

from __future__ import annotations

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
from bench.show.report.exhibit import Exhibit, Originals, Shown, attempt, by_reason, exhibits
from bench.show.report.sheet import Picture, coloured, error_maps, sheet, square
from bench.show.report.studio import Studio, studio
from bench.show.views import TrainedCell
from bench.tables import costs as costing
from bench.tables import ratedistortion as rd
from bench.tables.columns import Column
from bench.tables.methods import methods
from bench.tables.summary import DatasetTable
from bench.util.errors import NotAvailable

PICTURED = 24  #: labels with pictures of their own, so that the file stays small enough for a mail
COMPARED = 10  #: test images whose reconstructions are shown
REAL = "real images"


@dataclass(frozen=True)
class Portrait:
    """An exhibit with its pictures."""

    exhibit: Exhibit
    samples: Shown[Picture]
    mixture: Shown[Picture]  #: samples by the second sampler
    reconstructions: Shown[Picture]
    studio: Studio
    other_images: str  #: a remark if the reconstructions are of other images than the chapter's originals


@dataclass(frozen=True)
class Chapter:
    """All that the report shows of one dataset."""

    key: str
    dataset: str
    methods: str  #: the paragraph for a paper
    split: str  #: of the images that are shown: 'test', or 'validation'
    table: DatasetTable  #: the columns that a screen shows
    full: DatasetTable  #: all columns
    classes: tuple[str, ...]
    real: Shown[Picture]
    originals: Shown[Picture]
    portraits: tuple[Portrait, ...]
    unpictured: int  #: labels without pictures and curves
    ridges: tuple[sharpness.Ridge, ...]
    ridge_axis: str
    panels: tuple[curves.Panel, ...]
    planes: tuple[Shown[str], ...]  #: rate-distortion planes, an SVG each
    without: Mapping[str, str]  #: labels in no plane, by reason
    tradeoffs: tuple[tradeoff.Tradeoff, ...]
    costs: tuple[costing.Cost, ...]


def chapter(
    key: str,
    table: DatasetTable,
    full: DatasetTable,
    rows: Sequence[Row],
    run_of: Mapping[int, Run],
    originals: Originals,
    plugins: Sequence[str],
    say: Callable[[str], None],
) -> Chapter:
    """Return the chapter of one dataset; `run_of` maps the id() of a row to its run."""
    every = exhibits(table.lines, run_of, key)
    references = [e for e in every if e.row.reference]
    shown = ([e for e in every if not e.row.reference][: max(0, PICTURED - len(references))] + references)[:PICTURED]
    say(f"{table.dataset}: images")
    data, why = _data(shown, originals)
    real = _real(data)
    split = _split(shown)
    portraits = []
    for i, exhibit in enumerate(shown, 1):
        say(f"{table.dataset}: {exhibit.label} ({i} of {len(shown)})")
        portraits.append(_portrait(exhibit, data, real, originals, plugins))
    rows_of = {id(run): (run, [r for r in rows if run_of[id(r)] is run]) for run in run_of.values()}
    planes, without = _planes([pair for pair in rows_of.values() if pair[1]], every)
    ridges, axis = _ridges(shown, real)
    none = Shown[Picture](missing=why)
    return Chapter(
        key=key,
        dataset=table.dataset,
        methods=methods(rows),
        split=split,
        table=table,
        full=full,
        classes=tuple(data.test.classes if data is not None else _numbers(shown)),
        real=none if real is None else attempt(square, real, f"Images of the {split} split"),
        originals=none if real is None else attempt(_originals, real, f"{split.capitalize()} images"),
        portraits=tuple(portraits),
        unpictured=len(every) - len(shown),
        ridges=tuple(ridges),
        ridge_axis=axis,
        panels=tuple(attempt(curves.panels, shown, run_of).figure or ()),
        planes=planes,
        without=without,
        tradeoffs=tuple(attempt(tradeoff.tradeoffs, every, table.columns).figure or ()),
        costs=tuple(costing.costs(rows)),
    )


def _split(shown: Sequence[Exhibit]) -> str:
    """Return the name of the split that the labels were scored on; 'scored' if they differ."""
    splits = {exhibit.split for exhibit in shown}
    return splits.pop() if len(splits) == 1 else "scored"


def _data(shown: Sequence[Exhibit], originals: Originals) -> tuple[Data | None, str]:
    """Return the dataset that the first of `shown` was scored on, as far as this machine has it, or the reason."""
    datasets = [attempt(originals, exhibit.run, exhibit.row) for exhibit in shown] or [
        Shown(missing="no cell finished")
    ]
    at_hand = next((own for own in datasets if own.figure is not None), datasets[0])
    return at_hand.figure, at_hand.missing


def _numbers(shown: Sequence[Exhibit]) -> tuple[str, ...]:
    """Return the numbers of the classes in the evidence, for want of the dataset with their names."""
    labels = [e.evidence["labels"] for e in shown if "labels" in e.evidence and "codes" in e.evidence]
    return tuple(map(str, range(max((int(of.max()) for of in labels if len(of)), default=-1) + 1)))


def _real(data: Data | None) -> Tensor | None:
    """Return the images (N, C, H, W) uint8 of the cells' reconstructions."""
    if data is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some datasets draw their split anew
        return data.test.take(positions(data.test, SHOWN), "cpu")


def _originals(images: Tensor, alt: str) -> Picture:
    return sheet(images[:COMPARED], COMPARED, alt)


def _portrait(
    exhibit: Exhibit, shared: Data | None, real: Tensor | None, originals: Originals, plugins: Sequence[str]
) -> Portrait:
    """Return an exhibit beside the images that it was scored on, which may differ between exhibits."""
    loaded = attempt(exhibit.trained, plugins)
    data, why = _data([exhibit], originals)
    same = data is not None and shared is not None and data.test.digest == shared.test.digest
    other = data is not None and shared is not None and not same
    known = data or shared
    return Portrait(
        exhibit,
        attempt(_sampled, exhibit, loaded, "samples", f"Samples of {exhibit.label}"),
        attempt(_sampled, exhibit, loaded, "samples_gmm", f"Samples of {exhibit.label} by the second sampler"),
        attempt(_reconstructed, exhibit, real if same else None),
        studio(exhibit, data, known.test.classes if known is not None else (), loaded, why),
        f"of other images than these originals ({exhibit.split} split): no errors" if other else "",
    )


def _sampled(exhibit: Exhibit, loaded: Shown[TrainedCell], name: str, alt: str) -> Picture:
    """Return samples that the cell keeps.

    Raises:
        NotAvailable: the cell keeps none; with the model's own reason if it has one.
    """
    model = loaded.figure.model if loaded.figure is not None else None
    needed: type = abilities.Samples if name == "samples" else abilities.Encodes
    if name not in exhibit.evidence and model is not None:
        if (reason := abilities.why_not(model, needed)) is not None:
            raise NotAvailable(reason)
        if isinstance(model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: no mixture of Gaussians is fitted on them")
    return square(exhibit.images(name), alt)


def _reconstructed(exhibit: Exhibit, real: Tensor | None) -> Picture:
    """Return reconstructions above their error maps, or alone if there are no originals."""
    images = exhibit.images("reconstructions")[:COMPARED]
    alt = f"{exhibit.label}'s reconstructions of {len(images)} {exhibit.split} images"
    if real is None or real[: len(images)].shape != images.shape:
        return sheet(images, COMPARED, alt)
    errors = error_maps(real[: len(images)], images)
    return sheet(torch.cat([coloured(images), errors]), len(images), f"{alt}, above their errors")


def _ridges(shown: Sequence[Exhibit], real: Tensor | None) -> tuple[list[sharpness.Ridge], str]:
    sets = [] if real is None else [sharpness.ImageSet(REAL, "ca", real)]
    for exhibit in shown:
        if (images := attempt(exhibit.images, "samples").figure) is not None:
            sets.append(sharpness.ImageSet(exhibit.label, exhibit.colour, images))
    return attempt(sharpness.ridges, sets, REAL).figure or ([], "")


def _planes(
    pairs: Sequence[tuple[Run, list[Row]]], every: Sequence[Exhibit]
) -> tuple[tuple[Shown[str], ...], dict[str, str]]:
    """Return the rate-distortion planes of two labels or more, and the labels that are in none, by reason."""
    attempted = attempt(rd.planes, pairs)
    if attempted.figure is None:
        return (Shown(missing=attempted.missing),), {}
    planes, reasons = attempted.figure
    colours = {e.row.variant: e.colour.split()[0] for e in reversed(every) if not e.row.reference}

    def drawn(plane: rd.Plane) -> str:
        return rd.draw([plane], colours=colours).inline()

    shown = []
    for plane in planes:
        if len({point.label for point in plane.points}) > 1:
            shown.append(attempt(drawn, plane))
        else:
            p = plane.points[0]
            reasons[p.label] = f"rate {p.rate:.2f}, distortion {p.distortion:.2f}, alone in its plane ({plane.heading})"
    return tuple(shown), by_reason(reasons.items())


def described(column: Column) -> str:
    """Return what a metric measures: the first paragraph of its documentation."""
    doc = column.metric.doc if column.metric is not None else column.problem
    return " ".join(doc.split("\n\n")[0].replace("`", "").split())
