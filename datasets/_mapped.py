"""Decoded images in one memory-mapped file: made once by several processes, gone on with after an interruption.

A copy is a folder in the cache, named after its source and after all that its pixels depend on:

    pixels     (N, C, H, W) uint8, row-major
    copy.json  what it is of, its shape, the splits' digests, and when `pixels` was last written

Until it's complete it is called `.part` and holds, besides, which blocks of images are done. Whoever makes one makes
the same bytes in the same places, so that the lock saves work and guards nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Items

from bench import DataError, Images, Splits

FORMAT = 2  # of a copy
BLOCK = 4 * 2**20  # bytes of pixels that a process decodes at a time
SETTLE = 5.0  # seconds of work that a power cut may cost
MEMORY = 0.25  # of the machine's: what may be held in it where nothing can be kept on disk

Say = Callable[[str, int, int], None]  # what is being done, bytes so far, bytes in all (0: not known)


class Form(NamedTuple):
    """The form that all images have once they are decoded."""

    shape: tuple[int, int, int]  #: (C, H, W)
    scale: tuple[float, float] | None = None  #: the numbers that are black and white; None: as their files have it


class Pictures(Protocol):
    """Images to be decoded, one at a time; other processes get copies of it."""

    name: str  #: what people call the source, options included

    def __len__(self) -> int: ...

    def form(self) -> Form:
        """The form of all of them.

        Raises:
            DataError: they differ, or nobody can tell what is white in them.
        """

    def decode(self, i: int, form: Form) -> np.ndarray:
        """Image `i` as (C, H, W) uint8 of this form.

        Raises:
            DataError: it can't be decoded, or is of another shape.
        """

    def fingerprint(self) -> str:
        """All that the pixels and the splits depend on, as it is now, as a digest.

        Raises:
            DataError: a file is gone.
        """


Split = Callable[[np.ndarray], Splits]
"""The splits of all images (N, C, H, W), as slices of these, which copy nothing."""


def in_memory(pictures: Pictures, split: Split) -> Splits:
    """Decode all images in this process."""
    return split(_block(pictures, pictures.form(), range(len(pictures))))


def _block(pictures: Pictures, form: Form, rows: range) -> np.ndarray:
    pixels = np.empty((len(rows), *form.shape), np.uint8)
    for place, i in enumerate(rows):
        pixels[place] = pictures.decode(i, form)
    return pixels


def mapped(pictures: Pictures, split: Split, cache: Path, say: Say) -> Splits:
    """The splits out of a copy under `cache`, which is made if there is none.

    Where nothing can be written there, they're decoded into memory, if they take little of it.

    Raises:
        DataError: an image can't be decoded, one changed meanwhile, a process was killed, or there is no room.
    """
    home = _home(cache, pictures)
    with _a_kill_is_said():
        try:
            return _kept(home, split) or _made(home, pictures, split, say)
        except OSError as error:
            return _instead(pictures, split, cache, error, say)


def _home(folder: Path, pictures: Pictures) -> Path:
    """Where a copy of the pictures, as they are now, lies when it's complete."""
    return folder / f"{_short(pictures.name)}-{_short(f'{FORMAT} {pictures.fingerprint()}')}"


def each(function: Callable[[int], Any], items: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Each item with `function` of it, in order, by as many processes as there are cores.

    Raises:
        DataError, OSError: what the function raised.
        RuntimeError: a process was killed; out of any line, while this goes on.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 0 if multiprocessing.current_process().daemon else min(cores, len(items))
    loader = DataLoader(
        _Applied(function),
        batch_size=None,
        sampler=items,
        num_workers=workers if workers > 1 else 0,
        generator=torch.Generator(),  # torch's own stays as it is
    )
    for item, result in loader:
        if isinstance(result, Exception):
            raise result
        yield item, result


@contextmanager
def _a_kill_is_said() -> Iterator[None]:
    """Around all that `each` may be at work in, for torch's signal handler raises wherever it finds this process.

    Raises:
        DataError: that.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            "a process that decoded images was killed",
            cause=f"The machine ran out of memory, usually. {str(error).splitlines()[0]}",
            fix="The same command goes on from where it was.",
        ) from error


class _Applied(Items[tuple[int, Any]]):
    """A function's results; its errors are returned, because they'd lose their words on the way."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __getitem__(self, item: int) -> tuple[int, Any]:
        try:
            return item, self.function(item)
        except (DataError, OSError) as error:
            return item, error


def _kept(home: Path, split: Split) -> Splits | None:
    """The splits out of a copy; None where there is none, or a damaged one.

    The pixels are read only if somebody has touched them.
    """
    try:
        document = json.loads((home / "copy.json").read_text(encoding="utf-8"))
        digests = list(document["digests"])
        pixels = home / "pixels"
        written, known = pixels.stat().st_mtime_ns, document["written"]
        splits = split(_map(pixels, tuple(document["shape"])))
        parts = _parts(splits)
        if len(parts) != len(digests):
            raise ValueError("a copy of other splits")
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if written != known:
        if _digests(splits) != digests:
            return None
        with suppress(OSError):
            _write(home / "copy.json", {**document, "written": written})
    for part, digest in zip(parts, digests, strict=True):
        part.digest = digest
    return splits


def _map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A file as an array; what is written into it stays in memory.

    Raises:
        ValueError: the file is too short.
    """
    return np.memmap(path, np.uint8, "c", shape=shape)


def _digests(splits: Splits) -> list[str]:
    return [part.digest for part in _parts(splits)]


def _parts(splits: Splits) -> list[Images]:
    return [part for part in (splits.train, splits.test, splits.validation) if part is not None]


def _made(home: Path, pictures: Pictures, split: Split, say: Say) -> Splits:
    """The splits out of a copy that we make, or wait for."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with _alone(home, lambda: say(f"waiting for another process that decodes {pictures.name}", 0, 0)):
        splits = _kept(home, split)
        if splits is None:
            shutil.rmtree(home, ignore_errors=True)  # damaged; and nobody else is at it
            _supersede(home)
            part = home.with_suffix(".part")
            part.mkdir(exist_ok=True)
            splits = _make(part, pictures, split, say)
            if _home(home.parent, pictures) != home:
                shutil.rmtree(part)
                raise DataError(f"{pictures.name} changed while it was decoded", fix="Try again when it's at rest.")
            with suppress(FileNotFoundError):  # made by somebody whose lock we didn't see
                part.rename(home)
            _sync(home.parent)
    return splits


def _make(part: Path, pictures: Pictures, split: Split, say: Say) -> Splits:
    """Fill `part` until it's a complete copy."""
    form = _settled(part / "form.json", pictures, say)
    writer = _Writer(pictures, form, part / "pixels")
    total = len(pictures) * writer.size
    _reserve(part, total)
    with _Marks(part, writer.blocks) as marks:
        say(f"decoding {pictures.name}", marks.count * writer.bytes, total)
        for block, _ in each(writer, marks.missing()):
            marks.add(block)
            say(f"decoding {pictures.name}", min(marks.count * writer.bytes, total), total)
    splits = split(_map(writer.path, (len(pictures), *form.shape)))
    document = {
        "of": pictures.name,
        "shape": [len(pictures), *form.shape],
        "digests": _digests(splits),
        "written": writer.path.stat().st_mtime_ns,
    }
    _write(part / "copy.json", document)
    for name in ("form.json", "done"):
        (part / name).unlink(missing_ok=True)
    _sync(part)
    return splits


def _settled(path: Path, pictures: Pictures, say: Say) -> Form:
    """Their form, from where it was noted, or by looking at all images."""
    try:
        (c, h, w), scale = json.loads(path.read_text(encoding="utf-8"))
        return Form((c, h, w), None if scale is None else (float(scale[0]), float(scale[1])))
    except (OSError, ValueError, TypeError, LookupError):
        say(f"looking at {pictures.name}", 0, 0)
        form = pictures.form()
        _write(path, form)
        return form


class _Writer:
    """Decodes a block of images and writes it to its place; called in several processes."""

    def __init__(self, pictures: Pictures, form: Form, path: Path) -> None:
        self.pictures, self.form, self.path = pictures, form, path
        self.size = int(np.prod(form.shape))
        self.each = max(1, min(BLOCK // self.size, 1024))
        self.bytes = self.each * self.size
        self.blocks = -(-len(pictures) // self.each)

    def __call__(self, block: int) -> None:
        first = block * self.each
        rows = range(first, min(first + self.each, len(self.pictures)))
        pixels = _block(self.pictures, self.form, rows)
        with open(self.path, "r+b") as file:
            file.seek(first * self.size)
            file.write(pixels.data)


class _Marks:
    """Which blocks are on disk, a byte each: said only once the pixels have got there."""

    def __init__(self, part: Path, blocks: int) -> None:
        self.pixels, self.path = part / "pixels", part / "done"
        found = self.path.read_bytes() if self.path.exists() else b""
        self.done = bytearray(found if len(found) == blocks else bytes(blocks))
        self.settled = time.monotonic()

    @property
    def count(self) -> int:
        return sum(self.done)

    def missing(self) -> list[int]:
        return [block for block, done in enumerate(self.done) if not done]

    def add(self, block: int) -> None:
        self.done[block] = 1
        if time.monotonic() - self.settled >= SETTLE:
            self.settle()

    def settle(self) -> None:
        with open(self.pixels, "r+b") as file:
            os.fsync(file.fileno())
        self.path.write_bytes(self.done)
        self.settled = time.monotonic()

    def __enter__(self) -> _Marks:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()


def _reserve(part: Path, total: int) -> None:
    """Pixels of `total` bytes, zeros where nothing is written yet. Of another size they'd be new, and none is done.

    Raises:
        OSError: there isn't that much room.
    """
    with open(part / "pixels", "ab") as file:
        stat = os.fstat(file.fileno())
        if stat.st_size != total:
            (part / "done").unlink(missing_ok=True)
        if shutil.disk_usage(part).free < total - stat.st_blocks * 512:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        file.truncate(total)


@contextmanager
def _alone(home: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """With nobody else at work on `home`, where its file system has such locks; the kernel frees a dead one's."""
    lock = home.with_suffix(".lock")
    with open(lock, "ab") as file:
        if not _locked(file):
            waiting()
            _locked(file, wait=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it still has it open


def _locked(file: IO[bytes], *, wait: bool = False) -> bool:
    """Whether nobody else has the lock: it's ours now."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # there are no locks here
        pass
    return True


def _supersede(home: Path) -> None:
    """Remove other copies of the same source, for it has changed. Who has one open keeps it."""
    source, _, _ = home.name.partition("-")
    for other in home.parent.glob(f"{source}-*"):
        if other.stem != home.name and other.is_dir():
            with suppress(OSError), open(other.with_suffix(".lock"), "ab") as lock:
                if _locked(lock):
                    shutil.rmtree(other)
                    other.with_suffix(".lock").unlink()


def _instead(pictures: Pictures, split: Split, cache: Path, error: OSError, say: Say) -> Splits:
    """The splits in memory, because nothing can be kept; if they take little of it."""
    need = len(pictures) * int(np.prod(pictures.form().shape))
    what = f"the decoded images of {pictures.name} can't be kept in {str(cache)!r}"
    why = f"{error.strerror or error}: they take {need / 1e6:,.0f} MB"
    if need > MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise DataError(
            what,
            cause=f"{why}, too much to hold in memory.",
            fix="Make room, then the same command goes on from where it was; or name another folder with BENCH_CACHE.",
        ) from error
    say(f"{what} ({why}): they're decoded into memory, each time anew", 0, 0)
    return in_memory(pictures, split)


def _write(path: Path, document: Any) -> None:
    """Replace a JSON document in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
