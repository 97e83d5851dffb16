"""The Gaussian VAE (Kingma & Welling 2014; Rezende et al. 2014), which most variants extend.

q(z|x) = N(mu(x), diag exp(logvar(x))),   p(z) = N(0, I),   ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from bench.blocks.autoencoder import Autoencoder
from bench.contracts.variant import Batch, Loss, Spec
from bench.plugins.hyperparameters import Range
from bench.util.errors import UsageError


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, diag exp(logvar)) || N(0, I)) for each dimension, in nats. Kingma & Welling 2014, appendix B.

    >>> gaussian_kl(torch.tensor([0.0, 2.0]), torch.zeros(2))
    tensor([0., 2.])
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


class GaussianVAE(Autoencoder):
    """A VAE whose loss is rec + weight * KL, in nats per image; the weight is 1, after a linear warm-up if any.

    >>> model = GaussianVAE(Spec((1, 8, 8), classes=10, size=100, latent_dim=4))
    >>> loss, terms = model.loss(Batch(torch.rand(5, 1, 8, 8), torch.zeros(5), torch.arange(5), torch.tensor(0.0)))
    >>> loss.isclose(terms["rec"] + terms["kl"])
    tensor(True)
    """

    def __init__(
        self,
        spec: Spec,
        *,
        warmup: Annotated[float, Range(0, 0.25), "share of the steps over which the KL's weight rises from 0"] = 0.0,
        **networks: Any,
    ) -> None:
        super().__init__(spec, **networks)
        if warmup and type(self).loss is not GaussianVAE.loss:
            raise UsageError(
                f"{type(self).__name__} has a loss of its own, which ignores the warm-up", fix="Leave out warmup."
            )
        self.warmup = warmup

    def code_width(self) -> int:
        return 2 * self.latent_dim

    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), both (B, d)."""
        mu, logvar = self.encoded(x, y).chunk(2, -1)
        return mu, logvar

    def ramp(self, progress: Tensor) -> Tensor | float:
        """Return the factor of the KL's weight at `progress`: 0 to 1."""
        return (progress / self.warmup).clamp(max=1) if self.warmup else 1.0

    def weigh(self, kl: Tensor) -> Tensor:
        """Return the KL's part of the objective, which most variants change."""
        return kl

    def loss(self, batch: Batch) -> Loss:
        mu, logvar = self.encode_terms(batch.x, batch.y)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        rec = -self.log_px(batch.x, z, batch.y).mean()
        kl = gaussian_kl(mu, logvar).sum(-1).mean()
        return rec + self.ramp(batch.progress) * self.weigh(kl), {"rec": rec, "kl": kl}

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        mu, logvar = self.encode_terms(x, y)
        return Independent(Normal(mu, (0.5 * logvar).exp(), validate_args=False), 1, validate_args=False)

    def log_prior(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encode_terms(x, y)[0]

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        z = temperature * torch.randn(len(y), self.latent_dim, device=y.device)
        return self.decode(z, y)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encode_terms(x, y)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.log_px(x, z, y), gaussian_kl(mu, logvar)

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        q = self.posterior(x, y)
        z = q.rsample((k,))  # (k, B, d)
        many = y.expand(k, -1).flatten()
        out = self.decoded(z.flatten(0, 1), many).view(k, -1, *self.spec.shape)
        log_q: Tensor = q.log_prob(z)
        return self.likelihood.log_prob(x, out) + self.log_prior(z) - log_q
