"""Outlier detection: telling images of another kind from those of the test split."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.evidence import BoundTerms, LogLikelihood, Terms, bound_terms, log_likelihood, positions
from bench.metrics.cache import remembered
from bench.util.errors import NotAvailable

MOST = 2_000  #: outliers, drawn by a fixed seed
FEWEST = 10  #: outliers and test images


def placements(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of `b` (M,) below each of `a` (N,), ties by half: (N,) float64."""
    ordered = b.double().sort().values
    below = torch.searchsorted(ordered, a.double()) + torch.searchsorted(ordered, a.double(), right=True)
    return below.double() / (2 * len(b))


def auroc(outliers: Tensor, inliers: Tensor, *notes: Note) -> Score:
    """Return P(score of an outlier > score of an inlier), ties by half, with DeLong's standard error: (M,), (N,).

    The area under the curve by ranks, exact; the error is that of Sen 1960 and DeLong et al. 1988.

    Raises:
        NotAvailable: there are fewer than `FEWEST` of either.
    """
    if (least := min(len(outliers), len(inliers))) < FEWEST:
        raise NotAvailable(f"needs {FEWEST} outliers and test images each: there are {least}")
    above, below = placements(outliers, inliers), placements(inliers, outliers)
    se = math.sqrt(above.var().item() / len(above) + below.var().item() / len(below))
    return Score(above.mean().item(), least, se, notes)


@dataclass(frozen=True)
class Outliers(Request[Images]):
    """Images of a kind that the model was not trained on, 2,000 at most."""

    def resolve(self, context: Context) -> Images:
        outliers = context.data.outliers
        if outliers is None or len(outliers) == 0:
            raise NotAvailable("this dataset has no outliers")
        if outliers.shape != context.data.test.shape:
            raise NotAvailable(f"the outliers are {outliers.shape}, its images {context.data.test.shape}")
        return outliers.subset(positions(outliers, MOST))


@dataclass(frozen=True)
class OutlierTerms(Request[BoundTerms]):
    """`Terms` of the outliers."""

    def resolve(self, context: Context) -> BoundTerms:
        abilities.require(context.model, abilities.Bound)
        images = context.get(Outliers())
        return bound_terms(context, images, positions(images), "outliers")


@dataclass(frozen=True)
class OutlierLogLikelihood(Request[Tensor]):
    """`LogLikelihood` of the outliers: (N,) float64."""

    def resolve(self, context: Context) -> Tensor:
        images = context.get(Outliers())
        if abilities.why_not(context.model, abilities.Bound) is None:
            return context.get(OutlierTerms()).log_likelihood
        if context.model.uses_labels:
            raise NotAvailable("its reconstructions need the label, which outliers do not have")
        return log_likelihood(context, images, "outliers")


@dataclass(frozen=True)
class TrivialScores(Request[Note]):
    """The AUROC of mean intensity and of the size as PNG, which need no model; computed once and kept."""

    def resolve(self, context: Context) -> Note:
        outliers, test = context.get(Outliers()), context.data.test
        path = context.cache / "probes" / f"outliers-v1-{outliers.digest[:16]}-{test.digest[:16]}.safetensors"

        def compute() -> Tensor:
            context.alive()
            a, b = (_pixels(context, images) for images in (outliers, test))
            intensity = auroc(a.double().mean((1, 2, 3)), b.double().mean((1, 2, 3))).value
            return torch.tensor([intensity, auroc(png_bytes(a), png_bytes(b)).value], dtype=torch.float64)

        intensity, png = remembered(path, "trivial", compute).tolist()
        text = "without a model, mean intensity scores {intensity}, the size as PNG {png}"
        return Note(text, "trivial_scores", {"intensity": intensity, "png": png})


def _pixels(context: Context, images: Images) -> Tensor:
    parts = context.chunks(len(images), "pixels")
    return torch.cat([images.take(torch.arange(part.start, part.stop), "cpu") for part in parts])


def png_bytes(pixels: Tensor) -> Tensor:
    """Return the size of each image (N, C, H, W) as a PNG file, in bytes: (N,) float64."""
    from PIL import Image

    images = pixels.movedim(1, -1) if pixels.shape[1] == 3 else pixels.flatten(1, 2)
    sizes = []
    for image in images.contiguous().numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        sizes.append(file.tell())
    return torch.tensor(sizes, dtype=torch.float64)


_auroc = partial(metric, unit="AUROC", direction="higher", range=(0, 1))


@_auroc(OutlierTerms(), Terms(), TrivialScores())
def auroc_elbo(outliers: BoundTerms, test: BoundTerms, trivial: Note) -> Score:
    """AUROC of -ELBO: the chance that it is higher for an outlier than for a test image.

    .5 is guessing, and below it outliers look likelier than what was trained on, as they may (Nalisnick et al. 2019):
    no sign is turned afterwards.
    """
    return auroc(outliers.rate - outliers.log_likelihood, test.rate - test.log_likelihood, trivial)


@_auroc(OutlierLogLikelihood(), LogLikelihood(), TrivialScores())
def auroc_distortion(outliers: Tensor, test: Tensor, trivial: Note) -> Score:
    """AUROC of the distortion, -log p(x|z), as in `auroc_elbo`."""
    return auroc(-outliers, -test, trivial)


@_auroc(OutlierTerms(), Terms(), TrivialScores())
def auroc_kl(outliers: BoundTerms, test: BoundTerms, trivial: Note) -> Score:
    """AUROC of the rate, as in `auroc_elbo`: above .5, outliers get longer codes."""
    return auroc(outliers.rate, test.rate, trivial)
