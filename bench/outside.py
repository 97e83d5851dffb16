"""What was made outside of the suite, read from a user's files and checked: samples, bounds on the test images.

Nothing is unpickled. What can't be read, or isn't what it should be, is a `DataError` that says what to do.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.errors import DataError, NotAvailable
from bench.evidence import BoundTerms
from bench.images import to_uint8
from bench.protocol import seed_for

SAMPLES = (
    "Save them as `samples` in an .npz file: uint8, or floats from 0 to 1, of shape (N, H, W), (N, H, W, C) or "
    "(N, C, H, W); or as grey or RGB .png files in one folder."
)
BOUNDS = (
    "Save `elbo`, or `log_likelihood` and `rate`, in an .npz file or as the columns of a .csv file: one number for "
    "each test image, in nats, in the order of the test split."
)
_HALVES = ("log_likelihood", "rate")


class Samples(NamedTuple):
    """Samples (n, C, H, W) uint8, and how many there were to take them from."""

    pixels: Tensor
    of: int


def read_samples(path: Path, shape: tuple[int, int, int], most: int) -> Samples:
    """The samples in an .npz or .npy file or a folder of .png files: all, or `most` of them drawn by a fixed seed.

    Args:
        shape: (C, H, W) of the dataset's images, which they must have.

    Raises:
        DataError: none are there, or they aren't images of this shape.
    """
    with _reading(path, SAMPLES):
        if path.is_dir():
            return _from_folder(path, shape, most)
        array = _images_last_to_first(_array(path), shape)
        where = _some(len(array), most)
        return Samples(_levels(array[where]), len(array))


def read_bounds(path: Path, n: int) -> BoundTerms:
    """The bound on each of the `n` test images; of its halves, where only their difference is there, that alone.

    Raises:
        DataError: it isn't there, isn't for so many images, or isn't finite.
    """
    with _reading(path, BOUNDS):
        there = _columns(path)
        columns = {name: _column(name, there[name], n) for name in ("elbo", *_HALVES) if name in there}
        whole = columns.get("elbo")
        if not all(name in columns for name in _HALVES):
            if whole is None:
                raise ValueError(f"it has neither `elbo` nor `log_likelihood` and `rate`, but {_listed(there)}")
            return BoundTerms(_Half(whole), _Half(-whole))  # type: ignore[arg-type]
        terms = BoundTerms(columns["log_likelihood"], columns["rate"])
        if whole is not None and not torch.allclose(whole, terms.log_likelihood - terms.rate, rtol=1e-4, atol=1e-2):
            raise ValueError("its `elbo` isn't `log_likelihood` - `rate`")
        return terms


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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{str(path)!r} can't be used", cause=f"An image in it is huge: {error}", fix=fix) from None


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except ValueError:
        raise ValueError("it's no .npz or .npy file of plain numbers") from None


def _member(archive: Any, name: str) -> np.ndarray:
    try:
        found: np.ndarray = archive[name]
    except ValueError:
        raise ValueError(f"{name!r} in it doesn't hold plain numbers, and nothing is unpickled") from None
    return found


def _array(path: Path) -> np.ndarray:
    opened = _opened(path)
    if isinstance(opened, np.ndarray):
        return opened
    with opened as archive:
        known = [name for name in ("samples", "arr_0") if name in archive.files]
        if not known and len(archive.files) != 1:
            raise ValueError(f"which of its arrays are the samples? It has {_listed(archive.files)}")
        return _member(archive, (known or archive.files)[0])


def _images_last_to_first(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) to (N, C, H, W)."""
    c, h, w = shape
    if array.ndim == 3 and c == 1 and array.shape[1:] == (h, w):
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1:] == (h, w, c) != shape:
        array = np.moveaxis(array, -1, 1)
    elif array.ndim != 4 or array.shape[1:] != shape:
        raise ValueError(f"it's of shape {array.shape}, and an image of this dataset of (C, H, W) = {shape}")
    if len(array) == 0:
        raise ValueError("it has no samples")
    return array


def _some(n: int, most: int) -> np.ndarray:
    """Positions of `most` of n, drawn by a fixed seed, in order; or all."""
    if n <= most:
        return np.arange(n)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for("handed in")))[:most]
    return drawn.sort().values.numpy()


def _levels(array: np.ndarray) -> Tensor:
    """Pixels as the suite holds them: uint8, floats rounded by the one quantiser."""
    kind = array.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"its pixels are of type {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it has values that are NaN or infinite")
    most = 1 if kind in "bf" else 255
    if low < 0 or high > most:
        what = "floats" if kind == "f" else "whole numbers"
        raise ValueError(f"it has {what} from {low:g} to {high:g}: they are from 0 to {most}")
    if kind in "iu" and high == 1:
        raise ValueError("it has whole numbers, none above 1: white is 255, and 1 next to black")
    if kind in "bf":
        return to_uint8(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))


def _from_folder(folder: Path, shape: tuple[int, int, int], most: int) -> Samples:
    """All .png files of a folder, by name; not those of its sub-folders."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith("."))
    if not paths:
        raise ValueError("it has no .png files")
    return Samples(torch.stack([_picture(paths[i], shape) for i in _some(len(paths), most)]), len(paths))


def _picture(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """(C, H, W) uint8. An RGB file may hold a grey image, as torchvision writes them."""
    c, h, w = shape
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("L", "RGB"):
                raise ValueError(f"it's of mode {picture.mode}, and neither grey (L) nor RGB of 8 bits")
            if picture.size != (w, h):
                raise ValueError(f"it's {picture.size[0]} wide and {picture.size[1]} high; this dataset {w} and {h}")
            pixels = torch.from_numpy(np.array(picture)).reshape(h, w, -1).movedim(-1, 0)
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"{path.name!r}: {error}") from None
    if c == 1 and len(pixels) == 3 and torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2]):
        pixels = pixels[:1]
    if len(pixels) != c:
        raise ValueError(f"{path.name!r}: it has {len(pixels)} channels; this dataset {c}")
    return pixels


def _columns(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".csv":
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        lines = [line for line in lines if line]
        heads = [head.strip() for head in lines[0]] if lines else []
        if any(len(line) != len(heads) for line in lines):
            raise ValueError("not all of its lines have as many fields as the first one, which names the columns")
        return {head: np.array([line[i] for line in lines[1:]]) for i, head in enumerate(heads)}
    opened = _opened(path)
    if isinstance(opened, np.ndarray):
        raise ValueError("it's a single array without a name")
    with opened as archive:
        return {name: _member(archive, name) for name in archive.files}


def _column(name: str, values: np.ndarray, n: int) -> Tensor:
    if values.dtype.kind not in "fiuU":
        raise ValueError(f"`{name}` is of type {values.dtype}")
    if values.shape != (n,):
        raise ValueError(f"`{name}` is of shape {values.shape}, and there are {n:,} test images")
    found = torch.from_numpy(values.astype(np.float64))
    if not bool(found.isfinite().all()):
        raise ValueError(f"`{name}` has values that are NaN or infinite")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, list(names)[:8])) or "nothing"
