"""A summary as text for other programs: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Literal

from bench.contracts.row import Row
from bench.tables.columns import Column
from bench.tables.summary import Cell, Group, Line, summary
from bench.util.text import escape_markdown

Format = Literal["md", "csv", "latex"]
LEGEND = "best of its block: equal backbone, latent size, likelihood, use of labels and protocol"
TIES = "ties with the best: paired by seed, no significant difference at 5 % (Holm's correction over its column)"


def render(
    rows: Iterable[Row],
    format: Format,
    metrics: Sequence[str] | None = None,
    tuning: Sequence[str] | None = None,
) -> str:
    """`rows`, aggregated over seeds, as `format`: mean ± standard deviation, and the number of seeds.

    `metrics` and `tuning` are `bench.tables.summary.summary`'s.
    """
    found = summary(rows, metrics, tuning)
    if format == "csv":
        return _csv(found.groups)
    return "\n".join((_markdown if format == "md" else _latex)(group) for group in found.groups)


def superscript(numbers: Sequence[int]) -> str:
    """Numbers of footnotes: '¹ ²'."""
    return "\u2009".join(str(n).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) for n in numbers)


def safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def notes(group: Group) -> list[str]:
    """What stands below a table besides its footnotes: columns that aren't shown, and why; remarks."""
    hidden = [f"not shown: {_named(names)} ({reason})" for reason, names in group.hidden]
    count = f"{len(group.unasked)} more column{'' if len(group.unasked) == 1 else 's'}"
    more = [f"{count}: `bench table` with --all, or --metrics {','.join(group.unasked[:2])}"] if group.unasked else []
    return [*hidden, *more, *group.remarks]


def _markdown(group: Group) -> str:
    out = [f"### {escape_markdown(group.dataset)}", ""]
    for part in group.parts:
        heads = [
            escape_markdown(f"{c.name} {c.arrow}")
            + superscript(group.column_notes[c.name])
            + (f"<br>{escape_markdown(c.unit)}" if c.unit else "")
            for c in part
        ]
        out.append(_pipes(["variant", "steps", "seeds", *heads]))
        out.append(_pipes([":--", *["--:"] * (len(part) + 2)]))
        for block in group.blocks:
            if len(group.blocks) > 1:
                out.append(_pipes([f"*{escape_markdown(block.heading)}*", *[""] * (len(part) + 2)]))
            for line in block.lines:
                cells = [_markdown_cell(line.cells[c.name]) for c in part]
                label = f"{escape_markdown(line.label)}{superscript(line.notes)}"
                out.append(_pipes([label, line.steps, line.count, *cells]))
        out.append("")
    numbered = group.footnotes[: group.numbered]
    texts = [*group.sentences, *group.told, *(f"{superscript([i])} {text}" for i, text in enumerate(numbered, 1))]
    legend = [f"**bold**: {LEGEND}"] if group.marked else []
    legend += [f"\\~ {TIES}"] if group.tied else []
    common = [group.blocks[0].heading] if len(group.blocks) == 1 else []
    below = [*map(escape_markdown, texts), *legend, *map(escape_markdown, [*common, *notes(group)])]
    return "\n".join([*out, "  \n".join(below), ""])


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    sd, tie = f" ± {cell.sd_text}" if cell.sd_text else "", "\\~" if cell.tie else ""
    return f"{text}{sd}{tie}{superscript(cell.notes)}"


def _csv(groups: Iterable[Group]) -> str:
    groups = list(groups)
    names = list(dict.fromkeys(column.name for group in groups for column in group.columns))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [head for name in names for head in (name, f"{name}_sd", f"{name}_n", f"{name}_mark")]
    writer.writerow(["dataset", "block", "label", "steps", "seeds", "asked", *map(safe, heads), "not_available"])
    for group in groups:
        for block in group.blocks:
            for line in block.lines:
                first = [*map(safe, (group.dataset, block.heading, line.label)), line.steps]
                cells = [line.cells.get(name, Cell(0)) for name in names]
                numbers = [v for c in cells for v in (_full(c.mean), _full(c.sd), c.n, c.mark)]
                writer.writerow([*first, len(line.rows), line.asked, *numbers, safe(_why(group, line, names))])
    return out.getvalue()


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def _why(group: Group, line: Line, names: Sequence[str]) -> str:
    found = [f"{line.label}: {group.footnotes[i - 1]}" for i in line.notes]
    hidden = {name: reason for reason, missing in group.hidden for name in missing}
    for name in names:
        if name in line.cells:
            found += [f"{name}: {group.footnotes[i - 1]}" for i in line.cells[name].notes]
        else:
            found.append(f"{name}: {hidden.get(name, 'not scored')}")
    return "; ".join(found)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "β": r"$\beta$", "σ": r"$\sigma$", "²": r"$^2$", "\n": " ",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """`text` as LaTeX prints it."""
    shown = "".join(_LATEX.get(char, char) for char in text)
    return f"{{[}}{shown[1:]}" if shown.startswith("[") else shown  # or the line's end above had an argument


def _latex(group: Group) -> str:
    out = ["% needs \\usepackage{booktabs}"]
    for part in group.parts:
        out += [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(group.dataset)}}}"]
        out += [rf"\begin{{tabular}}{{l{'r' * (len(part) + 2)}}}", r"\toprule"]
        out.append(
            _row(
                [
                    "variant",
                    "steps",
                    "seeds",
                    *(_latex_head(c) + _latex_notes(group.column_notes[c.name]) for c in part),
                ]
            )
        )
        out.append(_row(["", "", "", *(escape_latex(c.unit) for c in part)]))
        for block in group.blocks:
            out.append(r"\midrule")
            if len(group.blocks) > 1:
                heading = rf"\emph{{{escape_latex(block.heading)}}}"
                out.append(rf"\multicolumn{{{len(part) + 3}}}{{l}}{{{heading}}} \\")
            for line in block.lines:
                cells = [_latex_cell(line.cells[c.name]) for c in part]
                label = escape_latex(line.label) + _latex_notes(line.notes)
                out.append(_row([label, line.steps, line.count, *cells]))
        out += [r"\bottomrule", r"\end{tabular}"]
        if part == group.parts[-1]:
            out += [rf"\par\footnotesize {text}" for text in _latex_below(group)]
        out += [r"\end{table}", ""]
    return "\n".join(out)


def _row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_head(column: Column) -> str:
    return escape_latex(f"{column.name} {column.arrow}".strip())


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    sd = rf" $\pm$ {escape_latex(cell.sd_text)}" if cell.sd_text else ""
    return text + sd + (r"$^{\sim}$" if cell.tie else "") + _latex_notes(cell.notes)


def _latex_notes(numbers: Sequence[int]) -> str:
    return f"$^{{{','.join(map(str, numbers))}}}$" if numbers else ""


def _latex_below(group: Group) -> list[str]:
    numbered = group.footnotes[: group.numbered]
    below = [f"{_latex_notes([i])} {escape_latex(text)}" for i, text in enumerate(numbered, 1)]
    return [
        *map(escape_latex, group.told),
        *below,
        *([rf"\textbf{{bold}}: {escape_latex(LEGEND)}"] if group.marked else []),
        *([rf"$\sim$ {escape_latex(TIES)}"] if group.tied else []),
        *map(escape_latex, notes(group)),
    ]


def _named(names: Sequence[str]) -> str:
    """A few names, or how many there are: who asked for two metrics needn't read the names of the other twenty."""
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} metrics"
