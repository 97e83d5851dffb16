"""Variants and a metric of a stranger's, who makes every mistake there is; for runs in processes of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import Batch, Loss, Score, Spec, Variant
from bench.evidence import Terms
from bench.measurement import metric

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


@metric(Terms(), unit="nats", direction=None)
def deadly(terms: Any) -> Score:
    """Brings its process down."""
    if "STRANGERS_DEADLY" in os.environ:
        ctypes.string_at(0)
    return Score(0.0, 1)
