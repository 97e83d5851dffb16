"""The judge: a second classifier, which names the classes of samples and gives no features to any distance.

It has another architecture than the one behind `fd`, and is trained on the other half of the training split, so that
the two err apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts.images import Images, to_float
from bench.contracts.measurement import Context, Request
from bench.contracts.protocol import seed_for
from bench.evidence import Generated, Sampler
from bench.metrics import shelf
from bench.metrics.classifier import halves
from bench.metrics.histograms import divergence
from bench.util.errors import NotAvailable

VERSION = 1  #: of architecture and training together: another number is another network
WIDTHS = (128, 64)
DROPOUT = 0.2
STEPS = 2_500
BATCH = 128
LR = 3e-3
SHIPPED = Path(__file__).parent / "networks"


class Judge(nn.Module):
    """A perceptron of two hidden layers over standardised pixels: for any image shape."""

    mean: Tensor  #: (C, 1, 1), of the pixels that it was trained on
    std: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        wide, narrow = WIDTHS
        self.body = nn.Sequential(
            *(nn.Flatten(), nn.Linear(channels * height * width, wide), nn.GELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(wide, narrow), nn.GELU(), nn.Dropout(DROPOUT)),
            nn.Linear(narrow, classes),
        )
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to logits (B, classes)."""
        logits: Tensor = self.body((to_float(pixels) - self.mean) / self.std)
        return logits


def judge(network: Judge, pixels: Tensor | Images, device: torch.device | str = "cpu") -> Tensor:
    """Class probabilities (N, classes) on the CPU, in batches of a fixed size."""
    network = network.to(device).eval()
    found = []
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(pixels)), 500):
            block = pixels.take(part, device) if isinstance(pixels, Images) else pixels[part].to(device)
            found.append(network(block).softmax(1).cpu())
    return torch.cat(found)


def right(network: Judge, images: Images, device: torch.device | str = "cpu") -> Tensor:
    """Which of `images` get their own label: (N,) bool."""
    return judge(network, images, device).argmax(1) == images.labels().cpu()


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions 0..n-1 in whole batches, reshuffled at each pass, without end."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from torch.split(order[: max(n - n % BATCH, min(n, BATCH))], BATCH)


def train(images: Images, *, steps: int = STEPS, alive: Callable[[], None] = lambda: None) -> Judge:
    """A judge trained on all of `images`, on the CPU, by fixed seeds, its weights rounded to half precision.

    AdamW under a one-cycle schedule, cross-entropy, dropout. `alive` is called at every step.
    """
    seed = seed_for("judge", VERSION)
    generator = torch.Generator().manual_seed(seed)
    own = images.to("cpu")
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Judge(images.shape, len(images.classes)).train()
        some = to_float(own.take(torch.arange(min(len(own), 10_000))))
        network.mean.copy_(some.mean((0, 2, 3))[:, None, None])
        network.std.copy_(some.std((0, 2, 3))[:, None, None].clamp_min(1e-3))
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
        for _, index in zip(range(steps), _batches(len(own), generator), strict=False):
            alive()
            loss = F.cross_entropy(network(own.take(index)), own.labels(index))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.half().float().eval().requires_grad_(False)


@dataclass(frozen=True)
class TrainedJudge:
    """A judge, the name of its file, and how it does on real images that it hasn't seen."""

    network: Judge
    name: str
    accuracy: float  #: on the half of the training split that it wasn't trained on
    error: float  #: KL(its histogram || the true one) on that half, nats: what its errors alone do to a histogram

    @property
    def note(self) -> str:
        return f"{self.name}, {self.accuracy:.1%} accurate on unseen training images"


def trained_on(source: Images, *, alive: Callable[[], None] = lambda: None) -> TrainedJudge:
    """A judge of `source`, trained on its second half and tried on its first."""
    first, second = halves(len(source))
    network = train(source.subset(second), alive=alive)
    seen, labels = judge(network, source.subset(first)).argmax(1), source.labels(first, "cpu")
    counts, true = (torch.bincount(of, minlength=len(source.classes)) for of in (seen, labels))
    # a class that it sees and that isn't there has no finite divergence: count one image more of each
    error = divergence(counts + 1, true + 1)
    return TrainedJudge(network, f"{_prefix(source)}-unsaved", (seen == labels).double().mean().item(), error)


def save(trained: TrainedJudge, folder: Path, source: Images) -> Path:
    """Write a judge of `source` under its name.

    Raises:
        OSError: the folder can't be written.
    """
    about = {
        "shape": source.shape,
        "classes": len(source.classes),
        "accuracy": round(trained.accuracy, 6),
        "error": round(trained.error, 9),
    }
    weights = {name: value.half() for name, value in trained.network.state_dict().items()}
    return shelf.put(folder, _prefix(source), weights, about)


def load(path: Path) -> TrainedJudge:
    """The judge at `path`, checked against the hash in its name.

    Raises:
        ValueError: the file isn't the one that it's named for, or holds no judge of this version.
    """
    weights, about = shelf.take(path)
    try:
        with torch.inference_mode(False):
            network = Judge(tuple(about["shape"]), about["classes"])
            network.load_state_dict({name: value.float() for name, value in weights.items()})
            accuracy, error = float(about["accuracy"]), float(about["error"])
    except (KeyError, TypeError, RuntimeError) as error_:
        raise ValueError(f"{path} holds no judge of this version: {error_}") from error_
    name = path.name.removesuffix(".safetensors")
    return TrainedJudge(network.eval().requires_grad_(False), name, accuracy, error)


def find(source: Images, folder: Path) -> TrainedJudge | None:
    """The judge of `source` in `folder`; None where there is none.

    Raises:
        ValueError: it's damaged.
    """
    found = shelf.every(folder, _prefix(source))
    return load(found[0]) if found else None


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
        _check(source)
        found = self._found(context)
        tried = halves(len(source))[0]
        chance = torch.bincount(source.labels(tried, "cpu")).max().item() / len(tried)
        if found.accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / len(tried)):
            raise NotAvailable(
                f"the classifier of this dataset is {found.accuracy:.1%} accurate, and naming its commonest class "
                f"{chance:.1%}: it can't judge samples"
            )
        return found

    def _found(self, context: Context) -> TrainedJudge:
        source, kept = context.data.source, context.cache / "networks"
        if (found := shelf.found(_prefix(source), SHIPPED, kept, load)) is not None:
            return found
        fresh = trained_on(source, alive=context.alive)
        try:
            return load(save(fresh, kept, source))
        except OSError:
            return fresh


def _check(source: Images) -> None:
    if not source.labelled:
        raise NotAvailable("needs class labels: a classifier of this dataset judges the samples")
    if len(source.classes) < 2 or len(source) < 4:
        raise NotAvailable("needs two classes: a classifier of this dataset judges the samples")
    some = source.take(torch.arange(min(len(source), 1_000)), "cpu")
    if bool((some == some[:1]).all()):
        raise NotAvailable("the training images are all the same: no classifier tells them apart")


@dataclass(frozen=True)
class Judged(Request[Tensor]):
    """The judge's class probabilities for samples: (n, classes)."""

    sampler: Sampler = "prior"

    def resolve(self, context: Context) -> Tensor:
        return judge(context.get(TheJudge()).network, context.get(Generated(self.sampler)), context.device)
