"""Who is at a cell: so that two runs in one folder share the work.

A convenience, never a guarantee: results are committed by one rename, whoever makes them. So a lease that was taken
from a living owner costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.util import inside
from bench.util.errors import Damaged
from bench.util.process import make_folder

RENEW = 30.0  # seconds
STALE = 10 * RENEW  # by the file system's clock, for an owner on another machine


class Lease:
    """A lease that we hold, until it's released."""

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self.path, self.owner = path, owner
        self._renewed = time.monotonic()

    @classmethod
    def take(cls, path: Path) -> Lease | None:
        """The lease at `path`; None if a living owner has it."""
        make_folder(path.parent)
        owner = {"owner": uuid4().hex, **_process(os.getpid())}
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                if _alive(path):
                    return None
                with _alone(path.parent):
                    if _alive(path):  # somebody was faster, and this is no longer the dead one's
                        return None
                    stolen = path.with_name(f"stolen-{uuid4().hex}")
                    try:
                        os.rename(path, stolen)  # one winner
                        stolen.unlink()
                    except FileNotFoundError:
                        pass
            else:
                try:
                    with open(descriptor, "w", encoding="utf-8") as file:
                        json.dump(owner, file)
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
                return cls(path, owner)
        return None

    def renew(self) -> None:
        """Say that we're still at it, now and then."""
        if time.monotonic() - self._renewed >= RENEW:
            self._renewed = time.monotonic()
            with suppress(OSError):  # it's a convenience
                if self._ours():
                    os.utime(self.path)

    def release(self) -> None:
        """Leave the cell to others. A lease that can't be removed is a dead owner's as soon as we have ended."""
        with suppress(OSError):
            if self._ours():
                self.path.unlink(missing_ok=True)

    def _ours(self) -> bool:
        return bool((_read(self.path) or {}).get("owner") == self.owner["owner"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """With nobody else of this machine in the same folder, where its file system has such locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether a living owner has the lease at `path`."""
    return _alive(path)


def signature() -> str:
    """Return what tells this process from all others, as a part of a file's name: host, number and start."""
    return f"{_tag()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(signature: str, path: Path) -> bool:
    """Return whether the process with a `signature` has ended: `path` is what it was writing.

    Of another machine's process, and of one that isn't known, `path` tells: it hasn't changed for STALE seconds.
    """
    host, _, process = signature.partition("-")
    pid, _, started = process.partition("-")
    if host == _tag() and pid.isdigit():
        return _started(int(pid)) != started
    try:
        inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
        last: float = max(p.lstat().st_mtime for p in (path, *inside))
        return _now(path.parent) - last > STALE
    except OSError:  # it's gone meanwhile, or we may only read
        return False


@cache
def _tag() -> str:
    return hashlib.sha256("\0".join(_host()).encode()).hexdigest()[:8]


def _alive(path: Path) -> bool:
    """Return whether a living owner has the lease at `path`; a link, a FIFO or a device there is nobody's lease."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    owner = _read(path)
    if owner is not None and (owner.get("host"), owner.get("boot")) == _host():
        pid = owner.get("pid")
        return isinstance(pid, int) and _process(pid)["started"] == owner.get("started") is not None
    try:
        age = _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return False
    except OSError:  # a full disk, or a folder that we may only read
        return True
    return age < (RENEW if owner is None else STALE)  # None: being written, or torn


def _now(folder: Path) -> float:
    """The file system's clock: that of a file made just now."""
    probe = folder / f"clock-{uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(inside.content(path))
    except (OSError, ValueError, RecursionError, Damaged):
        return None
    return document if isinstance(document, dict) else None


@cache
def _host() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return socket.gethostname(), boot


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from a later one of the same number."""
    host, boot = _host()
    return {"host": host, "boot": boot, "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str | None:
    try:  # the 22nd field, behind a name that may hold anything
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # it's dead, though its parent hasn't asked how it ended
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "" if not Path("/proc/self/stat").exists() else None
