"""Probabilistic principal component analysis. Tipping & Bishop 1999, JRSS B 61(3)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from bench import Bound, Images, Range, Reconstructs, Spec, Stage, Tensor, Unsuitable, Variant, Weighs, to_float

LARGEST = 4096  #: dimensions whose covariance is decomposed in seconds
ROUNDING = 1 / (12 * 255**2)  #: variance that rounding to 256 levels leaves in a pixel: no image has less noise


class PPCA(Variant):
    """x = W z + mu + noise of variance sigma^2, z ~ N(0, I): what a linear model makes of as large a code.

    The maximum of its likelihood in closed form (eq. 7 and 8), from the covariance's eigenvalues l and eigenvectors U:
    W = U (l - sigma^2)^(1/2), sigma^2 the mean of those left out, or what the likelihood fixes. The posterior is
    N(W'(x - mu) / l, sigma^2 / l), so the bound is log p(x) itself. It's a Gaussian model: under another likelihood it
    is fitted, encodes, decodes and samples as ever, and has no bound.
    """

    mean: Tensor  # (D,)
    components: Tensor  # (d, D), the rows of W'
    eigenvalues: Tensor  # (d,), l, and sigma^2 where that is larger
    variance: Tensor  # 0-d, sigma^2
    lacks: ClassVar[dict[type, str]] = {}

    def __init__(
        self, spec: Spec, *, latent_dim: Annotated[int | None, Range(1, 1_000_000), "size of z"] = None
    ) -> None:
        super().__init__(spec)
        self.latent_dim, pixels = latent_dim or spec.latent_dim, math.prod(spec.shape)
        if pixels > LARGEST:
            raise Unsuitable(f"a covariance of {pixels:,} pixels takes too long to decompose")
        if self.latent_dim >= pixels:
            raise Unsuitable(f"{self.latent_dim} components of {pixels} pixels leave nothing for the noise")
        likelihood = spec.make_likelihood()
        learned = getattr(likelihood, "log_sigma", None)  # a Gaussian's
        self.fixed = None if learned is None or isinstance(learned, nn.Parameter) else float(learned.exp())
        if learned is None:
            reason = f"a Gaussian model: it has no likelihood of {spec.likelihood} pixels"
            self.lacks = dict.fromkeys((Bound, Reconstructs, Weighs), reason)  # type: ignore[misc]
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(self.latent_dim, pixels))
        self.register_buffer("eigenvalues", torch.ones(self.latent_dim))
        self.register_buffer("variance", torch.ones(()))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(start=self.fit),)

    @torch.no_grad()
    def fit(self, train: Images) -> None:
        mean, covariance = moments(train, self.mean.device)
        eigenvalues, vectors = torch.linalg.eigh(covariance)  # in ascending order
        rest, largest = eigenvalues[: -self.latent_dim], eigenvalues[-self.latent_dim :].flip(0)
        variance = rest.mean().clamp(min=ROUNDING) if self.fixed is None else torch.tensor(self.fixed**2)
        spread = (largest - variance).clamp(min=0)
        self.mean.copy_(mean)
        self.components.copy_(spread.sqrt()[:, None] * vectors[:, -self.latent_dim :].flip(1).T)
        self.eigenvalues.copy_(spread + variance)
        self.variance.copy_(variance)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.flatten(1) - self.mean) @ self.components.T / self.eigenvalues

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        mu = self.encode(x, y)
        scale = (self.variance / self.eigenvalues).sqrt().expand_as(mu)
        return Independent(Normal(mu, scale, validate_args=False), 1, validate_args=False)

    def log_prior(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return (self.mean + z @ self.components).clamp(0, 1).view(-1, *self.spec.shape)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * torch.randn(len(y), self.latent_dim, device=y.device), y)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """E_q[log p(x|z)] and the KL in closed form: their difference is log p(x), without noise."""
        mu, shrunk = self.encode(x, y), self.variance / self.eigenvalues
        error = (x.flatten(1) - self.mean - mu @ self.components).square().sum(1)
        error = error + (shrunk * self.components.square().sum(1)).sum()  # E |W (z - mu)|^2
        log_px = -0.5 * (error / self.variance + self.mean.numel() * (2 * math.pi * self.variance).log())
        return log_px, 0.5 * (mu.square() + shrunk - 1 - shrunk.log())

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        log_px, rate = self.elbo_terms(x, y)
        return (log_px - rate.sum(1)).expand(k, -1)  # the posterior is exact: every draw has the same weight


def moments(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of the pixels, over N: float64."""
    pixels = math.prod(images.shape)
    total = torch.zeros(pixels, dtype=torch.float64, device=device)
    square = torch.zeros(pixels, pixels, dtype=torch.float64, device=device)
    for part in torch.split(torch.arange(len(images)), 2048):
        x = to_float(images.take(part, device)).flatten(1) - 0.5  # so that float32 products lose little
        total += x.double().sum(0)
        square += x.T @ x
    mean = total / len(images)
    return mean + 0.5, square / len(images) - mean.outer(mean)
