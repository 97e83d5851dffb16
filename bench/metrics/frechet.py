"""Fréchet distances of images to real ones: `fid` on Inception features, `fd` on a small classifier's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bench.contracts.measurement import Context, Metric, Note, Request, Score, metric
from bench.evidence import Generated, Sampler
from bench.metrics.gaussians import Gaussian, expected_bias, extrapolated, frechet_distance, influence
from bench.metrics.inception import InceptionGaussian, InceptionWeights, KnownTraining, Weights, seconds
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, Trained
from bench.util.errors import DataError, NotAvailable

PER_DIMENSION = 5  #: images a feature, at least, behind each covariance of `fd`


@dataclass(frozen=True)
class Reference(Request[Gaussian]):
    """The classifier's features on real images that it hasn't seen: the test split, or half of training.

    With `beside`, on no more of them than there are such samples: distances of as many have the same bias.
    """

    split: Literal["test", "train"]
    beside: Sampler | None = None

    def resolve(self, context: Context) -> Gaussian:
        features = context.get(PredictedReal(self.split)).features
        if self.beside is not None and (n := len(context.get(Generated(self.beside)))) < len(features):
            features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(n))[:n]]
        return Gaussian.of(features)


def _enough(least: int, dim: int, **counts: int | None) -> None:
    """Check that covariances of `dim` features rest on `least` images at least; a count of None isn't known."""
    for what, count in counts.items():
        if count is not None and count < least:
            raise NotAvailable(f"{dim:,} features need {least:,} {what.replace('_', ' ')}: there are {count:,}")


def _floor(reference: Gaussian, other: Gaussian | None, n: int | None) -> list[Note]:
    """Return notes on the distance of a perfect sampler: that of other real images, and how much of it is bias.

    More other images than `n` samples are no measure for those; of fewer it's told what so few bring.
    """
    bias = {"bias": expected_bias(reference, n, reference.n)}
    notes = [Note("expected bias from finite samples: {bias}", "finite_samples", bias)]
    if other is None or other.n is None or n is None or other.n > n:
        return notes
    text, values = "{n} held-out real images score {floor}", {"n": other.n, "floor": frechet_distance(reference, other)}
    if other.n < n:
        text += ", of which {bias} is expected from so few"
        values["bias"] = expected_bias(reference, other.n, reference.n)
    return [Note(text, "real_images", values), *notes]


def _fd(trained: Trained, images: Predictions, reference: Gaussian, other: Gaussian) -> Score:
    dim, n = images.features.shape[1], len(images.features)
    _enough(PER_DIMENSION * dim, dim, real_images=reference.n, samples=n)
    drawn = Gaussian.of(images.features)
    se = Score.of(influence(images.features, reference)).se
    notes: list[Note | str] = [trained.note, *_floor(reference, other, n)]
    return Score(max(0.0, frechet_distance(drawn, reference)), _least(n, reference.n), se, notes)


def _least(n: int, m: int | None) -> int:
    """The smaller of two counts; the second may be unknown."""
    return n if m is None else min(n, m)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    Reference("test"),
    Reference("train", beside="prior"),
    unit="FD",
    direction="lower",
    range=(0, math.inf),
    redraws=True,
    few="anchored",
)
def fd(trained: Trained, samples: Predictions, test: Gaussian, train: Gaussian) -> Score:
    """Fréchet distance of prior samples to the test split, on 64 features of the dataset's classifier.

    Each feature is in units of its standard deviation on training images. It's no FID: it compares rows of
    one dataset, and nothing outside this suite. Its standard error is over other draws of the samples.
    """
    return _fd(trained, samples, test, train)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    Reference("train"),
    Reference("test", beside="prior"),
    unit="FD",
    direction="lower",
    range=(0, math.inf),
    redraws=True,
    few="anchored",
)
def fd_train(trained: Trained, samples: Predictions, train: Gaussian, test: Gaussian) -> Score:
    """`fd` to the half of training that the classifier hasn't seen: well below `fd`, it hints at copying."""
    return _fd(trained, samples, train, test)


@metric(
    FeatureNetwork(),
    Predicted("gmm"),
    Reference("test"),
    Reference("train", beside="gmm"),
    unit="FD",
    direction="lower",
    range=(0, math.inf),
    redraws=True,
    few="anchored",
)
def fd_gmm(trained: Trained, samples: Predictions, test: Gaussian, train: Gaussian) -> Score:
    """`fd` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return _fd(trained, samples, test, train)


@metric(
    FeatureNetwork(),
    Predicted("reconstructions"),
    Reference("test"),
    unit="FD",
    direction="lower",
    range=(0, math.inf),
    default=False,
)
def fd_rec(trained: Trained, reconstructions: Predictions, test: Gaussian) -> Score:
    """`fd` of the reconstructions of all test images to those same images.

    They're pairs, so the error of finite samples is shared: a perfect decoder comes to 0, below any sampler.
    """
    dim, n = reconstructions.features.shape[1], len(reconstructions.features)
    _enough(PER_DIMENSION * dim, dim, real_images=test.n)
    return Score(max(0.0, frechet_distance(Gaussian.of(reconstructions.features), test)), n, notes=trained.note)


@metric(
    FeatureNetwork(),
    Predicted("prior"),
    PredictedReal("test"),
    unit="FD",
    direction="lower",
    default=False,
    few="unbiased",
)
def fd_inf(trained: Trained, samples: Predictions, test: Predictions) -> Score:
    """`fd` as it would be with infinitely many samples and test images, extrapolated along a line in 1/N.

    Rows with different numbers of images may be compared by it. A sampler without fault comes to about 0, on either
    side. Chong & Forsyth 2020.
    """
    dim = test.features.shape[1]
    found = extrapolated(samples.features, test.features, PER_DIMENSION * dim)
    n = min(len(samples.features), len(test.features))
    return Score(
        found.intercept,
        n,
        notes=[trained.note, Note("standard error of the extrapolation: {se}", "extrapolation", {"se": found.se})],
    )


def _fid(weights: Weights, images: Gaussian, reference: Gaussian, other: Gaussian | None, what: str) -> Score:
    if images.dim != reference.dim:
        raise NotAvailable(f"the reference has {reference.dim:,} features, and not {images.dim:,}")
    _enough(images.dim + 1, images.dim, **{what: reference.n}, samples=images.n)
    assert images.n is not None  # they were counted here
    notes: list[Note | str] = [weights.note, *_floor(reference, other, images.n)]
    return Score(max(0.0, frechet_distance(images, reference)), _least(images.n, reference.n), notes=notes)


@metric(
    InceptionWeights(),
    InceptionGaussian("prior"),
    InceptionGaussian("test"),
    KnownTraining(),
    unit="FID",
    direction="lower",
    range=(0, math.inf),
    predicted=seconds("prior", "test"),
    few="anchored",
)
def fid(weights: Weights, samples: Gaussian, test: Gaussian, train: Gaussian | None) -> Score:
    """Fréchet Inception distance of prior samples to the test split, on the pytorch-fid package's features.

    Its bias falls with the number of images, so only values from equal numbers compare. Heusel et al. 2017.
    """
    return _fid(weights, samples, test, train, "test_images")


@metric(
    InceptionWeights(),
    InceptionGaussian("prior"),
    InceptionGaussian("train"),
    InceptionGaussian("test"),
    unit="FID",
    direction="lower",
    range=(0, math.inf),
    default=False,
    predicted=seconds("prior", "train", "test"),
    few="anchored",
)
def fid_train(weights: Weights, samples: Gaussian, train: Gaussian, test: Gaussian) -> Score:
    """`fid` to as many training images as the test split has: well below `fid`, it hints at copying."""
    return _fid(weights, samples, train, test, "training_images")


@metric(
    InceptionWeights(),
    InceptionGaussian("gmm"),
    InceptionGaussian("test"),
    KnownTraining(),
    unit="FID",
    direction="lower",
    range=(0, math.inf),
    predicted=seconds("gmm"),
    few="anchored",
)
def fid_gmm(weights: Weights, samples: Gaussian, test: Gaussian, train: Gaussian | None) -> Score:
    """`fid` of samples whose codes come from a Gaussian mixture fitted on training codes."""
    return _fid(weights, samples, test, train, "test_images")


@metric(
    InceptionWeights(),
    InceptionGaussian("reconstructions"),
    InceptionGaussian("test"),
    unit="FID",
    direction="lower",
    range=(0, math.inf),
    default=False,
    predicted=seconds("reconstructions"),
)
def fid_rec(weights: Weights, reconstructions: Gaussian, test: Gaussian) -> Score:
    """`fid` of the reconstructions of all test images to those same images.

    They're pairs, so the error of finite samples is shared: a perfect decoder comes to 0, below any sampler.
    """
    _enough(test.dim + 1, test.dim, test_images=test.n)
    assert test.n is not None
    return Score(max(0.0, frechet_distance(reconstructions, test)), test.n, notes=weights.note)


@dataclass(frozen=True)
class Statistics(Request[Gaussian]):
    """Mean and covariance out of a file as pytorch-fid writes them."""

    path: Path

    def resolve(self, context: Context) -> Gaussian:
        try:
            return Gaussian.from_npz(self.path)
        except DataError as error:
            raise NotAvailable(str(error)) from None


def fid_to(path: Path) -> Metric:
    """A metric: `fid` of prior samples to the statistics in an .npz file, of pytorch-fid or `Gaussian.to_npz`."""

    @metric(
        InceptionWeights(),
        InceptionGaussian("prior"),
        Statistics(path),
        unit="FID",
        direction="lower",
        predicted=seconds("prior"),
        few="anchored",
    )
    def fid_reference(weights: Weights, samples: Gaussian, reference: Gaussian) -> Score:
        """Fréchet Inception distance of prior samples to statistics from a file."""
        return _fid(weights, samples, reference, None, "reference_images")

    return fid_reference
