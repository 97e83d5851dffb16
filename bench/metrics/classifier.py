"""The small classifier behind `fd` and its kin, and how classifiers are trained.

It is trained on one half of a dataset's own training split, so that the other half can serve as a reference
that it has never seen.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.contracts.images import Images, to_float
from bench.contracts.protocol import seed_for

VERSION = 1  #: of architecture and training together: another number is another network
FEATURES = 64
STEPS = 1_500
BATCH = 128
AT_ONCE = 100  #: images in one pass: more do not fit the processor's caches, and take twice as long


def halves(n: int) -> tuple[Tensor, Tensor]:
    """Return the positions of n images in two fixed random halves, ascending. `Classifier` learns from the first."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for("halves", n)))
    middle = (n + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values


def blocks(pixels: Tensor | Images, size: int, device: torch.device | str) -> Iterator[Tensor]:
    """Yield uint8 images (N, C, H, W) on `device`, `size` at a time."""
    for part in torch.split(torch.arange(len(pixels)), size):
        yield pixels.take(part, device) if isinstance(pixels, Images) else pixels[part].to(device)


class PixelNetwork(nn.Module):
    """A network that classifies uint8 images, standardised by the pixels that it was trained on."""

    mean: Tensor  #: (C, 1, 1)
    std: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("std", torch.ones(shape[0], 1, 1))

    def standardised(self, pixels: Tensor) -> Tensor:
        """Return uint8 (B, C, H, W) as float32, by the mean and the standard deviation of each channel."""
        return (to_float(pixels) - self.mean) / self.std

    @abstractmethod
    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (B, classes) of uint8 images (B, C, H, W)."""


class Classifier(PixelNetwork):
    """Four 3x3 convolutions with batch normalisation, averaged over positions: for any image shape.

    Every layer but the first halves sides above 7 pixels; the first brings them to 32 at most.
    """

    scale: Tensor  #: (64,), standard deviation of each feature over the images that it was trained on

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape)
        channels, *sides = shape
        side = min(sides)
        stem = -(-side // 32)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 2 * stem + 1, stride=stem, padding=stem, bias=False)]
        side = -(-side // stem)
        for before, after in pairwise((16, 32, 64, FEATURES)):
            stride = 2 if side > 7 else 1
            side = -(-side // stride)
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)]
        self.body = nn.Sequential(
            *layers, nn.BatchNorm2d(FEATURES), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("scale", torch.ones(FEATURES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 64), each in units of its `scale`, and logits (B, classes) of uint8 (B, C, H, W)."""
        features = self.body(self.standardised(pixels))
        return features / self.scale, self.head(features)

    def logits(self, pixels: Tensor) -> Tensor:
        return self.forward(pixels)[1]

    def folded(self) -> Classifier:
        """Return the same function in fewer steps: each normalisation becomes part of the convolution before it."""
        other = copy.deepcopy(self).eval().requires_grad_(False)
        layers: list[nn.Module] = []
        for layer in other.body:
            if isinstance(layer, nn.BatchNorm2d):
                layers[-1] = fuse_conv_bn_eval(cast(nn.Conv2d, layers[-1]), layer)
            else:
                layers.append(layer)
        other.body = nn.Sequential(*layers)
        return other


def predict(network: Classifier, pixels: Tensor | Images, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return features (N, 64) and class probabilities (N, classes) on the CPU, in batches of a fixed size."""
    network = network.to(device).eval()
    with torch.inference_mode():
        outputs = [network(block) for block in blocks(pixels, AT_ONCE, device)]
        return torch.cat([f.cpu() for f, _ in outputs]), torch.cat([logits.softmax(1).cpu() for _, logits in outputs])


def accuracy(network: Classifier, images: Images, device: torch.device | str = "cpu") -> float:
    """Return the share of `images` that get their own label."""
    _, probabilities = predict(network, images, device)
    return (probabilities.argmax(1) == images.labels().cpu()).double().mean().item()


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield positions 0..n-1 in whole batches, reshuffled at each pass, without end."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from torch.split(order[: max(n - n % BATCH, min(n, BATCH))], BATCH)


def _shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to a fourteenth of its shorter side, at least a pixel; its border is repeated."""
    n, _, height, width = pixels.shape
    reach = max(1, min(height, width) // 14)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    dy, dx = torch.randint(2 * reach + 1, (2, n, 1), generator=generator)
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


N = TypeVar("N", bound=PixelNetwork)
Augment = Callable[[Tensor, torch.Generator], Tensor]


def fit(
    kind: Callable[[tuple[int, int, int], int], N],
    images: Images,
    seed: int,
    steps: int,
    lr: float,
    alive: Callable[[], None],
    augment: Augment = lambda pixels, _: pixels,
) -> N:
    """Return a new network of a kind, trained on all of `images` on the CPU, by a fixed seed.

    AdamW under a one-cycle schedule, cross-entropy. `alive` is called at every step.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(images.shape, len(images.classes))
        some = to_float(images.take(torch.arange(min(len(images), 10_000))))
        network.mean.copy_(some.mean((0, 2, 3))[:, None, None])
        network.std.copy_(some.std((0, 2, 3))[:, None, None].clamp_min(1e-3))
        optimizer = torch.optim.AdamW(network.train().parameters(), lr=lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
        for index in islice(_batches(len(images), generator), steps):
            alive()
            logits = network.logits(augment(images.take(index), generator))
            loss = F.cross_entropy(logits, images.labels(index))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def train(
    images: Images, *, steps: int = STEPS, replicate: int = 0, alive: Callable[[], None] = lambda: None
) -> Classifier:
    """Return a classifier trained on the first half of `images`, with random shifts.

    Another `replicate` starts from other weights and sees the batches in another order.
    """
    seed = seed_for("classifier", VERSION, replicate) if replicate else seed_for("classifier", VERSION)
    own = images.subset(halves(len(images))[0]).to("cpu")
    network = fit(Classifier, own, seed, steps, 1e-2, alive, _shift)
    spread = predict(network, own, "cpu")[0].std(0)
    network.scale.copy_(spread.clamp_min(0.01 * spread.mean().item()))
    return network
