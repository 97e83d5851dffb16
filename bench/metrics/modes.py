"""Which classes the samples reach, and how clearly, in the eyes of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.evidence import TestImages
from bench.images import Images
from bench.measurement import Score, metric
from bench.metrics.networks import FeatureNetwork, Predicted, Predictions, Trained

PART = 10  #: one part in ten of the samples that a class's real share would bring must be recognised as it
LEAST = 5  #: and so many at least: one alone may be the classifier's error


def reached(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which classes are reached: (classes,) bool, out of predicted (N,) and real (M,) class indices.

    A class is reached by a tenth of the samples that its real share would bring, and by five. One without
    real images isn't asked for.
    """
    drawn = torch.bincount(predicted, minlength=classes)
    real = torch.bincount(labels, minlength=classes)
    enough = PART * drawn * len(labels) >= real * len(predicted)
    return (enough & (drawn >= LEAST)) | (real == 0)


@metric(Predicted("prior"), FeatureNetwork(), unit="probability", range=(0, 1))
def confidence(predictions: Predictions, trained: Trained) -> Score:
    """Mean probability of the likeliest class over prior samples.

    Low for images between classes; high also for one image repeated, and often for what is far from all classes:
    no merit by itself.
    """
    return Score.of(predictions.probabilities.max(1).values, trained.note)


@metric(
    Predicted("prior"),
    FeatureNetwork(),
    TestImages(),
    unit="share of classes",
    direction="higher",
    range=(0, 1),
)
def modes(predictions: Predictions, trained: Trained, images: Images) -> Score:
    """Share of the classes that prior samples reach, each by a tenth of its real share and by five."""
    there = reached(predictions.probabilities.argmax(1), images.labels().cpu(), len(images.classes))
    missing = ", ".join(name for name, ok in zip(images.classes, there.tolist(), strict=True) if not ok)
    note = f"never or hardly: {missing}; {trained.note}" if missing else trained.note
    return Score(there.double().mean().item(), len(predictions.probabilities), note=note)
