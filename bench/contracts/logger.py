"""The contract of a logger: it hears what the runner says, and writes it down for a program that shows such things.

It reads events and nothing else, writes under the run's folder and nowhere else, and is no part of the result: one
that raises is dropped, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bench.contracts.events import Event, Listener
from bench.plugins.registry import Registry
from bench.util.errors import PluginError
from bench.util.process import make_folder, steady


class Logger(Protocol):
    """Called with every event of a run, in their order (`bench.contracts.events`), from one thread."""

    def __init__(self) -> None:
        """Before the run is planned.

        Raises:
            PluginError: what it needs isn't installed.
        """
        ...

    def __call__(self, event: Event) -> None:
        """Take note of an event. `RunStarted` says where the run's folder is: see `place`."""
        ...

    def close(self) -> None:
        """The run is over, or broken off: no event comes any more."""
        ...


def _is_logger(obj: object) -> str | None:
    missing = [name for name in ("__call__", "close") if not callable(getattr(obj, name, None))]
    return None if isinstance(obj, type) and not missing else "not a class with __call__(event) and close()"


LOGGERS: Registry[type[Logger]] = Registry("bench.loggers", "logger", _is_logger)


def place(folder: str, name: str) -> Path:
    """Where a logger's files go in a run's folder: logs/<name>, which is made."""
    path = Path(folder) / "logs" / name
    make_folder(path)
    return path


def needs(package: str, extra: str, error: ImportError) -> PluginError:
    """What a logger raises whose package isn't installed; `extra` is ours that brings it."""
    return PluginError(
        f"this logger needs {package}, which can't be imported",
        cause=f"{type(error).__name__}: {error}",
        fix=f"pip install 'vaebench[{extra}]'",
    )


@contextmanager
def logged(names: Sequence[str], listener: Listener, warn: Callable[[str], None]) -> Iterator[Listener]:
    """A listener that has events heard by `listener` and by the loggers called `names`.

    Raises:
        UnknownName, PluginError: before anything is done: a logger doesn't exist, or lacks what it needs.
    """
    guarded = [_Guarded(name, LOGGERS.load(name)(), warn) for name in dict.fromkeys(names)]

    def both(event: Event) -> None:
        listener(event)
        for logger in guarded:
            logger(event)

    try:
        yield both if guarded else listener
    finally:
        for logger in guarded:
            logger.close()


class _Guarded:
    """A logger that can't harm: dropped, with one warning, at the first exception."""

    def __init__(self, name: str, logger: Logger, warn: Callable[[str], None]) -> None:
        self.name, self.warn = name, warn
        self.logger: Logger | None = logger

    def __call__(self, event: Event) -> None:
        if self.logger is not None:
            self._safely(lambda logger: logger(event), self.logger)

    def close(self) -> None:
        if self.logger is not None:
            self._safely(lambda logger: logger.close(), self.logger)

    def _safely(self, call: Callable[[Logger], None], logger: Logger) -> None:
        try:
            steady()
            call(logger)
        except (Exception, SystemExit) as error:
            self.logger = None
            text = " ".join(str(error).split())[:300]
            self.warn(f"the logger {self.name!r} is dropped, the run goes on: {type(error).__name__}: {text}")
