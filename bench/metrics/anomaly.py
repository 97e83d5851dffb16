"""Whether a model finds images of a kind that it wasn't trained on less likely than those of the test split."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.images import Images, to_float
from bench.contracts.measurement import Context, Request, Score, metric
from bench.evidence import BoundTerms, LogLikelihood, Terms, positions
from bench.metrics.cache import remembered_tensors
from bench.util.errors import NotAvailable

MOST = 2_000  #: outliers, drawn by a fixed seed
FEWEST = 10  #: of either side: one image is above another, or it isn't


def placements(a: Tensor, b: Tensor) -> Tensor:
    """The share of `b` (M,) below each of `a` (N,), ties by half: (N,) float64."""
    ordered = b.double().sort().values
    below = torch.searchsorted(ordered, a.double()) + torch.searchsorted(ordered, a.double(), right=True)
    return below.double() / (2 * len(b))


def auroc(outliers: Tensor, inliers: Tensor, note: str = "") -> Score:
    """P(score of an outlier > score of an inlier), ties by half, with DeLong's standard error: (M,), (N,).

    The area under the curve by ranks, exact; the error is that of Sen 1960 and DeLong et al. 1988.

    Raises:
        NotAvailable: there are fewer than `FEWEST` of either.
    """
    if (least := min(len(outliers), len(inliers))) < FEWEST:
        raise NotAvailable(f"needs {FEWEST} outliers and test images each: there are {least}")
    above, below = placements(outliers, inliers), placements(inliers, outliers)
    se = math.sqrt(above.var().item() / len(above) + below.var().item() / len(below))
    return Score(above.mean().item(), least, se, note)


@dataclass(frozen=True)
class Outliers(Request[Images]):
    """Images of a kind that the model wasn't trained on, 2,000 at most."""

    def resolve(self, context: Context) -> Images:
        found = context.data.outliers
        if found is None or len(found) == 0:
            raise NotAvailable("this dataset has no outliers")
        if found.shape != context.data.test.shape:
            raise NotAvailable(f"the outliers are {found.shape}, its images {context.data.test.shape}")
        return found.subset(positions(found, MOST))


@dataclass(frozen=True)
class OutlierTerms(Request[BoundTerms]):
    """Both halves of the bound on the outliers, as `Terms` has them of the test split."""

    def resolve(self, context: Context) -> BoundTerms:
        model, images = require(context.model, abilities.Bound), context.get(Outliers())
        log_px, rate = [], []
        for part in context.chunks(len(images), "outliers"):
            index = torch.arange(part.start, part.stop)
            x = to_float(images.take(index, context.device))
            a, b = model.elbo_terms(x, torch.full((len(x),), -1, device=context.device))
            log_px.append(a.cpu().double())
            rate.append(b.cpu().double().flatten(1).sum(1) if b.ndim > 1 else b.cpu().double())
        return BoundTerms(torch.cat(log_px), torch.cat(rate))


@dataclass(frozen=True)
class OutlierLogLikelihood(Request[Tensor]):
    """log p(x|z) of each outlier at the model's own z, as `LogLikelihood` has it of the test split: (N,) float64."""

    def resolve(self, context: Context) -> Tensor:
        images = context.get(Outliers())
        if abilities.why_not(context.model, abilities.Bound) is None:
            return context.get(OutlierTerms()).log_likelihood
        model = require(context.model, abilities.Reconstructs)
        if context.model.uses_labels:
            raise NotAvailable("its reconstructions are given the label, which outliers don't have")
        found = []
        for part in context.chunks(len(images), "outliers"):
            x = to_float(images.take(torch.arange(part.start, part.stop), context.device))
            found.append(model.log_likelihood(x, torch.full((len(x),), -1, device=context.device)).cpu().double())
        return torch.cat(found)


class Trivial(NamedTuple):
    """The AUROC of scores that no model is needed for."""

    intensity: float
    png: float

    @property
    def note(self) -> str:
        return f"mean intensity alone reaches {self.intensity:.3f}; the size as PNG {self.png:.3f}"


@dataclass(frozen=True)
class TrivialScores(Request[Trivial]):
    """Outliers told by their mean intensity and by their bytes as PNG; computed once and kept."""

    def resolve(self, context: Context) -> Trivial:
        outliers, test = context.get(Outliers()), context.data.test
        path = context.cache / "probes" / f"outliers-v1-{outliers.digest[:16]}-{test.digest[:16]}.safetensors"

        def found() -> dict[str, Tensor]:
            context.alive()
            a, b = (_pixels(context, images) for images in (outliers, test))
            intensity = auroc(a.double().mean((1, 2, 3)), b.double().mean((1, 2, 3))).value
            return {"trivial": torch.tensor([intensity, auroc(png_bytes(a), png_bytes(b)).value], dtype=torch.float64)}

        return Trivial(*remembered_tensors(path, found, "trivial")["trivial"].tolist())


def _pixels(context: Context, images: Images) -> Tensor:
    parts = context.chunks(len(images), "pixels")
    return torch.cat([images.take(torch.arange(part.start, part.stop), "cpu") for part in parts])


def png_bytes(pixels: Tensor) -> Tensor:
    """The size of each image (N, C, H, W) as a PNG file, in bytes: (N,) float64."""
    from PIL import Image

    def size(image: np.ndarray) -> int:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.tell()

    images = pixels.movedim(1, -1) if pixels.shape[1] == 3 else pixels.flatten(1, 2)
    return torch.tensor([size(image) for image in images.contiguous().numpy()], dtype=torch.float64)


@metric(OutlierTerms(), Terms(), TrivialScores(), unit="AUROC", direction="higher", range=(0, 1))
def auroc_elbo(outliers: BoundTerms, test: BoundTerms, trivial: Trivial) -> Score:
    """How well -ELBO tells outliers from test images: the chance that an outlier's is the higher of a pair.

    .5 is guessing, and below it outliers look likelier than what was trained on, as they may (Nalisnick et al. 2019):
    no sign is turned afterwards.
    """
    return auroc(outliers.rate - outliers.log_likelihood, test.rate - test.log_likelihood, trivial.note)


@metric(OutlierLogLikelihood(), LogLikelihood(), TrivialScores(), unit="AUROC", direction="higher", range=(0, 1))
def auroc_distortion(outliers: Tensor, test: Tensor, trivial: Trivial) -> Score:
    """`auroc_elbo` with the distortion, -log p(x|z), in the place of -ELBO."""
    return auroc(-outliers, -test, trivial.note)


@metric(OutlierTerms(), Terms(), TrivialScores(), unit="AUROC", direction="higher", range=(0, 1))
def auroc_kl(outliers: BoundTerms, test: BoundTerms, trivial: Trivial) -> Score:
    """`auroc_elbo` with the rate in the place of -ELBO: outliers get longer codes, or they don't."""
    return auroc(outliers.rate, test.rate, trivial.note)
