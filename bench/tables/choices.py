"""The choice of one setting of a variant among several, by validation scores."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contracts.row import Row


@dataclass(frozen=True)
class Setting:
    """A variant with its hyperparameters: its rows on the validation split, of all seeds."""

    label: str
    rows: tuple[Row, ...]
    mean: float | None  #: over seeds; None: it cannot be chosen, `why` says the reason
    why: str = ""


@dataclass(frozen=True)
class Choice:
    """The settings of one variant on one dataset, under one protocol; each was a trial."""

    variant: str
    dataset: str
    metric: str
    seeds: int
    settings: tuple[Setting, ...]
    winner: Setting | None  #: None: no setting could win

    @property
    def fixed(self) -> bool:
        """Whether it is the only setting of a baseline or reference row, where nothing is chosen."""
        return len(self.settings) == 1 and any(row.reference for row in self.settings[0].rows)

    @property
    def words(self) -> str:
        """How the winner was chosen, for a table's notes."""
        n, seeds = len(self.settings), f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        if self.fixed:
            return ""
        if n == 1:
            return f"its only setting, untuned ({seeds})"
        return f"best of {n} settings by validation {self.metric} ({seeds})"

    @property
    def lines(self) -> list[str]:
        """The choice in sentences, and the settings that could not be chosen."""
        where = f"{self.variant} on {self.dataset}"
        chosen = f"{self.winner.label}, {self.words}" if self.winner else f"no winner of {len(self.settings)}"
        lost = [s for s in self.settings if s.mean is None and s is not self.winner]
        return [] if self.fixed else [f"{where}: {chosen}", *(f"{s.label} cannot be chosen: {s.why}" for s in lost)]
