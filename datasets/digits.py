"""scikit-learn's 8x8 handwritten digits: real, embedded, no download."""

from __future__ import annotations

from importlib.util import find_spec
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
        levels, labels = _read()
        pixels = np.rint(levels * (255 / 16)).astype(np.uint8)[:, None]
        classes = tuple(str(digit) for digit in range(10))
        train, test = (Images(pixels[at], labels[at], classes) for at in fixed_split(labels, every=5))
        return Splits(train, test)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Levels 0..16 (1797, 8, 8) and labels (1797,), from scikit-learn's own file: to import it takes a second."""
    spec = find_spec("sklearn")
    file = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # wherever it keeps them now

    source = load_digits()
    return source.images, source.target.astype(np.int64)
