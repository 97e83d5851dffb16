"""The vector-quantised VAE with a learned prior. van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import nn

from bench import Batch, Images, Loss, Phase, Range, Spec, Stage, Tensor, Variant, to_float
from bench.blocks import CausalTransformer, Down, EMAQuantizer, Up


class VQVAE(Variant):
    """Codes on a grid, then an autoregressive prior over them as a second stage, with as many steps as the first.

    Stage 1 descends -log p(x|z_q) + commitment * mean over latents of ||z_e - sg(z_q)||^2 with an EMA codebook; stage 2
    the code length of the frozen codes. Rate = that code length: log p(x) >= log p(x|z_q) + log p(k).
    """

    def __init__(
        self,
        spec: Spec,
        *,
        codes: Annotated[int | None, Range(1, 65536), "K, size of the codebook"] = None,
        code_dim: Annotated[int, Range(1), "size of a code vector"] = 64,
        commitment: Annotated[float, Range(0), "weight of ||z_e - sg(z_q)||^2, averaged over latents"] = 0.25,
        decay: Annotated[float, Range(0, 1), "of the codebook's moving averages"] = 0.99,
        prior_width: Annotated[int | None, Range(1), "width of each of the prior's 4 attention heads"] = None,
        prior_layers: Annotated[int | None, Range(1), "layers of the prior's transformer"] = None,
        backbone: Annotated[Literal["conv"], "networks"] = "conv",
    ) -> None:
        super().__init__(spec)
        side = max(spec.shape[1:])
        small = side <= 16
        self.codes_ = self.codebook_size = codes or (32 if small else 256 if side <= 28 or spec.shape[0] == 1 else 512)
        down = Down(spec.shape)
        width, h, w = self.grid = down.grid
        self.encoder = nn.Sequential(down, nn.Conv2d(width, code_dim, 1))
        self.decoder = nn.Sequential(nn.Conv2d(code_dim, width, 1), nn.ReLU(), Up(spec.shape))
        self.quantizer = EMAQuantizer(self.codebook_size, code_dim, decay)
        self.likelihood = spec.make_likelihood()
        self.prior_width = prior_width or (4 if small else 32)
        self.prior_layers = prior_layers or (1 if small else 2)
        sizes = {"width": 4 * self.prior_width, "layers": self.prior_layers, "heads": 4}
        self.prior = CausalTransformer(self.codebook_size, h * w, dropout=0.1, **sizes)
        self.code_dim, self.commitment = code_dim, commitment

    def stages(self) -> tuple[Stage, ...]:
        codec = (self.encoder, self.decoder, self.quantizer, self.likelihood)
        return (
            Stage((Phase(self.loss, codec),), start=self.start_codebook),
            Stage((Phase(self.prior_loss, (self.prior,)),)),
        )

    def latents(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B h w, D)."""
        z: Tensor = self.encoder(x)
        return z.movedim(1, -1).flatten(0, 2).to(x.dtype)

    def render(self, vectors: Tensor) -> Tensor:
        """Code vectors (B h w, D) to raw outputs (B, C, H, W)."""
        out: Tensor = self.decoder(vectors.reshape(-1, *self.grid[1:], vectors.shape[-1]).movedim(-1, 1))
        return out.to(vectors.dtype)

    def look_up(self, k: Tensor) -> Tensor:
        """Indices (B, L) to code vectors (B h w, D)."""
        return self.quantizer.codebook[k.flatten()]

    @torch.no_grad()
    def start_codebook(self, train: Images) -> None:
        some = train.take(torch.randint(len(train), (min(512, len(train)),)), self.quantizer.codebook.device)
        self.quantizer.start(self.latents(to_float(some)))

    def loss(self, batch: Batch) -> Loss:
        z_e = self.latents(batch.x)
        z_q, _ = self.quantizer(z_e, batch.progress < 0.8)
        out = self.render(z_e + (z_q - z_e).detach())  # straight through
        rec = -self.likelihood.log_prob(batch.x, out).mean()
        commit = (z_e - z_q).square().sum(1).mean()
        return rec + self.commitment * commit, {"rec": rec, "commit": commit}

    def prior_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            k = self.codes(batch.x)
        rate = self.prior.code_length(k).sum(1).mean()
        return rate, {"rate": rate}

    def codes(self, x: Tensor) -> Tensor:
        return self.quantizer.nearest(self.latents(x)).view(len(x), -1)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.look_up(self.codes(x)).view(len(x), -1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.render(z.reshape(-1, self.code_dim)))

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        k = self.codes(x)
        return self.likelihood.log_prob(x, self.render(self.look_up(k))), self.prior.code_length(k)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.likelihood.mean(self.render(self.look_up(self.prior.sample(len(y), temperature))))
