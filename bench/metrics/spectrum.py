"""Radial power spectra of images, and the share of high frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.measurement import Context, Request, Score
from bench.engine.sharpness import each
from bench.metrics.sharpness import FLAT, BlackOrWhite, Of, measured, ratio, to_real

CUT = 0.25  #: cycles per pixel: details of under four pixels lie above it


def power(x: Tensor) -> Tensor:
    """Return power spectra of images (N, H, W): (N, H, W // 2 + 1). Each sums to the mean square of the pixels.

    The half spectrum of a real image; columns that stand for their mirror image, too, count twice.
    """
    width = x.shape[2]
    spectrum = torch.fft.rfft2(x, norm="forward")
    twice = torch.full((width // 2 + 1,), 2.0, dtype=x.dtype)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    power: Tensor = (spectrum.real.square() + spectrum.imag.square()) * twice
    return power


def rings(height: int, width: int) -> Tensor:
    """Return the ring of each frequency of `power`: (H, W // 2 + 1) int64.

    Rings are one cycle per image wide, with `CUT` on an edge: a side that isn't divisible by four counts as the next
    that is. Ring 0 is the mean alone. 28x28 has 20, up to the corner.
    """
    down, across = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    return (torch.hypot(down[:, None], across) * (_below_cut(height, width) / CUT) + 1e-9).long()


def _below_cut(height: int, width: int) -> int:
    """Return the number of rings below `CUT`."""
    return math.ceil(max(height, width) * CUT)


def radial(x: Tensor) -> Tensor:
    """Return the power in each ring of images (N, H, W): (N, rings), summing to the mean square of the pixels."""
    ring = rings(*x.shape[1:]).flatten()
    members = torch.nn.functional.one_hot(ring).to(x.dtype)
    return power(x).flatten(1) @ members


class Spectrum(NamedTuple):
    """Power in each ring, by image: (N, rings) float64; and the first ring at or above `CUT`."""

    power: Tensor
    cut: int


def spectrum(pixels: Tensor) -> Spectrum:
    """Return radial spectra of images (N, C, H, W) uint8 as grey ones. NotAvailable if smaller than 3 x 3."""
    return Spectrum(each(radial, pixels), _below_cut(*pixels.shape[2:]))


def high_frequency_ratio(spectrum: Spectrum) -> Tensor:
    """Return the share of each image's variance at or above `CUT`: (N,) float64 in [0, 1]. NaN for flat images.

    No gain or offset of the grey levels changes it; of white noise it is the share of frequencies up there.
    """
    power, cut = spectrum
    variance = power[:, 1:].sum(1)
    return (power[:, cut:].sum(1) / variance).masked_fill(variance < FLAT, math.nan)


@dataclass(frozen=True)
class Spectra(Request[Spectrum]):
    """Radial spectra of the images of one set."""

    of: Of

    def resolve(self, context: Context) -> Spectrum:
        power = measured(context, self.of, lambda pixels: spectrum(pixels).power, "spectrum-v1")
        return Spectrum(power, _below_cut(*context.data.test.shape[1:]))

    def keep(self, value: Spectrum) -> dict[str, Tensor]:
        """Keep the mean over images."""
        return {f"spectrum_{self.of}": value.power.mean(0).float()}


@to_real(Spectra("prior"), Spectra("test"), Spectra("train"), BlackOrWhite(), few="unbiased")
def hfr(samples: Spectrum, real: Spectrum, training: Spectrum, drawn: bool) -> Score:
    """High-frequency ratio: mean share of an image's variance at or above 0.25 cycles per pixel, over the real images'.

    1 is the target: VAEs tend to fall short, GANs to overshoot, and noise raises it. Opposite borders that differ count
    as an edge, as in any Fourier transform of a picture. Flat images are left out.
    """
    values, reference, null = (high_frequency_ratio(s) for s in (samples, real, training))
    return ratio(values, reference, null, drawn)
