"""The matrix limit: the products and convolutions of one step, forward and backward, and nothing between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .clock import Clock
from .networks import BATCH, Network

Product = Callable[[], object]


def products(network: Network, device: torch.device, precision: str, channels_last: bool) -> list[Product]:
    """All products of a step; the first layer needs no gradient of its input."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layers: list[tuple[nn.Module, Tensor, Tensor]] = []

    def seen(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        def drawn(t: Tensor) -> Tensor:
            layout = torch.channels_last if channels_last and t.ndim == 4 else torch.contiguous_format
            return torch.randn(t.shape, device=device, dtype=dtype).to(memory_format=layout)

        layers.append((module, drawn(inputs[0]), drawn(output)))

    matrices = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [m.register_forward_hook(seen) for m in matrices]
    with torch.no_grad():
        network.logits(network.posterior(torch.zeros(BATCH, 1, 28, 28))[0])
    for hook in hooks:
        hook.remove()
    made: list[Product] = []
    for i, (module, x, dy) in enumerate(layers):
        made += _products(module, x, dy, first=i == 0)
    return made


def _products(module: nn.Module, x: Tensor, dy: Tensor, first: bool) -> list[Product]:
    assert isinstance(module.weight, Tensor)
    w = module.weight.detach().to(x)
    if isinstance(module, nn.Linear):
        y, dw, dx = torch.empty_like(dy), torch.empty_like(w), torch.empty_like(x)
        forward: Product = lambda: torch.mm(x, w.t(), out=y)  # noqa: E731
        back: list[Product] = [lambda: torch.mm(dy.t(), x, out=dw)]
        return [forward, *back] if first else [forward, *back, lambda: torch.mm(dy, w, out=dx)]
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    if x.is_contiguous(memory_format=torch.channels_last):
        w = w.to(memory_format=torch.channels_last)
    transposed, outward = isinstance(module, nn.ConvTranspose2d), list(module.output_padding)
    shape = (list(module.stride), list(module.padding), [1, 1], transposed, outward, 1)  # type: ignore[arg-type]
    return [
        lambda: torch.ops.aten.convolution(x, w, None, *shape),
        lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *shape, [not first, True, False]),
    ]


def operations(network: Network) -> int:
    """Floating-point operations of the products of one step."""
    step = products(network, torch.device("cpu"), "fp32", False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for product in step:
            product()
    return int(counter.get_total_flops())


@torch.no_grad()
def train(network: Network, clock: Clock, *, precision: str, channels_last: bool) -> None:
    """Multiply until the clock says so."""
    step = products(network, clock.device, precision, channels_last)
    while True:
        for product in step:
            product()
        if clock.tick():
            return
