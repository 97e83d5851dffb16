"""The parts that all suites share: a check, its verdicts, and the places and random states that messages name.

A suite is a function `suite(plugin, arguments) -> list[Check]` for one kind of plugin.
"""

from __future__ import annotations

import inspect
import random
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch

from bench.engine import snapshot
from bench.util.errors import BenchError

P = TypeVar("P")
S = TypeVar("S", bound="Subject[Any]")
Status = Literal["passed", "failed", "skipped", "noted"]


class Failed(AssertionError):
    """A broken promise: what is `wrong`, where to `look`, and what to change (`should`)."""

    status: ClassVar[Status] = "failed"

    def __init__(self, wrong: str, look: Callable[..., Any] | str = "", should: str = "") -> None:
        super().__init__(wrong)
        self.wrong, self.look, self.should = wrong, where(look), should

    def __str__(self) -> str:
        return "\n".join(line for line in (self.wrong, self.look, self.should) if line)


class Skipped(Exception):
    """The check does not apply to this plugin; the message is the reason."""

    status: ClassVar[Status] = "skipped"


class Noted(Exception):
    """An observation that is worth a look but is not a fault."""

    status: ClassVar[Status] = "noted"


@dataclass(frozen=True)
class Check:
    """One promise of a contract.

    Calling a check returns None if the plugin keeps the promise; otherwise it raises `Failed`, `Skipped`, `Noted`, or
    an exception of the plugin.
    """

    name: str
    what: str  #: the promise, in one sentence
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()


class Subject(Generic[P]):
    """A plugin under check with its arguments. Each kind of plugin has a subclass that caches expensive results."""

    def __init__(self, plugin: P, arguments: Mapping[str, Any]) -> None:
        self.plugin, self.arguments = plugin, arguments

    def where(self, member: str) -> str:
        """Return where a method or attribute of the plugin is defined."""
        return where(getattr(self.plugin, member, f"{getattr(self.plugin, '__name__', self.plugin)}.{member}"))


def bind(functions: Iterable[Callable[[S], None]], subject: S) -> list[Check]:
    """Return the checks that call `functions` on `subject`; the first line of a docstring states the promise."""
    return [Check(f.__name__, (f.__doc__ or "").strip().partition("\n")[0], partial(f, subject)) for f in functions]


def describe_error(error: Exception) -> str:
    """Return the error's message, with its type unless it is one of the suite's own errors."""
    return str(error) if isinstance(error, BenchError) and str(error) else f"{type(error).__name__}: {error}"


def raised_at(error: Exception, plugin: Any) -> str:
    """Return the last traceback line in the plugin's own file, or else in the file of a base class."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    frames = traceback.extract_tb(error.__traceback__)
    for home in dict.fromkeys(filter(None, map(_source, cls.__mro__))):
        if own := [frame for frame in frames if frame.filename == home]:
            return f"{Path(home).name}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}"
    return ""


def _source(cls: type) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None


def where(function: Callable[..., Any] | str) -> str:
    """Return where a function is defined, as `MyVAE.loss (mine.py:31)`; return text unchanged."""
    if isinstance(function, str):
        return function
    function = inspect.unwrap(getattr(function, "__func__", function))
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(function, "__code__", None)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else name


def seeded(seed: int) -> AbstractContextManager[None]:
    """Seed the global random generators inside, and restore them afterwards."""
    return snapshot.seeded(seed, torch.device("cpu"))


def random_states() -> dict[str, str]:
    """Return the states of torch's, numpy's and Python's global random generators, to be compared."""
    numpy, torchs = str(np.random.get_state(legacy=False)), torch.get_rng_state().numpy().tobytes().hex()
    return {"torch": torchs, "numpy": numpy, "Python's random": str(random.getstate())}


def moved_generators(before: Mapping[str, str]) -> list[str]:
    """Return the names of the global generators whose state differs from `before`."""
    return [name for name, state in random_states().items() if state != before[name]]
