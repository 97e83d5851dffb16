"""The contract of an executor, which runs each job in a process of its own.

Results are read only from the run's folder; an `Exit` explains why none is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from bench.plugins.registry import Registry


@dataclass(frozen=True)
class Job:
    """One cell to train and score in a process of its own, as plain values."""

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
    dead: Mapping[str, str] = field(default_factory=dict)  #: metrics that killed an earlier process, with the reason
    gpus: float = 0.0
    stacked: tuple[int, ...] = ()  #: seeds trained together, its own among them
    umask: int | None = None  #: of the command; None: that of the process
    handed: tuple[str, ...] = ()  #: addresses of code that the user allowed to run for it

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Job:
        lists = {name: tuple(document.get(name, ())) for name in ("metrics", "stacked", "handed")}
        return cls(**{**document, **lists})


@dataclass(frozen=True)
class Exit:
    """The end of a job's process."""

    code: int | None  #: None: by a signal, or unknown
    signal: int | None = None
    reason: str = ""  #: further knowledge of the executor


class Executor(Protocol):
    """A launcher of jobs that watches their processes. A restart of the same job is a new attempt."""

    def __init__(self, jobs: int, *, address: str | None = None) -> None: ...

    @property
    def slots(self) -> int:
        """The number of jobs that can run at once."""
        ...

    def start(self, job: Job) -> Any:
        """Start a job and return its handle."""
        ...

    def poll(self, handle: Any) -> Exit | None:
        """Return the end of the job's process, or None while it runs."""
        ...

    def begun(self, handle: Any) -> bool:
        """Return whether the process has started; time limits count from then."""
        ...

    def stop(self, handle: Any, signal: int) -> None:
        """Send a signal to the job's process; SIGKILL also to all processes that it started."""
        ...

    def close(self) -> None:
        """Kill the remaining jobs and release all resources."""
        ...


def _is_executor(obj: object) -> str | None:
    wanted = ("start", "poll", "begun", "stop", "close")
    missing = [name for name in wanted if not callable(getattr(obj, name, None))]
    return f"it lacks {', '.join(missing)}" if missing else None


EXECUTORS: Registry[type[Executor]] = Registry("bench.executors", "executor", _is_executor)
