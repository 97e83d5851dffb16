"""The default executor: children of a fork server on this machine (`bench.running.executors.server`).

Why not multiprocessing's fork server: each of its children imports the caller's `__main__` again. A script that calls
`bench.run` without an `if __name__ == "__main__"` guard would start another run in every child, and a notebook has no
file to import.
"""

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
from typing import IO, Any

from bench.contracts.executor import Exit, Job
from bench.running.worker import attempt_dir
from bench.util.errors import UsageError

SERVER = "import sys; sys.path[:] = {path!r}; from bench.running.executors.server import main; main()"
"""The server imports from where this process does, and not from its working directory."""

MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
"""For the GNU C library: huge pages for a step's tensors, reused by the next step, save 5 to 10 % of its time."""


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
        self._orders: IO[bytes]
        self._answers: IO[bytes]
        self._buffer = b""
        self._preload: list[str] = []
        self.ready = False  #: whether the fork server has loaded its modules

    def warm(self) -> None:
        """Start the fork server, which loads its modules meanwhile."""
        if self._server is None:
            self._launch()

    def start(self, job: Job) -> int:
        return self._begin("start", {"job": job.to_json(), "log": str(attempt_dir(job) / "log.txt")})

    def call(self, function: str, arguments: dict[str, Any], log: Path) -> int:
        """Call 'MODULE:NAME' with JSON arguments in a child; return a handle, as `start` does."""
        return self._begin("call", {"function": function, "arguments": arguments, "log": str(log)})

    def preload(self, modules: Iterable[str]) -> None:
        """Let later children find these modules imported."""
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
            if not self._open:
                self._server.kill()  # it may be in the midst of its imports
            with contextlib.suppress(BrokenPipeError):
                self._orders.close()  # the server kills its children and ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(10)
            self._forget()

    def _begin(self, kind: str, order: dict[str, Any]) -> int:
        number = next(self._numbers)
        self._open.add(number)
        self._send({kind: number, **order})
        return number

    def _send(self, order: dict[str, Any]) -> None:
        for _ in range(2):
            self.warm()
            try:
                self._orders.write(json.dumps(order).encode() + b"\n")
                self._orders.flush()
            except BrokenPipeError:
                self._forget()
            else:
                return

    def _launch(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the supervisor
            env={**MEMORY, **os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._orders, self._answers, self._buffer = self._server.stdin, self._server.stdout, b""
        os.set_blocking(self._answers.fileno(), False)
        if self._preload:
            self._orders.write(json.dumps({"preload": self._preload}).encode() + b"\n")

    def _receive(self) -> None:
        while self._server is not None:
            try:
                chunk = os.read(self._answers.fileno(), 65536)
            except BlockingIOError:
                break
            if not chunk:
                self._forget()
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self.ready = True
                continue
            self._open.discard(message["exit"])
            self._exits[message["exit"]] = Exit(message.get("code"), message.get("signal"))

    def _forget(self) -> None:
        """Let go of a server that has died or is to die, and its children with it."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()
        for pipe in (self._orders, self._answers):
            with contextlib.suppress(BrokenPipeError):  # orders that were left to be sent
                pipe.close()
        self._server = None
        for number in self._open:
            self._exits[number] = Exit(None, signal.SIGKILL, "the process that had started it died")
        self._open.clear()
