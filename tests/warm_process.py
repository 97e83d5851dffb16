"""A process that has imported all that `bench run` needs, and forks one whenever a test asks for it.

Importing torch is most of what a short run costs, and each real one does it twice: the command line, and the fork
server that it launches. What is forked here is otherwise the same: it heads a session of its own, its environment,
working directory and standard streams are the test's, its fork server is a process below it at the other end of two
pipes, and no kill -9 leaves anything to tidy up to anybody. What this can't show is what imports themselves do, and
what a real interpreter inherits or refuses: so some tests start the command line for real besides.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any, NoReturn

STRANGERS = Path(__file__).parent / "third_party"
PACKAGES = ("bench.variants", "bench.datasets", "bench.metrics", "bench.blocks")
MODULES = (
    "bench.cli",
    "bench.running.runner",
    "bench.show.console",
    "bench.tables.threshold",
    "bench.tables.render",
    "bench.tables.summary",
)


# in the test


class Forked:
    """A process that was forked for us: what a test needs of a `subprocess.Popen`."""

    def __init__(self, pid: int, ends: list[int], told: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pipes = [open(end, "rb", buffering=0) for end in ends]  # noqa: SIM115
        self._said: list[list[bytes]] = [[] for _ in ends]
        self._told = told
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None

    def poll(self) -> int | None:
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._wait(timeout)) is None:
            raise subprocess.TimeoutExpired("bench", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed to stdout and stderr, once nobody can print there any more and it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        while there := [pipe for pipe in self._pipes if not pipe.closed]:
            ready = select.select(there, [], [], None if until is None else max(0.0, until - time.monotonic()))[0]
            if not ready:
                raise subprocess.TimeoutExpired("bench", timeout or 0.0)
            for pipe in ready:
                if chunk := pipe.read(65536):
                    self._said[self._pipes.index(pipe)].append(chunk)
                else:
                    pipe.close()
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        out, err = (b"".join(chunks).decode(errors="replace") for chunks in self._said)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            said = self._told.recv(64)
            assert said, "the mother of this run is dead"
            self.returncode = int(said)
            self._told.close()
        return self.returncode


class Mother:
    """The process, as a test sees it. It ends with us, and everything that it has forked with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from tests.warm_process import main; main()", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                env=os.environ | {"PYTHONPATH": path(), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        assert ours.recv(64), "it couldn't import what it should"

    def run(
        self, *arguments: str, env: Mapping[str, str], file_size: int | None = None, umask: int | None = None
    ) -> Forked:
        """Run the command line in a process and a session of its own.

        Args:
            env: its whole environment.
            file_size: its RLIMIT_FSIZE.
            umask: if not ours.
        """
        (out, said), (err, warned) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        return self._fork(
            {"argv": arguments, "file_size": file_size, "umask": umask}, env, [nothing, said, warned], [out, err]
        )

    def python(self, code: str, *, env: Mapping[str, str], file: str = "<stdin>") -> Forked:
        """Run a program as `__main__`, in a process and a session of its own.

        Args:
            env: its whole environment.
            file: where its source stands.
        """
        (out, said), (err, warned) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        return self._fork({"code": code, "file": file}, env, [nothing, said, warned], [out, err])

    def server(self, command: list[str], *, stdin: int, stdout: int, start_new_session: bool, env: Any) -> Forked:
        """Be the `subprocess.Popen` by which a test's own process launches its fork server."""
        orders, answers = _launched(command, stdin, stdout, start_new_session)
        child = self._fork({"server": command[-1]}, env, [orders[0], answers[1], os.dup(2)], [])
        child.stdin, child.stdout = open(orders[1], "wb"), open(answers[0], "rb")  # noqa: SIM115
        return child

    def _fork(self, order: dict[str, Any], env: Mapping[str, str], streams: list[int], ends: list[int]) -> Forked:
        told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order |= {"env": dict(env), "cwd": os.getcwd()}
        with tells:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [*streams, tells.fileno()])
        for stream in streams:
            os.close(stream)
        pid = told.recv(64)
        assert pid, "the mother of all runs is dead"
        return Forked(int(pid), ends, told)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def path() -> str:
    """PYTHONPATH with the strangers."""
    return os.pathsep.join(filter(None, (str(STRANGERS), os.environ.get("PYTHONPATH", ""))))


# in the mother


def main() -> None:
    """Serve until the test's end of the socket is closed."""
    from bench.running.executors.server import PRELOAD, preload

    orders = socket.socket(fileno=int(sys.argv[1]))
    modules = [
        f"{package}.{module.name}"
        for package in PACKAGES
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    ]
    preload((*PRELOAD, *MODULES, *modules))
    gc.collect()
    gc.freeze()
    wake, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    orders.send(b"ready")
    while True:
        ready, _, _ = select.select([orders, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if orders in ready:
            message, descriptors, _, _ = socket.recv_fds(orders, 2**20, 4)
            if not message:
                break
            *streams, told = descriptors
            pid = _fork(lambda: _run(json.loads(message), streams))  # noqa: B023
            for stream in streams:
                os.close(stream)
            children[pid] = socket.socket(fileno=told)
            children[pid].send(str(pid).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # what was frozen would be said to have leaked


def _reap(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as told, contextlib.suppress(OSError):
            told.send(str(os.waitstatus_to_exitcode(status)).encode())


def _run(order: dict[str, Any], streams: list[int]) -> int:
    """What the child does."""
    from bench import cli
    from bench.plugins.registry import installed
    from bench.running import worker
    from bench.running.executors import local

    worker.die_with_parent()
    _become(streams, order["env"])
    os.chdir(order["cwd"])
    installed.cache_clear()
    if "server" in order:
        exec(order["server"], {})
        return 0
    local.subprocess = instead(Server)  # type: ignore[attr-defined]
    if "code" in order:
        return _main(order["code"], order["file"])
    if order["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"],) * 2)
    if order["umask"] is not None:
        os.umask(order["umask"])
    sys.argv = ["bench", *order["argv"]]
    return cli.main(order["argv"])


def _main(code: str, file: str) -> int:
    """Execute a program as the module `__main__`; its exit code."""
    sys.argv, main = [file], ModuleType("__main__")
    main.__file__, sys.modules["__main__"] = file, main
    try:
        exec(compile(code, file, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# in both


def instead(popen: Callable[..., Any]) -> SimpleNamespace:
    """In the place of the module `subprocess` in `bench.running.executors.local`."""
    return SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)


def _launched(command: list[str], stdin: int, stdout: int, start_new_session: bool) -> list[tuple[int, int]]:
    """Two pipes for what is launched, if that is the fork server, and as we know it."""
    assert command[-1].endswith("from bench.running.executors.server import main; main()")
    assert (stdin, stdout, start_new_session) == (subprocess.PIPE, subprocess.PIPE, True)
    return [os.pipe(), os.pipe()]


def _fork(what: Callable[[], int]) -> int:
    """A child that does `what` and ends with the code that this returns."""
    pid = os.fork()
    if pid == 0:
        _child(what)
    return pid


def _child(what: Callable[[], int]) -> NoReturn:
    code = 1
    try:
        code = what()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


_old: list[Any] = []


def _become(streams: list[int], env: Mapping[str, str]) -> None:
    """Be as a process that was executed just now: a session, an environment, and no descriptors but three."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _old.extend((sys.stdin, sys.stdout, sys.stderr))  # kept, since what they may still hold is another process's
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(n, "wb", closefd=False), encoding="utf-8", line_buffering=n == 2)  # noqa: SIM115
        for n in (1, 2)
    )
    os.environ.clear()
    os.environ.update(env)


class Server:
    """In the place of the `subprocess.Popen` of a fork server: forked, and so warm from the start."""

    def __init__(self, command: list[str], *, stdin: int, stdout: int, start_new_session: bool, env: Any) -> None:
        from bench.running.executors import server

        (taken, orders), (answers, given) = _launched(command, stdin, stdout, start_new_session)

        def serve() -> int:
            _become([taken, given, 2], env)
            server.main()
            return 0

        self.pid = _fork(serve)
        os.close(taken)
        os.close(given)
        self.stdin, self.stdout = open(orders, "wb"), open(answers, "rb")  # noqa: SIM115
        self.returncode: int | None = None

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif until is not None:
                if time.monotonic() > until:
                    raise subprocess.TimeoutExpired("server", timeout or 0.0)
                time.sleep(0.005)
        return self.returncode
