"""Sharpness of images, one number each, for metrics and the report."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.util.errors import NotAvailable

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLOCK = 100  #: images that stay in a processor's cache together


def grey(pixels: Tensor) -> Tensor:
    """Return grey images (N, H, W), float64 in [0, 1], of (N, C, H, W) uint8: luma of three channels, else the mean."""
    x = pixels.cpu().double() / 255
    if x.shape[1] == 3:
        return (x * torch.tensor(LUMA, dtype=x.dtype)[:, None, None]).sum(1)
    return x[:, 0] if x.shape[1] == 1 else x.mean(1)


def each(measure: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Return `measure` of the grey images (N, H, W) of pixels (N, C, H, W) uint8, computed in blocks.

    Raises:
        NotAvailable: images are smaller than 3 x 3.
    """
    if min(pixels.shape[2:]) < 3:
        raise NotAvailable("images are smaller than 3 x 3")
    return torch.cat([measure(grey(block)) for block in torch.split(pixels, BLOCK)])


def variance(x: Tensor) -> Tensor:
    """Return the population variance (N,) over all positions of (N, H, W)."""
    flat = x.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred.square().mean(1)


def second(x: Tensor, dim: int) -> Tensor:
    """Return the second difference along `dim`: kernel [1, -2, 1], no padding."""
    n = x.shape[dim] - 2
    return x.narrow(dim, 0, n) + x.narrow(dim, 2, n) - 2 * x.narrow(dim, 1, n)


def laplacian_variance(pixels: Tensor) -> Tensor:
    """Return the variance of each image's Laplacian on the [0, 1] scale: (N,) float64 of (N, C, H, W) uint8.

    A measure of sharpness: 3x3 kernel, no padding, population variance over positions (Tolstikhin et al. 2018).

    Raises:
        NotAvailable: images are smaller than 3 x 3.
    """
    return each(lambda x: variance(second(x[:, :, 1:-1], 1) + second(x[:, 1:-1], 2)), pixels)
