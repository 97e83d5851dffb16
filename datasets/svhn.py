"""SVHN: house numbers, cropped to one digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench import Dataset, File, Images, Splits

from ._reading import again, labelled, reading

_URL = "https://ufldl.stanford.edu/housenumbers/"


class SVHN(Dataset):
    """99,289 digits of photographed house numbers (Netzer et al. 2011); its `extra` split isn't used.

    torchvision reads them: where it keeps them, and only what its own checksum agrees with.
    """

    title = "SVHN: digits of house numbers, 32x32 colour, 73,257 + 26,032"
    license = "for non-commercial use only"
    classes = tuple(str(digit) for digit in range(10))
    files = (
        File(
            "train_32x32.mat",
            (f"{_URL}train_32x32.mat",),
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            182_040_794,
        ),
        File(
            "test_32x32.mat",
            (f"{_URL}test_32x32.mat",),
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            64_275_384,
        ),
    )

    def load(self, root: Path) -> Splits:
        return Splits(self._split(root, "train"), self._split(root, "test"))

    def _split(self, root: Path, split: str) -> Images:
        from torchvision import datasets  # here, because it takes seconds and `bench list` needs none of it

        path = root / f"{split}_32x32.mat"
        with reading(path, again(path)):
            try:
                source = datasets.SVHN(root, split)  # the source's label 10 is the digit 0, and 0 here
            except RuntimeError as error:
                raise ValueError("its checksum isn't that of the source's file") from error
            return labelled(np.ascontiguousarray(source.data), source.labels, self.classes)
