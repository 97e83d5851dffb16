"""Refusing a dataset whose test images are its training images: its scores would say nothing about new images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.contracts.images import Images
from bench.util.errors import DataError

if TYPE_CHECKING:
    from bench.contracts.dataset import Splits

SMALL = 2**29  # bytes of pixels up to which each test image is looked for among the training images
FEW, PIXELS = 256, 64  # test images that are looked at first, and pixels of each
BLOCK = 4096  # images at a time


def require_disjoint(name: str, splits: Splits) -> None:
    """Go on only where some test image, and some validation image, isn't among the training images.

    Sets that repeat themselves may: where half of the training images hold most of the other half, as all patterns of
    a few pixels do, the test images are no more familiar than others. Of more than 512 MB of pixels, only the same
    images in the same order are found. Draws no noise; takes some hundredths of a second for 70,000 images of 28x28.

    Args:
        name: the dataset, as the user typed it.

    Raises:
        DataError: the test or the validation split is the training split, or lies wholly in it.
    """
    for kind, images in (("test", splits.test), ("validation", splits.validation)):
        if images is not None and (how := _how(splits.train, images)):
            raise DataError(
                f"{name!r} can't be used: all {len(images):,} {kind} images {how}",
                cause=f"Files were copied under the other split's name, or the {kind} split was added to training.",
                fix=f"Give it a {kind} split of its own. Images that come without splits are split by the suite: every "
                "tenth is for the test.",
            )


def _how(train: Images, images: Images) -> str:
    """Return in words how all images of a split are training images; '' where some are not."""
    if train.redrawn or images.redrawn or train.shape != images.shape or len(images) < 2:
        return ""
    if len(train) == len(images) and _same(train, images):
        return "are the training images, in the same order"
    small = (len(train) + len(images)) * math.prod(train.shape) <= SMALL
    return "are training images too" if small and _within(train, images) else ""


def _same(train: Images, test: Images) -> bool:
    """Return whether two splits hold the same images in the same order, and not one image again and again."""
    some = torch.linspace(0, len(test) - 1, min(FEW, len(test))).long()
    ours, theirs = train.take(some, "cpu"), test.take(some, "cpu")
    if not torch.equal(ours, theirs) or bool((ours == ours[:1]).all()):
        return False
    parts = torch.split(torch.arange(len(test)), BLOCK)
    return all(torch.equal(train.take(part, "cpu"), test.take(part, "cpu")) for part in parts)


def _within(train: Images, test: Images) -> bool:
    """Return whether all test images are training images, and these are not mostly repetitions of each other."""
    step = max(1, math.prod(train.shape) // PIXELS)
    some = torch.linspace(0, len(test) - 1, min(FEW, len(test))).long()
    known = _prints(train, torch.arange(len(train)), step)
    if not bool(torch.isin(_prints(test, some, step), known).all()):  # almost always, and in no time
        return False
    known = _prints(train, torch.arange(len(train)))
    if not bool(torch.isin(_prints(test, torch.arange(len(test))), known).all()):
        return False
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]  # a source may be sorted
    half = len(known) // 2
    return not half or bool(torch.isin(known[half:], known[:half]).double().mean() < 0.5)


def _prints(images: Images, index: Tensor, step: int = 1) -> Tensor:
    """A number for each image at `index`, of each `step`-th pixel: equal for equal images, and hardly for others."""
    n = len(range(0, math.prod(images.shape), step))
    high = 2 ** min(30, 45 - n.bit_length())  # sums below 2^53 are exact, in whatever order
    weights = torch.randint(high, (n,), generator=torch.Generator().manual_seed(0)).double()
    found = [images.take(part, "cpu").flatten(1)[:, ::step].double() @ weights for part in torch.split(index, BLOCK)]
    return torch.cat(found)
