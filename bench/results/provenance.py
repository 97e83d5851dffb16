"""The provenance and the costs of a row: machine, versions, time, memory, and the log of its cell."""

from __future__ import annotations

import platform
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from bench.engine.trainer import History


class Log:
    """The log of a cell: lines with the time."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, line: str) -> None:
        self.text += f"{now()} {line}\n"

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Write the warnings that are raised inside as lines."""

        def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
            self(f"{category.__name__}: {message}")

        with warnings.catch_warnings():
            warnings.showwarning = show
            yield


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def costs(parameters: int, history: History, device: torch.device) -> dict[str, float]:
    """Return what a cell cost: seconds, images per second, MiB. A repeated training need not reproduce it."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:  # of the whole process so far
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    running = max(history.seconds - history.compiling, 1e-9)
    speed = {"images_per_second": round(history.images / running, 1)} if history.images else {}
    return {
        "parameters": parameters,
        "train_seconds": round(history.seconds, 3),
        **({"compile_seconds": round(history.compiling, 3)} if history.compiling else {}),
        **speed,
        "peak_mib": round(peak, 1),
    }


def provenance(device: torch.device, started: str) -> dict[str, Any]:
    """Return versions, machine, device and threads of a cell."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "vaebench": version("vaebench"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "started": started,
        "ended": now(),
    }
