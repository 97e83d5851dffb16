"""The textbook loop: https://github.com/pytorch/examples/blob/main/vae/main.py, over torchvision's own dataset."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, optim
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from .clock import Clock
from .networks import BATCH, RATE, Network, TwoHeads


class InMemory(MNIST):
    """torchvision's dataset, of images that are given: each becomes a PIL image, and by `ToTensor` a tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:  # the original's would look for files
        self.data, self.targets = pixels.squeeze(1), labels
        self.transform, self.target_transform = ToTensor(), None


def loss_function(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    bce = F.binary_cross_entropy(recon_x, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def forward(model: TwoHeads, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = model.posterior(x)
    std = torch.exp(0.5 * logvar)
    return model.decode(mu + torch.randn_like(std) * std), mu, logvar


def train(network: Network, pixels: Tensor, labels: Tensor, clock: Clock, workers: int) -> TwoHeads:
    """Train until the clock says so; `pixels` (N, 1, 28, 28) uint8 on the CPU."""
    device = clock.device
    model = TwoHeads(network).to(device)
    cuda = device.type == "cuda"
    loader = DataLoader(InMemory(pixels, labels), BATCH, shuffle=True, num_workers=workers, pin_memory=cuda)
    optimizer = optim.Adam(model.parameters(), lr=RATE)
    model.train()
    while True:
        train_loss = 0.0
        for data, _ in loader:
            data = data.to(device)
            optimizer.zero_grad()
            recon, mu, logvar = forward(model, data)
            loss = loss_function(recon, data, mu, logvar)
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
            if clock.tick():
                return model
