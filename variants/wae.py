"""The Wasserstein autoencoder with an MMD penalty. Tolstikhin et al. 2018, https://arxiv.org/abs/1711.01558."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch

from bench import Batch, Bound, Loss, Phase, Range, Spec, Stage, Tensor
from bench.blocks import imq, mmd2

from .ae import AE


class WAE(AE):
    """WAE-MMD: 0.05 * SSE + lambda * MMD(q(z), N(0, I)), deterministic encoder, the source's seven IMQ scales.

    The weight of 0.05 is the source's; lambda = 10 stands against it, and would be inert against nats of BCE.
    """

    lacks: ClassVar[dict[type, str]] = {Bound: AE.lacks[Bound]}

    def __init__(
        self,
        spec: Spec,
        *,
        mmd_weight: Annotated[float, Range(0), "lambda, weight of the MMD"] = 10.0,
        cost_scale: Annotated[float, Range(0), "weight of the squared error"] = 0.05,
        **rest: Any,
    ) -> None:
        super().__init__(spec, **rest)
        self.mmd_weight, self.cost_scale = mmd_weight, cost_scale

    def stages(self) -> tuple[Stage, ...]:
        phases = [Phase(self.loss, (self.encoder, self.decoder))]
        if any(True for _ in self.likelihood.parameters()):  # a learned scale: fitted, but no part of the objective
            phases.append(Phase(super().loss, (self.likelihood,)))
        return (Stage(tuple(phases)),)

    def loss(self, batch: Batch) -> Loss:
        z = self.encode(batch.x, batch.y)
        out = self.decoded(z, batch.y)
        sse = (batch.x - self.likelihood.location(out)).square().flatten(1).sum(1).mean()
        mmd = mmd2(z, torch.randn_like(z), imq)
        rec = -self.likelihood.log_prob(batch.x, out).mean()
        return self.cost_scale * sse + self.mmd_weight * mmd, {"rec": rec.detach(), "sse": sse, "mmd": mmd}

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * torch.randn(len(y), self.latent_dim, device=y.device), y)
