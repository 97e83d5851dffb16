"""Reading the files of a run without leaving its folder: a run may come from anybody.

Refused by name: a link, a FIFO or a device where a file or a folder belongs, and a file larger than its kind ever is.
The run's own folder and those above it may be links: whoever names a run says where it lies.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from bench.util.errors import Damaged

_LIMITS = {
    ".json": 16 << 20,
    ".csv": 256 << 20,
    ".txt": 1 << 30,  # a log is cut back while it's written, and only its end is shown
    ".png": 256 << 20,
    ".safetensors": 64 << 30,
    "": 1 << 20,  # SHA256SUMS
}
_OTHER = 1 << 30
_SMALL = min(_LIMITS.values())
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO)  # what opening a link or a socket gives
_COPIED = "Put what it names in its place: `cp -rL RUN COPY` copies a run so. A link is removed by `rm`."


def limit(path: Path | str) -> int:
    """Return the most bytes that a file of this name may have."""
    return _LIMITS.get(os.path.splitext(path)[1], _OTHER)


def opened(path: Path | str) -> tuple[int, int]:
    """A descriptor of the file at `path`, to read, and its size in bytes; never waits for a writer.

    Raises:
        Damaged: it's no file, or too large.
        OSError: it isn't there, or can't be read.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise no_file(path) from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and (found.st_size <= _SMALL or found.st_size <= limit(path)):
        return descriptor, found.st_size
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise Damaged(path, f"has {found.st_size:,} bytes, and such a file at most {limit(path):,}")
    raise no_file(path)


def no_file(path: Path | str, wanted: str = "file") -> Damaged:
    """Return the error that names what lies at `path` in the place of a file or a folder."""
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISREG: "a file", stat.S_ISFIFO: "a FIFO"}
    try:
        mode = os.lstat(path).st_mode
        kind = next((words for test, words in kinds.items() if test(mode)), "a device or a socket")
    except OSError:
        kind = "something else"
    return Damaged(path, f"is {kind}, where a {wanted} belongs", _COPIED if kind == "a link" else "")


def content(path: Path | str) -> bytes:
    """A file's content, by few calls of the system: a run may have 60,000 files.

    Raises:
        Damaged, OSError: as `opened`.
    """
    descriptor, size = opened(path)
    try:
        parts = [os.read(descriptor, size + 1)]
        while parts[-1] and sum(map(len, parts)) < size:
            parts.append(os.read(descriptor, size))
    finally:
        os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def reading(path: Path | str) -> Iterator[BufferedReader]:
    """The file at `path`, open to be read.

    Raises:
        Damaged, OSError: as `opened`.
    """
    with open(opened(path)[0], "rb") as file:
        yield file


def tail(path: Path | str, size: int) -> bytes:
    """The last bytes of a file, at most `size`.

    Raises:
        Damaged, OSError: as `opened`.
    """
    with reading(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)


def file(path: Path) -> Path:
    """`path`, for a library that opens it by itself.

    Raises:
        Damaged, OSError: as `opened`.
    """
    os.close(opened(path)[0])
    return path


def copy(source: Path, target: Path) -> None:
    """Write a file's content into a new one.

    Raises:
        Damaged, OSError: as `opened`; or `target` can't be written.
    """
    with reading(source) as given, open(target, "xb") as taken:
        shutil.copyfileobj(given, taken)


def is_folder(path: Path | str) -> bool:
    """Return whether a folder lies at `path`; False where nothing does.

    Raises:
        Damaged: something else does, such as a link to a folder.
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
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
