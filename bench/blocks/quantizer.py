"""Vector quantisation with a codebook that follows its codes. van den Oord et al. 2017, appendix A.1 (EMA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EMAQuantizer(nn.Module):
    """A codebook of K vectors of size D, moved towards the latents that choose them by exponential averages.

    In training mode `forward` updates the codebook: `codebook = sums / counts`, both averaged with `decay`. If
    `restart` is 1, a code used less than a tenth of the mean moves to a random latent of the batch. It gets the mean's
    weight there, so that it has time to attract latents.

    >>> quantizer = EMAQuantizer(size=16, dim=8).eval()
    >>> codes, index = quantizer(torch.randn(5, 8), restart=torch.tensor(0))
    >>> codes.shape, torch.equal(codes, quantizer.codebook[index])
    (torch.Size([5, 8]), True)
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.size, self.decay = size, decay
        self.register_buffer("codebook", torch.randn(size, dim))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", self.codebook.clone())

    def nearest(self, latents: Tensor) -> Tensor:
        """Return the indices (N,) of the nearest codes of latents (N, D), in Euclidean distance."""
        return (self.codebook.square().sum(1) - 2 * latents @ self.codebook.T).argmin(1)

    def forward(self, latents: Tensor, restart: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (N, D) of latents (N, D), without gradient, and their indices (N,); `restart` is 0-d."""
        with torch.no_grad():
            index = self.nearest(latents)
            codes = F.embedding(index, self.codebook)
            if self.training:
                self._follow(latents, index, restart)
        return codes, index

    def _follow(self, latents: Tensor, index: Tensor, restart: Tensor) -> None:
        use = torch.zeros_like(self.counts).index_add(0, index, torch.ones_like(index, dtype=latents.dtype))
        total = torch.zeros_like(self.sums).index_add(0, index, latents)
        counts = self.counts.lerp(use, 1 - self.decay)
        sums = self.sums.lerp(total, 1 - self.decay)
        mean = counts.mean()
        dead = ((counts < 0.1 * mean) & (restart > 0)).unsqueeze(1)
        fresh = latents[torch.randint(len(latents), (self.size,), device=latents.device)]
        self.sums.copy_(torch.where(dead, fresh * mean, sums))
        self.counts.copy_(torch.where(dead.squeeze(1), mean, counts))
        self.codebook.copy_(self.sums / self.counts.clamp(min=1e-8).unsqueeze(1))

    @torch.no_grad()
    def start(self, latents: Tensor, rounds: int = 10) -> None:
        """Run k-means on latents (N, D) from random ones among them, and start the averages with equal counts."""
        chosen = torch.randint(len(latents), (self.size,), device=latents.device)
        if len(latents) >= self.size:
            chosen = torch.randperm(len(latents), device=latents.device)[: self.size]
        self.codebook.copy_(latents[chosen])
        for _ in range(rounds):
            index = self.nearest(latents)
            use = torch.bincount(index, minlength=self.size).to(latents.dtype)
            total = torch.zeros_like(self.sums).index_add(0, index, latents)
            self.codebook.copy_(torch.where(use[:, None] > 0, total / use.clamp(min=1)[:, None], self.codebook))
        self.counts.fill_(len(latents) / self.size)
        self.sums.copy_(self.codebook * self.counts[:, None])
