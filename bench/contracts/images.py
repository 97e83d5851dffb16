"""Images in memory or on disk: uint8, with labels and a digest; no caller can change the array behind them."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class Images:
    """A split of a dataset: N images (C, H, W) of uint8 and, if labelled, a class index each.

    Args:
        pixels: (N, C, H, W) uint8; a numpy array (may be memory-mapped) or a tensor.
        labels: (N,) class indices, or None.
        classes: names of the classes; empty where there are no labels.
        at: (M,) positions in `pixels` of the images of this split, which are not copied; None: all of them.
        redrawn: each presentation of an image draws its pixels anew, black or white, with its grey levels as
            probabilities (dynamic binarisation), from the default generator of the device.
    """

    def __init__(
        self,
        pixels: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | None = None,
        classes: tuple[str, ...] = (),
        *,
        at: Tensor | None = None,
        redrawn: bool = False,
    ) -> None:
        self._pixels, self._at = torch.as_tensor(pixels), at
        if self._pixels.dtype != torch.uint8 or self._pixels.ndim != 4:
            raise ValueError(f"pixels must be (N, C, H, W) uint8, not {tuple(self._pixels.shape)} {self._pixels.dtype}")
        self._labels = None if labels is None else torch.as_tensor(labels).long()
        if self._labels is not None and self._labels.shape != (len(self),):
            raise ValueError(f"{len(self)} images but labels of shape {tuple(self._labels.shape)}")
        self.classes = classes if self._labels is not None else ()
        self.redrawn = redrawn

    def __len__(self) -> int:
        return len(self._pixels if self._at is None else self._at)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        c, h, w = self._pixels.shape[1:]
        return c, h, w

    @property
    def device(self) -> torch.device:
        return self._pixels.device

    @property
    def labelled(self) -> bool:
        return self._labels is not None

    def to(self, device: torch.device | str) -> Images:
        """Return the images on `device`; return them as they are if they need more than half of a GPU's free memory."""
        device = torch.device(device)
        size = len(self) * math.prod(self.shape)
        if device == self.device or (device.type == "cuda" and 2 * size > torch.cuda.mem_get_info(device)[0]):
            return self
        labels = None if self._labels is None else self._labels.to(device)
        pixels = self._pixels if self._at is None else self._pixels[self._at]
        moved = Images(pixels.to(device), labels, self.classes, redrawn=self.redrawn)
        moved.__dict__["digest"] = self.digest
        return moved

    def take(self, index: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Return the images at `index` (B,): (B, C, H, W) uint8, on `device`."""
        index = index.to(self.device)
        stored = torch.index_select(self._pixels, 0, index if self._at is None else self._at[index])
        taken = _send(stored, device or self.device)
        return drawn(taken) if self.redrawn else taken

    def labels(self, index: Tensor | None = None, device: torch.device | str | None = None) -> Tensor:
        """Return class indices at `index` (all by default): (B,) int64; -1 where there are none."""
        if self._labels is None:
            n = len(self) if index is None else len(index)
            return torch.full((n,), -1, device=device or self.device)
        labels = self._labels if index is None else self._labels[index.to(self._labels.device)]
        return _send(labels, device or self._labels.device)

    def subset(self, index: Tensor) -> Images:
        """Return the images at `index` as a split of their own."""
        labels = None if self._labels is None else self.labels(index)
        at = index.to(self.device) if self._at is None else self._at[index.to(self.device)]
        return Images(self._pixels, labels, self.classes, at=at, redrawn=self.redrawn)

    @cached_property
    def digest(self) -> str:
        """The sha256 of shape, pixels, labels and `redrawn`."""
        sha = hashlib.sha256((repr((len(self), *self.shape)) + " redrawn" * self.redrawn).encode())
        for start in range(0, len(self), 4096):
            some = slice(start, start + 4096)
            block = self._pixels[some] if self._at is None else self._pixels[self._at[some]]
            sha.update(block.contiguous().cpu().numpy().data)
        if self._labels is not None:
            sha.update(self._labels.cpu().numpy().astype("<i8").data)
        return sha.hexdigest()


def _send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to `device`, without waiting only if it is a GPU: the CPU would read memory that is not filled yet."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def drawn(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw black or white pixels (0, 255) with the grey levels of `pixels` as probabilities: uint8, same shape."""
    return torch.bernoulli(to_float(pixels), generator=generator).mul_(255).to(torch.uint8)


def to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 to [0, 1] float32: level / 255."""
    return pixels.float().div_(255)


def to_uint8(x: Tensor) -> Tensor:
    """Convert [0, 1] to uint8 by rounding to the nearest level, never by truncation; used for every set of images."""
    return x.mul(255).round_().clamp_(0, 255).to(torch.uint8)
