"""The process of a job: `python -m bench.running.worker JOB.json [PARENT]`, or forked with the same function.

Exit codes: 0 whatever came of the cell is on disk; 4 the folder can't be written (why: error.txt); 143 stopped by
SIGTERM, with a checkpoint. A plugin may end the process with any of them: only a job that came to its end leaves a file
called ENDED in its attempt's folder. SIGUSR1 prints where every thread is.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contracts.executor import Job
from bench.util.errors import BenchError, StoreError
from bench.util.process import kept_umask, make_folder, open_streams, steady

if TYPE_CHECKING:
    from bench.contracts.events import Event

ENDED = "ended"
STORE, STOPPED = 4, 128 + signal.SIGTERM
LOG = 64 * 2**10  # bytes that are kept from each end of what a process prints
BEAT = 1.0  # seconds between signs of life


def detach(log: Path) -> None:
    """Make this process the head of a session of its own, which dies with its parent; what it prints goes to `log`."""
    os.setsid()
    die_with_parent()
    make_folder(log.parent)
    open_streams(log)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def send(pid: int, number: int) -> None:
    """Send a signal to a job's process, and SIGKILL to all of its session."""
    for kill in (os.killpg, os.kill) if number == signal.SIGKILL else (os.kill,):  # it may not head a session yet
        with contextlib.suppress(OSError):
            kill(pid, number)


def place(job: Job) -> Path:
    """The attempt's folder: log.txt, events.jsonl, error.txt if the store failed it, ENDED if it came to its end."""
    return Path(job.folder) / "cells" / job.cell / "work" / job.attempt


def work(job: Job) -> int:
    """Do a job in this process; returns its exit code."""
    with kept_umask(job.umask):
        return _work(job)


def _work(job: Job) -> int:
    stopping: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    home = place(job)
    make_folder(home)
    try:
        code = _perform(job, home, stopping)
        if code == 0:
            steady()
            with contextlib.suppress(OSError):  # another attempt was first, and tidied up
                (home / ENDED).touch()
        return code
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        with contextlib.suppress(OSError):
            steady()
            (home / "error.txt").write_text(str(error), encoding="utf-8")
        return STORE
    except BenchError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
    except BaseException:
        traceback.print_exc()
    return 1


def _perform(job: Job, home: Path, stopping: list[int]) -> int:
    import torch

    from bench import data as datasets
    from bench.contracts.measurement import METRICS
    from bench.contracts.protocol import RunRequest, digest
    from bench.contracts.variant import VARIANTS
    from bench.plugins.hyperparameters import check
    from bench.plugins.unpublished import hand_over
    from bench.results.store import Run
    from bench.running.grid import Config, cell
    from bench.running.job import Conduct, Stopped, perform

    hand_over(job.handed)
    channel = os.open(home / "events.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o666)
    beat = time.monotonic()

    def listener(event: Event) -> None:
        os.write(channel, (json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n").encode())

    def alive() -> None:
        nonlocal beat
        if time.monotonic() - beat >= BEAT:
            beat = time.monotonic()
            os.utime(channel)
            open_streams(home / "log.txt", closed=True)

    def said() -> str:
        open_streams(home / "log.txt", closed=True)  # what is written next would get the number of a closed one
        return clip(home / "log.txt")

    request = RunRequest.from_json(job.request)
    data = datasets.load(
        job.dataset,
        datasets.data_root(request.data_root),
        limit=request.limit,
        validation=request.validation,
        split=request.scoring.split,
        image_size=request.image_size,
        download=False,
    )
    name = VARIANTS.key(job.variant)
    given = check(name, VARIANTS.load(name), dict(job.hyperparameters))
    config = Config(name, tuple(sorted(given.items())), job.baseline, job.sanity)
    c = replace(cell(config, data, job.seed, request), stacked=job.stacked)
    if digest(c.identity)[:12] == job.cell.rpartition("-")[2]:
        c = replace(c, at=job.cell)
    if c.name != job.cell:
        raise BenchError(f"{job.cell} has become {c.name}: its plugin or data changed since the run was planned")
    conduct = Conduct(
        device=torch.device(job.device),
        threads=job.threads,
        checkpoint=request.checkpoint,
        attempt=job.number,
        dead=job.dead,
        alive=alive,
        stop=lambda: bool(stopping),
        said=said,
        profile=request.profile,
    )
    metrics = {METRICS.key(name): METRICS.load(name) for name in job.metrics}
    try:
        perform(c, metrics, Run(job.folder), listener, conduct)
    except Stopped:
        return STOPPED
    return 0


def clip(log: Path) -> str:
    """What a process has printed: its beginning and its end."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(LOG if size > 2 * LOG else size)
            file.seek(max(size - LOG, len(head)))
            tail = file.read(LOG)
    except OSError:
        return ""
    gap = f"\n... {size - len(head) - len(tail):,} bytes left out ...\n".encode() if size > 2 * LOG else b""
    return (head + gap + tail).decode(errors="replace")


def main(argv: list[str]) -> int:
    """Do the job of a file; with the number of its parent, die with that."""
    if len(argv) > 2:
        die_with_parent()
        if os.getppid() != int(argv[2]):  # it died before we asked
            return 1
    return work(Job.from_json(json.loads(Path(argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    code = main(sys.argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plugin may have closed it
            stream.flush()
    os._exit(code)  # all is on disk, and torch takes its time to go
