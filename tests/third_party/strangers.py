"""Variants and a metric of a stranger's, who makes every mistake there is; for runs in processes of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from bench import Batch, Loss, Score, Spec, Stage, Variant
from bench.contracts.measurement import metric
from bench.evidence import Terms, TestImages

AT = 5  # the step in which things happen


class Calm(Variant):
    """An honest small model with noise in its loss: one learned image, whatever it sees."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.logits = nn.Parameter(torch.zeros(spec.shape))
        self.seen = 0

    def loss(self, batch: Batch) -> Loss:
        self.seen += 1
        if self.seen == AT:
            self.happens()
        logits = self.logits + 0.1 * torch.randn(self.spec.shape)
        rec = -self.spec.make_likelihood().log_prob(batch.x, logits.expand_as(batch.x)).mean()
        return rec, {"rec": rec}

    def happens(self) -> None: ...

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.logits.sigmoid().expand(len(y), *self.spec.shape)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.spec.make_likelihood().log_prob(x, self.logits.expand_as(x)), torch.zeros(len(x))


class Raises(Calm):
    def happens(self) -> None:
        raise RuntimeError("the fifth step is too much for me")


class Diverges(Calm):
    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        return loss + torch.where(batch.progress > 0.5, torch.nan, 0.0), terms


class Exits(Calm):
    def happens(self) -> None:
        os._exit(7)


class SystemExits(Calm):
    def happens(self) -> None:
        sys.exit("I have had enough")


class Segfaults(Calm):
    def happens(self) -> None:
        ctypes.string_at(0)


class Hangs(Calm):
    def happens(self) -> None:
        time.sleep(1000)


class Grips(Calm):
    """Hangs without letting go of the interpreter's lock."""

    def happens(self) -> None:
        ctypes.PyDLL(None).sleep(1000)


class Floods(Calm):
    def happens(self) -> None:
        line = "x" * 2**20 + "\n"
        for _ in range(64):
            os.write(1, line.encode())
            time.sleep(0.002)


class Hungry(Calm):
    def happens(self) -> None:
        torch.empty(2**48)


class Shot(Calm):
    """Its process is killed from outside, once for each file that STRANGERS_BULLETS holds."""

    def happens(self) -> None:
        time.sleep(0.1)  # a checkpoint is due
        for bullet in Path(os.environ["STRANGERS_BULLETS"]).iterdir():
            bullet.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Poisoned(Calm):
    """Its process is killed each time."""

    def loss(self, batch: Batch) -> Loss:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch)


class Orphans(Calm):
    """Leaves a process behind."""

    def happens(self) -> None:
        child = subprocess.Popen(["sleep", "1000"])
        Path(os.environ["STRANGERS_PIDS"]).write_text(str(child.pid))


class Slow(Calm):
    def loss(self, batch: Batch) -> Loss:
        time.sleep(0.02)
        return super().loss(batch)


class Unbuilt(Calm):
    def __init__(self, spec: Spec) -> None:
        raise ZeroDivisionError("no")


WAYS: dict[str, Callable[[], object]] = {
    "exits_0": lambda: os._exit(0),
    "exits_4": lambda: os._exit(4),
    "aborts": os.abort,
    "executes": lambda: os.execv(sys.executable, [sys.executable, "-c", "print('somebody else')"]),
    "parent_leaves": lambda: os.fork() and os._exit(0),
    "is_built": lambda: None,
    "has_stages": lambda: None,
    "thread_exits": lambda: Thread(target=sys.exit).start(),
    "thread_stays": lambda: Thread(target=time.sleep, args=(1000,), daemon=True).start(),
    "thread_stays_on": lambda: Thread(target=time.sleep, args=(1000,)).start(),
    "closes": lambda: (sys.stdout.write("not yet flushed"), [os.close(n) for n in range(3)]),
    "masks": lambda: os.umask(0o777),
    "copies": os.fork,
}


class Ends(Calm):
    """Ends its process, or what it has to do with others, in one way or another."""

    def __init__(self, spec: Spec, *, way: str = "") -> None:
        super().__init__(spec)
        self.way = way
        if way == "is_built":
            os._exit(0)

    def stages(self) -> tuple[Stage, ...]:
        if self.way == "has_stages":
            sys.exit(0)
        return super().stages()

    def happens(self) -> None:
        WAYS[self.way]()


@metric(Terms(), unit="nats", default=False)
def leaves(terms: Any) -> Score:
    """Ends its process as if all were well."""
    os._exit(0)


@metric(Terms(), unit="nats", default=False)
def hangs(terms: Any) -> Score:
    """Doesn't come to an end, nor listens."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
    return Score(0.0, 1)


@metric(Terms(), unit="nats", default=False)
def forks(terms: Any) -> Score:
    """Comes back twice, with a number of its own each time."""
    copy = os.fork()
    if copy:
        os.waitpid(copy, 0)
    return Score(float(copy == 0), 1)


@metric(TestImages(), unit="nats", default=False, predicted=lambda context: os._exit(0))
def foretells(images: Any) -> Score:
    """Ends its process when it's asked how long it will take."""
    return Score(0.0, 1)


@metric(Terms(), unit="nats", direction=None)
def deadly(terms: Any) -> Score:
    """Brings its process down."""
    if "STRANGERS_DEADLY" in os.environ:
        ctypes.string_at(0)
    return Score(0.0, 1)
