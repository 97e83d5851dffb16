"""Cells in several processes at once. A child plans the request by itself and is told the names of its cells."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.queues import Queue

import torch

from bench.errors import BenchError
from bench.events import Event, Listener
from bench.protocol import RunRequest
from bench.row import Row

_events: Queue[Event] | None = None


def threads_for(jobs: int) -> int:
    """CPU threads of each of `jobs` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def _start(events: Queue[Event], threads: int) -> None:
    global _events
    _events = events
    torch.set_num_threads(threads)


@lru_cache(1)
def _plan(request: RunRequest):  # type: ignore[no-untyped-def]
    from bench import runner

    return runner.plan(request)


def _work(request: RunRequest, name: str) -> Row:
    from bench import runner
    from bench.store import Run

    assert _events is not None
    plan = _plan(request)
    planned = next(c for c in plan.cells if c.name == name)
    return runner.run_cell(planned, plan, Run(plan.folder), _events.put)


def run_cells(request: RunRequest, names: Sequence[str], jobs: int, listener: Listener) -> Iterator[Row]:
    """Run the cells called `names`, `jobs` at a time; yields each row as it's done and passes the children's events on.

    Raises:
        BenchError: a child died. What was finished is on disk.
    """
    context = multiprocessing.get_context("spawn")
    events: Queue[Event] = context.Queue()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(events, threads_for(jobs)))
    todo = list(names)
    busy: list[Future[Row]] = []
    try:
        while todo or busy:
            while todo and len(busy) < jobs:  # never more, so that an interrupt finds nothing queued
                busy.append(pool.submit(_work, request, todo.pop(0)))
            try:
                listener(events.get(timeout=0.05))
                continue
            except queue.Empty:
                pass
            for future in [f for f in busy if f.done()]:
                busy.remove(future)
                yield future.result()
    except BrokenProcessPool:
        raise BenchError(
            "a child process died while it worked on a cell",
            cause="It ran out of memory, or native code in it crashed.",
            fix="Run the same command again to finish what is missing; --jobs 1 shows which cell it is.",
        ) from None
    except BaseException:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGINT)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
