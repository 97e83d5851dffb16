"""The deterministic autoencoder that VAEs are contrasted with."""

from __future__ import annotations

from typing import ClassVar

from bench import Batch, Bound, Loss, Samples, Tensor
from bench.blocks import Autoencoder


class AE(Autoencoder):
    """Descends -log p(x|z) at z = encoder(x): no noise, no prior, no bound."""

    lacks: ClassVar[dict[type, str]] = {
        Bound: "deterministic encoder: q(z|x) has no density, so there is no bound",
        Samples: "no prior over its codes; the mixture sampler's columns have one fitted afterwards",
    }

    def loss(self, batch: Batch) -> Loss:
        rec = -self.log_likelihood(batch.x, batch.y).mean()
        return rec, {"rec": rec}

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encoded(x, y)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_px(x, self.encode(x, y), y)
