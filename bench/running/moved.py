"""The same images under other names: recognised within a request, and with the results that they already have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.contracts.dataset import Data
from bench.contracts.naming import own
from bench.results.store import Run, data_digests
from bench.running.grid import Cell
from bench.util.errors import UsageError


def distinct(loaded: Sequence[Data]) -> tuple[list[Data], list[str]]:
    """Return each data once, under its first name, and a note on each of its other names.

    Raises:
        UsageError: two different data have the same name.
    """
    first: list[Data] = []
    notes = []
    for data in loaded:
        if (same := next((other for other in first if _same(data, other)), None)) is not None:
            notes.append(f"{data.name} holds the images of {same.name}: counted once, as {same.name}")
        elif any(data.name == other.name for other in first):
            raise UsageError(f"two datasets of this run are called {data.name!r}", fix="Give them different names.")
        else:
            first.append(data)
    return first, notes


def _same(a: Data, b: Data) -> bool:
    """Return whether two datasets are equal in all that a run uses, their names apart."""

    def content(data: Data) -> tuple[Any, ...]:
        outliers = None if data.outliers is None else data.outliers.digest
        factors = None if data.factors is None else data.factors.tolist()
        settings = (data.train.classes, data.latent_dim, data.steps, data.likelihood)
        return (data.train.digest, data.test.digest, data.source.digest, settings, outliers, factors)

    return content(a) == content(b)


def placed(c: Cell, store: Run, known: Mapping[str, Sequence[str]]) -> Cell:
    """Return a cell in the folder that it has already, which may be named after an earlier name of its images.

    Args:
        known: the run's cells, from `Run.by_identity`.

    Raises:
        StoreError: a cell of the same identity can't be read.
    """
    if not own(c.data.name) or (store.cells / c.name).exists():
        return c
    there = twin(store, known.get(c.name.rpartition("-")[2], ()), c.data.test.digest)
    return c if there is None else replace(c, at=there)


def twin(store: Run, cells: Iterable[str], test: Any) -> str | None:
    """Return the first of these cells of one identity that is of a user's own images with this test split."""
    for name in cells:
        row = store.row(name)
        if row is not None and own(row.dataset):
            scored = {row.data.get("test"), *(scoring.get("test") for scoring in store.scorings(name).values())}
            if test in scored:
                return name
    return None


def earlier(runs: Iterable[Run], cells: Iterable[Cell]) -> Run | None:
    """Return the first of these runs that has a result of one of these cells, whatever its images were called."""
    runs = list(runs)
    digests = {c.name.rpartition("-")[2] for c in cells if own(c.data.name)} if runs else set()
    return next((run for run in runs if digests & run.by_identity().keys()), None)


def rename(store: Run, cells: Iterable[tuple[str, str]]) -> None:
    """Give the data in a run's rows and in its request their present names.

    Args:
        cells: each cell's folder, and the present name of its dataset.

    Raises:
        StoreError: the run can't be read or written.
    """
    names, before = dict[str, str](), dict[str, None]()
    for folder, name in cells:
        row = store.row(folder) if own(name) else None
        if row is not None and row.dataset != name and (digests := data_digests(row.data)):
            names[digests], before[row.dataset] = name, None
    store.call(names, before)
