"""The multilayer perceptron of Kingma & Welling 2014, with ReLU: 784-400-20-400-784."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.blocks.backbone import Backbone, Shape


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them.

    >>> mlp(64, 16, 4)(torch.rand(5, 64)).shape
    torch.Size([5, 4])
    """
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """(B, C, H, W), (B, context) to (B, out), with one hidden layer of 400 by default.

    >>> MLPEncoder((1, 8, 8), 4)(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(self, shape: Shape, out: int, context: int = 0, hidden: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.layers = mlp(math.prod(shape) + context, *((400,) if hidden is None else hidden), out)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        flat = x.flatten(1)
        out: Tensor = self.layers(flat if c is None else torch.cat([flat, c], 1))
        return out

    def each(self, x: Tensor, contexts: Tensor) -> Tensor:
        """Encode all images with each of K contexts, (B, C, H, W) and (K, context) to (K, B, out).

        Equals `forward` with one context after the other, but applies the first layer to the images only once.
        """
        first, width = self.layers[0], contexts.shape[1]
        if not isinstance(first, nn.Linear) or type(first).forward is not nn.Linear.forward:
            return torch.stack([self(x, c.expand(len(x), -1)) for c in contexts])
        h = first(F.pad(x.flatten(1), (0, width)))
        out: Tensor = self.layers[1:](h + F.linear(contexts, first.weight[:, -width:])[:, None])
        return out


class MLPDecoder(nn.Module):
    """(B, latent), (B, context) to raw outputs (B, C, H, W), with one hidden layer of 400 by default.

    >>> MLPDecoder(4, (1, 8, 8))(torch.randn(5, 4)).shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(self, latent: int, shape: Shape, context: int = 0, hidden: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.layers = mlp(latent + context, *reversed((400,) if hidden is None else hidden), math.prod(shape))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(z if c is None else torch.cat([z, c], 1))
        return out.view(-1, *self.shape)


class MLP(Backbone):
    """One hidden layer of 400 on each side; `hidden=none` makes both networks linear.

    >>> len(MLP.encoder((1, 8, 8), 4, hidden=()).layers)
    1
    """

    encoder, decoder = MLPEncoder, MLPDecoder
