"""Blurriness in pixels: the Gaussian blur that makes real images as unsharp as the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.errors import NotAvailable
from bench.evidence import positions
from bench.images import to_float, to_uint8
from bench.measurement import Context, Request, Score, metric
from bench.metrics.sharpness import (
    BlackOrWhite,
    Paired,
    Pairs,
    PerImage,
    above,
    contrast,
    noise_sigma,
    normalised,
    paired_ratio,
    ratio,
    relative_noise,
)
from bench.sharpness import laplacian_variance

SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
IMAGES = 1_000  #: test images that are blurred
FALL = 0.9  #: a step of the curve that falls by less is within the rounding of grey levels: there calibration ends
NOISE = 1.5  #: times the noise of real images of the same blur, at most, for a lack of sharpness to be blur alone
PASSES = "noise passes for sharpness"


def heat(n: int, sigma: float) -> Tensor:
    """The (n, n) matrix that blurs a line of n pixels by a Gaussian of `sigma` pixels: float64.

    By cosines, so that each is damped by exactly exp(-(sigma omega)^2 / 2), whatever sigma is; a line goes on as its
    mirror image. A sampled kernel of a quarter of a pixel would blur nothing.
    """
    k = torch.arange(n, dtype=torch.float64)
    cosines = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * math.sqrt(2 / n)
    cosines[0] /= math.sqrt(2)
    return cosines.T @ (torch.exp(-((sigma * math.pi * k / n) ** 2) / 2)[:, None] * cosines)


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Images (..., H, W) blurred by a Gaussian of `sigma` pixels, in their dtype."""
    height, width = x.shape[-2:]
    return heat(height, sigma).to(x.dtype) @ x @ heat(width, sigma).to(x.dtype).T


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """`smooth` for (N, C, H, W) uint8, through the one quantiser."""
    return to_uint8(smooth(to_float(pixels), sigma))


class Curve(NamedTuple):
    """What blur does to real images: all (K,), the last two as shares of what the unblurred ones have.

    Both are contrast-normalised: what guards a measure has to see what it sees.
    """

    sigma: np.ndarray
    sharpness: np.ndarray  #: falls from 1
    noise: np.ndarray


def calibrate(pixels: Tensor, sigmas: tuple[float, ...] = SIGMAS) -> Curve:
    """The curve of real images (N, C, H, W) uint8, as far as it falls.

    Raises:
        NotAvailable: they are flat, smaller than 3 x 3, or blur can't be seen on them.
    """
    rows: list[tuple[float, float, float]] = []
    for sigma in sigmas:
        images = blurred(pixels, sigma) if sigma else pixels
        spread = contrast(images)
        sharpness = normalised(laplacian_variance(images), spread).nanmean().item()
        noise = relative_noise(noise_sigma(images), spread).nanmean().item()
        if rows and not sharpness < FALL * rows[-1][1]:
            break
        rows.append((sigma, sharpness, noise))
    if len(rows) < 2 or not rows[0][2]:
        raise NotAvailable("blur doesn't show on the real images: they are flat or smooth")
    sigma, sharpness, noise = np.array(rows).T
    return Curve(sigma, sharpness / sharpness[0], noise / noise[0])


@dataclass(frozen=True)
class Calibration(Request[Curve]):
    """The curve of 1,000 test images."""

    def resolve(self, context: Context) -> Curve:
        if context.get(BlackOrWhite()):
            raise NotAvailable(
                "real pixels are black or white: samples, means of such, differ from them by more than blur"
            )
        images = context.data.test
        return calibrate(images.take(positions(images, IMAGES), "cpu"))


def equivalent(curve: Curve, share: float) -> float:
    """The blur in pixels that leaves `share` of the sharpness, 0 where nothing is lost; infinite beyond the curve.

    Linear between knots in the logarithm of sharpness over the square of sigma, as a Gaussian acts on a frequency.
    """
    if share <= 0:
        return math.inf
    return float(np.sqrt(np.interp(-math.log(share), -np.log(curve.sharpness), curve.sigma**2, right=math.inf)))


class Ratios(NamedTuple):
    """Of contrast-normalised sharpness and of relative noise, each to the same real images."""

    sharpness: Score
    noise: Score


def equivalent_blur(curve: Curve, to_real: Ratios, *to_others: Ratios) -> Score:
    """The equivalent blur of images with these ratios to real ones, and its standard error by that of the sharpness.

    What is above real images has to be above `to_others`, too: further real images.

    Raises:
        NotAvailable: they're noisier than real images or than those of the same blur; or beyond the calibration; or a
            ratio has no standard error.
    """
    sharpness, noise = to_real
    if sharpness.se is None or noise.se is None:
        raise NotAvailable("its ratio to real images has no standard error: it could be anything")
    sigma = equivalent(curve, sharpness.value)
    if above(noise, *(other.noise for other in to_others)):
        raise NotAvailable(f"noisier than real images of its contrast ({noise.value:.2f} times): {PASSES}")
    if math.isinf(sigma):
        raise NotAvailable(f"blurrier than real images blurred by {curve.sigma[-1]:g} px, where calibration ends")
    excess = noise.value / float(np.interp(sigma, curve.sigma, curve.noise))
    if excess > NOISE:
        raise NotAvailable(f"noisier than real images of its contrast and blur ({excess:.2f} times): {PASSES}")
    notes = [sharpness.note] if sharpness.note else []
    if above(sharpness, *(other.sharpness for other in to_others)):
        notes.append("sharper than real images: no blur would make these of them")
    less, more = (equivalent(curve, max(sharpness.value + s * sharpness.se, 0.0)) for s in (1, -1))
    se = (more - less) / 2 if sigma else None
    return Score(sigma, sharpness.n, se, "; ".join(notes))


def _samples(sigma: float) -> str:
    return f"samples as sharp as real images{f' blurred by {sigma:.1f} px' if sigma >= 0.05 else ''}"


def _reconstructions(sigma: float) -> str:
    return f"reconstructions, as {f'those blurred by {sigma:.1f} px' if sigma >= 0.05 else 'those themselves'}"


@metric(
    Calibration(),
    PerImage("normalised", "prior"),
    PerImage("normalised", "test"),
    PerImage("normalised", "train"),
    PerImage("relative noise", "prior"),
    PerImage("relative noise", "test"),
    PerImage("relative noise", "train"),
    unit="px",
    range=(0, math.inf),
    told=_samples,
)
def blur(
    curve: Curve,
    samples: Tensor,
    real: Tensor,
    training: Tensor,
    noise: Tensor,
    real_noise: Tensor,
    training_noise: Tensor,
) -> Score:
    """Equivalent blur: sigma of the Gaussian that leaves real images no more sharpness than prior samples have.

    Sharpness and noise are contrast-normalised. 0 where samples are no less sharp than real images. n/a where they're
    noisier than those, or by a half than real images of that blur: noise passes for sharpness. Read off a curve over
    1,000 images.
    """
    to_test = Ratios(ratio(samples, real), ratio(noise, real_noise))
    return equivalent_blur(curve, to_test, Ratios(ratio(samples, training), ratio(noise, training_noise)))


@metric(
    Calibration(), Paired("normalised"), Paired("relative noise"), unit="px", range=(0, math.inf), told=_reconstructions
)
def blur_rec(curve: Curve, sharpness: Pairs, noise: Pairs) -> Score:
    """`blur` of reconstructions against their own 2,000 originals: what code and decoder lose, whatever the prior."""
    return equivalent_blur(curve, Ratios(paired_ratio(sharpness), paired_ratio(noise)))
