"""The contract of a logger, which writes the events of a run for another program, such as TensorBoard.

A logger reads events only, writes only under the run's folder, and is no part of the result: a logger that raises is
dropped with a warning, and the run continues.
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
    """A listener that is called with every event of a run (`bench.contracts.events`), in order, from one thread."""

    def __init__(self) -> None:
        """Get ready, before the run is planned.

        Raises:
            PluginError: a package that it needs is not installed.
        """
        ...

    def __call__(self, event: Event) -> None:
        """Record an event. `RunStarted` names the run's folder; see `place`."""
        ...

    def close(self) -> None:
        """Finish: the run is over or interrupted, and no more events come."""
        ...


def _is_logger(obj: object) -> str | None:
    able = all(callable(getattr(obj, name, None)) for name in ("__call__", "close"))
    return None if isinstance(obj, type) and able else "not a class with __call__(event) and close()"


LOGGERS: Registry[type[Logger]] = Registry("bench.loggers", "logger", _is_logger)


def place(folder: str, name: str) -> Path:
    """Create and return the folder logs/<name> in a run's folder, for a logger's files."""
    path = Path(folder) / "logs" / name
    make_folder(path)
    return path


def needs(package: str, extra: str, error: ImportError) -> PluginError:
    """Return the error for a logger whose `package` is not installed; the suite's `extra` installs it."""
    return PluginError(
        f"this logger needs {package}, which can't be imported",
        cause=f"{type(error).__name__}: {error}",
        fix=f"pip install 'vaebench[{extra}]'",
    )


@contextmanager
def logged(names: Sequence[str], listener: Listener, warn: Callable[[str], None]) -> Iterator[Listener]:
    """Yield a listener that passes each event to `listener` and to the loggers called `names`.

    Raises:
        UnknownName, PluginError: a logger does not exist, or lacks a package; raised before any event.
    """
    loggers = {name: LOGGERS.load(name)() for name in dict.fromkeys(names)}

    def call_all(method: Callable[[Logger], None]) -> None:
        for name, logger in list(loggers.items()):
            try:
                steady()
                method(logger)
            except (Exception, SystemExit) as error:
                del loggers[name]
                text = " ".join(str(error).split())[:300]
                warn(f"the logger {name!r} is dropped, the run goes on: {type(error).__name__}: {text}")

    def hear(event: Event) -> None:
        listener(event)
        call_all(lambda logger: logger(event))

    try:
        yield hear if loggers else listener
    finally:
        call_all(lambda logger: logger.close())
