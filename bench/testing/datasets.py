"""The suite of a dataset: what `bench.contracts.dataset` promises of it, one check each."""

from __future__ import annotations

import hashlib
import inspect
import random
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from bench import data
from bench.contracts.dataset import Dataset, Splits, prepare
from bench.contracts.images import Images
from bench.engine.snapshot import seeded
from bench.plugins.hyperparameters import hyperparameters
from bench.testing.kit import Check, Failed, Noted, Skipped, where
from bench.util.errors import DataError, UsageError

SHARED = 0.01  # of the test images that may also be training images: a few, as real sources have


@dataclass
class Subject:
    """A dataset under check, read once from where the user's data lie."""

    cls: type[Dataset]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Dataset:
        return self.cls(**self.arguments)

    @cached_property
    def root(self) -> Path:
        return data.data_root()

    @cached_property
    def splits(self) -> Splits:
        dataset = self.make()
        if not dataset.ready(self.root):
            raise Skipped(f"its files aren't under {self.root}: `bench data fetch` brings them")
        return dataset.load(self.root)

    @property
    def look(self) -> str:
        return where(self.cls.load)


def says_what_it_is(subject: Subject) -> None:
    """It has a title, a license where it is fetched, and options that the command line can read."""
    for name, needed in (("title", True), ("license", bool(subject.cls.files))):
        if needed and not getattr(subject.cls, name).strip():
            raise Failed(f"`{name}` is empty", subject.cls.__qualname__, "`bench info` shows it: one line.")
    for name, option in hyperparameters(subject.cls).items():
        if not option.doc or option.default is inspect.Parameter.empty:
            raise Failed(
                f"the option {name} has no {'meaning' if not option.doc else 'default'}",
                where(subject.cls.__init__),
                f'{name}: Annotated[int, Range(1), "what it means"] = 1',
            )
    for name in ("latent_dim", "steps"):
        value = getattr(subject.cls, name)
        if value is not None and (type(value) is not int or value < 1):
            raise Failed(f"`{name}` is {value!r}", subject.cls.__qualname__, "A whole number from 1, or None.")


def declares_its_files(subject: Subject) -> None:
    """Each file has a place under the root, a size, a sha256, and addresses that begin with https."""
    if not subject.cls.files:
        raise Skipped("it has no files to fetch")
    for file in subject.make().files:
        parts = PurePosixPath(file.path).parts
        wrong = [
            (not parts or ".." in parts or file.path.startswith("/"), f"its path {file.path!r} leaves the data root"),
            (file.size < 1, f"its size is {file.size}"),
            (not re.fullmatch(r"[0-9a-f]{64}", file.sha256), f"its sha256 is {file.sha256!r}"),
            (any(urlsplit(url).scheme != "https" for url in file.urls), "an address isn't https"),
        ]
        for bad, why in wrong:
            if bad:
                raise Failed(f"{file.path}: {why}", f"{subject.cls.__qualname__}.files", "See bench.File.")


def tells_what_is_missing(subject: Subject) -> None:
    """Without its files it isn't ready, and `load` raises DataError."""
    if not subject.cls.files:
        raise Skipped("it has no files that could be missing")
    dataset = subject.make()
    with tempfile.TemporaryDirectory() as empty:
        if dataset.ready(Path(empty)):
            raise Failed("it's ready in an empty folder", where(type(dataset).ready), "Only where all files are there.")
        try:
            dataset.load(Path(empty))
        except DataError:
            return
        except Exception as error:
            raise Failed(
                f"without its files `load` raises {type(error).__name__}: {error}",
                subject.look,
                "raise bench.DataError(what is missing, fix=how to get it).",
            ) from None
        raise Failed("without its files `load` returns", subject.look, "raise bench.DataError")


def has_two_splits_alike(subject: Subject) -> None:
    """`train` and `test`, and `validation` where there is one, hold images of one shape, with the same classes."""
    splits = subject.splits
    parts = [splits.train, *_scored(splits).values()] if isinstance(splits, Splits) else [splits]
    if not all(isinstance(part, Images) for part in parts):
        raise Failed(
            f"`load` returned {type(splits).__name__}", subject.look, "bench.Splits(train, test) of bench.Images"
        )
    train, test = splits.train, splits.test
    if not len(train) or not len(test):
        raise Failed(f"{len(train)} training and {len(test)} test images", subject.look, "Neither may be empty.")
    for name, other in _scored(splits).items():
        if not len(other):
            raise Failed(f"{name} has no images", subject.look, "None where there is no such split.")
        for what in ("shape", "classes", "labelled"):
            a, b = getattr(train, what), getattr(other, what)
            if a != b:
                raise Failed(f"{what} is {a} in train and {b} in {name}", subject.look, "The same in both.")


def _scored(splits: Splits) -> dict[str, Images]:
    """The splits that nothing is trained on."""
    return {"test": splits.test} | ({} if splits.validation is None else {"validation": splits.validation})


def has_all_levels(subject: Subject) -> None:
    """Pixels are levels from 0 to 255, and the images aren't all the same."""
    train = subject.splits.train
    some = train.take(torch.linspace(0, len(train) - 1, min(1000, len(train))).long())
    low, high = int(some.min()), int(some.max())
    if high <= 1:
        raise Failed(
            f"the levels go from {low} to {high}",
            subject.look,
            "0 is black and 255 white: numbers from 0 to 1 are to be scaled before they're cast (bench.to_uint8).",
        )
    if len(some) > 1 and bool((some == some[0]).all()):
        raise Failed(f"{len(some)} images are all the same", subject.look, "Different images.")
    if high < 128:
        raise Noted(f"the brightest of {len(some)} images' levels is {high} of 255")


def labels_are_class_indices(subject: Subject) -> None:
    """A label is an index of `classes`; every class has training images; the names differ."""
    train = subject.splits.train
    if not train.labelled:
        raise Skipped("it has no labels")
    k = len(train.classes)
    if k == 0 or len(set(train.classes)) < k:
        raise Failed(f"the classes are called {train.classes}", subject.look, "A name of its own for each class.")
    for name, split in {"train": train, **_scored(subject.splits)}.items():
        y = split.labels()
        if int(y.min()) < 0 or int(y.max()) >= k:
            raise Failed(
                f"labels of {name} go from {int(y.min())} to {int(y.max())}, with {k} classes",
                subject.look,
                f"From 0 to {k - 1}.",
            )
    counts = torch.bincount(train.labels(), minlength=k)
    if empty := [train.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        raise Failed(f"no training image is of class {', '.join(empty[:5])}", subject.look, "Each class has some.")


def splits_are_disjoint(subject: Subject) -> None:
    """Test images aren't training images, but for those that a source repeats by chance, within `train` as well."""
    train = _fingerprints(subject.splits.train)
    half = len(train) // 2
    first, every = set(train[:half]), set(train)
    by_chance = 2 * sum(image in first for image in train[half:]) / max(1, len(train) - half)
    notes = []
    for name, split in _scored(subject.splits).items():
        shared = sum(image in every for image in _fingerprints(split))
        says = f"{shared:,} of {len(split):,} {name} images are training images too"
        if shared > 1 and shared / len(split) > max(SHARED, 2 * by_chance):
            should = f"The source's own {name} split, or one drawn by a fixed seed and left out of train."
            raise Failed(says, subject.look, should)
        notes += [says] if shared else []
    if notes:
        raise Noted("; ".join(notes))


def _fingerprints(images: Images) -> list[bytes]:
    """A digest of each image, in random order: a source may be sorted."""
    found = []
    for index in torch.split(torch.randperm(len(images), generator=torch.Generator().manual_seed(0)), 4096):
        found += [hashlib.blake2b(x, digest_size=16).digest() for x in images.take(index, "cpu").flatten(1).numpy()]
    return found


def its_digest_is_stable(subject: Subject) -> None:
    """Read again, under another seed, the images and their order are the same."""
    first = subject.splits
    again, _ = _read_again(subject)
    for name in ("train", *_scored(first)):
        if getattr(first, name).digest != getattr(again, name).digest:
            raise Failed(
                f"`{name}` differs from one reading to the next",
                subject.look,
                "A split that is drawn takes a generator with a seed of its own; files are read in sorted order.",
            )


def reading_draws_no_noise(subject: Subject) -> None:
    """`load` leaves the random states of torch, numpy and Python as they are."""
    _ = subject.splits  # skipped here where there is nothing to read
    _, moved = _read_again(subject)
    if moved:
        raise Failed(
            f"`load` moves the random state of {', '.join(moved)}",
            subject.look,
            "torch.Generator().manual_seed(0), numpy.random.default_rng(0): a generator of its own.",
        )


def _read_again(subject: Subject) -> tuple[Splits, list[str]]:
    """The splits, read under another seed; and whose random states moved meanwhile."""

    def states() -> list[Any]:
        numpy = np.random.get_state(legacy=False)["state"]
        return [torch.get_rng_state().tolist(), [numpy["pos"], *numpy["key"].tolist()], list(random.getstate()[1])]

    with seeded(11, torch.device("cpu")):
        before = states()
        splits = subject.make().load(subject.root)
        after = states()
    return splits, [n for n, a, b in zip(("torch", "numpy", "random"), before, after, strict=True) if a != b]


def a_run_can_use_it(subject: Subject) -> None:
    """Taken by index, images and labels come in the order asked for; a subset keeps its labels."""
    train = subject.splits.train
    index = torch.tensor([len(train) - 1, 0, 0])
    x, y = train.take(index), train.labels(index)
    alone = torch.cat([train.take(index[i : i + 1]) for i in range(3)])
    alike = train.redrawn or torch.equal(x, alone)
    if x.dtype != torch.uint8 or x.shape != (3, *train.shape) or not alike:
        raise Failed("`take` gives other images together than one by one", subject.look, "Build on bench.Images.")
    try:
        prepared = prepare(subject.cls.__name__, subject.make(), subject.splits, limit=2)
    except UsageError as error:
        raise Failed(f"a run can't use it: {error.what}", subject.look) from None
    if len(prepared.train) != 2 or (train.labelled and len(y) != 3):
        raise Failed("a subset has another size than was asked for", subject.look, "Build on bench.Images.")


CHECKS = (
    says_what_it_is, declares_its_files, tells_what_is_missing, has_two_splits_alike, has_all_levels,
    labels_are_class_indices, splits_are_disjoint, its_digest_is_stable, reading_draws_no_noise, a_run_can_use_it,
)  # fmt: skip


def suite(cls: type[Dataset], arguments: Mapping[str, Any]) -> list[Check]:
    """All checks of a dataset with these options; a positional argument is given by its name."""
    subject = Subject(cls, arguments)
    return [Check(c.__name__, (c.__doc__ or "").strip().partition("\n")[0], partial(c, subject)) for c in CHECKS]
