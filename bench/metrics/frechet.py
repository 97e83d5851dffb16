"""Fréchet distances of images to real ones: `fid` on Inception features, `fd` on a small classifier's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bench.contracts.measurement import Context, Metric, Note, Request, Score, metric
from bench.evidence import Generated, Sampler
from bench.metrics.gaussians import FeatureGaussian, expected_bias, frechet_distance, influence
from bench.metrics.inception import InceptionGaussian, InceptionWeights, KnownTraining, Weights, seconds
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, Predictions, TrainedClassifier
from bench.metrics.notes import real_images
from bench.util.errors import DataError, NotAvailable

PER_DIMENSION = 5  #: images a feature, at least, behind each covariance of `fd`

Split = Literal["test", "train"]


@dataclass(frozen=True)
class Reference(Request[FeatureGaussian]):
    """The classifier's features of real images that it has not seen: the test split, or half of training.

    With `beside`, of no more of them than there are such samples: distances of equally many have the same bias.
    """

    split: Split
    beside: Sampler | None = None

    def resolve(self, context: Context) -> FeatureGaussian:
        features = context.get(PredictedReal(self.split)).features
        if self.beside is not None and (n := len(context.get(Generated(self.beside)))) < len(features):
            features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(n))[:n]]
        return FeatureGaussian.of(features)


def _require(least: int, dim: int, **counts: int | None) -> None:
    """Check that covariances of `dim` features rest on `least` images at least; unknown counts (None) pass."""
    for what, count in counts.items():
        if count is not None and count < least:
            raise NotAvailable(f"{dim:,} features need {least:,} {what.replace('_', ' ')}: there are {count:,}")


def _notes(network: Note | None, reference: FeatureGaussian, other: FeatureGaussian | None, n: int) -> list[Note]:
    """Return the notes of a distance of `n` samples: its network, and what a perfect sampler would score.

    The distance of more other real images than samples would not compare, so it is left out.
    """
    notes = [] if network is None else [network]
    if other is not None and other.n is not None and other.n <= n:
        note = real_images(other.n, frechet_distance(reference, other))
        if other.n < n:
            bias = expected_bias(reference, other.n, reference.n)
            note = Note(
                note.text + ", of which {bias} is expected from so few", note.kind, {**note.values, "bias": bias}
            )
        notes.append(note)
    bias = expected_bias(reference, n, reference.n)
    return [*notes, Note("expected bias from finite samples: {bias}", "finite_samples", {"bias": bias})]


def _distance(a: FeatureGaussian, b: FeatureGaussian) -> float:
    return max(0.0, frechet_distance(a, b))


_fd = partial(metric, unit="FD", direction="lower", range=(0, math.inf))
_fid = partial(metric, unit="FID", direction="lower", range=(0, math.inf))


def _fd_of(sampler: Sampler, split: Split, doc: str) -> Metric:
    """Return the metric of one kind of samples against one split, on the classifier's features."""

    def score(
        trained: TrainedClassifier, images: Predictions, reference: FeatureGaussian, other: FeatureGaussian
    ) -> Score:
        dim, n = images.features.shape[1], len(images.features)
        _require(PER_DIMENSION * dim, dim, real_images=reference.n, samples=n)
        se = Score.of(influence(images.features, reference)).se
        notes = _notes(trained.note, reference, other, n)
        return Score(_distance(FeatureGaussian.of(images.features), reference), min(n, reference.n or n), se, notes)

    score.__doc__ = doc
    other: Split = "train" if split == "test" else "test"
    needs = FeatureNetwork(), Predicted(sampler), Reference(split), Reference(other, beside=sampler)
    return _fd(*needs, redraws=True, few="anchored")(score)


fd = _fd_of(
    "prior",
    "test",
    """Fréchet distance of prior samples to the test split, on 64 features of the dataset's classifier.

    Each feature is in units of its standard deviation on training images. It is no FID: it compares rows of
    one dataset, and nothing outside this suite. Its standard error is over other draws of the samples.
    """,
)
fd_train = _fd_of("prior", "train", "`fd` to training images that the classifier has not seen: much lower for copies.")
fd_gmm = _fd_of("gmm", "test", "`fd` of samples whose codes come from a Gaussian mixture fitted on training codes.")


@_fd(FeatureNetwork(), Predicted("reconstructions"), Reference("test"), default=False)
def fd_rec(trained: TrainedClassifier, reconstructions: Predictions, test: FeatureGaussian) -> Score:
    """`fd` of the reconstructions of all test images to those same images.

    They are pairs, so the error of finite samples is shared: a perfect decoder scores 0, below any sampler.
    """
    n, dim = reconstructions.features.shape
    _require(PER_DIMENSION * dim, dim, real_images=test.n)
    return Score(_distance(FeatureGaussian.of(reconstructions.features), test), n, notes=trained.note)


def _fid_score(
    weights: Weights, images: FeatureGaussian, reference: FeatureGaussian, other: FeatureGaussian | None, of: str
) -> Score:
    if images.dim != reference.dim:
        raise NotAvailable(f"the reference has {reference.dim:,} features instead of {images.dim:,}")
    _require(images.dim + 1, images.dim, **{of: reference.n}, samples=images.n)
    assert images.n is not None  # they were counted here
    notes = _notes(weights.note, reference, other, images.n)
    return Score(_distance(images, reference), min(images.n, reference.n or images.n), notes=notes)


def _fid_of(sampler: Sampler, split: Split, doc: str) -> Metric:
    """Return the metric of one kind of samples against one split, on Inception features."""

    def score(
        weights: Weights, images: FeatureGaussian, reference: FeatureGaussian, other: FeatureGaussian | None
    ) -> Score:
        return _fid_score(weights, images, reference, other, "test_images" if split == "test" else "training_images")

    score.__doc__ = doc
    if split == "test":
        needs: tuple[Request[Any], ...] = InceptionGaussian("test"), KnownTraining()
        predicted = seconds(sampler, "test")
    else:
        needs = InceptionGaussian("train"), InceptionGaussian("test")
        predicted = seconds(sampler, "train", "test")
    samples = InceptionWeights(), InceptionGaussian(sampler)
    return _fid(*samples, *needs, default=split == "test", predicted=predicted, few="anchored")(score)


fid = _fid_of(
    "prior",
    "test",
    """Fréchet Inception distance of prior samples to the test split, on the pytorch-fid package's features.

    Its bias falls with the number of images, so only values from equal numbers compare. Heusel et al. 2017.
    """,
)
fid_train = _fid_of("prior", "train", "`fid` to training images, as many as test images: much lower for copies.")
fid_gmm = _fid_of("gmm", "test", "`fid` of samples whose codes come from a Gaussian mixture fitted on training codes.")


@_fid(
    InceptionWeights(),
    InceptionGaussian("reconstructions"),
    InceptionGaussian("test"),
    default=False,
    predicted=seconds("reconstructions"),
)
def fid_rec(weights: Weights, reconstructions: FeatureGaussian, test: FeatureGaussian) -> Score:
    """`fid` of the reconstructions of all test images to those same images.

    They are pairs, so the error of finite samples is shared: a perfect decoder scores 0, below any sampler.
    """
    _require(test.dim + 1, test.dim, test_images=test.n)
    assert test.n is not None  # they were counted here
    return Score(_distance(reconstructions, test), test.n, notes=weights.note or ())


@dataclass(frozen=True)
class Statistics(Request[FeatureGaussian]):
    """Mean and covariance in a file of pytorch-fid."""

    path: Path

    def resolve(self, context: Context) -> FeatureGaussian:
        try:
            return FeatureGaussian.from_npz(self.path)
        except DataError as error:
            raise NotAvailable(str(error)) from None


def fid_to(path: Path) -> Metric:
    """Return the metric `fid` of prior samples to the statistics in an .npz file of pytorch-fid or `to_npz`."""

    @_fid(InceptionWeights(), InceptionGaussian("prior"), Statistics(path), predicted=seconds("prior"), few="anchored")
    def fid_reference(weights: Weights, samples: FeatureGaussian, reference: FeatureGaussian) -> Score:
        """Fréchet Inception distance of prior samples to statistics from a file."""
        return _fid_score(weights, samples, reference, None, "reference_images")

    return fid_reference
