"""Reading files inside of a run's folder: the run may come from a stranger.

Refused with the path: a link, a FIFO or a device in the place of a file or folder, and a file larger than any of its
kind. The run's own folder and those above it may be links: the user has typed that path.

All functions that open a file raise Damaged for what is refused, and OSError where the file is missing or unreadable.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from io import BufferedReader
from pathlib import Path

from bench.util.errors import Damaged

_LIMITS = {
    ".json": 16 << 20,
    ".csv": 256 << 20,
    ".txt": 1 << 30,  # a log is shortened while it is written, and only its end is shown
    ".png": 256 << 20,
    ".safetensors": 64 << 30,
    "": 1 << 20,  # SHA256SUMS
}
_OTHER = 1 << 30
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO)  # errors of opening a link or a socket
_COPIED = "`cp -rL RUN COPY` copies a run with files in the place of links. `rm` removes a link."


def limit(path: Path | str) -> int:
    """Return the most bytes that a file of this name may have."""
    return _LIMITS.get(os.path.splitext(path)[1], _OTHER)


def reading(path: Path | str) -> BufferedReader:
    """Open the file at `path` to read. Never waits for a writer."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise no_file(path) from None
        raise
    status, most = os.fstat(descriptor), limit(path)
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise Damaged(path, f"has {status.st_size:,} bytes, and such a file at most {most:,}")
    raise no_file(path)


def no_file(path: Path | str, wanted: str = "file") -> Damaged:
    """Return an error that says what lies at `path` in the place of a file or a folder."""
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISREG: "a file", stat.S_ISFIFO: "a FIFO"}
    try:
        mode = os.lstat(path).st_mode
        kind = next((words for test, words in kinds.items() if test(mode)), "a device or a socket")
    except OSError:
        kind = "something else"
    return Damaged(path, f"is {kind}, where a {wanted} belongs", _COPIED if kind == "a link" else "")


def content(path: Path | str) -> bytes:
    """Return a file's content."""
    with reading(path) as file:
        return file.read()


def tail(path: Path | str, size: int) -> bytes:
    """Return the last bytes of a file, at most `size`."""
    with reading(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)


def file(path: Path) -> Path:
    """Return `path` after checking it, for a library that opens files by itself."""
    reading(path).close()
    return path


def copy(source: Path, target: Path) -> None:
    """Write a file's content into a new one."""
    with reading(source) as given, open(target, "xb") as taken:
        shutil.copyfileobj(given, taken)


def is_folder(path: Path | str) -> bool:
    """Return whether a folder lies at `path`; False where nothing does.

    Raises:
        Damaged: something else lies there, such as a link to a folder.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        return True
    raise no_file(path, "folder")


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; none where there is no folder.

    Raises:
        Damaged: something else than a folder lies there, such as a link to one.
    """
    if not is_folder(folder):
        return []
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)
