"""Samples that a conditional model draws by class, and classifiers that learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.evidence import Generated, SampledLabels, TheData, positions
from bench.metrics.cache import remembered, statistics
from bench.metrics.judge import STEPS, VERSION, Judged, TheJudge, TrainedJudge, right, train
from bench.util.errors import NotAvailable


@dataclass(frozen=True)
class GivenLabels(Request[Tensor]):
    """The class that the model was given for each prior sample: (n,) int64. n/a for unconditional models."""

    def resolve(self, context: Context) -> Tensor:
        if not context.model.uses_labels:
            raise NotAvailable("it isn't conditional: its samples are drawn without a class")
        if isinstance(context.model, abilities.HoldsSamples):
            raise NotAvailable("its samples are a fixed set, drawn without a class")
        require(context.model, abilities.Samples)
        labels = context.get(SampledLabels())
        if not context.data.train.labelled:
            raise NotAvailable("needs class labels")
        return labels


@metric(
    Judged("prior"),
    GivenLabels(),
    TheJudge(),
    unit="share of samples",
    direction="higher",
    range=(0, 1),
    few="unbiased",
)
def label_accuracy(probabilities: Tensor, given: Tensor, judge: TrainedJudge) -> Score:
    """Share of prior samples that get from the judge the label that the model was given for them.

    It tells the class of samples and no more: one clear image a class scores 1. Real images score the accuracy of the
    judge.
    """
    return Score.of((probabilities.argmax(1) == given).double(), judge.note)


@dataclass(frozen=True)
class Learned(Request[Tensor]):
    """Which test images a classifier gets right that learned from samples, from as many real images, or both: (N,).

    The judge's architecture, schedule and number of steps in all three.
    """

    of: Literal["samples", "real", "both"]

    def resolve(self, context: Context) -> Tensor:
        labels, data = context.get(GivenLabels()), context.data
        if not data.test.labelled or len(data.test) < 2:
            raise NotAvailable("needs labelled test images")
        if len(torch.unique(data.train.labels())) < 2:
            raise NotAvailable("the training images are of one class")
        where = positions(data.train, len(labels))
        if self.of == "real":
            name = f"learned-v{VERSION}-{data.train.digest[:16]}-{data.test.digest[:16]}-{len(where)}-{STEPS}"
            return remembered(statistics(context, name), "right", lambda: self._of(context, data.train.subset(where)))
        samples = context.get(Generated("prior"))
        if self.of == "both":
            real = data.train.take(where, "cpu")
            samples, labels = torch.cat([real, samples]), torch.cat([data.train.labels(where, "cpu"), labels])
        return self._of(context, Images(samples, labels, data.train.classes))

    def _of(self, context: Context, images: Images) -> Tensor:
        return right(train(images, alive=context.alive), context.data.test)


_accuracy = partial(metric, unit="accuracy", direction="higher", default=False, few="anchored")


def _note(text: str, real: Tensor, given: Tensor, data: Data, **values: float) -> Note:
    accuracy = 100 * real.double().mean().item()
    numbers = {"accuracy": accuracy, "samples": len(given), "real": min(len(given), len(data.train))}
    return Note(text, "real_images", {**numbers, **values})


@_accuracy(Learned("samples"), Learned("real"), GivenLabels(), TheData(), range=(0, 1))
def cas(learned: Tensor, real: Tensor, given: Tensor, data: Data) -> Score:
    """Classification accuracy score: of a classifier trained on prior samples and their labels, on real test images.

    The note has the same classifier's accuracy from as many real images, or from all where there are fewer. Its error
    is over test images, not over trainings. Ravuri & Vinyals 2019, with the judge in place of a ResNet.
    """
    text = "learned from {samples} samples; from {real} real images the accuracy is {accuracy} %"
    return Score.of(learned.double(), _note(text, real, given, data))


@_accuracy(Learned("both"), Learned("real"), GivenLabels(), TheData(), range=(-1, 1))
def cas_augmented(both: Tensor, real: Tensor, given: Tensor, data: Data) -> Score:
    """Gain in accuracy from as many samples beside real training images, over that from the real images alone.

    In as many steps each; paired over test images.
    """
    text = "accuracy {both} % with {samples} samples, {accuracy} % from {real} real images alone"
    note = _note(text, real, given, data, both=100 * both.double().mean().item())
    return Score.of(both.double() - real.double(), note)
