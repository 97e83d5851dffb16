"""The default executor: children of a fork server on this machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.contracts.executor import Exit, Job
from bench.running.worker import place
from bench.util.errors import UsageError

SERVER = "import sys; sys.path[:] = {path!r}; from bench.running.executors.server import main; main()"
"""It imports from where we do, and from nowhere else: not from the folder that it happens to stand in."""

MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
"""For the GNU C library: the pages of a step's tensors are huge, and kept for the next one (5 to 10 % of its time)."""


class Local:
    """Processes on this machine, each with as many threads as its job says."""

    def __init__(self, jobs: int, *, address: str | None = None) -> None:
        if address is not None:
            raise UsageError("--address is for executors of a cluster; `local` has none")
        self.slots = jobs
        self._numbers = itertools.count()
        self._exits: dict[int, Exit] = {}
        self._open: set[int] = set()
        self._server: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._preload: list[str] = []
        self.ready = False  #: whether the fork server has loaded what it should

    def warm(self) -> None:
        """Let the fork server load what children need, meanwhile."""
        if self._server is None:
            self._server = self._launch()

    def start(self, job: Job) -> int:
        return self._begin({"job": job.to_json(), "log": str(place(job) / "log.txt")}, "start")

    def call(self, function: str, arguments: dict[str, Any], log: Path) -> int:
        """Call 'MODULE:NAME' with JSON arguments in a child; a handle as of a job's."""
        return self._begin({"function": function, "arguments": arguments, "log": str(log)}, "call")

    def preload(self, modules: Iterable[str]) -> None:
        """Let the children find these modules imported."""
        self._preload = list(modules)
        if self._server is not None:
            self._send({"preload": self._preload})

    def poll(self, handle: int) -> Exit | None:
        self._receive()
        return self._exits.get(handle)

    def begun(self, handle: int) -> bool:
        return True

    def stop(self, handle: int, signal: int) -> None:
        if handle in self._open and self._server is not None:
            self._send({"signal": int(signal), "to": handle})

    def close(self) -> None:
        if self._server is not None:
            assert self._server.stdin is not None
            if not self._open:
                self._server.kill()  # it may be in the midst of its imports
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()  # it kills its children and goes
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
            self._forget()

    def _begin(self, order: dict[str, Any], kind: str) -> int:
        number = next(self._numbers)
        self._open.add(number)
        self._send({kind: number, **order})
        return number

    def _send(self, order: dict[str, Any]) -> None:
        for _ in range(2):
            if self._server is None:
                self._server = self._launch()
            assert self._server.stdin is not None
            try:
                self._server.stdin.write(json.dumps(order).encode() + b"\n")
                self._server.stdin.flush()
            except BrokenPipeError:
                self._died()
            else:
                return

    def _launch(self) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the supervisor's
            env={**MEMORY, **os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        )
        assert server.stdout is not None
        os.set_blocking(server.stdout.fileno(), False)
        self._buffer = b""
        if self._preload:
            assert server.stdin is not None
            server.stdin.write(json.dumps({"preload": self._preload}).encode() + b"\n")
        return server

    def _receive(self) -> None:
        if self._server is None or self._server.stdout is None:
            return
        while True:
            try:
                chunk = os.read(self._server.stdout.fileno(), 65536)
            except BlockingIOError:
                break
            if not chunk:
                self._died()
                return
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self.ready = True
                continue
            number = message["exit"]
            self._open.discard(number)
            self._exits[number] = Exit(message.get("code"), message.get("signal"))

    def _forget(self) -> None:
        """Let go of a server that ends."""
        assert self._server is not None
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was left to be sent
                    pipe.close()
        self._server = None

    def _died(self) -> None:
        """The server is gone, and its children with it."""
        if self._server is not None:
            self._server.kill()
            self._forget()
        for number in self._open:
            self._exits[number] = Exit(None, signal.SIGKILL, "the process that had started it died")
        self._open.clear()
