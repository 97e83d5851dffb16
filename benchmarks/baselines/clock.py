"""How a lap is timed: some steps to warm up, then the steps that count."""

from __future__ import annotations

import gc
import resource
import time
from dataclasses import dataclass

import torch


@dataclass
class Clock:
    """Call `tick` after every step of a training; it's true when the lap is over.

    Wall clock and CPU seconds run from the end of the last warm-up step. Those of children that have ended, such as a
    data loader's workers, can only be had for their whole lives: each step gets its share of them.
    """

    warmup: int
    steps: int
    device: torch.device
    wall: float = 0.0  #: seconds of `steps` steps
    own: float = 0.0  #: CPU seconds of this process in them
    ticks: int = 0

    def __post_init__(self) -> None:
        gc.collect()
        self._children = _children()

    def tick(self) -> bool:
        self.ticks += 1
        if self.ticks == self.warmup:
            self._wait()
            self.wall, self.own = -time.perf_counter(), -time.process_time()
        elif self.ticks == self.warmup + self.steps:
            self._wait()
            self.wall += time.perf_counter()
            self.own += time.process_time()
            return True
        return False

    def cpu(self) -> float:
        """CPU seconds of `steps` steps; ask when the lap's children have ended."""
        return self.own + (_children() - self._children) * self.steps / (self.warmup + self.steps)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
