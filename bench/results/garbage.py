"""What runs left behind, and no living attempt needs: found and removed. Results, failures and checkpoints stay."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.results.store import Run
from bench.util.durable import TEMPORARY, is_abandoned, writing
from bench.util.lease import Lease, held

LEASE = "lease.json"
_ATTEMPT = re.compile(r"attempt-\w+|(done|scores|different)-[0-9a-f]{32}")  # the latter: on their way out


@dataclass(frozen=True)
class Removed:
    """A file or folder that is gone, or would be; with its size in bytes."""

    path: Path
    size: int


def collect(store: Run, *, dry_run: bool = False) -> Iterator[Removed]:
    """Remove what no living attempt needs, and say what. A cell that a living process is at is left alone.

    Raises:
        Damaged: a link in it leads elsewhere; nothing has been removed.
        StoreError: the folder can't be written.
    """
    for cell in store.names():
        store.refuse_links(cell)
    for path in _temporaries(store.path, deep=False):
        yield from _remove(store, path, dry_run)
    for cell in store.names():
        lease = store.cells / cell / LEASE
        if not _litter(store, cell) or held(lease):
            continue
        if dry_run:
            for path in _litter(store, cell):
                yield Removed(path, _size(path))
            continue
        stale = [Removed(lease, _size(lease))] if lease.exists() else []
        with writing(store.path):
            ours = Lease.take(lease)  # nobody begins meanwhile; a stale one is gone
        if ours is None:
            continue
        yield from stale
        try:
            for path in _litter(store, cell):
                if path != lease:
                    yield from _remove(store, path, dry_run=False)
            if (work := store.work(cell)).is_dir() and not any(work.iterdir()):
                work.rmdir()
        finally:
            ours.release()


def _litter(store: Run, cell: str) -> list[Path]:
    """What lies in a cell and isn't needed, if nobody is at it."""
    home, work = store.cells / cell, store.work(cell)
    if not home.is_dir():
        return []
    found = [p for p in home.iterdir() if p.name == LEASE or p.name.startswith(("stolen-", "clock-"))]
    if store.is_done(cell):
        found += [work] if work.is_dir() else []
    elif work.is_dir():
        found += [p for p in work.iterdir() if _ATTEMPT.fullmatch(p.name)]
    inside = [path for path in _temporaries(home) if not any(top in path.parents for top in found)]
    return sorted([*found, *inside])


def _temporaries(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """What was being written under `folder`, and lost its writer."""
    for where, folders, files in os.walk(folder):
        # a run's own documents and its failures are written without a lease
        shared = not deep or Path(where).name == "failed"
        for name in [*folders, *files]:
            path = Path(where) / name
            if name.startswith(TEMPORARY) and not (shared and not is_abandoned(path)):
                yield path
        folders[:] = [n for n in folders if deep and not n.startswith(TEMPORARY) and n != "done"]


def _remove(store: Run, path: Path, dry_run: bool) -> Iterator[Removed]:
    size = _size(path)
    if not dry_run:
        with writing(store.path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    yield Removed(path, size)


def _size(path: Path) -> int:
    if path.is_symlink():
        return path.lstat().st_size
    inside = (Path(where) / name for where, _, files in os.walk(path) for name in files)
    return sum(p.lstat().st_size for p in [*([] if path.is_dir() else [path]), *inside])


def bytes_in_words(count: int) -> str:
    """A number of bytes, for people."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
