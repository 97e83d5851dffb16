"""scikit-learn's 8x8 handwritten digits: real, embedded, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import Dataset, Images, Splits

from ._reading import fixed_split


class Digits(Dataset):
    """1,797 digits of 43 writers, 8x8 in 17 grey levels (Alpaydin & Kaynak 1998).

    The source has no split here: a fixed one, stratified by digit, has 1,437 to train and 360 to test.
    """

    title = "handwritten digits, 8x8 grey, 1,437 + 360, embedded (scikit-learn)"
    license = "CC BY 4.0"

    def load(self, root: Path) -> Splits:
        from sklearn.datasets import (
            load_digits,
        )  # here, because it takes seconds and `bench list` needs none of it

        source = load_digits()
        pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = source.target.astype(np.int64)
        classes = tuple(str(digit) for digit in range(10))
        train, test = (Images(pixels[at], labels[at], classes) for at in fixed_split(labels, every=5))
        return Splits(train, test)
