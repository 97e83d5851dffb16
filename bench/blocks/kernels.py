"""Kernels between sets of codes, and the maximum mean discrepancy (MMD) that they define."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

Kernel = Callable[[Tensor, Tensor, int], Tensor]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2: (n, d), (m, d) to (n, m), never below 0."""
    distances = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
    distances -= 2 * x @ y.mT  # in place: the norms stay in fp32, while products may be bf16
    return distances.clamp_min_(0)


def imq(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Return inverse multiquadratics C / (C + |x - y|^2), summed over C = 2 dim `SCALES`: (n, d), (m, d) to (n, m).

    2 dim is the expected squared distance of two draws from N(0, I) in `dim` dimensions. Tolstikhin et al.
    2018, with the scales of their code.

    >>> imq(torch.zeros(1, 4), torch.zeros(1, 4), 4)
    tensor([[7.]])
    """
    distances = squared_distances(x, y)
    total = torch.zeros_like(distances)
    for c in (2 * dim * scale for scale in SCALES):
        total = total + c / (c + distances)
    return total


def mmd2(x: Tensor, y: Tensor, kernel: Kernel = imq) -> Tensor:
    """Return an unbiased estimate of the squared MMD between the laws of x (n, d) and y (m, d), n, m >= 2: 0-d.

    It is 0 on average for equal laws, so at times below 0. Gretton et al. 2012, lemma 6.

    >>> bool(mmd2(torch.randn(100, 4), torch.randn(100, 4) + 3) > 1)
    True
    """
    n, m, dim = x.shape[0], y.shape[0], x.shape[1]
    kxx, kyy = kernel(x, x, dim), kernel(y, y, dim)
    within_x = (kxx.sum() - kxx.diagonal().sum()) / (n * (n - 1))
    within_y = (kyy.sum() - kyy.diagonal().sum()) / (m * (m - 1))
    return within_x + within_y - 2 * kernel(x, y, dim).mean()
