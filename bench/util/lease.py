"""Per-cell locks, by which two runs in one folder share the work.

A convenience, no guarantee: results are committed by one rename, by any process. A lease that is taken from a living
owner costs time and nothing else.
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
    """A lease that this process holds until it releases it."""

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self.path, self.owner = path, owner
        self._renewed = time.monotonic()

    @classmethod
    def take(cls, path: Path) -> Lease | None:
        """Take the lease at `path` and return it; None if a living owner has it."""
        make_folder(path.parent)
        owner = {"owner": uuid4().hex, **_process(os.getpid())}
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                if held(path):
                    return None
                with _alone(path.parent):
                    if held(path):  # another process was faster and has the lease now
                        return None
                    stolen = path.with_name(f"stolen-{uuid4().hex}")
                    try:
                        os.rename(path, stolen)  # which succeeds for one process only
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
        """Tell other machines that the owner is alive, at most every `RENEW` seconds."""
        if time.monotonic() - self._renewed >= RENEW:
            self._renewed = time.monotonic()
            with suppress(OSError):  # a lost lease costs time only
                if self._ours():
                    os.utime(self.path)

    def release(self) -> None:
        """Give the lease back. If its file can't be removed, it is a dead owner's once this process has ended."""
        with suppress(OSError):
            if self._ours():
                self.path.unlink(missing_ok=True)

    def _ours(self) -> bool:
        return bool((_read(self.path) or {}).get("owner") == self.owner["owner"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes of this machine, where its file system has such locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def signature() -> str:
    """Return an identifier of this process for names of files: host, process number and start time."""
    return f"{_tag()}-{os.getpid()}-{_started(os.getpid())}"


def has_ended(signature: str, path: Path) -> bool:
    """Return whether the process with a `signature`, which was writing `path`, has ended.

    A process of another machine, or an unknown one, counts as ended when `path` hasn't changed for STALE seconds.
    """
    host, _, process = signature.partition("-")
    pid, _, started = process.partition("-")
    if host == _tag() and pid.isdigit():
        return _started(int(pid)) != started
    try:
        inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
        last: float = max(p.lstat().st_mtime for p in (path, *inside))
        return _now(path.parent) - last > STALE
    except OSError:  # it was removed meanwhile, or the folder is read-only
        return False


@cache
def _tag() -> str:
    return hashlib.sha256("\0".join(_host()).encode()).hexdigest()[:8]


def held(path: Path) -> bool:
    """Return whether a living owner has the lease at `path`; a link, a FIFO or a device there is no lease."""
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
    except OSError:  # a full disk, or a read-only folder
        return True
    return age < (RENEW if owner is None else STALE)  # None: being written, or torn


def _now(folder: Path) -> float:
    """Return the time by the file system's clock: that of a new file."""
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
    """Return what identifies a process: host, boot, number and start time."""
    host, boot = _host()
    return {"host": host, "boot": boot, "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str | None:
    """Return the start time of a process, '' where the system doesn't tell; None if there is no such process."""
    try:  # the 22nd field, behind a name that may hold anything
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # a zombie has ended
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "" if not Path("/proc/self/stat").exists() else None
