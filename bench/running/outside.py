"""What was made outside of the suite, read from a user's files and checked: samples, bounds on the test images.

Nothing is unpickled. What can't be read, or isn't what it should be, is a `DataError` that says what to do.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
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
    "Sum over pixels instead of taking their mean, hand in the bound and not a loss, and leave no constant of a "
    "logarithm out. Of binarised or rescaled pixels it's another dataset's; of another model, another --likelihood's."
)
CHANCE = 1e-6  #: of refusing bounds of a right model, whose draws of z were lucky
ROUNDING = 1e-3  #: nats by which the arithmetic of a right model may be off
_HALVES = ("log_likelihood", "rate")
_BOUND = ("elbo", *_HALVES)


class Samples(NamedTuple):
    """Samples (n, C, H, W) uint8, and how many there were to take them from."""

    pixels: Tensor
    of: int


def read_samples(path: Path, shape: tuple[int, int, int], most: int, scale: float | None = None) -> Samples:
    """The samples in an .npz or .npy file or a folder of .png files: all, or `most` of them drawn by a fixed seed.

    Args:
        shape: (C, H, W) of the dataset's images, which they must have.
        scale: the number that is white; None: what their type says.

    Raises:
        DataError: none are there, or they aren't images of this shape, or nobody can tell what is white.
    """
    with _reading(path, SAMPLES):
        if path.is_dir():
            array, of = _from_folder(path, shape, most)
        else:
            array = _images_last_to_first(_array(path), shape)
            of = len(array)
        levels = pixel_levels({"": array}, scale, of=path, option="--scale {}")[""]
        return Samples(torch.from_numpy(levels[_some(len(levels), most)]), of)


def read_bounds(path: Path, n: int) -> BoundTerms:
    """The bound on each of the `n` test images; of its halves, where only their difference is there, that alone.

    Raises:
        DataError: it isn't there, isn't for so many images, or isn't finite.
    """
    with _reading(path, BOUNDS):
        there = _columns(path)
        columns = {name: _column(name, there[name], n) for name in _BOUND if name in there}
        whole = columns.get("elbo")
        if not all(name in columns for name in _HALVES):
            if whole is None:
                raise ValueError(f"it has neither `elbo` nor `log_likelihood` and `rate`, but {_listed(there)}")
            return BoundTerms(_Half(whole), _Half(-whole))  # type: ignore[arg-type]
        terms = BoundTerms(columns["log_likelihood"], columns["rate"])
        if whole is not None and not torch.allclose(whole, terms.log_likelihood - terms.rate, rtol=1e-4, atol=1e-2):
            raise ValueError("its `elbo` isn't `log_likelihood` - `rate`")
        return terms


def check_bounds(path: Path, terms: BoundTerms, images: Images, likelihood: str | None) -> None:
    """Refuse what no model's bound on these images can be. Where `likelihood` is unknown (None), rates alone can tell.

    No log p(x|z) is above that of a decoder whose output is x, nor is log p(x). Draws of z leave noise in an ELBO and
    in a rate; but E[exp(elbo)] <= p(x) and E[exp(-rate)] <= 1 however many there are, so by Markov's inequality the
    excess over those limits, summed over independent images, is above log(1 / CHANCE) with at most that CHANCE.

    Args:
        path: the file that they are from.
        images: the test split.

    Raises:
        DataError: such a log-likelihood, ELBO or rate is there.
        UsageError: no such likelihood.
    """
    with _reading(path, BOUND):
        rate, half = terms.rate, terms.log_likelihood
        if isinstance(rate, Tensor) and _beyond_chance(-rate - ROUNDING):
            raise ValueError("`rate` is below what a KL can be" + _where(rate, torch.zeros_like(rate), -rate))
        most = None if likelihood is None else _most(likelihood_called(likelihood, images.shape), images)
        if most is None:
            return
        if isinstance(half, Tensor) and bool((half - most > ROUNDING + 1e-5 * most.abs()).any()):
            raise ValueError(f"`log_likelihood` is above what {likelihood} allows" + _where(half, most, half - most))
        if _beyond_chance((elbo := half - rate) - most):
            raise ValueError(f"`elbo` is above what {likelihood} allows" + _where(elbo, most, elbo - most))


def _most(likelihood: Likelihood, images: Images) -> Tensor | None:
    """The most that log p(x|z) can be of each image, (N,) float64 in nats; None where there is no such limit.

    A mass is at most 1. Else it's that of a decoder whose output is x itself, which under Bernoulli is minus the
    pixels' entropy. A density whose scale is trained, or with poles at black and white, has no limit.
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
    """Whether luck can't explain so much above a limit: of all images together, or of one of them."""
    return bool(excess.sum() > -math.log(CHANCE)) or bool(excess.max() > math.log(len(excess) / CHANCE))


def _where(values: Tensor, limit: Tensor, excess: Tensor) -> str:
    worst = int(excess.argmax())
    return (
        f" in {int((excess > 0).sum()):,} of {len(values):,} images: {values[worst]:.4g} nats of image {worst}, "
        f"counted from 0, where {limit[worst]:.4g} is the limit"
    )


class _Half:
    """Half of a bound of which the difference alone is known: less the other half it's that, or minus that."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole

    def __sub__(self, other: _Half) -> Tensor:
        return self.whole

    def __getattr__(self, name: str) -> Any:
        raise NotAvailable("the bound was handed in, and not its halves")


@contextmanager
def _reading(path: Path, fix: str) -> Iterator[None]:
    try:
        if not path.exists():
            raise ValueError("there is nothing")
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            yield
    except (ValueError, OSError, EOFError, SyntaxError, BadZipFile, ZlibError, MemoryError, csv.Error) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise DataError(f"{str(path)!r} can't be used", cause=f"{' '.join(said.split())[:300]}.", fix=fix) from None


def _array(path: Path) -> np.ndarray:
    with open_arrays(path) as arrays:
        known = [name for name in ("samples", "arr_0") if name in arrays]
        if not known and len(arrays) != 1:
            raise ValueError(f"which of its arrays are the samples? It has {_listed(arrays)}")
        return arrays[(known or list(arrays))[0]]


def _images_last_to_first(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) to (N, C, H, W). Grey images may have three equal channels."""
    c, h, w = shape
    axis = {(3, h, w): 1, (h, w, 3): 3}.get(array.shape[1:]) if c == 1 else None
    if axis is not None:
        array = _grey(np.moveaxis(array, axis, 0))[0]
    if array.ndim == 3 and c == 1 and array.shape[1:] == (h, w):
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1:] == (h, w, c) != shape:
        array = np.moveaxis(array, -1, 1)
    elif array.ndim != 4 or array.shape[1:] != shape:
        raise ValueError(f"it's of shape {array.shape}, and an image of this dataset of (C, H, W) = {shape}")
    if len(array) == 0:
        raise ValueError("it has no samples")
    return array


def _grey(channels: np.ndarray) -> np.ndarray:
    """(3, ...) of a grey image, as torchvision writes them, to (1, ...)."""
    red: np.ndarray
    red, *others = channels
    if not all(np.array_equal(red, other, equal_nan=red.dtype.kind == "f") for other in others):
        raise ValueError("it has 3 channels that differ; this dataset 1")
    return red[None]


def _some(n: int, most: int) -> np.ndarray:
    """Positions of `most` of n, drawn by a fixed seed, in order; or all."""
    if n <= most:
        return np.arange(n)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for("handed in")))[:most]
    return drawn.sort().values.numpy()


def _from_folder(folder: Path, shape: tuple[int, int, int], most: int) -> tuple[np.ndarray, int]:
    """The .png files of a folder, by name, at most so many; and how many there are. Not those of its sub-folders."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
    if not paths:
        raise ValueError("it has no .png files")
    return np.stack([_picture(paths[i], shape) for i in _some(len(paths), most)]), len(paths)


def _picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """(C, H, W) uint8. An RGB file may hold a grey image, as torchvision writes them."""
    c, h, w = shape
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("L", "RGB"):
                raise ValueError(f"it's of mode {picture.mode}, and neither grey (L) nor RGB of 8 bits")
            if picture.size != (w, h):
                raise ValueError(f"it's {picture.size[0]} wide and {picture.size[1]} high; this dataset {w} and {h}")
            pixels = np.moveaxis(np.array(picture).reshape(h, w, -1), -1, 0)
        if c == 1 and len(pixels) == 3:
            pixels = _grey(pixels)
        if len(pixels) != c:
            raise ValueError(f"it has {len(pixels)} channels; this dataset {c}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        side = f"this dataset's are {w} wide and {h} high"
        raise ValueError(f"{path.name!r}: it has more than {Image.MAX_IMAGE_PIXELS:,} pixels; {side}") from None
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
    """The columns of a .csv file by their names in its first line: those of a bound as numbers, others as text."""
    reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    lines = [(reader.line_num, fields) for fields in reader if fields]
    heads = [head.strip() for head in lines[0][1]] if lines else []
    if len(set(heads)) < len(heads):
        raise ValueError("its first line names a column twice")
    for line, fields in lines:
        if len(fields) != len(heads):
            raise ValueError(f"line {line} has {len(fields)} fields; the first, which names the columns, {len(heads)}")
    made: dict[str, np.ndarray] = {}
    for i, head in enumerate(heads):
        known = head in _BOUND
        made[head] = np.array([_number(fields[i], head, line) if known else fields[i] for line, fields in lines[1:]])
    return made


def _number(text: str, column: str, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"column `{column}`, line {line}: {text!r} is no number") from None


def _column(name: str, values: np.ndarray, n: int) -> Tensor:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` is of type {values.dtype}")
    if values.shape != (n,):
        raise ValueError(f"`{name}` is of shape {values.shape}, and there are {n:,} test images")
    found = torch.from_numpy(values.astype(np.float64))
    if not bool((finite := found.isfinite()).all()):
        first = int(finite.int().argmin())
        raise ValueError(
            f"`{name}` is NaN or infinite in {int((~finite).sum()):,} of {n:,} images, first in {first}, counted from 0"
        )
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, list(names)[:8])) or "nothing"
