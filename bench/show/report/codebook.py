"""Discrete codes: how often each entry of the codebook is used, and where in an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.dataset import Data
from bench.contracts.images import to_float
from bench.contracts.variant import Variant
from bench.evidence import SHOWN, positions
from bench.show.report.exhibit import Exhibit
from bench.show.report.plane import bars
from bench.show.report.sheet import Sheet, sheet
from bench.util.errors import NotAvailable

MAPS = 8  #: images whose codes are shown
RAMP = ((0x30, 0x12, 0x3B), (0x2C, 0x6F, 0xBB), (0x2A, 0xB5, 0x94), (0xD9, 0xC8, 0x3C), (0xF4, 0x86, 0x3A))


@dataclass(frozen=True)
class Codebook:
    """A codebook's use on test images."""

    size: int
    used: int
    perplexity: float
    use: str  #: a figure: the share of each code, the commonest first
    maps: Sheet | None  #: images above their codes; the codes alone where the dataset isn't at hand


def codebook(model: Variant, exhibit: Exhibit, data: Data | None) -> Codebook:
    """The use of a model's codebook, over the test images whose codes the cell keeps.

    Raises:
        NotAvailable: its codes aren't discrete, or none are kept.
    """
    able = require(model, abilities.HasCodes)
    codes = exhibit.evidence.get("codes")
    if codes is None or codes.is_floating_point():
        raise NotAvailable("the cell keeps no discrete codes")
    size = able.codebook_size
    counts = torch.bincount(codes.long().flatten().clamp(0, size - 1), minlength=size).double()
    share = counts / counts.sum()
    live = share[share > 0]
    told = f"Share of each of {size} codes of {exhibit.label}, the commonest first"
    perplexity = math.exp(-(live * live.log()).sum().item())
    return Codebook(
        size, len(live), perplexity, bars(share, told, "code {}", most=256), _maps(able, exhibit, codes, counts, data)
    )


def _maps(able: abilities.HasCodes, exhibit: Exhibit, codes: Tensor, counts: Tensor, data: Data | None) -> Sheet | None:
    """Each code in the colour of its rank, by use."""
    used = int((counts > 0).sum())
    rank = (counts.argsort(descending=True, stable=True).argsort() / max(used - 1, 1)).double().clamp(max=1)
    if data is None:
        return sheet(painted(rank[codes[:MAPS].long()], (28, 28)), MAPS, f"Code maps of {MAPS} {exhibit.split} images")
    index = positions(data.test, SHOWN)[:MAPS]
    images = data.test.take(index, "cpu")
    maps = painted(rank[able.codes(to_float(images)).cpu()], images.shape[2:])
    above = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
    alt = (
        f"{len(index)} {exhibit.split} images, each above its codes by {exhibit.label}, coloured by how common they are"
    )
    return sheet(torch.cat([above, maps]), len(index), alt)


def painted(at: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (N, L) of numbers in [0, 1] as pictures (N, 3, H, W) uint8; a square number L is a square."""
    n, length = at.shape
    side = math.isqrt(length)
    h, w = (side, side) if side * side == length else (1, length)
    ramp = torch.tensor(RAMP, dtype=torch.float64)
    place = at * (len(RAMP) - 1)
    below = place.floor().long().clamp(max=len(RAMP) - 2)
    part = (place - below)[..., None]
    colours = (1 - part) * ramp[below] + part * ramp[below + 1]
    picture = colours.view(n, h, w, 3).permute(0, 3, 1, 2)
    grown: Tensor = torch.nn.functional.interpolate(picture, (max(size[0], h), max(size[1], w)), mode="nearest")
    return grown[:, :, : size[0], : size[1]].round().to(torch.uint8)
