"""A choice between settings of one variant, as tables and the paragraph on methods tell it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contracts.row import Row


@dataclass(frozen=True)
class Setting:
    """A variant with its hyperparameters: its rows on the validation split, of all seeds."""

    label: str
    rows: tuple[Row, ...]
    mean: float | None  #: over seeds; None: it can't win, and `why`
    why: str = ""


@dataclass(frozen=True)
class Choice:
    """The settings of one variant on one dataset, under one protocol: each of them was a trial."""

    variant: str
    dataset: str
    metric: str
    seeds: int
    settings: tuple[Setting, ...]
    winner: Setting | None  #: None: no setting could win

    @property
    def fixed(self) -> bool:
        """Whether it's an anchor's only setting, where nobody thinks of a choice."""
        return len(self.settings) == 1 and any(row.anchor for row in self.settings[0].rows)

    @property
    def words(self) -> str:
        """What a table says of the winner."""
        n, seeds = len(self.settings), f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        if self.fixed:
            return ""
        if n == 1:
            return f"its only setting, untuned ({seeds})"
        return f"best of {n} settings by validation {self.metric} ({seeds})"

    @property
    def lines(self) -> list[str]:
        """The choice for people, and what couldn't win."""
        where = f"{self.variant} on {self.dataset}"
        chosen = f"{self.winner.label}, {self.words}" if self.winner else f"no winner of {len(self.settings)}"
        lost = [f"{s.label} can't win: {s.why}" for s in self.settings if s.mean is None and s is not self.winner]
        return [] if self.fixed else [f"{where}: {chosen}", *lost]
