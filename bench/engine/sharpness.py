"""Sharpness of images: one number for each, by which metrics score a set and reports show it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.util.errors import NotAvailable

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLOCK = 100  #: images that stay in a processor's cache together


def grey(pixels: Tensor) -> Tensor:
    """(N, C, H, W) uint8 to (N, H, W) float64 in [0, 1]: luma of three channels, else their mean."""
    x = pixels.cpu().double() / 255
    if x.shape[1] == 3:
        return (x * torch.tensor(LUMA, dtype=x.dtype)[:, None, None]).sum(1)
    return x[:, 0] if x.shape[1] == 1 else x.mean(1)


def each(measure: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """`measure` of grey images (N, H, W), over pixels (N, C, H, W) uint8.

    Raises:
        NotAvailable: images are smaller than 3 x 3.
    """
    if min(pixels.shape[2:]) < 3:
        raise NotAvailable("images are smaller than 3 x 3")
    return torch.cat([measure(grey(block)) for block in torch.split(pixels, BLOCK)])


def variance(x: Tensor) -> Tensor:
    """Population variance over all positions of (N, H, W): (N,)."""
    flat = x.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred.square().mean(1)


def second(x: Tensor, dim: int) -> Tensor:
    """Second difference along `dim`: [1, -2, 1] without padding."""
    n = x.shape[dim] - 2
    return x.narrow(dim, 0, n) + x.narrow(dim, 2, n) - 2 * x.narrow(dim, 1, n)


def laplacian_variance(pixels: Tensor) -> Tensor:
    """Sharpness: variance of each image's Laplacian on the [0, 1] scale. (N, C, H, W) uint8 to (N,) float64.

    3x3 kernel, no padding, population variance over positions (Tolstikhin et al. 2018).

    Raises:
        NotAvailable: images are smaller than 3 x 3.
    """
    return each(lambda x: variance(second(x[:, :, 1:-1], 1) + second(x[:, 1:-1], 2)), pixels)
