"""The conditional VAE. Sohn, Lee & Yan 2015, https://papers.nips.cc/paper/5775."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F

from bench import Images, Phase, Range, Spec, Stage, Tensor, Unsuitable
from bench.blocks import GaussianVAE, gaussian_kl


class CVAE(GaussianVAE):
    """The label enters encoder and decoder; descends -log p(x|z, y) + KL(q(z|x, y) || p(z)).

    Its bound on log p(x) sums the labels out: with w(y|x) the class posterior that the bound itself implies,

        log p(x) >= E_w[ELBO(x|y)] - KL(w(y|x) || p(y)) = logsumexp_y [log p(y) + ELBO(x|y)],

    p(y) from training labels, no test label used. w is computed at z = mu and the bound from a draw of its own: one
    draw for both would push the logsumexp of a noisy ELBO above the bound.
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
        every = torch.stack([super(CVAE, self).log_weights(x, torch.full_like(y, c), k) for c in classes])  # (K, k, B)
        known = (classes[:, None] == y).float().log()  # of a label that is given
        log_py = torch.where(y < 0, self.log_py[:, None], known)  # (K, B)
        return (log_py[:, None] + every).logsumexp(0)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        classes = self.spec.classes
        every = torch.arange(classes, device=x.device).repeat_interleave(len(x))  # (K B,)
        xs = x.repeat(classes, 1, 1, 1)
        mu, logvar = self.encode_terms(xs, every)
        kl = gaussian_kl(mu, logvar).sum(-1)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        at_mu, drawn = self.log_px(xs, mu, every), self.log_px(xs, z, every)
        log_w = (self.log_py[:, None] + (at_mu - kl).view(classes, -1)).log_softmax(0)  # (K, B)
        w = log_w.exp()
        rate = kl.view(classes, -1) + log_w - self.log_py[:, None]
        return (w * drawn.view(classes, -1)).sum(0), (w * rate).sum(0)
