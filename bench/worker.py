"""What a job's process does: `python -m bench.worker JOB.json [PARENT]`, or forked with the same function.

Exit codes: 0 whatever came of the cell is on disk; 4 the folder can't be written (why: error.txt); 143 stopped by
SIGTERM, with a checkpoint. SIGUSR1 prints where every thread is.
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

from bench.errors import BenchError, StoreError
from bench.executor import Job

if TYPE_CHECKING:
    from bench.events import Event

STORE, STOPPED = 4, 128 + signal.SIGTERM
LOG = 64 * 2**10  # bytes that are kept from each end of what a process prints
BEAT = 1.0  # seconds between signs of life


def detach(log: Path) -> None:
    """Make this process the head of a session of its own, which dies with its parent; what it prints goes to `log`."""
    os.setsid()
    die_with_parent()
    log.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(out)
    os.close(null)


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
    """The attempt's folder: log.txt, events.jsonl, and error.txt if the store failed it."""
    return Path(job.folder) / "cells" / job.cell / "work" / job.attempt


def work(job: Job) -> int:
    """Do a job in this process; returns its exit code."""
    stopping: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    home = place(job)
    home.mkdir(parents=True, exist_ok=True)
    try:
        return _work(job, home, stopping)
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        with contextlib.suppress(OSError):
            (home / "error.txt").write_text(str(error), encoding="utf-8")
        return STORE
    except BenchError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
    except BaseException:
        traceback.print_exc()
    return 1


def _work(job: Job, home: Path, stopping: list[int]) -> int:
    import torch

    from bench import data as datasets
    from bench.grid import Config, cell
    from bench.hyperparameters import check
    from bench.job import Conduct, Stopped, perform
    from bench.measurement import METRICS
    from bench.protocol import RunRequest, digest
    from bench.store import Run
    from bench.variant import VARIANTS

    channel = os.open(home / "events.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
    beat = time.monotonic()

    def listener(event: Event) -> None:
        os.write(channel, (json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n").encode())

    def alive() -> None:
        nonlocal beat
        if time.monotonic() - beat >= BEAT:
            beat = time.monotonic()
            os.utime(channel)

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
    name = VARIANTS.take(job.variant)
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
        said=lambda: clip(home / "log.txt"),
        profile=request.profile,
    )
    metrics = {METRICS.take(name): METRICS.load(name) for name in job.metrics}
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is on disk, and torch takes its time to go
