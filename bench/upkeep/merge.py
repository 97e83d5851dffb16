"""`bench merge`: joins runs into one. Of two results of a cell the first stays; the joined runs are only read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contracts.measurement import Score
from bench.contracts.naming import own
from bench.results.locate import opened
from bench.results.store import Run, data_digests
from bench.running.moved import twin
from bench.tables import frames
from bench.upkeep.verify import TOLERANCE, distance
from bench.util.durable import writing
from bench.util.errors import Damaged, NotAvailable, StoreError, UsageError
from bench.util.lease import Lease


@dataclass
class Merged:
    """The outcome: how many cells, failures and scores are new, and a line for each that is damaged or differs."""

    cells: int = 0
    failures: int = 0
    scores: int = 0
    wrong: list[str] = field(default_factory=list)


def merge(out: Path | str, runs: Iterable[Path | str]) -> Merged:
    """Join runs into the one at `out`, which may exist; joined once more, nothing changes.

    Of two results with the same weights one is kept, with the scores of both. A result with other weights is kept in
    `different/`, without its scores. Damaged results are left out. Failures are kept for cells without a result.

    Raises:
        StoreError: one of them is no run, or `out` can't be written.
        UsageError: `out` is one of them.
    """
    store, sources, merged = Run(out), [opened(path) for path in runs], Merged()
    if store.path.resolve() in {source.path.resolve() for source in sources}:
        raise UsageError(f"{out} would be joined into itself", fix="The first folder is the one that is written.")
    for source in sources:
        source.rows()  # raises before anything is written
    for source in sources:
        store.create(source.request())
        known = store.by_identity()
        destinations = {cell: _destination(store, source, cell, known) for cell in source.names()}
        for cell, to in destinations.items():
            _join(store, source, cell, to, merged)
        _rename_data(store, source, destinations)
    frames.write(store.path, store.rows())
    return merged


def _destination(store: Run, source: Run, cell: str, known: Mapping[str, Sequence[str]]) -> str:
    """Return the folder that a cell is merged into: that of the same cell, whatever its images are called."""
    others = known.get(cell.rpartition("-")[2], ())
    row = source.row(cell) if others and cell not in others else None
    if row is None or not own(row.dataset):
        return cell
    return twin(store, others, row.data.get("test")) or cell


def _rename_data(store: Run, source: Run, destinations: Mapping[str, str]) -> None:
    """Give images of `source` that are in `store` already the name that they have there."""
    names, before = dict(source.called()), dict[str, None]()
    for cell, to in destinations.items():
        if cell != to and (theirs := source.row(cell)) is not None and (ours := store.row(to)) is not None:
            names[data_digests(theirs.data)] = ours.dataset
            before |= {} if theirs.dataset == ours.dataset else {theirs.dataset: None}
    store.call(names | store.called(), before)


def _join(store: Run, source: Run, cell: str, to: str, merged: Merged) -> None:
    """Merge one cell of `source` into the folder `to`, with its lease."""
    home = store.cells / to
    store.refuse_links(to)
    with writing(store.path):
        lease = Lease.take(home / "lease.json")
    if lease is None:
        raise StoreError(
            f"another process is training {to} in {store.path}",
            fix="Repeat the command when that process has ended; it continues from there.",
        )
    try:
        if source.is_done(cell):
            _result(store, source, cell, to, merged)
        elif not store.is_done(to):
            for failed in source.failures(cell):
                merged.failures += store.adopt_failure(to, failed)
    except Damaged as error:
        merged.wrong.append(f"{error.what}: left out")
    finally:
        lease.release()
        with suppress(OSError):
            home.rmdir()  # if there was nothing to join


def _result(store: Run, source: Run, cell: str, to: str, merged: Merged) -> None:
    """Merge the result and the scores of a cell."""
    home = source.cells / cell
    if damaged := source.damage(cell):
        merged.wrong.append(f"{home} is damaged, and left out: {'; '.join(damaged)}")
        return
    new = not store.is_done(to)
    same = store.adopt(to, home / "done")
    merged.cells += new
    for other in source.others(cell):
        store.adopt(to, other)
        if same:
            merged.wrong.append(f"{home} has another result with other weights, in different/")
    if not same:
        merged.wrong.append(f"{home} has other weights than the result before it; kept in different/")
        return
    merged.wrong += [f"{source.path}/{flaw}: left out" for flaw in source.flawed_scores(cell).values()]
    for path, way in source.scorings(cell).items():
        _scores(store, source, cell, to, path, way, merged)


def _scores(store: Run, source: Run, cell: str, to: str, path: Path, way: Mapping[str, Any], merged: Merged) -> None:
    """Merge the scores in one file, `path`."""
    ours, theirs = store.read_scores(to, way), source.read_scores(cell, way)
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if isinstance(a, Score) and isinstance(b, Score) and min(distance(a, b), distance(b, a)) > TOLERANCE:
            where = source.cells / cell
            merged.wrong.append(f"{where}: {name} is {b.value:.9g}, and {a.value:.9g} in the result before it")
    taken = {name: score for name, score in theirs.items() if _better(score, ours.get(name))}
    if not taken:
        return
    target = store.cells / to / "scores" / path.name
    newest = max(file.stat().st_mtime_ns for file in (path, target) if file.exists())
    seconds = {name: s for name, s in source.seconds(cell, way).items() if name in taken}
    store.write_scores(to, way, {**ours, **taken}, seconds)
    os.utime(target, ns=(newest, newest))  # the row shows the scores that were written last
    merged.scores += len(taken)


def _better(score: Score | NotAvailable, known: Score | NotAvailable | None) -> bool:
    """Return whether a score says more than the one that is known: a value, a standard error, a final reason."""
    if known is None:
        return True
    if isinstance(score, Score):
        return isinstance(known, NotAvailable) or (known.se is None and score.se is not None)
    return isinstance(known, NotAvailable) and known.retry and not score.retry
