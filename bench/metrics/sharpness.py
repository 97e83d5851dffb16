"""Sharpness and pixel noise, each as a ratio to the real test images: 1 is the target, more isn't better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import NotAvailable
from bench.evidence import Generated, TestImages
from bench.images import Images
from bench.measurement import BaselineScored, Context, Request, Score, Scored, metric

LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))
IMMERKAER = ((1, -2, 1), (-2, 4, -2), (1, -2, 1))
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _grey(pixels: Tensor) -> Tensor:
    """(N, C, H, W) uint8 to (N, 1, H, W) float64 in [0, 1]: luma of three channels, else their mean."""
    x = pixels.cpu().double() / 255
    if x.shape[1] == 3:
        return (x * torch.tensor(LUMA, dtype=x.dtype)[:, None, None]).sum(1, keepdim=True)
    return x.mean(1, keepdim=True)


def _filtered(pixels: Tensor, kernel: tuple[tuple[int, ...], ...], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` over positions (N, P) of the images under a 3x3 `kernel`, without padding: (N,) float64."""
    if min(pixels.shape[2:]) < 3:
        raise NotAvailable("images are smaller than 3 x 3")
    weight = torch.tensor(kernel, dtype=torch.float64)[None, None]
    blocks = (F.conv2d(_grey(block), weight).flatten(1) for block in torch.split(pixels, 1_000))
    return torch.cat([reduce(block) for block in blocks])


def laplacian_variance(pixels: Tensor) -> Tensor:
    """Sharpness: variance of each image's Laplacian on the [0, 1] scale. (N, C, H, W) uint8 to (N,) float64.

    3x3 kernel, no padding, population variance over positions (Tolstikhin et al. 2018).
    """
    return _filtered(pixels, LAPLACIAN, lambda response: response.var(1, correction=0))


def noise_sigma(pixels: Tensor) -> Tensor:
    """Pixel noise: a standard deviation on the [0, 1] scale, by image. (N, C, H, W) uint8 to (N,) float64.

    Immerkaer 1996: mean magnitude of a difference of Laplacians; constant and linear regions give 0.
    """
    return _filtered(pixels, IMMERKAER, lambda response: response.abs().mean(1) * math.sqrt(math.pi / 2) / 6)


def ratio(values: Tensor, reference: Tensor) -> Score:
    """mean(values) / mean(reference), with its standard error by the delta method: both (N,) float64."""
    a, b = Score.of(values), Score.of(reference)
    if b.value == 0:
        raise NotAvailable("the real images have none")
    value = a.value / b.value
    if a.se is None or b.se is None:
        return Score(value, a.n)
    return Score(value, a.n, math.hypot(a.se, value * b.se) / b.value)


@dataclass(frozen=True)
class ImageSharpness(Request[Tensor]):
    """Sharpness of each test image or sample: (N,) float64."""

    of: Literal["test", "prior", "gmm"]

    def resolve(self, context: Context) -> Tensor:
        if self.of == "test":
            return laplacian_variance(_pixels(context.get(TestImages())))
        return laplacian_variance(context.get(Generated(self.of)))

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {f"sharpness_{self.of}": value.float()}


def _pixels(images: Images) -> Tensor:
    return images.take(torch.arange(len(images)), "cpu")


@metric(ImageSharpness("prior"), ImageSharpness("test"), unit="× real", range=(0, math.inf))
def sharpness(samples: Tensor, real: Tensor) -> Score:
    """Mean variance of the Laplacian of prior samples, as a ratio to the real test images.

    1 is the target. Below it images are blurred; above it they are harder or noisier than real ones, and
    noise raises it at once: so no direction.
    """
    return ratio(samples, real)


@metric(ImageSharpness("gmm"), ImageSharpness("test"), unit="× real", range=(0, math.inf))
def sharpness_gmm(samples: Tensor, real: Tensor) -> Score:
    """`sharpness` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return ratio(samples, real)


@metric(Generated("prior"), TestImages(), unit="× real", range=(0, math.inf))
def noise(samples: Tensor, images: Images) -> Score:
    """Mean pixel noise (Immerkaer's estimate) of prior samples, as a ratio to the real test images.

    Clean edges count a little, too: with `sharpness` near 1 and this well above, what looks sharp is noise.
    """
    return ratio(noise_sigma(samples), noise_sigma(_pixels(images)))


@metric(
    Scored("sharpness"),
    BaselineScored("sharpness"),
    BaselineScored("modes"),
    BaselineScored("noise"),
    unit="× baseline",
    range=(0, math.inf),
)
def sharpness_vs_gan(own: Score, anchor: Score, modes: Score, noise: Score) -> Score:
    """`sharpness` as a ratio to the baseline's, where the baseline is fit to be an anchor.

    That is: it reaches every class (`modes` is 1), and its `noise` isn't above the real images' by more
    than two standard errors. A collapsed or noisy anchor is sharp for the wrong reason.
    """
    if modes.value < 1:
        raise NotAvailable(f"the baseline is no fit anchor: it reaches {modes.value:.0%} of the classes")
    if noise.value - 2 * (noise.se or 0.0) > 1:
        raise NotAvailable(f"the baseline is no fit anchor: it has {noise.value:.2f} times the noise of real images")
    if anchor.value == 0:
        raise NotAvailable("the baseline is no fit anchor: its images are flat")
    value = own.value / anchor.value
    if own.se is None or anchor.se is None:
        return Score(value, own.n)
    return Score(value, own.n, math.hypot(own.se, value * anchor.se) / anchor.value)
