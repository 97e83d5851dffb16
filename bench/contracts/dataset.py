"""The contract of a dataset: where its files come from, and the splits they hold.

    class Digits(Dataset):
        def load(self, root: Path) -> Splits: ...

The keyword arguments of `__init__` are its options (`folder[image_size=32]:PATH`, `--image-size`); a first positional
argument is what the user types behind the colon (`folder:PATH`).
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
    """A file that a dataset is made of: `path` under the data root, where to get it, and what it must be."""

    path: str
    urls: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True)
class Splits:
    """The source's own splits. Training uses all of `train`; `test` is what is scored.

    Where the source has a validation split of its own, validation images are that, and `train` gives none away.
    """

    train: Images
    test: Images
    outliers: Images | None = None  #: images of a kind that `train` and `test` don't have
    factors: Tensor | None = None  #: (N, F) int64: the value of each generative factor of each image of `test`
    validation: Images | None = None  #: of the shape and the classes of `train`; None: carved out of `train`
    notes: tuple[str, ...] = ()  #: what a user should know of how they were read, a line each


class Dataset(ABC):
    """A source of images.

    `load` reads what is under `root` and uses no network; `bench.data.fetch` brings `files` there first. Raise
    `DataError` for what is missing or damaged.
    """

    title: ClassVar[str] = ""  #: one line for `bench list`
    license: ClassVar[str] = ""
    files: ClassVar[tuple[File, ...]] = ()  #: what must be under the data root; () for embedded or the user's own
    latent_dim: ClassVar[int | None] = None  #: size of z for all variants; None: by image shape
    steps: ClassVar[int | None] = None  #: training budget; None: by image shape
    on_progress: Progress | None = None  #: set by who calls `load` and wants to be told how far it is

    @classmethod
    def suits(cls, path: Path) -> bool:
        """Return whether this dataset reads what lies at `path`: an error about a bare path then suggests it."""
        return False

    def say(self, what: str, done: int = 0, total: int = 0) -> None:
        """Tell who waits for `load` what it's at: `done` of `total` bytes, where that is known."""
        if self.on_progress is not None:
            self.on_progress(what, done, total)

    @property
    def cache(self) -> Path:
        """Where `load` may keep decoded images: a folder each, whose copy.json says in `of` what they are of."""
        return cache_dir() / "decoded"

    def ready(self, root: Path) -> bool:
        """Whether `load` will find all it needs under `root`, without a download."""
        return all((root / file.path).exists() for file in self.files)

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the splits under the data `root`.

        Raises:
            DataError: something is missing, damaged or not as it should be.
        """


@dataclass(frozen=True)
class Data:
    """A dataset as a run uses it."""

    name: str  #: as the user typed it, or the name that was given ('folder:PATH as faces')
    train: Images  #: what is trained on
    test: Images  #: what is scored
    source: Images  #: the source's whole training split: references and feature networks come from it
    latent_dim: int
    steps: int
    likelihood: str
    limit: int | None = None
    validation: int = 0
    outliers: Images | None = None  #: of a kind that it wasn't trained on
    factors: Tensor | None = None  #: (N, F) int64, of `test`
    held: Tensor | None = None  #: positions in `source` of the images of `test`, where they were carved out of it
    own_validation: bool = False  #: whether validation images are a split of the source's own, and not out of `source`
    notes: tuple[str, ...] = ()  #: what a user should know of it, a line each

    @property
    def classes(self) -> int:
        return len(self.train.classes)


def _is_dataset(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Dataset) else "not a subclass of bench.Dataset"


DATASETS: Registry[type[Dataset]] = Registry("bench.datasets", "dataset", _is_dataset)


def defaults(shape: tuple[int, int, int]) -> tuple[int, int, str]:
    """Latent size, steps and likelihood for images of `shape`, where the dataset names none of its own."""
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
    name: str,
    dataset: Dataset,
    splits: Splits,
    *,
    limit: int | None = None,
    validation: int = 0,
    split: str = "test",
) -> Data:
    """Apply `--limit` and `--validation` to the splits, by a fixed seed, and settle the defaults.

    With `split` 'validation' validation images stand in the place of the test split: the source's own, all of them
    by default; else they are carved out of the training split, a sixth of it by default.

    Raises:
        UsageError: more images asked for than there are.
    """
    latent_dim, steps, likelihood = defaults(splits.train.shape)
    own = splits.validation
    if own is not None and validation > len(own):
        raise UsageError(
            f"{name!r} has a validation split of {len(own):,} images: --validation {validation} asks for more",
            fix="Leave out --validation: all of them are used.",
        )
    train, test, n = splits.train, splits.test, len(splits.train)
    held = None
    if split == "validation" and own is None and not validation:
        validation = n // 6
    carved = validation if own is None else 0
    if carved + (limit or 1) > n:
        raise UsageError(
            f"{name!r} has {n:,} training images: --limit {limit or 'all'} and --validation {carved} ask for more",
            fix=f"Ask for at most {n:,} together.",
        )
    if limit is not None or carved:
        order = _shuffled(n)
        keep = order[carved:] if limit is None else order[carved : carved + limit]
        train = train.subset(keep.sort().values)
        if split == "validation" and carved:
            held = order[:carved].sort().values
            test = _settled(splits.train.subset(held))
    if split == "validation" and own is not None:
        part = own.subset(_shuffled(len(own))[:validation].sort().values) if validation else own
        test = _settled(part)
    return Data(
        name,
        train,
        test,
        splits.train,
        dataset.latent_dim or latent_dim,
        dataset.steps or steps,
        likelihood,
        limit,
        validation,
        splits.outliers,
        splits.factors if split == "test" else None,
        held,
        own is not None,
        tuple(f"{name}: {note}" for note in splits.notes),
    )


def _shuffled(n: int) -> Tensor:
    """The numbers from 0 to n - 1 in an order that is the same for everybody."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def _settled(images: Images) -> Images:
    """Images to be scored: drawn once, by a fixed seed, where each presentation to a training draws them anew."""
    if not images.redrawn:
        return images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Images(images.take(torch.arange(len(images)), "cpu"), images.labels(), images.classes)


__all__ = ["DATASETS", "Data", "Dataset", "File", "Progress", "Splits", "defaults", "prepare"]
