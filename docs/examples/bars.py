"""The bars problem. Földiák 1990, https://doi.org/10.1007/BF02331346."""

from pathlib import Path
from typing import Annotated

import torch

from bench import Dataset, Images, Range, Splits


class Bars(Dataset):
    """Each row and each column of an image is lit by itself with probability p: 2 side factors, and no more.

    Nobody can do better than the entropy of the images: 2 side h(p) nats at most, 6.03 at side 8 and p = 1/8.
    """

    title = "bars, 8x8 black and white, drawn by a formula"
    license = "CC0-1.0"
    latent_dim = 16

    def __init__(
        self,
        *,
        side: Annotated[int, Range(4, 64), "of an image, in pixels"] = 8,
        p: Annotated[float, Range(0, 1, exclusive=True), "probability of a bar"] = 0.125,
    ) -> None:
        self.side, self.p = side, p

    def load(self, root: Path) -> Splits:
        generator = torch.Generator().manual_seed(0)
        lit = torch.rand(12_000, 2, self.side, generator=generator) < self.p
        pixels = (lit[:, 0, :, None] | lit[:, 1, None, :]).to(torch.uint8)[:, None] * 255
        return Splits(Images(pixels[:10_000]), Images(pixels[10_000:]))
