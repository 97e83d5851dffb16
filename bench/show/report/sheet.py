"""Images as one picture in the page: tiles with clear gaps, as a data URI."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor

TILE = 56  #: CSS pixels that a small image is enlarged to, by a whole factor
WIDE = 352  #: CSS pixels of a sheet at most: a phone's screen without margins
LOSSLESS = 40  #: side of an image up to which pixels are exact; larger images are compressed
BYTES = 400_000  #: size of a sheet up to which pixels are exact


@dataclass(frozen=True)
class Picture:
    """A data URI, its size on the screen in CSS pixels, and a description in words."""

    src: str
    width: int
    height: int
    alt: str
    columns: int = 1
    rows: int = 1


def square(images: Tensor, alt: str) -> Picture:
    """Return the first of `images` as a square sheet, at most 6 by 6."""
    side = max(1, min(6, WIDE // (images.shape[3] * _scale(images) + 2)))
    return sheet(images[: side * side], side, alt)


def sheet(images: Tensor, columns: int, alt: str, *, gap: int = 1) -> Picture:
    """Return images (N, C, H, W) uint8 row by row; of other numbers of channels than 1 and 3, the first as grey."""
    n, _, h, w = images.shape
    columns = max(1, min(columns, n))
    rows = ceil(n / columns)
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    for i, image in enumerate(coloured(images).permute(0, 2, 3, 1).cpu().numpy()):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w, :3] = image
        canvas[top : top + h, left : left + w, 3] = 255
    height, width = (side * _scale(images) for side in canvas.shape[:2])
    picture, out = Image.fromarray(canvas if gap and n > 1 else canvas[..., :3]), BytesIO()
    exact = max(h, w) <= LOSSLESS and images.numel() <= BYTES
    picture.save(out, "WEBP", lossless=exact, quality=80 if exact else 86, method=4)
    src = f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
    return Picture(src, width, height, alt, columns, rows)


def error_maps(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Return |x - reconstruction|, the mean over channels, as colours (N, 3, H, W) uint8.

    White is 0, deep red half the range of a pixel or more.
    """
    off = (originals.float() - reconstructions.float()).abs().mean(1) / 255
    at = (off / 0.5).clamp(0, 1)[:, None]
    white, red = torch.tensor((255.0, 255.0, 255.0)), torch.tensor((150.0, 0.0, 24.0))
    blend = (1 - at) * white.view(1, 3, 1, 1) + at * red.view(1, 3, 1, 1)
    return blend.round().to(torch.uint8)


def coloured(images: Tensor) -> Tensor:
    """Return images with three channels: (N, 3, H, W)."""
    return images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)


def _scale(images: Tensor) -> int:
    """Return the factor by which images (N, C, H, W) are enlarged."""
    return max(1, round(TILE / max(images.shape[2:])))
