"""Arrays in a user's .npz or .npy file, by name. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # what torch.save began its files with before 1.6


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an archive, each read when it is asked for."""

    def __init__(self, archive: NpzFile) -> None:
        self._archive = archive

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            found = self._archive[name]
        except ValueError:
            raise ValueError(f"{name!r} in it doesn't hold plain numbers, and nothing is unpickled") from None
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{name!r} in it isn't an array")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.files)

    def __len__(self) -> int:
        return len(self._archive.files)


@contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the arrays of an .npz file by name; the one of an .npy file is called ''.

    Raises:
        ValueError: it is neither, or an array that is asked for would have to be unpickled.
        OSError: it can't be read.
    """
    if _is_torch(path):
        raise ValueError(
            "it is a file of torch.save, which would have to be unpickled: "
            f"save numpy arrays instead, as in np.savez({path.with_suffix('.npz').name!r}, x=tensor.cpu().numpy())"
        )
    try:
        found = np.load(path, allow_pickle=False)
    except ValueError:
        raise ValueError("it's no .npz or .npy file of plain numbers") from None
    if isinstance(found, NpzFile):
        with closing(found):
            yield _Arrays(found)
    else:
        yield {"": found}


def _is_torch(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.read(len(_OLD_TORCH)) == _OLD_TORCH:
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
