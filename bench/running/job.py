"""A job: training and scoring one cell, in any process; the result is on disk when the job ends."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
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
from bench.running.grid import Cell, unscored_row
from bench.running.identity import fits
from bench.running.loading import load
from bench.util.durable import read_json_if_any, write_json, writing
from bench.util.errors import BenchError, Diverged, NotAvailable, StoreError, Unsuitable
from bench.util.lease import Lease
from bench.util.places import cache_dir
from bench.util.process import end_copy, make_folder, uncopied
from bench.util.threads import limited

DIED = "its process died while it was computed: "  #: how the reason begins where a metric ended its process


class Stopped(BaseException):
    """The job has stopped on request: its training is in a checkpoint, or its weights are on disk."""


@dataclass
class Conduct:
    """How a job is carried out; no setting changes a result."""

    device: torch.device
    threads: int
    checkpoint: float = 60.0  #: seconds between checkpoints
    attempt: int = 1
    dead: Mapping[str, str] | None = None  #: metrics that ended a process before, and how
    alive: Callable[[], None] = lambda: None  #: called at every step, and at every chunk of a metric
    stop: Callable[[], bool] = lambda: False  #: called as often: True stops the job
    printed: Callable[[], str] = lambda: ""  #: returns what the process has printed so far
    profile: bool = False  #: whether some steps are traced


def scoring_key(c: Cell) -> dict[str, Any]:
    """Return the protocol and data that a cell's scores are filed under."""
    return {**c.scoring.document(), "test": c.data.test.digest, "source": c.data.source.digest}


def missing(c: Cell, metrics: Mapping[str, Metric], store: Run) -> dict[str, Metric]:
    """Return the metrics that a trained cell lacks, and those that another try may give a score."""
    scores = store.read_scores(c.name, scoring_key(c))
    return {name: m for name, m in metrics.items() if not m.derived and is_missing(scores.get(name))}


def is_missing(score: Score | NotAvailable | None) -> bool:
    """Return whether a score is yet to be computed: there is none, or another try may have one."""
    return score is None or (isinstance(score, NotAvailable) and score.retry)


def give_up(
    c: Cell, metrics: Mapping[str, Metric], store: Run, reason: str, dead: Mapping[str, str] | None = None
) -> None:
    """Store for each missing score of a trained cell why it is missing; another try may have it.

    Args:
        dead: metrics that ended a process, with how: this is their reason.

    Raises:
        StoreError: the folder can't be written any more.
    """
    why = {name: f"{DIED}{ending}" for name, ending in (dead or {}).items()}
    lacking = {name: NotAvailable(why.get(name, reason), retry=True) for name in missing(c, metrics, store)}
    if lacking:
        store.write_scores(c.name, scoring_key(c), _in_order(lacking), {})


def perform(c: Cell, metrics: Mapping[str, Metric], store: Run, listener: Listener, conduct: Conduct) -> None:
    """Train and score a cell, or what is left to do of it. A failure of the variant is stored too.

    Raises:
        Stopped: by `conduct.stop`, with a checkpoint if it was training.
        StoreError: the disk is full, or the folder can't be written any more.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol is fp32
    with limited(conduct.threads):
        _CellJob(c, metrics, store, listener, conduct).run()


class _CellJob:
    """One job under way."""

    def __init__(
        self, c: Cell, metrics: Mapping[str, Metric], store: Run, listener: Listener, conduct: Conduct
    ) -> None:
        self.cell, self.metrics, self.store = c, metrics, store
        self.listener, self.conduct = listener, conduct
        self.log = Log()

    def run(self) -> None:
        c, store = self.cell, self.store
        evaluator: Evaluator | None = None
        if c.training.compile:
            torch.compiler.reset()  # the cells of one process would reach its limit of recompilations
        self._quarantine()
        if not store.is_done(c.name):
            try:
                with self.log.warnings():
                    evaluator = self._train()
            except (Stopped, KeyboardInterrupt):
                raise
            except StoreError:
                if not store.is_done(c.name):  # else another attempt was first, and removed the work folder
                    raise
            except BaseException as error:
                status, reason = verdict(error)
                if status not in ("diverged", "skipped"):
                    self.log(traceback.format_exc())
                store.write_failed(unscored_row(c, status, reason), self.conduct.printed() + self.log.text)
                return
        self._score(evaluator)

    def _quarantine(self) -> None:
        """Put damaged results aside."""
        c, store = self.cell, self.store
        store.refuse_links(c.name)
        for member in c.together:
            self._put_aside(member.name, store.flaw(member.name))
        store.quarantine_scores(c.name)
        if store.is_done(c.name) and missing(c, self.metrics, store):
            self._put_aside(c.name, "; ".join(_damage(c, store)))

    def _put_aside(self, name: str, flaw: str) -> None:
        if flaw:
            self.log(f"quarantined, and made anew: {flaw}")
            self.store.quarantine(name)

    def _train(self) -> Evaluator:
        """Train the cell, and the other seeds of its stack; return the evaluator of its model."""
        c, device, together = self.cell, self.conduct.device, self.cell.together
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = now()
        models = [member.config.build(member.spec, member.seed).to(device) for member in together]
        checkpoints = Checkpoints(self.store.work(together[0].name) / "checkpoints", together[0].name)
        snapshot, rejected = checkpoints.load(device)
        for reason in rejected:
            self.log(reason)
        resumed = snapshot.done if snapshot else 0
        if resumed:
            self.log(f"goes on from step {resumed:,}")
        self.listener(CellStarted(c.name, c.config.label, c.data.name, c.seed, c.steps, resumed))
        began = time.monotonic()
        images = c.data.train.to(device)
        folder, left = self.store.cells / c.name / FOLDER, sum(c.steps) - resumed
        profiler = Profiler(folder, images, left) if self.conduct.profile else None
        followed = [
            _Followed(model, member, self.store.work(member.name), resumed, self.conduct.alive)
            for model, member in zip(models, together, strict=True)
        ]
        with uncopied():
            histories = train_together(
                models,
                images,
                c.training,
                [member.seed for member in together],
                on_progress=lambda step, stage, terms: self.listener(Step(c.name, step, stage, terms)),
                on_turn=self._on_turn(checkpoints, [*followed, *([profiler] if profiler else [])]),
                resume=snapshot,
            )
        if profiler is not None:
            profiler.finish()
        self.log(f"trained {sum(c.steps):,} steps in {time.monotonic() - began:.1f} s")
        self.listener(ScoringEvent(c.name, "evidence"))
        past = {"attempts": self.conduct.attempt, "resumed_from": resumed, "checkpoints_rejected": len(rejected)}
        trained = list(zip(together, models, histories, followed, strict=True))
        own: Evaluator | Diverged
        for member, model, history, bound in sorted(trained, key=lambda part: part[0].seed == c.seed):  # its own last
            if isinstance(history, Diverged):
                own = history
                if member.seed != c.seed:
                    self.store.write_failed(unscored_row(member, "diverged", str(history)), self.log.text)
            else:
                own = Evaluator(model, c.data, c.scoring, cache_dir(), self.conduct.alive, kept=bound.evidence())
                self._commit_trained(member, own, history, costs(c.parameters, history, device) | past, started)
        checkpoints.discard()
        if isinstance(own, Diverged):
            raise own
        return own

    def _on_turn(
        self, checkpoints: Checkpoints, followers: Sequence[_Followed | Profiler]
    ) -> Callable[[Callable[[], Snapshot]], None]:
        """Return what the trainer calls after each turn, with a function that takes a snapshot."""
        ours, last = os.getpid(), time.monotonic()

        def turn(take: Callable[[], Snapshot]) -> None:
            nonlocal last
            end_copy(ours)
            self.conduct.alive()
            for follower in followers:
                follower.turn()
            stop = self.conduct.stop()
            if stop or time.monotonic() - last >= self.conduct.checkpoint:
                checkpoints.save(take())
                last = time.monotonic()
            if stop:
                raise Stopped

        return turn

    def _commit_trained(
        self, c: Cell, evaluator: Evaluator, history: History, cost: dict[str, float], started: str
    ) -> None:
        """Write a trained cell's weights, evidence, pictures and costs, unless another job of its stack has."""
        store = self.store
        if c.stacked and store.is_done(c.name):
            return
        with writing(store.path):
            lease = Lease.take(store.cells / c.name / "lease.json")  # None: our supervisor has it
        origin, began = provenance(evaluator.device, started), time.perf_counter()
        weights = {k: v.detach().cpu().clone() for k, v in evaluator.model.state_dict().items()}
        evidence: dict[str, Tensor] = {}
        pictures: dict[str, Image] = {}
        try:
            with uncopied():
                evidence = {**evaluator.keep((*KEPT, *keepers(self.metrics))), **evaluator.kept}
            pictures = _pictures(evidence, c.data)
        except Exception:
            self.log(traceback.format_exc())
        finally:  # the weights are stored, with evidence or without
            cost["evidence_seconds"] = round(time.perf_counter() - began, 2)
            row = replace(unscored_row(c, "ok"), costs=cost, provenance=origin)
            log = self.conduct.printed() + self.log.text
            try:
                store.write_done(row, weights, history.rows, evidence, pictures, log)
            finally:
                if lease is not None:
                    lease.release()

    def _score(self, evaluator: Evaluator | None) -> None:
        """Compute the missing scores; write each at once."""
        c, store, key = self.cell, self.store, scoring_key(self.cell)
        wanted, dead = missing(c, self.metrics, store), self.conduct.dead or {}
        if not wanted:
            return
        if evaluator is None:
            model = load(store.cells / c.name).to(self.conduct.device)
            evaluator = Evaluator(model, c.data, c.scoring, cache_dir(), kept=store.evidence(c.name))
        evaluator.on_chunk = self._go_on
        scores = store.read_scores(c.name, key)
        for name in wanted.keys() & dead.keys():
            scores[name] = NotAvailable(f"{DIED}{dead[name]}", retry=True)
        for name in sorted((n for n in wanted if n not in dead), key=_foreign):
            self._go_on()
            with uncopied():
                if wanted[name].predicted is not None:
                    self.listener(ScoringEvent(c.name, name))  # the supervisor's culprit if the process ends here
                self.listener(ScoringEvent(c.name, name, evaluator.predict(wanted[name])))
                scores[name], seconds = evaluator.score(wanted[name])
            store.write_scores(c.name, key, _in_order(scores), {name: seconds})
        if wanted.keys() & dead.keys():
            store.write_scores(c.name, key, _in_order(scores), {})

    def _go_on(self) -> None:
        self.conduct.alive()
        if self.conduct.stop():
            raise Stopped


def _damage(c: Cell, store: Run) -> list[str]:
    """Return how a finished cell differs from what was written; [] where it can be scored."""
    row = store.row(c.name)
    misnamed = row is not None and fits(row) is False
    return store.damage(c.name) or (["its row isn't the one that its folder is named after"] if misnamed else [])


def verdict(error: BaseException) -> tuple[Status, str]:
    """Return the status and the reason of a cell whose training raised."""
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
    """Return the last line of users' code that an exception passed through, as ' (mine.py:7)'; '' without one."""
    others = (str(OURS), str(Path(torch.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*others, "<"))]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


class _Followed:
    """The bound of a model, taken once while its last stage is trained; a file keeps it for a resumed training."""

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
        except Exception:  # the scores will say why there is no bound, and the next checkpoint that the disk is full
            return
        finally:
            for module, training in modes.items():
                module.training = training

    def evidence(self) -> dict[str, Tensor]:
        document = read_json_if_any(self.path) or {}
        return {name: torch.tensor(values) for name, values in document.items() if name != "schema"}


def _pictures(evidence: Mapping[str, Tensor], data: Data) -> dict[str, Image]:
    pictures = {}
    if "samples" in evidence:
        pictures["samples"] = grid(evidence["samples"][:128])
    if "reconstructions" in evidence:
        decoded = evidence["reconstructions"]
        originals = data.test.take(positions(data.test, len(decoded)), "cpu")
        pictures["reconstructions"] = grid(paired(originals[:64], decoded[:64]))
    return pictures


def _foreign(name: str) -> bool:
    """Return whether a metric is a third party's: scored last, since it might change evidence that others share."""
    return name not in METRICS or METRICS.entry(name).distribution != registry.OURS


def _in_order(scores: Mapping[str, Score | NotAvailable]) -> dict[str, Score | NotAvailable]:
    """Return scores in the order of the installed metrics, others after them by name."""
    known = [name for name in METRICS if name in scores]
    return {name: scores[name] for name in [*known, *sorted(scores.keys() - set(known))]}
