"""What notebooks show of results and models: tables and image grids, as HTML in which every name is inert text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import pandas as pd
from jinja2 import Environment, StrictUndefined

from bench.contracts.row import Row
from bench.drawing.figures import data_uri
from bench.drawing.pictures import Sheet
from bench.plugins.hyperparameters import show
from bench.results.store import Run
from bench.tables.frames import frame
from bench.tables.summary import summary
from bench.util import inside
from bench.util.errors import Damaged

ACROSS = 12  #: samples of a line
PICTURES = {"samples": "samples", "reconstructions": "test images above their reconstructions"}

_html = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_RESULTS = _html.from_string("""\
{% for table, below, notes in tables %}
<p><b>{{ table.caption }}</b></p>
<div style="overflow-x:auto"><table>
<thead><tr><th style="text-align:left">variant</th>
{% for c in table.columns %}<th>{{ c.name }} {{ c.arrow }}{% if c.unit %}<br><small>{{ c.unit }}</small>{% endif %}</th>
{% endfor %}</tr></thead>
<tbody>
{% for block in table.blocks %}
<tr><td colspan="{{ table.columns|length + 1 }}" style="text-align:left"><i>{{ block.heading }}</i></td></tr>
{% for line in block.lines %}
<tr><th style="text-align:left">{{ line.label }}</th>
{% for c in table.columns %}{% set v = line.values[c.name] %}
<td style="white-space:nowrap">{% if v.mark == "best" %}<b>{{ v.text }}</b>*{% else %}{{ v.text }}{% endif %}
{%- if v.sd_text %} ± {{ v.sd_text }}{% endif %}{% if v.mark == "tie" %}~{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
{% endfor %}
</tbody></table></div>
{% for line in below %}<div><small>{{ line }}</small></div>{% endfor %}
<details><summary><small>notes</small></summary>
{% for subject, text in notes %}<div><small>{{ subject }}: {{ text }}</small></div>{% endfor %}
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
        """Return the table as `bench table` shows it, its notes folded, and samples."""
        tables = [(table, table.below.short, table.below.notes) for table in summary(self._rows)]
        return _RESULTS.render(tables=tables, pictures=_samples(Run(self._folder), self._rows))


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
