"""A small causal transformer over a sequence of symbols: an autoregressive prior p(k) = prod_t p(k_t | k_<t)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]  # keys and values so far, (B, heads, t, d)


class _Layer(nn.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        q, k, v = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        h = h + F.dropout(self.out(a.transpose(1, 2).flatten(2)), self.dropout, self.training)
        h = h + F.dropout(self.mlp(self.norm2(h)), self.dropout, self.training)
        return h, (k, v)


class CausalTransformer(nn.Module):
    """p(k) over sequences of `length` symbols from 0..size-1; each position sees a start symbol and those before it.

    >>> prior = CausalTransformer(size=16, length=4, width=8)
    >>> k = prior.sample(5)
    >>> k.shape, prior.code_length(k).shape
    (torch.Size([5, 4]), torch.Size([5, 4]))
    """

    def __init__(
        self, size: int, length: int, *, width: int = 128, layers: int = 2, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.size, self.length = size, length
        self.embed = nn.Embedding(size + 1, width)  # the last is the start symbol
        self.position = nn.Parameter(torch.zeros(length, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size)

    def forward(self, k: Tensor) -> Tensor:
        """Return the logits (B, T, size) of each symbol of k (B, T) given those before it."""
        shifted = F.pad(k[:, :-1], (1, 0), value=self.size)
        h = self.embed(shifted) + self.position
        for block in self.blocks:
            h, _ = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def code_length(self, k: Tensor) -> Tensor:
        """Return -log p(k_t | k_<t) for each position: (B, T) to (B, T), in nats."""
        return F.cross_entropy(self(k).transpose(1, 2), k, reduction="none")

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """Draw n sequences (n, T) by ancestral sampling."""
        device = self.position.device
        k = torch.full((n, 1), self.size, device=device)
        caches: list[Cache | None] = [None] * len(self.blocks)
        drawn = []
        for t in range(self.length):
            h = self.embed(k) + self.position[t]
            for i, block in enumerate(self.blocks):
                h, caches[i] = block(h, caches[i])
            logits = self.head(self.norm(h[:, -1])) / temperature
            k = torch.multinomial(logits.softmax(-1), 1)
            drawn.append(k)
        return torch.cat(drawn, 1)
