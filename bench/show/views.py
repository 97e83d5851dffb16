"""What one looks at of a trained model: its samples, reconstructions, ways through its codes, and their plane.

Each asks for the abilities it needs and for no name; a model that lacks one is told so with the reason.
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
from bench.util.errors import DataError, IntegrityError, PluginError, StoreError, UnknownName, UsageError

CHUNK = 200  #: images a call of the model
MOST = 1_024  #: images on one sheet: more can't be told apart
ACROSS = 12  #: images a row
STEPS = 9  #: pictures of a way from one image to another, both ends' reconstructions among them
REACH = 3.0  #: standard deviations that a traversal goes to either side
OBSERVED = 1_000  #: test images whose codes say how far a unit moves
A = TypeVar("A")


@dataclass(frozen=True)
class Trained:
    """A finished cell: its row, its model on the CPU, and the data that it was made with."""

    run: Run
    row: Row
    model: Variant
    data_root: str | None = None

    @property
    def name(self) -> str:
        """What its pictures are headed by."""
        return f"{self.row.label} · {self.row.dataset} · seed {self.row.seed}"

    @cached_property
    def data(self) -> Data:
        """Its dataset, as it lies on this machine.

        Raises:
            DataError: it doesn't.
        """
        return data_of(self.row, self.run.request() if self.run.exists() else RunRequest(), self.data_root)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; numbers where the dataset isn't at hand."""
        try:
            return self.data.train.classes
        except (DataError, PluginError):
            return tuple(map(str, range(self.model.spec.classes)))

    @property
    def conditional(self) -> bool:
        """Whether labels reach its networks."""
        return self.model.uses_labels and self.model.spec.classes > 0

    def able(self, ability: type[A], what: str) -> A:
        """Its model, known to have an ability.

        Raises:
            UsageError: it hasn't, so there is no `what`; with the reason.
        """
        if (reason := why_not(self.model, ability)) is not None:
            raise self.lacking(what, reason)
        able: Any = self.model
        return able  # type: ignore[no-any-return]

    def lacking(self, what: str, reason: str) -> UsageError:
        """That there is no `what` of it, and why."""
        return UsageError(
            f"{self.row.label} has no {what}",
            cause=f"{reason[:1].upper()}{reason[1:].rstrip('.')}.",
            fix=f"Another variant of the run may: --variant LABEL. The cell was {self.row.cell}.",
        )

    def numbers(self, asked: Sequence[str]) -> list[int]:
        """The classes that are called so, or have these numbers.

        Raises:
            UsageError: the dataset has no labels, or no such class.
        """
        if asked and not self.classes:
            raise UsageError(
                f"{self.row.dataset} has no labels, so --class {','.join(asked)} says nothing", fix="Leave out --class."
            )
        return [_class_number(text, self.classes, self.row.dataset) for text in dict.fromkeys(asked)]


def _class_number(text: str, classes: Sequence[str], dataset: str) -> int:
    if text in classes:  # which may differ in nothing but their case
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
            fix=f"They are called {_some(classes)}.",
        )
    raise UnknownName("class", text, classes, fix=f"Or by number, 0 to {len(classes) - 1}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def trained(
    text: str,
    variant: str | None = None,
    seed: int | None = None,
    data_root: str | None = None,
    plugins: Sequence[str] = (),
) -> tuple[Trained, str]:
    """The finished cell that `text` names, and a note where it was the first of several.

    Args:
        text: a cell's folder, a run's, RUN:VARIANT, or the beginning of cells' names in a run.
        variant: a label of the run, such as 'beta[beta=4]', or a variant's name.
        seed: the one that the cell was trained with.
        plugins: what it was trained with that isn't installed, as `bench.load` takes it.

    Raises:
        PluginError: its variant, or a network of it, is neither installed nor among `plugins`.
        StoreError: nothing lies there, or nothing finished.
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
            raise UsageError(f"no cell was trained with seed {seed}", cause=f"There are {', '.join(map(str, seeds))}.")
    finished = [row for row in rows if row.status == "ok"]
    if not finished:
        raise StoreError(
            f"{run.path} has no finished cell" + (f" of {variant}" if variant else ""),
            cause="\n".join(f"{row.cell}: {row.status}: {row.reason}" for row in rows[:6]) or "Nothing has ended yet.",
            fix="" if {row.status for row in rows} == {"skipped"} else "`bench run` does what is missing.",
        )
    row = finished[0]
    note = f"{row.cell}: the first of {len(finished)} finished cells" if len(finished) > 1 else ""
    if wrong := run.damage(row.cell):
        raise IntegrityError(
            f"{run.cells / row.cell} is damaged: {'; '.join(wrong[:4])}",
            cause="A file was changed, or the disk has.",
            fix="`bench run --force` makes it anew, and `bench verify` looks at the others.",
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(run.cells / row.cell, plugins)
    told = [note, *(str(w.message) for w in caught if w.category is UserWarning)]
    return Trained(run, row, model, data_root), "\n".join(filter(None, told))


def _rows(text: str, variant: str | None) -> tuple[Run, list[Row], str | None]:
    """The rows that a text names, in the order of the run's table, and the variant that it asks for."""
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


# what is shown


def samples(cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Images that the model draws, decoder means; of a conditional one, a row for each class.

    Raises:
        UsageError: it can't, isn't asked by class, or `n` is too large.
    """
    title = f"{cell.name} · samples, seed {seed}"
    if isinstance(cell.model, HoldsSamples):
        held = cell.model.held_samples()
        _refuse_classes(cell, classes)
        n = _count(n, 4 * ACROSS, min(MOST, len(held)), "samples")
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))
        return Sheet(f"{title}, of {len(held):,} that it holds", rows_of(held[order[:n]], ACROSS))
    model = cell.able(Samples, "samples")
    if not cell.conditional:
        _refuse_classes(cell, classes)
        n = _count(n, 4 * ACROSS, MOST, "samples")
        with torch.inference_mode(), seeded(seed, torch.device("cpu")):
            drawn = [
                to_uint8(model.sample(torch.full((len(part),), -1))) for part in torch.split(torch.arange(n), CHUNK)
            ]
        return Sheet(title, rows_of(torch.cat(drawn), ACROSS))
    wanted = cell.numbers(classes) or list(range(cell.model.spec.classes))
    n = _count(n, 10 * len(wanted), MOST, "samples")
    counts = [len(part) for part in torch.arange(n).tensor_split(len(wanted)) if len(part)]
    y = torch.cat([torch.full((count,), c) for count, c in zip(counts, wanted, strict=False)])
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        images = torch.cat([to_uint8(model.sample(part)) for part in torch.split(y, CHUNK)])
    rows, labels = [], []
    for c, drawn_of in zip(wanted, torch.split(images, counts), strict=False):
        for i, row in enumerate(rows_of(drawn_of, ACROSS)):
            rows.append(row)
            labels.append("" if i else cell.classes[c])
    return Sheet(title, rows, labels)


def _refuse_classes(cell: Trained, classes: Sequence[str]) -> None:
    if cell.numbers(classes):
        raise UsageError(
            f"{cell.row.label} doesn't draw by class",
            cause="It uses no labels, so its samples are of any class.",
            fix="Leave out --class, or take a conditional variant.",
        )


def reconstructions(cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Test images, what becomes of their codes, and by how much that differs.

    Raises:
        UsageError, DataError
    """
    encoder, decoder = cell.able(Encodes, "reconstructions"), cell.able(Decodes, "reconstructions")
    index = _drawn(
        cell, _limit(n, 2 * ACROSS, MOST // 3 // ACROSS * ACROSS, "reconstructions"), seed, classes, free=n is None
    )
    rows: list[Tensor] = []
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        for part in torch.split(index, ACROSS):
            x, y = to_float(cell.data.test.take(part, "cpu")), cell.data.test.labels(part, "cpu")
            decoded = to_uint8(decoder.decode(encoder.encode(x, y), y))
            rows += [to_uint8(x), decoded, to_uint8((x - to_float(decoded)).abs())]
    title = f"{cell.name} · reconstructions; error: |difference|, black is none"
    return Sheet(title, rows, ["image", "decoded", "error"] * (len(rows) // 3), apart=3)


def interpolations(cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """Straight lines between the codes of two test images, decoded; of two classes where there are such.

    A conditional decoder is given the label of the nearer image.

    Raises:
        UsageError, DataError
    """
    _continuous(cell, "interpolations")
    encoder, decoder = cell.able(Encodes, "interpolations"), cell.able(Decodes, "interpolations")
    if len(classes) > 2:
        raise UsageError("an interpolation has two ends", fix="--class A,B goes from A to B, and --class A stays in A.")
    n = _limit(n, 6, 64, "strips")
    images = cell.data.test
    starts, ends = _ends(cell, n, seed, cell.numbers(classes))
    t = torch.linspace(0, 1, STEPS)
    rows = []
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        for pair in torch.stack([starts, ends], 1):
            x, y = to_float(images.take(pair, "cpu")), images.labels(pair, "cpu")
            a, b = encoder.encode(x, y)
            z = torch.lerp(a, b, t[:, None])
            decoded = to_uint8(decoder.decode(z, torch.where(t < 0.5, y[0], y[1])))
            rows.append(torch.cat([to_uint8(x[:1]), decoded, to_uint8(x[1:])]))
    heads = ["image", *(f"{v:g}" for v in t.tolist()), "image"]
    labels = _pair_names(cell, starts, ends) if cell.classes else [""] * len(rows)
    title = f"{cell.name} · between the codes of two test images"
    return Sheet(title + (", given the nearer one's label" if cell.conditional else ""), rows, labels, heads)


def _pair_names(cell: Trained, starts: Tensor, ends: Tensor) -> list[str]:
    a, b = (cell.data.test.labels(where, "cpu").tolist() for where in (starts, ends))
    return [f"{cell.classes[i]} to {cell.classes[j]}" for i, j in zip(a, b, strict=True)]


def _ends(cell: Trained, n: int, seed: int, wanted: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where n strips start and end in the test split."""
    images, generator = cell.data.test, torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    labels = images.labels(order, "cpu")
    of = [order[labels == c] for c in wanted] or [order]
    if not wanted and images.labelled and len(torch.unique(labels)) > 1:
        first = order[torch.arange(n) % len(order)]
        differ = [order[labels != c] for c in images.labels(first, "cpu").tolist()]
        return first, torch.stack([others[(n + i) % len(others)] for i, others in enumerate(differ)])
    need = 2 * n if len(of) == 1 else n
    if (few := min(map(len, of))) < need:
        raise UsageError(
            f"{n} strips need {need} test images" + (" of each class" if wanted else ""),
            cause=f"{cell.row.dataset} has {few:,} such test image{'' if few == 1 else 's'}.",
            fix="Ask for fewer with --n.",
        )
    return (of[0][:n], of[0][n : 2 * n]) if len(of) == 1 else (of[0][:n], of[1][:n])


def traversals(cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Sheet:
    """The most active units of a code moved one at a time, the others left as they are in a test image's code.

    A unit is the more active the more its code differs between images (Burda et al. 2016).

    Raises:
        UsageError, DataError
    """
    _continuous(cell, "traversals")
    encoder, decoder = cell.able(Encodes, "traversals"), cell.able(Decodes, "traversals")
    (where,) = _drawn(cell, 1, seed, classes).tolist()
    images = cell.data.test
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        codes = _codes(cell, _drawn(cell, OBSERVED, 0, (), free=True))
        mean, sd = codes.mean(0), codes.std(0, unbiased=False)
        units = sd.argsort(descending=True, stable=True)
        if n is not None and n > len(units):
            raise UsageError(
                f"{cell.row.label} has {len(units)} unit{'' if len(units) == 1 else 's'}, not {n}",
                fix=f"Ask for at most {len(units)} with --n.",
            )
        units = units[: _limit(n, 10, 64, "units")]
        x, y = to_float(images.take(torch.tensor([where]), "cpu")), images.labels(torch.tensor([where]), "cpu")
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


def plane(cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = ()) -> Scatter:
    """Codes of test images in two dimensions, coloured by class: the axes themselves, or principal components.

    Of one dimension, a band for each class.

    Raises:
        UsageError, DataError
    """
    cell.able(Encodes, "codes")
    index = _drawn(cell, 2_000 if n is None else n, seed, classes, free=n is None)
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        codes = _codes(cell, index)
    labels = cell.data.test.labels(index, "cpu")
    title = f"{cell.name} · codes of {len(index):,} test images"
    if codes.shape[1] == 1:
        rank = torch.unique(labels, return_inverse=True)[1].float()
        jitter = 0.7 * torch.rand(len(rank), generator=torch.Generator().manual_seed(seed)) - 0.35
        points = torch.stack([codes[:, 0], rank + jitter], 1)
        return Scatter(title, points, labels, cell.classes, ("z[0]", ""), bands=True)
    if codes.shape[1] == 2:
        return Scatter(title, codes, labels, cell.classes, ("z[0]", "z[1]"))
    points, axes = _principal(codes)
    return Scatter(title, points, labels, cell.classes, axes)


def _principal(codes: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """The first two principal components (N, 2), and what they are called."""
    from sklearn.decomposition import PCA

    if len(codes) < 3:
        raise UsageError(
            f"{len(codes)} code{'' if len(codes) == 1 else 's'} span no plane",
            fix="Ask for more images with --n.",
        )
    first, second = names = ("principal component 1", "principal component 2")
    if bool((codes == codes[0]).all()):
        return torch.zeros(len(codes), 2), names
    found = PCA(2, random_state=0)
    points = torch.from_numpy(found.fit_transform(codes.double().numpy())).float()
    a, b = (f"({share:.0%} of the variance)".replace("%", " %") for share in found.explained_variance_ratio_.tolist())
    return points, (f"{first} {a}", f"{second} {b}")


@dataclass(frozen=True)
class Encoded:
    """Codes of a split's images: vectors (N, d) float32, or indices (N, L) int64 where they are discrete.

    `labels` (N,) are -1 where there are none; `index` (N,) is the position in the split.
    """

    codes: Tensor
    labels: Tensor
    index: Tensor


def encode(
    cell: Trained, n: int | None = None, seed: int = 0, classes: Sequence[str] = (), split: str = "test"
) -> Encoded:
    """The codes of all images of a split, or of `n` drawn by `seed`, in the split's order.

    Raises:
        UsageError, DataError
    """
    discrete = isinstance(cell.model, HasCodes)
    cell.able(HasCodes if discrete else Encodes, "codes")
    images = cell.data.train if split == "train" else cell.data.test
    index = _drawn(cell, len(images) if n is None else n, seed, classes, free=n is None, images=images)
    index = index.sort().values
    with torch.inference_mode(), seeded(seed, torch.device("cpu")):
        found = _codes(cell, index, images, discrete=discrete)
    return Encoded(found, images.labels(index, "cpu"), index)


def _codes(cell: Trained, index: Tensor, images: Images | None = None, *, discrete: bool = False) -> Tensor:
    """Codes of the images at `index`, of the test split by default."""
    model: Any = cell.model
    images = images or cell.data.test
    found = []
    for x, y in _batches(images, index):
        found.append(model.codes(x).long() if discrete else model.encode(x, y).float())
    return torch.cat(found)


def _batches(images: Images, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part in torch.split(index, CHUNK):
        yield to_float(images.take(part, "cpu")), images.labels(part, "cpu")


def _continuous(cell: Trained, what: str) -> None:
    if isinstance(cell.model, HasCodes):
        raise cell.lacking(what, "its codes are discrete: between two of them lies none")


def _limit(n: int | None, usual: int, most: int, what: str) -> int:
    n = usual if n is None else n
    if n > most:
        raise UsageError(f"--n {n:,} is too large for a picture", fix=f"Ask for at most {most:,} {what}.")
    return n


def _count(n: int | None, usual: int, most: int, what: str) -> int:
    return min(usual, most) if n is None else _limit(n, usual, most, what)


def _drawn(
    cell: Trained, n: int, seed: int, classes: Sequence[str], *, free: bool = False, images: Images | None = None
) -> Tensor:
    """Positions of `n` images drawn by `seed`, class by class where classes are asked for; `free`: fewer will do.

    Raises:
        UsageError: there aren't so many.
    """
    images = images or cell.data.test
    wanted = cell.numbers(classes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    if not wanted:
        of = [order]
    else:
        labels = images.labels(order, "cpu")
        of = [order[labels == c] for c in wanted]
    shares = [len(part) for part in torch.arange(n).tensor_split(len(of))]
    kinds = [f" of class {cell.classes[c]}" for c in wanted] or [""]
    for there, share, kind in zip(of, shares, kinds, strict=True):
        if len(there) < (1 if free and share else share):
            raise UsageError(
                f"{cell.row.dataset} has {len(there):,} images{kind} in this split, not {share:,}",
                fix="Ask for fewer with --n.",
            )
    return torch.cat([there[:share] for there, share in zip(of, shares, strict=True)])
