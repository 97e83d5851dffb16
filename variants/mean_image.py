"""The mean image for everything: what a model comes to whose decoder knows nothing of its code."""

from __future__ import annotations

from typing import ClassVar

import torch

from bench import Decodes, Encodes, Images, Spec, Stage, Tensor, Variant, to_float

HALVINGS = 60  #: of an interval of raw outputs
LIMIT = 100.0  #: of raw outputs: a continuous Bernoulli would charge a pixel that was always dark millions of nats
SEEN = 1_000  #: images that a scale is fitted on: its error is far below the bound's own


class MeanImage(Variant):
    """p(x) has the mean of the training images, pixel by pixel, under the run's own likelihood; fitted, not trained.

    A bound of rate 0, and where every VAE ends whose posterior collapses: a row below it has learned nothing. The
    mean is smoothed by half a grey level, one image's worth, so that no pixel is impossible.
    """

    lacks: ClassVar[dict[type, str]] = {
        Encodes: "it keeps nothing of an image",
        Decodes: "it has no codes",
    }
    out: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.likelihood = spec.make_likelihood().requires_grad_(False)
        self.register_buffer("out", torch.zeros(spec.shape))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(start=self.fit),)

    def fit(self, train: Images) -> None:
        """Raw outputs whose mean is the training images', and the scale of the likelihood, where it has one."""
        total = torch.zeros(self.spec.shape, dtype=torch.float64, device=self.out.device)
        for part in torch.split(torch.arange(len(train)), 4096):
            total += to_float(train.take(part)).sum(0)
        self.out.copy_(self.outputs((total + 0.5) / (len(train) + 1)))
        scale = list(self.likelihood.parameters())
        if not scale:
            return
        some = to_float(train.take(torch.randperm(len(train))[:SEEN]))
        search = torch.optim.LBFGS(scale, max_iter=100, line_search_fn="strong_wolfe")

        def descend() -> Tensor:
            search.zero_grad()
            loss = -self.log_px(some).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self.likelihood.requires_grad_(True)
        search.step(descend)  # type: ignore[no-untyped-call]
        self.likelihood.requires_grad_(False)

    def outputs(self, mean: Tensor) -> Tensor:
        """Where the likelihood's location, which rises with its raw output, is `mean`: by halving the interval."""
        low, high = torch.full_like(mean, -LIMIT), torch.full_like(mean, LIMIT)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = self.likelihood.location(middle) < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def log_px(self, x: Tensor) -> Tensor:
        """log p(x), (B, C, H, W) to (B,), in nats."""
        return self.likelihood.log_prob(x, self.out.expand_as(x))

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_px(x), torch.zeros(len(x), device=x.device)

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        return self.log_px(x).expand(k, -1)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.likelihood.mean(self.out).repeat(len(y), 1, 1, 1)
