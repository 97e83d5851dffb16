"""An executor for the machines of a Ray cluster, or for a Ray of its own on this one: `pip install 'vaebench[ray]'`.

Ray only places work. Each of its tasks starts the child that the default executor would, passes signals on to it, and
says how it ended; what came of the cell is in the run's folder, which all machines must share. So a variant that
crashes takes no Ray worker with it, and a lost machine costs what its cells had done since their last checkpoint.

In an attempt's folder, besides what the child leaves there:

    signals     numbers, a line each, from the driver to the task
    job.json    the job, written by the task when it begins
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1
from typing import Any

from bench.contracts.executor import Exit, Job
from bench.running.worker import place, send
from bench.util.errors import BenchError, UsageError
from bench.util.process import kept_umask, make_folder

POLL = 0.05  # seconds between a task's looks at its child
PATIENCE = 5.0  # seconds that a killed job gets until Ray is asked to kill its worker, and again until we go on
ASK = 5.0  # seconds between two questions whether the cluster's head is there
GONE = 30.0  # seconds without an answer after which it isn't
STORE = 80 * 2**20  # bytes of Ray's object store; nothing is put there
ROOM = 24  # bytes that a folder's path may have for Ray's sockets in it: those of UNIX end at 107
LOST = ("NodeDiedError", "WorkerCrashedError", "LocalRayletDiedError", "OwnerDiedError", "ObjectLostError")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Ray sets the first itself: a job gets the driver's, and else none, as if its process were the driver's own child."""

TOKEN = secrets.token_hex(32)
OWN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # by its other meaning, on any system: every port on the loopback
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What a Ray of our own is started with: nobody but this user, on this machine, reaches it."""


@dataclass(eq=False)
class Task:
    """A job that Ray has."""

    ref: Any
    home: Path
    began: bool = False
    exit: Exit | None = None
    killed: float | None = None  # when
    cancelled: bool = False


class Ray:
    """Places jobs by Ray's tasks: each reserves its threads as CPUs, and its share of GPUs.

    Args:
        jobs: cells at once, over the whole cluster.
        address: of a cluster, or 'auto'; None starts a Ray of our own, which ends with us.

    Raises:
        UsageError: Ray isn't installed, or nothing answers at the address.
    """

    def __init__(self, jobs: int, *, address: str | None = None) -> None:
        self.slots = jobs
        self._open: list[Task] = []
        self._fitting: set[tuple[float, float]] = set()
        self._looked = self._ask = 0.0
        self._undo = contextlib.ExitStack()
        try:
            self._connect(address)
        except BaseException:
            self._undo.close()
            raise

    def start(self, job: Job) -> Task:
        """
        Raises:
            UsageError: no machine of the cluster could ever hold it.
        """
        gpus = _gpus(job)
        self._fits(job.threads, gpus)
        home = place(job)
        with contextlib.suppress(OSError):
            (home / "signals").touch()
        attend = self._attend.options(num_cpus=job.threads, num_gpus=gpus)
        task = Task(attend.remote(job.to_json(), _environment(), os.getcwd()), home)
        self._open.append(task)
        return task

    def begun(self, handle: Task) -> bool:
        handle.began = handle.began or (handle.home / "job.json").exists()
        return handle.began

    def poll(self, handle: Task) -> Exit | None:
        if time.monotonic() - self._looked >= POLL / 2:
            self._look()
            self._looked = time.monotonic()
        return handle.exit

    def stop(self, handle: Task, signal: int) -> None:
        if handle.exit is not None or handle.killed is not None:
            return
        if signal == SIGKILL:
            handle.killed = time.monotonic()
        try:
            with open(handle.home / "signals", "a", encoding="utf-8") as file:
                file.write(f"{int(signal)}\n")
            told = signal == SIGUSR1 or self.begun(handle)
        except OSError:  # the disk is full, or somebody else has done the cell and tidied up
            told = False
        if not told:
            self._cancel(handle)

    def close(self) -> None:
        for task in self._open:
            self.stop(task, SIGKILL)
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(BenchError):
            while self._open and time.monotonic() < until:
                self._look()
                time.sleep(POLL)
        for task in self._open:
            self._cancel(task)
        self._open.clear()
        self._undo.close()

    def _connect(self, address: str | None) -> None:
        how: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            self._undo.enter_context(_set(OWN))
        self._ray = _library()
        if not self._ray.is_initialized():  # else it's who called us who ends it
            self._initialise(address, how)
        self._attend = self._ray.remote(max_retries=0, max_calls=1)(attend)
        self._head, self._heard = str(self._ray.get_runtime_context().gcs_address), time.monotonic()

    def _initialise(self, address: str | None, how: dict[str, Any]) -> None:
        try:
            if address is None:
                folder = _short_folder()
                self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
                how |= {
                    "address": "local",  # RAY_ADDRESS is for `auto`
                    "num_cpus": max(_cores(), self.slots),
                    "include_dashboard": False,
                    "object_store_memory": STORE,
                    "_temp_dir": f"{folder}/r",  # which Ray opens to everybody; `folder` is ours alone
                }
            else:
                _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            self._undo.enter_context(contextlib.redirect_stdout(_Ours(sys.stdout)))
            self._undo.callback(self._shutdown)
            with _handlers_kept():
                self._ray.init(**how)
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if address is None:
                fix = "A process that has used another Ray before can't have its own: try a new one."
                raise BenchError("Ray doesn't start on this machine", cause=cause, fix=fix) from None
            raise UsageError(
                f"no Ray cluster can be used at {address!r}",
                cause=cause,
                fix="Start one (`ray start --head`); if it wants a token, RAY_AUTH_MODE=token gives it yours."
                " Without --address there is a Ray on this machine alone.",
            ) from None

    def _shutdown(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it says once more what its thread has said
            self._ray.shutdown()

    def _fits(self, cpus: float, gpus: float) -> None:
        if (cpus, gpus) in self._fitting:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            there = sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes})
            raise UsageError(
                f"no machine of the cluster has room for a cell of {cpus:g} CPU threads and {gpus:g} GPUs",
                cause=f"They have (CPUs, GPUs): {', '.join(f'({c:g}, {g:g})' for c, g in there) or 'none is alive'}.",
                fix="Ask for less with --threads and --gpus-per-cell.",
            )
        self._fitting.add((cpus, gpus))

    def _look(self) -> None:
        """See what has ended.

        Raises:
            BenchError: the cluster has.
        """
        if not self._open:
            return
        self._listen()
        ready, _ = self._ray.wait([task.ref for task in self._open], num_returns=len(self._open), timeout=0)
        for task in list(self._open):
            if task.ref in ready:
                task.exit = self._exit(task)
            elif task.killed is not None:
                since = time.monotonic() - task.killed
                if since > PATIENCE:
                    self._cancel(task)
                if since > 2 * PATIENCE:
                    task.exit = Exit(None, SIGKILL, "Ray doesn't say how it ended")
            if task.exit is not None:
                self._open.remove(task)

    def _listen(self) -> None:
        """Ray itself would end our process, after a minute and without a word to the runner."""
        now = time.monotonic()
        if now < self._ask:
            return
        self._ask = now + ASK
        try:
            _knock(self._head, 1.0)
        except OSError as error:
            if now - self._heard > GONE:
                raise BenchError(
                    f"the head of the Ray cluster doesn't answer any more ({self._head})",
                    cause=f"{type(error).__name__}: {error}",
                    fix="Start the cluster anew; then the same command goes on from the checkpoints.",
                ) from None
        else:
            self._heard = now

    def _exit(self, task: Task) -> Exit:
        try:
            code, number = self._ray.get(task.ref)
        except self._ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            return Exit(1, None, f"its worker couldn't start it: {last[:300]}")
        except self._ray.exceptions.RayError as error:
            name = type(error).__name__
            why = "cancelled" if task.cancelled else "its node was lost" if name in LOST else name
            return Exit(None, SIGKILL, why)
        return Exit(code, number)

    def _cancel(self, task: Task) -> None:
        """Let Ray kill the task's worker, and so the child."""
        if not task.cancelled:
            task.cancelled = True
            with contextlib.suppress(Exception):
                self._ray.cancel(task.ref, force=True)


def attend(document: Mapping[str, Any], environment: Mapping[str, str], folder: str) -> tuple[int | None, int | None]:
    """A job from beginning to end, on the machine where Ray has put us; the exit code or signal of its process.

    Args:
        environment: what the child gets of the driver's.
        folder: the driver's working directory, which relative paths start from.
    """
    job = Job.from_json(document)
    with kept_umask(job.umask):
        return _attend(job, environment, folder)


def _attend(job: Job, environment: Mapping[str, str], folder: str) -> tuple[int | None, int | None]:
    home = place(job)
    make_folder(home)
    signals = _signals(home / "signals")
    for number in next(signals):
        if number in (SIGTERM, SIGKILL):
            return None, number
    order = home / "job.json"
    order.write_text(json.dumps(job.to_json()), encoding="utf-8")
    with open(home / "log.txt", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.running.worker", str(order), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder if os.path.isdir(folder) else None,
            env=_child_environment(environment),
        )
    try:
        while child.poll() is None:
            for number in next(signals):
                send(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
    finally:
        with contextlib.suppress(OSError):  # whatever it started dies with it
            os.killpg(child.pid, SIGKILL)
        code = child.wait()
    return (code, None) if code >= 0 else (None, -code)


def _signals(path: Path) -> Iterator[list[int]]:
    """What has come in since the last time."""
    seen = 0
    while True:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        yield [int(line) for line in lines[seen:]]
        seen = max(seen, len(lines))


def _child_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The worker's own environment with what the driver gives, and without what Ray has added."""
    import ray

    added = ("PYTHONBREAKPOINT", *THREADS)
    kept = {k: v for k, v in os.environ.items() if k not in added and not k.startswith("RAY_")}
    gpus = ",".join(str(i) for i in ray.get_gpu_ids())  # Ray itself may leave a task without GPUs all of them
    return {**kept, **given, "CUDA_VISIBLE_DEVICES": gpus, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def _environment() -> dict[str, str]:
    """What of the driver's environment a job depends on."""
    return {k: v for k, v in os.environ.items() if k in ("PYTHONPATH", *THREADS) or k.startswith("BENCH_")}


def _gpus(job: Job) -> float:
    """What a job reserves; a whole GPU where nothing is said."""
    if ":" in job.device:
        raise UsageError(f"--device {job.device}: Ray chooses the GPU of a cell", fix="Use --device cuda.")
    if job.gpus > 1 and job.gpus % 1:
        raise UsageError(f"--gpus-per-cell {job.gpus:g}: more than one GPU must be whole ones")
    return job.gpus or float(job.device == "cuda")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "this executor needs Ray, which can't be imported",
            cause=f"{type(error).__name__}: {error}",
            fix="pip install 'vaebench[ray]'",
        ) from None
    return ray


def _knock(address: str, seconds: float = PATIENCE) -> None:
    """Find out whether anybody answers at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()


def _short_folder() -> str:
    """A new folder for Ray's files and sockets.

    Raises:
        OSError: there is no place for one.
    """
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    fit = [path for path in places if len(os.fsencode(path)) <= ROOM and os.access(path, os.W_OK | os.X_OK)]
    return tempfile.mkdtemp(prefix="ray-", dir=fit[0] if fit else None)


@contextlib.contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, for a time."""
    before = {name: os.environ.get(name) for name in (*variables, "PYTHONBREAKPOINT")}  # the last is Ray's doing
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Ours:
    """Standard output without the complaints about lost machines that a thread of Ray's prints there."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> int:
        theirs = threading.current_thread().name.startswith("ray_")
        return len(text) if theirs else int(self._out.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray makes SIGTERM exit the driver at once; what it means is for the runner to say."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
