"""The bare tensor loop: uint8 images in memory, taken by a permutation and scaled by the batch; fused Adam; no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from .clock import Clock
from .networks import BATCH, RATE, Network


def neg_elbo(network: Network, x: Tensor) -> Tensor:
    """Nats per image."""
    mu, logvar = network.posterior(x)
    z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
    rec = F.binary_cross_entropy_with_logits(network.logits(z), x, reduction="sum")
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
    return (rec + kl) / len(x)


def batches(pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of images in [0, 1], with their positions."""
    while True:
        for index in torch.randperm(len(pixels), device=pixels.device).split(BATCH):
            if len(index) == BATCH:
                yield pixels[index].float().div_(255), index


def descend(
    loss: Callable[[Tensor, Tensor], Tensor],
    parameters: Iterable[nn.Parameter],
    pixels: Tensor,
    clock: Clock,
    precision: str = "fp32",
) -> None:
    """Descend a loss of images and their positions until the clock says so."""
    optimizer = optim.Adam(parameters, lr=RATE, fused=True)
    autocast = torch.autocast(clock.device.type, torch.bfloat16, enabled=precision == "bf16")
    for x, index in batches(pixels):
        optimizer.zero_grad()
        with autocast:
            value = loss(x, index)
        value.backward()
        optimizer.step()
        if clock.tick():
            return


def train(
    network: Network, pixels: Tensor, clock: Clock, *, channels_last: bool, precision: str, compiled: bool
) -> Network:
    """Train until the clock says so; `pixels` (N, 1, 28, 28) uint8."""
    network, pixels = network.to(clock.device), pixels.to(clock.device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = torch.compile(neg_elbo) if compiled else neg_elbo
    descend(lambda x, _: loss(network, x), network.parameters(), pixels, clock, precision)
    return network
