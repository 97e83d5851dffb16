"""Reading the arrays of a user's .npz or .npy file. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # what torch.save began its files with before 1.6


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an archive by name, each read when it is looked up."""

    def __init__(self, archive: NpzFile) -> None:
        self._archive = archive

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            array = self._archive[name]
        except ValueError:
            raise ValueError(
                f"its array {name!r} holds Python objects, and nothing is unpickled: save plain numbers"
            ) from None
        if not isinstance(array, np.ndarray):
            raise ValueError(f"its entry {name!r} isn't an array")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.files)

    def __len__(self) -> int:
        return len(self._archive.files)


@contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the arrays of an .npz file by name; the array of an .npy file has the name ''.

    Raises:
        ValueError: the file is neither, or an array in it would have to be unpickled.
        OSError: the file can't be read.
    """
    if _is_torch(path):
        raise ValueError(
            "it is a file of torch.save, which would have to be unpickled: "
            f"save numpy arrays instead, as in np.savez({path.with_suffix('.npz').name!r}, x=tensor.cpu().numpy())"
        )
    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError:
        raise ValueError("it is no .npz or .npy file of plain numbers") from None
    if isinstance(loaded, NpzFile):
        with closing(loaded):
            yield _Arrays(loaded)
    else:
        yield {"": loaded}


def _is_torch(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.read(len(_OLD_TORCH)) == _OLD_TORCH:
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
