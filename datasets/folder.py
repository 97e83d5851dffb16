"""A user's own folder of images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from bench import DataError, Dataset, Images, PixelScale, Range, SeenPixels, Splits

from ._mapped import Form, each, in_memory, mapped
from ._reading import fixed_split, picture, reading

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

FEW, SMALL = 1_000, 2**24  # images, and bytes of files, below which they're decoded in about a second
SEEN = 2_048  # headers that a process looks at at a time
GOOD_COPY = "Replace the file by a good copy, or take it out of the folder."

LEVELS = {"white": 255, "black": 0}

Found = list[tuple[str, str | None]]  #: images, each with its class


class Folder(Dataset):
    """Images of a folder: all in it (unlabelled), or in a sub-folder a class; `train/` and `test/` likewise.

    Grey images stay grey (C = 1), the others become RGB; transparent ones lie on white. Where `train/` and `test/`
    are missing, every tenth image is for the test, by a fixed seed and stratified by class. Beside these two, `val/`
    is the validation split. Other usual names of splits, in any case, are taken as well.
    """

    title = "your own images: folder:PATH, in one folder or one sub-folder a class"

    def __init__(
        self,
        path: str,
        *,
        image_size: Annotated[int | None, Range(1, 4096), "pixels a side; none: as the images are"] = None,
        scale: Annotated[
            float | None, Range(0, exclusive=True), "the number that is white; none: 255, in 16-bit images 65535"
        ] = None,
        background: Annotated[Literal["white", "black"], "what transparent pixels show"] = "white",
    ) -> None:
        self.path = Path(os.path.expanduser(path))
        self.image_size, self.scale, self.background = image_size, scale, background

    @classmethod
    def suits(cls, path: Path) -> bool:
        return path.is_dir() or not path.suffix

    def load(self, root: Path) -> Splits:
        found, classes, splits = self._found()
        labels = _labels(found, classes)
        parts = splits or dict(zip(("train", "test"), fixed_split(labels, every=10), strict=True))
        order = np.concatenate(list(parts.values()))  # as slices of one array, the splits need no copies
        labels = labels[order]
        pictures = _Pictures([path for path, _ in found], order, self)

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

    def __init__(self, paths: list[str], order: np.ndarray, asked: Folder) -> None:
        self.folder, self.paths, self.order = asked.path, paths, order
        self.image_size, self.scale, self.background = asked.image_size, asked.scale, LEVELS[asked.background]
        told = {
            "image_size": asked.image_size,
            "scale": asked.scale,
            "background": "black" if self.background == 0 else None,
        }
        at = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
        self.name = f"{str(self.folder.resolve())!r}" + (f" at {at}" if at else "")

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
        options = f"{self.image_size} {self.scale} {self.background}"
        sha = hashlib.sha256(f"{options} Pillow {PIL.__version__} {len(self)}\n".encode())
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

    def form(self) -> Form:
        """Return the form that images are decoded to; C = 3 as soon as one image has colour.

        Raises:
            DataError: one can't be read, they differ in size or colour and no `image_size` makes them equal, or all are
                so dark that nobody can tell what is white.
        """
        return Form(self._shape(), self._scale())

    def _scale(self) -> tuple[float, float] | None:
        """The numbers that are black and white, where they aren't what the files say.

        Sets are bright, usually: their first image tells, and no other is looked at.
        """
        if self.scale is not None:
            return 0.0, self.scale
        seen = [self._seen(self.paths[0])]
        if not seen[0].bright:
            for _, one in each(self._dark, range(-(-len(self.paths) // SEEN))):
                seen.append(one)
                if one.bright:
                    break
        if seen[-1].bright:
            return None
        found = PixelScale.inferred(seen, of=self.folder, option="folder[scale={}]:PATH")
        return None if found == (0, seen[0].white) else found

    def _dark(self, part: int) -> SeenPixels:
        """Return the range of numbers in the images, up to the first bright image."""
        found: SeenPixels | None = None
        for path in self.paths[part * SEEN : (part + 1) * SEEN]:
            if (one := self._seen(path)).bright:
                return one
            found = one if found is None else found | one
        assert found is not None
        return found

    def _seen(self, path: str) -> SeenPixels:
        """Return the range of numbers in an image; a white background makes it bright."""
        with picture(path, GOOD_COPY) as stored:
            numbers, alpha, white = _numbers(stored, known=False)
            if alpha is None or alpha.all():
                return SeenPixels.of(numbers, white)
            shown = SeenPixels.of(numbers[alpha > 0] if alpha.any() else numbers, white)
            return shown._replace(high=float(white)) if self.background else shown

    def _shape(self) -> tuple[int, int, int]:
        first: dict[_Form, int] = {}
        for _, forms in each(self._forms, range(-(-len(self.paths) // SEEN))):
            first = {**forms, **first}
        if self.image_size is not None:
            return 1 if all(form.grey for form in first) else 3, self.image_size, self.image_size
        other = min(first.values(), key=lambda at: at or len(self.paths))
        scale = None if self.scale is None else (0.0, self.scale)
        shapes = [_read(path, None, scale).shape for path in self.paths[max(other - 1, 0) : other + 1]]
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

    def decode(self, i: int, form: Form) -> np.ndarray:
        """Image `i` as (C, H, W) uint8 of this form; a grey one may become one in colour if there's an `image_size`.

        Raises:
            DataError: it can't be read, or is of another shape.
        """
        path = self.paths[self.order[i]]
        image, shape = _read(path, self.image_size, form.scale, self.background), form.shape
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
_LIKE = re.compile(rf"(?P<before>.*[ _-])?(?P<word>{'|'.join(_WORDS)}){_BEHIND}", re.IGNORECASE | re.DOTALL)


def _splits(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The sub-folder of each split, by the split's name, training first; {} where the folder has no splits.

    Names such as 'trainA' or 'test_set' are splits only where both training and other images have one, or where all
    sub-folders begin so: 'freight train' and 'passenger train' are classes, 'trainA' and 'trainB' aren't.

    Raises:
        DataError: two are of one split, or the training or the test split is missing.
    """
    sure = {name: _WORDS[name.lower()] for name in names if name.lower() in _WORDS}
    found_like = {name: found for name in names if (found := _LIKE.fullmatch(name))}
    like = {name: _WORDS[found["word"].lower()] for name, found in found_like.items()}
    all_begin_so = len(like) == len(names) > 1 and not any(found["before"] for found in found_like.values())
    roles = like if all_begin_so or ("train" in like.values() and len(set(like.values())) > 1) else sure
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
    with picture(path, GOOD_COPY) as stored:
        return _Form(tuple(sorted(stored.size)), _grey(stored.mode))


def _grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def _differ(path: str, shape: tuple[int, ...], other: str, another: tuple[int, ...]) -> DataError:
    return DataError(
        "the images differ in size or colour",
        cause=f"{path!r} is {_words(shape)}, {other} {_words(another)}.",
        fix=f"`--image-size {min(shape[1:])}` (or another number) makes them all alike.",
    )


def _words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} wide and {height} high, {'grey' if channels == 1 else 'in colour'}"


def _read(
    path: str, image_size: int | None, scale: tuple[float, float] | None = None, background: int = 255
) -> np.ndarray:
    """(C, H, W) uint8: C = 1 for a grey image, 3 for the others.

    Args:
        scale: the numbers that are black and white; None: what the file says.
        background: the level behind what is transparent.
    """
    fix = GOOD_COPY if scale is None else "Ask for another scale=..., or take the file out of the folder."
    with picture(path, fix) as stored:
        numbers, alpha, white = _numbers(stored, known=scale is not None)
        levels = PixelScale(*(scale if scale is not None and white > 1 else (0, white))).levels(numbers)
        if alpha is not None:
            levels = _over(levels, alpha, background)
        if image_size is not None:
            side = (image_size, image_size)
            levels = np.array(ImageOps.fit(Image.fromarray(levels), side, Image.Resampling.BICUBIC))
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def _numbers(stored: Image.Image, *, known: bool) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The numbers of an image, (H, W) or (H, W, 3), those of its alpha channel, (H, W), and the one that is white.

    Args:
        known: whether somebody says what is white: then any range will do.

    Raises:
        ValueError: nobody can tell the range.
    """
    image: Image.Image = ImageOps.exif_transpose(stored)
    if image.mode == "1":
        return np.asarray(image), None, 1
    if image.mode == "F":
        if not known:
            raise ValueError("its pixels are floating-point numbers without a known range; folder[scale=...] says it")
        return np.asarray(image), None, 255
    if image.mode.startswith("I"):  # PIL's own conversion would clip it
        numbers = np.asarray(image).astype(np.int64)
        if not known and (numbers.min() < 0 or numbers.max() > 65_535):
            raise ValueError("its pixels have more than 16 bits; folder[scale=...] says which number is white")
        return numbers, None, 65_535
    kind = "L" if _grey(image.mode) else "RGB"
    if not image.has_transparency_data:
        return np.asarray(image.convert(kind)), None, 255
    both = np.asarray(image.convert("LA" if kind == "L" else "RGBA"))
    return both[..., 0] if kind == "L" else both[..., :3], both[..., -1], 255


def _over(levels: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    """Levels (H, W) or (H, W, 3) as they look through an alpha channel (H, W) before a background of one level."""
    part = alpha.astype(np.uint32) if levels.ndim == 2 else alpha.astype(np.uint32)[..., None]
    return ((levels * part + background * (255 - part) + 127) // 255).astype(np.uint8)
