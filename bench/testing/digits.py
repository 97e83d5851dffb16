"""Real digits that variants are checked on, and means over draws under several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts.images import Images, to_float, to_uint8
from bench.contracts.protocol import seed_for
from bench.contracts.variant import Batch, Spec
from bench.testing.kit import seeded

N = 64  # images to train and to measure on

SPECS = (
    Spec((1, 8, 8), 10, N, 8),
    Spec((1, 28, 28), 10, N, 20),
    Spec((1, 20, 24), 0, N, 20),
    Spec((3, 32, 32), 10, N, 128, "logistic"),
    Spec((1, 8, 8), 10, N, 8, "gaussian[sigma=0.3,learned=true]"),
)
"""The specs that every variant is built for; all other checks use the first one that the variant accepts."""


@cache
def digits(spec: Spec) -> Images:
    """Return N real handwritten digits, scaled and tinted to the shape of `spec`, with labels if it has classes."""
    from sklearn.datasets import load_digits  # here, because the import takes seconds

    source = load_digits()
    grey = torch.tensor(source.images[:N], dtype=torch.float32)[:, None] / 16
    c, h, w = spec.shape
    scaled = grey if (h, w) == (8, 8) else F.interpolate(grey, (h, w), mode="bilinear")
    tint = torch.linspace(1, 0.5, c)[:, None, None] if c > 1 else torch.ones(1, 1, 1)
    labels = torch.tensor(source.target[:N]) % spec.classes if spec.classes else None
    return Images(to_uint8(scaled * tint), labels, tuple(map(str, range(spec.classes))))


def batch_of(spec: Spec, n: int = N) -> Batch:
    """Return the first n digits of `spec` as a batch at the end of its stage."""
    index, images = torch.arange(n), digits(spec)
    return Batch(to_float(images.take(index)), images.labels(index), index, torch.tensor(1.0))


def select(batch: Batch, at: Tensor) -> Batch:
    """Return the images of a batch at the positions `at`."""
    return Batch(batch.x[at], batch.y[at], batch.index[at], batch.progress)


def draws(draw: Callable[[], Mapping[str, Tensor]], times: int = 20) -> dict[str, Tensor]:
    """Call `draw` under `times` seeds; return its tensors stacked: (times, ...), float64."""
    results = []
    for seed in range(times):
        with seeded(seed_for("draw", seed)):
            results.append({k: v.detach().double() for k, v in draw().items()})
    return {k: torch.stack([one[k] for one in results]) for k in results[0]}


@dataclass(frozen=True)
class Mean:
    """A mean over draws and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, drawn: Tensor) -> Mean:
        return cls(float(drawn.mean()), float(drawn.std()) / len(drawn) ** 0.5)

    def agrees(self, other: Mean, relative: float) -> bool:
        """Return whether the means differ by at most 5 standard errors plus `relative` of the larger one."""
        noise = 5 * (self.error**2 + other.error**2) ** 0.5
        return bool(abs(self.value - other.value) <= noise + relative * max(abs(self.value), abs(other.value)) + 1e-4)

    def __str__(self) -> str:
        return f"{self.value:.4g}"
