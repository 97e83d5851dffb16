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


class VampPrior(GaussianVAE):
    """Tomczak & Welling 2018, eq. 9: the prior is the mixture of posteriors at learned pseudo-inputs."""

    def __init__(self, spec: Spec, *, inputs: Annotated[int, Range(1), "pseudo-inputs"] = 10, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.pseudo = nn.Parameter(torch.randn(inputs, *spec.shape))

    def mixture(self) -> tuple[Tensor, Tensor]:
        none = torch.full((len(self.pseudo),), -1, device=self.pseudo.device)
        return self.encode_terms(self.pseudo.sigmoid(), none)

    def log_prior(self, z: Tensor) -> Tensor:
        mu, logvar = self.mixture()
        each = -0.5 * ((z[..., None, :] - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)).sum(-1)
        return each.logsumexp(-1) - math.log(len(mu))

    def drawn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.posterior(x, y)
        z = q.rsample()
        rate: Tensor = q.log_prob(z) - self.log_prior(z)
        return self.log_px(x, z, y), rate

    def loss(self, batch: Batch) -> Loss:
        log_px, rate = self.drawn(batch.x, batch.y)
        rec, kl = -log_px.mean(), rate.mean()
        return rec + kl, {"rec": rec, "kl": kl}

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.drawn(x, y)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        mu, logvar = self.mixture()
        which = torch.randint(len(mu), (len(y),), device=y.device)
        z = mu[which] + temperature * torch.randn_like(mu[which]) * (0.5 * logvar[which]).exp()
        return self.decode(z, y)


class PlanarFlow(GaussianVAE):
    """Rezende & Mohamed 2015: a posterior bent by planar maps, whose density is known for its own draws alone."""

    def __init__(self, spec: Spec, *, flows: Annotated[int, Range(1), "planar maps"] = 4, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.u, self.w = (nn.Parameter(0.1 * torch.randn(flows, self.latent_dim)) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(flows))

    def flow(self, x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """k draws of z and log q(z|x): (k, B, d), (k, B)."""
        mu, logvar = self.encode_terms(x, y)
        e = torch.randn(k, *mu.shape, device=mu.device)
        z, log_q = mu + e * (0.5 * logvar).exp(), -0.5 * (e.square() + logvar + math.log(2 * math.pi)).sum(-1)
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            inner = w @ u
            u = u + (F.softplus(inner) - 1 - inner) * w / w.square().sum()
            h = torch.tanh(z @ w + b)
            log_q = log_q - (1 + (1 - h.square()) * (w @ u)).log()
            z = z + u * h[..., None]
        return z, log_q

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = self.flow(x, y, 1)
        return self.log_px(x, z[0], y), log_q[0] - self.log_prior(z[0])

    def loss(self, batch: Batch) -> Loss:
        log_px, rate = self.elbo_terms(batch.x, batch.y)
        rec, kl = -log_px.mean(), rate.mean()
        return rec + kl, {"rec": rec, "kl": kl}

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        z, log_q = self.flow(x, y, k)
        return torch.stack([self.log_px(x, one, y) for one in z]) + self.log_prior(z) - log_q

    posterior = None  # type: ignore[assignment]  # it has no density at a given z


class TwoLayers(Variant):
    """A hierarchy z2 -> z1 -> x with q(z1|x) q(z2|z1): a rate for each layer, codes of the first."""

    def __init__(self, spec: Spec, *, latent_dim: Annotated[int | None, Range(1), "size of z1"] = None) -> None:
        super().__init__(spec)
        d, pixels = latent_dim or spec.latent_dim, math.prod(spec.shape)
        self.latent_dim, self.likelihood = d, spec.make_likelihood()
        self.up, self.upper = mlp(pixels, 100, 2 * d), mlp(d, 50, 2 * d)
        self.middle, self.down = mlp(d, 50, 2 * d), mlp(d, 100, pixels)

    def raw(self, z: Tensor) -> Tensor:
        out: Tensor = self.down(z)
        return out.view(-1, *self.spec.shape)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu1, logvar1 = self.up(x.flatten(1)).chunk(2, -1)
        z1 = mu1 + torch.randn_like(mu1) * (0.5 * logvar1).exp()
        mu2, logvar2 = self.upper(z1).chunk(2, -1)
        z2 = mu2 + torch.randn_like(mu2) * (0.5 * logvar2).exp()
        m, v = self.middle(z2).chunk(2, -1)
        kl1 = 0.5 * (v - logvar1 + ((mu1 - m).square() + logvar1.exp()) / v.exp() - 1).sum(-1)
        return self.likelihood.log_prob(x, self.raw(z1)), torch.stack([kl1, gaussian_kl(mu2, logvar2).sum(-1)], 1)

    def loss(self, batch: Batch) -> Loss:
        log_px, rate = self.elbo_terms(batch.x, batch.y)
        rec, kl = -log_px.mean(), rate.sum(1).mean()
        return rec + kl, {"rec": rec, "kl": kl, "kl_upper": rate[:, 1].mean()}

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        mu: Tensor = self.up(x.flatten(1)).chunk(2, -1)[0]
        return mu

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.raw(z))

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        m, v = self.middle(torch.randn(len(y), self.latent_dim, device=y.device)).chunk(2, -1)
        return self.decode(m + temperature * torch.randn_like(m) * (0.5 * v).exp(), y)


class Gumbel(Variant):
    """Jang, Gu & Poole 2017: categorical codes, relaxed in training with a falling temperature, exact when scored."""

    def __init__(self, spec: Spec, *, variables: Annotated[int, Range(1), "categorical variables"] = 6) -> None:
        super().__init__(spec)
        self.variables, self.codebook_size, pixels = variables, 8, math.prod(spec.shape)
        self.encoder, self.decoder = mlp(pixels, 100, variables * 8), mlp(variables * 8, 100, pixels)
        self.likelihood = spec.make_likelihood()

    def log_q(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x.flatten(1))
        return out.view(-1, self.variables, 8).log_softmax(-1)

    def raw(self, onehot: Tensor) -> Tensor:
        out: Tensor = self.decoder(onehot.flatten(1))
        return out.view(-1, *self.spec.shape)

    def loss(self, batch: Batch) -> Loss:
        log_q = self.log_q(batch.x)
        gumbel = -torch.rand_like(log_q).clamp(1e-6, 1 - 1e-6).log().neg().log()
        soft = ((log_q + gumbel) / (1 - 0.5 * batch.progress)).softmax(-1)
        relaxed = -self.likelihood.log_prob(batch.x, self.raw(soft)).mean()
        kl = (log_q.exp() * (log_q + math.log(8))).sum((1, 2)).mean()
        return relaxed + kl, {"relaxed": relaxed, "kl": kl}

    def codes(self, x: Tensor) -> Tensor:
        return self.log_q(x).argmax(-1)

    def onehot(self, k: Tensor) -> Tensor:
        return F.one_hot(k, 8).float()

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_q = self.log_q(x)
        k = torch.multinomial(log_q.exp().flatten(0, 1), 1).view(len(x), -1)
        return self.likelihood.log_prob(x, self.raw(self.onehot(k))), (log_q.exp() * (log_q + math.log(8))).sum(-1)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.onehot(self.codes(x)).flatten(1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.raw(z))

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        k = torch.randint(8, (len(y), self.variables), device=y.device)
        return self.decode(self.onehot(k).flatten(1), y)


class VAEGAN(GaussianVAE):
    """Larsen et al. 2016: three players; reconstruction in the critic's features, no likelihood of pixels descended."""

    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.features, self.head = mlp(math.prod(spec.shape), 64), nn.Linear(64, 1)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((
            Phase(self.encoder_loss, (self.encoder,)),
            Phase(self.decoder_loss, (self.decoder,), descends=False),
            Phase(self.critic_loss, (self.features, self.head), descends=False),
            *([Phase(super().loss, (self.likelihood,))] if any(True for _ in self.likelihood.parameters()) else []),
        )),)  # fmt: skip

    def seen(self, x: Tensor) -> Tensor:
        return torch.tanh(self.features(x.flatten(1)))

    def parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar = self.encode_terms(batch.x, batch.y)
        decoded = self.decode(mu + torch.randn_like(mu) * (0.5 * logvar).exp(), batch.y)
        like = 0.5 * (self.seen(decoded) - self.seen(batch.x)).square().sum(1).mean()
        return decoded, self.sample(batch.y), like, gaussian_kl(mu, logvar).sum(1).mean()

    def encoder_loss(self, batch: Batch) -> Loss:
        _, _, like, kl = self.parts(batch)
        return like + kl, {"like": like, "kl": kl}

    def decoder_loss(self, batch: Batch) -> Loss:
        decoded, sampled, like, _ = self.parts(batch)
        fooling = sum(F.softplus(-self.head(self.seen(x))).mean() for x in (decoded, sampled))
        return 0.1 * like + fooling, {"fooling": torch.as_tensor(fooling)}

    def critic_loss(self, batch: Batch) -> Loss:
        decoded, sampled, _, _ = self.parts(batch)
        fakes = sum(F.softplus(self.head(self.seen(x))).mean() for x in (decoded, sampled))
        loss = F.softplus(-self.head(self.seen(batch.x))).mean() + fakes
        return loss, {"critic": loss}


RIGHT = (
    IWAE, BetaTC, FactorVAE, AAE, SigmaVAE, Noisy, OnlySamples, VampPrior, PlanarFlow, TwoLayers, Gumbel, VAEGAN,
)  # fmt: skip
