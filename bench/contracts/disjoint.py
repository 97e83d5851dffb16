"""The check that a dataset's test images are not its training images: scores would say nothing about new images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.contracts.images import Images
from bench.util.errors import DataError

if TYPE_CHECKING:
    from bench.contracts.dataset import Splits

SMALL = 2**29  # bytes of pixels up to which each test image is looked up among the training images
FEW, PIXELS = 256, 64  # test images that are looked up first, and pixels of each
BLOCK = 4096  # images at a time


def require_disjoint(name: str, splits: Splits) -> None:
    """Raise DataError if all test images, or all validation images, are training images.

    Sets that repeat themselves are accepted: if half of the training images hold most of the other half, as all
    patterns of a few pixels do, test images are no more familiar than others. Of more than 512 MB of pixels, only the
    same images in the same order are found. Draws no noise; 70,000 images of 28x28 take hundredths of a second.

    Args:
        name: the dataset, as the user typed it.
    """
    for kind, images in (("test", splits.test), ("validation", splits.validation)):
        if images is not None and (overlap := _overlap(splits.train, images)):
            raise DataError(
                f"{name!r} can't be used: all {len(images):,} {kind} images {overlap}",
                cause=f"Files were copied under the other split's name, or the {kind} split was added to training.",
                fix=f"Give it a {kind} split of its own, or images without splits: the suite then takes every tenth "
                "for the test.",
            )


def _overlap(train: Images, images: Images) -> str:
    """Return in words how all images of a split are training images; '' if some are not."""
    if train.redrawn or images.redrawn or train.shape != images.shape or len(images) < 2:
        return ""
    if len(train) == len(images) and _same(train, images):
        return "are the training images, in the same order"
    small = (len(train) + len(images)) * math.prod(train.shape) <= SMALL
    return "are training images too" if small and _within(train, images) else ""


def _some(images: Images) -> Tensor:
    return torch.linspace(0, len(images) - 1, min(FEW, len(images))).long()


def _same(train: Images, test: Images) -> bool:
    """Return whether two splits hold the same images in the same order, which are not all one image."""
    ours, theirs = train.take(_some(test), "cpu"), test.take(_some(test), "cpu")
    if not torch.equal(ours, theirs) or bool((ours == ours[:1]).all()):
        return False
    parts = torch.split(torch.arange(len(test)), BLOCK)
    return all(torch.equal(train.take(part, "cpu"), test.take(part, "cpu")) for part in parts)


def _within(train: Images, test: Images) -> bool:
    """Return whether all test images are training images, and these mostly do not repeat each other."""
    step = max(1, math.prod(train.shape) // PIXELS)
    for index, pixels in (
        (_some(test), step),
        (torch.arange(len(test)), 1),
    ):  # first a fast look
        known = _fingerprints(train, torch.arange(len(train)), pixels)
        if not bool(torch.isin(_fingerprints(test, index, pixels), known).all()):
            return False
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]  # a source may be sorted
    half = len(known) // 2
    return not half or bool(torch.isin(known[half:], known[:half]).double().mean() < 0.5)


def _fingerprints(images: Images, index: Tensor, step: int) -> Tensor:
    """Return a number for each image at `index`, from every `step`-th pixel: equal for equal images, else rarely."""
    n = len(range(0, math.prod(images.shape), step))
    high = 2 ** min(30, 45 - n.bit_length())  # sums below 2^53 are exact in any order
    weights = torch.randint(high, (n,), generator=torch.Generator().manual_seed(0)).double()
    blocks = torch.split(index, BLOCK)
    return torch.cat([images.take(block, "cpu").flatten(1)[:, ::step].double() @ weights for block in blocks])
