"""Spectral normalisation: a layer whose largest singular value is 1. Miyato et al. 2018, algorithm 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization


class SpectralNorm(nn.Module):
    """W / sigma(W), sigma by one step of power iteration at each use in training.

    As `torch.nn.utils.parametrizations.spectral_norm`, but that it changes its vectors in place and without `out=`: so
    it can be stacked over seeds.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, first: int = 15) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns), dim=0))
        for _ in range(first):
            self.iterate(weight.flatten(1))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One step of power iteration on W (rows, columns)."""
        self.u.copy_(F.normalize(weight @ self.v, dim=0))
        self.v.copy_(F.normalize(weight.T @ self.u, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        if self.training:
            self.iterate(flat)
        u, v = self.u.clone(), self.v.clone()  # the next use changes them, perhaps before the gradient is taken
        return weight / (u @ (flat @ v))


def spectral_norm(layer: nn.Module) -> nn.Module:
    """The layer, with its `weight` normalised."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return register_parametrization(layer, "weight", SpectralNorm(weight.detach()))
