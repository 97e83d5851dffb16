"""A user's own folder of images."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageOps

from bench import DataError, Dataset, Images, Range, Splits

from ._reading import fixed_split, reading

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

Found = list[tuple[Path, str | None]]  #: images, each with its class


class Folder(Dataset):
    """Images of a folder: all in it (unlabelled), or in a sub-folder a class; `train/` and `test/` likewise.

    Grey images stay grey (C = 1), the others become RGB without transparency. Where `train/` and `test/` are
    missing, every tenth image is for the test, by a fixed seed and stratified by class.
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
        _, folders = _listing(self.path)
        named = {folder.name: folder for folder in folders if folder.name in ("train", "test")}
        if len(named) == 1:
            (there,) = named
            raise DataError(
                f"{str(self.path)!r} has {there}/ but no {'test' if there == 'train' else 'train'}/",
                fix="Add the other one, or name the folder that holds the images.",
            )
        if named:
            train, test = _images(named["train"]), _images(named["test"])
            classes = _same_classes(self.path, train, test)
            found = train + test
            at = np.arange(len(train)), np.arange(len(train), len(found))
        else:
            found = _images(self.path)
            classes = _classes(found)
            if len(found) < 2:
                raise DataError(
                    f"{str(self.path)!r} has one image: none is left to train on",
                    fix="Add more images to it.",
                )
        pixels = _decode([path for path, _ in found], self.image_size)
        labels = np.array([classes.index(name) if name is not None else 0 for _, name in found])
        if not named:
            at = fixed_split(labels, every=10)
        split_train, split_test = (Images(pixels[i], labels[i] if classes else None, classes) for i in at)
        return Splits(split_train, split_test)


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the sub-folders in `folder`, by name; hidden ones and other files are passed over."""
    fix = "A dataset is folder:PATH, where PATH is a folder that you may read."
    with reading(folder, fix):
        if not folder.exists():
            raise DataError(f"there is no folder {str(folder)!r}", fix=fix)
        if not folder.is_dir():
            raise DataError(f"{str(folder)!r} is a file, not a folder", fix=fix)
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    return images, [entry for entry in entries if entry.is_dir()]


def _images(folder: Path) -> Found:
    """All images of a split."""
    own, folders = _listing(folder)
    by_class: Found = [(path, sub.name) for sub in folders for path in _listing(sub)[0]]
    if own and by_class:
        raise DataError(
            f"{str(folder)!r} has images in itself and in its sub-folders",
            cause=f"For example {str(own[0])!r} and {str(by_class[0][0])!r}: have they classes, or not?",
            fix="Keep either the ones or the others.",
        )
    if not own and not by_class:
        raise DataError(
            f"{str(folder)!r} has no images",
            cause=f"Files that end in {', '.join(sorted(SUFFIXES))} count, in it and in its sub-folders.",
            fix="Name the folder that holds the images.",
        )
    return by_class or [(path, None) for path in own]


def _classes(found: Found) -> tuple[str, ...]:
    return tuple(sorted({name for _, name in found if name is not None}))


def _same_classes(folder: Path, train: Found, test: Found) -> tuple[str, ...]:
    """The classes of the training split, which the test split has to keep to."""
    classes, other = _classes(train), _classes(test)
    unknown = sorted(set(other) - set(classes))
    if unknown or bool(classes) != bool(other):
        lack = f"test/ has the class {unknown[0]!r}" if unknown else "train/ has classes, test/ has none"
        raise DataError(
            f"train/ and test/ in {str(folder)!r} don't have the same classes",
            cause=f"{lack}{', train/ has no such' if unknown else ''}.",
            fix="Give both the same sub-folders, or none.",
        )
    return classes


def _decode(paths: list[Path], image_size: int | None) -> np.ndarray:
    """(N, C, H, W) uint8; C = 3 as soon as one image has colour.

    Raises:
        DataError: one can't be read, or they differ in size or colour and no `image_size` makes them equal.
    """
    images = [_read(path, image_size) for path in paths]
    if image_size is not None and len({image.ndim for image in images}) > 1:
        images = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    for (path, image), (other, another) in pairwise(zip(paths, images, strict=True)):
        if image.shape != another.shape:
            raise DataError(
                "the images differ in size or colour",
                cause=f"{str(path)!r} is {_form(image)}, {str(other)!r} is {_form(another)}.",
                fix=f"`--image-size {min(image.shape[:2])}` (or another number) makes them all alike.",
            )
    stack = np.stack(images)
    return np.ascontiguousarray(stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2))


def _form(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    return f"{width} wide and {height} high, {'grey' if image.ndim == 2 else 'in colour'}"


def _read(path: Path, image_size: int | None) -> np.ndarray:
    """(H, W) uint8 for a grey image, (H, W, 3) for the others."""
    with (
        reading(path, "Replace the file by a good copy, or take it out of the folder."),
        Image.open(path) as stored,
    ):
        image: Image.Image = ImageOps.exif_transpose(stored)
        if image.mode.startswith("I"):
            image = _from_16_bits(image)
        elif image.mode == "F":
            raise ValueError("its pixels are floating-point numbers without a known range")
        image = image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(image).copy()


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; PIL's own conversion would clip it."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
