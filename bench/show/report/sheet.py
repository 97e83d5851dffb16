"""Images as one picture inside the page: a sheet of tiles with clear gaps, as a data URI."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

TILE = 56  #: pixels of the screen that a small image is enlarged to, by whole ones
WIDE = 352  #: and what a sheet may take in width: a phone's screen without margins
LOSSLESS = 40  #: side of an image up to which no pixel is changed; larger ones are compressed,
BYTES = 400_000  #: and so are sheets of more than these


@dataclass(frozen=True)
class Sheet:
    """A picture: its data URI, its size on the screen in CSS pixels, and what it shows in words."""

    src: str
    width: int
    height: int
    alt: str
    columns: int = 1
    rows: int = 1


def scale_of(images: Tensor, tile: int = TILE) -> int:
    """By how much images (N, C, H, W) are enlarged to be seen."""
    return max(1, round(tile / max(images.shape[2:])))


def columns_of(images: Tensor, most: int = 6) -> int:
    """How many images stand side by side on a sheet."""
    return max(1, min(most, WIDE // (images.shape[3] * scale_of(images) + 2)))


def square(images: Tensor, alt: str) -> Sheet:
    """As many of `images` as make a square sheet, at most 6 by 6."""
    side = columns_of(images)
    return sheet(images[: side * side], side, alt)


def sheet(images: Tensor, columns: int, alt: str, *, gap: int = 1, tile: int = TILE) -> Sheet:
    """Images (N, C, H, W) uint8, row by row. Small ones are kept to the bit."""
    n, _, h, w = images.shape
    columns = max(1, min(columns, n))
    rows = ceil(n / columns)
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    for i, image in enumerate(_coloured(images)):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w, :3] = image
        canvas[top : top + h, left : left + w, 3] = 255
    scale = scale_of(images, tile)
    height, width = canvas.shape[:2]
    picture = Image.fromarray(canvas if gap and n > 1 else canvas[..., :3])
    exact = max(h, w) <= LOSSLESS and images.numel() <= BYTES
    return Sheet(_uri(picture, exact), width * scale, height * scale, alt, columns, rows)


def error_maps(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """|x - reconstruction|, the mean over channels, as colours (N, 3, H, W) uint8: white 0, deep red half the range."""
    off = (originals.float() - reconstructions.float()).abs().mean(1) / 255
    at = (off / 0.5).clamp(0, 1)[:, None]
    white, red = torch.tensor((255.0, 255.0, 255.0)), torch.tensor((150.0, 0.0, 24.0))
    blend = (1 - at) * white.view(1, 3, 1, 1) + at * red.view(1, 3, 1, 1)
    return blend.round().to(torch.uint8)


def _coloured(images: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) to (N, H, W, 3): of one channel, or of a number that no screen has, the first as grey."""
    rgb = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    made: NDArray[np.uint8] = rgb.permute(0, 2, 3, 1).cpu().numpy()
    return made


def _uri(picture: Image.Image, exact: bool) -> str:
    out = BytesIO()
    if exact:
        picture.save(out, "WEBP", lossless=True, quality=80, method=4)
    else:
        picture.save(out, "WEBP", quality=86, method=4)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
