"""Fréchet distances of samples to real images: `fid` on Inception features, `fd` on a small classifier's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from bench.dataset import Data
from bench.errors import NotAvailable
from bench.images import Images
from bench.measurement import Context, Request, Score, metric
from bench.metrics.cache import remembered
from bench.metrics.classifier import halves, predict
from bench.metrics.gaussians import Gaussian, frechet_distance
from bench.metrics.inception import InceptionGaussian, InceptionWeights, Weights
from bench.metrics.networks import FeatureNetwork, Predicted, Predictions, Trained
from bench.protocol import seed_for

PER_DIMENSION = 5  #: images a feature, at least, behind each covariance of `fd`


def unseen(data: Data) -> Images:
    """Training images that the classifier hasn't seen, at random: as many as the test split has, or all."""
    half = halves(len(data.source))[1]
    order = torch.randperm(len(half), generator=torch.Generator().manual_seed(seed_for("unseen")))
    return data.source.subset(half[order[: len(data.test)]])


@dataclass(frozen=True)
class Reference(Request[Gaussian]):
    """The classifier's features on real images that it hasn't seen: the test split, or half of training.

    Both of one size where there are enough, so that distances to them carry the same bias of finite samples.
    """

    split: Literal["test", "train"]

    def resolve(self, context: Context) -> Gaussian:
        trained, data = context.get(FeatureNetwork()), context.data
        images = data.test if self.split == "test" else unseen(data)
        name = f"{trained.name}-{images.digest[:16]}.safetensors"
        return remembered(
            context.cache / "statistics" / name,
            lambda: Gaussian.of(predict(trained.network, images, context.device)[0]),
        )


def _fd(trained: Trained, samples: Predictions, reference: Gaussian, other: Gaussian) -> Score:
    drawn = Gaussian.of(samples.features)
    for count, what in ((reference.n, "real images"), (drawn.n, "samples")):
        if count < PER_DIMENSION * drawn.dim:
            raise NotAvailable(f"{drawn.dim} features need {PER_DIMENSION * drawn.dim} {what}: there are {count}")
    floor = frechet_distance(reference, other)
    note = f"{trained.note}; {other.n:,} other real images come to {floor:.3g}"
    return Score(frechet_distance(drawn, reference), drawn.n, note=note)


@metric(FeatureNetwork(), Predicted("prior"), Reference("test"), Reference("train"), unit="FD", direction="lower")
def fd(trained: Trained, samples: Predictions, test: Gaussian, train: Gaussian) -> Score:
    """Fréchet distance of prior samples to the test split, on 64 features of the dataset's classifier.

    Each feature is in units of its standard deviation on training images. It's no FID: it compares rows of
    one dataset, and nothing outside this suite.
    """
    return _fd(trained, samples, test, train)


@metric(FeatureNetwork(), Predicted("prior"), Reference("train"), Reference("test"), unit="FD", direction="lower")
def fd_train(trained: Trained, samples: Predictions, train: Gaussian, test: Gaussian) -> Score:
    """`fd` to the half of training that the classifier hasn't seen: well below `fd`, it hints at copying."""
    return _fd(trained, samples, train, test)


@metric(FeatureNetwork(), Predicted("gmm"), Reference("test"), Reference("train"), unit="FD", direction="lower")
def fd_gmm(trained: Trained, samples: Predictions, test: Gaussian, train: Gaussian) -> Score:
    """`fd` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return _fd(trained, samples, test, train)


def _fid(weights: Weights, samples: Gaussian, test: Gaussian) -> Score:
    for count, what in ((test.n, "test images"), (samples.n, "samples")):
        if count <= samples.dim:
            raise NotAvailable(f"a covariance of {samples.dim:,} features needs more than {count:,} {what}")
    return Score(frechet_distance(samples, test), samples.n, note=weights.note)


@metric(InceptionWeights(), InceptionGaussian("prior"), InceptionGaussian("test"), unit="FID", direction="lower")
def fid(weights: Weights, samples: Gaussian, test: Gaussian) -> Score:
    """Fréchet Inception distance of prior samples to the test split, on the pytorch-fid package's features.

    Its bias falls with the number of images, so only values from equal numbers compare.
    """
    return _fid(weights, samples, test)


@metric(InceptionWeights(), InceptionGaussian("gmm"), InceptionGaussian("test"), unit="FID", direction="lower")
def fid_gmm(weights: Weights, samples: Gaussian, test: Gaussian) -> Score:
    """`fid` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return _fid(weights, samples, test)
