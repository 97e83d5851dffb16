"""A process that has torch loaded and forks a child for each job, so that a child starts at once.

It reads a JSON line for each order on stdin, and writes one for each event on stdout:

    {"preload": [MODULE, ...]}
    {"start": ID, "job": {...}, "log": PATH}
    {"call": ID, "function": "MODULE:NAME", "arguments": {...}, "log": PATH}
    {"signal": NUMBER, "to": ID}
                                             {"ready": true}, once; {"exit": ID, "code": n or "signal": n}

The exit code of a call is RETURNED if the function returned; 0 means that the function ended the process.

The server has no state that matters, and all its children die with it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from bench.contracts.executor import Job
from bench.plugins.registry import installed
from bench.running.worker import detach, send, work
from bench.util.process import kept_umask

FIRST = ("torch", "bench.running.job", "bench.running.grid", "bench.data")
LATER = (
    "torch._dynamo",  # an optimiser's first step imports it
    "numpy", "PIL.PngImagePlugin", "safetensors.torch", "sklearn.mixture",
)  # fmt: skip
PRELOAD = (*FIRST, *LATER)
RETURNED = 85


class Server:
    """The fork server. It imports the modules `ahead` while there is nothing else to do, and the rest before a job."""

    def __init__(self, orders: int, answers: int, ahead: Iterable[str] = ()) -> None:
        self.orders, self.answers, self.ahead = orders, answers, list(ahead)
        self.children: dict[int, int] = {}  # pid: number of its order
        self.wake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):  # the supervisor handles them
            signal.signal(number, signal.SIG_IGN)

    def serve(self) -> None:
        """Serve until the supervisor's end of the pipe is closed."""
        buffer = b""
        while True:
            ready, _, _ = select.select([self.orders, self.wake], [], [], 0 if self.ahead else None)
            if self.wake in ready:
                os.read(self.wake, 4096)
                self._reap()
            if self.orders in ready:
                chunk = os.read(self.orders, 65536)
                if not chunk:
                    break
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            if not ready:
                self._preload([self.ahead.pop(0)])
        for pid in self.children:
            send(pid, signal.SIGKILL)

    def _obey(self, order: dict[str, Any]) -> None:
        if "signal" in order:
            for pid in [pid for pid, number in self.children.items() if number == order["to"]]:
                send(pid, order["signal"])
            return
        if "call" not in order:
            self._preload([*self.ahead, *order.get("preload", ())])
            self.ahead = []
        if "preload" not in order:
            pid = os.fork()
            if pid == 0:
                self._child(order)
            self.children[pid] = order["start"] if "start" in order else order["call"]

    def _preload(self, modules: Iterable[str]) -> None:
        """Import modules, and report children that end meanwhile."""
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        preload(modules)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._reap()

    def _child(self, order: dict[str, Any]) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for descriptor in (self.orders, self.answers, self.wake, self._wake):
                os.close(descriptor)
            with kept_umask(order.get("job", {}).get("umask")):
                detach(Path(order["log"]))
                if "start" in order:
                    code = work(Job.from_json(order["job"]))
                else:
                    module, _, name = order["function"].partition(":")
                    getattr(importlib.import_module(module), name)(**order["arguments"])
                    code = RETURNED
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self.children.pop(pid, None)
            with contextlib.suppress(OSError):  # the processes that it started die with it
                os.killpg(pid, signal.SIGKILL)
            ending = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
            with contextlib.suppress(BrokenPipeError):
                os.write(self.answers, (json.dumps({"exit": number, **ending}) + "\n").encode())


def preload(modules: Iterable[str]) -> None:
    """Import what children will need; a child that needs a broken module will report it."""
    for name in modules:
        with contextlib.suppress(BaseException):
            importlib.import_module(name)


def main() -> None:
    orders, answers = os.dup(0), os.dup(1)
    for descriptor in (orders, answers):
        os.set_inheritable(descriptor, False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # keeps prints of modules out of the answers
    preload(FIRST)
    installed()  # cached here for all children
    os.write(answers, b'{"ready": true}\n')
    Server(orders, answers, LATER).serve()


if __name__ == "__main__":
    main()
