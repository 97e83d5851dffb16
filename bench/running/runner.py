"""Runs a request: plans its cells, has each trained and scored, keeps every result at once, and says so in events."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bench import data as datasets
from bench.contracts.events import CellEnded, Listener, Preparing, RunEnded, RunStarted
from bench.contracts.executor import EXECUTORS, Executor, Job
from bench.contracts.measurement import METRICS
from bench.contracts.naming import texts
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.contracts.variant import VARIANTS
from bench.plugins.registry import OURS, Registry, default
from bench.plugins.unpublished import addressed, handed_over, live, sourceless
from bench.results.store import Run
from bench.running.executors.local import Local
from bench.running.grid import parts_of, selected
from bench.running.job import Conduct, Stopped, give_up, missing, perform
from bench.running.moved import rename
from bench.running.planning import EVERY, Plan, PlannedCell, duration, estimate, plan, validate
from bench.running.supervisor import INTERRUPTED, Supervisor, Task, given_up, inherit
from bench.running.vetting import IMPORT, Model, ended, try_out, vet
from bench.tables import frames, ratedistortion
from bench.util.errors import PluginError, StoreError
from bench.util.lease import Lease
from bench.util.process import kept_umask, steady, umask

LONG = 8_000  # steps from which on the time is estimated beforehand


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, after its checkpoints and tables were written; with the rows that it has."""

    def __init__(self, number: int, rows: list[Row]) -> None:
        super().__init__(number)
        self.exit_code, self.rows = 128 + number, rows


class _Signals:
    """Counts SIGINT and SIGTERM, where this is the main thread. The third ends the process.

    Args:
        impatient: the second one raises KeyboardInterrupt, wherever we are.
    """

    def __init__(self, *, impatient: bool = False) -> None:
        self.seen: list[int] = []
        self.impatient = impatient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.seen.append(number)
        if len(self.seen) > 2:
            os._exit(128 + number)
        if len(self.seen) > 1 and self.impatient:
            raise KeyboardInterrupt

    def count(self) -> int:
        return len(self.seen)


def run(request: RunRequest, listener: Listener = lambda _: None, local: Local | None = None) -> list[Row]:
    """Do what a request asks for, and what of it is on disk already, don't.

    Every finished cell is on disk at once; a cell that fails is a row with its reason, and the run goes on. On SIGINT
    or SIGTERM the cells under way keep a checkpoint, and the tables are written; the same request goes on from there.

    Args:
        local: where the processes come from, if that is warm already; closed at the end.

    Raises:
        UsageError, PluginError, DataError: nothing has been trained.
        StoreError: the folder can't be written; nothing that was earned is lost.
        Interrupted: by a signal.
    """
    with kept_umask():
        return _run(request, listener, local)


def _run(request: RunRequest, listener: Listener, local: Local | None) -> list[Row]:
    began = time.perf_counter()
    local = local or Local(request.jobs)
    try:
        validate(request)
        named = (*selected(request), *(text.partition("=")[2].strip() for text in request.set))
        lonely = [name for name in named if live(name)]
        if lonely:
            request = replace(request, in_process=True)
        with _Signals(impatient=request.in_process) as signals:
            broken, dead = ({}, set()) if request.in_process else _vetted(request, local)
            before = set(sys.modules)
            planned = plan(
                request, listener, broken, dead, _alone(request, local, broken, dead), partial(_tried, request, local)
            )
            local.preload([*_modules(planned), *(name for name in list(sys.modules) if name not in before)])
            request = replace(planned.request, out=str(planned.folder))
            store = Run(planned.folder)
            store.create(planned.request)
            rename(store, ((c.name, c.row.dataset) for c in planned.cells if c.cell is not None))
            new = [c for c in planned.cells if c.state == "new"]
            steps = sum(sum(c.row.steps) for c in new)
            notes = list(planned.notes)
            if lonely:
                notes.append(f"{lonely[0]} is known to this process alone: cells run in it, one after the other")
            notes += [
                f"{name} has no source file: its cells are trained anew each time"
                for name in lonely
                if sourceless(name)
            ]
            if steps > LONG and not signals.seen:
                listener(Preparing("measuring a few steps of each variant"))
                seconds = _estimate(planned, request, local)
                if seconds:
                    notes.append(f"about {duration(seconds / request.jobs)} of training ahead, then scoring")
            listener(RunStarted(len(planned.cells), steps, str(planned.folder), tuple(notes)))
            rows: list[Row] = []
            written = _Tables(planned.folder, store)
            first: BaseException | None = None
            try:
                for row in _rows(planned, request, store, listener, local, signals):
                    rows.append(row)
                    written.now_and_then()
                    if request.fail_fast and row.status not in ("ok", "skipped"):
                        break
            except BaseException as error:
                first = error
                raise
            finally:
                figure = written.finish(first)
                order = {c.name: i for i, c in enumerate(planned.cells)}
                rows.sort(key=lambda row: order[row.cell])
                listener(RunEnded(str(planned.folder), tuple(rows), time.perf_counter() - began, str(figure or "")))
            if signals.seen:
                raise Interrupted(signals.seen[0], rows)
            return rows
    finally:
        local.close()


class _Tables:
    """The derived files of a run, kept up to date without spending more than a twentieth of the time on it."""

    def __init__(self, folder: Path, store: Run) -> None:
        self.folder, self.store = folder, store
        self.next = 0.0

    def now_and_then(self) -> None:
        """Write them if they are due. Where they can't be written, the cells go on, and `finish` says so."""
        if time.monotonic() >= self.next:
            with suppress(StoreError):
                self.write()

    def write(self) -> list[Row]:
        steady()
        began = time.monotonic()
        try:
            rows = self.store.rows()
            frames.write(self.folder, rows)
        finally:
            self.next = time.monotonic() + 20 * (time.monotonic() - began)
        return rows

    def finish(self, first: BaseException | None) -> Path | None:
        """Write them the last time: with the rate-distortion figure, if it's worth one.

        Args:
            first: what has ended the run, if anything has: that is to be told, and not what it leads to here.

        Raises:
            StoreError: they can't be written.
        """
        try:
            return ratedistortion.write_unasked(self.store, self.write())
        except StoreError:
            if first is None:
                raise
            return None


def threads_for(request: RunRequest) -> int:
    """CPU threads of each cell."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return request.threads or max(1, cores // request.jobs)


def _vetted(request: RunRequest, local: Local) -> tuple[dict[str, str], set[str]]:
    """The variants that can't be imported without harm, and how; and the metrics. The suite's own aren't suspected."""
    variants = [("variant", name) for name in selected(request) if _foreign(VARIANTS, name)]
    metrics = [("metric", name) for name in METRICS if f"-{name}" not in request.metrics and _foreign(METRICS, name)]
    bad = vet([*variants, *metrics], local, min(IMPORT, request.stall))
    return {n: why for (kind, n), why in bad.items() if kind == "variant"}, {n for kind, n in bad if kind == "metric"}


def _tried(request: RunRequest, local: Local, models: Sequence[Model]) -> dict[Model, str]:
    """The models whose making brings a process down, and how. The suite's own aren't suspected."""
    if request.in_process:
        return {}
    foreign = [(c, spec) for c, spec in models if _foreign(VARIANTS, c.name) or parts_of(c)]
    return try_out(foreign, local, min(IMPORT, request.stall))


def _foreign(registry: Registry[Any], name: str) -> bool:
    try:
        return registry.entry(name).distribution != OURS
    except PluginError:  # two claim the name: what comes of that is told later
        return True


def _estimate(planned: Plan, request: RunRequest, local: Local) -> float:
    """Seconds of training to come; 0 where that can't be told."""
    if request.in_process:
        return estimate(planned)
    try:
        return float(_asked("bench.running.planning:answer", request, local))
    except ValueError:
        return 0.0


def _alone(request: RunRequest, local: Local, broken: Mapping[str, str], dead: set[str]) -> dict[str, str] | None:
    """The kinds of cells whose seeds can't be stacked, and why; None: `plan` is to find out."""
    if not request.stack_seeds or len(request.seeds) < 2:
        return {}
    if request.in_process:
        return None
    known = {"broken": dict(broken), "dead": sorted(dead)}
    text = _asked("bench.running.planning:answer_alone", request, local, request.stall, **known)
    found: dict[str, str] = json.loads(text) if text else {EVERY: "to try it out ended its process, or took too long"}
    return found


def _asked(function: str, request: RunRequest, local: Local, seconds: float = IMPORT, **more: Any) -> str:
    """What a child answers about a request; '' if it can't."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        what = {"request": request.to_json(), "threads": threads_for(request), "answer": str(answer)}
        what |= {"handed": handed_over(), **more}
        ended(local, {0: local.call(function, what, Path(os.devnull))}, seconds)
        return answer.read_text() if answer.exists() else ""


def _rows(
    planned: Plan, request: RunRequest, store: Run, listener: Listener, local: Local, signals: _Signals
) -> Iterator[Row]:
    metrics = dict(planned.metrics)

    def reused(c: PlannedCell) -> Row:
        store.sweep(c.name)
        row = store.row(c.name)
        assert row is not None
        listener(CellEnded(c.name, row, reused=True))
        return row

    def finished(c: PlannedCell) -> bool:
        whole = store.is_sound(c.name) and not store.flawed_scores(c.name)
        return whole and not missing(c.todo, metrics, store)

    work = []
    for c in planned.cells:
        if c.state in ("skipped", "broken"):
            store.write_failed(c.row, "")
            store.sweep(c.name)
            row = store.row(c.name) or c.row
            listener(CellEnded(c.name, row))
            yield row
        elif c.state == "ended" or (c.state == "done" and finished(c)):
            yield reused(c)
        else:
            if request.force:
                store.forget(c.name)
            work.append(c)
    if request.in_process:
        yield from _here(work, planned, request, store, listener, signals)
        return
    if not work:
        return
    executor: Executor = local
    if request.executor not in (None, default("executor")):
        local.close()
        executor = EXECUTORS.load(str(request.executor))(request.jobs, address=request.address)
    try:
        supervisor = Supervisor(
            executor,
            store,
            listener,
            timeout=request.timeout,
            stall=request.stall,
            stopping=signals.count,
        )
        if request.jobs > 1:  # the longest first, so that the last ones to finish are short
            work.sort(key=lambda c: -c.parameters * sum(c.row.steps))
        leaders = _leaders(work, store)
        yield from supervisor.run([_task(c, planned, request, finished, leaders.get(c.name, "")) for c in work])
    finally:
        executor.close()


def _leaders(work: list[PlannedCell], store: Run) -> dict[str, str]:
    """For each cell that another one's job will train as well, that one: the first of its part that isn't done."""
    first: dict[str, str] = {}
    for c in work:
        if not store.is_sound(c.name):
            first.setdefault(c.part, c.name)
    return {c.name: first[c.part] for c in work if c.part in first and c.name != first[c.part]}


def _task(
    c: PlannedCell, planned: Plan, request: RunRequest, finished: Callable[[PlannedCell], bool], leader: str
) -> Task:
    config = c.todo.config
    job = Job(
        folder=str(planned.folder.resolve()),
        cell=c.name,
        attempt="",
        variant=addressed(config.name),
        hyperparameters={k: addressed(v) if isinstance(v, str) else v for k, v in config.given},
        baseline=config.baseline,
        sanity=config.sanity,
        dataset=texts(c.row.dataset, request.datasets)[0],
        seed=c.row.seed,
        metrics=tuple(map(addressed, planned.metrics)),
        request=request.to_json(),
        device=str(planned.device),
        threads=threads_for(request),
        gpus=request.gpus_per_cell,
        stacked=c.todo.stacked,
        umask=umask(),
        handed=tuple(handed_over()),
    )

    def scoreless(reason: str, dead: Mapping[str, str]) -> None:
        give_up(c.todo, planned.metrics, Run(planned.folder), reason, dead)

    return Task(job, c.row, lambda: finished(c), leader, scoreless)


def _modules(planned: Plan) -> list[str]:
    """What the cells of a plan import, so that a child finds it there."""
    entries = [VARIANTS.entry(c.row.variant) for c in planned.cells if c.cell is not None]
    entries += [METRICS.entry(name) for name in planned.metrics]
    data = {type(datasets.parse(name)).__module__ for name in planned.request.datasets}
    return sorted({entry.module for entry in entries if entry.installed} | data)


def _here(
    cells: list[PlannedCell], planned: Plan, request: RunRequest, store: Run, listener: Listener, signals: _Signals
) -> Iterator[Row]:
    """Cells in this process, one after the other."""
    conduct = Conduct(
        planned.device,
        threads_for(request),
        request.checkpoint,
        stop=lambda: bool(signals.seen),
        profile=request.profile,
    )
    leaders, settled = _leaders(cells, store), dict[str, Row]()
    for c in cells:
        if signals.seen:
            return
        lease = Lease.take(store.cells / c.name / "lease.json")
        if lease is None:
            listener(Preparing(f"{c.name} is being done by another run"))
        while lease is None and not signals.seen:
            time.sleep(0.2)
            lease = Lease.take(store.cells / c.name / "lease.json")
        if lease is None:
            return
        try:
            if c.name in leaders:
                inherit(c.row, settled[leaders[c.name]], store)
            if c.name not in leaders or not given_up(c.name, settled[leaders[c.name]], store):
                perform(c.todo, planned.metrics, store, listener, conduct)
            store.tidy(c.name)
        except (Stopped, KeyboardInterrupt) as stop:
            store.write_failed(replace(c.row, status="interrupted", reason=INTERRUPTED), "")
            if isinstance(stop, KeyboardInterrupt):
                raise
        finally:
            lease.release()
        row = store.row(c.name)
        assert row is not None
        settled[c.name] = row
        listener(CellEnded(c.name, row))
        yield row
