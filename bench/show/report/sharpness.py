"""Blurriness to be looked at: how sharp each image of a set is, as a distribution, and images along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.drawing.figures import Box
from bench.engine.sharpness import laplacian_variance
from bench.show.report.chart import Scale, bottom_axis, figure, line, path
from bench.show.report.sheet import Sheet, sheet

WIDTH, HEIGHT = 340.0, 54.0
AT = (0.1, 0.3, 0.5, 0.7, 0.9)  #: quantiles whose images are shown
LEAST = 1e-6  #: of flat images, which have no place on a logarithm


@dataclass(frozen=True)
class Ridge:
    """One set of images: its distribution, images from its least to its most sharp, and its median."""

    label: str
    colour: str
    svg: str
    images: Sheet
    ratio: str  #: its median in that of real images; '' where there are none


@dataclass(frozen=True)
class Set:
    """Images (N, C, H, W) uint8 to be held against others."""

    label: str
    colour: str
    images: Tensor


def ridges(sets: Sequence[Set], real: str = "") -> tuple[list[Ridge], str]:
    """A ridge for each set, on one axis, which comes as a figure of its own. `real` is the label of real images."""
    sets = [s for s in sets if min(s.images.shape[2:]) > 2]  # others have no inner pixel
    found = [laplacian_variance(s.images).clamp(min=LEAST) for s in sets]
    if not found:
        return [], ""
    every = torch.cat(found).tolist()
    low, high = (math.log10(q) for q in np.quantile(every, (0.002, 0.998)))
    scale = Scale(low - 0.25, high + 0.25, 8.0, WIDTH - 8.0, log=True)
    held = next(((s, v.median().item()) for s, v in zip(sets, found, strict=True) if s.label == real), None)
    made = []
    for s, values in zip(sets, found, strict=True):
        where = values.argsort()[[round(q * (len(values) - 1)) for q in AT]]
        alt = f"{len(AT)} images of {s.label}, from blurred to sharp: at {', '.join(f'{q:.0%}' for q in AT)}"
        like = held is not None and held[0].images.shape[1:] == s.images.shape[1:]
        ratio = f"{values.median().item() / held[1]:.2f}" if held is not None and like else ""
        drawn = _ridge(s, values, scale, held[1] if held is not None else None)
        made.append(Ridge(s.label, s.colour, drawn, sheet(s.images[where], len(AT), alt), ratio))
    return made, _axis(scale)


def _ridge(s: Set, values: Tensor, scale: Scale, real: float | None) -> str:
    at = np.linspace(scale.low, scale.high, 120)
    logs = np.log10(values.numpy())
    width = max(1.06 * float(logs.std()) * len(logs) ** -0.2, 0.02)  # Scott 1992
    density = np.exp(-0.5 * ((at[:, None] - logs) / width) ** 2).mean(1)
    tall = density / density.max() * (HEIGHT - 10)
    spots = [(scale(10.0**a), HEIGHT - 2 - float(d)) for a, d in zip(at, tall, strict=True)]
    floor = HEIGHT - 2
    closed = [(spots[0][0], floor), *spots, (spots[-1][0], floor)]
    median = scale(float(values.median()))
    marks = [line((scale(real), 2), (scale(real), floor), "reference")] if real else []
    told = f"Sharpness of {s.label}: median {float(values.median()):.3g}"
    return figure(WIDTH, HEIGHT, told, *marks, path(closed, f"ridge {s.colour}", close=True),
                  line((median, 6), (median, floor), f"median {s.colour}"), name="ridge-row")  # fmt: skip


def _axis(scale: Scale) -> str:
    frame = Box(8.0, 0.0, WIDTH - 8.0, 2.0)
    return figure(WIDTH, 24, "Variance of the Laplacian, logarithmic", *bottom_axis(scale, frame), name="ridge-axis")
