"""Progress of a run on stderr: bars in a terminal, a few lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from bench.contracts.events import (
    CellEnded,
    CellStarted,
    Event,
    Preparing,
    RunEnded,
    RunStarted,
    Scoring,
    Step,
    Stopping,
)
from bench.util.text import plain
from bench.util.wording import counted

QUARTERS = 4  # lines of a cell's training without bars


@dataclass
class _Training:
    """A cell that is being trained."""

    started: CellStarted
    step: int
    bar: TaskID | None = None


class Console:
    """A listener that shows events: one bar for the run, and one for each cell that is being trained.

    A cell that ends leaves its bar to the next cell that begins, so that bars keep their places.
    """

    def __init__(self, console: RichConsole | None = None, *, quiet: bool = False) -> None:
        self.console = console or _stderr(quiet=quiet)
        self.folder = ""
        self._live: Progress | None = None
        self._run = TaskID(0)
        self._free: list[TaskID] = []  # bars of cells that have ended
        self._training: dict[str, _Training] = {}
        self._cells = self._ended = self._reused = self._failed = 0
        self._preparation = ""
        self._predicted: set[tuple[str, str, str]] = set()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Preparing():
                self._prepare(event)
            case RunStarted():
                self._start_run(event)
            case CellStarted():
                self._start_cell(event)
            case Step():
                self._step(event)
            case Scoring():
                self._score(event)
            case CellEnded():
                self._end_cell(event)
            case Stopping():
                cells = counted(event.cells, "cell")
                self._say(f"stopping: writing a checkpoint of {cells}; press Ctrl-C again to stop at once", "yellow")
            case RunEnded():
                self._end_run(event)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def warn(self, text: str) -> None:
        """Show a warning, even if progress is quiet."""
        text = plain(text, lines=True)
        if self.console.quiet:
            _stderr().print(Text(text, "yellow"), soft_wrap=True)
        else:
            self._say(text, "yellow")

    def _say(self, text: str | Text, style: str = "", *, whole: bool = True) -> None:
        """Print a line above the bars; unless it is to stay `whole`, a terminal breaks it between words."""
        console = self._live.console if self._live else self.console
        line = Text(text, style) if isinstance(text, str) else text
        console.print(line, soft_wrap=whole or not self.console.is_terminal)

    def _prepare(self, event: Preparing) -> None:
        if event.what != self._preparation:
            self.close()
            self._preparation = event.what
            self._say(event.what, "dim")
            if event.total and self.console.is_terminal:
                self._live = Progress(BarColumn(), DownloadColumn(), console=self.console, transient=True)
                self._run = self._live.add_task(event.what, total=event.total)
                self._live.start()
        if self._live is not None and event.total:
            self._live.update(self._run, completed=event.done)

    def _start_run(self, event: RunStarted) -> None:
        self.close()
        self.folder, self._cells, self._ended, self._reused, self._failed = event.folder, event.cells, 0, 0, 0
        todo = f"{counted(event.cells, 'cell')}, {event.steps:,} step{'' if event.steps == 1 else 's'} to train"
        self._say(f"{todo}, in {plain(event.folder)}")
        for note in event.notes:
            self._say(note, "dim", whole=False)
        if self.console.is_terminal and not self.console.quiet:
            self._live, self._free, where = _bars(self.console), [], f"0/{event.cells}"
            self._run = self._live.add_task("all cells", total=max(event.steps, 1), seed="", where=where, terms="")
            self._live.start()

    def _start_cell(self, event: CellStarted) -> None:
        before = self._training.get(event.cell) or _Training(event, 0)  # there is one if this is another attempt
        cell = self._training[event.cell] = _Training(event, event.resumed, before.bar)
        if self._live is None:
            steps = "+".join(f"{s:,}" for s in event.steps)
            rest = f", from step {event.resumed:,} on" if event.resumed else ""
            self._say(f"{self._place()} {_name(event)}: {steps} steps{rest}")
            return
        if cell.bar is None:
            cell.bar = self._free.pop(0) if self._free else self._live.add_task("", seed="", where="", terms="")
        total = sum(event.steps)
        self._live.reset(cell.bar, total=total, completed=event.resumed, description=f"{event.label} · {event.dataset}",
                         seed=f"s{event.seed}", where=f"{event.resumed:,}/{total:,}", terms="")  # fmt: skip
        self._live.advance(self._run, event.resumed - before.step)

    def _step(self, event: Step) -> None:
        if (cell := self._training.get(event.cell)) is None:
            return
        total, before = sum(cell.started.steps), cell.step
        cell.step = event.step
        terms = "  ".join(f"{name} {value:.4g}" for name, value in list(event.terms.items())[:4])
        if self._live is not None and cell.bar is not None:
            self._live.update(cell.bar, completed=event.step, where=f"{event.step:,}/{total:,}", terms=terms)
            self._live.advance(self._run, max(event.step - before, 0))
        elif event.step < total and event.step * QUARTERS // total > before * QUARTERS // total:
            self._say(f"{self._place()} {_name(cell.started)}: step {event.step:,}  {terms}", "dim")

    def _score(self, event: Scoring) -> None:
        cell = self._training.get(event.cell)
        key = (cell.started.label, cell.started.dataset, event.metric) if cell else ("", "", event.metric)
        if (text := time_expected(event.metric, event.seconds)) and key not in self._predicted:  # once for all seeds
            self._predicted.add(key)
            self._say(f"{self._place()} {_name(cell.started)}: {text}" if cell else text, "dim")
        if self._live is not None and cell is not None and cell.bar is not None:
            self._live.update(cell.bar, terms=f"scoring {event.metric}")

    def _end_cell(self, event: CellEnded) -> None:
        self._ended += 1
        row, cell = event.row, self._training.pop(event.cell, None)
        if self._live is not None:
            rest = 0
            if cell is not None and cell.bar is not None:
                self._free.append(cell.bar)
                self._live.update(cell.bar, total=cell.step, terms=row.status)  # finished: no time is left
                rest = sum(cell.started.steps) - cell.step
            self._live.update(self._run, advance=max(rest, 0), where=f"{self._ended}/{self._cells}")
        if event.reused:
            self._reused += 1
            self._failed += row.status not in ("ok", "skipped")
            return
        seconds = row.costs.get("train_seconds")
        took = f"  trained in {seconds:.0f} s" if row.status == "ok" and seconds is not None else ""
        style = {"ok": "green", "skipped": "yellow"}.get(row.status, "red")
        why = f": {row.reason}" if row.reason else ""
        name = f"[{self._ended}/{self._cells}] {row.label} · {row.dataset} · seed {row.seed}  "
        self._say(Text.assemble(name, (row.status, style), why, (took, "dim")))

    def _end_run(self, event: RunEnded) -> None:
        self.close()
        if self._reused:
            self._say(f"{counted(self._reused, 'cell')} reused from an earlier run", "dim")
        if self._failed:
            self._say(f"{counted(self._failed, 'cell')} of these failed: --retry-failed tries again", "dim")
        self._say(f"{self._ended}/{self._cells} cells in {duration(event.seconds)}", "dim")
        if event.figure:
            self._say(f"rate-distortion figure in {event.figure}", "dim")

    def _place(self) -> str:
        return f"[{self._ended + 1}/{self._cells}]"


def _stderr(*, quiet: bool = False) -> RichConsole:
    return RichConsole(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each download; yields a function of a path, its bytes so far, and its bytes in all."""
    console, text = _stderr(), TextColumn("{task.description}", markup=False)
    bars: dict[str, TaskID] = {}
    with Progress(
        text, BarColumn(), DownloadColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as live:

        def on_progress(path: str, so_far: int, total: int) -> None:
            if path not in bars:
                bars[path] = live.add_task(path, total=total)
            live.update(bars[path], completed=so_far)

        yield on_progress


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Show a line with what is being done, in a terminal; yields a function of the words."""
    console = _stderr()
    columns = SpinnerColumn(), TextColumn("{task.description}", style="dim", markup=False)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False
    ) as live:
        task = live.add_task("")
        yield lambda what: live.update(task, description=plain(what))


def _bars(console: RichConsole) -> Progress:
    """Return bars with columns of fixed widths, so that no bar moves: name, seed, bar, step, time left, loss terms."""

    def column(**settings: Any) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", **settings)

    def text(field: str, style: str = "none", justify: Any = "left", **settings: Any) -> TextColumn:
        return TextColumn(f"{{task.{field}}}", style, justify, markup=False, table_column=column(**settings))

    return Progress(
        text("description", ratio=3),
        text("fields[seed]", width=4),
        BarColumn(bar_width=12, table_column=column(width=12)),
        text("fields[where]", width=13, justify="right"),
        TimeRemainingColumn(compact=True, table_column=column(width=7, justify="right")),
        text("fields[terms]", "dim", ratio=2),
        console=console,
        transient=True,
        refresh_per_second=4,
        expand=True,
    )


def _name(event: CellStarted) -> str:
    return f"{event.label} · {event.dataset} · seed {event.seed}"


def time_expected(metric: str, seconds: float | None) -> str:
    """Return how long a metric will take, in words; '' if the time is unknown or below a second."""
    return "" if seconds is None or seconds < 1 else f"{metric} takes about {duration(seconds)}"


def duration(seconds: float) -> str:
    """Return seconds in words: '1 h 2 min', '2 min 3 s' or '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
