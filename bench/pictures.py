"""Grids of images."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def grid(images: Tensor, columns: int = 16, gap: int = 1) -> Image.Image:
    """(N, C, H, W) uint8 as one picture, row by row, enlarged by whole pixels to be seen."""
    n, c, h, w = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    array = sheet.permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array[..., 0] if c == 1 else array))
    scale = max(1, 56 // max(h, w))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def paired(originals: Tensor, reconstructions: Tensor, columns: int = 16) -> Tensor:
    """Rows of originals, each above the row of their reconstructions."""
    n = len(originals) // columns * columns or len(originals)
    columns = min(columns, n)
    rows = [t[:n].view(-1, columns, *t.shape[1:]) for t in (originals, reconstructions)]
    return torch.stack(rows, 1).flatten(0, 2)
