"""Watches the jobs of a run: leases, limits, further tries, and the reason why a cell has no result.

All its knowledge is on disk, so that it may be killed at any instruction.
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
from bench.running.worker import ENDED, STOPPED, STORE, attempt_dir, clip
from bench.util.durable import writing
from bench.util.errors import StoreError
from bench.util.lease import Lease
from bench.util.process import make_folder

POLL = 0.05  # seconds
TRIES = 3  # of a cell that is killed from outside
GRACE = 30.0  # seconds from SIGTERM to SIGKILL
FLOOD = 16 * 2**20  # bytes from which on a log is cut back

INTERRUPTED = "stopped by the user; the same command goes on from its checkpoint"


@dataclass(frozen=True)
class Task:
    """A cell to be done."""

    job: Job
    unscored: Row  #: without any result
    finished: Callable[[], bool]  #: returns whether nothing is left to do
    leader: str = ""  #: the cell that comes first, since its job trains this one in the same pass; '' without one
    give_up: Callable[[str, Mapping[str, str]], None] = lambda *_: None  #: `job.give_up`, for this cell


@dataclass
class _Attempt:
    """A job under way."""

    task: Task
    job: Job
    lease: Lease
    handle: Any
    began: float
    last_sign: float  # of life
    offset: int = 0  # in its events
    touched: int = 0
    metric: str = ""  # being computed
    stopped_for: Status | None = None
    kill_at: float = float("inf")


@dataclass
class _Record:
    """The attempts at a cell so far."""

    tries: int = 0
    stalls: int = 0
    spent: float = 0.0  # seconds
    dead: dict[str, str] = field(default_factory=dict)  # metrics that ended a process, and how


class Supervisor:
    """Does tasks by an executor, as many at once as it has slots.

    Args:
        timeout: seconds that a cell may take, all its attempts together.
        stall: seconds without a sign of life after which an attempt counts as hung.
        stopping: called all the time: 0 go on, 1 stop with checkpoints, 2 stop at once.
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
        self.kernel_kills = _kernel_kills()

    def run(self, tasks: Sequence[Task]) -> Iterator[Row]:
        """Do the tasks; yield each row once it is settled. After a stop, those under way are `interrupted`.

        Raises:
            StoreError: the folder can't be written any more.
        """
        todo = list(tasks)
        try:
            while todo or self.busy:
                self._heed_stop(todo)
                yield from self._begin(todo)
                yield from self._watch(todo)
                time.sleep(POLL)
        finally:
            for attempt in self.busy:
                self.executor.stop(attempt.handle, signal.SIGKILL)
                attempt.lease.release()

    def _heed_stop(self, todo: list[Task]) -> None:
        stopping = self.stopping()
        if stopping and not self.stopped:
            self.stopped = True
            todo.clear()
            if self.busy:
                self.listener(events.Stopping(len(self.busy)))
            for attempt in self.busy:
                self._stop(attempt, "interrupted")
        if stopping > 1:
            for attempt in self.busy:
                self.executor.stop(attempt.handle, signal.SIGKILL)

    def _begin(self, todo: list[Task]) -> Iterator[Row]:
        """Fill the free slots with cells whose lease is free; yield the rows of cells with nothing left to do."""
        for task in list(todo):
            cell, leader = task.job.cell, self.settled.get(task.leader)
            if len(self.busy) >= self.executor.slots:
                return
            if task.leader and leader is None:
                continue
            with writing(self.store.path):
                lease = Lease.take(self.store.cells / cell / "lease.json")
            if lease is None:
                continue  # another run is at it: look again later
            todo.remove(task)
            if task.finished() or (leader is not None and self._left_behind(task, leader)):
                yield self._settle(task, lease, reused=True)
            else:
                self._start(task, lease)

    def _left_behind(self, task: Task, leader: Row) -> bool:
        """Return whether the leader's job didn't train this cell too, and another try would end likewise.

        Where the cell has no reason of its own, the leader's is stored.
        """
        cell = task.job.cell
        if self.store.is_done(cell):
            return False
        ended = self.store.has_ended(cell)
        if leader.status != "ok" and not ended:
            reason = f"with {leader.cell}: {leader.reason}"
            self.store.write_failed(replace(task.unscored, status=leader.status, reason=reason), "")
        return leader.status != "ok" or ended

    def _start(self, task: Task, lease: Lease) -> None:
        record = self.records.setdefault(task.job.cell, _Record())
        record.tries += 1
        job = replace(task.job, attempt=f"attempt-{uuid4().hex[:12]}", number=record.tries, dead=dict(record.dead))
        try:
            with writing(self.store.path):
                make_folder(attempt_dir(job))
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
                    attempt.began = attempt.last_sign = time.monotonic()
                self._limit(attempt)
                continue
            self.busy.remove(attempt)
            record = self.records[attempt.job.cell]
            record.spent += time.monotonic() - attempt.began
            row = self._judge(attempt, exit, record)
            if row is not None:
                yield row
            else:
                attempt.lease.release()
                todo.insert(0, attempt.task)

    def _follow(self, attempt: _Attempt, *, ended: bool) -> None:
        """Pass on the job's new events, and note a sign of life."""
        folder = attempt_dir(attempt.job)
        path, log = folder / "events.jsonl", folder / "log.txt"
        try:
            state = path.stat()
            if not ended and state.st_mtime_ns == attempt.touched and state.st_size == attempt.offset:
                return
            attempt.touched, attempt.last_sign = state.st_mtime_ns, time.monotonic()
            with open(path, "rb") as file:
                file.seek(attempt.offset)
                chunk = file.read()
            whole = chunk[: chunk.rfind(b"\n") + 1]
            attempt.offset += len(whole)
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
        """Stop an attempt that exceeds a limit of time."""
        now = time.monotonic()
        if now >= attempt.kill_at:
            self.executor.stop(attempt.handle, signal.SIGKILL)
        elif attempt.stopped_for is not None:
            return
        elif self.timeout is not None and self.records[attempt.job.cell].spent + now - attempt.began > self.timeout:
            self._stop(attempt, "timeout")
        elif now - attempt.last_sign > self.stall:
            self.executor.stop(attempt.handle, signal.SIGUSR1)  # prints the threads' stacks to its log
            self._stop(attempt, "stalled", grace=min(GRACE, self.stall))

    def _stop(self, attempt: _Attempt, status: Status, grace: float = GRACE) -> None:
        attempt.stopped_for, attempt.kill_at = status, time.monotonic() + grace
        self.executor.stop(attempt.handle, signal.SIGTERM)

    def _judge(self, attempt: _Attempt, exit: Exit, record: _Record) -> Row | None:
        """Return the row after an attempt has ended; None: try again.

        Whether the job reached its end is read from disk, since a plugin may choose any exit code. If it didn't, a
        trained cell keeps its weights, and the metric that was being computed is left out of the next attempt; a cell
        that isn't trained gets the status of how its process ended.
        """
        task, job = attempt.task, attempt.job
        if (attempt_dir(job) / ENDED).exists() or task.finished():
            return self._settle(task, attempt.lease)
        if exit.code == STORE and (error := _store_error(attempt_dir(job))) is not None:
            attempt.lease.release()
            raise error
        verdict = self._verdict(attempt, exit, record)
        if verdict is None:
            return None
        status, reason, ending = verdict
        if status != "interrupted" and self.store.is_done(job.cell):
            if status != "timeout" and attempt.metric not in ("", "evidence"):
                record.dead[attempt.metric] = ending
                record.stalls = 0
                return None
            task.give_up(reason, record.dead)
        home = attempt_dir(job)
        row = replace(task.unscored, status=status, reason=reason)
        self.store.write_failed(row, clip(home / "log.txt") + f"{reason}\n")
        shutil.rmtree(home, ignore_errors=True)  # its checkpoints stay
        return self._settle(task, attempt.lease, tidy=False)

    def _verdict(self, attempt: _Attempt, exit: Exit, record: _Record) -> tuple[Status, str, str] | None:
        """Return status, reason, and the ending in short, of a cell whose attempt ended early; None: try again."""
        if attempt.stopped_for == "interrupted" or self.stopping():
            return "interrupted", INTERRUPTED, ""
        if attempt.stopped_for == "timeout":
            return "timeout", f"longer than {duration(self.timeout or 0)}; a longer --timeout goes on", ""
        if attempt.stopped_for == "stalled":
            record.stalls += 1
            if record.stalls == 1:
                return None
            silent = f"no sign of life for {duration(self.stall)}, twice"
            return "stalled", f"{silent}; its log says where", silent
        ending = describe_exit(exit)
        before, self.kernel_kills = self.kernel_kills, _kernel_kills()
        if exit.signal == signal.SIGKILL and self.kernel_kills > before:
            return "oom", "killed by the kernel, which was out of memory", ending
        if exit.signal in (signal.SIGKILL, signal.SIGTERM) or exit.code == STOPPED:
            if record.tries < TRIES:
                return None
            return "killed", f"its process was killed {TRIES} times ({ending})", ending
        lines = [line for line in clip(attempt_dir(attempt.job) / "log.txt").splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:300]}" if lines and exit.code in (0, 1) else ""
        empty = ", as after a success, without a result" if exit.code == 0 else ""
        return "failed", f"its process ended by {ending}{empty}{last}", ending

    def _settle(self, task: Task, lease: Lease, *, reused: bool = False, tidy: bool = True) -> Row:
        """Return a cell's row from disk; remove leftovers of its attempts, its checkpoints only with `tidy`."""
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
                cause="Its folder was removed during the run.",
                fix="The same command makes it anew.",
            )
        self.settled[cell] = row
        self.listener(CellEnded(cell, row, reused=reused))
        return row


def describe_exit(exit: Exit) -> str:
    """Return how a process ended: 'exit code 7', 'signal SIGSEGV', or the executor's own reason."""
    if exit.signal is not None:
        name = signal.Signals(exit.signal).name if exit.signal in list(signal.Signals) else str(exit.signal)
        return f"signal {name}" + (f" ({exit.reason})" if exit.reason else "")
    return exit.reason or f"exit code {exit.code}"


def duration(seconds: float) -> str:
    """Return a length of time in its largest fitting unit: '2 s', '30 min', '1.5 h'."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _store_error(home: Path) -> StoreError | None:
    """Return the error that an attempt met when it wrote into the run's folder; None without one."""
    try:
        what, *rest = (home / "error.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    cause, fix = (*rest, "", "")[:2]
    return StoreError(what, cause=cause, fix=fix)


def _kernel_kills() -> int:
    """Return how many processes the kernel has killed for memory, as far as the control group counts them."""
    count = 0
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in path.read_text().splitlines())
            count += int(fields.get("oom_kill", 0))
    return count
