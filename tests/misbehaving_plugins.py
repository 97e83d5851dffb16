"""Plugins that misbehave, and how a test installs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import Batch, Loss, Spec, Variant
from bench.contracts.variant import VARIANTS
from bench.plugins.entry import Entry
from bench.plugins.registry import Registry


class Mean(Variant):
    """An honest small model: it says one learned image, whatever it sees."""

    def __init__(self, spec: Spec, *, scale: float = 1.0) -> None:
        super().__init__(spec)
        self.scale = scale
        self.logits = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        rec = -self.log_likelihood(batch.x, batch.y).mean()
        return self.scale * rec, {"rec": rec}

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return self.spec.make_likelihood().log_prob(x, self.logits.expand_as(x))

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.logits.sigmoid().expand(len(y), *self.spec.shape)


class Raises(Mean):
    """Raises in the third step."""

    seen = 0

    def loss(self, batch: Batch) -> Loss:
        self.seen += 1
        if self.seen == 3:
            raise RuntimeError("the third step is too much for me")
        return super().loss(batch)


class Diverges(Mean):
    """Its loss becomes NaN at a third of the way."""

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        return loss + torch.where(batch.progress > 0.33, torch.nan, 0.0), terms


class Interrupted(Mean):
    """Somebody presses Ctrl-C in its third step."""

    seen = 0

    def loss(self, batch: Batch) -> Loss:
        self.seen += 1
        if self.seen == 3:
            raise KeyboardInterrupt
        return super().loss(batch)


class Unbuildable(Mean):
    """Its constructor raises."""

    def __init__(self, spec: Spec) -> None:
        raise ZeroDivisionError("no")


def install(monkeypatch: pytest.MonkeyPatch, registry: Registry[Any] = VARIANTS, **plugins: str) -> None:
    """Let names stand for objects ('module:name') as if a distribution had brought them."""
    entries = [Entry(name, "strangers", "1.0", value) for name, value in plugins.items()]
    monkeypatch.setitem(registry.__dict__, "entries", [*registry.entries, *entries])


Install = Callable[..., None]
