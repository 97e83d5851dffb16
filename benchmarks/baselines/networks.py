"""The two networks that everybody trains, in plain torch; and what a trained one is asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT, BATCH, RATE = 20, 128, 1e-3  #: size of z, images a step, Adam's learning rate


class Network(nn.Module):
    """An encoder of images (B, 1, 28, 28) to mu and logvar (B, 2 * LATENT), a decoder of z (B, LATENT) to logits."""

    def __init__(self, encoder: list[nn.Module], decoder: list[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder(x).chunk(2, -1)
        return mu, logvar

    def logits(self, z: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z)
        return logits


def vae() -> Network:
    """784-400-20-400-784. The PyTorch example's, after Kingma & Welling 2014."""
    return Network(
        [nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 2 * LATENT)],
        [nn.Linear(LATENT, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, (1, 28, 28))],
    )


def conv() -> Network:
    """1-32-64-128 channels, two stride-2 steps, dense 500; mirrored."""
    down = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 1, 1)]
    up = [nn.ConvTranspose2d(128, 64, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()]
    up += [nn.ConvTranspose2d(32, 1, 4, 2, 1)]
    inner = 128 * 7 * 7
    return Network(
        [*down, nn.ReLU(), nn.Flatten(), nn.Linear(inner, 500), nn.ReLU(), nn.Linear(500, 2 * LATENT)],
        [nn.Linear(LATENT, 500), nn.ReLU(), nn.Linear(500, inner), nn.ReLU(), nn.Unflatten(1, (128, 7, 7)), *up],
    )


NETWORKS: dict[str, Callable[[], Network]] = {"vae": vae, "conv": conv}


class TwoHeads(nn.Module):
    """A network as it's commonly written: a layer each for mu and logvar, and pixels through a sigmoid."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        *trunk, last = network.encoder
        assert isinstance(last, nn.Linear)
        self.trunk = nn.Sequential(*trunk)
        self.mu, self.logvar = (nn.Linear(last.in_features, LATENT) for _ in range(2))
        with torch.no_grad():
            for head, weight, bias in zip(
                (self.mu, self.logvar), last.weight.chunk(2), last.bias.chunk(2), strict=True
            ):
                head.weight.copy_(weight)
                head.bias.copy_(bias)
        self.decoder = network.decoder

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.mu(h), self.logvar(h)

    def logits(self, z: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z)
        return logits

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(z))


@torch.no_grad()
def held_out(model: Network | TwoHeads, x: Tensor) -> float:
    """-ELBO in nats per image of `x` (B, 1, 28, 28), with the same noise for whoever is asked."""
    mu, logvar = model.posterior(x)
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0)).to(mu.device)
    rec = F.binary_cross_entropy_with_logits(model.logits(mu + noise * (0.5 * logvar).exp()), x, reduction="sum")
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
    return (rec + kl).item() / len(x)
