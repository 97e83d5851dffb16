"""Which number is black in an array and which is white: one reading, for whatever holds pixels.

Booleans are black or white; floats go from 0 to 1; whole numbers from 0 to 255. Numbers that say otherwise are never
guessed at: two values are black and white, and whoever means anything else says what is white.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.contracts.images import Images, to_uint8
from bench.util.errors import DataError

OVERSHOOT = 1e-3  #: beyond black and white, as a part of the range, that counts as rounding: a quarter of a grey level
DARK = 0.1  #: of the range: what never gets so far has another range
DIM = 128  #: a set without a pixel of this level is told
BLOCK = 4096  # images at a time


class SeenPixels(NamedTuple):
    """The range of numbers in some pixels, before their scale is known."""

    type: str  #: as numpy calls it
    low: float
    high: float
    values: frozenset[float] | None  #: all of them, where they're one or two; None: more
    white: float  #: the greatest number that the type is for: 1, 255, or 65535 in 16-bit pictures

    @classmethod
    def of(cls, array: np.ndarray, white: float | None = None) -> SeenPixels:
        """Look at all numbers of an array.

        Raises:
            ValueError: they aren't real numbers, or there are none, or some are NaN or infinite.
        """
        if array.dtype.kind not in "biuf":
            raise ValueError(f"pixels of type {array.dtype}")
        if array.size == 0:
            raise ValueError("no pixels")
        low, high = array.min(), array.max()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values that are NaN or infinite")
        two = all(bool(((part == low) | (part == high)).all()) for part in _blocks(array))
        values = frozenset((float(low), float(high))) if two else None
        white = (1 if array.dtype.kind in "bf" else 255) if white is None else white
        return cls(str(array.dtype), float(low), float(high), values, white)

    @property
    def bright(self) -> bool:
        """Return whether the largest number reaches a tenth of the range."""
        return self.high >= DARK * self.white

    def fits(self) -> bool:
        slack = OVERSHOOT if self.white == 1 else 0
        return -slack <= self.low and self.high <= self.white + slack

    def __or__(self, other: SeenPixels) -> SeenPixels:
        values = None if self.values is None or other.values is None else self.values | other.values
        return SeenPixels(
            self.type if self.type == other.type else f"{self.type} and {other.type}",
            min(self.low, other.low),
            max(self.high, other.high),
            values if values is not None and len(values) <= 2 else None,
            max(self.white, other.white),
        )


class PixelScale(NamedTuple):
    """The number that is black, and the one that is white."""

    black: float
    white: float

    @classmethod
    def given(cls, scale: float) -> PixelScale:
        """From 0 to what a user says is white."""
        return cls(0.0, scale)

    @classmethod
    def told_by(cls, seen: Iterable[SeenPixels], *, of: Path | str, option: str) -> PixelScale:
        """Return the scale of pixels of one kind, which are read alike.

        Args:
            seen: all of them, test images too.
            of: the file or folder that they are from.
            option: how a user says what is white, with {} in the number's place.

        Raises:
            DataError: they are outside of their range, or in its darkest tenth: nobody can tell what is white.
        """
        all_ = reduce(SeenPixels.__or__, seen)
        black = all_.low == all_.high == 0
        if all_.fits() and (all_.bright or black):
            return cls.given(all_.white)
        if all_.values is not None and len(all_.values) == 2:
            return cls(all_.low, all_.high)
        number, white = _number(all_.high), _number(all_.white)
        beyond = f", and by their type they go from 0 to {white}"
        dark = f": none reaches a tenth of {white}, which is white by their type"
        fix = f"Say which value is white: {option.format(number)} if the greatest is"
        fix += f", {option.format(white)} if all of it is so dark." if all_.fits() else "."
        raise DataError(
            f"{str(of)!r} can't be used: which value of its pixels is white?",
            cause=f"They are {all_.type}, from {all_.low:.9g} to {all_.high:.9g}{dark if all_.fits() else beyond}.",
            fix=fix if all_.high > 0 and all_.low >= 0 else "Bring them to 0 (black) to 1 (white), or to 0 to 255.",
        )

    def levels(self, array: np.ndarray) -> np.ndarray:
        """Return uint8 levels of the same shape, rounded by the one quantiser.

        Raises:
            ValueError: some are beyond black or white, by more than rounding, or no numbers.
        """
        if array.dtype == np.uint8 and self == (0, 255):
            return np.ascontiguousarray(array)
        if not array.size:
            return np.empty(array.shape, np.uint8)
        span = self.white - self.black
        levels = np.empty(array.shape, np.uint8)
        for start in range(0, len(array), BLOCK):
            block = array[start : start + BLOCK]
            low, high = float(block.min()), float(block.max())
            if not (low >= self.black - OVERSHOOT * span and high <= self.white + OVERSHOOT * span):
                raise ValueError(f"values from {low:.9g} to {high:.9g}, where {_number(self.white)} is white")
            unit = (np.asarray(block, np.float32) - np.float32(self.black)) / np.float32(span)
            levels[start : start + BLOCK] = to_uint8(torch.from_numpy(np.ascontiguousarray(unit))).numpy()
        return levels


def pixel_levels(
    arrays: Mapping[str, np.ndarray], scale: float | None, *, of: Path | str, option: str
) -> dict[str, np.ndarray]:
    """Return arrays of pixels as uint8 levels, all read alike: floats with floats, whole numbers with whole numbers.

    Args:
        arrays: by name, those of all splits: what is white is told by all of them together.
        scale: the number that is white; None: what the type says.
        of, option: as `PixelScale.told_by`.

    Raises:
        DataError: as `PixelScale.told_by`.
        ValueError: an array holds no pixels, or some beyond `scale`.
    """
    seen: dict[str, SeenPixels] = {}
    made = {}
    for name, array in arrays.items():
        try:
            seen[name] = SeenPixels.of(array)
        except ValueError as error:
            raise ValueError(f"{f'{name} ' if name else 'it '}has {error}") from None
    for name, array in arrays.items():
        alike = [seen[other] for other in arrays if seen[other].white == seen[name].white]
        found = PixelScale.told_by(alike, of=of, option=option) if scale is None else PixelScale.given(scale)
        try:
            made[name] = found.levels(array)
        except ValueError as error:
            raise ValueError(f"{f'{name} ' if name else 'it '}has {error}") from None
    return made


def oddity(images: Images) -> str:
    """Return what is odd about a set's pixels, in a few words: they are all the same, or all dark; else ''."""
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


def _blocks(array: np.ndarray) -> Iterable[np.ndarray]:
    return (array[start : start + BLOCK] for start in range(0, len(array), BLOCK)) if array.ndim else (array,)


def _number(value: float) -> str:
    return f"{value:.9g}"
