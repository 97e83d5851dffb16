"""The contract of an executor: it places jobs, in processes of their own, and owns no truth.

What a job came to is read from the run's folder; an `Exit` only explains why nothing is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from bench.plugins.registry import Registry


@dataclass(frozen=True)
class Job:
    """One cell for a process of its own, as plain values."""

    folder: str  #: the run's, absolute
    cell: str
    attempt: str  #: name of a folder under the cell's work/
    variant: str
    hyperparameters: Mapping[str, Any]
    baseline: bool
    sanity: bool
    dataset: str
    seed: int
    metrics: tuple[str, ...]
    request: Mapping[str, Any]  #: RunRequest as JSON
    device: str
    threads: int
    number: int = 1  #: of the attempt
    dead: Mapping[str, str] = field(default_factory=dict)  #: metrics that brought a process down, and how
    gpus: float = 0.0
    stacked: tuple[int, ...] = ()  #: the seeds that are trained with it, its own among them
    umask: int | None = None  #: of the command; None: whatever its process has
    handed: tuple[str, ...] = ()  #: the addresses of code that may be run for it, as the user handed them over

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Job:
        lists = {name: tuple(document.get(name, ())) for name in ("metrics", "stacked", "handed")}
        return cls(**{**document, **lists})


@dataclass(frozen=True)
class Exit:
    """How a job's process ended."""

    code: int | None  #: None: by a signal, or unknown
    signal: int | None = None
    reason: str = ""  #: what the executor knows besides


class Executor(Protocol):
    """Starts jobs and watches their processes. A restart of the same job is a new attempt."""

    def __init__(self, jobs: int, *, address: str | None = None) -> None: ...

    @property
    def slots(self) -> int:
        """How many jobs may be under way at once."""
        ...

    def start(self, job: Job) -> Any:
        """Begin a job; returns a handle."""
        ...

    def poll(self, handle: Any) -> Exit | None:
        """How it ended; None while it hasn't."""
        ...

    def begun(self, handle: Any) -> bool:
        """Whether its process has been started; no limit of time counts before."""
        ...

    def stop(self, handle: Any, signal: int) -> None:
        """Send a signal to the job's process, and, for SIGKILL, to all that it started."""
        ...

    def close(self) -> None:
        """Kill what is left, and let go of everything."""
        ...


def _is_executor(obj: object) -> str | None:
    wanted = ("start", "poll", "begun", "stop", "close")
    missing = [name for name in wanted if not callable(getattr(obj, name, None))]
    return f"it lacks {', '.join(missing)}" if missing else None


EXECUTORS: Registry[type[Executor]] = Registry("bench.executors", "executor", _is_executor)
