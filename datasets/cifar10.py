"""CIFAR-10 in its binary form: rows of bytes in a tar, so that nothing is unpickled."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench import Dataset, File, Images, Splits

from ._reading import TAKE_AWAY, Published, again, labelled, reading

_TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6))
_TEST = ("cifar-10-batches-bin/test_batch.bin",)
_ROW = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes


class CIFAR10(Dataset):
    """60,000 photographs of animals and vehicles (Krizhevsky 2009)."""

    title = "CIFAR-10: animals and vehicles, 32x32 colour, 50,000 + 10,000"
    license = "none stated"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    published: ClassVar[tuple[Published, Published] | None] = (Published(50_000, 5_000), Published(10_000, 1_000))
    files = (
        File(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            170_052_171,
        ),
    )

    def load(self, root: Path) -> Splits:
        path = root / self.files[0].path
        with reading(path, again(path)):
            members = _members(path, {*_TRAIN, *_TEST})
            splits = Splits(self._split(members, _TRAIN), self._split(members, _TEST))
        if self.published is not None:
            with reading(path, TAKE_AWAY):
                self.published[0].check(splits.train, "CIFAR-10's training split")
                self.published[1].check(splits.test, "CIFAR-10's test split")
        return splits

    def _split(self, members: dict[str, bytes], names: tuple[str, ...]) -> Images:
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        rows = np.concatenate([np.frombuffer(members[name], np.uint8).reshape(-1, _ROW) for name in names])
        pixels = np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)
        return labelled(pixels, rows[:, 0].astype(np.int64), self.classes)


def _members(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """The content of the `wanted` members; nothing is written to disk, and other members are passed over."""
    found = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and member.name in wanted else None
            if content is not None:
                found[member.name] = content.read()
    return found
