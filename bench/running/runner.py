"""Runs a request: plans its cells, has each trained and scored, stores every result at once, and reports by events."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bench import data as datasets
from bench.contracts.events import CellEnded, Listener, Preparing, RunEnded, RunStarted
from bench.contracts.executor import EXECUTORS, Executor, Exit, Job
from bench.contracts.measurement import METRICS
from bench.contracts.naming import texts
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.contracts.variant import VARIANTS
from bench.plugins.registry import OURS, Registry, default
from bench.plugins.unpublished import addressed, handed_over, live, sourceless
from bench.results.store import Run
from bench.running.executors.local import Local
from bench.running.grid import Model, parts_of, selected
from bench.running.job import Conduct, Stopped, give_up, missing, perform
from bench.running.moved import rename
from bench.running.planning import EVERY, Plan, PlannedCell, estimate, plan, validate
from bench.running.supervisor import INTERRUPTED, Supervisor, Task, duration
from bench.running.vetting import IMPORT, try_out, vet, wait_all
from bench.running.worker import ENDED, STOPPED, attempt_dir
from bench.tables import frames, ratedistortion
from bench.util.errors import PluginError, StoreError
from bench.util.process import kept_umask, steady, umask

LONG = 8_000  # steps from which on the time is estimated beforehand
LARGE = 0.3  # share of the training that the baseline takes from which on a note says so


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, after its checkpoints and tables were written; it holds the rows so far."""

    def __init__(self, number: int, rows: list[Row]) -> None:
        super().__init__(number)
        self.exit_code, self.rows = 128 + number, rows


@contextmanager
def _signals(*, impatient: bool) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list. The second raises KeyboardInterrupt if `impatient`, the third exits."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 2:
            os._exit(128 + number)
        if len(seen) > 1 and impatient:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(request: RunRequest, listener: Listener = lambda _: None, local: Local | None = None) -> list[Row]:
    """Train and score what a request asks for, except what is on disk already; return all its rows.

    Every finished cell is on disk at once; a cell that fails is a row with its reason, and the run goes on. On SIGINT
    or SIGTERM the cells under way keep a checkpoint, and the tables are written; the same request goes on from there.

    Args:
        local: the processes of this machine, if they are warm already; closed at the end.

    Raises:
        UsageError, PluginError, DataError: nothing has been trained.
        StoreError: the folder can't be written; no finished cell is lost.
        Interrupted: by a signal.
    """
    local = local or Local(request.jobs)
    try:
        with kept_umask():
            validate(request)
            named = (*selected(request), *(text.partition("=")[2].strip() for text in request.set))
            lonely = list(filter(live, named))
            if lonely:
                request = replace(request, in_process=True)
            with _signals(impatient=request.in_process) as signals:
                return _Runner(request, listener, local, signals).run(lonely)
    finally:
        local.close()


class _Runner:
    """A run under way. Third parties' plugins are tried out in children first."""

    def __init__(self, request: RunRequest, listener: Listener, local: Local, signals: list[int]) -> None:
        self.began = time.perf_counter()
        self.listener, self.local, self.signals = listener, local, signals
        broken, dead = _vetted(request, local)
        self.known = {"broken": broken, "dead": sorted(dead)}
        before = set(sys.modules)
        self.plan = plan(request, listener, broken, dead, self._alone(request), partial(_tried, request, local))
        local.preload([*_modules(self.plan), *(name for name in list(sys.modules) if name not in before)])
        self.request = replace(self.plan.request, out=str(self.plan.folder))
        self.store = Run(self.plan.folder)
        self.store.create(self.plan.request)
        rename(self.store, ((c.name, c.row.dataset) for c in self.plan.cells if c.cell is not None))
        self.tables_due = 0.0

    def run(self, lonely: Sequence[str]) -> list[Row]:
        """Do the run; return its rows in the order of the plan. `lonely`: plugins of this process alone."""
        steps = sum(sum(c.row.steps) for c in self.plan.cells if c.state == "new")
        notes = list(self.plan.notes)
        if lonely:
            notes.append(f"{lonely[0]} exists only in this process: cells run in it, one after the other")
        notes += [f"{name} has no source file: each run trains its cells again" for name in lonely if sourceless(name)]
        if steps > LONG and not self.signals:
            self.listener(Preparing("measuring a few steps of each variant"))
            notes += self._time_ahead(self._estimate())
        self.listener(RunStarted(len(self.plan.cells), steps, str(self.plan.folder), tuple(notes)))
        rows: list[Row] = []
        try:
            for row in self._rows():
                rows.append(row)
                if time.monotonic() >= self.tables_due:
                    with suppress(StoreError):  # the cells go on, and writing the last tables will raise
                        self._write_tables()
                if self.request.fail_fast and row.status not in ("ok", "skipped"):
                    break
        except BaseException:
            with suppress(StoreError):  # the first error is the one to report
                self._end(rows)
            raise
        self._end(rows)
        if self.signals:
            raise Interrupted(self.signals[0], rows)
        return rows

    def _end(self, rows: list[Row]) -> None:
        """Write the tables and the rate-distortion figure; sort the rows."""
        figure = ratedistortion.write_if_enough(self.store, self._write_tables())
        order = {c.name: i for i, c in enumerate(self.plan.cells)}
        rows.sort(key=lambda row: order[row.cell])
        seconds = time.perf_counter() - self.began
        self.listener(RunEnded(str(self.plan.folder), tuple(rows), seconds, str(figure or "")))

    def _write_tables(self) -> list[Row]:
        """Write the derived files; the next time is due so that they take at most a twentieth of the time."""
        steady()
        began = time.monotonic()
        try:
            rows = self.store.rows()
            frames.write(self.store.path, rows)
        finally:
            self.tables_due = time.monotonic() + 20 * (time.monotonic() - began)
        return rows

    def _rows(self) -> Iterator[Row]:
        """Yield the row of each cell as soon as it is on disk."""
        work = []
        for c in self.plan.cells:
            if c.state in ("skipped", "broken"):
                self.store.write_failed(c.row, "")
                yield self._ended(c, reused=False)
            elif c.state == "ended" or (c.state == "done" and self._finished(c)):
                yield self._ended(c, reused=True)
            else:
                if self.request.force:
                    self.store.forget(c.name)
                work.append(c)
        if not work:
            return
        if self.request.jobs > 1:  # the longest first, so that the last ones to finish are short
            work.sort(key=lambda c: -c.work)
        executor = self._executor(work)
        try:
            supervisor = Supervisor(
                executor,
                self.store,
                self.listener,
                timeout=self.request.timeout,
                stall=self.request.stall,
                stopping=lambda: len(self.signals),
            )
            first: dict[str, str] = {}  # cell of each part whose job trains the others too
            for c in work:
                if not self.store.is_sound(c.name):
                    first.setdefault(c.part, c.name)
            yield from supervisor.run([self._task(c, first.get(c.part, c.name)) for c in work])
        finally:
            executor.close()

    def _ended(self, c: PlannedCell, *, reused: bool) -> Row:
        self.store.sweep(c.name)
        row = self.store.row(c.name) or c.row
        self.listener(CellEnded(c.name, row, reused=reused))
        return row

    def _finished(self, c: PlannedCell) -> bool:
        whole = self.store.is_sound(c.name) and not self.store.flawed_scores(c.name)
        return whole and not missing(c.todo, self.plan.metrics, self.store)

    def _executor(self, work: Sequence[PlannedCell]) -> Executor:
        if self.request.in_process:
            return _InProcess(work, self)
        if self.request.executor in (None, default("executor")):
            return self.local
        self.local.close()
        return EXECUTORS.load(str(self.request.executor))(self.request.jobs, address=self.request.address)

    def _task(self, c: PlannedCell, first: str) -> Task:
        config, request = c.todo.config, self.request
        job = Job(
            folder=str(self.plan.folder.resolve()),
            cell=c.name,
            attempt="",
            variant=addressed(config.name),
            hyperparameters={k: addressed(v) if isinstance(v, str) else v for k, v in config.given},
            baseline=config.baseline,
            sanity=config.sanity,
            dataset=texts(c.row.dataset, request.datasets)[0],
            seed=c.row.seed,
            metrics=tuple(map(addressed, self.plan.metrics)),
            request=request.to_json(),
            device=str(self.plan.device),
            threads=threads_for(request),
            gpus=request.gpus_per_cell,
            stacked=c.todo.stacked,
            umask=umask(),
            handed=tuple(handed_over()),
        )
        leader = "" if first == c.name else first
        return Task(
            job, c.row, lambda: self._finished(c), leader, partial(give_up, c.todo, self.plan.metrics, self.store)
        )

    def _time_ahead(self, seconds: Mapping[str, float]) -> list[str]:
        """Return the note on the time of training, and on the baseline's part of it if that is large."""
        if not (total := sum(seconds.values())):
            return []
        note = f"about {duration(total / self.request.jobs)} of training ahead, then scoring"
        baseline = {c.row.label for c in self.plan.cells if c.row.baseline}
        share = sum(seconds.get(label, 0.0) for label in baseline) / total
        return [f"{note}; the baseline takes {share:.0%} of it (--no-baseline)" if share > LARGE else note]

    def _estimate(self) -> dict[str, float]:
        """Return the seconds of training ahead by label; none where a child can't measure them."""
        if self.request.in_process:
            return estimate(self.plan)
        known = {**self.known, "alone": dict(self.plan.alone)}
        return dict(_ask("estimate", self.request, self.local, IMPORT, known) or {})

    def _alone(self, request: RunRequest) -> dict[str, str] | None:
        """Return the kinds of cells whose seeds can't be stacked, and why; None: `plan` is to find out."""
        if not request.stack_seeds or len(request.seeds) < 2:
            return {}
        if request.in_process:
            return None
        alone: dict[str, str] | None = _ask("alone", request, self.local, request.stall, self.known)
        return {EVERY: "trying it out ended its process, or took too long"} if alone is None else alone


@dataclass
class _InProcess:
    """An executor that does each job in this process, when it starts."""

    work: Sequence[PlannedCell]
    runner: _Runner
    slots = 1

    def start(self, job: Job) -> Exit:
        run, planned = self.runner, next(c for c in self.work if c.name == job.cell)
        conduct = Conduct(
            run.plan.device,
            job.threads,
            run.request.checkpoint,
            stop=lambda: bool(run.signals),
            profile=run.request.profile,
        )
        try:
            perform(planned.todo, run.plan.metrics, run.store, run.listener, conduct)
        except Stopped:
            return Exit(STOPPED)
        except KeyboardInterrupt:
            run.store.write_failed(replace(planned.row, status="interrupted", reason=INTERRUPTED), "")
            raise
        with suppress(OSError):  # another attempt was first, and removed the folder
            (attempt_dir(job) / ENDED).touch()
        return Exit(0)

    def poll(self, handle: Exit) -> Exit:
        return handle

    def begun(self, handle: Exit) -> bool:
        return True

    def stop(self, handle: Exit, signal: int) -> None: ...

    def close(self) -> None: ...


def threads_for(request: RunRequest) -> int:
    """Return the number of CPU threads of each cell."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return request.threads or max(1, cores // request.jobs)


def _vetted(request: RunRequest, local: Local) -> tuple[dict[str, str], set[str]]:
    """Return third parties' variants whose import harms a process, with how; and such metrics."""
    if request.in_process:
        return {}, set()
    variants = [("variant", name) for name in selected(request) if _foreign(VARIANTS, name)]
    metrics = [("metric", name) for name in METRICS if f"-{name}" not in request.metrics and _foreign(METRICS, name)]
    harmful = vet([*variants, *metrics], local, min(IMPORT, request.stall))
    return (
        {name: how for (kind, name), how in harmful.items() if kind == "variant"},
        {name for kind, name in harmful if kind == "metric"},
    )


def _tried(request: RunRequest, local: Local, models: Sequence[Model]) -> dict[Model, str]:
    """Return the models with third parties' code whose constructor harms a process, with how."""
    if request.in_process:
        return {}
    foreign = [(c, spec) for c, spec in models if _foreign(VARIANTS, c.name) or parts_of(c)]
    return try_out(foreign, local, min(IMPORT, request.stall))


def _foreign(registry: Registry[Any], name: str) -> bool:
    try:
        return registry.entry(name).distribution != OURS
    except PluginError:  # two distributions claim the name, which is reported later
        return True


def _ask(question: str, request: RunRequest, local: Local, seconds: float, known: Mapping[str, Any]) -> Any:
    """Return a child's answer about a request (`planning.answer`); None if there is none in this time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer"
        arguments = {
            "question": question,
            "path": str(path),
            "request": request.to_json(),
            "threads": threads_for(request),
            "handed": handed_over(),
            **known,
        }
        wait_all(local, {0: local.call("bench.running.planning:answer", arguments, Path(os.devnull))}, seconds)
        return json.loads(path.read_text()) if path.exists() else None


def _modules(planned: Plan) -> list[str]:
    """Return the modules that the cells of a plan import, for children to find them loaded."""
    entries = [VARIANTS.entry(c.row.variant) for c in planned.cells if c.cell is not None]
    entries += [METRICS.entry(name) for name in planned.metrics]
    data = {type(datasets.parse(name)).__module__ for name in planned.request.datasets}
    return sorted({entry.module for entry in entries if entry.installed} | data)
