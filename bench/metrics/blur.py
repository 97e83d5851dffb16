"""Blurriness in pixels: the Gaussian blur that makes real images as unsharp as the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.contracts.images import to_float, to_uint8
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.engine.sharpness import laplacian_variance
from bench.evidence import positions
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.sharpness import (
    BlackOrWhite,
    Paired,
    Pairs,
    PerImage,
    above,
    contrast,
    noise_part,
    noise_sigma,
    normalised,
    paired_ratio,
    ratio,
)
from bench.util.errors import NotAvailable

SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
IMAGES = 1_000  #: test images that are blurred
FALL = 0.9  #: a step of the curve that falls by less is within the rounding of grey levels: there calibration ends
NOISE = 0.1  #: of the sharpness, at most, may be noise that real images of such blur lack: .03 px at .7 px


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
    """What blur does to real images: all (K,), the last two as shares of the unblurred ones' sharpness."""

    sigma: np.ndarray
    sharpness: np.ndarray  #: contrast-normalised; falls from 1
    noise: np.ndarray  #: the part of it that noise makes, or edges that look like it


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
        noise = noise_part(noise_sigma(images), spread).nanmean().item()
        if rows and not sharpness < FALL * rows[-1][1]:
            break
        rows.append((sigma, sharpness, noise))
    if len(rows) < 2 or not rows[0][2]:
        raise NotAvailable("blur doesn't show on the real images: they are flat or smooth")
    sigma, sharpness, noise = np.array(rows).T
    return Curve(sigma, sharpness / sharpness[0], noise / sharpness[0])


@dataclass(frozen=True)
class Calibration(Request[Curve]):
    """The curve of 1,000 test images. Kept between runs."""

    def resolve(self, context: Context) -> Curve:
        if context.get(BlackOrWhite()):
            raise NotAvailable(
                "real pixels are black or white: samples, means of such, differ from them by more than blur"
            )
        images = context.data.test
        where = positions(images, IMAGES)

        def compute() -> dict[str, Tensor]:
            return {"curve": torch.tensor(np.array(calibrate(images.take(where, "cpu"))))}

        path = statistics(context, f"blur-v1-{images.digest[:16]}-{len(where)}")
        return Curve(*remembered_tensors(path, compute, "curve")["curve"].numpy())


def equivalent(curve: Curve, share: float) -> float:
    """The blur in pixels that leaves `share` of the sharpness, 0 where nothing is lost; infinite beyond the curve.

    Linear between knots in the logarithm of sharpness over the square of sigma, as a Gaussian acts on a frequency.
    """
    if share <= 0:
        return math.inf
    return float(np.sqrt(np.interp(-math.log(share), -np.log(curve.sharpness), curve.sigma**2, right=math.inf)))


def equivalent_blur(curve: Curve, sharpness: Score, noise: Score, *to_others: Score) -> Score:
    """The equivalent blur of images whose sharpness, and its part that is noise, have these ratios to real sharpness.

    To count as sharper than real images they have to be above `to_others`, too, ratios to further real images; and
    without the noise that real images lack.

    Raises:
        NotAvailable: noise beyond that of real images of the same blur is more than `NOISE` of their sharpness; they're
            beyond the calibration; or a ratio has no standard error.
    """
    if sharpness.se is None or noise.se is None:
        raise NotAvailable("its ratio to real images has no standard error: it could be anything")
    sigma = equivalent(curve, sharpness.value)
    if math.isinf(sigma):
        raise NotAvailable(f"blurrier than real images blurred by {curve.sigma[-1]:g} px, where calibration ends")
    excess = noise.value - float(np.interp(sigma, curve.sigma, curve.noise))
    if excess > NOISE * sharpness.value:
        share = min(excess / sharpness.value, 1.0)  # an estimate: of stripes it is more than all
        raise NotAvailable(f"noisier than real images of such blur: that makes {share:.0%} of its sharpness")
    notes = [*sharpness.notes]
    clean = 1 - max(excess, 0.0) / sharpness.value
    if above(*(replace(s, value=s.value * clean) for s in (sharpness, *to_others))):
        notes.append(Note("sharper than real images: no blur would make these of them"))
    less, more = (equivalent(curve, max(sharpness.value + s * sharpness.se, 0.0)) for s in (1, -1))
    se = (more - less) / 2 if sigma else None
    return Score(sigma, sharpness.n, se, notes)


def _samples(sigma: float) -> str:
    return f"samples as sharp as real images{f' blurred by {sigma:.1f} px' if sigma >= 0.05 else ''}"


def _reconstructions(sigma: float) -> str:
    return f"reconstructions, as {f'those blurred by {sigma:.1f} px' if sigma >= 0.05 else 'those themselves'}"


@metric(
    Calibration(),
    PerImage("normalised", "prior"),
    PerImage("normalised", "test"),
    PerImage("normalised", "train"),
    PerImage("noise part", "prior"),
    unit="px",
    range=(0, math.inf),
    told=_samples,
    few="unbiased",
)
def blur(curve: Curve, samples: Tensor, real: Tensor, training: Tensor, noise: Tensor) -> Score:
    """Equivalent blur: sigma of the Gaussian that leaves real images no more sharpness than prior samples have.

    Sharpness is contrast-normalised. 0 where samples are no less sharp than real images. n/a where over a tenth of it
    is noise that real images of that blur lack, which would pass for sharpness. Read off a curve over 1,000 images.
    """
    return equivalent_blur(curve, ratio(samples, real), ratio(noise, real), ratio(samples, training))


@metric(
    Calibration(), Paired("normalised"), Paired("noise part"), unit="px", range=(0, math.inf), told=_reconstructions
)
def blur_rec(curve: Curve, sharpness: Pairs, noise: Pairs) -> Score:
    """`blur` of reconstructions against their own 2,000 originals: what code and decoder lose, whatever the prior."""
    noisy = Pairs(noise.reconstructed, sharpness.original)
    return equivalent_blur(curve, paired_ratio(sharpness), paired_ratio(noisy))
