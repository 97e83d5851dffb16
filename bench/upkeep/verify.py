"""Whether a finished cell is what it should be: whole, scored as it says, and the same when it's trained again."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.contracts.dataset import Data
from bench.contracts.events import Event, Step
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import RunRequest, Scoring, digest
from bench.contracts.row import Row
from bench.engine.evaluator import Evaluator
from bench.results.locate import cells
from bench.results.store import WEIGHTS, Run
from bench.running.identity import changes, data_of, fits, present
from bench.running.job import Conduct, perform
from bench.running.loading import load
from bench.running.planning import device_of
from bench.util import durable, inside
from bench.util.durable import SUMS, sha256
from bench.util.errors import BenchError, NotAvailable, StoreError
from bench.util.places import cache_dir
from bench.util.text import plain
from bench.util.threads import limited

TOLERANCE = 1e-6  # relative: other threads and machines round otherwise; the same ones don't at all


def finished(path: Path | str) -> list[tuple[Run, str]]:
    """The finished cells that a path names.

    Raises:
        StoreError: there are none.
    """
    run, names = cells(path)
    if done := [name for name in names if run.is_done(name)]:
        return [(run, name) for name in done]
    raise StoreError(f"{path} has no finished cell", cause="None has a done/cell.json.")


@dataclass
class Finding:
    """What came of a cell's checks, a phrase each."""

    cell: str
    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  #: what couldn't be checked here, and why

    @property
    def line(self) -> str:
        state = "differs" if self.wrong else "not checked" if self.unchecked else "ok"
        said = [*self.wrong, *(f"not checked: {text}" if self.wrong else text for text in self.unchecked)]
        return plain(f"{self.cell}  {state}: {'; '.join(said or self.right)}")


@dataclass
class Verifier:
    """Checks finished cells, one after the other.

    Args:
        only_sums: the files' sums alone, in no time.
        retrain: train each cell again as well, with as many threads, and compare the weights to the bit.
        tolerance: by how much a score may differ from the stored one, relative.
        data_root: where datasets lie.
    """

    only_sums: bool = False
    retrain: bool = False
    tolerance: float = TOLERANCE
    data_root: str | None = None
    _data: dict[tuple[Any, ...], Data] = field(default_factory=dict, repr=False)

    def __call__(self, store: Run, cell: str, say: Callable[[str], None] = lambda _: None) -> Finding:
        """Check a cell; `say` hears what is being done.

        Raises:
            StoreError: it's of a newer schema.
        """
        found = Finding(cell)
        say(f"{cell}: sums")
        _sums(store, cell, found)
        if found.wrong:
            return found
        row = store.row(cell)
        assert row is not None
        if row.status == "damaged":
            found.wrong.append(row.reason)
            return found
        if fits(row) is False:
            found.wrong.append("its row isn't what its folder is named after")
        if row.conflict:
            found.wrong.append(row.reason)
        if self.only_sums:
            return found
        request = store.request() if store.exists() else RunRequest()
        try:
            device = device_of(row.provenance.get("device", "cpu"))
            data = self._load(row, request, row.scoring.get("split", "test"))
        except BenchError as error:
            found.unchecked.append(error.brief)
            return found
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 says the protocol
        with limited(row.provenance.get("threads") or torch.get_num_threads()):  # sums come out in the same order
            self._scores(store, row, request, device, found, say)
            if self.retrain:
                _weights(store, row, data, device, found, say)
        return found

    def _load(self, row: Row, request: RunRequest, split: str = "test") -> Data:
        """The data as they were when `split` was scored."""
        limits = row.training.get("limit"), row.training.get("validation")
        key = (row.dataset, *limits, request.image_size, split)
        if key not in self._data:
            data = data_of(replace(row, scoring={**row.scoring, "split": split}), request, self.data_root)
            kept = {k: d for k, d in self._data.items() if k[:-1] == key[:-1]}  # no others: they may be large
            self._data = {**kept, key: data}
        return self._data[key]

    def _scores(
        self,
        store: Run,
        row: Row,
        request: RunRequest,
        device: torch.device,
        found: Finding,
        say: Callable[[str], None],
    ) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):  # that its source has changed is said below
                model = load(store.cells / row.cell).to(device)
        except BenchError as error:
            (found.wrong if isinstance(error, StoreError) else found.unchecked).append(error.brief)
            return
        exact = close = 0
        worst = 0.0
        for path, way in store.scorings(row.cell).items():
            if path.stem != digest(way)[:12]:
                found.wrong.append(f"scores/{path.name} isn't named after how it was scored")
                continue
            if (scoring := _scoring(way)) is None:
                found.unchecked.append(f"scores/{path.name}: scored by another version of the protocol")
                continue
            data = self._load(row, request, way.get("split", "test"))
            if (way.get("test"), way.get("source")) != (data.test.digest, data.source.digest):
                found.unchecked.append(f"scores/{path.name}: scored on other images than {row.dataset} has here")
                continue
            evaluator = Evaluator(model, data, scoring, cache_dir(), kept=store.evidence(row.cell))
            for name, stored in store.read_scores(row.cell, way).items():
                if not isinstance(stored, Score):
                    continue
                say(f"{row.cell}: {name}")
                again = _again(evaluator, name)
                if isinstance(again, NotAvailable):
                    where = found.unchecked if again.retry else found.wrong
                    where.append(f"{name} is n/a: {again.reason}")
                    continue
                off = distance(stored, again)
                exact, close, worst = exact + (off == 0), close + (0 < off <= self.tolerance), max(worst, off)
                if off > self.tolerance:
                    by = f"{off:.1g} relative" if off < math.inf else "a larger n, or no standard error any more"
                    found.wrong.append(f"{name} is {stored.value:.9g}, and {again.value:.9g} now: {by}{_since(row)}")
        if row.plugin.get("source") and "the plugin" in changes(row):
            found.right.append("though its plugin's source has changed since")
        if exact or close:
            within = f", {close} within {worst:.1g}" if close and worst <= self.tolerance else ""
            found.right.append(f"{exact} score{'' if exact == 1 else 's'} exact{within}")
        elif not worst:
            found.right.append("no scores")


def distance(a: Score, b: Score) -> float:
    """The largest relative difference between two scores' values and standard errors; inf if `a` has a smaller n.

    `a` may have a larger n, or no standard error where `b` has: it was scored before n was that of the smallest set, or
    before the metric had an error.
    """
    pairs = [(a.value, b.value)]
    if a.n < b.n or (a.se is not None and b.se is None):
        return math.inf
    if a.se is not None and b.se is not None:
        pairs.append((a.se, b.se))
    return max(abs(x - y) / max(abs(x), abs(y)) if x != y else 0.0 for x, y in pairs)


def _sums(store: Run, cell: str, found: Finding) -> None:
    done = store.cells / cell / "done"
    try:
        found.wrong += store.damage(cell)
    except StoreError:
        if not (done / SUMS).exists() or not (wrong := durable.damage(done)):
            raise
        found.wrong += wrong
    found.wrong += store.flawed_scores(cell).values()
    found.right.append("files as they were made" if (done / SUMS).exists() else "no sums (schema 1 has none)")
    if (row := store.row(cell)) is not None and "scores" in row.unsummed:
        found.right.append("no sums of scores (schema 3 has them)")


def _scoring(way: Mapping[str, Any]) -> Scoring | None:
    """The protocol that scores were made by, if it's ours: an older one has fewer settings, not others."""
    known = {f.name for f in fields(Scoring)}
    if not way.keys() <= known | {"test", "source"} or way.get("version") != Scoring().version:
        return None
    return Scoring(**{name: way[name] for name in known & way.keys()})


def _again(evaluator: Evaluator, name: str) -> Score | NotAvailable:
    try:
        metric = METRICS.load(name)
    except BenchError as error:
        return NotAvailable(error.brief, retry=True)
    return evaluator.score(metric)[0]


def _weights(
    store: Run, row: Row, data: Data, device: torch.device, found: Finding, say: Callable[[str], None]
) -> None:
    try:
        c = present(row, data)
    except BenchError as error:
        found.unchecked.append(error.brief)
        return

    def listener(event: Event) -> None:
        if isinstance(event, Step):
            say(f"{row.cell}: step {event.step:,} of {sum(c.steps):,}")

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        again = Run(folder)
        conduct = Conduct(device, torch.get_num_threads(), checkpoint=math.inf)
        perform(c, {}, again, listener, conduct)
        result = again.row(c.name)
        assert result is not None
        if result.status != "ok":
            found.wrong.append(f"trained again, it is {result.status}: {result.reason}{_since(row)}")
            return
        theirs, ours = (s.cells / name / "done" / WEIGHTS for s, name in ((store, row.cell), (again, c.name)))
        if sha256(theirs) == sha256(ours):
            found.right.append("the same weights again")
        else:
            why = f"{_elsewhere(row, result)}{_since(row)}"
            found.wrong.append(f"trained again, its weights differ {_by(theirs, ours)}{why}")


def _by(a: Path, b: Path) -> str:
    x, y = (load_file(inside.file(path)) for path in (a, b))
    if {k: v.shape for k, v in x.items()} != {k: v.shape for k, v in y.items()}:
        return "in number or shape"
    return f"by up to {max((x[k].double() - y[k].double()).abs().max().item() for k in x if x[k].numel()):.2g}"


def _since(row: Row) -> str:
    changed = changes(row)
    return f" ({' and '.join(changed)} changed since)" if changed else ""


def _elsewhere(row: Row, again: Row) -> str:
    names = [n for n in ("torch", "platform", "device_name") if row.provenance.get(n) != again.provenance.get(n)]
    return f" (another {', '.join(names)})" if names else ""


__all__ = ["TOLERANCE", "Finding", "Verifier", "distance", "finished"]
