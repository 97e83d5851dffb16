"""The process of a job: `python -m bench.running.worker JOB.json [PARENT]`, or a fork that calls `work`.

Exit codes: 0, the outcome of the cell is on disk; 4, the folder can't be written (error.txt says why); 143, stopped by
SIGTERM, with a checkpoint. A plugin may end the process with any of these codes: only a job that reached its end leaves
a file called ENDED in the folder of its attempt. SIGUSR1 prints the stack of every thread.
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
    from bench.running.grid import Cell

ENDED = "ended"
STORE, STOPPED = 4, 128 + signal.SIGTERM
LOG = 64 * 2**10  # bytes of a log that are shown from each end
BEAT = 1.0  # seconds between signs of life


def detach(log: Path) -> None:
    """Move this process into a session of its own that dies with its parent, with output to the file `log`."""
    os.setsid()
    die_with_parent()
    make_folder(log.parent)
    open_streams(log)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def send(pid: int, number: int) -> None:
    """Send a signal to a job's process, and SIGKILL to all of its session."""
    for kill in (os.killpg, os.kill) if number == signal.SIGKILL else (os.kill,):  # a session may not exist yet
        with contextlib.suppress(OSError):
            kill(pid, number)


def attempt_dir(job: Job) -> Path:
    """Return the attempt's folder: log.txt, events.jsonl, error.txt after an error of the store, ENDED at its end."""
    return Path(job.folder) / "cells" / job.cell / "work" / job.attempt


def work(job: Job) -> int:
    """Do a job in this process; return the exit code."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    with kept_umask(job.umask):
        home = attempt_dir(job)
        make_folder(home)
        try:
            code = _perform(job, home, stopping)
            if code == 0:
                steady()
                with contextlib.suppress(OSError):  # another attempt was first, and removed the folder
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

    from bench.contracts.measurement import METRICS
    from bench.plugins.unpublished import hand_over
    from bench.results.store import Run
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

    def printed() -> str:
        open_streams(home / "log.txt", closed=True)  # the next file to be opened would get a closed stream's number
        return clip(home / "log.txt")

    cell = _cell(job)
    conduct = Conduct(
        device=torch.device(job.device),
        threads=job.threads,
        checkpoint=job.request["checkpoint"],
        attempt=job.number,
        dead=job.dead,
        alive=alive,
        stop=lambda: bool(stopping),
        printed=printed,
        profile=job.request["profile"],
    )
    metrics = {METRICS.key(name): METRICS.load(name) for name in job.metrics}
    try:
        perform(cell, metrics, Run(job.folder), listener, conduct)
    except Stopped:
        return STOPPED
    return 0


def _cell(job: Job) -> Cell:
    """Return the job's cell."""
    from bench.contracts.protocol import RunRequest
    from bench.contracts.variant import VARIANTS
    from bench.running.grid import Config, cell, load_data

    request = RunRequest.from_json(job.request)
    config = Config.of(VARIANTS.key(job.variant), job.hyperparameters, baseline=job.baseline, sanity=job.sanity)
    now = cell(config, load_data(job.dataset, request), job.seed, request)
    now = replace(now, stacked=job.stacked).in_folder(job.cell)
    if now.name != job.cell:
        raise BenchError(f"{job.cell} has become {now.name}: its plugin or data changed since the run was planned")
    return now


def clip(log: Path) -> str:
    """Return the beginning and the end of a log; '' where there is none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size <= 2 * LOG:
                return file.read().decode(errors="replace")
            head = file.read(LOG)
            file.seek(size - LOG)
            tail = file.read(LOG)
    except OSError:
        return ""
    return (head + f"\n... {size - 2 * LOG:,} bytes left out ...\n".encode() + tail).decode(errors="replace")


def main(argv: list[str]) -> int:
    """Do the job of a file; with the number of the parent process as well, die with the parent."""
    if len(argv) > 2:
        die_with_parent()
        if os.getppid() != int(argv[2]):  # the parent died before we asked
            return 1
    return work(Job.from_json(json.loads(Path(argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    code = main(sys.argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plugin may have closed it
            stream.flush()
    os._exit(code)  # all is on disk, and torch takes long to shut down
