"""The small classifier whose features stand behind `fd`, `modes` and `confidence`.

It's trained on one half of a dataset's own training split, so that the other half can serve as a reference
that it has never seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import cast

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
AT_ONCE = 100  #: images that are looked at together: more don't fit the caches, and take twice as long


def halves(n: int) -> tuple[Tensor, Tensor]:
    """The positions of n images in two fixed random halves, ascending. Networks train on the first."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for("halves", n)))
    middle = (n + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values


class Classifier(nn.Module):
    """Four 3x3 convolutions with batch normalisation, averaged over positions: for any image shape.

    Every layer but the first halves sides above 7 pixels; the first brings them to 32 at most.
    """

    mean: Tensor  #: (C, 1, 1), of the pixels that it was trained on
    std: Tensor
    scale: Tensor  #: (64,), standard deviation of each feature over the images that it was trained on

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
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
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.register_buffer("scale", torch.ones(FEATURES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) to features (B, 64), each in units of its `scale`, and logits (B, classes)."""
        features = self.body((to_float(pixels) - self.mean) / self.std)
        return features / self.scale, self.head(features)

    def folded(self) -> Classifier:
        """The same function in fewer steps: each normalisation becomes part of the convolution before it."""
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
    """Features (N, 64) and class probabilities (N, classes) on the CPU, in batches of a fixed size."""
    network = network.to(device).eval()
    found = []
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(pixels)), AT_ONCE):
            block = pixels.take(part, device) if isinstance(pixels, Images) else pixels[part].to(device)
            features, logits = network(block)
            found.append((features.cpu(), logits.softmax(1).cpu()))
    return torch.cat([f for f, _ in found]), torch.cat([p for _, p in found])


def accuracy(network: Classifier, images: Images, device: torch.device | str = "cpu") -> float:
    """Share of `images` that get their own label."""
    _, probabilities = predict(network, images, device)
    return (probabilities.argmax(1) == images.labels().cpu()).double().mean().item()


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions 0..n-1 in whole batches, reshuffled at each pass, without end."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from torch.split(order[: max(n - n % BATCH, min(n, BATCH))], BATCH)


def _shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to a fourteenth of its shorter side, at least a pixel; its border goes on."""
    n, _, height, width = pixels.shape
    reach = max(1, min(height, width) // 14)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    dy, dx = torch.randint(2 * reach + 1, (2, n, 1), generator=generator)
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def train(
    images: Images, *, steps: int = STEPS, replicate: int = 0, alive: Callable[[], None] = lambda: None
) -> Classifier:
    """A classifier trained on the first half of `images`, on the CPU, by fixed seeds.

    AdamW under a one-cycle schedule, cross-entropy, random shifts. `alive` is called at every step. Another `replicate`
    starts elsewhere and sees the batches in another order.
    """
    seed = seed_for("classifier", VERSION, replicate) if replicate else seed_for("classifier", VERSION)
    generator = torch.Generator().manual_seed(seed)
    own = images.subset(halves(len(images))[0]).to("cpu")
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.shape, len(images.classes)).train()
        some = to_float(own.take(torch.arange(min(len(own), 10_000))))
        network.mean.copy_(some.mean((0, 2, 3))[:, None, None])
        network.std.copy_(some.std((0, 2, 3))[:, None, None].clamp_min(1e-3))
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        for _, index in zip(range(steps), _batches(len(own), generator), strict=False):
            alive()
            _, logits = network(_shift(own.take(index), generator))
            loss = F.cross_entropy(logits, own.labels(index))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        spread = predict(network, own, "cpu")[0].std(0)
        network.scale.copy_(spread.clamp_min(0.01 * spread.mean().item()))
    return network.eval().requires_grad_(False)
