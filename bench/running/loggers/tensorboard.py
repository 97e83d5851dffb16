"""TensorBoard: event files under logs/tensorboard in the run's folder, a folder for each cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.contracts.events import CellEnded, CellStarted, Event, RunStarted, Step
from bench.contracts.logger import needs, place
from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.util.text import escape_markdown


class TensorBoard:
    """TensorBoard event files: `tensorboard --logdir RUN/logs/tensorboard` shows them.

    Terms are `train/<term>` by step, scores `score/<metric>` and costs `cost/<name>` at the last step; each cell has a
    line in the table of hyperparameters, and a text with its status.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise needs("tensorboard", "tensorboard", error) from None
        self._make: Any = SummaryWriter
        self._folder = Path()
        self._open: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._folder = place(event.folder, "tensorboard")
            case CellStarted():
                if event.cell in self._open:  # another try
                    self._open.pop(event.cell).close()
                resumed = event.resumed + 1 if event.resumed else None  # later steps were logged by an earlier try
                self._open[event.cell] = self._make(str(self._folder / event.cell), purge_step=resumed)
            case Step() if event.cell in self._open:
                for name, value in event.terms.items():
                    self._open[event.cell].add_scalar(f"train/{name}", value, event.step)
            case CellEnded() if not event.reused:
                self._end(event.cell, event.row)

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()
        self._open.clear()

    def _end(self, cell: str, row: Row) -> None:
        writer = self._open.pop(cell, None) or self._make(str(self._folder / cell))
        last = sum(row.steps)
        for name, value in row.costs.items():
            writer.add_scalar(f"cost/{name}", value, last)
        ended = f"{row.label} · {row.dataset} · seed {row.seed}: {row.status} {row.reason}"
        writer.add_text("cell", escape_markdown(ended))  # TensorBoard renders Markdown
        given = {name: v if isinstance(v, bool | int | float) else show(v) for name, v in row.hyperparameters.items()}
        about = {"variant": row.variant, "dataset": row.dataset, "seed": row.seed, "status": row.status}
        scores = {f"score/{name}": s.value for name, s in row.scores.items() if isinstance(s, Score)}
        writer.add_hparams({**about, **given}, scores, run_name=".", global_step=last)
        writer.close()
