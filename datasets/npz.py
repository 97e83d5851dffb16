"""A user's own arrays in an .npz or .npy file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from bench import DataError, Dataset, Images, Range, Splits, open_arrays, pixel_levels

from ._reading import fixed_split, reading

_Y, _LABELS = ("y", "labels", "label", "targets", "target"), ("labels", "label", "targets", "target", "y")
_PIXELS = {"x": _Y, "images": _LABELS, "imgs": _LABELS, "image": _LABELS, "img": _LABELS, "data": _LABELS}
_PIXELS |= {"samples": _LABELS, "": _Y, "arr_0": ("arr_1",)}
"""What images are called, the likeliest first; of each, what its labels are called. '': the split's name alone."""
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
_WORD, _SPLIT = "|".join([*filter(None, _PIXELS), *_Y, "arr_1"]), "|".join(_SPLITS)
_NAME = re.compile(
    rf"(?P<word>{_WORD})|((?P<first>{_WORD})[_ .-]?)?(?P<after>{_SPLIT})|(?P<before>{_SPLIT})[_ .-]?(?P<last>{_WORD})"
)
_ACCEPTED = (
    "Save x_train and x_test (y_train, y_test for labels; x_val for validation), or x alone (y for labels): uint8, or "
    "floats from 0 to 1, of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3. Arrays of other names are "
    "passed over."
)


class Npz(Dataset):
    """Arrays of images, with or without labels and splits; nothing in the file is unpickled.

    `x_train` and `x_test` are the splits, and `x_val` is the validation split; of a single `x`, every tenth image is
    for the test, by a fixed seed, stratified by label. `y_train`, `y` and so on are labels. `X`, `images`, `imgs`,
    `data` are taken for `x`, `labels`, `target` for `y`, `train_x` for `x_train`; the array of an .npy file is `x`.
    """

    title = "your own arrays: npz:PATH, with x_train and x_test, or x"

    def __init__(
        self,
        path: str,
        *,
        scale: Annotated[
            float | None, Range(0, exclusive=True), "the number that is white; none: 1 for floats, else 255"
        ] = None,
    ) -> None:
        self.path = Path(os.path.expanduser(path))
        self.scale = scale

    @classmethod
    def suits(cls, path: Path) -> bool:
        return path.suffix.lower() in (".npz", ".npy")

    def load(self, root: Path) -> Splits:
        with reading(self.path, _ACCEPTED):
            if not self.path.is_file():
                raise DataError(f"there is no file {str(self.path)!r}", fix="A dataset is npz:PATH.")
            with open_arrays(self.path) as arrays:
                names = _names(arrays)
                pixels = {n.pixels: _channels_first(n.pixels, arrays[n.pixels]) for n in names.values()}
                levels = pixel_levels(pixels, self.scale, of=self.path, option="npz[scale={}]:PATH")
                parts = {
                    split: _Part(*n, levels[n.pixels], None if n.labels is None else arrays[n.labels])
                    for split, n in names.items()
                }
                return _splits(parts, list(arrays))


class _Names(NamedTuple):
    """Of a split's arrays."""

    pixels: str
    labels: str | None


class _Part(NamedTuple):
    """A split's arrays, and what they are called."""

    name: str
    labels_name: str | None
    pixels: np.ndarray  #: (N, C, H, W) uint8
    labels: np.ndarray | None  #: as they are in the file


def _names(names: Iterable[str]) -> dict[str, _Names]:
    """The arrays of each split; those of all images, as 'all', where there is no training or no test split."""
    roles: dict[tuple[str, str], str] = {}
    for name in sorted(names, key=lambda name: name != name.lower()):
        if (found := _NAME.fullmatch(name.lower() or "x")) is not None:
            split = _SPLITS.get(found["after"] or found["before"] or "", "all")
            roles.setdefault((split, found["word"] or found["first"] or found["last"] or ""), name)
    parts = {}
    for split in ("train", "test", "all", "validation"):
        for word in _PIXELS:
            if (split, word) in roles and split not in parts:
                labels = (roles[split, label] for label in _PIXELS[word] if (split, label) in roles)
                parts[split] = _Names(roles[split, word], next(labels, None))
    if {"train", "test"} <= parts.keys():
        return {split: part for split, part in parts.items() if split != "all"}
    if "all" in parts:
        return {split: part for split, part in parts.items() if split not in ("train", "test")}
    for one, other in (("train", "test"), ("test", "train")):
        if one in parts:
            raise ValueError(f"it has {one} images, {parts[one].pixels!r}, and no {other} images")
    raise ValueError(f"it has no images, only {_listed(names)}")


def _splits(parts: dict[str, _Part], names: Iterable[str]) -> Splits:
    """The splits of a file that holds arrays of these `names`."""
    validation = parts.pop("validation", None)
    first, *others = parts.values()
    for other in others:
        if first.pixels.shape[1:] != other.pixels.shape[1:]:
            raise ValueError(f"{first.name} is of shape {first.pixels.shape}, {other.name} {other.pixels.shape}")
    labelled = [part.labels_name for part in parts.values() if part.labels is not None]
    if 0 < len(labelled) < len(parts):
        raise ValueError(f"it has {labelled[0]}, but no labels for the other split; without either, none are used")
    classes = _classes(first) if labelled else ()
    made = {split: _images(part, classes) for split, part in parts.items()}
    if "all" in made:
        made = _every_tenth(first.pixels, made["all"])
    used, notes = list(parts.values()), []
    if validation is not None:
        try:
            if validation.pixels.shape[1:] != first.pixels.shape[1:]:
                raise ValueError(f"{validation.name} is of shape {validation.pixels.shape}")
            made["validation"] = _images(validation, classes)
            used.append(validation)
        except ValueError as error:
            notes.append(f"no validation split is used: {error}")
    taken = {part.name for part in used} | {part.labels_name for part in used if classes}
    if unused := [name for name in names if name not in taken]:
        kept = ", ".join(repr(name) for name in names if name in taken)
        notes.append(f"of its arrays {_listed(unused)} {'is' if len(unused) == 1 else 'are'} unused, and {kept} used")
    return Splits(**made, notes=tuple(notes))


def _every_tenth(pixels: np.ndarray, images: Images) -> dict[str, Images]:
    """A fixed split of images (whose pixels these are), stratified by label: every tenth is for the test."""
    if len(images) < 2:
        raise ValueError("it has one image: none is left to train on")
    labels = images.labels().numpy() if images.labelled else np.zeros(len(images), dtype=np.int64)
    return {
        split: Images(pixels[at], labels[at] if images.labelled else None, images.classes)
        for split, at in zip(("train", "test"), fixed_split(labels, every=10), strict=True)
    }


def _channels_first(name: str, array: np.ndarray) -> np.ndarray:
    """(N, C, H, W)"""
    name = name or "it"
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
        if first and last:
            raise ValueError(f"{name} of shape {array.shape} can be channels first or channels last")
        if not first and not last:
            raise ValueError(f"{name} of shape {array.shape} has neither 1 nor 3 channels")
        array = array if first else array.transpose(0, 3, 1, 2)
    else:
        raise ValueError(f"{name} has {array.ndim} axes")
    if array.size == 0:
        raise ValueError(f"{name} is empty")
    return array


def _images(part: _Part, classes: tuple[str, ...]) -> Images:
    """A split, with the index of each label among `classes`; without labels where there are no classes."""
    if not classes:
        return Images(part.pixels)
    if part.labels is None:
        raise ValueError(f"{part.name} has no labels")
    names = np.array(classes)
    values = _values(part).astype(names.dtype)
    order = np.argsort(names)
    index = order[np.searchsorted(names, values, sorter=order).clip(max=len(names) - 1)]
    if (unknown := values[names[index] != values]).size:
        raise ValueError(f"{part.labels_name} has {str(unknown[0])!r}, which no training image has")
    return Images(part.pixels, index, classes)


def _classes(part: _Part) -> tuple[str, ...]:
    """The names of the classes, in the order of the labels' values."""
    return tuple(str(value) for value in np.unique(_values(part)))


def _values(part: _Part) -> np.ndarray:
    """A split's labels, (N,): numbers or text."""
    name, array, count = part.labels_name, part.labels, len(part.pixels)
    assert array is not None
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim == 2 and len(array) == count and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        if (array.sum(1) == 1).all():
            raise ValueError(f"{name} is one-hot, of shape {array.shape}: save {name}.argmax(1) instead")
        raise ValueError(
            f"{name} is multi-label, of shape {array.shape}, and an image has one class here: "
            "save one label an image, or none of them"
        )
    if array.shape != (count,):
        raise ValueError(f"{name} has the shape {array.shape}, but there are {count} images")
    if array.dtype.kind not in "biuU":
        raise ValueError(f"{name} is of type {array.dtype}: labels are whole numbers or text")
    return array


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, list(names)[:8])) or "nothing"
