"""Pictures that need a trained model: samples, reconstructions, interpolations, traversals, and codes in a plane.

Each view asks the model for abilities, never for a name. It raises UsageError, with the reason, if the model lacks an
ability or a setting doesn't fit, and DataError if this machine doesn't have the dataset.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.contracts.abilities import Decodes, Encodes, HasCodes, HoldsSamples, Samples, why_not
from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_float, to_uint8
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.contracts.variant import Variant
from bench.drawing.pictures import Scatter, Sheet, rows_of
from bench.engine.snapshot import seeded
from bench.results.locate import cells
from bench.results.store import Run, in_order
from bench.running.identity import data_of
from bench.running.loading import load
from bench.show.plane import code_plane
from bench.util.errors import DataError, IntegrityError, PluginError, StoreError, UnknownName, UsageError
from bench.util.wording import counted

CHUNK = 200  #: images in one call of the model
MOST = 1_024  #: images on one sheet
ACROSS = 12  #: images in a row
STEPS = 9  #: decoded images of an interpolation, both ends included
REACH = 3.0  #: standard deviations to either side of a traversal
OBSERVED = 1_000  #: test images that measure how much each unit of the code varies
A = TypeVar("A")


@dataclass(frozen=True)
class TrainedCell:
    """A finished cell: its row, its model on the CPU, and the dataset that it was trained on."""

    run: Run
    row: Row
    model: Variant
    data_root: str | None = None

    @property
    def name(self) -> str:
        """The heading of its pictures."""
        return f"{self.row.label} · {self.row.dataset} · seed {self.row.seed}"

    @cached_property
    def data(self) -> Data:
        """The dataset.

        Raises:
            DataError: this machine doesn't have the dataset.
        """
        return data_of(self.row, self.run.request() if self.run.exists() else RunRequest(), self.data_root)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; their numbers if this machine doesn't have the dataset."""
        try:
            return self.data.train.classes
        except (DataError, PluginError):
            return tuple(map(str, range(self.model.spec.classes)))

    @property
    def conditional(self) -> bool:
        """True if the model takes labels."""
        return self.model.uses_labels and self.model.spec.classes > 0

    def able(self, ability: type[A], picture: str) -> A:
        """Return the model, typed as one with the ability.

        Raises:
            UsageError: the model lacks the ability, so there is no such `picture`.
        """
        if (reason := why_not(self.model, ability)) is not None:
            raise self.lacking(picture, reason)
        able: Any = self.model
        return able  # type: ignore[no-any-return]

    def lacking(self, picture: str, reason: str) -> UsageError:
        """Return the error for a picture that the model can't give."""
        return UsageError(
            f"{self.row.label} has no {picture}",
            cause=f"{reason[:1].upper()}{reason[1:].rstrip('.')}.",
            fix=f"Choose another variant of the run with --variant LABEL. This cell was {self.row.cell}.",
        )

    def class_numbers(self, texts: Sequence[str]) -> list[int]:
        """Return the numbers of classes that are given by name or number.

        Raises:
            UsageError: the dataset has no labels, or no such class.
        """
        if texts and not self.classes:
            raise UsageError(f"{self.row.dataset} has no labels to choose by", fix="Leave out --class.")
        return [_class_number(text, self.classes, self.row.dataset) for text in dict.fromkeys(texts)]


def _class_number(text: str, classes: Sequence[str], dataset: str) -> int:
    if text in classes:  # first, because two names may differ in nothing but their case
        return list(classes).index(text)
    folded = [name.casefold() for name in classes]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if text.lstrip("-").isdigit():
        if 0 <= int(text) < len(classes):
            return int(text)
        raise UsageError(
            f"--class {text} is out of range",
            cause=f"{dataset} has {len(classes)} classes, 0 to {len(classes) - 1}.",
            fix=f"Their names are {', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}.",
        )
    raise UnknownName("class", text, classes, fix=f"Or use a number, 0 to {len(classes) - 1}.")


def trained(
    text: str,
    variant: str | None = None,
    seed: int | None = None,
    data_root: str | None = None,
    plugins: Sequence[str] = (),
) -> tuple[TrainedCell, str]:
    """Return the finished cell that `text` names, and notes: which cell of several it is, and warnings of its model.

    Args:
        text: the folder of a cell or a run, RUN:VARIANT, or the beginning of cell names in a run.
        variant: a label of the run, such as 'beta[beta=4]', or the name of a variant.
        seed: the seed of the cell's training.
        plugins: plugins of the cell that aren't installed, as `bench.load` takes them.

    Raises:
        PluginError: the variant, or a network of it, is neither installed nor in `plugins`.
        StoreError: there is nothing at `text`, or no finished cell.
        IntegrityError: the cell is damaged.
        UnknownName: the run has no such variant.
    """
    run, rows, variant = _rows(text, variant)
    if variant is not None:
        rows = [row for row in rows if row.label == variant] or [row for row in rows if row.variant == variant]
    if seed is not None and rows:
        seeds = sorted({row.seed for row in rows})
        rows = [row for row in rows if row.seed == seed]
        if not rows:
            raise UsageError(f"no cell was trained with seed {seed}", fix=f"Use one of {', '.join(map(str, seeds))}.")
    finished = [row for row in rows if row.status == "ok"]
    if not finished:
        raise StoreError(
            f"{run.path} has no finished cell" + (f" of {variant}" if variant else ""),
            cause="\n".join(f"{row.cell}: {row.status}: {row.reason}" for row in rows[:6]) or "No cell has ended yet.",
            fix="" if {row.status for row in rows} == {"skipped"} else "`bench run` trains what is missing.",
        )
    row = finished[0]
    if damage := run.damage(row.cell):
        raise IntegrityError(
            f"{run.cells / row.cell} is damaged: {'; '.join(damage[:4])}",
            cause="A file was changed, or the disk has a fault.",
            fix="`bench run --force` trains the cell again; `bench verify` checks all cells.",
        )
    notes = [f"{row.cell}: the first of {len(finished)} finished cells"] if len(finished) > 1 else []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(run.cells / row.cell, plugins)
    notes += [str(w.message) for w in caught if w.category is UserWarning]
    return TrainedCell(run, row, model, data_root), "\n".join(notes)


def _rows(text: str, variant: str | None) -> tuple[Run, list[Row], str | None]:
    """Return the run and the rows that a text names, in the order of the run's table, and the variant in the text."""
    path = text
    if not Path(text).exists():
        heads = [text[:i] for i, letter in enumerate(text) if letter == ":"]
        if (head := next((h for h in heads if (Path(h) / "run.json").is_file()), None)) is not None:
            if variant is not None:
                raise UsageError(f"{text} names a variant already", fix="Leave out --variant.")
            path, variant = head, text[len(head) + 1 :]
    run, names = cells(path)
    request = run.request() if run.exists() else RunRequest()
    rows = in_order(filter(None, map(run.row, names)), request)
    if variant is not None and rows and variant not in {name for row in rows for name in (row.label, row.variant)}:
        raise UnknownName("variant in this run", variant, {row.label for row in rows})
    return run, rows, variant


# pictures


def samples(cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Return images that the model draws (decoder means); for a conditional model a row for each class."""
    title = f"{cell.name} · samples, seed {seed}"
    if isinstance(cell.model, HoldsSamples):
        held = cell.model.held_samples()
        _refuse_classes(cell, classes)
        n = _at_most(n, min(MOST, len(held)), "samples", 4 * ACROSS)
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))
        return Sheet(f"{title}, of {len(held):,} that it holds", rows_of(held[order[:n]], ACROSS))
    model = cell.able(Samples, "samples")
    if cell.conditional:
        wanted = cell.class_numbers(classes) or list(range(cell.model.spec.classes))
        n = _at_most(n, MOST, "samples", 10 * len(wanted))
        counts = [len(part) for part in torch.arange(n).tensor_split(len(wanted)) if len(part)]
        y = torch.cat([torch.full((count,), c) for count, c in zip(counts, wanted, strict=False)])
    else:
        _refuse_classes(cell, classes)
        y = torch.full((_at_most(n, MOST, "samples", 4 * ACROSS),), -1)
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        images = torch.cat([to_uint8(model.sample(part)) for part in torch.split(y, CHUNK)])
    if not cell.conditional:
        return Sheet(title, rows_of(images, ACROSS))
    rows, labels = [], []
    for c, of_class in zip(wanted, torch.split(images, counts), strict=False):
        for i, row in enumerate(rows_of(of_class, ACROSS)):
            rows.append(row)
            labels.append("" if i else cell.classes[c])
    return Sheet(title, rows, labels)


def _refuse_classes(cell: TrainedCell, classes: Sequence[str]) -> None:
    if cell.class_numbers(classes):
        raise UsageError(
            f"{cell.row.label} doesn't draw by class",
            cause="The model uses no labels, so its samples are of any class.",
            fix="Leave out --class, or choose a conditional variant.",
        )


def reconstructions(cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Return test images, the decoded images of their codes, and the difference."""
    encoder, decoder = cell.able(Encodes, "reconstructions"), cell.able(Decodes, "reconstructions")
    count = _at_most(n, MOST // 3 // ACROSS * ACROSS, "reconstructions", 2 * ACROSS)
    index = _positions(cell, count, seed, classes, fewer=n is None)
    rows: list[Tensor] = []
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        for x, y in _batches(cell.data.test, index, ACROSS):
            decoded = to_uint8(decoder.decode(encoder.encode(x, y), y))
            rows += [to_uint8(x), decoded, to_uint8((x - to_float(decoded)).abs())]
    title = f"{cell.name} · reconstructions; error: |difference|, black is none"
    return Sheet(title, rows, ["image", "decoded", "error"] * (len(rows) // 3), apart=3)


def interpolations(cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Return decoded straight lines between the codes of two test images, of two classes if there are several.

    A conditional decoder is given the label of the nearer image.
    """
    _refuse_discrete(cell, "interpolations")
    encoder, decoder = cell.able(Encodes, "interpolations"), cell.able(Decodes, "interpolations")
    if len(classes) > 2:
        raise UsageError(
            "an interpolation has two ends", fix="Use --class A,B to go from A to B, or --class A to stay within A."
        )
    images = cell.data.test
    starts, ends = _ends(cell, _at_most(n, 64, "strips", 6), seed, cell.class_numbers(classes))
    t = torch.linspace(0, 1, STEPS)
    rows, labels = [], []
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        for x, y in _batches(images, torch.stack([starts, ends], 1).flatten(), 2):
            a, b = encoder.encode(x, y)
            decoded = to_uint8(decoder.decode(torch.lerp(a, b, t[:, None]), torch.where(t < 0.5, y[0], y[1])))
            rows.append(torch.cat([to_uint8(x[:1]), decoded, to_uint8(x[1:])]))
            labels.append(" to ".join(cell.classes[c] for c in y.tolist()) if cell.classes else "")
    heads = ["image", *(f"{v:g}" for v in t.tolist()), "image"]
    title = f"{cell.name} · between the codes of two test images"
    return Sheet(title + (", with the label of the nearer one" if cell.conditional else ""), rows, labels, heads)


def _ends(cell: TrainedCell, n: int, seed: int, wanted: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the positions in the test split of the first and the last images of n strips."""
    images = cell.data.test
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels(order, "cpu")
    if not wanted and images.labelled and len(torch.unique(labels)) > 1:
        first = order[torch.arange(n) % len(order)]
        others = [order[labels != c] for c in images.labels(first, "cpu").tolist()]
        return first, torch.stack([other[(n + i) % len(other)] for i, other in enumerate(others)])
    pools = [order[labels == c] for c in wanted] or [order]
    need = 2 * n if len(pools) == 1 else n
    if (few := min(map(len, pools))) < need:
        raise UsageError(
            f"{n} strips need {need} test images" + (" of each class" if wanted else ""),
            cause=f"{cell.row.dataset} has {counted(few, 'such test image')}.",
            fix="Ask for fewer with --n.",
        )
    return pools[0][:n], (pools[0][n : 2 * n] if len(pools) == 1 else pools[1][:n])


def traversals(cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Return decoded images of a test image's code with one unit at a time moved, the most active units first.

    The activity of a unit is the variance of its code over images (Burda et al. 2016).
    """
    _refuse_discrete(cell, "traversals")
    encoder, decoder = cell.able(Encodes, "traversals"), cell.able(Decodes, "traversals")
    where = _positions(cell, 1, seed, classes)
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        codes = _codes(cell, cell.data.test, _positions(cell, OBSERVED, 0, (), fewer=True))
        mean, sd = codes.mean(0), codes.std(0, unbiased=False)
        units = sd.argsort(descending=True, stable=True)
        if n is not None and n > len(units):
            raise UsageError(
                f"{cell.row.label} has {counted(len(units), 'unit')}, not {n}",
                fix=f"Ask for at most {len(units)} with --n.",
            )
        units = units[: _at_most(n, 64, "units", 10)]
        ((x, y),) = _batches(cell.data.test, where)
        z = encoder.encode(x, y)
        reach = torch.linspace(-REACH, REACH, ACROSS - 1)
        rows = []
        for unit in units.tolist():
            moved = z.repeat(len(reach), 1)
            moved[:, unit] = mean[unit] + reach * sd[unit]
            rows.append(torch.cat([to_uint8(x), to_uint8(decoder.decode(moved, y.expand(len(reach))))]))
    title = f"{cell.name} · one unit at a time from −3 to 3 standard deviations of its codes, the most active first"
    heads = ["image", *(f"{v:+.1f}".replace("-", "\u2212") if abs(v) > 1e-6 else "mean" for v in reach.tolist())]
    labels = [f"z[{unit}], sd {sd[unit]:.2f}" for unit in units.tolist()]
    return Sheet(title, rows, labels, heads)


def plane(cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Scatter:
    """Return the codes of test images in two dimensions, coloured by class.

    Codes of one dimension are in a band for each class; of more than two, principal components are shown.
    """
    cell.able(Encodes, "codes")
    index = _positions(cell, 2_000 if n is None else n, seed, classes, fewer=n is None)
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        codes = _codes(cell, cell.data.test, index)
    found = code_plane(codes, cell.data.test.labels(index, "cpu"))
    title = f"{cell.name} · codes of {len(index):,} test images"
    return Scatter(title, found.at, found.labels, cell.classes, found.axes, bands=found.flat)


@dataclass(frozen=True)
class Encoded:
    """Codes of a split's images: vectors (N, d) float32, or discrete codes as indices (N, L) int64.

    `labels` (N,) are -1 without labels; `index` (N,) is the position in the split.
    """

    codes: Tensor
    labels: Tensor
    index: Tensor


def encode(
    cell: TrainedCell, n: int | None = None, seed: int = 0, classes: Sequence[str] = (), split: str = "test"
) -> Encoded:
    """Return the codes of all images of a split, or of `n` images drawn by `seed`, in the order of the split."""
    discrete = isinstance(cell.model, HasCodes)
    cell.able(HasCodes if discrete else Encodes, "codes")
    images = cell.data.train if split == "train" else cell.data.test
    index = _positions(cell, len(images) if n is None else n, seed, classes, fewer=n is None, images=images)
    index = index.sort().values
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        codes = _codes(cell, images, index, discrete=discrete)
    return Encoded(codes, images.labels(index, "cpu"), index)


def _codes(cell: TrainedCell, images: Images, index: Tensor, *, discrete: bool = False) -> Tensor:
    model: Any = cell.model
    return torch.cat([model.codes(x).long() if discrete else model.encode(x, y).float()
                      for x, y in _batches(images, index)])  # fmt: skip


def _batches(images: Images, index: Tensor, size: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and labels at `index`."""
    for part in torch.split(index, size):
        yield to_float(images.take(part, "cpu")), images.labels(part, "cpu")


def _refuse_discrete(cell: TrainedCell, picture: str) -> None:
    if isinstance(cell.model, HasCodes):
        raise cell.lacking(picture, "its codes are discrete: there is nothing between two of them")


def _at_most(n: int | None, most: int, things: str, default: int) -> int:
    """Return `n`, or by default `default` or as many as there may be."""
    if n is not None and n > most:
        raise UsageError(f"--n {n:,} is too large for a picture", fix=f"Ask for at most {most:,} {things}.")
    return min(default, most) if n is None else n


def _positions(
    cell: TrainedCell, n: int, seed: int, classes: Sequence[str], *, fewer: bool = False, images: Images | None = None
) -> Tensor:
    """Return the positions of `n` images of the test split (or of `images`) drawn by `seed`, split over `classes`.

    Raises:
        UsageError: there are fewer than n images, and `fewer` is False, or there is none.
    """
    images = images or cell.data.test
    wanted = cell.class_numbers(classes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = images.labels(order, "cpu")
    pools = [order[labels == c] for c in wanted] or [order]
    shares = [len(part) for part in torch.arange(n).tensor_split(len(pools))]
    kinds = [f" of class {cell.classes[c]}" for c in wanted] or [""]
    for pool, share, kind in zip(pools, shares, kinds, strict=True):
        if len(pool) < (min(share, 1) if fewer else share):
            raise UsageError(
                f"{cell.row.dataset} has {len(pool):,} images{kind} in this split, not {share:,}",
                fix="Ask for fewer with --n.",
            )
    return torch.cat([pool[:share] for pool, share in zip(pools, shares, strict=True)])
