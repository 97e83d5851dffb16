"""The contract of a dataset: its files, and the splits that are read from them.

    class Digits(Dataset):
        def load(self, root: Path) -> Splits: ...

The keyword arguments of `__init__` are its options (`folder[image_size=32]:PATH`, `--image-size`); a first positional
argument is the text after the colon (`folder:PATH`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bench.contracts.images import Images
from bench.plugins.registry import Registry
from bench.util.errors import UsageError
from bench.util.places import cache_dir

Progress = Callable[[str, int, int], None]  #: what is being done, bytes so far, bytes in all (0: not known)


@dataclass(frozen=True)
class File:
    """A file of a dataset: its `path` under the data root, its addresses, and its expected content."""

    path: str
    urls: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True)
class Splits:
    """The source's own splits. Training uses all of `train`; `test` is scored.

    If the source has a validation split, validation images come from it instead of from `train`.
    """

    train: Images
    test: Images
    outliers: Images | None = None  #: images of a kind that `train` and `test` do not have
    factors: Tensor | None = None  #: (N, F) int64: the value of each generative factor of each image of `test`
    validation: Images | None = None  #: of the shape and classes of `train`; None: carved out of `train`
    notes: tuple[str, ...] = ()  #: remarks for users on how the images were read, one line each


class Dataset(ABC):
    """A source of images.

    `load` reads the files under `root` without any network; `bench.data.fetch` puts `files` there first. Raise
    `DataError` if something is missing or damaged.
    """

    title: ClassVar[str] = ""  #: one line for `bench list`
    license: ClassVar[str] = ""
    files: ClassVar[tuple[File, ...]] = ()  #: required under the data root; () for embedded or the user's own images
    latent_dim: ClassVar[int | None] = None  #: size of z for all variants; None: by image shape
    steps: ClassVar[int | None] = None  #: training budget; None: by image shape
    on_progress: Progress | None = None  #: set by callers of `load` that show progress

    @classmethod
    def suits(cls, path: Path) -> bool:
        """Return whether this dataset can read `path`; errors about a bare path then suggest it."""
        return False

    def say(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report what `load` is doing, and `done` of `total` bytes if known."""
        if self.on_progress is not None:
            self.on_progress(what, done, total)

    @property
    def cache(self) -> Path:
        """The place for folders of decoded images; in each, `of` in copy.json names their source."""
        return cache_dir() / "decoded"

    def ready(self, root: Path) -> bool:
        """Return whether all files are under `root`, so that nothing has to be downloaded."""
        return all((root / file.path).exists() for file in self.files)

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the splits under the data `root`.

        Raises:
            DataError: something is missing, damaged or not as declared.
        """


@dataclass(frozen=True)
class Data:
    """A dataset as a run uses it."""

    name: str  #: as the user typed it, or the name given to it ('folder:PATH as faces')
    train: Images
    test: Images  #: the scored images: the test split, or validation images
    source: Images  #: the source's whole training split, for references and feature networks
    latent_dim: int
    steps: int
    likelihood: str
    limit: int | None = None
    validation: int = 0
    outliers: Images | None = None  #: of a kind that `train` does not have
    factors: Tensor | None = None  #: (N, F) int64, of `test`
    held: Tensor | None = None  #: positions in `source` of the images of `test`, if carved out of it
    own_validation: bool = False  #: whether the source has a validation split of its own
    notes: tuple[str, ...] = ()  #: remarks for users, one line each

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def _is_dataset(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Dataset) else "not a subclass of bench.Dataset"


DATASETS: Registry[type[Dataset]] = Registry("bench.datasets", "dataset", _is_dataset)


def defaults(shape: tuple[int, int, int]) -> tuple[int, int, str]:
    """Return latent size, steps and likelihood for images of `shape`, if the dataset sets none."""
    c, h, w = shape
    side = max(h, w)
    if side <= 16:
        latent_dim, steps = 8, 2_000
    elif side <= 28 or c == 1:
        latent_dim, steps = 20, 4_690
    else:
        latent_dim, steps = (128, 20_000) if side < 64 else (64, 20_000)
    return latent_dim, steps, "bernoulli" if c == 1 else "logistic"


def prepare(
    name: str, dataset: Dataset, splits: Splits, *, limit: int | None = None, validation: int = 0, split: str = "test"
) -> Data:
    """Apply `--limit` and `--validation` to the splits, by a fixed seed, and the default sizes.

    With `split` 'validation', validation images take the place of the test split: the source's own (all by default),
    else images carved out of the training split (a sixth of it by default).

    Raises:
        UsageError: more images are requested than there are.
    """
    train, test, own, n = splits.train, splits.test, splits.validation, len(splits.train)
    if own is not None and validation > len(own):
        raise UsageError(
            f"{name!r} has a validation split of {len(own):,} images, fewer than --validation {validation}",
            fix="Leave out --validation to use all of them.",
        )
    if split == "validation" and own is None and not validation:
        validation = n // 6
    carved = validation if own is None else 0
    if carved + (limit or 1) > n:
        raise UsageError(
            f"{name!r} has {n:,} training images, too few for --limit {limit or 'all'} and --validation {carved}",
            fix=f"Give at most {n:,} in total.",
        )
    order, held = _shuffled(n), None
    if limit is not None or carved:
        last = None if limit is None else carved + limit
        train = train.subset(order[carved:last].sort().values)
    if split == "validation" and own is not None:
        test = own.subset(_shuffled(len(own))[:validation].sort().values) if validation else own
    elif split == "validation" and carved:
        held = order[:carved].sort().values
        test = splits.train.subset(held)
    latent_dim, steps, likelihood = defaults(train.shape)
    return Data(
        name=name,
        train=train,
        test=test if test is splits.test else _draw_once(test),
        source=splits.train,
        latent_dim=dataset.latent_dim or latent_dim,
        steps=dataset.steps or steps,
        likelihood=likelihood,
        limit=limit,
        validation=validation,
        outliers=splits.outliers,
        factors=splits.factors if split == "test" else None,
        held=held,
        own_validation=own is not None,
        notes=tuple(f"{name}: {note}" for note in splits.notes),
    )


def _shuffled(n: int) -> Tensor:
    """Return the numbers from 0 to n - 1 in an order that is the same on every machine."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def _draw_once(images: Images) -> Images:
    """Return images to be scored: if each presentation draws their pixels anew, draw them once by a fixed seed."""
    if not images.redrawn:
        return images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Images(images.take(torch.arange(len(images)), "cpu"), images.labels(), images.classes)


__all__ = ["DATASETS", "Data", "Dataset", "File", "Progress", "Splits", "defaults", "prepare"]
