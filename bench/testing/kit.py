"""What every kit shares: a check of a plugin, what came of it, a report of them all, and pytest's way in.

A suite is a module with `suite(plugin, arguments) -> list[Check]`; `KINDS` says whose it is.
"""

from __future__ import annotations

import inspect
import io
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.data import asked_for
from bench.plugins.hyperparameters import show
from bench.plugins.unpublished import ADDRESS, hand_over
from bench.util.errors import BenchError, PluginError, UsageError

if TYPE_CHECKING:
    import pytest

KINDS = (
    ("bench.contracts.variant:VARIANTS", "bench.testing.variants"),
    ("bench.contracts.dataset:DATASETS", "bench.testing.datasets"),
    ("bench.contracts.measurement:METRICS", "bench.testing.metrics"),
)
"""The registry that knows a kind of plugin, and the suite that checks it."""


class Failed(AssertionError):
    """What was `wrong`, where to `look`, and how it `should` be."""

    def __init__(self, wrong: str, look: str = "", should: str = "") -> None:
        super().__init__(wrong)
        self.wrong, self.look, self.should = wrong, look, should

    def __str__(self) -> str:
        return "\n".join(line for line in (self.wrong, self.look, self.should) if line)


class Skipped(Exception):
    """The check has nothing to check here, and why."""


class Noted(Exception):
    """Worth knowing, and no fault."""


@dataclass(frozen=True)
class Check:
    """One promise of a contract.

    Calling it raises `Failed`, `Skipped` or `Noted`, or whatever the plugin raises; it returns if the promise is kept.
    """

    name: str
    what: str  #: the promise, in one sentence
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()


Status = Literal["passed", "failed", "skipped", "noted"]


@dataclass(frozen=True)
class Outcome:
    """What came of one check; `message` is empty where it passed."""

    check: str
    status: Status
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What came of all checks of one plugin."""

    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        return all(outcome.status != "failed" for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        return {"subject": self.subject, "ok": self.ok, "outcomes": [asdict(outcome) for outcome in self.outcomes]}


Plugin = Any  # an object that a registry knows, or its name
Subject = Plugin | tuple[Plugin, Mapping[str, Any]]


def checks_of(plugin: Plugin, **arguments: Any) -> list[Check]:
    """The checks of a plugin, given itself or by its name, with these hyperparameters. They share what is expensive.

    Raises:
        UsageError: nothing that there are checks for, or a hyperparameter that it can't take.
        PluginError: its entry point can't be loaded.
    """
    loaded, suite, given = _resolve(plugin)
    hand_over(value for value in arguments.values() if isinstance(value, str))
    checks: list[Check] = import_module(suite).suite(loaded, {**given, **arguments})
    return checks


def check(
    plugin: Plugin,
    *,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
    only: Collection[str] = (),
    **arguments: Any,
) -> Report:
    """Run all checks of a plugin, or those named; `on_outcome` hears of each as it ends.

    Raises:
        UsageError, PluginError: as `checks_of`.
    """
    loaded, _, _ = _resolve(plugin)
    outcomes = []
    for one in checks_of(plugin, **arguments):
        if only and one.name not in only:
            continue
        outcomes.append(_outcome(one, loaded))
        on_outcome(outcomes[-1])
    return Report(_label(plugin, arguments), tuple(outcomes))


def parametrize_with_checks(subjects: Iterable[Subject]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize("check", ...)` over all checks of these plugins, each a class, a name, or a pair of
    one of them with its hyperparameters. The ids are like `MyVAE[beta=10]-kl_is_not_negative`.
    """
    import pytest

    def under_pytest(one: Check) -> Callable[[], None]:
        def call() -> None:
            try:
                one()
            except (Skipped, Noted) as reason:
                pytest.skip(str(reason))

        return call

    cases = []
    for subject in subjects:
        plugin, arguments = subject if isinstance(subject, tuple) else (subject, {})
        label = _label(plugin, arguments)
        cases += [pytest.param(under_pytest(c), id=f"{label}-{c.name}") for c in checks_of(plugin, **arguments)]
    return pytest.mark.parametrize("check", cases)


def _resolve(plugin: Plugin) -> tuple[Any, str, dict[str, Any]]:
    """The plugin itself, the suite of its kind, and the arguments that its name had, as in folder:PATH."""
    if isinstance(plugin, str):
        hand_over([plugin])
    registries = [getattr(import_module(home.partition(":")[0]), home.partition(":")[2]) for home, _ in KINDS]
    for registry, (_, suite) in zip(registries, KINDS, strict=True):
        if isinstance(plugin, str):
            if plugin in registry and (obj := _loaded(registry, plugin)) is not None:
                return obj, suite, {}
        elif registry.check(plugin) is None:
            return plugin, suite, {}
    if isinstance(plugin, str):
        if ":" in plugin and ADDRESS.fullmatch(plugin) is None:
            return (found := asked_for(plugin))[0], "bench.testing.datasets", found[1]
        registries[0].load(plugin)  # raises, with the closest names
    kinds = " or ".join(registry.kind for registry in registries)
    raise UsageError(f"{plugin!r} is no {kinds}", fix="Give its class, or the name that it's installed by.")


def _loaded(registry: Any, name: str) -> Any:
    """What is called so, unless it's in a file and of another kind."""
    try:
        return registry.load(name)
    except PluginError:
        if ADDRESS.fullmatch(name) is None:
            raise
        return None


def _label(plugin: Plugin, arguments: Mapping[str, Any]) -> str:
    name = plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__name__)
    given = ",".join(f"{k}={show(v)}" for k, v in arguments.items())
    return f"{name}[{given}]" if given else name


def _outcome(one: Check, plugin: Any) -> Outcome:
    began = time.perf_counter()
    status: Status = "passed"
    message = ""
    printed = io.TextIOWrapper(io.BytesIO())  # what the plugin prints would spoil the report
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            one()
    except Skipped as reason:
        status, message = "skipped", str(reason)
    except Noted as reason:
        status, message = "noted", str(reason)
    except Failed as failure:
        status, message = "failed", str(failure)
    except Exception as error:
        status, message = "failed", "\n".join(filter(None, (said(error), raised_at(error, plugin))))
    return Outcome(one.name, status, message, time.perf_counter() - began)


def said(error: Exception) -> str:
    """What an error says, with its kind where it isn't one of the suite's own."""
    return str(error) if isinstance(error, BenchError) and str(error) else f"{type(error).__name__}: {error}"


def raised_at(error: Exception, plugin: Any) -> str:
    """The last line of the plugin's own file on the way to where it was raised; of its bases' files, if in none."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    frames = traceback.extract_tb(error.__traceback__)
    for home in dict.fromkeys(filter(None, map(source, cls.__mro__))):
        if (own := [frame for frame in frames if frame.filename == home]) != []:
            return f"{Path(home).name}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}"
    return ""


def source(cls: type) -> str | None:
    """The file that a class is written in, if any."""
    try:
        return inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None


def where(function: Callable[..., Any] | str) -> str:
    """Where a function is written, as `MyVAE.loss (mine.py:31)`; a text is its own answer."""
    if isinstance(function, str):
        return function
    function = inspect.unwrap(getattr(function, "__func__", function))
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(function, "__code__", None)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else name
