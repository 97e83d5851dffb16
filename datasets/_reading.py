"""What datasets share: clear words for damaged files, checked labels, a split where the source has none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench import DataError, Images

TAKE_AWAY = (
    "Take it away: the next run, or `bench data fetch`, downloads what belongs there. "
    "Images of your own are asked for as npz:PATH or folder:PATH."
)  #: the way out where something else than the dataset lies in its place


@contextmanager
def reading(path: str | Path, fix: str) -> Iterator[None]:
    """Turns whatever a parser raises over the content of `path` into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        if error.errno is None:  # no fault of the disk: gzip, PIL and others raise bare ones for bad content
            raise DataError(f"{str(path)!r} is damaged", cause=f"{error}.", fix=fix) from error
        raise DataError(f"{str(path)!r} can't be read", cause=f"{error.strerror}.", fix=fix) from error
    except ValueError as error:
        raise DataError(f"{str(path)!r} can't be used", cause=f"{error}.", fix=fix) from error
    except Exception as error:  # parsers have no common base, and damaged content may raise anything
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DataError(f"{str(path)!r} is damaged", cause=f"{cause}.", fix=fix) from error


@contextmanager
def picture(path: str | Path, fix: str) -> Iterator[Image.Image]:
    """Opens an image: as `reading`, and one that is too large is called that."""
    with reading(path, fix), warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            opened = Image.open(path)
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{str(path)!r} is too large an image",
                cause=f"It has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the most that Pillow opens.",
                fix="Cut it into smaller images, or make it smaller; or take it out of the folder.",
            ) from error
        with opened as stored:
            yield stored


def again(path: Path) -> str:
    """The way out for a damaged file of a dataset that can be downloaded."""
    return f"Delete {str(path)!r}: the next run, or `bench data fetch`, downloads it again."


def labelled(pixels: Tensor | np.ndarray, labels: Tensor | np.ndarray, classes: tuple[str, ...]) -> Images:
    """`Images`, once the labels are found to be class indices.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) integers in [0, len(classes)).

    Raises:
        ValueError: no images, not as many labels as images, or labels that are no class.
    """
    images = Images(pixels, labels, classes)
    if len(images) == 0:
        raise ValueError("it holds no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"labels from {low} to {high}, but the classes are 0 to {len(classes) - 1}")
    return images


@dataclass(frozen=True)
class Published:
    """What its authors say of a split: how many images, and of each class where all have as many; `digest`: what
    `Images.digest` is of them, where that is known."""

    images: int
    each: int | None = None
    digest: str | None = None

    def check(self, found: Images, what: str, others: Mapping[str, str] | None = None) -> None:
        """Go on only with this split.

        Args:
            what: this split, as people call it.
            others: what other splits are called, by digest.

        Raises:
            ValueError: these are other images; which ones, where they are among `others`.
        """
        if (other := (others or {}).get(found.digest, what)) != what:
            raise ValueError(f"it holds {other}, not {what}")
        if len(found) != self.images:
            raise ValueError(f"it has {len(found):,} images, and {what} has {self.images:,}")
        if self.each is not None and (found.labels().bincount(minlength=len(found.classes)) != self.each).any():
            raise ValueError(f"it hasn't {self.each:,} images of each class, as {what} has")
        if self.digest is not None and self.digest != found.digest:
            differ = f"sha256 {found.digest[:12]}, not {self.digest[:12]}"
            raise ValueError(f"its images and labels aren't those of {what}: {differ}")


def fixed_split(labels: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """The same split for everybody: one image in `every` is for the test (at least one), stratified by label.

    A seeded shuffle, sorted by label, of which each `every`-th is taken: no class is off by more than one.

    Args:
        labels: (N,) integers; zeros where there are none.

    Returns:
        Positions of the training and of the test images, each in order.
    """
    order = np.random.RandomState(0).permutation(len(labels))  # a stream that no version of numpy changes
    order = order[np.argsort(labels[order], kind="stable")]
    test = np.zeros(len(labels), dtype=bool)
    test[order[::every]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)
