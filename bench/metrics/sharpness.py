"""Sharpness and pixel noise, each as a ratio to the real test images: 1 is the target, more isn't better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.contracts.images import Images
from bench.contracts.measurement import BaselineScored, Context, Request, Score, Scored, metric
from bench.engine.sharpness import each, laplacian_variance, second, variance
from bench.evidence import Generated, Reconstructions, TestImages, positions
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.judge import Judged
from bench.metrics.modes import LEAST
from bench.metrics.reconstruction import IMAGES
from bench.util.errors import NotAvailable

FLAT = (2 / 255) ** 2  #: variance of pixels below which an image shows its rounding to 256 levels, and little else
ROUNDING = 20 / 12 / 255**2  #: what rounding to levels adds to the variance of a Laplacian
TRAINING = 2_000  #: training images whose ratio to the test split shows how far from 1 real images come
FEWEST = 10  #: images on either side of a ratio: the mean of fewer, and its standard error more so, is anything

Of = Literal["test", "train", "prior", "gmm", "rec"]


# --- one number for each image ---


def contrast(pixels: Tensor) -> Tensor:
    """Variance of each image's pixels on the [0, 1] scale: (N, C, H, W) uint8 to (N,) float64."""
    return each(variance, pixels)


def normalised(variance: Tensor, contrast: Tensor) -> Tensor:
    """A variance, such as the Laplacian's (contrast-normalised sharpness), over that of the pixels: (N,).

    No gain or offset of the grey levels changes it. NaN for flat images.
    """
    return (variance / contrast).masked_fill(contrast < FLAT, math.nan)


def noise_sigma(pixels: Tensor) -> Tensor:
    """Pixel noise: a standard deviation on the [0, 1] scale, by image. (N, C, H, W) uint8 to (N,) float64.

    Immerkaer 1996: mean magnitude of a difference of Laplacians; constant and linear regions give 0.
    """
    return each(lambda x: second(second(x, 1), 2).abs().flatten(1).mean(1) * math.sqrt(math.pi / 2) / 6, pixels)


def noise_part(sigma: Tensor, contrast: Tensor) -> Tensor:
    """What white noise of this standard deviation makes of `normalised` sharpness: (N,). NaN for flat images.

    20 sigma^2 / variance, so as blind to gain and offset: faint noise is as loud as the faint image that it's in.
    """
    return normalised(20 * sigma.square(), contrast)


# --- evidence ---


def measured(context: Context, of: Of, measure: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """`measure` (N, C, H, W) -> (N, ...) of the test split, of training images, of samples or reconstructions.

    Of real images it's kept between runs, under `name`: who changes a measure changes that.
    """
    if of == "rec":
        return measure(context.get(Reconstructions(IMAGES)))
    if of in ("prior", "gmm"):
        return measure(context.get(Generated(of)))
    images = context.data.test if of == "test" else context.data.train
    where = positions(images, None if of == "test" else TRAINING)

    def compute() -> dict[str, Tensor]:
        parts = context.chunks(len(where), f"pixels-{of}")
        return {name: torch.cat([measure(images.take(where[part], "cpu")) for part in parts])}

    drawn = f"-{context.scoring.chunk}" if images.redrawn else ""  # pixels are, chunk by chunk
    path = statistics(context, f"{name}-{images.digest[:16]}-{len(where)}{drawn}")
    return remembered_tensors(path, compute, name)[name]


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
        """Variances of the Laplacian; where the images are a part of a split, nobody could tell which part."""
        kept = self.measure == "laplacian" and self.of in ("test", "prior", "gmm")
        return {f"sharpness_{self.of}": value.float()} if kept else {}


class Pairs(NamedTuple):
    """A measure of reconstructions and of their originals, in one order: both (N,) float64."""

    reconstructed: Tensor
    original: Tensor


@dataclass(frozen=True)
class Paired(Request[Pairs]):
    """A measure of `IMAGES` reconstructions beside that of the images that they reconstruct."""

    measure: Measure

    def resolve(self, context: Context) -> Pairs:
        reconstructed = context.get(PerImage(self.measure, "rec"))
        return Pairs(reconstructed, context.get(PerImage(self.measure, "test"))[positions(context.data.test, IMAGES)])


@dataclass(frozen=True)
class BlackOrWhite(Request[bool]):
    """Whether test images have no grey pixel: where those are draws, they are noise that no mean can have."""

    def resolve(self, context: Context) -> bool:
        images = context.data.test
        found = [
            images.take(positions(images, 256)[part], "cpu") for part in context.chunks(min(256, len(images)), "bw")
        ]
        pixels = torch.cat(found)
        return bool(((pixels == 0) | (pixels == 255)).all())


# --- ratios ---


def _of_means(values: Tensor, reference: Tensor) -> Score:
    a, b = Score.of(values), Score.of(reference)
    if b.value == 0:
        raise NotAvailable("the real images have none")
    value = a.value / b.value
    if a.se is None or b.se is None:
        return Score(value, min(a.n, b.n))
    return Score(value, min(a.n, b.n), math.hypot(a.se, value * b.se) / b.value)


def ratio(values: Tensor, reference: Tensor, training: Tensor | None = None, drawn: bool = False) -> Score:
    """mean(values) / mean(reference), with its standard error by the delta method: (N,) and (M,) float64.

    Flat images, which have NaN, are left out. The note tells how many, what real `training` images come to, and that
    the real pixels are black or white (`drawn`).

    Raises:
        NotAvailable: fewer than `FEWEST` images are left of one side, or the mean of the reference is 0.
    """
    notes = [BLACK_OR_WHITE] if drawn else []
    seen, real = _seen(values, "samples"), _seen(reference, "real images")
    for left, all_, what in ((seen, values, "samples"), (real, reference, "real images")):
        if len(left) < len(all_):
            notes.append(f"of {len(all_):,} {what}, {len(all_) - len(left):,} flat: left out")
    score = _of_means(seen, real)
    if training is not None:
        others = _seen(training, "training images")
        null = _of_means(others, real)
        spread = "" if null.se is None else f" ± {null.se:.2g}"
        notes.append(f"{len(others):,} real training images come to {null.value:.3f}{spread}")
    return Score(score.value, score.n, score.se, notes)


BLACK_OR_WHITE = "real pixels are black or white, samples are means of such"


def _seen(values: Tensor, what: str) -> Tensor:
    seen = values[~values.isnan()]
    if not len(seen):
        raise NotAvailable(f"all {what} are flat")
    if len(seen) < FEWEST:
        flat = " that aren't flat" if len(seen) < len(values) else ""
        raise NotAvailable(f"needs {FEWEST} {what}: there are {len(seen)}{flat}")
    return seen


def above(*ratios: Score) -> bool:
    """Whether images are above each set of real ones that these are ratios to, by two standard errors.

    Splits differ themselves: MNIST's training images are, at equal contrast, 3.8 ± .5 % sharper than its test images.
    """
    return all(score.se is not None and score.value - 2 * score.se > 1 for score in ratios)


def paired_ratio(pairs: Pairs) -> Score:
    """mean(reconstructed) / mean(original), with the standard error that pairing leaves: images' own sharpness cancels.

    Pairs with a flat side, which has NaN, are left out, and the note tells how many.

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
    return Score(value, len(a), se, f"of {len(whole):,} pairs, {flat:,} flat: left out" if flat else "")


# --- metrics ---


@metric(
    PerImage("laplacian", "prior"),
    PerImage("laplacian", "test"),
    PerImage("laplacian", "train"),
    BlackOrWhite(),
    unit="× real",
    range=(0, math.inf),
    few="unbiased",
)
def sharpness(samples: Tensor, real: Tensor, training: Tensor, drawn: bool) -> Score:
    """Mean variance of the Laplacian of prior samples, as a ratio to the real test images.

    1 is the target. Below it images are blurred; above it they are harder or noisier than real ones, and
    noise raises it at once: so no direction.
    """
    return ratio(samples, real, training, drawn)


@metric(
    PerImage("normalised", "prior"),
    PerImage("normalised", "test"),
    PerImage("normalised", "train"),
    BlackOrWhite(),
    unit="× real",
    range=(0, math.inf),
    few="unbiased",
)
def sharpness_normalised(samples: Tensor, real: Tensor, training: Tensor, drawn: bool) -> Score:
    """`sharpness` with each image's variance of the Laplacian over the variance of its pixels.

    Faint samples have a low `sharpness` without any blur; here contrast plays no part. Flat images, under two grey
    levels of standard deviation, are left out.
    """
    return ratio(samples, real, training, drawn)


@metric(PerImage("laplacian", "gmm"), PerImage("laplacian", "test"), unit="× real", range=(0, math.inf), few="unbiased")
def sharpness_gmm(samples: Tensor, real: Tensor) -> Score:
    """`sharpness` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return ratio(samples, real)


@metric(Paired("laplacian"), BlackOrWhite(), unit="× real", range=(0, math.inf))
def sharpness_rec(pairs: Pairs, drawn: bool) -> Score:
    """Mean variance of the Laplacian of 2,000 reconstructions, as a ratio to that of their originals, paired."""
    score = paired_ratio(pairs)
    return Score(score.value, score.n, score.se, BLACK_OR_WHITE if drawn else "")


NOISIER = "noisier than real images of either split by two standard errors"
LOUD = 1.5  #: what ten real images against ten are above in 3.5 % of draws (Fashion-MNIST): words know no error


def _noisier(value: float) -> str:
    return f"noisier than real images ({value:.2f} ×)" if value > LOUD else ""


@metric(
    PerImage("noise", "prior"),
    PerImage("noise", "test"),
    PerImage("noise", "train"),
    BlackOrWhite(),
    unit="× real",
    range=(0, math.inf),
    told=_noisier,
    few="unbiased",
)
def noise(samples: Tensor, real: Tensor, training: Tensor, drawn: bool) -> Score:
    """Mean pixel noise (Immerkaer's estimate) of prior samples, as a ratio to the real test images.

    Clean edges count a little, too: with `sharpness` near 1 and this well above, what looks sharp is noise. The note
    says so where it's above the noise of test and of training images by two standard errors.
    """
    score = ratio(samples, real, training, drawn)
    return score.noted(NOISIER) if above(score, ratio(samples, training)) else score


def wasserstein(a: Tensor, b: Tensor) -> float:
    """W1 between the laws of log sharpness: below the rounding of grey levels all count as equal."""
    from scipy.stats import wasserstein_distance

    logs = [x.clamp_min(ROUNDING).log().numpy() for x in (a, b)]
    return float(wasserstein_distance(*logs))


@metric(
    PerImage("laplacian", "prior"),
    PerImage("laplacian", "test"),
    PerImage("laplacian", "train"),
    unit="log ratio",
    direction="lower",
    range=(0, math.inf),
    default=False,
    few="anchored",
)
def sharpness_w1(samples: Tensor, real: Tensor, training: Tensor) -> Score:
    """Wasserstein-1 distance between the laws of log sharpness over prior samples and over real test images.

    Samples that are all alike may have the real images' mean `sharpness`, and still not their spread. 0.1 is what all
    images a tenth sharper would come to.
    """
    samples, real = _seen(samples, "samples"), _seen(real, "real images")
    n = min(len(samples), len(training))  # few images are farther from all others, real ones too
    others = training[torch.arange(n) * len(training) // n]
    note = f"{n:,} real training images come to {wasserstein(others, real):.3f}"
    return Score(wasserstein(samples, real), min(len(samples), len(real)), notes=note)


@metric(
    PerImage("laplacian", "prior"),
    Judged("prior"),
    PerImage("laplacian", "test"),
    TestImages(),
    unit="× real",
    range=(0, math.inf),
    default=False,
    few="unbiased",
)
def sharpness_balanced(samples: Tensor, probabilities: Tensor, real: Tensor, images: Images) -> Score:
    """`sharpness` with each class of samples, as the judge sees them, weighted by its share of the test split.

    Trousers have fewer edges than shirts: what a wrong mix of classes does to `sharpness` is gone here.
    """
    labels, predicted = images.labels().cpu(), probabilities.argmax(1)
    means, variances = [], []
    for k in torch.bincount(labels).nonzero().flatten().tolist():
        found, share = samples[predicted == k], (labels == k).double().mean().item()
        if len(found) < LEAST:
            raise NotAvailable(f"{len(found)} samples look like {images.classes[k]}: too few for a mean")
        own = Score.of(found)
        means.append(share * own.value)
        variances.append((share * (own.se or 0.0)) ** 2)
    reference = Score.of(_seen(real, "real images"))
    if reference.value == 0:
        raise NotAvailable("the real images have none")
    value = sum(means) / reference.value
    se = math.sqrt(sum(variances) + (value * (reference.se or 0.0)) ** 2) / reference.value
    return Score(value, min(len(samples), len(real)), se)


@metric(
    Scored("sharpness"),
    BaselineScored("sharpness"),
    BaselineScored("modes"),
    BaselineScored("blur"),
    unit="× baseline",
    range=(0, math.inf),
    told=lambda value: "" if value == 1 else f"{value:.2f} of the baseline's sharpness",  # it's the baseline itself
)
def sharpness_vs_gan(own: Score, anchor: Score, modes: Score, _blur: Score) -> Score:
    """`sharpness` as a ratio to the baseline's, where the baseline is fit to be an anchor.

    That is: it reaches every class (`modes` is 1), and its `blur` can be told, which has it that at most a tenth of its
    sharpness is noise that real images of such blur lack. A collapsed or noisy anchor is sharp for the wrong reason.
    """
    if modes.value < 1:
        raise NotAvailable(f"the baseline is no fit anchor: it reaches {modes.value:.0%} of the classes")
    if anchor.value == 0:
        raise NotAvailable("the baseline is no fit anchor: its images are flat")
    value, note = own.value / anchor.value, f"the baseline's is {anchor.value:.2f} of real images'"
    se = None if own.se is None or anchor.se is None else math.hypot(own.se, value * anchor.se) / anchor.value
    return Score(value, min(own.n, anchor.n), se, note)
