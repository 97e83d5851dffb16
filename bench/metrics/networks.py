"""The dataset's trained classifier, and its features of samples and real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Request
from bench.contracts.protocol import seed_for
from bench.evidence import Generated, Reconstructions, Sampler
from bench.metrics import shelf
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.classifier import VERSION, Classifier, accuracy, halves, predict, train
from bench.util.errors import NotAvailable


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier, the name of its file, and its accuracy on the test split."""

    network: Classifier
    name: str
    accuracy: float

    @property
    def note(self) -> Note:
        """The note of every score on its features."""
        text = f"features of the classifier {self.name}, accuracy {{accuracy}} %"
        return Note(text, "feature_network", {"accuracy": 100 * self.accuracy})


class Predictions(NamedTuple):
    """The classifier's features (N, 64) and class probabilities (N, classes) of N images."""

    features: Tensor
    probabilities: Tensor


def save(network: Classifier, folder: Path, source: Images, test_accuracy: float) -> Path:
    """Write `network`, trained on half of `source`. Raises OSError if the folder cannot be written."""
    about = {
        "version": VERSION,
        "digest": source.digest,
        "shape": source.shape,
        "classes": len(source.classes),
        "accuracy": round(test_accuracy, 6),
    }
    return shelf.put(folder, _prefix(source), network.state_dict(), about)


def load(path: Path) -> TrainedClassifier:
    """Return the classifier at `path`. Raises ValueError if the file is damaged or of another version."""
    network, about = shelf.restore(path, Classifier)
    folded = network.folded().to(memory_format=torch.channels_last)  # on a CPU a sixth and a third less time
    return TrainedClassifier(folded, path.name.removesuffix(".safetensors"), about["accuracy"])


def find(source: Images, folder: Path) -> TrainedClassifier | None:
    """Return the classifier in `folder` that was trained on half of `source`, if any. Raises ValueError like `load`."""
    paths = shelf.files(folder, _prefix(source))
    return load(paths[0]) if paths else None


def _prefix(source: Images) -> str:
    return f"fd-v{VERSION}-{source.digest[:12]}"


@dataclass(frozen=True)
class FeatureNetwork(Request[TrainedClassifier]):
    """The dataset's classifier: shipped, kept in the cache, or trained now.

    n/a without labels, or with a single class.
    """

    def resolve(self, context: Context) -> TrainedClassifier:
        source, test = context.data.source, context.data.test
        if not test.labelled:
            raise NotAvailable("needs class labels: it uses a classifier of this dataset")
        shelf.require_classes(source)

        def trained() -> TrainedClassifier:
            network = train(source, alive=context.alive)
            return TrainedClassifier(network, f"{_prefix(source)}-unsaved", accuracy(network, test, context.device))

        def write(fresh: TrainedClassifier, folder: Path) -> Path:
            return save(fresh.network, folder, source, fresh.accuracy)

        return shelf.obtain(_prefix(source), context.cache, load, trained, write)


@dataclass(frozen=True)
class Predicted(Request[Predictions]):
    """The classifier's predictions for samples from `of`, or for reconstructions of all test images."""

    of: Sampler | Literal["reconstructions"] = "prior"

    def resolve(self, context: Context) -> Predictions:
        network = context.get(FeatureNetwork()).network
        pixels = context.get(Reconstructions(n=None) if self.of == "reconstructions" else Generated(self.of))
        return Predictions(*predict(network, pixels, context.device))


def unseen(data: Data) -> Images:
    """Return random training images that the classifier has not seen and no score is of: as many as the test split."""
    half = halves(len(data.source))[1]
    if data.held is not None:
        half = half[~torch.isin(half, data.held)]
    order = torch.randperm(len(half), generator=torch.Generator().manual_seed(seed_for("unseen")))
    return data.source.subset(half[order[: len(data.test)]])


@dataclass(frozen=True)
class PredictedReal(Request[Predictions]):
    """The classifier's predictions for the test split, or for `unseen` training images. Kept between runs.

    The two share no image, and are of one size where there are enough, so that distances to them carry the same bias of
    finite samples. The classifier was trained on half of any validation images, on no test image.
    """

    split: Literal["test", "train"]

    def resolve(self, context: Context) -> Predictions:
        trained, data = context.get(FeatureNetwork()), context.data
        images = data.test if self.split == "test" else unseen(data)
        path = statistics(context, f"{trained.name}-{images.digest[:16]}-predictions-v2")

        def compute() -> dict[str, Tensor]:
            return Predictions(*predict(trained.network, images, context.device))._asdict()

        tensors = remembered_tensors(path, compute, "features", "probabilities")
        return Predictions(tensors["features"], tensors["probabilities"])
