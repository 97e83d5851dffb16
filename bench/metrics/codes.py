"""The use of a codebook on the test split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.contracts.measurement import Score, metric
from bench.evidence import DiscreteCodes, Indices


def usage(codes: Tensor, size: int) -> Tensor:
    """Return the share of each of `size` codes among indices of any shape: (size,) float64, summing to 1."""
    counts = torch.bincount(codes.flatten(), minlength=size).double()
    return counts / counts.sum()


@metric(DiscreteCodes(), unit="nats/image")
def rate_uniform(indices: Indices) -> Score:
    """Code length of T symbols out of K under a uniform prior, T ln K nats per image: compare `kl` with it."""
    n, length = indices.codes.shape
    return Score(length * math.log(indices.size), n)


@metric(DiscreteCodes(), unit="codes", range=(1, math.inf))
def perplexity(indices: Indices) -> Score:
    """exp(entropy) of the codes over all images and positions: the number of codes that, used evenly, vary as much."""
    share = usage(indices.codes, indices.size)
    return Score(math.exp(-torch.xlogy(share, share).sum().item()), len(indices.codes))


@metric(DiscreteCodes(), unit="share", range=(0, 1))
def live_codes(indices: Indices) -> Score:
    """Share of the codebook that is used at least once."""
    share = usage(indices.codes, indices.size)
    return Score((share > 0).double().mean().item(), len(indices.codes))
