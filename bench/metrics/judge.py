"""The judge: a second classifier, which names the classes of samples and gives no features to any distance.

It has another architecture than the classifier behind `fd`, and learns from the other half of the training split, so
that their errors differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.contracts.images import Images
from bench.contracts.measurement import Context, Note, Request
from bench.contracts.protocol import seed_for
from bench.evidence import Generated, Sampler
from bench.metrics import shelf
from bench.metrics.classifier import PixelNetwork, blocks, fit, halves
from bench.util.errors import NotAvailable

VERSION = 1  #: of architecture and training together: another number is another network
WIDTHS = (128, 64)
DROPOUT = 0.2
STEPS = 2_500


class Judge(PixelNetwork):
    """A perceptron of two hidden layers over standardised pixels: for any image shape."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape)
        wide, narrow = WIDTHS
        self.body = nn.Sequential(
            *(nn.Flatten(), nn.Linear(math.prod(shape), wide), nn.GELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(wide, narrow), nn.GELU(), nn.Dropout(DROPOUT)),
            nn.Linear(narrow, classes),
        )

    def logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.body(self.standardised(pixels))
        return logits


def judge(network: Judge, pixels: Tensor | Images, device: torch.device | str = "cpu") -> Tensor:
    """Return class probabilities (N, classes) on the CPU, in batches of a fixed size."""
    network = network.to(device).eval()
    with torch.inference_mode():
        return torch.cat([network.logits(block).softmax(1).cpu() for block in blocks(pixels, 500, device)])


def right(network: Judge, images: Images, device: torch.device | str = "cpu") -> Tensor:
    """Return which of `images` get their own label: (N,) bool."""
    return judge(network, images, device).argmax(1) == images.labels().cpu()


def train(images: Images, *, steps: int = STEPS, alive: Callable[[], None] = lambda: None) -> Judge:
    """Return a judge trained on all of `images`, its weights rounded to half precision."""
    network = fit(Judge, images.to("cpu"), seed_for("judge", VERSION), steps, 3e-3, alive)
    return network.half().float()


def divergence(counts: Tensor, reference: Tensor) -> float:
    """Return KL(p || q) of two histograms given as counts (K,), in nats; inf where p has a class that q lacks."""
    p, q = counts.double() / counts.sum(), reference.double() / reference.sum()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


@dataclass(frozen=True)
class TrainedJudge:
    """A judge, the name of its file, and its errors on the half of the training split that it has not seen."""

    network: Judge
    name: str
    accuracy: float
    error: float  #: KL(histogram of its classes || true histogram), nats: the part of `class_kl` that is its own error

    @property
    def note(self) -> Note:
        """The note of every score that uses its classes."""
        text = f"classes by the judge {self.name}, accuracy {{accuracy}} % on unseen training images"
        return Note(text, "judge", {"accuracy": 100 * self.accuracy})


def trained_on(source: Images, *, alive: Callable[[], None] = lambda: None) -> TrainedJudge:
    """Return a judge trained on the second half of `source` and tested on the first."""
    first, second = halves(len(source))
    network = train(source.subset(second), alive=alive)
    seen, labels = judge(network, source.subset(first)).argmax(1), source.labels(first, "cpu")
    counts, true = (torch.bincount(of, minlength=len(source.classes)) for of in (seen, labels))
    # a class that it sees where none is has no finite divergence: count one image more of each
    error = divergence(counts + 1, true + 1)
    return TrainedJudge(network, f"{_prefix(source)}-unsaved", (seen == labels).double().mean().item(), error)


def save(trained: TrainedJudge, folder: Path, source: Images) -> Path:
    """Write a judge of `source`. Raises OSError if the folder cannot be written."""
    about = {
        "shape": source.shape,
        "classes": len(source.classes),
        "accuracy": round(trained.accuracy, 6),
        "error": round(trained.error, 9),
    }
    weights = {name: value.half() for name, value in trained.network.state_dict().items()}
    return shelf.put(folder, _prefix(source), weights, about)


def load(path: Path) -> TrainedJudge:
    """Return the judge at `path`. Raises ValueError if the file is damaged or of another version."""
    network, about = shelf.restore(path, Judge)
    return TrainedJudge(network, path.name.removesuffix(".safetensors"), about["accuracy"], about["error"])


def find(source: Images, folder: Path) -> TrainedJudge | None:
    """Return the judge of `source` in `folder`, if any. Raises ValueError like `load`."""
    paths = shelf.files(folder, _prefix(source))
    return load(paths[0]) if paths else None


def _prefix(source: Images) -> str:
    return f"judge-v{VERSION}-{source.digest[:12]}"


@dataclass(frozen=True)
class TheJudge(Request[TrainedJudge]):
    """The dataset's judge: shipped, kept in the cache, or trained now.

    n/a without labels, with a single class, where all images are the same, or where its accuracy on images that it
    hasn't seen may be chance: within three standard errors of the commonest class's share.
    """

    def resolve(self, context: Context) -> TrainedJudge:
        source = context.data.source
        shelf.require_classes(source)
        trained = shelf.obtain(
            _prefix(source),
            context.cache,
            load,
            lambda: trained_on(source, alive=context.alive),
            lambda fresh, folder: save(fresh, folder, source),
        )
        tested = halves(len(source))[0]
        chance = torch.bincount(source.labels(tested, "cpu")).max().item() / len(tested)
        if trained.accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / len(tested)):
            raise NotAvailable(
                f"the classifier of this dataset can't judge samples: it is {trained.accuracy:.1%} accurate, and "
                f"always naming the commonest class would be {chance:.1%}"
            )
        return trained


@dataclass(frozen=True)
class Judged(Request[Tensor]):
    """The judge's class probabilities for samples: (n, classes)."""

    sampler: Sampler = "prior"

    def resolve(self, context: Context) -> Tensor:
        return judge(context.get(TheJudge()).network, context.get(Generated(self.sampler)), context.device)
