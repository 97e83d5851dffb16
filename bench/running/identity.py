"""What a stored cell is named after, and what the same cell would be named after in the present installation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from bench import data as datasets
from bench.contracts import naming
from bench.contracts.dataset import Data
from bench.contracts.protocol import ENGINE, RunRequest, Training, canonical, digest
from bench.contracts.row import Row
from bench.contracts.variant import VARIANTS
from bench.plugins.hyperparameters import check, selector
from bench.running.grid import Cell, Config, cell, plugin_of, unversioned
from bench.util.errors import BenchError, DataError


def recorded(row: Row) -> dict[str, Any]:
    """Return the identity of a row as it was when its cell got its name; '' or None for what the row lacks."""
    versioned = len(row.engine) == DIGITS  # until the engine had a version, releases of plugins counted too
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


DIGITS = 16  #: of the digest of the suite's source that older cells have for an engine version


def fits(row: Row) -> bool | None:
    """Whether the row gives the name of its folder; None where it doesn't say enough to tell."""
    identity = recorded(row)
    if not (identity["plugin"] and identity["engine"] and identity["train"]):
        return None
    return row.cell.endswith(f"-{digest(identity)[:12]}")


def data_of(row: Row, request: RunRequest, root: str | None = None) -> Data:
    """The data that a row was trained and scored on, as they lie on this machine.

    Of several places that are called so, the first one that can be read.

    Raises:
        DataError, UsageError: they don't.
    """
    *others, last = naming.texts(row.dataset, request.datasets)
    for text in others:
        with suppress(DataError):
            return _loaded(text, row, request, root)
    return _loaded(last, row, request, root)


def _loaded(text: str, row: Row, request: RunRequest, root: str | None) -> Data:
    return datasets.load(
        text,
        datasets.data_root(root or request.data_root),
        limit=row.training.get("limit"),
        validation=row.training.get("validation", 0),
        split=row.scoring.get("split", "test"),
        image_size=request.image_size,
        download=False,
    )


def present(row: Row, data: Data) -> Cell:
    """The cell that a row's label, seed and protocol come to now.

    Raises:
        UsageError, PluginError: to none: its variant isn't there any more, or takes other hyperparameters.
    """
    _, bracket = selector(row.label)
    values = {name: row.hyperparameters[name] for name in bracket if name in row.hyperparameters}
    given = check(row.variant, VARIANTS.load(row.variant), values)
    known = {f.name for f in fields(Training)}
    training = Training(**{name: value for name, value in row.training.items() if name in known})
    request = RunRequest(steps=training.steps, batch_size=training.batch_size, likelihood=row.likelihood)
    config = Config(row.variant, tuple(sorted(given.items())), row.baseline, row.sanity)
    found = replace(cell(config, data, row.seed, request), training=training, stacked=row.stacked)
    alike = digest(found.identity)[:12] == row.cell.rpartition("-")[2]
    return replace(found, at=row.cell) if alike else found


def changes(row: Row) -> list[str]:
    """What of the code behind a row isn't the present one, as far as it was recorded."""
    found = ["the engine"] if row.engine and row.engine != ENGINE else []
    try:
        plugin = plugin_of(row.variant)
    except BenchError:
        return [*found, "the plugin"]
    return [*found, "the plugin"] if row.plugin.get("source") != plugin["source"] else found


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    read: dict[str, Any] = json.loads(canonical(dict(document)))
    return read
