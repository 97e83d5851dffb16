"""Correct variants of other kinds than the first-party ones: the kit must pass them all."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Batch, Loss, Phase, Range, Spec, Stage, Unsuitable, Variant
from bench.blocks import GaussianVAE, gaussian_kl, mlp


class IWAE(GaussianVAE):
    """Burda, Grosse & Salakhutdinov 2016, eq. 8."""

    def __init__(self, spec: Spec, *, k: Annotated[int, Range(1), "importance samples"] = 5, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.k = k

    def loss(self, batch: Batch) -> Loss:
        log_w = self.log_weights(batch.x, batch.y, self.k)
        loss = -(log_w.logsumexp(0) - math.log(self.k)).mean()
        return loss, {"iwae": loss}


class BetaTC(GaussianVAE):
    """Chen et al. 2018, eq. 4, by minibatch-weighted sampling (S.2)."""

    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the TC"] = 6.0, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.beta = beta

    def loss(self, batch: Batch) -> Loss:
        mu, logvar = self.encode_terms(batch.x, batch.y)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        each = -0.5 * ((z[:, None] - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi))  # (B, B, d)
        log_nm = math.log(len(z) * self.spec.size)
        log_qz = each.sum(2).logsumexp(1) - log_nm
        log_qzj = (each.logsumexp(1) - log_nm).sum(1)
        tc = (log_qz - log_qzj).mean()
        rec, kl = -self.log_px(batch.x, z, batch.y).mean(), gaussian_kl(mu, logvar).sum(1).mean()
        return rec + kl + (self.beta - 1) * tc, {"rec": rec, "kl": kl, "tc": tc}


class FactorVAE(GaussianVAE):
    """Kim & Mnih 2018, algorithm 2: the density-ratio trick."""

    def __init__(self, spec: Spec, *, gamma: Annotated[float, Range(0), "weight of the TC"] = 6.0, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.gamma = gamma
        self.critic = mlp(self.latent_dim, 64, 64, 1)

    def stages(self) -> tuple[Stage, ...]:
        vae = Phase(self.loss, (self.encoder, self.decoder, self.likelihood))
        return (Stage((vae, Phase(self.critic_loss, (self.critic,), descends=False))),)

    def loss(self, batch: Batch) -> Loss:
        mu, logvar = self.encode_terms(batch.x, batch.y)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        rec, kl = -self.log_px(batch.x, z, batch.y).mean(), gaussian_kl(mu, logvar).sum(1).mean()
        tc = self.critic(z).mean()
        return rec + kl + self.gamma * tc, {"rec": rec, "kl": kl, "tc": tc}

    def critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            z = self.posterior(batch.x, batch.y).sample()
            mixed = torch.stack([column[torch.randperm(len(z), device=z.device)] for column in z.T], 1)
        loss = F.softplus(-self.critic(z)).mean() + F.softplus(self.critic(mixed)).mean()
        return loss, {"critic": loss}


class AAE(Variant):
    """Makhzani et al. 2016: the encoder is moved by the reconstruction and, against a critic, by a phase of its own."""

    def __init__(self, spec: Spec, *, latent_dim: Annotated[int | None, Range(1), "size of z"] = None) -> None:
        super().__init__(spec)
        self.latent_dim = latent_dim or spec.latent_dim
        pixels = math.prod(spec.shape)
        self.encoder, self.decoder = mlp(pixels, 100, self.latent_dim), mlp(self.latent_dim, 100, pixels)
        self.critic, self.likelihood = mlp(self.latent_dim, 64, 1), spec.make_likelihood()

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((
            Phase(self.loss, (self.encoder, self.decoder, self.likelihood)),
            Phase(self.critic_loss, (self.critic,), descends=False),
            Phase(self.fooling_loss, (self.encoder,), descends=False),
        )),)  # fmt: skip

    def loss(self, batch: Batch) -> Loss:
        rec = -self.log_likelihood(batch.x, batch.y).mean()
        return rec, {"rec": rec}

    def critic_loss(self, batch: Batch) -> Loss:
        z = self.encode(batch.x, batch.y).detach()
        loss = F.softplus(-self.critic(torch.randn_like(z))).mean() + F.softplus(self.critic(z)).mean()
        return loss, {"critic": loss}

    def fooling_loss(self, batch: Batch) -> Loss:
        loss = F.softplus(-self.critic(self.encode(batch.x, batch.y))).mean()
        return loss, {"fooling": loss}

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.encoder(x.flatten(1))
        return z

    def raw(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(z)
        return out.view(-1, *self.spec.shape)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.raw(z))

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.raw(self.encode(x, y)))

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * torch.randn(len(y), self.latent_dim, device=y.device), y)


class SigmaVAE(GaussianVAE):
    """Rybkin, Daniilidis & Levine 2021: a Gaussian likelihood with a learned sigma, and no other."""

    def __init__(self, spec: Spec, **rest: Any) -> None:
        if not spec.likelihood.startswith("gaussian"):
            raise Unsuitable("it learns the sigma of a Gaussian likelihood: --likelihood 'gaussian[learned=true]'")
        super().__init__(spec, **rest)


class Noisy(GaussianVAE):
    """BatchNorm and dropout in both networks, and a linear warm-up."""

    def __init__(self, spec: Spec, *, warmup: Annotated[float, Range(0, 0.25), "share"] = 0.2, **rest: Any) -> None:
        super().__init__(spec, warmup=warmup, **rest)
        self.front = nn.Sequential(nn.BatchNorm2d(spec.shape[0]), nn.Dropout(0.1))
        self.back = nn.Sequential(nn.BatchNorm1d(self.latent_dim), nn.Dropout(0.1))

    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode_terms(self.front(x), y)

    def log_px(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.decoder(self.back(z)))

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.decoder(self.back(z)))

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        q = self.posterior(x, y)
        z = q.rsample((k,))
        log_px = torch.stack([self.log_px(x, one, y) for one in z])
        log_q: Tensor = q.log_prob(z)
        return log_px + self.log_prior(z) - log_q


class OnlySamples(Variant):
    """The least that can be scored: one learned image and pixel noise of one learned size."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.image, self.size = nn.Parameter(torch.zeros(spec.shape)), nn.Parameter(torch.ones(()))

    def loss(self, batch: Batch) -> Loss:
        error = (batch.x - self.draw(len(batch.x))).square().flatten(1).sum(1).mean()
        return error, {}

    def draw(self, n: int) -> Tensor:
        return self.image + self.size * torch.randn(n, *self.spec.shape, device=self.image.device)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.draw(len(y)).clamp(0, 1)


RIGHT = (IWAE, BetaTC, FactorVAE, AAE, SigmaVAE, Noisy, OnlySamples)
