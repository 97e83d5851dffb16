"""A user's own arrays in an .npz file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from bench import DataError, Dataset, Images, Splits, to_uint8

from ._reading import fixed_split, reading


class _Names(NamedTuple):
    train: str
    train_labels: str
    test: str
    test_labels: str


_PAIRS = (
    _Names("x_train", "y_train", "x_test", "y_test"),
    _Names("train_images", "train_labels", "test_images", "test_labels"),
    _Names("train", "y_train", "test", "y_test"),
)
_SINGLES = (("x", "y"), ("images", "labels"), ("arr_0", "arr_1"))
_ACCEPTED = (
    "Save x_train and x_test (y_train, y_test for labels), or x alone (y for labels): uint8, or floats from "
    "0 to 1, of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3."
)


class Npz(Dataset):
    """Arrays of images, with or without labels and splits; nothing in the file is unpickled.

    `x_train` and `x_test` (or `train_images` and `test_images`, or `train` and `test`) are the splits; of a
    single `x`, `images` or `arr_0`, every tenth image is for the test, by a fixed seed, stratified by label.
    """

    title = "your own arrays: npz:PATH, with x_train and x_test, or x"

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.expanduser(path))

    def load(self, root: Path) -> Splits:
        with reading(self.path, _ACCEPTED):
            if not self.path.is_file():
                raise DataError(f"there is no file {str(self.path)!r}", fix="A dataset is npz:PATH.")
            opened = np.load(self.path, allow_pickle=False)
            if not isinstance(opened, NpzFile):
                raise ValueError("it is a single array, not an .npz archive")
            with opened as archive:
                return _splits(archive)


def _splits(archive: NpzFile) -> Splits:
    """The splits of an open archive; its errors are plain ValueErrors."""
    for names in _PAIRS:
        if names.train in archive and names.test in archive:
            return _own(archive, names)
    for name, label_name in _SINGLES:
        if name in archive:
            return _fixed(archive, name, label_name)
    raise ValueError(f"it has no images, only {', '.join(map(repr, archive.files[:8])) or 'nothing'}")


def _own(archive: NpzFile, names: _Names) -> Splits:
    train, test = _pixels(names.train, archive[names.train]), _pixels(names.test, archive[names.test])
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"{names.train} is of shape {train.shape}, {names.test} {test.shape}")
    with_labels = [name for name in (names.train_labels, names.test_labels) if name in archive]
    if not with_labels:
        return Splits(Images(train), Images(test))
    if len(with_labels) == 1:
        raise ValueError(f"it has {with_labels[0]}, but no labels for the other split")
    y_train, classes = _labels(names.train_labels, archive[names.train_labels], len(train))
    y_test, other = _labels(names.test_labels, archive[names.test_labels], len(test))
    if not set(other) <= set(classes):
        unknown = sorted(set(other) - set(classes))[0]
        raise ValueError(f"{names.test_labels} has {unknown!r}, which no training image has")
    index = np.array([classes.index(name) for name in other])
    return Splits(Images(train, y_train, classes), Images(test, index[y_test], classes))


def _fixed(archive: NpzFile, name: str, label_name: str) -> Splits:
    pixels = _pixels(name, archive[name])
    if len(pixels) < 2:
        raise ValueError("it has one image: none is left to train on")
    if label_name not in archive:
        train, test = (Images(pixels[i]) for i in fixed_split(np.zeros(len(pixels), dtype=np.int64), every=10))
        return Splits(train, test)
    labels, classes = _labels(label_name, archive[label_name], len(pixels))
    train, test = (Images(pixels[i], labels[i], classes) for i in fixed_split(labels, every=10))
    return Splits(train, test)


def _pixels(name: str, array: np.ndarray) -> np.ndarray:
    """(N, C, H, W) uint8."""
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
    if array.dtype.kind == "f":
        return _quantised(name, array)
    if array.dtype != np.uint8:
        raise ValueError(f"{name} is of type {array.dtype}")
    return np.ascontiguousarray(array)


def _quantised(name: str, array: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8, a block at a time."""
    levels = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), 4096):
        block = array[start : start + 4096].astype(np.float32)
        if not np.isfinite(block).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
        if block.min() < 0 or block.max() > 1:
            raise ValueError(f"{name} has values from {block.min():g} to {block.max():g}")
        levels[start : start + 4096] = to_uint8(torch.from_numpy(block)).numpy()
    return levels


def _labels(name: str, array: np.ndarray, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices (N,), and the names of the classes in the order of the labels' values."""
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.shape != (count,):
        raise ValueError(f"{name} has the shape {array.shape}, but there are {count} images")
    if array.dtype.kind not in "biuU":
        raise ValueError(f"{name} is of type {array.dtype}: labels are whole numbers or text")
    values, index = np.unique(array, return_inverse=True)
    return index.astype(np.int64), tuple(str(value) for value in values)
