"""What notebooks show of results and models: tables and image grids, as HTML in which every name is inert text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from jinja2 import Environment, StrictUndefined

from bench.contracts.row import Row
from bench.drawing.figures import data_uri
from bench.drawing.pictures import Sheet
from bench.plugins.hyperparameters import show
from bench.results.store import Run
from bench.tables.frames import frame
from bench.tables.render import LEGEND, TIES, notes, superscript
from bench.tables.summary import Cell, Group, summary
from bench.util import inside
from bench.util.errors import Damaged

ACROSS = 12  #: samples of a line
PICTURES = {"samples": "samples", "reconstructions": "test images above their reconstructions"}

_html = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_RESULTS = _html.from_string("""\
{% for group, heads, blocks, below in groups %}
<p><b>{{ group.dataset }}</b> · seed{{ "" if group.seeds|length == 1 else "s" }} {{ group.seeds|join(",") }}</p>
<div style="overflow-x:auto"><table>
<thead><tr><th style="text-align:left">variant</th><th>steps</th><th>seeds</th>
{% for name, unit in heads %}<th>{{ name }}{% if unit %}<br><small>{{ unit }}</small>{% endif %}</th>{% endfor %}
</tr></thead>
<tbody>
{% for heading, lines in blocks %}
{% if blocks|length > 1 %}
<tr><td colspan="{{ heads|length + 3 }}" style="text-align:left"><i>{{ heading }}</i></td></tr>
{% endif %}
{% for label, steps, count, cells in lines %}
<tr><th style="text-align:left">{{ label }}</th><td>{{ steps }}</td><td>{{ count }}</td>
{% for best, text, rest in cells %}
<td style="white-space:nowrap">{% if best %}<b>{{ text }}</b>{% else %}{{ text }}{% endif %}{{ rest }}</td>
{% endfor %}
</tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
<details><summary><small>notes</small></summary>
{% for line in below %}<div><small>{{ line }}</small></div>{% endfor %}
</details>
{% endfor %}
{% for title, address in pictures %}<img alt="{{ title }}" src="{{ address }}" style="max-width:100%">{% endfor %}
""")
_MODEL = _html.from_string("""\
<p><b>{{ row.label }}</b> · {{ row.dataset }} · seed {{ row.seed }}</p>
<table><tbody>
{% for name, value in facts %}<tr><th style="text-align:left">{{ name }}</th>\
<td style="text-align:left">{{ value }}</td></tr>
{% endfor %}
</tbody></table>
{% for title, address in pictures %}<figure><img alt="{{ title }}" src="{{ address }}" style="max-width:100%">\
<figcaption>{{ title }}</figcaption></figure>{% endfor %}
""")


class Results(pd.DataFrame):
    """`bench.tables.frames.frame` of a run; a notebook shows its table as `bench table` does, and samples below it.

    What is made of it (a selection, a copy) is a plain frame.
    """

    _metadata: ClassVar[list[str]] = ["_rows", "_folder"]
    _rows: list[Row]
    _folder: str

    @classmethod
    def of(cls, rows: Iterable[Row], folder: str) -> Results:
        """The results of a run that lie in `folder`."""
        rows = list(rows)
        made = cls(frame(rows))
        made._rows, made._folder = rows, folder
        return made

    def _repr_html_(self) -> str:
        """Means over seeds, best values marked, and what isn't shown, with the reason."""
        groups = [_group(group) for group in summary(self._rows, ()).groups]
        return _RESULTS.render(groups=groups, pictures=_samples(Run(self._folder), self._rows))


def _group(group: Group) -> tuple[Any, ...]:
    """A dataset's table: its heads, its lines by block, and what stands below."""
    shown = [column for part in group.parts for column in part]
    heads = [(f"{c.name} {c.arrow}{superscript(group.column_notes[c.name])}".strip(), c.unit) for c in shown]
    blocks = [
        (
            block.heading,
            [
                (
                    line.label + superscript(line.notes),
                    line.steps,
                    line.count,
                    [_cell(line.cells[c.name]) for c in shown],
                )
                for line in block.lines
            ],
        )
        for block in group.blocks
    ]
    numbered = group.footnotes[: group.numbered]
    below = [*group.sentences, *group.told, *(f"{superscript([i])} {text}" for i, text in enumerate(numbered, 1))]
    below += [f"bold: {LEGEND}"] if group.marked else []
    below += [f"~ {TIES}"] if group.tied else []
    return group, heads, blocks, [*below, *notes(group)]


def _cell(cell: Cell) -> tuple[bool, str, str]:
    sd = f" ± {cell.sd_text}" if cell.sd_text else ""
    return cell.best, cell.text, f"{sd}{'~' if cell.tie else ''}{superscript(cell.notes)}"


def _samples(run: Run, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """A sheet for each dataset: samples of each label's first seed, as they were kept when it was trained."""
    made = []
    for dataset, members in groupby(sorted(rows, key=lambda r: r.dataset), key=lambda r: r.dataset):
        found = {}
        for row in members:
            if row.label not in found and row.status == "ok":
                kept = run.evidence(row.cell).get("samples")
                if kept is not None and len(kept):
                    found[row.label] = kept[:ACROSS]
        if found:
            title = f"{dataset} · samples"
            sheet = Sheet(title, list(found.values()), list(found))
            made.append((title, data_uri(sheet.drawing().image())))
    return made


def model_html(cell: str) -> str:
    """A finished cell: what it is, and the pictures that it keeps."""
    home = Path(cell)
    row = Run(home.parent.parent, home.parent).row(home.name)
    if row is None:
        return ""
    facts = {
        "steps": "+".join(f"{s:,}" for s in row.steps),
        "parameters": f"{row.costs.get('parameters', 0):,.0f}",
        "likelihood": row.likelihood,
        **{name: show(value) for name, value in sorted(row.hyperparameters.items()) if value is not None},
    }
    files = {title: home / "done" / f"{name}.png" for name, title in PICTURES.items()}
    pictures = [(title, address) for title, path in files.items() if (address := _address(path))]
    return _MODEL.render(row=row, facts=facts.items(), pictures=pictures)


def _address(path: Path) -> str:
    """A picture as an address; '' where there is none."""
    try:
        return f"data:image/png;base64,{base64.b64encode(inside.content(path)).decode()}"
    except (OSError, Damaged):
        return ""
