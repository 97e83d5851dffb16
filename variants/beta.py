"""The β-VAE. Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl."""

from __future__ import annotations

from typing import Annotated, Any

from bench import Range, Spec, Tensor

from .vae import VAE


class BetaVAE(VAE):
    """Descends rec + beta * KL (Higgins et al. 2017, eq. 4); its `elbo` is scored at beta = 1 like everybody's."""

    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the KL"] = 4.0, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.beta = beta

    def weigh(self, kl: Tensor) -> Tensor:
        return self.beta * kl
