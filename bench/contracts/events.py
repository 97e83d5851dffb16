"""The events of a run. Displays, logs and loggers read nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.contracts.row import Row
from bench.util.text import settle


class _Event:
    """The base of all events: text from processes and plugins is made plain, except for paths."""

    def __post_init__(self) -> None:
        settle(self, but="folder")


@dataclass(frozen=True)
class Preparing(_Event):
    """Work before the run begins; `done` of `total` bytes for a download."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunStarted(_Event):
    """The run begins, with so many cells and this folder."""

    cells: int
    steps: int  #: of all cells that will be trained
    folder: str
    notes: tuple[str, ...] = ()  #: remarks for the user: estimates, limits of one seed


@dataclass(frozen=True)
class CellStarted(_Event):
    """Training of a cell begins or resumes; `steps` of each stage."""

    cell: str
    label: str
    dataset: str
    seed: int
    steps: tuple[int, ...]
    resumed: int = 0  #: the step of the checkpoint


@dataclass(frozen=True)
class Step(_Event):
    """Progress of training, about 200 times a cell, with the terms averaged since the last event."""

    cell: str
    step: int
    stage: int
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Scoring(_Event):
    """A metric is being computed."""

    cell: str
    metric: str
    seconds: float | None = None  #: expected duration, if it may be long


@dataclass(frozen=True)
class CellEnded(_Event):
    """The cell is on disk, whatever its status; `reused` if it was there before."""

    cell: str
    row: Row
    reused: bool = False


@dataclass(frozen=True)
class Stopping(_Event):
    """The run was told to stop; so many running cells write a checkpoint."""

    cells: int


@dataclass(frozen=True)
class RunEnded(_Event):
    """All cells are on disk, and the derived tables are written."""

    folder: str
    rows: tuple[Row, ...]
    seconds: float
    figure: str = ""  #: the file of the rate-distortion figure, if any


Event = Preparing | RunStarted | CellStarted | Step | Scoring | CellEnded | Stopping | RunEnded
Listener = Callable[[Event], None]
