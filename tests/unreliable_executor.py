"""An executor that does to its jobs what clusters do: some begin late, some run twice at once, some are killed."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from signal import SIGKILL
from typing import ClassVar

from bench.contracts.executor import Exit, Job
from bench.running.executors.local import Local
from bench.running.worker import attempt_dir

MOMENTS = 120  # events of an attempt by which it's killed, if it is: one for each of a hundred steps, and some more
SPARED = 3  # attempts of a cell from this one on are left alone, so that it comes to an end


@dataclass
class Life:
    """One process of an attempt, and after how many of its events it's killed."""

    job: Job
    events: int | None
    handle: int | None = None
    exit: Exit | None = None

    def seen(self) -> int:
        try:
            return (attempt_dir(self.job) / "events.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


@dataclass
class Attempt:
    """What becomes of a job is settled when it's started."""

    lives: list[Life]
    begins: float
    tells: int  # whose end is said to be the attempt's
    stopped: int | None = None
    log: list[str] = field(default_factory=list)


class Chaos:
    """`Local`, with a fate for each attempt by `seed`, the cell's name and the attempt's number."""

    seed: ClassVar[int] = 0
    did: ClassVar[Counter[str]] = Counter()

    def __init__(self, jobs: int, *, address: str | None = None) -> None:
        self.slots = jobs
        self.local = Local(2 * jobs)

    def start(self, job: Job) -> Attempt:
        random = Random(json.dumps([self.seed, job.cell.rpartition("-")[0], job.number]))
        wild = job.number < SPARED
        jobs = [job, replace(job, attempt=f"{job.attempt}-twin")] if wild and random.random() < 0.5 else [job]
        lives = [Life(j, random.randrange(MOMENTS) if wild and random.random() < 0.7 else None) for j in jobs]
        late = 0.3 * random.random() if random.random() < 0.5 else 0.0
        self.did.update(twice=len(jobs) - 1, late=late > 0)
        return Attempt(lives, time.monotonic() + late, random.randrange(len(lives)))

    def begun(self, handle: Attempt) -> bool:
        return handle.lives[0].handle is not None

    def poll(self, handle: Attempt) -> Exit | None:
        if not self.begun(handle):
            if handle.stopped is not None:
                return Exit(None, handle.stopped)
            if time.monotonic() < handle.begins:
                return None
            for life in handle.lives:
                life.handle = self.local.start(life.job)
        for life in handle.lives:
            if life.exit is None and life.handle is not None:
                life.exit = self.local.poll(life.handle)
                if life.exit is None and life.events is not None and life.seen() >= life.events:
                    self.local.stop(life.handle, SIGKILL)
                    self.did["killed"] += 1
                    life.events = None
        if any(life.exit is None for life in handle.lives):
            return None
        return handle.lives[handle.tells].exit

    def stop(self, handle: Attempt, signal: int) -> None:
        handle.stopped = signal
        for life in handle.lives:
            if life.handle is not None:
                self.local.stop(life.handle, signal)

    def close(self) -> None:
        self.local.close()
