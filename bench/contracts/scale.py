"""The scale of pixels: which number in an array is black and which is white.

Booleans are black or white; floats go from 0 to 1; whole numbers from 0 to 255. Numbers outside of their range, or far
too dark for it, are never guessed at: two values are black and white; for all others the user has to name white.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.contracts.images import Images, to_uint8
from bench.util.errors import DataError

OVERSHOOT = 1e-3  #: share of the range beyond black or white that counts as rounding: a quarter of a grey level
DARK = 0.1  #: share of the range: pixels that never reach it have another range
DIM = 128  #: `oddity` reports a set without a pixel of this level
BLOCK = 4096  # images at a time


class SeenPixels(NamedTuple):
    """The range of numbers in some pixels, before their scale is known."""

    type: str  #: numpy's name of it
    low: float
    high: float
    values: frozenset[float] | None  #: all values if there are one or two; None: more
    white: float  #: the greatest number by type: 1, 255, or 65535 in 16-bit pictures

    @classmethod
    def of(cls, array: np.ndarray, white: float | None = None) -> SeenPixels:
        """Return the range of all numbers in an array.

        Raises:
            ValueError: there are none, or some are not real, NaN or infinite.
        """
        if array.dtype.kind not in "biuf":
            raise ValueError(f"pixels of type {array.dtype}")
        if array.size == 0:
            raise ValueError("no pixels")
        low, high = array.min(), array.max()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values that are NaN or infinite")
        blocks = (array[start : start + BLOCK] for start in range(0, len(array), BLOCK)) if array.ndim else (array,)
        two = all(bool(((block == low) | (block == high)).all()) for block in blocks)
        values = frozenset((float(low), float(high))) if two else None
        white = (1 if array.dtype.kind in "bf" else 255) if white is None else white
        return cls(str(array.dtype), float(low), float(high), values, white)

    @property
    def bright(self) -> bool:
        """True if the largest number reaches a tenth of the range."""
        return self.high >= DARK * self.white

    def fits(self) -> bool:
        """Return whether all numbers are within the range of their type."""
        slack = OVERSHOOT if self.white == 1 else 0
        return -slack <= self.low and self.high <= self.white + slack

    def __or__(self, other: SeenPixels) -> SeenPixels:
        """Return the range of both."""
        values = None if self.values is None or other.values is None else self.values | other.values
        return SeenPixels(
            self.type if self.type == other.type else f"{self.type} and {other.type}",
            min(self.low, other.low),
            max(self.high, other.high),
            values if values is not None and len(values) <= 2 else None,
            max(self.white, other.white),
        )


class PixelScale(NamedTuple):
    """The number that is black and the one that is white."""

    black: float
    white: float

    @classmethod
    def inferred(cls, seen: Iterable[SeenPixels], *, of: Path | str, option: str) -> PixelScale:
        """Return the common scale of all pixels of one kind.

        Args:
            seen: the pixels of all splits.
            of: their file or folder, for messages.
            option: the option by which a user names white, with {} in the place of the number.

        Raises:
            DataError: they are outside of their range, or in its darkest tenth, so the scale is unknown.
        """
        pixels = reduce(SeenPixels.__or__, seen)
        if pixels.fits() and (pixels.bright or pixels.low == pixels.high == 0):
            return cls(0, pixels.white)
        if pixels.values is not None and len(pixels.values) == 2:
            return cls(pixels.low, pixels.high)
        highest, white = _number(pixels.high), _number(pixels.white)
        fault = f", outside of the range of this type, 0 to {white}"
        fix = f"Name the value that is white: {option.format(highest)} if it is the greatest one"
        if pixels.fits():
            fault = f": none reaches a tenth of {white}, the usual white of this type"
            fix += f", {option.format(white)} if all images are so dark"
        if pixels.low < 0 or pixels.high <= 0:
            fix = "Scale them: 0 is black, and white is 1 for floats and 255 for whole numbers"
        raise DataError(
            f"{str(of)!r} can't be used: which value of its pixels is white?",
            cause=f"They are {pixels.type}, from {pixels.low:.9g} to {pixels.high:.9g}{fault}.",
            fix=f"{fix}.",
        )

    def levels(self, array: np.ndarray) -> np.ndarray:
        """Return uint8 levels of the same shape, rounded by `to_uint8`.

        Raises:
            ValueError: some are not numbers, or are beyond black or white by more than rounding.
        """
        if array.dtype == np.uint8 and self == (0, 255):
            return np.ascontiguousarray(array)
        span = self.white - self.black
        levels = np.empty(array.shape, np.uint8)
        for start in range(0, len(array) if array.size else 0, BLOCK):
            block = array[start : start + BLOCK]
            low, high = float(block.min()), float(block.max())
            if not (low >= self.black - OVERSHOOT * span and high <= self.white + OVERSHOOT * span):
                raise ValueError(f"values from {low:.9g} to {high:.9g}, but {_number(self.white)} is white")
            unit = (np.asarray(block, np.float32) - np.float32(self.black)) / np.float32(span)
            levels[start : start + BLOCK] = to_uint8(torch.from_numpy(np.ascontiguousarray(unit))).numpy()
        return levels


def pixel_levels(
    arrays: Mapping[str, np.ndarray], scale: float | None, *, of: Path | str, option: str
) -> dict[str, np.ndarray]:
    """Return arrays of pixels as uint8 levels: all floats on one scale, and all whole numbers on one.

    Args:
        arrays: the arrays of all splits, by name.
        scale: the number that is white; None: inferred from all arrays of a kind together.
        of, option: as for `PixelScale.inferred`.

    Raises:
        DataError: as for `PixelScale.inferred`.
        ValueError: an array holds no pixels, or some beyond `scale`.
    """
    seen, levels = {}, {}
    for name, array in arrays.items():
        with _named(name):
            seen[name] = SeenPixels.of(array)
    for name, array in arrays.items():
        alike = [pixels for pixels in seen.values() if pixels.white == seen[name].white]
        pixel_scale = PixelScale.inferred(alike, of=of, option=option) if scale is None else PixelScale(0, scale)
        with _named(name):
            levels[name] = pixel_scale.levels(array)
    return levels


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Begin the message of a ValueError with the array's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name or 'it'} has {error}") from None


def oddity(images: Images) -> str:
    """Return a note if all pixels or images are the same, or all are dark; else ''."""
    if images.redrawn or not len(images):
        return ""
    first, high, low, alike = images.take(torch.arange(1), "cpu"), 0, 255, True
    for part in torch.split(torch.arange(len(images)), 256):
        some = images.take(part, "cpu")
        low, high = min(low, int(some.min())), max(high, int(some.max()))
        alike = alike and bool((some == first).all())
        if high >= DIM and not alike:
            return ""
    if low == high:
        return f"every pixel of its {len(images):,} images is {high} of 255"
    if alike and len(images) > 1:
        return f"its {len(images):,} images are all the same"
    return f"the brightest pixel of its {len(images):,} images is {high} of 255" if high < DIM else ""


def _number(value: float) -> str:
    return f"{value:.9g}"
