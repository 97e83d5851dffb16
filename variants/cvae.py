"""The conditional VAE. Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/5775."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F

from bench import Images, Phase, Range, Spec, Stage, Tensor, Unsuitable
from bench.blocks import Autoencoder, GaussianVAE, gaussian_kl

LEAST = math.log(1e-6)  #: of a class posterior: less likely labels are left out of sums, which costs 1e-5 nat


class Classes(NamedTuple):
    """q(z|x, y) and w(y|x) for K classes and B images."""

    mu: Tensor  #: (K, B, d)
    std: Tensor  #: (K, B, d)
    kl: Tensor  #: (K, B)
    log_w: Tensor  #: (K, B)
    likely: Tensor  #: (K, B), whether w is above the least; also where it isn't a number


class CVAE(GaussianVAE):
    """The label enters encoder and decoder; descends -log p(x|z, y) + KL(q(z|x, y) || p(z)).

    Its bound on log p(x) sums the labels out: with w(y|x) the class posterior that the bound itself implies,

        log p(x) >= E_w[ELBO(x|y)] - KL(w(y|x) || p(y)) = logsumexp_y [log p(y) + ELBO(x|y)],

    p(y) from training labels, no test label used. w is computed at z = mu and the bound from a draw of its own: one
    draw for both would push the logsumexp of a noisy ELBO above the bound. Any w gives a bound: labels that w all but
    rules out are left out.
    """

    uses_labels = True
    log_py: Tensor

    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the KL"] = 1.0, **rest: Any) -> None:
        if not spec.classes:
            raise Unsuitable("it conditions on labels, and this dataset has none")
        super().__init__(spec, **rest)
        self.beta = beta
        self.register_buffer("log_py", torch.full((spec.classes,), -1.0).log_softmax(0))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.loss),), start=self.count_labels),)

    def count_labels(self, train: Images) -> None:
        """p(y) from the training labels, smoothed by one image a class."""
        counts = torch.bincount(train.labels(), minlength=self.spec.classes).float() + 1
        self.log_py.copy_((counts / counts.sum()).log())

    def weigh(self, kl: Tensor) -> Tensor:
        return self.beta * kl

    def context_width(self, spec: Spec) -> int:
        return spec.classes

    def context(self, y: Tensor) -> Tensor:
        return F.one_hot(y, self.spec.classes).float()

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        drawn = torch.multinomial(self.log_py.exp(), len(y), replacement=True)
        return super().sample(torch.where(y < 0, drawn, y), temperature)

    def conditional_elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().elbo_terms(x, y)

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        classes = torch.arange(self.spec.classes, device=y.device)
        given = (classes[:, None] == y).float().log()  # where a label is given, p(y) is all its
        log_py = torch.where(y < 0, self.log_py[:, None], given)  # (K, B)
        every = x.new_full((len(classes), k, len(x)), -torch.inf)
        likely = self.at_mean(x, log_py).likely
        for c in classes[likely.any(1)]:
            some = x[likely[c]]
            every[c, :, likely[c]] = super().log_weights(some, c.expand(len(some)), k)
        return (log_py[:, None] + every).logsumexp(0)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_py = self.log_py[:, None]
        mu, std, kl, log_w, likely = self.at_mean(x, log_py.expand(-1, len(x)))
        c, i = likely.nonzero(as_tuple=True)
        z = mu + torch.randn_like(mu) * std
        drawn = torch.zeros_like(kl)
        drawn[likely] = self.log_px(x[i], z[likely], c)
        w = log_w.masked_fill(~likely, -torch.inf).softmax(0)
        return (w * drawn).sum(0), (w * (kl - log_py) + torch.xlogy(w, w)).sum(0)

    def at_mean(self, x: Tensor, log_py: Tensor) -> Classes:
        """What each class makes of x at its mean code, and the class posterior, of log p(y) (K, B)."""
        every = torch.arange(len(log_py), device=x.device)
        mu, logvar = self.encode_each(x, every)
        kl = gaussian_kl(mu, logvar).sum(-1)
        log_px = torch.stack([self.log_px(x, z, y.expand(len(x))) for z, y in zip(mu, every, strict=True)])
        log_w = (log_py + log_px - kl).log_softmax(0)
        return Classes(mu, (0.5 * logvar).exp(), kl, log_w, ~(log_w < LEAST))

    def encode_each(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x, y) for each y of `labels` (K,): both (K, B, d)."""
        mine = type(self)
        plain = mine.encode_terms is GaussianVAE.encode_terms and mine.encoded is Autoencoder.encoded
        if plain and "each" in vars(type(self.encoder)):  # a subclass's own `forward` isn't what it inherits
            mu, logvar = self.encoder.each(x, self.context(labels)).to(x.dtype).chunk(2, -1)
        else:
            mu, logvar = map(torch.stack, zip(*(self.encode_terms(x, y.expand(len(x))) for y in labels), strict=True))
        return mu, logvar
