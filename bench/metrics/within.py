"""`fd` within each class, which sees whether the images of a class are varied."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.abilities import HoldsSamples
from bench.contracts.dataset import Data
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.evidence import TheData
from bench.metrics.conditional import GivenLabels
from bench.metrics.gaussians import FeatureGaussian, frechet_distance, influence
from bench.metrics.judge import Judged
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, TrainedClassifier, unseen
from bench.metrics.notes import real_images
from bench.util.errors import NotAvailable

PER_DIMENSION = 5  #: images a feature, at least, behind each class's covariance


@dataclass(frozen=True)
class SampleClasses(Request[Tensor]):
    """The class of each prior sample, (n,) int64: the one that the model was given, or else the judge's."""

    def resolve(self, context: Context) -> Tensor:
        if context.model.uses_labels and not isinstance(context.model, HoldsSamples):
            return context.get(GivenLabels())
        return context.get(Judged("prior")).argmax(1)


def mean_distance(
    features: Tensor, classes: Tensor, real: Tensor, labels: Tensor, names: tuple[str, ...]
) -> tuple[float, float]:
    """Return the Fréchet distance of features (N, d) to `real` ones (M, d), averaged over classes by real share.

    And its standard error over other draws of `features`. Raises NotAvailable if a real class has too few of either.
    """
    least, total, variance = PER_DIMENSION * real.shape[1], 0.0, 0.0
    for c in torch.unique(labels).tolist():
        own, others = features[classes == c], real[labels == c]
        for count, what in ((len(others), "test images"), (len(own), "samples")):
            if count < least:
                raise NotAvailable(
                    f"{real.shape[1]} features need {least} {what} of each class: {names[c]} has {count}"
                )
        share, reference = len(others) / len(real), FeatureGaussian.of(others)
        total += share * frechet_distance(FeatureGaussian.of(own), reference)
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
    trained: TrainedClassifier, samples: Predictions, classes: Tensor, test: Predictions, train: Predictions, data: Data
) -> Score:
    """Fréchet distance of prior samples to test images of the same class, averaged over classes by their real share.

    A sample's class is the one that the model was given, or else the judge's. Features, units and bias of finite
    samples are those of `fd`, with fewer images each: it compares rows of one dataset, and not with `fd`. Its standard
    error is over other draws of the samples. (The class-aware Fréchet distance of Liu et al. 2018, without its term for
    missing classes: see `modes`, `class_kl`.)
    """
    labels, names = data.test.labels().cpu(), data.test.classes
    value, se = mean_distance(samples.features, classes, test.features, labels, names)
    try:
        n = len(samples.features)  # as many real ones have the same bias; they are in random order
        known = unseen(data).labels().cpu()
        floor, _ = mean_distance(train.features[:n], known[:n], test.features, labels, names)
        note = real_images(min(n, len(known)), floor)
    except NotAvailable:
        note = Note("too few held-out real images to compare with", "real_images")
    return Score(value, min(len(samples.features), len(test.features)), se, [trained.note, note])
