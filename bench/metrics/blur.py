"""Blurriness in pixels: the Gaussian blur that makes real images as unsharp as the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.contracts.images import to_float, to_uint8
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.engine.sharpness import laplacian_variance
from bench.evidence import positions
from bench.metrics.cache import remembered, statistics
from bench.metrics.sharpness import (
    BlackOrWhite,
    PairedMeasure,
    Pairs,
    PerImage,
    above,
    contrast,
    noise_part,
    noise_sigma,
    normalised,
    paired_ratio,
    ratio,
    sets,
)
from bench.util.errors import NotAvailable

SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
IMAGES = 1_000  #: test images that are blurred
FALL = 0.9  #: a smaller step of the curve is within the rounding of grey levels: calibration ends there
NOISE = 0.1  #: the largest share of sharpness that may be noise which real images of such blur lack: .03 px at .7 px


def heat(n: int, sigma: float) -> Tensor:
    """Return the (n, n) matrix that blurs a line of n pixels by a Gaussian of `sigma` pixels: float64.

    By cosines, so that each is damped by exactly exp(-(sigma omega)^2 / 2), whatever sigma is; a line continues as its
    mirror image. A sampled kernel of a quarter of a pixel would blur nothing.
    """
    k = torch.arange(n, dtype=torch.float64)
    cosines = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * math.sqrt(2 / n)
    cosines[0] /= math.sqrt(2)
    return cosines.T @ (torch.exp(-((sigma * math.pi * k / n) ** 2) / 2)[:, None] * cosines)


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Return images (..., H, W) blurred by a Gaussian of `sigma` pixels, in their dtype."""
    height, width = x.shape[-2:]
    return heat(height, sigma).to(x.dtype) @ x @ heat(width, sigma).to(x.dtype).T


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Return images (N, C, H, W) uint8 blurred and quantised again."""
    return to_uint8(smooth(to_float(pixels), sigma))


class BlurCurve(NamedTuple):
    """The sharpness of real images by their blur: all (K,), the last two as shares of the sharpness without blur."""

    sigma: np.ndarray
    sharpness: np.ndarray  #: contrast-normalised; falls from 1
    noise: np.ndarray  #: the part of it that is noise, or edges that look like noise


def calibrate(pixels: Tensor, sigmas: tuple[float, ...] = SIGMAS) -> BlurCurve:
    """Return the curve of real images (N, C, H, W) uint8. Raises NotAvailable if they are flat, tiny, or smooth."""
    rows: list[tuple[float, float, float]] = []
    for sigma in sigmas:
        images = blurred(pixels, sigma) if sigma else pixels
        spread = contrast(images)
        sharpness = normalised(laplacian_variance(images), spread).nanmean().item()
        noise = noise_part(noise_sigma(images), spread).nanmean().item()
        if rows and not sharpness < FALL * rows[-1][1]:
            break
        rows.append((sigma, sharpness, noise))
    if len(rows) < 2 or not rows[0][2]:
        raise NotAvailable("blur doesn't show on the real images: they are flat or smooth")
    sigma, sharpness, noise = np.array(rows).T
    return BlurCurve(sigma, sharpness / sharpness[0], noise / sharpness[0])


@dataclass(frozen=True)
class Calibration(Request[BlurCurve]):
    """The curve of 1,000 test images. Kept between runs."""

    def resolve(self, context: Context) -> BlurCurve:
        if context.get(BlackOrWhite()):
            raise NotAvailable("real pixels are black or white: samples are means of such, so not only blur differs")
        images = context.data.test
        where = positions(images, IMAGES)

        def compute() -> Tensor:
            return torch.tensor(np.array(calibrate(images.take(where, "cpu"))))

        path = statistics(context, f"blur-v1-{images.digest[:16]}-{len(where)}")
        return BlurCurve(*remembered(path, "curve", compute).numpy())


def equivalent(curve: BlurCurve, share: float) -> float:
    """Return the blur in pixels that leaves `share` of the sharpness: 0 where nothing is lost, inf beyond the curve.

    Linear between knots in the logarithm of sharpness over the square of sigma, as a Gaussian acts on a frequency.
    """
    if share <= 0:
        return math.inf
    return float(np.sqrt(np.interp(-math.log(share), -np.log(curve.sharpness), curve.sigma**2, right=math.inf)))


def equivalent_blur(curve: BlurCurve, sharpness: Score, noise: Score, *to_others: Score) -> Score:
    """Return the equivalent blur of images, given the ratios of their sharpness and its noise part to real sharpness.

    Images count as sharper than real ones if their sharpness without noise is above these and above further real
    images, to which `to_others` are ratios.

    Raises:
        NotAvailable: noise beyond that of real images of the same blur is more than `NOISE` of their sharpness; the
            blur is beyond the calibration; or a ratio has no standard error.
    """
    if sharpness.se is None or noise.se is None:
        raise NotAvailable("its ratio to real images has no standard error")
    sigma = equivalent(curve, sharpness.value)
    if math.isinf(sigma):
        raise NotAvailable(f"blurrier than real images blurred by {curve.sigma[-1]:g} px, where calibration ends")
    excess = noise.value - float(np.interp(sigma, curve.sigma, curve.noise))
    if excess > NOISE * sharpness.value:
        share = min(excess / sharpness.value, 1.0)  # an estimate: of stripes it is more than all
        raise NotAvailable(f"noisier than real images of such blur: noise is {share:.0%} of its sharpness")
    notes = [*sharpness.notes]
    clean = 1 - max(excess, 0.0) / sharpness.value
    if above(*(replace(s, value=s.value * clean) for s in (sharpness, *to_others))):
        notes.append(Note("sharper than real images, by more than two standard errors", "sharper"))
    less, more = (equivalent(curve, max(sharpness.value + s * sharpness.se, 0.0)) for s in (1, -1))
    se = (more - less) / 2 if sigma else None
    return Score(sigma, sharpness.n, se, notes)


def _words(what: str, sigma: float) -> str:
    return f"{what} as sharp as real images{f' blurred by {sigma:.1f} px' if sigma >= 0.05 else ''}"


_blur = partial(metric, unit="px", range=(0, math.inf))


@_blur(
    Calibration(), *sets("normalised"), PerImage("noise part", "prior"), told=partial(_words, "samples"), few="unbiased"
)
def blur(curve: BlurCurve, samples: Tensor, real: Tensor, training: Tensor, noise: Tensor) -> Score:
    """Equivalent blur, in pixels: sigma of the Gaussian that makes real images as unsharp as prior samples.

    Sharpness is contrast-normalised. 0 where samples are no less sharp than real images. n/a where over a tenth of it
    is noise that real images of that blur lack, which would pass for sharpness. Read off a curve over 1,000 images.
    """
    return equivalent_blur(curve, ratio(samples, real), ratio(noise, real), ratio(samples, training))


@_blur(Calibration(), PairedMeasure("normalised"), PairedMeasure("noise part"), told=partial(_words, "reconstructions"))
def blur_rec(curve: BlurCurve, sharpness: Pairs, noise: Pairs) -> Score:
    """`blur` of reconstructions against their own 2,000 originals: what code and decoder lose, whatever the prior."""
    noisy = Pairs(noise.reconstructed, sharpness.original)
    return equivalent_blur(curve, paired_ratio(sharpness), paired_ratio(noisy))
