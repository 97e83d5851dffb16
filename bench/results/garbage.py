"""Garbage collection of run folders: what ended attempts left. Results, failures and checkpoints stay."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.results.store import Run
from bench.util.durable import TEMPORARY, is_abandoned, remove, writing
from bench.util.lease import Lease, held

LEASE = "lease.json"
_ATTEMPT = re.compile(r"attempt-\w+|(done|scores|different)-[0-9a-f]{32}")  # the latter by `Run.forget`


@dataclass(frozen=True)
class Removed:
    """A file or folder that was removed, or would be; with its size in bytes."""

    path: Path
    size: int


def collect(store: Run, *, dry_run: bool = False) -> Iterator[Removed]:
    """Remove what no living attempt needs, and yield it. Cells that a living process is training are left alone.

    Raises:
        Damaged: a link in the run leads elsewhere; nothing has been removed.
        StoreError: the folder can't be written.
    """
    for cell in store.names():
        store.refuse_links(cell)
    for path in _temporaries(store.path, deep=False):
        yield _removed(store, path, dry_run)
    for cell in store.names():
        lease = store.cells / cell / LEASE
        if not _litter(store, cell) or held(lease):
            continue
        stale = [Removed(lease, _size(lease))] if lease.exists() else []
        ours = None
        if not dry_run:
            with writing(store.path):
                ours = Lease.take(lease)  # replaces a stale one, and keeps other processes away meanwhile
            if ours is None:
                continue
        yield from stale
        try:
            for path in _litter(store, cell):
                if path != lease:
                    yield _removed(store, path, dry_run)
            if not dry_run and (work := store.work(cell)).is_dir() and not any(work.iterdir()):
                work.rmdir()
        finally:
            if ours is not None:
                ours.release()


def _litter(store: Run, cell: str) -> list[Path]:
    """Return what in a cell's folder isn't needed if no process is training the cell."""
    home, work = store.cells / cell, store.work(cell)
    if not home.is_dir():
        return []
    litter = [path for path in home.iterdir() if path.name == LEASE or path.name.startswith(("stolen-", "clock-"))]
    if work.is_dir():
        done = store.is_done(cell)
        litter += [work] if done else [path for path in work.iterdir() if _ATTEMPT.fullmatch(path.name)]
    inside = [path for path in _temporaries(home) if not any(top in path.parents for top in litter)]
    return sorted([*litter, *inside])


def _temporaries(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Yield the unfinished files and folders in `folder` whose writer has ended."""
    for where, folders, files in os.walk(folder):
        shared = not deep or Path(where).name == "failed"  # written without a lease
        for name in [*folders, *files]:
            path = Path(where) / name
            if name.startswith(TEMPORARY) and (not shared or is_abandoned(path)):
                yield path
        folders[:] = [n for n in folders if deep and not n.startswith(TEMPORARY) and n != "done"]


def _removed(store: Run, path: Path, dry_run: bool) -> Removed:
    removed = Removed(path, _size(path))
    if not dry_run:
        with writing(store.path):
            remove(path)
    return removed


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum((Path(where) / name).lstat().st_size for where, _, files in os.walk(path) for name in files)


def bytes_in_words(count: int) -> str:
    """Return a number of bytes as text, such as '1.5 MiB'."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
