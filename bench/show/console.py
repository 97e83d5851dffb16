"""Output for a terminal: tables on stdout, errors on stderr and on one screen.

Rich handles the terminal, its width and NO_COLOR. Nothing here imports torch or pandas before it is needed.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import console as rich_console
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from bench.util.errors import BenchError
from bench.util.text import plain

if TYPE_CHECKING:
    from bench.contracts.row import Row
    from bench.running.planning import Plan, PlannedCell
    from bench.tables.columns import Column
    from bench.tables.compare import ComparedLine, Comparison
    from bench.tables.difference import Difference
    from bench.tables.summary import DatasetTable, Value

GAP = 2  # spaces between columns
Entry = tuple[str, Sequence[Text]]
"""A line of a grid: its label and its cells."""


def out() -> rich_console.Console:
    """Return the console for results."""
    return rich_console.Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def err() -> rich_console.Console:
    """Return the console for everything that is not a result."""
    return rich_console.Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_error(error: BenchError, console: rich_console.Console | None = None) -> None:
    """Print what happened, the usual cause, and the way out."""
    console = console or err()
    console.print(Text.assemble(("error: ", "bold red"), error.what), soft_wrap=True)
    for line in (error.cause, error.fix):
        if line:
            console.print(Text(line), soft_wrap=True)


def summary(
    rows: Iterable[Row],
    runs: Sequence[str] = (),
    console: rich_console.Console | None = None,
    names: Sequence[str] = (),
    tuning: Sequence[str] | None = None,
    *,
    notes: bool = False,
    sort: str = "",
) -> None:
    """Print a table for each dataset, what changes how its rows must be read, and how to see more.

    `names`, `tuning` and `sort` are those of `bench.tables.summary.summary`.

    Args:
        runs: the folders of the rows, for the commands that show more.
        notes: print all notes, too.
    """
    from bench.tables.summary import summary as tables_of

    console = console or out()
    for table in tables_of(rows, names, tuning, sort):
        _print_table(table, console, notes)
    if runs:
        where = " ".join(plain(shlex.quote(run)) for run in runs)
        more = "" if notes else f"more columns and notes: bench table {where} --all --notes"
        pictures = f"pictures: bench report {where}" if len(runs) == 1 and Path(runs[0]).is_dir() else ""
        hint = " · ".join(filter(None, (more, pictures)))
        lines = [hint] if cell_len(hint) <= console.width else [more, pictures]
        for line in filter(None, lines):
            console.print(Text(line, "dim"), soft_wrap=True)


def _print_table(table: DatasetTable, console: rich_console.Console, notes: bool) -> None:
    from bench.tables.columns import layout

    console.print(Text(table.caption, "bold"))
    console.print()
    widest = max(12, console.width * 4 // 10)
    left_out: list[str] = []
    if table.explicit:
        parts = _parts(table, widest, console.width)
    else:
        fitting = list(table.columns)
        for name in layout().narrow:
            if len(fitting) > 1 and _grid_of(table, fitting, widest).width > console.width:
                left_out += [c.name for c in fitting if c.name == name]
                fitting = [c for c in fitting if c.name != name]
        parts = _parts(table, widest, console.width, fitting)
    for i, part in enumerate(parts):
        if i:
            console.print()
        _grid_of(table, part, widest).print(console)
    console.print()
    below = table.below.full if notes else table.below.short
    if left_out:
        below = [*below, f"not shown at this width ({console.width}): {', '.join(left_out)}"]
    for text in below:
        _print_note(text, console)


def _grid_of(table: DatasetTable, columns: Sequence[Column], widest: int) -> _Grid:
    marks = {c.name: max((len(MARKS[line.values[c.name].mark]) for line in table.lines), default=0) for c in columns}
    entries: list[Entry] = []
    for block in table.blocks:
        entries.append((block.heading, ()))
        for line in block.lines:
            values = [_value(line.values[c.name], marks[c.name]) for c in columns]
            entries.append((f"  {_cut(line.label, widest - 2)}", values))
    return _Grid([_Head(c.name, c.arrow, c.unit) for c in columns], entries, widest)


def _cut(label: str, width: int) -> str:
    """Return a label of at most `width` columns of text, the middle of a longer one left out."""
    if cell_len(label) <= width:
        return label
    end = (width - 1) // 2
    first, last = set_cell_size(label, width - 1 - end), set_cell_size(label[::-1], end)[::-1]
    return f"{first.rstrip()}…{last.lstrip()}"


def _parts(
    table: DatasetTable, widest: int, width: int, columns: Sequence[Column] | None = None
) -> list[Sequence[Column]]:
    """Return the columns of as many tables as are needed for each to fit."""
    parts: list[list[Column]] = [[]]
    for column in table.columns if columns is None else columns:
        if parts[-1] and _grid_of(table, [*parts[-1], column], widest).width > width:
            parts.append([])
        parts[-1].append(column)
    return list(parts)


MARKS = {"best": "*", "tie": "~", "": ""}


def _value(value: Value, pad: int) -> Text:
    text = Text(value.text, "dim" if value.mean is None else "bold green" if value.mark == "best" else "")
    text.append(f"±{value.sd_text}" if value.sd_text else "", "dim")
    return text.append(MARKS[value.mark].ljust(pad), "bold green" if value.mark == "best" else "dim")


def _print_note(text: str, console: rich_console.Console) -> None:
    """Print dim text, wrapped with a hanging indent."""
    for i, line in enumerate(Text(text, "dim").wrap(console, max(console.width - 2, 20))):
        line.rstrip()
        console.print(Text("  " if i else "").append_text(line))


def print_plan(plan: Plan, console: rich_console.Console | None = None) -> None:
    """Print what a run would do: a line for each variant and dataset."""
    console = console or out()
    cells: dict[tuple[str, str], list[PlannedCell]] = {}
    for cell in plan.cells:
        cells.setdefault((cell.row.dataset, cell.row.label), []).append(cell)
    table = _plain_table("dataset", "variant", "seeds", ">steps", ">parameters", "state")
    for (dataset, label), members in cells.items():
        first, states = members[0], Counter(cell.state for cell in members)
        state = first.state if len(states) == 1 else ", ".join(f"{n} {name}" for name, n in states.items())
        reasons = dict.fromkeys(cell.row.reason for cell in members if cell.row.reason)
        table.add_row(
            Text(dataset),
            Text(label),
            ",".join(str(cell.row.seed) for cell in members),
            "+".join(f"{s:,}" for s in first.row.steps) or "–",
            f"{first.parameters:,}" if first.parameters else "–",
            Text(": ".join([state, *reasons])),
        )
    console.print(table)
    new = [cell for cell in plan.cells if cell.state == "new"]
    total = sum(sum(cell.row.steps) for cell in new)
    count = f"{len(plan.cells)} cell{'' if len(plan.cells) == 1 else 's'}"
    console.print(f"{count}, {len(new)} to train ({total:,} steps), in {plain(str(plan.folder))}")
    for note in plan.notes:
        _print_note(note, console)


def print_data(names: Sequence[str], root: Path, console: rich_console.Console | None = None) -> None:
    """Print which files of the datasets `names` lie under `root`; without names, of all that have files."""
    from bench import data
    from bench.contracts.dataset import DATASETS

    console = console or out()
    table = _plain_table("dataset", "state", ">size", "files")
    for name in names or [n for n in DATASETS if DATASETS.load(n).files]:
        found = data.status(data.parse(name), root)
        there = sum(entry.state == "present" for entry in found.files)
        wrong = [entry.file.path for entry in found.files if entry.state == "wrong size"]
        files = f"{there} of {len(found.files)}" if found.files else "embedded, or your own"
        size = f"{found.size / 1e6:,.1f} MB" if found.files else ""
        state = Text("ready", "green") if found.ready else Text("missing", "yellow")
        table.add_row(Text(name), state, size, Text(f"{files}{f'; wrong size: {wrong[0]}' if wrong else ''}"))
    console.print(table)
    console.print(Text.assemble(("under  ", "dim"), str(root)), soft_wrap=True)


def _plain_table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left")
    return table


def comparison(found: Comparison, console: rich_console.Console | None = None) -> None:
    """Print b - a for each metric and label, with its test over seeds; then rows without a counterpart."""
    console = console or out()
    for group in found.datasets:
        console.print(Text.assemble((group.dataset, "bold"), plain(f" · a: {found.names[0]} · b: {found.names[1]}")))
        cells = [(c, [(x, x.values[c.name]) for x in group.lines if x.values[c.name].n]) for c in group.columns]
        if cells:
            _print_differences(cells, console)
        for text in group.notes:
            _print_note(text, console)
        console.print()
    for text in [*found.notes, *_LEGEND]:
        _print_note(text, console)


_LEGEND = (
    "+ b is better, - b is worse, ~ no significant difference at 5 % (paired by seed) or too few seeds, x not "
    "comparable, ! new failure, * fixed; no mark: a significant difference of a metric without a direction",
    "detectable: the true difference that this many seeds find in 80 % of cases; SE over images: over test images and "
    "draws of z, without the noise of training",
)
_COLOURS = {"+": "green", "-": "red", "~": "dim", "": ""}


def _print_differences(
    found: Sequence[tuple[Column, Sequence[tuple[ComparedLine, Difference]]]], console: rich_console.Console
) -> None:
    """Print one table, without the scores of a and b where they would make it too wide."""
    from bench.tables.numbers import printed

    fields: list[tuple[str, Callable[[Difference], str]]] = [
        ("a", lambda d: "" if d.a is None else printed(d.a, d.places)),
        ("b", lambda d: "" if d.b is None else printed(d.b, d.places)),
        ("b\u00a0−\u00a0a", lambda d: d.text),
        ("95\u00a0%\u00a0interval", lambda d: d.interval),
        ("p", lambda d: d.p_text),
        ("seeds", lambda d: str(d.n)),
        ("detectable", lambda d: d.detectable),
        ("SE over images", lambda d: d.se),
    ]
    every = [d for _, lines in found for _, d in lines]
    shown = [(head, text) for head, text in fields if any(map(text, every))]

    def grid(columns: Sequence[tuple[str, Callable[[Difference], str]]], widest: int) -> _Grid:
        entries: list[Entry] = []
        for column, lines in found:
            entries.append((" ".join(filter(None, [column.name, column.arrow, column.unit])), ()))
            for line, d in lines:
                style = {"b\u00a0−\u00a0a": _COLOURS[d.mark]}
                label = f"{d.mark or ' '}\u00a0{line.label}" + (f" {line.marks}" if line.marks else "")
                entries.append((label, [Text(text(d), style.get(head, "")) for head, text in columns]))
        return _Grid([_Head(head, "", "") for head, _ in columns], entries, widest)

    widest = max(16, console.width * 3 // 10)
    table = grid(shown, widest)
    if table.width > console.width:
        shown = [(head, text) for head, text in shown if head not in ("a", "b")]
        table = grid(shown, widest)
    if table.width > console.width:
        table = grid(shown, max(10, table.label - (table.width - console.width)))
    table.print(console)


class _Head:
    """The head of a column: its name and its unit, broken to fit."""

    def __init__(self, name: str, arrow: str, unit: str) -> None:
        self.name, self.unit = f"{name}\u00a0{arrow}" if arrow else name, unit

    def lines(self, width: int) -> list[tuple[str, str]]:
        return [(t, "bold") for t in wrap(self.name, width)] + [(t, "dim") for t in wrap(self.unit, width)]

    @property
    def width(self) -> int:
        """The least width at which no word breaks."""
        return max((len(t) for t, _ in self.lines(1)), default=0)


class _Grid:
    """A table of a known width; labels wider than `widest` are wrapped. An entry without cells is a heading."""

    def __init__(self, heads: Sequence[_Head], entries: Sequence[Entry], widest: int) -> None:
        self.heads, self.entries = heads, entries
        cells = [[cells[i].cell_len for _, cells in entries if cells] for i in range(len(heads))]
        self.widths = [max(head.width, *lengths) for head, lengths in zip(heads, cells, strict=True)]
        self.label = min(max((cell_len(label) for label, cells in entries if cells or not heads), default=0), widest)

    @property
    def width(self) -> int:
        return self.label + sum(GAP + w for w in self.widths)

    def print(self, console: rich_console.Console) -> None:
        heads = [head.lines(width) for head, width in zip(self.heads, self.widths, strict=True)]
        tall = max(map(len, heads), default=0)
        padded = [[*lines, *[("", "")] * (tall - len(lines))] for lines in heads]
        for row in zip(*padded, strict=True):
            shown = [Text(t.rjust(width), style) for (t, style), width in zip(row, self.widths, strict=True)]
            self._line(Text(), shown, console)
        console.print(Text("─" * min(self.width, console.width), "dim"))
        for label, cells in self.entries:
            if self.heads and not cells:
                console.print(Text(label, "bold"))
                continue
            pieces = wrap(label, self.label)
            aligned = [_right(cell, width) for cell, width in zip(cells, self.widths, strict=True)]
            for piece in pieces[:-1]:
                console.print(Text(piece))
            self._line(Text(pieces[-1]), aligned, console)

    def _line(self, label: Text, cells: Iterable[Text], console: rich_console.Console) -> None:
        line = label.copy()
        line.pad_right(self.label - label.cell_len)
        for cell in cells:
            line.append(" " * GAP).append_text(cell)
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _right(text: Text, width: int) -> Text:
    return Text(" " * (width - text.cell_len)).append_text(text)


def wrap(text: str, width: int) -> list[str]:
    """Return `text`, broken behind '_', '/', ',', '[' and ' ' into lines of at most `width` letters where possible."""
    lines: list[str] = []
    for word in re.findall(r"[^_/ ,[]+[_/ ,[]*|[_/ ,[]+", text):
        if lines and len(lines[-1]) + len(word.rstrip(" ")) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    return [line.rstrip(" ") for line in lines]


__all__ = [
    "comparison",
    "err",
    "out",
    "print_data",
    "print_error",
    "print_plan",
    "summary",
    "wrap",
]
