"""Watches over the jobs of a run: leases, limits, tries again what is worth it, and says why a cell has no result.

It knows nothing that isn't on disk, so that it may be killed at any instruction.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.contracts import events
from bench.contracts.events import CellEnded, Listener
from bench.contracts.executor import Executor, Exit, Job
from bench.contracts.row import Row, Status
from bench.results.store import Run
from bench.running.worker import ENDED, STOPPED, STORE, clip, place
from bench.util.durable import writing
from bench.util.errors import StoreError
from bench.util.lease import Lease
from bench.util.process import make_folder

POLL = 0.05  # seconds
TRIES = 3  # of a cell that is killed from outside
GRACE = 30.0  # seconds from SIGTERM to SIGKILL
FLOOD = 16 * 2**20  # bytes that a log may have before it's cut back

INTERRUPTED = "stopped by the user; the same command goes on from its checkpoint"


@dataclass(frozen=True)
class Task:
    """A cell to be done: its job, its row if nothing comes of it, and a test of whether anything is left to do.

    Args:
        leader: the cell whose job trains this one as well, in one pass; it comes first.
        give_up: notes of a trained cell's missing scores why there are none: a reason, and metrics that brought a
            process down, with how.
    """

    job: Job
    blank: Row
    finished: Callable[[], bool]
    leader: str = ""
    give_up: Callable[[str, Mapping[str, str]], None] = lambda *_: None


@dataclass
class _Attempt:
    """A job under way."""

    task: Task
    job: Job
    lease: Lease
    handle: Any
    began: float
    moved: float  # when it last gave a sign of life
    offset: int = 0  # in its events
    touched: int = 0
    metric: str = ""  # being computed
    end: Status | None = None  # what we're stopping it for
    kill_at: float = float("inf")


@dataclass
class _Record:
    """What a cell has been through in this run."""

    tries: int = 0
    stalls: int = 0
    spent: float = 0.0
    dead: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Does tasks by an executor, as many at once as it has slots.

    Args:
        timeout: seconds that a cell may take, all its attempts together.
        stall: seconds without a sign of life after which an attempt counts as hung.
        stopping: asked all the time: 0 go on, 1 stop with checkpoints, 2 stop at once.
    """

    def __init__(
        self,
        executor: Executor,
        store: Run,
        listener: Listener,
        *,
        timeout: float | None = None,
        stall: float = 1800.0,
        stopping: Callable[[], int] = lambda: 0,
    ) -> None:
        self.executor, self.store, self.listener = executor, store, listener
        self.timeout, self.stall, self.stopping = timeout, stall, stopping
        self.records: dict[str, _Record] = {}
        self.busy: list[_Attempt] = []
        self.settled: dict[str, Row] = {}
        self.stopped = False

    def run(self, tasks: Sequence[Task]) -> Iterator[Row]:
        """Do the tasks; yields each row as it's settled. After a stop, those that were under way, as `interrupted`.

        Raises:
            StoreError: the folder can't be written any more.
        """
        todo = list(tasks)
        try:
            while todo or self.busy:
                stopping = self.stopping()
                if stopping and not self.stopped:
                    self.stopped = True
                    todo.clear()
                    self.listener(events.Stopping(len(self.busy)))
                    for attempt in self.busy:
                        self._end(attempt, "interrupted")
                if stopping > 1:
                    for attempt in self.busy:
                        self.executor.stop(attempt.handle, signal.SIGKILL)
                yield from self._begin(todo)
                yield from self._watch(todo)
                time.sleep(POLL)
        finally:
            for attempt in self.busy:
                self.executor.stop(attempt.handle, signal.SIGKILL)
                attempt.lease.release()

    def _begin(self, todo: list[Task]) -> Iterator[Row]:
        """Fill the free slots with cells that nobody else is at."""
        for task in list(todo):
            if len(self.busy) >= self.executor.slots:
                return
            leader = self.settled.get(task.leader)
            if task.leader and leader is None:
                continue
            path = self.store.cells / task.job.cell / "lease.json"
            with writing(self.store.path):
                lease = Lease.take(path)
            if lease is None:
                continue  # somebody else's: look again later
            todo.remove(task)
            if leader is not None:
                inherit(task.blank, leader, self.store)
            if task.finished() or (leader is not None and given_up(task.job.cell, leader, self.store)):
                yield self._settle(task, lease, reused=True)
                continue
            record = self.records.setdefault(task.job.cell, _Record())
            record.tries += 1
            job = replace(task.job, attempt=f"attempt-{uuid4().hex[:12]}", number=record.tries, dead=dict(record.dead))
            with writing(self.store.path):
                make_folder(place(job))
            try:
                handle = self.executor.start(job)
            except BaseException:
                lease.release()
                raise
            now = time.monotonic()
            self.busy.append(_Attempt(task, job, lease, handle, now, now))

    def _watch(self, todo: list[Task]) -> Iterator[Row]:
        for attempt in list(self.busy):
            exit = self.executor.poll(attempt.handle)
            self._follow(attempt, ended=exit is not None)
            if exit is None:
                attempt.lease.renew()
                if not self.executor.begun(attempt.handle):
                    attempt.began = attempt.moved = time.monotonic()
                self._limit(attempt)
                continue
            self.busy.remove(attempt)
            record = self.records[attempt.job.cell]
            record.spent += time.monotonic() - attempt.began
            row = self._judge(attempt, exit, record)
            if row is None:  # another try
                attempt.lease.release()
                todo.insert(0, attempt.task)
            else:
                yield row

    def _follow(self, attempt: _Attempt, *, ended: bool) -> None:
        """Pass on what the job says, and note that it's alive."""
        folder = place(attempt.job)
        path = folder / "events.jsonl"
        try:
            found = path.stat()
            if not ended and found.st_mtime_ns == attempt.touched and found.st_size == attempt.offset:
                return
            attempt.touched, attempt.moved = found.st_mtime_ns, time.monotonic()
            with open(path, "rb") as file:
                file.seek(attempt.offset)
                chunk = file.read()
            whole = chunk[: chunk.rfind(b"\n") + 1]
            attempt.offset += len(whole)
            log = folder / "log.txt"
            if log.stat().st_size > FLOOD:
                os.truncate(log, FLOOD // 2)
        except OSError:
            return
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                document = json.loads(line)
                event = getattr(events, document.pop("event"))(**document)
                attempt.metric = event.metric if isinstance(event, events.Scoring) else ""
                self.listener(event)

    def _limit(self, attempt: _Attempt) -> None:
        now = time.monotonic()
        if now >= attempt.kill_at:
            self.executor.stop(attempt.handle, signal.SIGKILL)
        elif attempt.end is not None:
            return
        elif self.timeout is not None and self.records[attempt.job.cell].spent + now - attempt.began > self.timeout:
            self._end(attempt, "timeout")
        elif now - attempt.moved > self.stall:
            self.executor.stop(attempt.handle, signal.SIGUSR1)  # its log will say where it hangs
            self._end(attempt, "stalled", grace=min(GRACE, self.stall))

    def _end(self, attempt: _Attempt, why: Status, grace: float = GRACE) -> None:
        attempt.end, attempt.kill_at = why, time.monotonic() + grace
        self.executor.stop(attempt.handle, signal.SIGTERM)

    def _judge(self, attempt: _Attempt, exit: Exit, record: _Record) -> Row | None:
        """Return the row that an attempt came to; None: try again.

        This alone decides what it means that a process has ended. Whether its job came to its end is read from disk:
        an exit code is any plugin's to give. Where it didn't, a trained cell keeps its weights, and a metric that was
        being computed is left out of the next attempt; a cell that isn't trained has the status of how it ended.
        """
        task, job = attempt.task, attempt.job
        if (place(job) / ENDED).exists() or task.finished():
            return self._settle(task, attempt.lease)
        if exit.code == STORE and (error := _store_error(place(job))) is not None:
            attempt.lease.release()
            raise error
        ended = self._ended(attempt, exit, record)
        if ended is None:
            return None
        status, reason, way = ended
        if status != "interrupted" and self.store.is_done(job.cell):
            if status != "timeout" and attempt.metric not in ("", "evidence"):
                record.dead[attempt.metric] = way
                record.stalls = 0
                return None
            task.give_up(reason, record.dead)
        return self._fail(attempt, status, reason)

    def _ended(self, attempt: _Attempt, exit: Exit, record: _Record) -> tuple[Status, str, str] | None:
        """Return what the end of an unfinished attempt makes of a cell: status, reason, and how it ended, in short.

        None: another attempt may well come further.
        """
        if attempt.end == "interrupted" or self.stopped:
            return "interrupted", INTERRUPTED, ""
        if attempt.end == "timeout":
            return "timeout", f"longer than {_span(self.timeout or 0)}; a longer --timeout goes on", ""
        if attempt.end == "stalled":
            record.stalls += 1
            if record.stalls == 1:
                return None
            silent = f"no sign of life for {_span(self.stall)}, twice"
            return "stalled", f"{silent}; its log says where", silent
        way = how(exit)
        if exit.signal == signal.SIGKILL and _out_of_memory():
            return "oom", "killed by the kernel, which was out of memory", way
        if exit.signal in (signal.SIGKILL, signal.SIGTERM) or exit.code == STOPPED:
            if record.tries < TRIES:
                return None
            return "killed", f"its process was killed {TRIES} times ({way})", way
        last = [line for line in clip(place(attempt.job) / "log.txt").splitlines() if line.strip()][-1:]
        said = f": {last[0].strip()[:300]}" if last and exit.code in (0, 1) else ""
        none = ", as if all were well, and left no result" if exit.code == 0 else ""
        return "failed", f"its process ended by {way}{none}{said}", way

    def _fail(self, attempt: _Attempt, status: Status, reason: str) -> Row:
        row = replace(attempt.task.blank, status=status, reason=reason)
        home = place(attempt.job)
        self.store.write_failed(row, clip(home / "log.txt") + f"{reason}\n")
        shutil.rmtree(home, ignore_errors=True)  # its checkpoints stay
        return self._settle(attempt.task, attempt.lease, tidy=False)

    def _settle(self, task: Task, lease: Lease, *, reused: bool = False, tidy: bool = True) -> Row:
        cell = task.job.cell
        if tidy:
            self.store.tidy(cell)
        else:
            self.store.sweep(cell)
        lease.release()
        row = self.store.row(cell)
        if row is None:
            raise StoreError(
                f"{cell} has vanished from {self.store.path}",
                cause="Somebody or something else has removed its folder while the run was at it.",
                fix="The same command makes it anew.",
            )
        self.settled[cell] = row
        self.listener(CellEnded(cell, row, reused=reused))
        return row


def inherit(blank: Row, leader: Row, store: Run) -> None:
    """Where a cell that was to be trained with another one isn't, nor says why: what became of the other is why."""
    if leader.status != "ok" and not store.is_done(blank.cell) and not store.has_ended(blank.cell):
        store.write_failed(replace(blank, status=leader.status, reason=f"with {leader.cell}: {leader.reason}"), "")


def given_up(cell: str, leader: Row, store: Run) -> bool:
    """Whether a cell that was to be trained with another one isn't, and another try would end likewise."""
    return not store.is_done(cell) and (leader.status != "ok" or store.has_ended(cell))


def how(exit: Exit) -> str:
    if exit.signal is not None:
        name = signal.Signals(exit.signal).name if exit.signal in list(signal.Signals) else str(exit.signal)
        return f"signal {name}" + (f" ({exit.reason})" if exit.reason else "")
    return exit.reason or f"exit code {exit.code}"


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"


def _store_error(home: Path) -> StoreError | None:
    """Return what kept a job from writing into the run's folder; None where it hasn't said so."""
    try:
        what, *rest = (home / "error.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    cause, fix = (*rest, "", "")[:2]
    return StoreError(what, cause=cause, fix=fix)


_ooms: dict[str, int] = {}


def _out_of_memory() -> bool:
    """Whether the kernel has killed something of ours for memory since we last asked."""
    count = 0
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        with contextlib.suppress(OSError, ValueError):
            fields: Mapping[str, str] = dict(line.split() for line in path.read_text().splitlines())
            count += int(fields.get("oom_kill", 0))
    before, _ooms["seen"] = _ooms.get("seen", 0), count
    return count > before
