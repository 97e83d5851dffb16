"""A job: one cell to be trained and scored, by whatever process; what comes of it is on disk when that ends."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from bench.contracts.abilities import Bound, why_not
from bench.contracts.dataset import Data
from bench.contracts.events import CellStarted, Listener, Step
from bench.contracts.events import Scoring as ScoringEvent
from bench.contracts.measurement import METRICS, Metric, Score
from bench.contracts.row import Status
from bench.contracts.variant import Variant
from bench.drawing.pictures import grid, paired
from bench.engine.checkpoint import Checkpoints
from bench.engine.evaluator import Evaluator, keepers
from bench.engine.profiling import FOLDER, Profiler
from bench.engine.snapshot import Snapshot, seeded
from bench.engine.trainer import History, train_together
from bench.evidence import FOLLOWED, FOLLOWED_FROM, KEPT, earlier, positions
from bench.plugins import registry
from bench.plugins.source import OURS
from bench.results.provenance import Log, costs, now, provenance
from bench.results.store import Run
from bench.running.grid import Cell, blank
from bench.running.identity import fits
from bench.running.loading import load
from bench.util.durable import read_json_if_any, write_json, writing
from bench.util.errors import BenchError, Diverged, NotAvailable, StoreError, Unsuitable
from bench.util.lease import Lease
from bench.util.places import cache_dir
from bench.util.process import end_copy, make_folder, uncopied
from bench.util.threads import limited

DIED = "its process died while it was computed: "  #: how the reason begins where a metric did that


class Stopped(BaseException):
    """The job was asked to stop, and has: what it had is in a checkpoint, or on disk."""


@dataclass
class Conduct:
    """How a job is carried out; nothing of it changes a result."""

    device: torch.device
    threads: int
    checkpoint: float = 60.0  #: seconds between checkpoints
    attempt: int = 1
    dead: Mapping[str, str] | None = None  #: metrics that brought a process down before, and how
    alive: Callable[[], None] = lambda: None  #: called at every step, and at every chunk of a metric
    stop: Callable[[], bool] = lambda: False  #: asked as often
    said: Callable[[], str] = lambda: ""  #: what the process has printed so far
    profile: bool = False  #: whether some steps are traced


def missing(c: Cell, metrics: Mapping[str, Metric], store: Run) -> dict[str, Metric]:
    """The metrics that a trained cell still lacks; those that another try may have among them."""
    scores = store.read_scores(c.name, way_of(c))

    def lacks(name: str) -> bool:
        known = scores.get(name)
        return known is None or (isinstance(known, NotAvailable) and known.retry)

    return {name: m for name, m in metrics.items() if not m.derived and lacks(name)}


def way_of(c: Cell) -> dict[str, Any]:
    """How a cell is scored: what its scores are filed under."""
    return {**c.scoring.document(), "test": c.data.test.digest, "source": c.data.source.digest}


def give_up(
    c: Cell, metrics: Mapping[str, Metric], store: Run, reason: str, dead: Mapping[str, str] | None = None
) -> None:
    """Note of each score that a trained cell lacks why: another try may have it.

    Args:
        dead: metrics that brought a process down, and how; theirs is a reason of their own.

    Raises:
        StoreError: the folder can't be written any more.
    """
    why = {name: f"{DIED}{how}" for name, how in (dead or {}).items()}
    lacking = {name: NotAvailable(why.get(name, reason), retry=True) for name in missing(c, metrics, store)}
    if lacking:
        store.write_scores(c.name, way_of(c), _in_order(lacking), {})


def perform(c: Cell, metrics: Mapping[str, Metric], store: Run, listener: Listener, conduct: Conduct) -> None:
    """Train and score a cell, or what of it isn't done yet. A failure of the variant is on disk as well.

    Raises:
        Stopped: by `conduct.stop`, with a checkpoint where it was training.
        StoreError: the disk is full, or the folder can't be written any more.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 says the protocol
    with limited(conduct.threads):
        _perform(c, metrics, store, listener, conduct)


def _perform(c: Cell, metrics: Mapping[str, Metric], store: Run, listener: Listener, conduct: Conduct) -> None:
    if c.training.compile:
        torch.compiler.reset()  # or the cells of one process run into its limit of recompilations
    log = Log()
    evaluator: Evaluator | None = None
    store.refuse_links(c.name)
    for member in c.together:
        if wrong := store.flaw(member.name):
            log(f"quarantined, and made anew: {wrong}")
            store.quarantine(member.name)
    store.quarantine_scores(c.name)
    if store.is_done(c.name) and missing(c, metrics, store) and (lines := _wrong(c, store)):
        log(f"quarantined, and made anew: {'; '.join(lines)}")
        store.quarantine(c.name)
    if not store.is_done(c.name):
        try:
            with log.warnings():
                evaluator = _train(c, metrics, store, listener, conduct, log)
        except (Stopped, KeyboardInterrupt):
            raise
        except StoreError:
            if not store.is_done(c.name):  # else another attempt was first, and tidied up while we wrote
                raise
        except BaseException as error:
            status, reason = verdict(error)
            if status not in ("diverged", "skipped"):
                log(traceback.format_exc())
            store.write_failed(blank(c, status, reason), conduct.said() + log.text)
            return
    _score(c, metrics, store, listener, conduct, evaluator)


def _wrong(c: Cell, store: Run) -> list[str]:
    """Return why a finished cell can't be scored: it was edited or damaged; nothing where it can."""
    if wrong := store.damage(c.name):
        return wrong
    row = store.row(c.name)
    return [] if row is None or fits(row) is not False else ["its row isn't what its folder is named after"]


def verdict(error: BaseException) -> tuple[Status, str]:
    """What an exception makes of a cell."""
    text = " ".join(str(error).split())[:500]
    match error:
        case Diverged():
            return "diverged", text
        case Unsuitable():
            return "skipped", text
        case BenchError():
            return "failed", error.line
        case MemoryError() | torch.OutOfMemoryError():
            return "oom", f"out of memory: {text or type(error).__name__}"
        case RuntimeError() if "can't allocate memory" in text or "DefaultCPUAllocator" in text:
            return "oom", f"out of memory: {text}"
        case _:
            return "failed", f"{type(error).__name__}: {text}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line of users' code on the way to where something was raised."""
    others = (str(OURS), str(Path(torch.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*others, "<"))]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _train(
    c: Cell, metrics: Mapping[str, Metric], store: Run, listener: Listener, conduct: Conduct, log: Log
) -> Evaluator:
    device = conduct.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, ours = now(), os.getpid()
    together = c.together
    models = [member.config.build(member.spec, member.seed).to(device) for member in together]
    checkpoints = Checkpoints(store.work(together[0].name) / "checkpoints", together[0].name)
    snapshot, rejected = checkpoints.load(device)
    for reason in rejected:
        log(reason)
    resumed = snapshot.done if snapshot else 0
    if resumed:
        log(f"goes on from step {resumed:,}")
    listener(CellStarted(c.name, c.config.label, c.data.name, c.seed, c.steps, resumed))
    began = last = time.monotonic()
    images = c.data.train.to(device)
    profiler = Profiler(store.cells / c.name / FOLDER, images, sum(c.steps) - resumed) if conduct.profile else None
    followed = [
        _Followed(model, member, store.work(member.name), resumed, conduct.alive)
        for model, member in zip(models, together, strict=True)
    ]

    def progress(step: int, stage: int, terms: dict[str, float]) -> None:
        listener(Step(c.name, step, stage, terms))

    def turn(take: Callable[[], Snapshot]) -> None:
        nonlocal last
        end_copy(ours)
        conduct.alive()
        for one in followed:
            one.turn()
        if profiler is not None:
            profiler.turn()
        stop = conduct.stop()
        if stop or time.monotonic() - last >= conduct.checkpoint:
            checkpoints.save(take())
            last = time.monotonic()
        if stop:
            raise Stopped

    seeds = [member.seed for member in together]
    with uncopied():
        histories = train_together(
            models, images, c.training, seeds, on_progress=progress, on_turn=turn, resume=snapshot
        )
    if profiler is not None:
        profiler.finish()
    log(f"trained {sum(c.steps):,} steps in {time.monotonic() - began:.1f} s")
    listener(ScoringEvent(c.name, "evidence"))
    past = {"attempts": conduct.attempt, "resumed_from": resumed, "checkpoints_rejected": len(rejected)}
    own: Evaluator | Diverged | None = None
    each = zip(together, models, histories, followed, strict=True)
    for member, model, history, one in sorted(each, key=lambda part: part[0].seed == c.seed):  # its own ends the work
        found: Evaluator | Diverged
        if isinstance(history, Diverged):
            found = history
            if member.seed != c.seed:
                store.write_failed(blank(member, "diverged", str(history)), log.text)
        else:
            cost = costs(c.parameters, history, device) | past
            evaluator = Evaluator(model, c.data, c.scoring, cache_dir(), conduct.alive, kept=one.kept())
            found = _keep(member, metrics, store, conduct, evaluator, history, cost, started, log)
        own = found if member.seed == c.seed else own
    checkpoints.discard()
    if not isinstance(own, Evaluator):
        raise own or BenchError(f"seed {c.seed} isn't among those that it's trained with")
    return own


def _keep(
    c: Cell,
    metrics: Mapping[str, Metric],
    store: Run,
    conduct: Conduct,
    evaluator: Evaluator,
    history: History,
    cost: dict[str, float],
    started: str,
    log: Log,
) -> Evaluator:
    """Write what a trained cell leaves; of a stack, if nobody has."""
    if c.stacked and store.is_done(c.name):
        return evaluator
    with writing(store.path):
        lease = Lease.take(store.cells / c.name / "lease.json")  # None: our supervisor has it
    model = evaluator.model
    origin, began = provenance(evaluator.device, started), time.perf_counter()
    weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    evidence: dict[str, Tensor] = {}
    pictures: dict[str, Image] = {}
    try:
        with uncopied():
            evidence = {**evaluator.keep((*KEPT, *keepers(metrics))), **evaluator.kept}
        pictures = _pictures(evidence, c.data)
    except Exception:
        log(traceback.format_exc())
    finally:  # whatever becomes of the evidence, the weights are earned
        cost["evidence_seconds"] = round(time.perf_counter() - began, 2)
        row = replace(blank(c, "ok"), costs=cost, provenance=origin)
        try:
            store.write_done(row, weights, history.rows, evidence, pictures, conduct.said() + log.text)
        finally:
            if lease is not None:
                lease.release()
    return evaluator


class _Followed:
    """Takes the bound once while the last stage is trained, and keeps it where a resumed training finds it."""

    def __init__(self, model: Variant, c: Cell, work: Path, done: int, alive: Callable[[], None]) -> None:
        self.model, self.cell, self.done, self.alive = model, c, done, alive
        self.path = work / "followed.json"
        able = why_not(model, Bound) is None and c.steps and c.steps[-1] > 1
        self.at = sum(c.steps[:-1]) + int(FOLLOWED_FROM * c.steps[-1]) if able else -1

    def turn(self) -> None:
        self.done += 1
        if self.done != self.at:
            return
        modes = {module: module.training for module in self.model.modules()}
        evaluator = Evaluator(self.model, self.cell.data, self.cell.scoring, cache_dir(), self.alive)
        try:
            with torch.inference_mode(), seeded(0, evaluator.device):
                bound = evaluator.get(FOLLOWED).float()
            make_folder(self.path.parent)
            write_json(self.path, {earlier(self.cell.data.test): bound.tolist()})
        except Exception:  # its scores will say why there is no bound, and checkpoints that the disk is full
            return
        finally:
            for module, training in modes.items():
                module.training = training

    def kept(self) -> dict[str, Tensor]:
        found = read_json_if_any(self.path) or {}
        return {name: torch.tensor(values) for name, values in found.items() if name != "schema"}


def _pictures(evidence: Mapping[str, Tensor], data: Data) -> dict[str, Image]:
    pictures = {}
    if "samples" in evidence:
        pictures["samples"] = grid(evidence["samples"][:128])
    if "reconstructions" in evidence:
        decoded = evidence["reconstructions"]
        originals = data.test.take(positions(data.test, len(decoded)), "cpu")
        pictures["reconstructions"] = grid(paired(originals[:64], decoded[:64]))
    return pictures


def _score(
    c: Cell,
    metrics: Mapping[str, Metric],
    store: Run,
    listener: Listener,
    conduct: Conduct,
    evaluator: Evaluator | None,
) -> None:
    wanted, dead, way = missing(c, metrics, store), conduct.dead or {}, way_of(c)
    if not wanted:
        return

    def alive() -> None:
        conduct.alive()
        if conduct.stop():
            raise Stopped

    if evaluator is None:
        model = load(store.cells / c.name).to(conduct.device)
        evaluator = Evaluator(model, c.data, c.scoring, cache_dir(), kept=store.evidence(c.name))
    evaluator.on_chunk = alive
    scores = store.read_scores(c.name, way)
    for name in wanted.keys() & dead.keys():
        scores[name] = NotAvailable(f"{DIED}{dead[name]}", retry=True)
    for name in sorted((n for n in wanted if n not in dead), key=_foreign):
        alive()
        with uncopied():
            if wanted[name].predicted is not None:
                listener(ScoringEvent(c.name, name))  # whose fault it is if the process ends here
            listener(ScoringEvent(c.name, name, evaluator.predict(wanted[name])))
            scores[name], seconds = evaluator.score(wanted[name])
        store.write_scores(c.name, way, _in_order(scores), {name: seconds})
    if wanted.keys() & dead.keys():
        store.write_scores(c.name, way, _in_order(scores), {})


def _foreign(name: str) -> bool:
    """Whether a metric is somebody else's: these come last, or evidence that one changes would be others' too."""
    return name not in METRICS or METRICS.entry(name).distribution != registry.OURS


def _in_order(scores: Mapping[str, Score | NotAvailable]) -> dict[str, Score | NotAvailable]:
    known = [name for name in METRICS if name in scores]
    return {name: scores[name] for name in [*known, *sorted(scores.keys() - set(known))]}
