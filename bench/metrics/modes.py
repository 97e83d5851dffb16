"""Classes of samples, by the judge: which are reached, how evenly, and how clearly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Score, metric
from bench.contracts.protocol import Scoring
from bench.evidence import TestImages, TheData
from bench.metrics.judge import Judged, TheJudge, TrainedJudge, divergence
from bench.util.errors import NotAvailable

PART = 10  #: a class is reached by a tenth of the samples that its real share would bring
LEAST = 5  #: and by so many at least: a single one may be the judge's error


def reached(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return which classes are reached, (classes,) bool, given predicted (N,) and real (M,) class indices."""
    drawn = torch.bincount(predicted, minlength=classes)
    real = torch.bincount(labels, minlength=classes)
    return (PART * drawn * len(labels) >= real * len(predicted)) & (drawn >= LEAST)


def enough(context: Context) -> int:
    """Return the least number of samples for which `modes` means the same as for the usual number.

    With that number, a tenth of the share of each class that counts is five samples. As many samples as the dataset
    has training images are always enough, since the row of real images has no more.
    """
    data = context.data
    usual = min(Scoring.samples, len(data.source) - data.validation)
    if not data.test.labelled:
        return 0
    real = torch.bincount(data.test.labels().cpu())
    counted = real[real * usual >= 2 * LEAST * len(data.test)]
    return min(usual, math.ceil(PART * LEAST * len(data.test) / int(counted.min()))) if len(counted) else 0


def expected_divergence(classes: int, n: int) -> float:
    """Return the mean `divergence` of `n` draws from q itself, over `classes` that q has: (K - 1) / (2 N), large N."""
    return (classes - 1) / (2 * n)


def spread(counts: Tensor, reference: Tensor) -> float:
    """Return the standard deviation of `divergence` over redraws of the counts.

    By the delta method, to the second order since the first vanishes at p = q:
    Var_p[log p/q] / N + (K - 1) / (2 N^2).
    """
    n, seen = int(counts.sum()), counts > 0
    p, q = (counts.double() / n)[seen], (reference.double() / reference.sum())[seen]
    logs = (p / q).log()
    first = (p * logs.square()).sum() - (p * logs).sum().square()
    return math.sqrt(max(first.item(), 0.0) / n + (int((reference > 0).sum()) - 1) / (2 * n * n))


@metric(Judged("prior"), TheJudge(), unit="probability", range=(0, 1), redraws=True, few="unbiased")
def confidence(probabilities: Tensor, judge: TrainedJudge) -> Score:
    """Mean probability of the likeliest class over prior samples.

    Low for images between classes; high also for one image repeated, and often for images far from all classes: so no
    direction.
    """
    return Score.of(probabilities.max(1).values, judge.note)


@metric(
    Judged("prior"), TheJudge(), TestImages(), unit="share of classes", direction="higher", range=(0, 1), few=enough
)
def modes(probabilities: Tensor, judge: TrainedJudge, images: Images) -> Score:
    """Share of the test images' classes that prior samples reach, each by a tenth of its real share and by five.

    Only classes count of which as many real images would have ten.
    """
    if not images.labelled:
        raise NotAvailable("the test images have no labels")
    n, labels, classes = len(probabilities), images.labels().cpu(), len(images.classes)
    real = torch.bincount(labels, minlength=classes)
    if int((real > 0).sum()) < 2:
        raise NotAvailable("the test images are of one class")
    counted = (real * n >= 2 * LEAST * len(labels)).nonzero()[:, 0]
    if len(counted) < 2:
        raise NotAvailable(f"of {n} samples no two classes would have {2 * LEAST}")
    hit = reached(probabilities.argmax(1), labels, classes)[counted]
    notes = [judge.note]
    if missing := ", ".join(images.classes[k] for k in counted[~hit]):
        notes.append(Note(f"classes missing from the samples: {missing}", "modes_missing", warns=True))
    if rare := int((real > 0).sum()) - len(counted):
        notes.append(Note("{n} classes too rare to count", "rare_classes", {"n": rare}))
    return Score(hit.double().mean().item(), min(n, len(labels)), notes=notes)


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
    """KL(classes of prior samples || classes of training images), in nats, from the judge's histogram of samples.

    N draws of a perfect sampler score (K - 1) / 2N on average, and the judge's own errors move the histogram, too:
    notes have both, and neither is subtracted.
    """
    drawn = torch.bincount(probabilities.argmax(1), minlength=len(data.source.classes))
    real = torch.bincount(data.train.labels().cpu(), minlength=len(data.source.classes))
    n, classes = len(probabilities), int((real > 0).sum())
    if classes < 2:
        raise NotAvailable("the training images are of one class")
    if bool((drawn[real == 0] > 0).any()):
        raise NotAvailable("the judge gives samples a class that no training image has: the divergence isn't finite")
    if n < LEAST * classes:
        raise NotAvailable(f"{n} samples are too few for {classes} classes")
    notes = [
        judge.note,
        Note("expected of a perfect sampler: {floor}", "real_images", {"floor": expected_divergence(classes, n)}),
        Note("from the judge's errors alone: {error}", "judge_error", {"error": judge.error}),
    ]
    return Score(divergence(drawn, real), min(n, int(real.sum())), spread(drawn, real), notes)
