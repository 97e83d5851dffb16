"""Sharpness and pixel noise, each as a ratio to the real test images: 1 is the target, more isn't better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.contracts.measurement import BaselineScored, Context, Note, Request, Score, Scored, metric
from bench.engine.sharpness import each, laplacian_variance, second, variance
from bench.evidence import Generated, Reconstructions, positions
from bench.metrics.cache import remembered, statistics
from bench.metrics.likelihood import binary
from bench.metrics.notes import real_images
from bench.metrics.reconstruction import IMAGES
from bench.util.errors import NotAvailable

FLAT = (2 / 255) ** 2  #: variance of pixels below which an image shows its rounding to 256 levels, and little else
TRAINING = 2_000  #: training images whose ratio to the test split shows how far from 1 real images are
FEWEST = 10  #: images on either side of a ratio: the mean of fewer, and its standard error more so, could be anything

Of = Literal["test", "train", "prior", "rec"]


# --- one number for each image ---


def contrast(pixels: Tensor) -> Tensor:
    """Return the variance of each image's pixels on the [0, 1] scale: (N, C, H, W) uint8 to (N,) float64."""
    return each(variance, pixels)


def normalised(variance: Tensor, contrast: Tensor) -> Tensor:
    """Return a variance, such as the Laplacian's, over that of the pixels: (N,). NaN for flat images.

    No gain or offset of the grey levels changes it.
    """
    return (variance / contrast).masked_fill(contrast < FLAT, math.nan)


def noise_sigma(pixels: Tensor) -> Tensor:
    """Return the pixel noise of each image, a standard deviation on [0, 1]: (N, C, H, W) uint8 to (N,) float64.

    Immerkaer 1996: mean magnitude of a difference of Laplacians; constant and linear regions give 0.
    """
    return each(lambda x: second(second(x, 1), 2).abs().flatten(1).mean(1) * math.sqrt(math.pi / 2) / 6, pixels)


def noise_part(sigma: Tensor, contrast: Tensor) -> Tensor:
    """Return the `normalised` sharpness that white noise of this standard deviation has: (N,). NaN for flat images.

    20 sigma^2 / variance, so no gain or offset changes it: faint noise in a faint image counts in full.
    """
    return normalised(20 * sigma.square(), contrast)


# --- evidence ---


def measured(context: Context, of: Of, measure: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """Return `measure`, (N, C, H, W) -> (N, ...), of the images of one set.

    Of real images it is kept between runs under `name`, which must change with the measure.
    """
    if of == "rec":
        return measure(context.get(Reconstructions(IMAGES)))
    if of == "prior":
        return measure(context.get(Generated()))
    images = context.data.test if of == "test" else context.data.train
    where = positions(images, None if of == "test" else TRAINING)

    def compute() -> Tensor:
        parts = context.chunks(len(where), f"pixels-{of}")
        return torch.cat([measure(images.take(where[part], "cpu")) for part in parts])

    drawn = f"-{context.scoring.chunk}" if images.redrawn else ""  # pixels are drawn chunk by chunk
    return remembered(statistics(context, f"{name}-{images.digest[:16]}-{len(where)}{drawn}"), name, compute)


Measure = Literal["laplacian", "contrast", "noise", "normalised", "noise part"]
MEASURES = {"laplacian": laplacian_variance, "contrast": contrast, "noise": noise_sigma}
PER_CONTRAST: dict[Measure, tuple[Measure, Callable[[Tensor, Tensor], Tensor]]] = {
    "normalised": ("laplacian", normalised),
    "noise part": ("noise", noise_part),
}


@dataclass(frozen=True)
class PerImage(Request[Tensor]):
    """A measure of each image of one set: (N,) float64."""

    measure: Measure
    of: Of

    def resolve(self, context: Context) -> Tensor:
        if self.measure in PER_CONTRAST:
            of, over = PER_CONTRAST[self.measure]
            return over(context.get(PerImage(of, self.of)), context.get(PerImage("contrast", self.of)))
        return measured(context, self.of, MEASURES[self.measure], f"{self.measure}-v1")

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        """Keep variances of the Laplacian of whole sets: of a part of a split, nobody could tell which part."""
        keeps = self.measure == "laplacian" and self.of in ("test", "prior")
        return {f"sharpness_{self.of}": value.float()} if keeps else {}


def sets(measure: Measure) -> tuple[PerImage, PerImage, PerImage]:
    """Return the requests of a measure of prior samples, of test images and of training images."""
    return PerImage(measure, "prior"), PerImage(measure, "test"), PerImage(measure, "train")


class Pairs(NamedTuple):
    """A measure of reconstructions and of their originals, in one order: both (N,) float64."""

    reconstructed: Tensor
    original: Tensor


@dataclass(frozen=True)
class PairedMeasure(Request[Pairs]):
    """A measure of `IMAGES` reconstructions and of the images that they reconstruct."""

    measure: Measure

    def resolve(self, context: Context) -> Pairs:
        reconstructed = context.get(PerImage(self.measure, "rec"))
        return Pairs(reconstructed, context.get(PerImage(self.measure, "test"))[positions(context.data.test, IMAGES)])


@dataclass(frozen=True)
class BlackOrWhite(Request[bool]):
    """True if no test image has a grey pixel. If such pixels are draws, they are noise, which no mean can have."""

    def resolve(self, context: Context) -> bool:
        images = context.data.test
        return binary(images.subset(positions(images, 256)))


# --- ratios ---


def _of_means(values: Tensor, reference: Tensor) -> Score:
    a, b = Score.of(values), Score.of(reference)
    if b.value == 0:
        raise NotAvailable("the real images have none")
    value = a.value / b.value
    se = None if a.se is None or b.se is None else math.hypot(a.se, value * b.se) / b.value
    return Score(value, min(a.n, b.n), se)


def ratio(values: Tensor, reference: Tensor, training: Tensor | None = None, drawn: bool = False) -> Score:
    """Return mean(values) / mean(reference), with its standard error by the delta method: (N,) and (M,) float64.

    Flat images, which have NaN, are left out. Notes have their number, the ratio of real `training` images, and that
    the real pixels are black or white (`drawn`).

    Raises:
        NotAvailable: fewer than `FEWEST` images are left of one side, or the mean of the reference is 0.
    """
    notes = [BLACK_OR_WHITE] if drawn else []
    used, real = _not_flat(values, "samples"), _not_flat(reference, "real images")
    for left, every, what in ((used, values, "samples"), (real, reference, "real images")):
        if flat := len(every) - len(left):
            notes.append(_left_out(flat, len(every), what))
    if training is not None:
        others = _not_flat(training, "training images")
        null = _of_means(others, real)
        notes.append(real_images(len(others), null.value, null.se, "real training images"))
    return _of_means(used, real).noted(*notes)


BLACK_OR_WHITE = Note("real pixels are black or white, samples are means of such pixels", "black_or_white")


def _left_out(flat: int, n: int, what: str) -> Note:
    return Note(f"{{flat}} of {{n}} {what} are flat and left out", "flat_images", {"flat": flat, "n": n})


def _not_flat(values: Tensor, what: str) -> Tensor:
    left = values[~values.isnan()]
    if not len(left):
        raise NotAvailable(f"all {what} are flat")
    if len(left) < FEWEST:
        flat = " that aren't flat" if len(left) < len(values) else ""
        raise NotAvailable(f"needs {FEWEST} {what}: there are {len(left)}{flat}")
    return left


def above(*ratios: Score) -> bool:
    """Return whether images are above each set of real ones, by two standard errors, given their ratios to these.

    Splits differ themselves: MNIST's training images are, at equal contrast, 3.8 ± .5 % sharper than its test images.
    """
    return all(score.se is not None and score.value - 2 * score.se > 1 for score in ratios)


def paired_ratio(pairs: Pairs) -> Score:
    """Return mean(reconstructed) / mean(original), with the standard error of pairs: images' own sharpness cancels.

    Pairs with a flat side, which has NaN, are left out, and a note has their number.

    Raises:
        NotAvailable: fewer than `FEWEST` pairs are left, or the mean of the originals is 0.
    """
    whole = ~(pairs.reconstructed.isnan() | pairs.original.isnan())
    a, b = pairs.reconstructed[whole], pairs.original[whole]
    if not len(a):
        raise NotAvailable("all reconstructions or all their originals are flat")
    flat = len(whole) - len(a)
    if len(a) < FEWEST:
        besides = " where neither side is flat" if flat else ""
        raise NotAvailable(f"needs {FEWEST} reconstructions: there are {len(a)}{besides}")
    if not b.mean():
        raise NotAvailable("the real images have none")
    value = (a.mean() / b.mean()).item()
    se = (a - value * b).std(correction=1).item() / math.sqrt(len(a)) / b.mean().item()
    return Score(value, len(a), se, [_left_out(flat, len(whole), "pairs")] if flat else ())


# --- metrics ---

to_real = partial(metric, unit="× real", range=(0, math.inf))


@to_real(*sets("laplacian"), BlackOrWhite(), few="unbiased")
def sharpness(samples: Tensor, real: Tensor, training: Tensor, drawn: bool) -> Score:
    """Mean variance of the Laplacian of prior samples, as a ratio to the real test images.

    1 is the target. Below it images are blurred; above it they are harder or noisier than real ones, and
    noise raises it at once: so no direction.
    """
    return ratio(samples, real, training, drawn)


@to_real(PairedMeasure("laplacian"), BlackOrWhite())
def sharpness_rec(pairs: Pairs, drawn: bool) -> Score:
    """Mean variance of the Laplacian of 2,000 reconstructions, as a ratio to that of their originals, paired."""
    return replace(paired_ratio(pairs), notes=(BLACK_OR_WHITE,) if drawn else ())


NOISIER = Note("noisier than real images of either split by two standard errors", "noisier", warns=True)
LOUD = 1.5  #: ten real images against ten are above it in 3.5 % of draws (Fashion-MNIST): words know no error


def _noisier(value: float) -> str:
    return f"samples {value:.2f} times as noisy as real images" if value > LOUD else ""


@to_real(*sets("noise"), BlackOrWhite(), told=_noisier, few="unbiased")
def noise(samples: Tensor, real: Tensor, training: Tensor, drawn: bool) -> Score:
    """Mean pixel noise (Immerkaer's estimate) of prior samples, as a ratio to the real test images.

    Clean edges count a little, too: if `sharpness` is near 1 and this well above 1, what looks sharp is noise. A note
    warns where it is above the noise of test and of training images by two standard errors.
    """
    score = ratio(samples, real, training, drawn)
    return score.noted(NOISIER) if above(score, ratio(samples, training)) else score


_scores = Scored("sharpness"), BaselineScored("sharpness"), BaselineScored("modes"), BaselineScored("blur")


@metric(*_scores, unit="× baseline", range=(0, math.inf))
def sharpness_vs_gan(own: Score, baseline: Score, modes: Score, _blur: Score) -> Score:
    """`sharpness` as a ratio to the baseline's, where the baseline is fit for it.

    That is: it reaches every class (`modes` is 1), and its `blur` has a value, so at most a tenth of its sharpness is
    noise that real images of such blur lack. A collapsed or noisy baseline is sharp for the wrong reason.
    """
    if modes.value < 1:
        raise NotAvailable(f"the baseline is unfit for comparison: it reaches {modes.value:.0%} of the classes")
    if baseline.value == 0:
        raise NotAvailable("the baseline is unfit for comparison: its images are flat")
    value = own.value / baseline.value
    se = None if own.se is None or baseline.se is None else math.hypot(own.se, value * baseline.se) / baseline.value
    note = Note("the baseline is {ratio} times as sharp as real images", "baseline", {"ratio": baseline.value})
    return Score(value, min(own.n, baseline.n), se, note)
