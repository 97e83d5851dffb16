"""Which classes the samples reach, how evenly, and how clearly, in the eyes of the judge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Score, metric
from bench.contracts.protocol import Scoring
from bench.evidence import TestImages, TheData
from bench.metrics.histograms import divergence, expected_divergence, spread
from bench.metrics.judge import Judged, TheJudge, TrainedJudge
from bench.util.errors import NotAvailable

PART = 10  #: one part in ten of the samples that a class's real share would bring must be recognised as it
LEAST = 5  #: and so many at least: one alone may be the classifier's error


def reached(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which classes are reached: (classes,) bool, out of predicted (N,) and real (M,) class indices.

    A class is reached by a tenth of the samples that its real share would bring, and by five.
    """
    drawn = torch.bincount(predicted, minlength=classes)
    real = torch.bincount(labels, minlength=classes)
    return (PART * drawn * len(labels) >= real * len(predicted)) & (drawn >= LEAST)


def enough(context: Context) -> int:
    """The least number of samples that tells of `modes` what as many as models are asked for would.

    A tenth of a class's share is five samples then, of each class that those ask for. So many are also enough as a
    dataset has images to train on, since the row of real images has no more.
    """
    data = context.data
    usual = min(Scoring.samples, len(data.source) - data.validation)
    if not data.test.labelled:
        return 0
    real = torch.bincount(data.test.labels().cpu())
    asked = real[real * usual >= 2 * LEAST * len(data.test)]
    return min(usual, math.ceil(PART * LEAST * len(data.test) / int(asked.min()))) if len(asked) else 0


@metric(Judged("prior"), TheJudge(), unit="probability", range=(0, 1), redraws=True, few="unbiased")
def confidence(probabilities: Tensor, judge: TrainedJudge) -> Score:
    """Mean probability of the likeliest class over prior samples.

    Low for images between classes; high also for one image repeated, and often for what is far from all classes:
    no merit by itself.
    """
    return Score.of(probabilities.max(1).values, judge.note)


@metric(
    Judged("prior"),
    TheJudge(),
    TestImages(),
    unit="share of classes",
    direction="higher",
    range=(0, 1),
    few=enough,
)
def modes(probabilities: Tensor, judge: TrainedJudge, images: Images) -> Score:
    """Share of the test images' classes that prior samples reach, each by a tenth of its real share and by five.

    Those are asked for of which as many real images would have ten.
    """
    if not images.labelled:
        raise NotAvailable("the test images have no labels")
    n, labels, classes = len(probabilities), images.labels().cpu(), len(images.classes)
    real = torch.bincount(labels, minlength=classes)
    if int((real > 0).sum()) < 2:
        raise NotAvailable("the test images are of one class")
    asked = (real * n >= 2 * LEAST * len(labels)).nonzero()[:, 0]
    if len(asked) < 2:
        raise NotAvailable(f"of {n} samples no two classes would have {2 * LEAST}")
    there = reached(probabilities.argmax(1), labels, classes)[asked]
    missing = ", ".join(images.classes[k] for k in asked[~there])
    rare = int((real > 0).sum()) - len(asked)
    said = (
        Note(f"classes missing from the samples: {missing}", "modes_missing", warns=True) if missing else "",
        Note("{n} classes too rare to count", "rare_classes", {"n": rare}) if rare else "",
    )
    return Score(there.double().mean().item(), min(n, len(labels)), notes=(*said, judge.note))


@metric(
    Judged("prior"),
    TheJudge(),
    TheData(),
    unit="nats",
    direction="lower",
    range=(0, math.inf),
    redraws=True,
    few="anchored",
)
def class_kl(probabilities: Tensor, judge: TrainedJudge, data: Data) -> Score:
    """KL(classes of prior samples || classes of training images), from the judge's histogram of samples.

    A perfect sampler's N draws come to (K - 1) / 2N, and the judge's own errors move the histogram, too: the note has
    both, and neither is subtracted.
    """
    classes = len(data.source.classes)
    drawn = torch.bincount(probabilities.argmax(1), minlength=classes)
    real = torch.bincount(data.train.labels().cpu(), minlength=classes)
    if int((real > 0).sum()) < 2:
        raise NotAvailable("the training images are of one class")
    if bool((drawn[real == 0] > 0).any()):
        raise NotAvailable("samples are taken for a class that no training image has: the divergence isn't finite")
    if len(probabilities) < LEAST * int((real > 0).sum()):
        raise NotAvailable(f"{len(probabilities)} samples are too few for {int((real > 0).sum())} classes")
    floor = expected_divergence(int((real > 0).sum()), len(probabilities))
    note = (
        Note("expected of a perfect sampler: {floor}", "real_images", {"floor": floor}),
        Note("from the judge's errors alone: {error}", "judge_error", {"error": judge.error}),
        judge.note,
    )
    n = min(len(probabilities), int(real.sum()))
    return Score(divergence(drawn, real), n, spread(drawn, real), note)
