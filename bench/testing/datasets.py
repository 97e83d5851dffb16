"""The suite of a dataset: one check for each promise of `bench.contracts.dataset`."""

from __future__ import annotations

import hashlib
import inspect
import re
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch

from bench import data
from bench.contracts.dataset import Dataset, Splits, prepare
from bench.contracts.images import Images
from bench.plugins.hyperparameters import hyperparameters
from bench.testing.kit import Check, Failed, Noted, Skipped, Subject, bind, moved_generators, random_states, seeded
from bench.util.errors import DataError, UsageError

SHARED = 0.01  # of the test images that may also be training images: real sources repeat a few


class DatasetSubject(Subject[type[Dataset]]):
    """A dataset with its options, read once from the user's data root."""

    def make(self) -> Dataset:
        return self.plugin(**self.arguments)

    @cached_property
    def root(self) -> Path:
        return data.data_root()

    @cached_property
    def splits(self) -> Splits:
        dataset = self.make()
        if not dataset.ready(self.root):
            raise Skipped(f"its files are not under {self.root}: `bench data fetch` downloads them")
        return dataset.load(self.root)

    @property
    def look(self) -> str:
        return self.where("load")

    def read_again(self) -> tuple[Splits, list[str]]:
        """Read the splits under another seed; return them and the random generators that were used.

        Raises:
            Skipped: its files are not there.
        """
        _ = self.splits
        with seeded(11):
            before = random_states()
            return self.make().load(self.root), moved_generators(before)


def says_what_it_is(subject: DatasetSubject) -> None:
    """It has a title, a license where it is fetched, and options that the command line can read."""
    cls = subject.plugin
    for name, needed in (("title", True), ("license", bool(cls.files))):
        if needed and not getattr(cls, name).strip():
            raise Failed(f"`{name}` is empty", cls.__qualname__, f'Add a line for `bench info`: {name} = "..."')
    for name, option in hyperparameters(cls).items():
        if not option.doc or option.default is inspect.Parameter.empty:
            raise Failed(
                f"the option {name} has no {'meaning' if not option.doc else 'default'}",
                cls.__init__,
                f'Declare it as `{name}: Annotated[int, Range(1), "what it means"] = 1`.',
            )
    for name in ("latent_dim", "steps"):
        value = getattr(cls, name)
        if value is not None and (type(value) is not int or value < 1):
            raise Failed(f"`{name}` is {value!r}", cls.__qualname__, "Give a whole number from 1, or None.")


def declares_its_files(subject: DatasetSubject) -> None:
    """Each file has a place under the root, a size, a sha256, and addresses that begin with https."""
    if not subject.plugin.files:
        raise Skipped("it has no files to fetch")
    for file in subject.make().files:
        parts = PurePosixPath(file.path).parts
        wrong = {
            f"its path {file.path!r} leaves the data root": not parts or ".." in parts or file.path.startswith("/"),
            f"its size is {file.size}": file.size < 1,
            f"its sha256 is {file.sha256!r}": not re.fullmatch(r"[0-9a-f]{64}", file.sha256),
            "an address is not https": any(urlsplit(url).scheme != "https" for url in file.urls),
        }
        for why, bad in wrong.items():
            if bad:
                fix = "Declare File(path under the data root, https addresses, sha256 in hexadecimal, bytes)."
                raise Failed(f"{file.path}: {why}", f"{subject.plugin.__qualname__}.files", fix)


def tells_what_is_missing(subject: DatasetSubject) -> None:
    """Without its files it isn't ready, and `load` raises DataError."""
    if not subject.plugin.files:
        raise Skipped("it has no files that could be missing")
    dataset = subject.make()
    raise_it = "Write `raise bench.DataError(what is missing, fix=how to get it)`."
    with tempfile.TemporaryDirectory() as empty:
        if dataset.ready(Path(empty)):
            fix = "Return True only if all files are there, as the base class does."
            raise Failed("it is ready in an empty folder", subject.where("ready"), fix)
        try:
            dataset.load(Path(empty))
        except DataError:
            return
        except Exception as error:
            wrong = f"without its files `load` raises {type(error).__name__}: {error}"
            raise Failed(wrong, subject.look, raise_it) from None
        raise Failed("without its files `load` returns", subject.look, raise_it)


def has_two_splits_alike(subject: DatasetSubject) -> None:
    """`train` and `test`, and `validation` where there is one, hold images of one shape, with the same classes."""
    splits, look = subject.splits, subject.look
    if not isinstance(splits, Splits) or not all(
        isinstance(s, Images) for s in (splits.train, *_scored(splits).values())
    ):
        fix = "Return bench.Splits(train, test) of bench.Images."
        raise Failed(f"`load` returned {type(splits).__name__}, or splits that are not Images", look, fix)
    for name, split in {"train": splits.train, **_scored(splits)}.items():
        if not len(split):
            raise Failed(f"{name} has no images", look, "Let neither be empty; validation is None if there is none.")
        for what in ("shape", "classes", "labelled"):
            a, b = getattr(splits.train, what), getattr(split, what)
            if a != b:
                raise Failed(f"{what} is {a} in train and {b} in {name}", look, "Build all splits with the same.")


def _scored(splits: Splits) -> dict[str, Images]:
    """Return the splits that are not for training."""
    return {"test": splits.test} | ({} if splits.validation is None else {"validation": splits.validation})


def has_all_levels(subject: DatasetSubject) -> None:
    """Pixels are levels from 0 to 255, and the images aren't all the same."""
    train = subject.splits.train
    some = train.take(torch.linspace(0, len(train) - 1, min(1000, len(train))).long())
    low, high = int(some.min()), int(some.max())
    if high <= 1:
        fix = "Let 0 be black and 255 white: convert numbers from 0 to 1 by bench.to_uint8, not by a cast."
        raise Failed(f"the levels go from {low} to {high}", subject.look, fix)
    if len(some) > 1 and bool((some == some[0]).all()):
        raise Failed(f"{len(some)} images are all the same", subject.look, "Look for an index that does not advance.")
    if high < 128:
        raise Noted(f"the brightest level in {len(some)} images is {high} of 255")


def labels_are_class_indices(subject: DatasetSubject) -> None:
    """A label is an index of `classes`; every class has training images; the names differ."""
    train, look = subject.splits.train, subject.look
    if not train.labelled:
        raise Skipped("it has no labels")
    k = len(train.classes)
    if k == 0 or len(set(train.classes)) < k:
        raise Failed(f"the names of the classes are {train.classes}", look, "Give each class a name of its own.")
    for name, split in {"train": train, **_scored(subject.splits)}.items():
        low, high = (int(v) for v in split.labels().aminmax())
        if low < 0 or high >= k:
            wrong = f"labels of {name} go from {low} to {high}, with {k} classes"
            raise Failed(wrong, look, f"Number the labels from 0 to {k - 1}.")
    counts = torch.bincount(train.labels(), minlength=k)
    if empty := [train.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        fix = "Remove classes without images from `classes`, and number the others anew."
        raise Failed(f"no training image is of class {', '.join(empty[:5])}", look, fix)


def splits_are_disjoint(subject: DatasetSubject) -> None:
    """Test images aren't training images, but for those that a source repeats by chance, within `train` as well."""
    train = _fingerprints(subject.splits.train)
    half = len(train) // 2
    first, every = set(train[:half]), set(train)
    by_chance = 2 * sum(image in first for image in train[half:]) / max(1, len(train) - half)
    notes = []
    for name, split in _scored(subject.splits).items():
        shared = sum(image in every for image in _fingerprints(split))
        wrong = f"{shared:,} of {len(split):,} {name} images are training images too"
        if shared > 1 and shared / len(split) > max(SHARED, 2 * by_chance):
            fix = f"Use the source's own {name} split, or draw one by a fixed seed and leave it out of train."
            raise Failed(wrong, subject.look, fix)
        notes += [wrong] if shared else []
    if notes:
        raise Noted("; ".join(notes))


def _fingerprints(images: Images) -> list[bytes]:
    """Return a digest of each image, in random order because a source may be sorted."""
    prints = []
    for index in torch.split(torch.randperm(len(images), generator=torch.Generator().manual_seed(0)), 4096):
        prints += [hashlib.blake2b(x, digest_size=16).digest() for x in images.take(index, "cpu").flatten(1).numpy()]
    return prints


def its_digest_is_stable(subject: DatasetSubject) -> None:
    """Read again, under another seed, the images and their order are the same."""
    again, _ = subject.read_again()
    for name in ("train", *_scored(subject.splits)):
        if getattr(subject.splits, name).digest != getattr(again, name).digest:
            fix = "Draw splits with torch.Generator().manual_seed(0), and read files in sorted order."
            raise Failed(f"`{name}` differs from one reading to the next", subject.look, fix)


def reading_draws_no_noise(subject: DatasetSubject) -> None:
    """`load` leaves the random states of torch, numpy and Python as they are."""
    _, moved = subject.read_again()
    if moved:
        fix = "Use a generator of its own: torch.Generator().manual_seed(0), numpy.random.default_rng(0)."
        raise Failed(f"`load` moves the random state of {', '.join(moved)}", subject.look, fix)


def a_run_can_use_it(subject: DatasetSubject) -> None:
    """Taken by index, images and labels come in the requested order; a subset keeps its labels."""
    train, fix = subject.splits.train, "Return bench.Images, or a subclass that keeps its promises."
    index = torch.tensor([len(train) - 1, 0, 0])
    x, y = train.take(index), train.labels(index)
    alone = torch.cat([train.take(index[i : i + 1]) for i in range(3)])
    alike = train.redrawn or torch.equal(x, alone)
    if x.dtype != torch.uint8 or x.shape != (3, *train.shape) or not alike:
        raise Failed("`take` gives other images together than one by one", subject.look, fix)
    try:
        prepared = prepare(subject.plugin.__name__, subject.make(), subject.splits, limit=2)
    except UsageError as error:
        raise Failed(f"a run cannot use it: {error.what}", subject.look, error.fix) from None
    if len(prepared.train) != 2 or (train.labelled and len(y) != 3):
        raise Failed("a subset has another size than requested", subject.look, fix)


CHECKS = (
    says_what_it_is, declares_its_files, tells_what_is_missing, has_two_splits_alike, has_all_levels,
    labels_are_class_indices, splits_are_disjoint, its_digest_is_stable, reading_draws_no_noise, a_run_can_use_it,
)  # fmt: skip


def suite(cls: type[Dataset], arguments: Mapping[str, Any]) -> list[Check]:
    """Return all checks of a dataset with these options; a positional argument is given by its name."""
    return bind(CHECKS, DatasetSubject(cls, arguments))
