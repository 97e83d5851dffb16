"""Discrete codes: how often each entry of the codebook is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.variant import Variant
from bench.show.report.exhibit import Exhibit
from bench.show.report.plane import bars
from bench.util.errors import NotAvailable


@dataclass(frozen=True)
class Codebook:
    """The use of a codebook on test images."""

    size: int
    used: int
    perplexity: float
    use: str  #: an SVG: the share of each code, the commonest first


def codebook(model: Variant, exhibit: Exhibit) -> Codebook:
    """Return the use of a model's codebook, over the test images whose codes the cell keeps.

    Raises:
        NotAvailable: the codes aren't discrete, or the cell keeps none.
    """
    size = require(model, abilities.HasCodes).codebook_size
    codes = exhibit.evidence.get("codes")
    if codes is None or codes.is_floating_point():
        raise NotAvailable("the cell keeps no discrete codes")
    counts = torch.bincount(codes.long().flatten().clamp(0, size - 1), minlength=size).double()
    share = counts / counts.sum()
    live = share[share > 0]
    perplexity = math.exp(-(live * live.log()).sum().item())
    title = f"Share of each of {size} codes of {exhibit.label}, the commonest first"
    return Codebook(size, len(live), perplexity, bars(share, title, "code {}", most=256))
