"""The same images under other names: told apart in a request, and their results found where they lie already."""

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
    """Each data once, under the name that came first; and what to say of the others.

    Raises:
        UsageError: two have the same name.
    """
    kept: list[Data] = []
    notes = []
    for data in loaded:
        if (same := next((other for other in kept if _same(data, other)), None)) is not None:
            notes.append(f"{data.name} holds the images of {same.name}: counted once, as {same.name}")
        elif any(data.name == other.name for other in kept):
            raise UsageError(f"two datasets of this run are called {data.name!r}", fix="Give them different names.")
        else:
            kept.append(data)
    return kept, notes


def _same(a: Data, b: Data) -> bool:
    """Return whether two datasets are the same in all that a run can see."""
    plain = ("latent_dim", "steps", "likelihood")
    if a.train.digest != b.train.digest or a.test.digest != b.test.digest or a.train.classes != b.train.classes:
        return False
    if any(getattr(a, name) != getattr(b, name) for name in plain) or a.source.digest != b.source.digest:
        return False
    outliers = [None if data.outliers is None else data.outliers.digest for data in (a, b)]
    factors = [None if data.factors is None else data.factors.tolist() for data in (a, b)]
    return outliers[0] == outliers[1] and factors[0] == factors[1]


def placed(c: Cell, store: Run, known: Mapping[str, Sequence[str]]) -> Cell:
    """The cell in the folder that it has, even if that was named when its images were called otherwise.

    Args:
        known: what the run holds, `by_identity`.

    Raises:
        StoreError: what is there can't be read.
    """
    if not own(c.data.name) or (store.cells / c.name).exists():
        return c
    there = twin(store, known.get(c.name.rpartition("-")[2], ()), c.data.test.digest)
    return c if there is None else replace(c, at=there)


def twin(store: Run, cells: Iterable[str], test: Any) -> str | None:
    """The first of these cells, which have one identity, that is of somebody's own images with this test split."""
    for name in cells:
        row = store.row(name)
        if row is not None and own(row.dataset):
            scored = {row.data.get("test"), *(way.get("test") for way in store.scorings(name).values())}
            if test in scored:
                return name
    return None


def earlier(runs: Iterable[Run], cells: Iterable[Cell]) -> Run | None:
    """The first of these runs that has results of one of these cells, made when its images were called otherwise."""
    runs = list(runs)
    names = [c.name for c in cells if own(c.data.name)] if runs else []
    ends = {name.rpartition("-")[2] for name in names}
    return next((run for run in runs if ends & run.by_identity().keys()), None)


def rename(store: Run, cells: Iterable[tuple[str, str]]) -> None:
    """Have a run's rows and its request call data what they're called now.

    Args:
        cells: each cell's folder, and the dataset's name.

    Raises:
        StoreError: the run can't be read or written.
    """
    names, before = dict[str, str](), dict[str, None]()
    for folder, name in cells:
        row = store.row(folder) if own(name) else None
        if row is not None and row.dataset != name and (digests := data_digests(row.data)):
            names[digests], before[row.dataset] = name, None
    store.call(names, before)
