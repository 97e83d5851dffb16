"""Blurriness of images: the sharpness of each image of a set as a distribution, and images along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.drawing.figures import Drawing, Part, Scale, Stroke, bottom_axis
from bench.engine.sharpness import laplacian_variance
from bench.show.report.sheet import Picture, sheet

WIDTH, HEIGHT = 340.0, 54.0
AT = (0.1, 0.3, 0.5, 0.7, 0.9)  #: quantiles whose images are shown
LEAST = 1e-6  #: the value of a flat image, whose own, 0, has no logarithm


@dataclass(frozen=True)
class Ridge:
    """A set of images: its distribution, images from the least to the most sharp, and its median."""

    label: str
    colour: str
    svg: str
    images: Picture
    ratio: str  #: median / median of real images; '' without real images of this size


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) uint8 with a label and a colour of the style sheet."""

    label: str
    colour: str
    images: Tensor


def ridges(sets: Sequence[ImageSet], real: str = "") -> tuple[list[Ridge], str]:
    """Return a ridge for each set, and the axis that all of them share; `real` is the label of real images."""
    sets = [s for s in sets if min(s.images.shape[2:]) > 2]  # smaller images have no inner pixel
    sharpness = [laplacian_variance(s.images).clamp(min=LEAST) for s in sets]
    if not sharpness:
        return [], ""
    low, high = (math.log10(q) for q in np.quantile(torch.cat(sharpness).tolist(), (0.002, 0.998)))
    scale = Scale(low - 0.25, high + 0.25, 8.0, WIDTH - 8.0, log=True)
    reference = next(((s, v.median().item()) for s, v in zip(sets, sharpness, strict=True) if s.label == real), None)
    found = []
    for s, values in zip(sets, sharpness, strict=True):
        where = values.argsort()[[round(q * (len(values) - 1)) for q in AT]]
        alt = f"{len(AT)} images of {s.label}, from blurred to sharp: at {', '.join(f'{q:.0%}' for q in AT)}"
        same_size = reference is not None and reference[0].images.shape[1:] == s.images.shape[1:]
        ratio = f"{values.median().item() / reference[1]:.2f}" if reference is not None and same_size else ""
        drawn = _ridge(s, values, scale, reference[1] if reference is not None else None)
        found.append(Ridge(s.label, s.colour, drawn, sheet(s.images[where], len(AT), alt), ratio))
    axis = Drawing(WIDTH, 24, "Variance of the Laplacian, logarithmic", bottom_axis(scale, 2.0))
    return found, axis.inline("ridge-axis")


def _ridge(s: ImageSet, values: Tensor, scale: Scale, real: float | None) -> str:
    at = np.linspace(scale.low, scale.high, 120)
    logs = np.log10(values.numpy())
    width = max(1.06 * float(logs.std()) * len(logs) ** -0.2, 0.02)  # Scott 1992
    density = np.exp(-0.5 * ((at[:, None] - logs) / width) ** 2).mean(1)
    floor = HEIGHT - 2
    heights = density / density.max() * (HEIGHT - 10)
    outline = [(scale(10.0**a), floor - float(h)) for a, h in zip(at, heights, strict=True)]
    median = float(values.median())
    parts: list[Part] = [
        Stroke([(outline[0][0], floor), *outline, (outline[-1][0], floor)], s.colour, closed=True, opacity=0.3),
        Stroke([(scale(median), 6), (scale(median), floor)], s.colour, 2.0),
    ]
    if real:
        parts.insert(0, Stroke([(scale(real), 2), (scale(real), floor)], "ink", dashes="2 3"))
    return Drawing(WIDTH, HEIGHT, f"Sharpness of {s.label}: median {median:.3g}", parts).inline("ridge-row")
