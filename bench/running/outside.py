"""Samples, and bounds on the test images, from a user's files: read and checked.

Nothing is unpickled. A file that can't be read, or holds something else, is a `DataError` that says what to do.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contracts.images import Images, to_float
from bench.contracts.likelihood import Bernoulli, Gaussian, Likelihood
from bench.contracts.likelihood import likelihood as likelihood_called
from bench.contracts.protocol import seed_for
from bench.contracts.scale import pixel_levels
from bench.evidence import BoundTerms
from bench.util.arrays import open_arrays
from bench.util.errors import DataError, NotAvailable

SAMPLES = (
    "Save them as `samples` in an .npz file: uint8, or floats from 0 to 1 (--scale for another white), of shape "
    "(N, H, W), (N, H, W, C) or (N, C, H, W); or as grey or RGB .png files in one folder."
)
BOUNDS = (
    "Save `elbo`, or `log_likelihood` and `rate`, in an .npz file or as the columns of a .csv file: one number for "
    "each test image, in nats, in the order of the test split."
)
BOUND = (
    "Sum over pixels, don't average; give the bound, not the loss; keep all constants of the log-density. Check also "
    "that --dataset names these very pixels (not binarised or rescaled ones) and --likelihood the model's."
)
CHANCE = 1e-6  #: of refusing bounds of a right model, whose draws of z were lucky
ROUNDING = 1e-3  #: nats by which the arithmetic of a right model may be off


class OutsideSamples(NamedTuple):
    """Samples (n, C, H, W) uint8, and the number of samples in their file or folder."""

    pixels: Tensor
    of: int


@dataclass(frozen=True)
class ElboAlone:
    """A bound on each test image whose two terms are unknown: (N,) float64, in nats. Stands in for `BoundTerms`."""

    elbo: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        raise NotAvailable("--bounds gave the ELBO alone, without log_likelihood and rate")

    rate = log_likelihood


def read_samples(path: Path, shape: tuple[int, int, int], most: int, scale: float | None = None) -> OutsideSamples:
    """Read samples from an .npz or .npy file or a folder of .png files: all, or `most`, drawn by a fixed seed.

    Args:
        shape: (C, H, W) of the dataset's images, which the samples must have.
        scale: the value of white; None: 1 for floats, 255 for integers.

    Raises:
        DataError: there are none, they have another shape, or their scale is unclear.
    """
    with _reading(path, SAMPLES):
        if path.is_dir():
            array, of = _from_folder(path, shape, most)
        else:
            array = _channels_first(_array(path), shape)
            of = len(array)
        levels = pixel_levels({"": array}, scale, of=path, option="--scale {}")[""]
        return OutsideSamples(torch.from_numpy(levels[_some(len(levels), most)]), of)


def read_bounds(path: Path, n: int) -> BoundTerms | ElboAlone:
    """Read the bound on each of the `n` test images, with its two terms if the file has them.

    Raises:
        DataError: the file lacks it, or holds another number of images, NaN or infinity.
    """
    with _reading(path, BOUNDS):
        arrays = _columns(path)
        columns = {name: _column(name, arrays[name], n) for name in (*BoundTerms._fields, "elbo") if name in arrays}
        elbo = columns.pop("elbo", None)
        if len(columns) < len(BoundTerms._fields):
            if elbo is None:
                raise ValueError(f"it has neither `elbo` nor `log_likelihood` and `rate`, but {_quoted(arrays)}")
            return ElboAlone(elbo)
        terms = BoundTerms(**columns)
        if elbo is not None and not torch.allclose(elbo, terms.elbo, rtol=1e-4, atol=1e-2):
            raise ValueError("its `elbo` isn't `log_likelihood` - `rate`")
        return terms


def check_bounds(path: Path, terms: BoundTerms | ElboAlone, images: Images, likelihood: str | None) -> None:
    """Refuse values that no model's bound on these images can have. With `likelihood` None, only rates are checked.

    No log p(x|z) is above that of a decoder whose output is x, nor is log p(x). Draws of z leave noise in an ELBO and
    in a rate; but E[exp(elbo)] <= p(x) and E[exp(-rate)] <= 1 however many there are, so by Markov's inequality the
    excess over those limits, summed over independent images, is above log(1 / CHANCE) with at most that CHANCE.

    Args:
        path: their file, for the message.
        images: the test split.

    Raises:
        DataError: a log-likelihood, ELBO or rate is beyond its limit.
        UsageError: no such likelihood.
    """
    most = None if likelihood is None else _most(likelihood_called(likelihood, images.shape), images)
    with _reading(path, BOUND):
        if isinstance(terms, BoundTerms):
            half, rate = terms
            if _beyond_chance(-rate - ROUNDING):
                raise ValueError("`rate` is below what a KL can be" + _where(rate, torch.zeros_like(rate), -rate))
            if most is not None and bool((half - most > ROUNDING + 1e-5 * most.abs()).any()):
                raise ValueError(f"`log_likelihood` is above what {likelihood} allows{_where(half, most, half - most)}")
        if most is not None and _beyond_chance(excess := terms.elbo - most):
            raise ValueError(f"`elbo` is above what {likelihood} allows" + _where(terms.elbo, most, excess))


def _most(likelihood: Likelihood, images: Images) -> Tensor | None:
    """Return the upper limit of log p(x|z) of each image, (N,) float64 in nats; None where there is none.

    A mass is at most 1. Else the limit is that of a decoder whose output is x itself, which under Bernoulli is minus
    the pixels' entropy. A density whose scale is trained, or with poles at black and white, has no limit.
    """
    if likelihood.kind == "mass":
        return torch.zeros(len(images), dtype=torch.float64)
    if isinstance(likelihood, Bernoulli):
        perfect: Callable[[Tensor], Tensor] = partial(torch.logit, eps=1e-9)
    elif isinstance(likelihood, Gaussian) and not list(likelihood.parameters()):
        perfect = torch.clone
    else:
        return None
    blocks = (to_float(images.take(part, "cpu")).double() for part in torch.split(torch.arange(len(images)), 500))
    return torch.cat([likelihood.log_prob(x, perfect(x)) for x in blocks])


def _beyond_chance(excess: Tensor) -> bool:
    """Return whether an excess over a limit, (N,), is too large for luck: of all images together, or of one."""
    return bool(excess.sum() > -math.log(CHANCE)) or bool(excess.max() > math.log(len(excess) / CHANCE))


def _where(values: Tensor, limit: Tensor, excess: Tensor) -> str:
    worst = int(excess.argmax())
    return (
        f" in {int((excess > 0).sum()):,} of {len(values):,} images: {values[worst]:.4g} nats of image {worst}, "
        f"counted from 0, where {limit[worst]:.4g} is the limit"
    )


@contextmanager
def _reading(path: Path, fix: str) -> Iterator[None]:
    """Turn what reading raises into a `DataError` that names the file."""
    try:
        if not path.exists():
            raise ValueError("there is no such file or folder")
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            yield
    except (ValueError, OSError, EOFError, SyntaxError, BadZipFile, ZlibError, MemoryError, csv.Error) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise DataError(f"{str(path)!r} can't be used", cause=f"{' '.join(said.split())[:300]}.", fix=fix) from None


def _array(path: Path) -> np.ndarray:
    with open_arrays(path) as arrays:
        named = [name for name in ("samples", "arr_0") if name in arrays]
        if not named and len(arrays) != 1:
            raise ValueError(f"which of its arrays are the samples? It has {_quoted(arrays)}")
        return arrays[(named or list(arrays))[0]]


def _channels_first(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return samples as (N, C, H, W), from (N, H, W), (N, H, W, C) or (N, C, H, W); grey ones may have 3 channels."""
    c, h, w = shape
    axis = {(3, h, w): 1, (h, w, 3): 3}.get(array.shape[1:]) if c == 1 else None
    if axis is not None:
        array = _grey(np.moveaxis(array, axis, 0))[0]
    if array.ndim == 3 and c == 1 and array.shape[1:] == (h, w):
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1:] == (h, w, c) != shape:
        array = np.moveaxis(array, -1, 1)
    elif array.ndim != 4 or array.shape[1:] != shape:
        raise ValueError(f"its shape is {array.shape}, and an image of this dataset is (C, H, W) = {shape}")
    if len(array) == 0:
        raise ValueError("it has no samples")
    return array


def _grey(channels: np.ndarray) -> np.ndarray:
    """Return the one channel of a grey image with three equal ones, as torchvision writes it: (3, ...) to (1, ...)."""
    red: np.ndarray
    red, *others = channels
    if not all(np.array_equal(red, other, equal_nan=red.dtype.kind == "f") for other in others):
        raise ValueError("it has 3 channels that differ; this dataset has 1")
    return red[None]


def _some(n: int, most: int) -> np.ndarray:
    """Return `most` positions out of `n`, drawn by a fixed seed, in order; or all."""
    if n <= most:
        return np.arange(n)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for("handed in")))[:most]
    return drawn.sort().values.numpy()


def _from_folder(folder: Path, shape: tuple[int, int, int], most: int) -> tuple[np.ndarray, int]:
    """Return at most `most` .png files of a folder, in the order of their names, and the number of such files."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
    if not paths:
        raise ValueError("it has no .png files")
    return np.stack([_picture(paths[i], shape) for i in _some(len(paths), most)]), len(paths)


def _picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Read a .png file: (C, H, W) uint8. An RGB file may hold a grey image."""
    c, h, w = shape
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("L", "RGB"):
                raise ValueError(f"its mode is {picture.mode}, neither grey (L) nor RGB of 8 bits")
            if picture.size != (w, h):
                raise ValueError(
                    f"it's {picture.size[0]} wide and {picture.size[1]} high; this dataset's images are {w} and {h}"
                )
            pixels = np.moveaxis(np.array(picture).reshape(h, w, -1), -1, 0)
        if c == 1 and len(pixels) == 3:
            pixels = _grey(pixels)
        if len(pixels) != c:
            raise ValueError(f"it has {len(pixels)} channels; this dataset has {c}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path.name!r}: it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"{path.name!r}: {error}") from None
    return pixels


def _columns(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".csv":
        return _from_csv(path)
    with open_arrays(path) as arrays:
        if "" in arrays:
            raise ValueError("it's a single array without a name")
        return dict(arrays)


def _from_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        lines = [(reader.line_num, fields) for fields in reader if fields]
    names = [name.strip() for name in lines[0][1]] if lines else []
    if len(set(names)) < len(names):
        raise ValueError("its first line names a column twice")
    for number, fields in lines:
        if len(fields) != len(names):
            raise ValueError(f"line {number} has {len(fields)} fields, but the first line names {len(names)} columns")
    return {name: np.array([fields[i] for _, fields in lines[1:]]) for i, name in enumerate(names)}


def _column(name: str, values: np.ndarray, n: int) -> Tensor:
    if values.dtype.kind not in "fiuU":
        raise ValueError(f"`{name}` is of type {values.dtype}")
    try:
        column = torch.from_numpy(values.astype(np.float64))
    except ValueError as error:  # text that is no number
        raise ValueError(f"`{name}`: {error}") from None
    if column.shape != (n,):
        raise ValueError(f"`{name}` is of shape {values.shape}, and there are {n:,} test images")
    if not bool((finite := column.isfinite()).all()):
        first = int(finite.int().argmin())
        raise ValueError(
            f"`{name}` is NaN or infinite in {int((~finite).sum()):,} of {n:,} images, first in {first}, counted from 0"
        )
    return column


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, list(names)[:8])) or "nothing"
