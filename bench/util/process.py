"""Guards against what plugins change in their process: its umask, its standard streams, copies of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_umask: int | None = None


@contextmanager
def kept_umask(mask: int | None = None) -> Iterator[None]:
    """Make all files and folders with one umask meanwhile, whatever a plugin sets; afterwards it is the process's.

    Args:
        mask: by default the one that is kept already, else the one of the process.
    """
    global _umask
    before, _umask = _umask, umask() if mask is None else mask
    try:
        steady()
        yield
    finally:
        steady()
        _umask = before


def umask() -> int:
    """Return the umask that is kept, else the one of the process."""
    if _umask is not None:
        return _umask
    mask = os.umask(0o077)  # there is no other way to read it
    os.umask(mask)
    return mask


def steady() -> None:
    """Set the umask that is kept, if there is one. To be called before a file or folder is made."""
    if _umask is not None:
        os.umask(_umask)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they exist, with the modes of the umask that is kept.

    Raises:
        OSError
    """
    steady()
    path.mkdir(parents=True, exist_ok=True)


@contextmanager
def uncopied() -> Iterator[None]:
    """Run a plugin's code inside. If that forks this process, and the copy returns from the code, end the copy."""
    ours = os.getpid()
    try:
        yield
    finally:
        end_copy(ours)


def end_copy(ours: int) -> None:
    """End this process at once unless its number is `ours`: the process `ours` goes on with the work."""
    if os.getpid() != ours:
        os._exit(1)


def open_streams(log: Path, *, closed: bool = False) -> None:
    """Append standard output and error to a file, and make standard input empty.

    Args:
        closed: only if one of the three is closed, since the next file to be opened would get its number.

    Raises:
        OSError: `log` can't be opened.
    """
    if closed and all(map(_is_open, range(3))):
        return
    steady()
    opened = [os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)]
    for source, target in zip((opened[0], opened[1], opened[1]), range(3), strict=True):
        os.dup2(source, target)
    for descriptor in opened:
        if descriptor > 2:
            os.close(descriptor)


def _is_open(descriptor: int) -> bool:
    try:
        os.get_inheritable(descriptor)
    except OSError:
        return False
    return True
