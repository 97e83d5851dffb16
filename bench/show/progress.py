"""Progress of a run on stderr: bars in a terminal, sparse lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from bench.drawing.figures import shortened
from bench.util.text import plain

if TYPE_CHECKING:
    from bench.contracts.events import CellEnded, CellStarted, Event, Preparing, RunEnded, RunStarted, Scoring, Step

QUARTERS = 4  # lines a cell gets while it trains, where there are no bars
FRAMES = 4  # times a second that bars are drawn
LABEL = 10  # letters of a label that are shown before its dataset is


class Console:
    """A listener: shows events as they come. One bar for the run, one for each cell that is at work.

    A cell that ended leaves its line to the next one that begins, so that lines neither jump nor change their number.
    """

    def __init__(self, console: RichConsole | None = None, *, quiet: bool = False) -> None:
        self.console = console or RichConsole(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self.folder = ""
        self._live: Progress | None = None
        self._run: TaskID | None = None
        self._bars: dict[str, TaskID] = {}
        self._free: list[TaskID] = []  # lines of cells that have ended
        self._lines: _Lines | None = None
        self._at: dict[str, CellStarted] = {}
        self._seen: dict[str, int] = {}
        self._cells = self._ended = self._reused = self._failed = 0
        self._what = ""
        self._foretold: set[tuple[str, str, str]] = set()

    def __call__(self, event: Event) -> None:
        from bench.contracts.events import (
            CellEnded,
            CellStarted,
            Preparing,
            RunEnded,
            RunStarted,
            Scoring,
            Step,
            Stopping,
        )

        match event:
            case Preparing():
                self._preparing(event)
            case RunStarted():
                self._run_started(event)
            case CellStarted():
                self._cell_started(event)
            case Step():
                self._step(event)
            case Scoring():
                self._scoring(event)
            case CellEnded():
                self._cell_ended(event)
            case Stopping():
                keeping = f"{_count(event.cells, 'cell')} under way, keeping a checkpoint each"
                self._say(Text(f"stopping: {keeping}; once more stops at once", "yellow"))
            case RunEnded():
                self._run_ended(event)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away, whatever happened."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def warn(self, text: str) -> None:
        """Say what must not be missed, even where there is no progress to be shown."""
        said = Text(plain(text, lines=True), "yellow")
        if self.console.quiet:
            RichConsole(stderr=True, highlight=False, markup=False, emoji=False).print(said, soft_wrap=True)
        else:
            self._say(said)

    def _say(self, text: Text, *, whole: bool = True) -> None:
        """A line; if it isn't to be kept `whole`, for somebody to copy, a terminal's is broken between words."""
        soft_wrap = whole or not self.console.is_terminal
        (self._live.console if self._live else self.console).print(text, soft_wrap=soft_wrap)

    def _preparing(self, event: Preparing) -> None:
        if event.what != self._what:
            self.close()
            self._what = event.what
            self._say(Text(event.what, "dim"))
            if event.total and self.console.is_terminal:
                self._live = Progress(BarColumn(), DownloadColumn(), console=self.console, transient=True)
                self._run = self._live.add_task(event.what, total=event.total)
                self._live.start()
        if self._live is not None and self._run is not None and event.total:
            self._live.update(self._run, completed=event.done)

    def _run_started(self, event: RunStarted) -> None:
        self.close()
        self.folder, self._cells, self._ended, self._reused, self._failed = event.folder, event.cells, 0, 0, 0
        todo = f"{_count(event.cells, 'cell')}, {_count(event.steps, 'step')} to train"
        self._say(Text(f"{todo}, in {plain(event.folder)}"))
        for note in event.notes:
            self._say(Text(note, "dim"), whole=False)
        if self.console.is_terminal and not self.console.quiet:
            self._lines = _Lines(self.console.width)
            self._live = self._lines.progress(self.console)
            self._bars, self._free = {}, []
            where = f"0/{event.cells}"
            self._run = self._live.add_task("all cells", total=max(event.steps, 1), where=where, terms="")
            self._live.start()

    def _cell_started(self, event: CellStarted) -> None:
        before = self._seen.get(event.cell, 0)
        self._at[event.cell], self._seen[event.cell] = event, event.resumed
        if self._live and self._lines and self._run is not None:
            total, where = sum(event.steps), f"{event.resumed:,}/{sum(event.steps):,}"
            if event.cell not in self._bars:  # otherwise it's another try
                self._bars[event.cell] = (
                    self._free.pop(0) if self._free else self._live.add_task("", where="", terms="")
                )
            name, bar = self._lines.name(event), self._bars[event.cell]
            self._live.reset(
                bar, total=total, completed=event.resumed, description=name, where=where, terms="", over=False
            )
            self._live.advance(self._run, event.resumed - before)
        else:
            steps = "+".join(f"{s:,}" for s in event.steps)
            on = f", from step {event.resumed:,} on" if event.resumed else ""
            self._say(Text(f"{self._place()} {_name(event)}: {steps} steps{on}"))

    def _step(self, event: Step) -> None:
        started = self._at.get(event.cell)
        if started is None:
            return
        total, before = sum(started.steps), self._seen[event.cell]
        self._seen[event.cell] = event.step
        if self._live and self._lines and self._run is not None:
            bar, where = self._bars[event.cell], f"{event.step:,}/{total:,}"
            terms = self._lines.terms(event.terms)
            self._live.update(bar, completed=event.step, where=where, terms=terms)
            self._live.advance(self._run, max(event.step - before, 0))
        elif event.step < total and event.step * QUARTERS // total > before * QUARTERS // total:
            at = f"{self._place()} {_name(started)}: step {event.step:,}"
            self._say(Text(f"{at}  {_terms(event.terms)}", "dim"))

    def _scoring(self, event: Scoring) -> None:
        self._foretell(event)
        if self._live and event.cell in self._bars:
            self._live.update(self._bars[event.cell], terms=f"scoring {event.metric}")

    def _foretell(self, event: Scoring) -> None:
        """Say how long a metric will take, once for all seeds of a label."""
        started = self._at.get(event.cell)
        whose = (started.label, started.dataset) if started else ("", "")
        text = foretold(event.metric, event.seconds)
        if not text or (*whose, event.metric) in self._foretold:
            return
        self._foretold.add((*whose, event.metric))
        name = f"{self._place()} {_name(started)}: " if started else ""
        self._say(Text(f"{name}{text}", "dim"))

    def _cell_ended(self, event: CellEnded) -> None:
        self._ended += 1
        started = self._at.pop(event.cell, None)
        if self._live and self._run is not None:
            if event.cell in self._bars:
                self._free.append(bar := self._bars.pop(event.cell))
                self._live.update(bar, terms=event.row.status, over=True)
            missed = sum(started.steps) - self._seen[event.cell] if started else 0
            self._live.update(self._run, advance=max(missed, 0), where=f"{self._ended}/{self._cells}")
        row = event.row
        if event.reused:
            self._reused += 1
            self._failed += row.status not in ("ok", "skipped")
            return
        name = f"{row.label} · {row.dataset} · seed {row.seed}"
        seconds = row.costs.get("train_seconds")
        took = f"  trained in {seconds:.0f} s" if row.status == "ok" and seconds is not None else ""
        style = {"ok": "green", "skipped": "yellow"}.get(row.status, "red")
        why = f": {row.reason}" if row.reason else ""
        place = f"[{self._ended}/{self._cells}]"
        self._say(Text.assemble(f"{place} {name}  ", (row.status, style), why, (took, "dim")))

    def _run_ended(self, event: RunEnded) -> None:
        self.close()
        if self._reused:
            self._say(Text(f"{_count(self._reused, 'cell')} there already", "dim"))
        if self._failed:
            self._say(
                Text(f"{_count(self._failed, 'cell')} of them without a result: --retry-failed tries again", "dim")
            )
        self._say(Text(f"{self._ended}/{self._cells} cells in {duration(event.seconds)}", "dim"))
        if event.figure:
            self._say(Text(f"rate-distortion figure in {event.figure}", "dim"))

    def _place(self) -> str:
        return f"[{self._ended + 1}/{self._cells}]"


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int], None]]:
    """Bars for files that are being downloaded: call it with a path, bytes so far, and bytes in all."""
    console = RichConsole(stderr=True, highlight=False, markup=False, emoji=False)
    text = TextColumn("{task.description}", markup=False)
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
    """In a terminal, a line that says what is being done: call it with that."""
    console = RichConsole(stderr=True, highlight=False, markup=False, emoji=False)
    columns = SpinnerColumn(), TextColumn("{task.description}", style="dim", markup=False)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False
    ) as live:
        task = live.add_task("")
        yield lambda what: live.update(task, description=plain(what))


class _Lines:
    """Lines of a terminal `width` wide: each column as wide as it'll ever be, so that nothing moves or wraps.

    A line is a name, a bar, where it is, the time that is left, and terms as far as there's room.
    """

    def __init__(self, width: int) -> None:
        self.bar = 20 if width >= 110 else 12 if width >= 70 else 6
        self.where, self.left = 13, 7
        rest = max(width - self.bar - self.where - self.left - 5, 20)  # a space behind each column
        self.widest_name = min(max(rest * 3 // 5, 16), 50)
        self.widest_terms = min(max(rest - self.widest_name, 0), 60)

    def progress(self, console: RichConsole) -> Progress:
        def column(width: int, **rest: Any) -> Column:
            return Column(width=width, no_wrap=True, overflow="ellipsis", **rest)

        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False, table_column=column(self.widest_name)),
            BarColumn(bar_width=self.bar, table_column=column(self.bar)),
            TextColumn("{task.fields[where]}", markup=False, justify="right", table_column=column(self.where)),
            _Left(table_column=column(self.left, justify="right")),
        ]
        if self.widest_terms:
            shown = column(self.widest_terms)
            columns.append(TextColumn("{task.fields[terms]}", style="dim", markup=False, table_column=shown))
        return Progress(*columns, console=console, transient=True, refresh_per_second=FRAMES)

    def name(self, event: CellStarted) -> str:
        """A cell's name, as much of it as there's room for: its seed whole, its dataset if enough of its label is."""
        if len(whole := _name(event)) <= self.widest_name:
            return whole
        for behind in (f" · {event.dataset} · s{event.seed}", f" · s{event.seed}"):
            room = self.widest_name - len(behind)
            if room >= min(len(event.label), LABEL):
                break
        return shortened(event.label, max(room, 3)) + behind

    def terms(self, terms: Mapping[str, float]) -> str:
        """The first terms, as many as are shown whole."""
        shown = ""
        for name, value in terms.items():
            longer = f"{shown}  {name} {value:.4g}".lstrip()
            if len(longer) > self.widest_terms:
                break
            shown = longer
        return shown


class _Left(ProgressColumn):
    """The time that is left: 12:34, or 1:23:45; nothing before it's known, and nothing at the end."""

    def render(self, task: Task) -> Text:
        if task.finished or task.fields.get("over") or task.time_remaining is None:
            return Text("")
        minutes, seconds = divmod(int(task.time_remaining), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return Text(clock if hours < 100 else f"{hours} h", "dim")


def _name(event: CellStarted) -> str:
    return f"{event.label} · {event.dataset} · seed {event.seed}"


def _terms(terms: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(terms.items())[:4])


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def foretold(metric: str, seconds: float | None) -> str:
    """How long a metric will take, in words; '' where nobody knows, or it's hardly a second."""
    return "" if seconds is None or seconds < 1 else f"{metric} takes about {duration(seconds)}"


def duration(seconds: float) -> str:
    """Seconds in words: '1 h 2 min', '2 min 3 s' or '4 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
