"""`fd` within each class: whether the images of a class are varied and right, and not only the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.abilities import HoldsSamples
from bench.contracts.dataset import Data
from bench.contracts.measurement import Context, Request, Score, metric
from bench.evidence import TheData
from bench.metrics.conditional import AskedLabels
from bench.metrics.gaussians import Gaussian, frechet_distance, influence
from bench.metrics.judge import Judged
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, Trained, unseen
from bench.util.errors import NotAvailable

PER_DIMENSION = 5  #: images a feature, at least, behind each class's covariance


@dataclass(frozen=True)
class SampleClasses(Request[Tensor]):
    """The class of each prior sample: the one that it was asked for, or the judge's: (n,) int64."""

    def resolve(self, context: Context) -> Tensor:
        if context.model.uses_labels and not isinstance(context.model, HoldsSamples):
            return context.get(AskedLabels())
        return context.get(Judged("prior")).argmax(1)


def mean_distance(
    features: Tensor, classes: Tensor, real: Tensor, labels: Tensor, names: tuple[str, ...]
) -> tuple[float, float]:
    """Mean over classes of the Fréchet distance between features (N, d) and `real` ones (M, d), weighted by real share.

    Beside it, its standard error over other draws of `features`.

    Raises:
        NotAvailable: a class that has real images has too few of either for a covariance.
    """
    least, total, variance = PER_DIMENSION * real.shape[1], 0.0, 0.0
    for c in torch.unique(labels).tolist():
        own, others = features[classes == c], real[labels == c]
        for count, what in ((len(others), "test images"), (len(own), "samples")):
            if count < least:
                raise NotAvailable(
                    f"{real.shape[1]} features need {least} {what} of each class: {names[c]} has {count}"
                )
        share, reference = len(others) / len(real), Gaussian.of(others)
        total += share * frechet_distance(Gaussian.of(own), reference)
        variance += share**2 * influence(own, reference).var().item() / len(own)
    return total, math.sqrt(variance)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    SampleClasses(),
    PredictedReal("test"),
    PredictedReal("train"),
    TheData(),
    unit="FD",
    direction="lower",
    redraws=True,
    few="anchored",
)
def fd_within(
    trained: Trained, samples: Predictions, classes: Tensor, test: Predictions, train: Predictions, data: Data
) -> Score:
    """Fréchet distance of prior samples to test images of the same class, averaged over classes by their real share.

    A sample's class is the one that it was asked for; without such, the judge's. Features, units and bias of finite
    samples are `fd`'s, with fewer images each: it compares rows of one dataset, and not with `fd`. Its standard error
    is over other draws of the samples, too.
    (Class-aware Fréchet distance of Liu et al. 2018, without its term for missing classes: see `modes`, `class_kl`.)
    """
    labels, names = data.test.labels().cpu(), data.test.classes
    value, se = mean_distance(samples.features, classes, test.features, labels, names)
    note = trained.note
    try:
        n = len(samples.features)  # as many real ones have the same bias; they are in random order
        known = unseen(data).labels().cpu()
        floor, _ = mean_distance(train.features[:n], known[:n], test.features, labels, names)
        note += f"; {min(n, len(known)):,} unseen training images, by their labels, come to {floor:.3g}"
    except NotAvailable:
        note += "; too few other real images for a floor"
    return Score(value, min(len(samples.features), len(test.features)), se, note)
