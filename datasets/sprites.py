"""Shapes drawn from known factors: what disentanglement can be measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from bench import Dataset, Images, Splits

from ._reading import fixed_split

SIDE = 28
FINE = 4  #: samples a pixel, along each axis
SCALES = (3.05, 3.85, 4.65, 5.45)  #: pixels; edges fall between samples, so that rounding can't move any
TURNS = 10  #: steps of 9 degrees: below the quarter turn after which a square is itself
PLACES = 10  #: along each axis, 1.5 pixels apart
STEP = 6  #: fine samples from one place to the next


class Sprites(Dataset):
    """Squares, ellipses and hearts in 4 sizes, 10 orientations and 10 x 10 places: each of 12,000 combinations once.

    White on black with grey edges, drawn when it is read. After the dSprites of Matthey et al. 2017, but smaller, and
    with orientations that all differ, 0 to 81 degrees. One image in six is for the test, by a fixed seed. Factors are
    shape, scale, orientation, x and y, as positions in their ranges; the shape is also the label.
    """

    title = "drawn sprites with known factors, 28x28 grey, 10,000 + 2,000, made on the spot"
    license = "MIT"
    latent_dim = 10
    classes = ("square", "ellipse", "heart")

    def load(self, root: Path) -> Splits:
        sizes = (len(self.classes), len(SCALES), TURNS, PLACES, PLACES)
        factors = np.indices(sizes).reshape(len(sizes), -1).T
        pixels = np.concatenate([everywhere(*map(int, some)) for some in factors[:: PLACES**2, :3]])[:, None]
        train, test = fixed_split(factors[:, 0], every=6)
        splits = (Images(pixels[at], factors[at, 0], self.classes) for at in (train, test))
        return Splits(*splits, factors=torch.as_tensor(factors[test], dtype=torch.int64))


def inside(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of size 1, y upwards: bool."""
    if shape == 0:
        return np.maximum(abs(x), abs(y)) < 0.86
    if shape == 1:
        return (x / 1.1) ** 2 + (y / 0.62) ** 2 < 1
    x, y = 1.18 * x, 1.18 * y + 0.1
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def everywhere(shape: int, scale: int, turn: int) -> np.ndarray:
    """One sprite at all places, x before y: (PLACES^2, SIDE, SIDE) uint8, the share of each pixel that it covers."""
    reach = STEP * (PLACES - 1)  # fine samples from the first to the last place
    fine = np.arange(FINE * SIDE + reach)
    offset = (fine - (len(fine) - 1) / 2) / FINE / SCALES[scale]
    angle = np.pi / 2 * turn / TURNS
    x, y = np.meshgrid(offset, -offset)
    big = inside(shape, np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    share = sliding_window_view(big, (FINE, FINE)).sum((2, 3), dtype=np.uint8)  # of a pixel that begins here
    at = sliding_window_view(share, (FINE * (SIDE - 1) + 1,) * 2)[::STEP, ::STEP, ::FINE, ::FINE]
    return np.rint(at[::-1, ::-1].swapaxes(0, 1).reshape(-1, SIDE, SIDE) * (255 / FINE**2)).astype(np.uint8)
