"""The small baseline: a non-saturating GAN. Goodfellow et al. 2014; the shape of Radford et al. 2016, no BatchNorm.

Two things keep it from collapsing within so few steps: a spectrally normalised critic (Miyato et al. 2018), and
averaged weights of the generator (Yazıcı et al. 2019).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from bench import Batch, Bound, Encodes, Loss, Optimizer, Phase, Range, Spec, Stage, Tensor, Variant
from bench.blocks import ConvDecoder, ConvEncoder, spectral_norm


class GAN(Variant):
    """A generator as large as `conv`'s decoder and a critic as large as its encoder, one update of each a step.

    The critic descends softplus(-D(x)) + softplus(D(G(z))), the generator softplus(-D(G(z))). An untuned anchor.
    """

    lacks: ClassVar[dict[type, str]] = {
        Bound: "an implicit model: it has no likelihood and no posterior, so there is no bound",
        Encodes: "an implicit model: it has no encoder",
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent_dim: Annotated[int | None, Range(1, 1_000_000), "size of z"] = None,
        lr: Annotated[float, Range(0, exclusive=True), "learning rate of both players"] = 2e-4,
        ema: Annotated[float, Range(0, 1), "decay of the average of the generator's weights"] = 0.998,
        backbone: Annotated[Literal["conv"], "networks"] = "conv",
    ) -> None:
        super().__init__(spec)
        self.latent_dim = latent_dim or spec.latent_dim
        self.lr, self.ema = lr, ema
        self.generator = ConvDecoder(self.latent_dim, spec.shape)
        self.critic = ConvEncoder(spec.shape, 1, slope=0.2)
        for layer in self.critic.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)

    def stages(self) -> tuple[Stage, ...]:
        adam = Optimizer("adam", lr=self.lr, betas=(0.5, 0.999))
        return (
            Stage((
                Phase(self.critic_loss, (self.critic,), adam, descends=False),
                Phase(self.generator_loss, (self.generator,), replace(adam, ema=self.ema), descends=False),
            )),
        )  # fmt: skip

    def critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            fake = self.sample(batch.y)
        real, fake = self.judge(torch.cat([batch.x, fake])).chunk(2)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss, {"critic": loss}

    def generator_loss(self, batch: Batch) -> Loss:
        loss = F.softplus(-self.judge(self.sample(batch.y))).mean()
        return loss, {"generator": loss}

    def judge(self, x: Tensor) -> Tensor:
        """The critic's logits, (B, C, H, W) to (B, 1): high for real images."""
        out: Tensor = self.critic(x)
        return out.to(x.dtype)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        z = temperature * torch.randn(len(y), self.latent_dim, device=y.device)
        return self.decode(z, y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.generator(z)
        return out.to(z.dtype).sigmoid()
