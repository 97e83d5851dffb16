"""What the runner says while it works. The display, logs and loggers read nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.contracts.row import Row
from bench.util.text import settle


class _Said:
    """Make the text of a job's process or of a plugin plain; a path stays a path."""

    def __post_init__(self) -> None:
        settle(self, but="folder")


@dataclass(frozen=True)
class Preparing(_Said):
    """Something that takes a while before the run begins; `done` of `total` bytes, where it is a download."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class RunStarted(_Said):
    """The run begins: how many cells it has, and where its results lie."""

    cells: int
    steps: int  #: optimiser steps of all cells that will be trained
    folder: str
    notes: tuple[str, ...] = ()  #: what the user should know beforehand: estimates, what one seed can't show


@dataclass(frozen=True)
class CellStarted(_Said):
    """Training of a cell begins, or goes on; `steps` of each stage."""

    cell: str
    label: str
    dataset: str
    seed: int
    steps: tuple[int, ...]
    resumed: int = 0  #: the step of the checkpoint that it goes on from


@dataclass(frozen=True)
class Step(_Said):
    """Sent about 200 times a cell: `step` of the cell's total, and the terms averaged since the last."""

    cell: str
    step: int
    stage: int
    terms: Mapping[str, float]


@dataclass(frozen=True)
class Scoring(_Said):
    """A metric is being computed."""

    cell: str
    metric: str
    seconds: float | None = None  #: what it'll take, where that may be long


@dataclass(frozen=True)
class CellEnded(_Said):
    """The cell is on disk, whatever its status. `reused`: it was there already."""

    cell: str
    row: Row
    reused: bool = False


@dataclass(frozen=True)
class Stopping(_Said):
    """The run was asked to stop: so many cells under way are keeping a checkpoint."""

    cells: int


@dataclass(frozen=True)
class RunEnded(_Said):
    """All cells are on disk, and the derived tables are written."""

    folder: str
    rows: tuple[Row, ...]
    seconds: float
    figure: str = ""  #: the file of the rate-distortion plane, where there is one


Event = Preparing | RunStarted | CellStarted | Step | Scoring | CellEnded | Stopping | RunEnded
Listener = Callable[[Event], None]
