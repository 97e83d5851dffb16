"""A summary as text for other programs: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Literal

from bench.contracts.row import Row
from bench.tables.columns import Column
from bench.tables.summary import DatasetTable, Value, summary
from bench.util.text import escape_markdown

Format = Literal["md", "csv", "latex"]


def render(
    rows: Iterable[Row],
    format: Format,
    names: Sequence[str] = (),
    tuning: Sequence[str] | None = None,
    *,
    notes: bool = False,
    sort: str = "",
) -> str:
    """Return `rows`, aggregated over seeds, as `format`: mean ± standard deviation over seeds.

    `names`, `tuning` and `sort` are those of `bench.tables.summary.summary`. CSV has every column by default.

    Args:
        notes: whether all notes stand below, or warnings and the legend alone. CSV has a column of notes.
    """
    tables = summary(rows, names or (("all",) if format == "csv" else ()), tuning, sort)
    if format == "csv":
        return _csv(tables)
    return "\n".join((_markdown if format == "md" else _latex)(table, notes) for table in tables)


def safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _markdown(table: DatasetTable, notes: bool) -> str:
    heads = [escape_markdown(f"{c.name} {c.arrow}".rstrip()) + _below_head(c) for c in table.columns]
    out = [escape_markdown(table.caption), "", _pipes(["variant", *heads]), _pipes([":--", *["--:"] * len(heads)])]
    for block in table.blocks:
        out.append(_pipes([f"*{escape_markdown(block.heading)}*", *[""] * len(heads)]))
        for line in block.lines:
            values = [_markdown_value(line.values[c.name]) for c in table.columns]
            out.append(_pipes([escape_markdown(line.label), *values]))
    below = table.below.full if notes else table.below.short
    return "\n".join([*out, "", "  \n".join(map(escape_markdown, below)), ""])


def _below_head(column: Column) -> str:
    return f"<br>{escape_markdown(column.unit)}" if column.unit else ""


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_value(value: Value) -> str:
    text = f"**{value.text}**\\*" if value.mark == "best" else value.text
    return text + (f" ± {value.sd_text}" if value.sd_text else "") + ("\\~" if value.mark == "tie" else "")


def _csv(tables: Sequence[DatasetTable]) -> str:
    names = list(dict.fromkeys(column.name for table in tables for column in table.columns if not column.cost))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [head for name in names for head in (name, f"{name}_sd", f"{name}_n", f"{name}_mark")]
    writer.writerow(["dataset", "block", "label", "steps", "seeds", "seeds_requested", *map(safe, heads)])
    for table in tables:
        for block in table.blocks:
            for line in block.lines:
                first = [*map(safe, (table.dataset, block.heading, line.label)), line.steps]
                values = [line.values.get(name, Value()) for name in names]
                numbers = [x for v in values for x in (_full(v.mean), _full(v.sd), v.n, v.mark)]
                writer.writerow([*first, len(line.rows), line.seeds_requested, *numbers])
    return out.getvalue()


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "–": "--",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "β": r"$\beta$", "σ": r"$\sigma$", "²": r"$^2$", "\n": " ",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    shown = "".join(_LATEX.get(char, char) for char in text)
    return f"{{[}}{shown[1:]}" if shown.startswith("[") else shown  # the end of the line above would take an argument


def _latex(table: DatasetTable, notes: bool) -> str:
    wide = len(table.columns) + 1
    out = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering"]
    out += [rf"\caption{{{escape_latex(table.caption)}}}", rf"\begin{{tabular}}{{l{'r' * (wide - 1)}}}", r"\toprule"]
    out.append(_row(["variant", *(escape_latex(f"{c.name} {c.arrow}".strip()) for c in table.columns)]))
    out.append(_row(["", *(escape_latex(c.unit) for c in table.columns)]))
    for block in table.blocks:
        out += [r"\midrule", rf"\multicolumn{{{wide}}}{{l}}{{\emph{{{escape_latex(block.heading)}}}}} \\"]
        for line in block.lines:
            out.append(_row([escape_latex(line.label), *(_latex_value(line.values[c.name]) for c in table.columns)]))
    out += [r"\bottomrule", r"\end{tabular}"]
    below = table.below.full if notes else table.below.short
    return "\n".join([*out, *(rf"\par\footnotesize {escape_latex(text)}" for text in below), r"\end{table}", ""])


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_value(value: Value) -> str:
    text = escape_latex(value.text)
    text = rf"\textbf{{{text}}}*" if value.mark == "best" else text
    sd = rf" $\pm$ {escape_latex(value.sd_text)}" if value.sd_text else ""
    return text + sd + (r"$^{\sim}$" if value.mark == "tie" else "")
