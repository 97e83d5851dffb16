"""Results as pandas frames, and as files beside the cells: all derived; delete them and lose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from bench.contracts.measurement import Score
from bench.contracts.protocol import digest
from bench.contracts.row import Row, row_of, score_document, scores_of
from bench.plugins.hyperparameters import show
from bench.tables.columns import Scores, columns, cost_columns, scores
from bench.tables.methods import methods
from bench.tables.render import Format, render, safe
from bench.tables.summary import summary
from bench.util.durable import write_file
from bench.util.errors import StoreError
from bench.util.text import escape_markdown, inert
from bench.util.wording import natural

RowKey = tuple[str, str, int]
"""(label, dataset, seed)"""


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One line for each row: identity, protocols, then each metric and `<metric>_se`; NaN where missing.

    `reasons` says why a score is missing, and so does the last column.
    """
    rows = list(rows)
    found = columns(rows)
    table = scores(rows, found)
    lines = []
    for row, by_name in zip(rows, table, strict=True):
        line = _identity(row)
        for column in found:
            score = by_name[column.name]
            line[column.name] = score.value if isinstance(score, Score) else float("nan")
            se = score.se if isinstance(score, Score) else None
            line[f"{column.name}_se"] = float("nan") if se is None else se
        line["not_available"] = _missing(row, by_name)
        lines.append(line)
    heads = [*_IDENTITY, *(h for c in found for h in (c.name, f"{c.name}_se")), "not_available"]
    made = pd.DataFrame(lines, columns=heads)
    types: dict[str, Any] = {h: "float64" for c in found for h in (c.name, f"{c.name}_se")}
    types |= {
        "latent_dim": "Int64",
        "limit": "Int64",
        "seed": "int64",
        "uses_labels": bool,
        "baseline": bool,
        "sanity": bool,
    }
    return made.astype(types)


def reasons(rows: Iterable[Row]) -> dict[tuple[RowKey, str], str]:
    """Why a row has no score in a metric: by (label, dataset, seed) and the metric's name."""
    rows = list(rows)
    return {
        ((row.label, row.dataset, row.seed), name): str(score)
        for row, by_name in zip(rows, scores(rows, columns(rows)), strict=True)
        for name, score in by_name.items()
        if not isinstance(score, Score)
    }


def costs(rows: Iterable[Row]) -> pd.DataFrame:
    """One line for each row: identity, then what it cost. No two repeats agree on these."""
    rows = list(rows)
    names = sorted({name for row in rows for name in row.costs})
    heads = ["dataset", "variant", "label", "seed", "status"]
    lines = [{**{h: getattr(row, h) for h in heads}, **row.costs} for row in rows]
    return pd.DataFrame(lines, columns=[*heads, *names]).astype(dict.fromkeys(names, "float64"))


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as JSON documents, derived scores among the others; a missing one is {'not_available': reason}.

    `marks` are those of a row's line in the table, by metric: 'best' or 'tie'.
    """
    rows = list(rows)
    marks = {
        id(row): {name: value.mark for name, value in line.values.items() if value.mark}
        for table in summary(rows, ("all",))
        for line in table.lines
        for row in line.rows
    }
    made = []
    for row, by_name in zip(rows, scores(rows, columns(rows)), strict=True):
        document = {f.name: _plain(getattr(row, f.name)) for f in fields(row) if f.name != "scores"}
        document["scores"] = {name: score_document(score) for name, score in by_name.items()}
        document["marks"] = marks.get(id(row), {})
        made.append(document)
    return made


def read(path: Path) -> list[Row]:
    """The rows whose `records` lie in a file: a table without the run that it's of.

    Raises:
        StoreError: it can't be read, or holds something else.
    """
    try:
        documents = inert(json.loads(path.read_bytes()))  # which knows UTF-16 from UTF-8
        if not isinstance(documents, list):
            raise TypeError("it isn't a list of rows")
        if not documents:
            raise ValueError("the list is empty")
        return [_row_from(document) for document in documents]
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise StoreError(
        f"{path} holds no rows", cause=f"{why}.", fix="`bench table RUN --json > FILE.json` writes a run's."
    ) from None


def _row_from(document: Any) -> Row:
    """The row of one of `records`."""
    if not isinstance(document, dict):
        raise TypeError("a row isn't an object")
    row = row_of(document, {})
    return replace(row, scores=scores_of(document.get("scores")))


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write table.csv, table.parquet, table.md and costs.csv in `folder`, each whole, by a rename.

    The order is by dataset, label and seed, whatever that of `rows`: a repeat gives the same table.csv.

    Raises:
        StoreError: the folder can't be written.
    """
    ordered = sorted(rows, key=lambda r: (natural(r.dataset), r.sanity, r.baseline, natural(r.label), r.seed))
    table, parquet = frame(ordered), BytesIO()
    without_costs = [f"-{column.name}" for column in cost_columns()]
    about = "\n\n".join(map(escape_markdown, methods(ordered).split("\n\n")))
    table.to_parquet(parquet, index=False)
    files = {
        "table.csv": _csv(table),
        "costs.csv": _csv(costs(ordered)),
        "table.parquet": parquet.getvalue(),
        "table.md": f"{render(ordered, 'md', without_costs)}\n### How it was made\n\n{about}\n".encode(),
    }
    for name, content in files.items():
        _replace(folder / name, content)


_IDENTITY = (
    "dataset", "variant", "label", "seed", "status", "reason", "hyperparameters", "backbone", "latent_dim",
    "likelihood", "uses_labels", "baseline", "sanity", "steps", "stacked", "limit", "training", "scoring", "data",
    "plugin", "cell",
)  # fmt: skip


def _identity(row: Row) -> dict[str, Any]:
    h = row.hyperparameters
    return {
        **{name: getattr(row, name) for name in _IDENTITY if name in Row.__dataclass_fields__},
        "hyperparameters": " ".join(f"{name}={show(value)}" for name, value in sorted(h.items())),
        "backbone": row.networks,
        "latent_dim": size if isinstance(size := h.get("latent_dim"), int) else None,
        "steps": row.steps_text,
        "stacked": " ".join(map(str, row.stacked)),
        "limit": row.data.get("limit", row.training.get("limit")),
        "training": _hash(row.training),
        "scoring": _hash(row.scoring),
        "data": _hash(row.data),
        "plugin": " ".join(str(row.plugin[k]) for k in ("distribution", "version") if k in row.plugin),
    }


def _hash(protocol: Mapping[str, Any]) -> str:
    return digest(dict(protocol))[:12] if protocol else ""


def _missing(row: Row, by_name: Scores) -> str:
    why: dict[str, list[str]] = {}
    for name, score in by_name.items():
        if not isinstance(score, Score):
            why.setdefault(str(score), []).append(name)
    if row.status != "ok":
        return "; ".join(f"all: {reason}" for reason in why)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in why.items())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _csv(table: pd.DataFrame) -> bytes:
    made = table.copy()
    for name in made.columns:
        if not pd.api.types.is_numeric_dtype(made[name]):
            made[name] = made[name].map(safe)
    made.columns = pd.Index([safe(str(name)) for name in made.columns])
    text: str = made.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _replace(path: Path, content: bytes) -> None:
    try:
        write_file(path, content)
    except OSError as error:
        raise StoreError(
            f"{path} can't be written: {error.strerror or error}",
            cause="The folder is missing or read-only, the disk is full, or a limit on the size of files is reached.",
            fix=f"It can be made again out of the cells: make room, then `bench table {path.parent}` or the same run.",
        ) from None


__all__ = ["Format", "costs", "frame", "reasons", "records", "render", "summary", "write"]
