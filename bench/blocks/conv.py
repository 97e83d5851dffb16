"""The convolutional backbone: 32-64-128 channels, two stride-2 steps (28 -> 14 -> 7), dense 500; and its mirror image.

Images beyond 32 pixels a side get more stride-2 steps, so that the last grid is at most 8 x 8; up to 16 pixels all
widths are halved.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.blocks.backbone import Backbone, Shape
from bench.blocks.mlp import mlp
from bench.util.errors import Unsuitable


def _width(shape: Shape, at_28: int, width: float = 1.0) -> int:
    return max(1, int(width * at_28 / (2 if max(shape[1:]) <= 16 else 1)))


def _plan(shape: Shape, width: float = 1.0) -> tuple[list[tuple[int, int, Shape]], Shape]:
    """Return (channels, stride, input shape) of each convolution, and the last grid (channels, h, w)."""
    halvings = max(2, math.ceil(math.log2(max(shape[1:]) / 8)))
    if min(shape[1:]) < 2**halvings:
        raise Unsuitable(f"images of {shape[1]} x {shape[2]} are too small for {halvings} stride-2 convolutions")
    strides = [2] * halvings + [1] * max(0, 3 - halvings)
    widths = [_width(shape, w, width) for w in [32, 64] + [128] * (len(strides) - 2)]
    layers, current = [], shape
    for channels, stride in zip(widths, strides, strict=True):
        layers.append((channels, stride, current))
        current = (channels, current[1] // stride, current[2] // stride)
    return layers, current


class Down(nn.Sequential):
    """Convolutions, each followed by an activation: (B, C, H, W) to (B, *grid); `width` scales all channels.

    >>> down = Down((1, 28, 28))
    >>> down.grid, down(torch.rand(5, 1, 28, 28)).shape
    ((128, 7, 7), torch.Size([5, 128, 7, 7]))
    """

    def __init__(self, shape: Shape, *, context: int = 0, slope: float = 0.0, width: float = 1.0) -> None:
        layers: list[nn.Module] = []
        plan, grid = _plan(shape, width)
        for channels, stride, (c, _, _) in plan:
            kernel = 4 if stride == 2 else 3
            conv = nn.Conv2d(c + (0 if layers else context), channels, kernel, stride, padding=1)
            layers += [conv, nn.LeakyReLU(slope) if slope else nn.ReLU()]
        super().__init__(*layers)
        self.grid = grid


class Up(nn.Sequential):
    """The mirror image of `Down`: (B, *grid) to raw outputs (B, C, H, W), odd sizes included.

    >>> up = Up((3, 32, 32))
    >>> up(torch.rand(5, *up.grid)).shape
    torch.Size([5, 3, 32, 32])
    """

    def __init__(self, shape: Shape) -> None:
        layers: list[nn.Module] = []
        plan, grid = _plan(shape)
        for channels, stride, (c, h, w) in reversed(plan):
            if stride == 2:
                odd = (h % 2, w % 2)
                layer: nn.Module = nn.ConvTranspose2d(channels, c, 4, 2, padding=1, output_padding=odd)
            else:
                layer = nn.ConvTranspose2d(channels, c, 3, 1, padding=1)
            layers += [layer, nn.ReLU()]
        super().__init__(*layers[:-1])
        self.grid = grid


class ConvEncoder(nn.Module):
    """(B, C, H, W), (B, context) to (B, out), with context as constant planes.

    `slope` > 0 is that of a leaky ReLU; `width` scales channels and dense units.

    >>> ConvEncoder((1, 28, 28), 4, context=10)(torch.rand(5, 1, 28, 28), torch.zeros(5, 10)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        shape: Shape,
        out: int,
        context: int = 0,
        hidden: tuple[int, ...] | None = None,
        slope: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        hidden = (_width(shape, 500, width),) if hidden is None else hidden
        self.down = Down(shape, context=context, slope=slope, width=width)
        dense = mlp(math.prod(self.down.grid), *hidden, out)
        if slope:
            dense = nn.Sequential(*[nn.LeakyReLU(slope) if isinstance(m, nn.ReLU) else m for m in dense])
        self.dense = dense

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        if c is not None:
            planes = c[:, :, None, None].expand(-1, -1, *x.shape[-2:])
            x = torch.cat([x, planes], 1)
        out: Tensor = self.dense(self.down(x).movedim(1, -1).flatten(1))  # in the order of memory: channels last
        return out


class ConvDecoder(nn.Module):
    """(B, latent), (B, context) to raw outputs (B, C, H, W).

    >>> ConvDecoder(4, (1, 28, 28))(torch.randn(5, 4)).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(self, latent: int, shape: Shape, context: int = 0, hidden: tuple[int, ...] | None = None) -> None:
        super().__init__()
        hidden = (_width(shape, 500),) if hidden is None else hidden
        self.up = Up(shape)
        self.dense = nn.Sequential(mlp(latent + context, *reversed(hidden), math.prod(self.up.grid)), nn.ReLU())

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.dense(z if c is None else torch.cat([z, c], 1))
        channels, height, width = self.up.grid
        out: Tensor = self.up(h.unflatten(1, (height, width, channels)).movedim(-1, 1))
        return out


class Conv(Backbone):
    """32-64-128 channels, two stride-2 steps, dense 500.

    >>> Conv.encoder((3, 32, 32), 4).down.grid
    (128, 8, 8)
    """

    encoder, decoder = ConvEncoder, ConvDecoder
