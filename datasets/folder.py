"""A user's own folder of images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from bench import DataError, Dataset, Images, Range, Splits

from ._mapped import each, in_memory, mapped
from ._reading import fixed_split, reading

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

FEW, SMALL = 1_000, 2**24  # images, and bytes of files, below which they're decoded in about a second
SEEN = 2_048  # headers that a process looks at at a time
GOOD_COPY = "Replace the file by a good copy, or take it out of the folder."

Found = list[tuple[str, str | None]]  #: images, each with its class


class Folder(Dataset):
    """Images of a folder: all in it (unlabelled), or in a sub-folder a class; `train/` and `test/` likewise.

    Grey images stay grey (C = 1), the others become RGB without transparency. Where `train/` and `test/` are
    missing, every tenth image is for the test, by a fixed seed and stratified by class. Beside these two, `val/` is
    the validation split. Other usual names of splits, in any case, are taken as well.
    """

    title = "your own images: folder:PATH, in one folder or one sub-folder a class"

    def __init__(
        self,
        path: str,
        *,
        image_size: Annotated[int | None, Range(1, 4096), "pixels a side; none: as the images are"] = None,
    ) -> None:
        self.path = Path(os.path.expanduser(path))
        self.image_size = image_size

    def load(self, root: Path) -> Splits:
        found, classes, splits = self._found()
        labels = _labels(found, classes)
        parts = splits or dict(zip(("train", "test"), fixed_split(labels, every=10), strict=True))
        order = np.concatenate(list(parts.values()))  # as slices of one array, the splits need no copies
        labels = labels[order]
        pictures = _Pictures(self.path, [path for path, _ in found], order, self.image_size)

        def split(pixels: np.ndarray) -> Splits:
            made, start = {}, 0
            for name, places in parts.items():
                part = slice(start, start := start + len(places))
                made[name] = Images(pixels[part], labels[part] if classes else None, classes)
            return Splits(**made)

        return in_memory(pictures, split) if pictures.few else mapped(pictures, split, self.cache, self.say)

    def _found(self) -> tuple[Found, tuple[str, ...], dict[str, np.ndarray] | None]:
        """All images, the classes, and the positions of each split where the folder has splits."""
        named = _splits(self.path, [folder.name for folder in _listing(self.path)[1]])
        if named:
            parts = {split: _images(self.path / name) for split, name in named.items()}
            classes = _same_classes(self.path, named, parts)
            ends = np.cumsum([len(part) for part in parts.values()])
            places = np.split(np.arange(ends[-1]), ends[:-1])
            return [one for part in parts.values() for one in part], classes, dict(zip(parts, places, strict=True))
        found = _images(self.path)
        if len(found) < 2:
            raise DataError(
                f"{str(self.path)!r} has one image: none is left to train on",
                fix="Add more images to it.",
            )
        return found, _classes(found), None


class _Pictures:
    """The images of a folder, training images first, each decoded when it's asked for."""

    def __init__(self, folder: Path, paths: list[str], order: np.ndarray, image_size: int | None) -> None:
        self.folder, self.paths, self.order, self.image_size = folder, paths, order, image_size
        self.name = f"{str(folder.resolve())!r}" + ("" if image_size is None else f" at image_size {image_size}")

    def __len__(self) -> int:
        return len(self.order)

    @property
    def few(self) -> bool:
        """Whether they're decoded in about a second, too little to be kept."""
        return len(self) < FEW and int(self._stats()[:, 0].sum()) < SMALL

    def fingerprint(self) -> str:
        """Names, sizes and times of the files, in the order of the copy; and who decodes them."""
        skip = len(str(self.folder))
        names = "\0".join([self.paths[i][skip:] for i in self.order.tolist()])
        sha = hashlib.sha256(f"{self.image_size} Pillow {PIL.__version__} {len(self)}\n".encode())
        sha.update(self._stats()[self.order].astype("<i8").tobytes())
        sha.update(os.fsencode(names))
        return sha.hexdigest()

    def _stats(self) -> np.ndarray:
        """(N, 2) int64: size in bytes, time of the last change in nanoseconds."""
        try:
            return np.array([(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, self.paths)])
        except OSError as error:
            with reading(str(error.filename), GOOD_COPY):
                raise

    def shape(self) -> tuple[int, int, int]:
        """(C, H, W); C = 3 as soon as one image has colour.

        Raises:
            DataError: one can't be read, or they differ in size or colour and no `image_size` makes them equal.
        """
        first: dict[_Form, int] = {}
        for _, forms in each(self._forms, range(-(-len(self.paths) // SEEN))):
            first = {**forms, **first}
        if self.image_size is not None:
            return 1 if all(form.grey for form in first) else 3, self.image_size, self.image_size
        other = min(first.values(), key=lambda at: at or len(self.paths))
        shapes = [_read(path, None).shape for path in self.paths[max(other - 1, 0) : other + 1]]
        if other:
            raise _differ(self.paths[other - 1], shapes[0], f"{self.paths[other]!r} is", shapes[1])
        c, h, w = shapes[0]
        return c, h, w

    def _forms(self, part: int) -> dict[_Form, int]:
        """The forms of some of the images, and which is the first of each."""
        found: dict[_Form, int] = {}
        for i in range(part * SEEN, min((part + 1) * SEEN, len(self.paths))):
            found.setdefault(_form_of(self.paths[i]), i)
        return found

    def decode(self, i: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Image `i` as (C, H, W) uint8 of this shape; a grey one may become one in colour if there's an `image_size`.

        Raises:
            DataError: it can't be read, or is of another shape.
        """
        path = self.paths[self.order[i]]
        image = _read(path, self.image_size)
        if image.shape != shape and (self.image_size is None or image.shape[0] != 1):
            raise _differ(path, image.shape, "others are", shape)
        return np.broadcast_to(image, shape)


def _listing(folder: str | Path) -> tuple[list[str], list[os.DirEntry[str]]]:
    """The images and the sub-folders in `folder`, by name; hidden ones and other files are passed over."""
    fix = "A dataset is folder:PATH, where PATH is a folder that you may read."
    with reading(folder, fix):
        if not os.path.exists(folder):
            raise DataError(f"there is no folder {str(folder)!r}", fix=fix)
        if not os.path.isdir(folder):
            raise DataError(f"{str(folder)!r} is a file, not a folder", fix=fix)
        with os.scandir(os.fspath(folder)) as entries:
            shown = sorted((e for e in entries if not e.name.startswith(".")), key=attrgetter("name"))
        images = [e.path for e in shown if e.name[e.name.rfind(".") :].lower() in SUFFIXES and e.is_file()]
        return images, [entry for entry in shown if entry.is_dir()]


def _images(folder: str | Path) -> Found:
    """All images of a split."""
    own, folders = _listing(folder)
    by_class: Found = [(path, sub.name) for sub in folders for path in _listing(sub.path)[0]]
    if own and by_class:
        raise DataError(
            f"{str(folder)!r} has images in itself and in its sub-folders",
            cause=f"For example {own[0]!r} and {by_class[0][0]!r}: have they classes, or not?",
            fix="Keep either the ones or the others.",
        )
    if not own and not by_class:
        raise DataError(
            f"{str(folder)!r} has no images",
            cause=f"Files that end in {', '.join(sorted(SUFFIXES))} count, in it and in its sub-folders.",
            fix="Name the folder that holds the images; an empty one of a split may go.",
        )
    return by_class or [(path, None) for path in own]


def _classes(found: Found) -> tuple[str, ...]:
    return tuple(sorted({name for _, name in found if name is not None}))


def _labels(found: Found, classes: tuple[str, ...]) -> np.ndarray:
    """Class indices; zeros where there are no classes."""
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] if name is not None else 0 for _, name in found])


_ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
_WORDS = {word: split for split, words in _ROLES.items() for word in words}
_BEHIND = r"(?:[ _-]?(?:set|split|data|images?|imgs?|[ab]|\d+))*"
_LIKE = re.compile(rf"(?:.*[ _-])?({'|'.join(_WORDS)}){_BEHIND}", re.IGNORECASE | re.DOTALL)


def _splits(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The sub-folder of each split, by the split's name, training first; {} where the folder has no splits.

    Names such as 'trainA' or 'test_set' are splits only where both training and other images have one.

    Raises:
        DataError: two are of one split, or the training or the test split is missing.
    """
    sure = {name: _WORDS[name.lower()] for name in names if name.lower() in _WORDS}
    like = {name: _WORDS[found[1].lower()] for name in names if (found := _LIKE.fullmatch(name))}
    roles = like if "train" in like.values() and len(set(like.values())) > 1 else sure
    named = {split: [name for name, of in roles.items() if of == split] for split in _ROLES}
    there = {split: found for split, found in named.items() if found}
    if any(len(found) > 1 for found in there.values()):
        split, (one, other, *_) = next((split, found) for split, found in there.items() if len(found) > 1)
        raise DataError(
            f"{str(path)!r} has two folders for its {split} split: {one}/ and {other}/",
            cause="Folders that are called like splits aren't classes: images of the test split would be trained on.",
            fix="Keep one train/ and one test/, or rename those that are classes. Two sets are two datasets: give each "
            "a folder of its own, with its train/ and its test/.",
        )
    if there and not {"train", "test"} <= there.keys():
        lacks = "test" if "train" in there else "train"
        instead = there.get("validation", [""])[0]
        raise DataError(
            f"{str(path)!r} has {' and '.join(f'{found[0]}/' for found in there.values())} but no {lacks}/",
            fix=(f"Rename {instead}/ to {lacks}/, or add the" if instead and lacks == "test" else "Add the")
            + " other one; or name the folder that holds the images; or, if it is a class, rename it.",
        )
    return {split: found[0] for split, found in there.items()}


def _same_classes(folder: Path, named: dict[str, str], parts: dict[str, Found]) -> tuple[str, ...]:
    """The classes of the training split, which the others have to keep to."""
    train, classes = named["train"], _classes(parts["train"])
    for split in (split for split in named if split != "train"):
        name, other = named[split], _classes(parts[split])
        unknown = sorted(set(other) - set(classes))
        if unknown or bool(classes) != bool(other):
            lack = f"{name}/ has the class {unknown[0]!r}" if unknown else f"{train}/ has classes, {name}/ has none"
            raise DataError(
                f"{train}/ and {name}/ in {str(folder)!r} don't have the same classes",
                cause=f"{lack}{f', {train}/ has no such' if unknown else ''}.",
                fix="Give both the same sub-folders, or none.",
            )
    return classes


class _Form(NamedTuple):
    """What an image's header says of it."""

    sides: tuple[int, ...]  #: the shorter first, because it may lie on its side
    grey: bool


def _form_of(path: str) -> _Form:
    with reading(path, GOOD_COPY), Image.open(path) as stored:
        return _Form(tuple(sorted(stored.size)), _grey(stored.mode))


def _grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def _differ(path: str, shape: tuple[int, ...], other: str, another: tuple[int, ...]) -> DataError:
    return DataError(
        "the images differ in size or colour",
        cause=f"{path!r} is {_words(shape)}, {other} {_words(another)}.",
        fix=f"`--image-size {min(shape[1:])}` (or another number) makes them all alike.",
    )


def _words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} wide and {height} high, {'grey' if channels == 1 else 'in colour'}"


def _read(path: str, image_size: int | None) -> np.ndarray:
    """(C, H, W) uint8: C = 1 for a grey image, 3 for the others."""
    with reading(path, GOOD_COPY), Image.open(path) as stored:
        image: Image.Image = ImageOps.exif_transpose(stored)
        if image.mode.startswith("I"):
            image = _from_16_bits(image)
        elif image.mode == "F":
            raise ValueError("its pixels are floating-point numbers without a known range")
        image = image.convert("L" if _grey(image.mode) else "RGB")
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
        pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; PIL's own conversion would clip it."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
