"""The identity of a stored cell, and of the same cell in the present installation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from bench.contracts import naming
from bench.contracts.dataset import Data
from bench.contracts.protocol import ENGINE, RunRequest, Training, canonical, digest
from bench.contracts.row import Row
from bench.plugins.hyperparameters import selector
from bench.running.grid import Cell, Config, cell, load_data, plugin_of, unversioned
from bench.util.errors import BenchError, DataError

DIGITS = 16  #: of the digest of the suite's source that older cells have in place of an engine version


def recorded(row: Row) -> dict[str, Any]:
    """Return the identity of a row when its cell got its name; '' or None for fields that the row lacks."""
    versioned = len(row.engine) == DIGITS  # such cells' identity holds the versions of plugins too
    part = dict if versioned else unversioned
    return {
        "variant": row.variant,
        "plugin": part(row.plugin),
        **({"parts": {name: part(plugin) for name, plugin in plain(row.parts).items()}} if row.parts else {}),
        "engine": row.engine,
        "hyperparameters": plain(row.hyperparameters),
        "likelihood": row.likelihood,
        "train": row.data.get("train"),
        "seed": row.seed,
        "training": plain(row.training),
        **({"stacked": list(row.stacked)} if row.stacked else {}),
    }


def fits(row: Row) -> bool | None:
    """Return whether a row's identity gives the name of its folder; None where the row doesn't hold all of it."""
    identity = recorded(row)
    if not (identity["plugin"] and identity["engine"] and identity["train"]):
        return None
    return row.cell.endswith(f"-{digest(identity)[:12]}")


def data_of(row: Row, request: RunRequest, root: str | None = None) -> Data:
    """Load the data that a row was trained and scored on, from this machine.

    Where the request names several datasets as the row does, the first one that can be read.

    Raises:
        DataError, UsageError: they can't be read.
    """
    request = replace(
        request,
        limit=row.training.get("limit"),
        validation=row.training.get("validation", 0),
        eval_split=row.scoring.get("split", "test"),
        data_root=root or request.data_root,
    )
    *others, last = naming.texts(row.dataset, request.datasets)
    for text in others:
        with suppress(DataError):
            return load_data(text, request)
    return load_data(last, request)


def present(row: Row, data: Data) -> Cell:
    """Return the cell that a row's label, seed and protocol describe in the present installation.

    Raises:
        UsageError, PluginError: its variant is gone, or takes other hyperparameters.
    """
    _, bracket = selector(row.label)
    config = Config.of(
        row.variant,
        {name: row.hyperparameters[name] for name in bracket if name in row.hyperparameters},
        baseline=row.baseline,
        sanity=row.sanity,
    )
    known = {f.name for f in fields(Training)}
    training = Training(**{name: value for name, value in row.training.items() if name in known})
    request = RunRequest(steps=training.steps, batch_size=training.batch_size, likelihood=row.likelihood)
    now = replace(cell(config, data, row.seed, request), training=training, stacked=row.stacked)
    return now.in_folder(row.cell)


def changes(row: Row) -> list[str]:
    """Return the parts of the code behind a row that have changed since, as far as the row recorded them."""
    changed = ["the engine"] if row.engine and row.engine != ENGINE else []
    try:
        same = row.plugin.get("source") == plugin_of(row.variant)["source"]
    except BenchError:
        same = False
    return changed if same else [*changed, "the plugin"]


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as JSON gives it back: tuples become lists."""
    read: dict[str, Any] = json.loads(canonical(dict(document)))
    return read
