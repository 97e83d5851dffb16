"""Where trained classifiers are found: shipped ones beside this file, others trained once and cached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Request
from bench.contracts.protocol import seed_for
from bench.evidence import Generated, Reconstructions, Sampler
from bench.metrics import shelf
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.classifier import VERSION, Classifier, accuracy, halves, predict, train
from bench.util.errors import NotAvailable

SHIPPED = Path(__file__).parent / "networks"


@dataclass(frozen=True)
class Trained:
    """A classifier, the name of its file, and its accuracy on the test split."""

    network: Classifier
    name: str
    accuracy: float

    @property
    def note(self) -> str:
        return f"{self.name}, {self.accuracy:.1%} accurate"


class Predictions:
    """What the classifier makes of N images: features (N, 64), class probabilities (N, classes)."""

    def __init__(self, features: Tensor, probabilities: Tensor) -> None:
        self.features, self.probabilities = features, probabilities


def save(network: Classifier, folder: Path, source: Images, test_accuracy: float) -> Path:
    """Write `network`, trained on half of `source`, under its name.

    Raises:
        OSError: the folder can't be written.
    """
    about = {
        "version": VERSION,
        "digest": source.digest,
        "shape": source.shape,
        "classes": len(source.classes),
        "accuracy": round(test_accuracy, 6),
    }
    return shelf.put(folder, _prefix(source), network.state_dict(), about)


def load(path: Path) -> Trained:
    """The classifier at `path`, checked against the hash in its name.

    Raises:
        ValueError: the file isn't the one that it's named for.
    """
    weights, about = shelf.take(path)
    try:
        with torch.inference_mode(False):
            network = Classifier(tuple(about["shape"]), about["classes"])
            network.load_state_dict(weights)
            network = network.folded().to(memory_format=torch.channels_last)  # on a CPU a sixth and a third less time
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no network of this version: {error}") from error
    return Trained(network, path.name.removesuffix(".safetensors"), about["accuracy"])


def find(source: Images, folder: Path) -> Trained | None:
    """The network in `folder` that was trained on half of `source`; None where there is none.

    Raises:
        ValueError: it's damaged.
    """
    found = shelf.every(folder, _prefix(source))
    return load(found[0]) if found else None


def _prefix(source: Images) -> str:
    return f"fd-v{VERSION}-{source.digest[:12]}"


@dataclass(frozen=True)
class FeatureNetwork(Request[Trained]):
    """The dataset's classifier: shipped, kept in the cache, or trained now.

    n/a without labels, or with a single class.
    """

    def resolve(self, context: Context) -> Trained:
        source, test = context.data.source, context.data.test
        if not (source.labelled and test.labelled):
            raise NotAvailable("needs class labels: its features come from a classifier of this dataset")
        if len(source.classes) < 2 or len(source) < 4:
            raise NotAvailable("needs two classes: its features come from a classifier of this dataset")
        some = source.take(torch.arange(min(len(source), 1_000)), "cpu")
        if bool((some == some[:1]).all()):
            raise NotAvailable("the training images are all the same: no classifier tells them apart")
        kept = context.cache / "networks"
        if (found := shelf.found(_prefix(source), SHIPPED, kept, load)) is not None:
            return found
        network = train(source, alive=context.alive)
        right = accuracy(network, test, context.device)
        try:
            return load(save(network, kept, source, right))
        except OSError:
            return Trained(network.folded(), f"{_prefix(source)}-unsaved", right)


@dataclass(frozen=True)
class Predicted(Request[Predictions]):
    """What the dataset's classifier makes of samples from `sampler`, or of reconstructions of all test images."""

    of: Sampler | Literal["reconstructions"] = "prior"

    def resolve(self, context: Context) -> Predictions:
        network = context.get(FeatureNetwork()).network
        pixels = context.get(Reconstructions(n=None) if self.of == "reconstructions" else Generated(self.of))
        return Predictions(*predict(network, pixels, context.device))


def unseen(data: Data) -> Images:
    """Training images that the classifier hasn't seen and nobody scores, at random: as many as are scored, or all."""
    half = halves(len(data.source))[1]
    if data.held is not None:
        half = half[~torch.isin(half, data.held)]
    order = torch.randperm(len(half), generator=torch.Generator().manual_seed(seed_for("unseen")))
    return data.source.subset(half[order[: len(data.test)]])


@dataclass(frozen=True)
class PredictedReal(Request[Predictions]):
    """What the dataset's classifier makes of real images: the scored ones, or training images that it hasn't seen.

    The two share no image, and are of one size where there are enough, so that distances to them carry the same bias of
    finite samples. Of validation images it was trained on half, of the test split on none. Kept between runs.
    """

    split: Literal["test", "train"]

    def resolve(self, context: Context) -> Predictions:
        trained, data = context.get(FeatureNetwork()), context.data
        images = data.test if self.split == "test" else unseen(data)
        path = statistics(context, f"{trained.name}-{images.digest[:16]}-predictions-v2")

        def compute() -> dict[str, Tensor]:
            found = predict(trained.network, images, context.device)
            return dict(zip(("features", "probabilities"), found, strict=True))

        kept = remembered_tensors(path, compute, "features", "probabilities")
        return Predictions(kept["features"], kept["probabilities"])
