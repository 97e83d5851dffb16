"""Runs a request: plans its cells, trains and scores each, keeps every result at once, and says so in events."""

from __future__ import annotations

import math
import re
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from bench import data as datasets
from bench import tables
from bench.dataset import Data
from bench.errors import BenchError, Diverged, NotAvailable, PluginError, Unsuitable, UsageError
from bench.evaluator import Evaluator, keepers
from bench.events import CellEnded, CellStarted, Listener, Preparing, RunEnded, RunStarted, Step
from bench.events import Scoring as ScoringEvent
from bench.evidence import KEPT, positions
from bench.grid import Cell, cell, expand, plugin_of
from bench.metric import METRICS, Metric, Score
from bench.parallel import run_cells
from bench.pictures import grid, paired
from bench.protocol import RunRequest, Scoring, digest
from bench.provenance import Log, costs, now, provenance
from bench.registry import default
from bench.row import Row, Status
from bench.store import Run
from bench.trainer import probe, train


@dataclass(frozen=True)
class PlannedCell:
    """A cell as `--dry-run` shows it."""

    name: str
    label: str
    dataset: str
    seed: int
    steps: tuple[int, ...]
    parameters: int
    state: str  #: 'new', 'done' or 'skipped'
    reason: str
    cell: Cell

    def as_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cell"}


@dataclass(frozen=True)
class Plan:
    """What a request comes to, before anything is trained."""

    request: RunRequest
    folder: Path
    cells: tuple[PlannedCell, ...]
    metrics: Mapping[str, Metric]
    device: torch.device
    notes: tuple[str, ...] = ()


def device_of(name: str) -> torch.device:
    """The device that `--device` names; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: it isn't there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    kind = name.split(":")[0]
    if kind not in there:
        raise UsageError(f"no device called {name!r}", cause="Known: auto, cpu, cuda, mps.")
    if not there[kind]:
        raise UsageError(
            f"this machine has no {kind.upper()} device that torch can use",
            cause="There is none, its driver is missing, or this torch was built without it.",
            fix=f"Use --device cpu, or --device auto (here: {device_of('auto')}).",
        )
    return torch.device(name)


def choose_metrics(names: tuple[str, ...]) -> dict[str, Metric]:
    """All metrics, those named, or all but those named with a minus.

    Raises:
        UnknownName
    """
    for name in names:
        METRICS.entry(name.removeprefix("-"))
    wanted = [n for n in names if not n.startswith("-")]
    if wanted:
        return {n: METRICS.load(n) for n in wanted if f"-{n}" not in names}
    found = {}
    for name in (n for n in METRICS if f"-{n}" not in names):
        try:
            found[name] = METRICS.load(name)
        except PluginError as error:  # a broken plugin breaks the runs that ask for it
            warnings.warn(f"left out: {error.what} ({error.cause})", stacklevel=2)
    return found


def default_folder(request: RunRequest) -> Path:
    """Where results lie if nobody says: requests that differ in variants, seeds or metrics alone share a folder."""
    plain = RunRequest(datasets=request.datasets)
    free = ("variants", "seeds", "metrics", "device", "jobs", "data_root", "out", "baseline")
    key = replace(request, **{name: getattr(plain, name) for name in free})
    names = "-".join(re.sub(r"[^a-z0-9_]+", "", re.split(r"[\[:]", text.lower())[0]) for text in request.datasets)
    own = key != plain or any(set("[:") & set(text) for text in request.datasets)
    return Path("results") / (f"{names[:60]}-{digest(key.to_json())[:8]}" if own else names[:60])


def validate(request: RunRequest) -> None:
    """What can be wrong with the numbers of a request.

    Raises:
        UsageError
    """
    if request.steps is not None and request.epochs is not None:
        raise UsageError("--steps and --epochs both set the budget", fix="Give one of them.")
    for name, value, least in (
        ("steps", request.steps, 1),
        ("epochs", request.epochs, None),
        ("batch-size", request.batch_size, 2),
        ("jobs", request.jobs, 1),
        ("limit", request.limit, 1),
        ("validation", request.validation, 0),
        ("image-size", request.image_size, 4),
    ):
        if value is not None and (value < least if least is not None else not 0 < value < math.inf):
            bound = f"at least {least}" if least is not None else "more than 0"
            raise UsageError(f"--{name} {value} is out of range", cause=f"It must be {bound}.")
    if not request.seeds or min(request.seeds) < 0 or len(set(request.seeds)) < len(request.seeds):
        raise UsageError(
            f"--seeds {','.join(map(str, request.seeds)) or '(none)'} isn't a list of different whole numbers from 0",
            fix="For example: --seeds 3 (that is 0,1,2), or --seeds 0,7,11.",
        )


def plan(request: RunRequest, listener: Listener = lambda _: None) -> Plan:
    """Check a request and settle its cells. Fetches data that is missing; trains nothing, writes no result.

    Raises:
        UsageError, PluginError, DataError
        StoreError: the folder that it would go to can't be read.
    """

    def fetching(path: str, done: int, total: int) -> None:
        listener(Preparing(f"downloading {path}", done, total))

    validate(request)
    device = device_of(request.device)
    metrics = choose_metrics(request.metrics)
    configs = expand(request)
    if not request.datasets:
        request = replace(request, datasets=(default("dataset") or "",))
    root = datasets.data_root(request.data_root)
    loaded = [
        datasets.load(
            name,
            root,
            limit=request.limit,
            validation=request.validation,
            image_size=request.image_size,
            on_progress=fetching,
        )
        for name in dict.fromkeys(request.datasets)
    ]
    folder = Path(request.out) if request.out else default_folder(request)
    is_done = Run(folder).is_done
    cells = []
    for data in loaded:
        for config in configs:
            for seed in request.seeds:
                c = cell(config, data, seed, request)
                state = "skipped" if c.unsuitable else "done" if is_done(c.name) else "new"
                cells.append(
                    PlannedCell(
                        c.name, config.label, data.name, seed, c.steps, c.parameters, state, c.unsuitable, c
                    )
                )  # fmt: skip
    notes = []
    if len(request.seeds) == 1:
        notes.append("one seed shows no spread: a difference between two rows may be chance (--seeds 3 tells)")
    return Plan(request, folder, tuple(cells), metrics, device, tuple(notes))


def estimate(plan: Plan) -> float:
    """Seconds of training to come, from a few steps of each kind of cell on the device that will run it."""
    seconds: dict[tuple[str, str], float] = {}
    total = 0.0
    for planned in plan.cells:
        if planned.state == "new":
            key, c = (planned.label, planned.dataset), planned.cell
            if key not in seconds:
                images = c.data.train.to(plan.device)
                build = lambda c=c: c.config.build(c.spec).to(plan.device)  # noqa: E731
                seconds[key] = probe(build, images, c.training)
            total += 0.0 if math.isnan(seconds[key]) else seconds[key]
    return total


def run(request: RunRequest, listener: Listener = lambda _: None) -> list[Row]:
    """Do what a request asks for, and what of it is on disk already, don't.

    Every finished cell is on disk at once; a cell that fails is a row with its reason, and the run goes on. On Ctrl-C
    the tables are written, and KeyboardInterrupt goes on to the caller.

    Raises:
        UsageError, PluginError, DataError: nothing has been trained.
        StoreError: the folder can't be written, found before training.
    """
    began = time.perf_counter()
    planned = plan(request, listener)
    store = Run(planned.folder)
    store.create(replace(planned.request, out=None))
    request = replace(request, out=str(planned.folder))
    new = [c for c in planned.cells if c.state == "new"]
    steps = sum(sum(c.steps) for c in new)
    notes = list(planned.notes)
    if steps > LONG:
        listener(Preparing("measuring a few steps of each variant"))
        notes.append(f"about {_duration(estimate(planned) / request.jobs)} of training ahead, then scoring")
    listener(RunStarted(len(planned.cells), steps, str(planned.folder), tuple(notes)))
    rows: list[Row] = []
    try:
        for row in _rows(planned, request, store, listener):
            rows.append(row)
            tables.write(planned.folder, store.rows())
    finally:
        tables.write(planned.folder, store.rows())
        order = {c.name: i for i, c in enumerate(planned.cells)}
        rows.sort(key=lambda row: order[row.cell])
        listener(RunEnded(str(planned.folder), tuple(rows), time.perf_counter() - began))
    return rows


def _rows(planned: Plan, request: RunRequest, store: Run, listener: Listener) -> Iterator[Row]:
    alone = request.jobs == 1 or len([c for c in planned.cells if c.state == "new"]) < 2
    here = [c for c in planned.cells if alone or c.state != "new"]
    for c in here:
        yield run_cell(c, planned, store, listener)
    if not alone:
        # the longest first, so that the last ones to finish are short
        there = sorted((c for c in planned.cells if c.state == "new"), key=lambda c: -c.parameters * sum(c.steps))
        yield from run_cells(request, [c.name for c in there], request.jobs, listener)


LONG = 8_000  # steps from which on the time is estimated beforehand


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_cell(planned: PlannedCell, plan: Plan, store: Run, listener: Listener) -> Row:
    """Train and score one cell, or find it done; whatever comes of it is on disk when this returns."""
    c = planned.cell
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 says the protocol
    if planned.state == "skipped":
        return _end(_blank(planned, "skipped", c.unsuitable), "", store, listener)
    before = store.row(planned.name)
    if before is not None and before.status == "diverged":
        listener(CellEnded(planned.name, before, reused=True))
        return before
    log = Log()
    evaluator: Evaluator | None = None
    if not store.is_done(planned.name):
        listener(CellStarted(planned.name, planned.label, planned.dataset, planned.seed, planned.steps))
        try:
            with log.warnings():
                evaluator = _train_cell(planned, plan, store, listener, log)
        except Diverged as reason:
            return _end(_blank(planned, "diverged", str(reason)), log.text, store, listener)
        except Unsuitable as reason:
            return _end(_blank(planned, "skipped", str(reason)), log.text, store, listener)
        except KeyboardInterrupt:
            _end(_blank(planned, "interrupted", "stopped by the user"), log.text, store, listener)
            raise
        except Exception as error:
            log(traceback.format_exc())
            reason_ = f"{error}" if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
            return _end(_blank(planned, "failed", " ".join(reason_.split())[:500]), log.text, store, listener)
    scored = _score_cell(planned, plan, store, listener, evaluator)
    row = store.row(planned.name)
    if row is None:
        raise BenchError(f"{planned.name} has vanished from {store.path}")
    listener(CellEnded(planned.name, row, reused=evaluator is None and not scored))
    return row


def _end(row: Row, log: str, store: Run, listener: Listener) -> Row:
    store.write_failed(row, log)
    listener(CellEnded(row.cell, row))
    return row


def _train_cell(planned: PlannedCell, plan: Plan, store: Run, listener: Listener, log: Log) -> Evaluator:
    c, device = planned.cell, plan.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = now()
    model = c.config.build(c.spec, planned.seed).to(device)

    def progress(step: int, stage: int, terms: dict[str, float]) -> None:
        listener(Step(planned.name, step, stage, terms))

    history = train(model, c.data.train.to(device), c.training, seed=planned.seed, on_progress=progress)
    log(f"trained {sum(planned.steps):,} steps in {history.seconds:.1f} s")
    listener(ScoringEvent(planned.name, "evidence"))
    evaluator = Evaluator(model, c.data, Scoring(), datasets.cache_dir())
    row = replace(
        _blank(planned, "ok", ""),
        costs=costs(planned.parameters, history, device),
        provenance=provenance(device, started),
    )
    weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    evidence: dict[str, Tensor] = {}
    pictures: dict[str, Image] = {}
    try:
        evidence = evaluator.kept((*KEPT, *keepers(plan.metrics)))
        pictures = _pictures(evidence, c.data)
    except Exception:
        log(traceback.format_exc())
    finally:  # whatever becomes of the evidence, the weights are earned
        store.write_done(row, weights, history.rows, evidence, pictures, log.text)
    return evaluator


def _pictures(evidence: Mapping[str, Tensor], data: Data) -> dict[str, Image]:
    pictures = {}
    if "samples" in evidence:
        pictures["samples"] = grid(evidence["samples"][:128])
    if "reconstructions" in evidence:
        decoded = evidence["reconstructions"]
        originals = data.test.take(positions(data.test, len(decoded)), "cpu")
        pictures["reconstructions"] = grid(paired(originals[:64], decoded[:64]))
    return pictures


def _score_cell(planned: PlannedCell, plan: Plan, store: Run, listener: Listener, evaluator: Evaluator | None) -> bool:
    c, scoring = planned.cell, Scoring()
    way = {**asdict(scoring), "test": c.data.test.digest, "source": c.data.source.digest}
    scores = store.read_scores(planned.name, way)

    def missing(name: str) -> bool:
        known = scores.get(name)
        return known is None or (isinstance(known, NotAvailable) and known.retry)

    wanted = {name: m for name, m in plan.metrics.items() if not m.derived and missing(name)}
    if not wanted:
        return False
    if evaluator is None:
        from bench.api import load

        model = load(store.cells / planned.name).to(plan.device)
        evaluator = Evaluator(model, c.data, scoring, datasets.cache_dir())
    for name, metric in wanted.items():
        listener(ScoringEvent(planned.name, name))
        scores[name], seconds = evaluator.score(metric)
        store.write_scores(planned.name, way, _in_order(scores), {name: seconds})
    return True


def _in_order(scores: Mapping[str, Score | NotAvailable]) -> dict[str, Score | NotAvailable]:
    known = [name for name in METRICS if name in scores]
    return {name: scores[name] for name in [*known, *sorted(scores.keys() - set(known))]}


def _blank(planned: PlannedCell, status: Status, reason: str) -> Row:
    c = planned.cell
    data: Data = c.data
    return Row(
        variant=c.config.name,
        label=planned.label,
        dataset=planned.dataset,
        seed=planned.seed,
        status=status,
        reason=reason,
        hyperparameters=dict(c.hyperparameters),
        likelihood=c.spec.likelihood,
        uses_labels=c.config.cls.uses_labels,
        baseline=c.config.baseline,
        steps=c.steps,
        plugin=plugin_of(c.config.name),
        data={
            "shape": list(c.spec.shape),
            "classes": data.classes,
            "latent_dim": c.spec.latent_dim,
            "train": data.train.digest,
            "test": data.test.digest,
            "train_images": len(data.train),
            "test_images": len(data.test),
        },
        training=asdict(c.training),
        cell=planned.name,
    )
