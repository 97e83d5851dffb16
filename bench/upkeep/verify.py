"""`bench verify`: compares finished cells with their checksums, with scores computed again, and with a new training."""

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
from bench.util.wording import counted

TOLERANCE = 1e-6  # relative: other machines and other numbers of threads round differently


Say = Callable[[str], None]  # hears what is being done


def finished(path: Path | str) -> list[tuple[Run, str]]:
    """Return the finished cells that a path names.

    Raises:
        StoreError: there are none.
    """
    run, names = cells(path)
    if done := [name for name in names if run.is_done(name)]:
        return [(run, name) for name in done]
    raise StoreError(f"{path} has no finished cell", cause="None has a done/cell.json.")


@dataclass
class Finding:
    """The outcome of a cell's checks, a phrase each."""

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
        only_sums: compare files with their checksums, and nothing else.
        retrain: also train each cell again, with the same number of threads, and compare the weights bit by bit.
        tolerance: the largest relative difference between a stored score and the recomputed one.
        data_root: the folder of datasets.
    """

    only_sums: bool = False
    retrain: bool = False
    tolerance: float = TOLERANCE
    data_root: str | None = None
    _data: dict[tuple[Any, ...], Data] = field(default_factory=dict, repr=False)

    def __call__(self, store: Run, cell: str, say: Say = lambda _: None) -> Finding:
        """Check a cell.

        Raises:
            StoreError: the cell is of a newer schema.
        """
        finding = Finding(cell)
        say(f"{cell}: sums")
        _sums(store, cell, finding)
        if finding.wrong:
            return finding
        row = store.row(cell)
        assert row is not None
        if row.status == "damaged":
            finding.wrong.append(row.reason)
            return finding
        if fits(row) is False:
            finding.wrong.append("its row isn't what its folder is named after")
        if row.conflict:
            finding.wrong.append(row.reason)
        if self.only_sums:
            return finding
        request = store.request() if store.exists() else RunRequest()
        try:
            device = device_of(row.provenance.get("device", "cpu"))
            data = self._load(row, request, row.scoring.get("split", "test"))
        except BenchError as error:
            finding.unchecked.append(error.brief)
            return finding
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol is fp32
        with limited(row.provenance.get("threads") or torch.get_num_threads()):  # which decide how sums are rounded
            self._scores(store, row, request, device, finding, say)
            if self.retrain:
                _weights(store, row, data, device, finding, say)
        return finding

    def _load(self, row: Row, request: RunRequest, split: str) -> Data:
        """Return the data as they were when `split` was scored; keep them for the next cells with the same data."""
        same_data = (row.dataset, row.training.get("limit"), row.training.get("validation"), request.image_size)
        key = (*same_data, split)
        if key not in self._data:
            data = data_of(replace(row, scoring={**row.scoring, "split": split}), request, self.data_root)
            kept = {k: d for k, d in self._data.items() if k[:-1] == same_data}  # others may be large
            self._data = {**kept, key: data}
        return self._data[key]

    def _scores(
        self, store: Run, row: Row, request: RunRequest, device: torch.device, finding: Finding, say: Say
    ) -> None:
        """Compute the scores of a cell again, and compare them with the stored ones."""
        try:
            with warnings.catch_warnings(action="ignore"):  # a changed source is reported below
                model = load(store.cells / row.cell).to(device)
        except BenchError as error:
            (finding.wrong if isinstance(error, StoreError) else finding.unchecked).append(error.brief)
            return
        differences: list[float] = []
        for path, way in store.scorings(row.cell).items():
            if path.stem != digest(way)[:12]:
                finding.wrong.append(f"scores/{path.name} isn't named after how it was scored")
                continue
            if (scoring := _scoring(way)) is None:
                finding.unchecked.append(f"scores/{path.name}: scored by another version of the protocol")
                continue
            data = self._load(row, request, way.get("split", "test"))
            if (way.get("test"), way.get("source")) != (data.test.digest, data.source.digest):
                finding.unchecked.append(f"scores/{path.name}: scored on other images than {row.dataset} has here")
                continue
            evaluator = Evaluator(model, data, scoring, cache_dir(), kept=store.evidence(row.cell))
            for name, stored in store.read_scores(row.cell, way).items():
                if isinstance(stored, Score):
                    say(f"{row.cell}: {name}")
                    differences += self._score(evaluator, name, stored, row, finding)
        if row.plugin.get("source") and "the plugin" in changes(row):
            finding.right.append("though its plugin's source has changed since")
        exact, close = differences.count(0), [d for d in differences if 0 < d <= self.tolerance]
        if exact or close:
            within = (
                f", {len(close)} within {max(close):.1g}" if close and len(close) + exact == len(differences) else ""
            )
            finding.right.append(f"{counted(exact, 'score')} exact{within}")
        elif not differences:
            finding.right.append("no scores")

    def _score(self, evaluator: Evaluator, name: str, stored: Score, row: Row, finding: Finding) -> list[float]:
        """Compute one score again; return its difference from the stored one in a list, empty where it is n/a now."""
        again = _again(evaluator, name)
        if isinstance(again, NotAvailable):
            (finding.unchecked if again.retry else finding.wrong).append(f"{name} is n/a: {again.reason}")
            return []
        off = distance(stored, again)
        if off > self.tolerance:
            by = f"{off:.1g} relative" if off < math.inf else "a larger n, or no standard error any more"
            finding.wrong.append(f"{name} is {stored.value:.9g}, and {again.value:.9g} now: {by}{_since(row)}")
        return [off]


def distance(a: Score, b: Score) -> float:
    """Return the largest relative difference of two scores' values and standard errors; inf if `a` has a smaller n.

    `a` may have a larger n, or lack a standard error that `b` has, since older versions of the suite scored so.
    """
    pairs = [(a.value, b.value)]
    if a.n < b.n or (a.se is not None and b.se is None):
        return math.inf
    if a.se is not None and b.se is not None:
        pairs.append((a.se, b.se))
    return max(abs(x - y) / max(abs(x), abs(y)) if x != y else 0.0 for x, y in pairs)


def _sums(store: Run, cell: str, finding: Finding) -> None:
    """Compare the files of a cell with their checksums."""
    done = store.cells / cell / "done"
    try:
        finding.wrong += store.damage(cell)
    except StoreError:
        if not (done / SUMS).exists() or not (wrong := durable.damage(done)):
            raise
        finding.wrong += wrong
    finding.wrong += store.flawed_scores(cell).values()
    finding.right.append("files as they were made" if (done / SUMS).exists() else "no sums (schema 1 has none)")
    if (row := store.row(cell)) is not None and "scores" in row.unsummed:
        finding.right.append("no sums of scores (schema 3 has them)")


def _scoring(way: Mapping[str, Any]) -> Scoring | None:
    """Return the scoring protocol of a file of scores; None if another version of the suite has to compute it."""
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


def _weights(store: Run, row: Row, data: Data, device: torch.device, finding: Finding, say: Say) -> None:
    """Train a cell again, and compare the weights with the stored ones."""
    try:
        c = present(row, data)
    except BenchError as error:
        finding.unchecked.append(error.brief)
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
            finding.wrong.append(f"trained again, it is {result.status}: {result.reason}{_since(row)}")
            return
        theirs, ours = (s.cells / name / "done" / WEIGHTS for s, name in ((store, row.cell), (again, c.name)))
        if sha256(theirs) == sha256(ours):
            finding.right.append("the same weights again")
        else:
            why = f"{_elsewhere(row, result)}{_since(row)}"
            finding.wrong.append(f"trained again, its weights differ {_by(theirs, ours)}{why}")


def _by(a: Path, b: Path) -> str:
    """Return in words by how much two files of weights differ."""
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
