"""The distance of reconstructions from their images, pixel by pixel."""

from __future__ import annotations

import math

from torch import Tensor

from bench.contracts.images import Images
from bench.contracts.measurement import Score, metric
from bench.evidence import Reconstructions, TestImages, positions
from bench.util.errors import NotAvailable

IMAGES = 2_000


@metric(Reconstructions(IMAGES), TestImages(), unit="dB")
def psnr(decoded: Tensor, images: Images) -> Score:
    """Peak signal-to-noise ratio of reconstructions, dB: 10 log10(255^2 / MSE), on 2,000 test images as uint8.

    The MSE is over all pixels of all images: no mean of the images' own decibels, which an exact image would make
    infinite. It has no direction: a longer code buys more of it, and blur costs little.
    """
    if images.redrawn:
        raise NotAvailable("its pixels are drawn anew at each look: there is no fixed image to compare with")
    real = images.take(positions(images, len(decoded)), "cpu")
    mse = Score.of((decoded.double() - real.double()).square().flatten(1).mean(1))
    if mse.value == 0:
        raise NotAvailable("its reconstructions are exact: the ratio is infinite")
    se = None if mse.se is None else 10 / math.log(10) * mse.se / mse.value
    return Score(10 * math.log10(255**2 / mse.value), mse.n, se)
