"""What labels are worth: samples that were asked for by class, and classifiers that learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Request, Score, metric
from bench.evidence import Generated, SampledLabels, TheData, positions
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.judge import STEPS, VERSION, Judged, TheJudge, TrainedJudge, right, train
from bench.util.errors import NotAvailable


@dataclass(frozen=True)
class AskedLabels(Request[Tensor]):
    """The class that each prior sample was asked for: (n,) int64. n/a for models that aren't asked by class."""

    def resolve(self, context: Context) -> Tensor:
        if not context.model.uses_labels:
            raise NotAvailable("it isn't conditional: its samples aren't asked for by class")
        if isinstance(context.model, abilities.HoldsSamples):
            raise NotAvailable("its samples are a fixed set: none was asked for by class")
        require(context.model, abilities.Samples)
        labels = context.get(SampledLabels())
        if not context.data.train.labelled:
            raise NotAvailable("needs class labels")
        return labels


@metric(
    Judged("prior"),
    AskedLabels(),
    TheJudge(),
    unit="share of samples",
    direction="higher",
    range=(0, 1),
    few="unbiased",
)
def label_accuracy(probabilities: Tensor, asked: Tensor, judge: TrainedJudge) -> Score:
    """Share of prior samples that the judge gives the label that they were asked for.

    It reads the judge's kind of class out of them, no more: one clear image a class has 1. Real images get the
    judge's own accuracy.
    """
    return Score.of((probabilities.argmax(1) == asked).double(), judge.note)


Taught = Literal["samples", "real", "both"]


@dataclass(frozen=True)
class Learned(Request[Tensor]):
    """Which test images a classifier gets right that learned from samples, from as many real images, or both: (N,).

    The judge's architecture, schedule and number of steps in all three.
    """

    of: Taught

    def resolve(self, context: Context) -> Tensor:
        asked, data = context.get(AskedLabels()), context.data
        if not data.test.labelled or len(data.test) < 2:
            raise NotAvailable("needs labelled test images")
        if len(torch.unique(data.train.labels())) < 2:
            raise NotAvailable("the training images are of one class")
        where = positions(data.train, len(asked))
        if self.of == "real":
            name = f"learned-v{VERSION}-{data.train.digest[:16]}-{data.test.digest[:16]}-{len(where)}-{STEPS}"
            path = statistics(context, name)
            return remembered_tensors(path, lambda: {"right": self._of(context, data.train.subset(where))}, "right")[
                "right"
            ]
        samples = context.get(Generated("prior"))
        if self.of == "both":
            real = data.train.take(where, "cpu")
            samples, asked = torch.cat([real, samples]), torch.cat([data.train.labels(where, "cpu"), asked])
        return self._of(context, Images(samples, asked, data.train.classes))

    def _of(self, context: Context, images: Images) -> Tensor:
        return right(train(images, alive=context.alive), context.data.test)


@metric(
    Learned("samples"),
    Learned("real"),
    AskedLabels(),
    TheData(),
    unit="accuracy",
    direction="higher",
    range=(0, 1),
    default=False,
    few="anchored",
)
def cas(learned: Tensor, real: Tensor, asked: Tensor, data: Data) -> Score:
    """Classification accuracy score: of a classifier trained on prior samples and their labels, on real test images.

    The note has the same classifier's accuracy from as many real images, or from all where there are fewer. Its error
    is that of the test images, and not of training again. Ravuri & Vinyals 2019, with the judge in place of a ResNet.
    """
    known = min(len(asked), len(data.train))
    return Score.of(
        learned.double(), f"{len(asked):,} samples; {known:,} real images teach it {real.double().mean():.1%}"
    )


@metric(
    Learned("both"),
    Learned("real"),
    AskedLabels(),
    TheData(),
    unit="accuracy",
    direction="higher",
    range=(-1, 1),
    default=False,
    few="anchored",
)
def cas_augmented(both: Tensor, real: Tensor, asked: Tensor, data: Data) -> Score:
    """What samples add to real data: accuracy from real training images and as many samples, less that from the former.

    In as many steps each; paired over test images.
    """
    known = f"{min(len(asked), len(data.train)):,} real images"
    note = (
        f"{both.double().mean():.1%} with samples, {real.double().mean():.1%} without; {len(asked):,} samples, {known}"
    )
    return Score.of(both.double() - real.double(), note)
