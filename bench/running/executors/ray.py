"""An executor for the machines of a Ray cluster, or for a private Ray on this one: `pip install 'vaebench[ray]'`.

Ray only places work. Each of its tasks starts the child that the default executor would, passes signals on to it, and
returns how it ended; the outcome of the cell is in the run's folder, which all machines must share. A variant that
crashes takes no Ray worker with it, and a lost machine costs what its cells had done since their last checkpoint.

In an attempt's folder, besides the child's files:

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
from bench.running.worker import attempt_dir, send
from bench.util.errors import BenchError, UsageError
from bench.util.process import kept_umask, make_folder

POLL = 0.05  # seconds between a task's looks at its child
PATIENCE = 5.0  # seconds after SIGKILL until Ray kills the worker, and again until we stop waiting
ASK = 5.0  # seconds between two checks of the cluster's head
GONE = 30.0  # seconds without an answer after which the head counts as lost
STORE = 80 * 2**20  # bytes of Ray's object store, which stays empty
ROOM = 24  # bytes of a folder's path that leave room for Ray's UNIX sockets, whose paths end at 107
LOST = ("NodeDiedError", "WorkerCrashedError", "LocalRayletDiedError", "OwnerDiedError", "ObjectLostError")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that a job gets from the driver, or not at all; Ray sets the first by itself."""

OWN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # also binds every port to the loopback, on any system
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of a private Ray: only this user, on this machine, reaches it."""


@dataclass(eq=False)
class Placed:
    """A job that Ray has."""

    ref: Any
    home: Path
    began: bool = False
    exit: Exit | None = None
    killed: float | None = None  # when
    cancelled: bool = False


class Ray:
    """A Ray cluster: each cell is a task that reserves its threads as CPUs, and its share of GPUs.

    Args:
        jobs: cells at once, over the whole cluster.
        address: of a cluster, or 'auto'; None starts a private Ray, which ends with this process.

    Raises:
        UsageError: Ray isn't installed, or nothing answers at the address.
    """

    def __init__(self, jobs: int, *, address: str | None = None) -> None:
        self.slots = jobs
        self._open: list[Placed] = []
        self._fitting: set[tuple[float, float]] = set()
        self._looked = self._asked = 0.0
        self._undo = contextlib.ExitStack()
        try:
            self._connect(address)
        except BaseException:
            self._undo.close()
            raise

    def start(self, job: Job) -> Placed:
        """Hand a job to Ray.

        Raises:
            UsageError: no machine of the cluster could ever hold it.
        """
        gpus = _gpus(job)
        self._require_room(job.threads, gpus)
        home = attempt_dir(job)
        with contextlib.suppress(OSError):
            (home / "signals").touch()
        attend = self._attend.options(num_cpus=job.threads, num_gpus=gpus)
        environment = {k: v for k, v in os.environ.items() if k in ("PYTHONPATH", *THREADS) or k.startswith("BENCH_")}
        placed = Placed(attend.remote(job.to_json(), environment, os.getcwd()), home)
        self._open.append(placed)
        return placed

    def begun(self, handle: Placed) -> bool:
        handle.began = handle.began or (handle.home / "job.json").exists()
        return handle.began

    def poll(self, handle: Placed) -> Exit | None:
        if time.monotonic() - self._looked >= POLL / 2:
            self._look()
            self._looked = time.monotonic()
        return handle.exit

    def stop(self, handle: Placed, signal: int) -> None:
        if handle.exit is not None or handle.killed is not None:
            return
        if signal == SIGKILL:
            handle.killed = time.monotonic()
        try:
            with open(handle.home / "signals", "a", encoding="utf-8") as file:
                file.write(f"{int(signal)}\n")
            sent = signal == SIGUSR1 or self.begun(handle)
        except OSError:  # the disk is full, or another run has done the cell and removed the folder
            sent = False
        if not sent:
            self._cancel(handle)

    def close(self) -> None:
        for placed in self._open:
            self.stop(placed, SIGKILL)
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(BenchError):
            while self._open and time.monotonic() < until:
                self._look()
                time.sleep(POLL)
        for placed in self._open:
            self._cancel(placed)
        self._open.clear()
        self._undo.close()

    def _connect(self, address: str | None) -> None:
        if address is None:
            self._undo.enter_context(_environment(OWN))
        self._ray = _library()
        if not self._ray.is_initialized():  # else the caller started Ray, and will end it
            self._start_ray(address)
        self._attend = self._ray.remote(max_retries=0, max_calls=1)(attend)
        self._head, self._heard = str(self._ray.get_runtime_context().gcs_address), time.monotonic()

    def _start_ray(self, address: str | None) -> None:
        settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                folder = _short_folder()
                self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
                settings |= {
                    "address": "local",  # RAY_ADDRESS is for `auto`
                    "num_cpus": max(cores, self.slots),
                    "include_dashboard": False,
                    "object_store_memory": STORE,
                    "_temp_dir": f"{folder}/r",  # Ray opens it to every user; `folder` stays private
                }
            else:
                _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            self._undo.enter_context(contextlib.redirect_stdout(_OwnThreads(sys.stdout)))
            self._undo.callback(self._shutdown)
            with _handlers_kept():
                self._ray.init(**settings)
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if address is None:
                fix = "A process that has used another Ray before can't start its own: use a new process."
                raise BenchError("Ray doesn't start on this machine", cause=cause, fix=fix) from None
            raise UsageError(
                f"no Ray cluster can be used at {address!r}",
                cause=cause,
                fix="Start one (`ray start --head`); if it wants a token, RAY_AUTH_MODE=token sends yours."
                " Without --address, Ray runs on this machine alone.",
            ) from None

    def _shutdown(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # Ray repeats its complaints
            self._ray.shutdown()

    def _require_room(self, cpus: float, gpus: float) -> None:
        if (cpus, gpus) in self._fitting:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        there = sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes})
        if not any(c >= cpus and g >= gpus for c, g in there):
            raise UsageError(
                f"no machine of the cluster has room for a cell of {cpus:g} CPU threads and {gpus:g} GPUs",
                cause=f"They have (CPUs, GPUs): {', '.join(f'({c:g}, {g:g})' for c, g in there) or 'none is alive'}.",
                fix="Ask for less with --threads and --gpus-per-cell.",
            )
        self._fitting.add((cpus, gpus))

    def _look(self) -> None:
        """Note which tasks have ended."""
        if not self._open:
            return
        self._require_head()
        ready, _ = self._ray.wait([placed.ref for placed in self._open], num_returns=len(self._open), timeout=0)
        for placed in list(self._open):
            if placed.ref in ready:
                placed.exit = self._exit(placed)
            elif placed.killed is not None:
                since = time.monotonic() - placed.killed
                if since > PATIENCE:
                    self._cancel(placed)
                if since > 2 * PATIENCE:
                    placed.exit = Exit(None, SIGKILL, "Ray doesn't say how it ended")
            if placed.exit is not None:
                self._open.remove(placed)

    def _require_head(self) -> None:
        """Raise when the cluster's head is lost; Ray would end this process a minute later, without an error."""
        now = time.monotonic()
        if now - self._asked < ASK:
            return
        self._asked = now
        try:
            _knock(self._head, 1.0)
            self._heard = now
        except OSError as error:
            if now - self._heard > GONE:
                raise BenchError(
                    f"the head of the Ray cluster no longer answers ({self._head})",
                    cause=f"{type(error).__name__}: {error}",
                    fix="Start the cluster anew; then the same command goes on from the checkpoints.",
                ) from None

    def _exit(self, placed: Placed) -> Exit:
        try:
            code, number = self._ray.get(placed.ref)
        except self._ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            return Exit(1, None, f"its worker couldn't start it: {last[:300]}")
        except self._ray.exceptions.RayError as error:
            name = type(error).__name__
            why = "cancelled" if placed.cancelled else "its node was lost" if name in LOST else name
            return Exit(None, SIGKILL, why)
        return Exit(code, number)

    def _cancel(self, placed: Placed) -> None:
        """Let Ray kill the task's worker, and with it the child."""
        if not placed.cancelled:
            placed.cancelled = True
            with contextlib.suppress(Exception):
                self._ray.cancel(placed.ref, force=True)


def attend(document: Mapping[str, Any], environment: Mapping[str, str], folder: str) -> tuple[int | None, int | None]:
    """Run a job in a child from beginning to end, as a Ray task; return the exit code or signal of the child.

    Args:
        environment: variables of the driver's that the child gets.
        folder: the driver's working directory, which relative paths start from.
    """
    job = Job.from_json(document)
    with kept_umask(job.umask):
        home = attempt_dir(job)
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
            with contextlib.suppress(OSError):  # its own children die with it
                os.killpg(child.pid, SIGKILL)
            code = child.wait()
    return (code, None) if code >= 0 else (None, -code)


def _signals(path: Path) -> Iterator[list[int]]:
    """Yield the signals that came in since the last time, for ever."""
    seen = 0
    while True:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        yield [int(line) for line in lines[seen:]]
        seen = max(seen, len(lines))


def _child_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the worker's own environment with the driver's variables, and without Ray's."""
    import ray

    added = ("PYTHONBREAKPOINT", *THREADS)
    own = {k: v for k, v in os.environ.items() if k not in added and not k.startswith("RAY_")}
    gpus = ",".join(str(i) for i in ray.get_gpu_ids())  # without GPUs Ray may leave a task all of them
    return {**own, **given, "CUDA_VISIBLE_DEVICES": gpus, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def _gpus(job: Job) -> float:
    """Return the GPUs that a job reserves: a whole one by default, on CUDA."""
    if ":" in job.device:
        raise UsageError(f"--device {job.device}: Ray chooses the GPU of a cell", fix="Use --device cuda.")
    if job.gpus > 1 and job.gpus % 1:
        raise UsageError(f"--gpus-per-cell {job.gpus:g}: above 1 it must be a whole number")
    return job.gpus or float(job.device == "cuda")


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
    """Connect to HOST:PORT once; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()


def _short_folder() -> str:
    """Make a folder with a short path, for Ray's files and sockets."""
    parents = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    fit = [path for path in parents if len(os.fsencode(path)) <= ROOM and os.access(path, os.W_OK | os.X_OK)]
    return tempfile.mkdtemp(prefix="ray-", dir=fit[0] if fit else None)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them at the end."""
    before = {name: os.environ.get(name) for name in (*variables, "PYTHONBREAKPOINT")}  # Ray sets the last
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _OwnThreads:
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
    """Restore the signal handlers at the end: Ray makes SIGTERM exit the driver at once."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
