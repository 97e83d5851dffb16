"""All checks of a plugin: found by name or object, run with a report, or handed to pytest."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.contracts.dataset import DATASETS
from bench.contracts.measurement import METRICS
from bench.contracts.variant import VARIANTS
from bench.data import asked_for
from bench.plugins.hyperparameters import show
from bench.plugins.unpublished import ADDRESS, hand_over
from bench.testing import datasets, metrics, variants
from bench.testing.kit import Check, Failed, Noted, Skipped, Status, describe_error, raised_at
from bench.util.errors import PluginError, UsageError

if TYPE_CHECKING:
    import pytest

Plugin = Any  # an object that a registry accepts, or the name of one
SUITES: tuple[tuple[Any, Callable[..., list[Check]]], ...] = (
    (VARIANTS, variants.suite), (DATASETS, datasets.suite), (METRICS, metrics.suite),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of one check; `message` is empty if it passed."""

    check: str
    status: Status
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks of one plugin."""

    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        return all(outcome.status != "failed" for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        return {"subject": self.subject, "ok": self.ok, "outcomes": [asdict(outcome) for outcome in self.outcomes]}


def checks_of(plugin: Plugin, **arguments: Any) -> list[Check]:
    """Return the checks of a plugin, given as an object or by name, with these hyperparameters.

    Expensive results, such as a brief training, are shared by the checks of one list.

    >>> checks_of("ae", latent_dim=2)[0].name
    'hyperparameters_are_declared'

    Raises:
        UsageError: there are no checks for this object, or a hyperparameter is unknown or out of range.
        PluginError: the entry point cannot be loaded.
    """
    return _resolve(plugin, arguments)[1]


def check(
    plugin: Plugin,
    *,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
    only: Collection[str] = (),
    **arguments: Any,
) -> Report:
    """Run all checks of a plugin, or those named in `only`, and report; `on_outcome` receives each outcome at once.

    >>> report = check("ae", only=["hyperparameters_are_declared"])
    >>> [(outcome.check, outcome.status) for outcome in report.outcomes]
    [('hyperparameters_are_declared', 'passed')]
    >>> report.ok
    True

    Raises:
        UsageError, PluginError: as for `checks_of`.
    """
    loaded, checks = _resolve(plugin, arguments)
    outcomes = []
    for one in checks:
        if not only or one.name in only:
            outcomes.append(_run(one, loaded))
            on_outcome(outcomes[-1])
    return Report(_label(plugin, arguments), tuple(outcomes))


def parametrize_with_checks(subjects: Iterable[Plugin | tuple[Plugin, Mapping[str, Any]]]) -> pytest.MarkDecorator:
    """Return `pytest.mark.parametrize("check", ...)` over all checks of these plugins.

    Each subject is a class, a name, or a pair of either with its hyperparameters.

    >>> mark = parametrize_with_checks([("ae", {"latent_dim": 2})])
    >>> mark.args[1][0].id
    'ae[latent_dim=2]-hyperparameters_are_declared'
    """
    import pytest

    def under_pytest(one: Check) -> None:
        try:
            one()
        except (Skipped, Noted) as reason:
            pytest.skip(str(reason))

    cases = []
    for subject in subjects:
        plugin, arguments = subject if isinstance(subject, tuple) else (subject, {})
        label = _label(plugin, arguments)
        for one in checks_of(plugin, **arguments):
            cases.append(pytest.param(partial(under_pytest, one), id=f"{label}-{one.name}"))
    return pytest.mark.parametrize("check", cases)


def _resolve(plugin: Plugin, arguments: Mapping[str, Any]) -> tuple[Any, list[Check]]:
    """Return the loaded plugin and its checks; options in a name, as in folder:PATH, are added to `arguments`."""
    hand_over(value for value in (plugin, *arguments.values()) if isinstance(value, str))
    for registry, suite in SUITES:
        if (loaded := _load(registry, plugin)) is not None:
            return loaded, suite(loaded, arguments)
    if isinstance(plugin, str):
        if ":" in plugin and ADDRESS.fullmatch(plugin) is None:
            cls, options = asked_for(plugin)
            return cls, datasets.suite(cls, {**options, **arguments})
        VARIANTS.load(plugin)  # raises, with the closest names
    raise UsageError(
        f"{plugin!r} is no variant, dataset or metric", fix="Give its class, or the name of an installed plugin."
    )


def _load(registry: Any, plugin: Plugin) -> Any:
    """Return the plugin as `registry` loads it; None if it is of another kind."""
    if not isinstance(plugin, str):
        return plugin if registry.check(plugin) is None else None
    try:
        return registry.load(plugin) if plugin in registry else None
    except PluginError:
        if ADDRESS.fullmatch(plugin) is None:
            raise
        return None  # an object in a file, which may be of another kind


def _label(plugin: Plugin, arguments: Mapping[str, Any]) -> str:
    name = plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__name__)
    given = ",".join(f"{k}={show(v)}" for k, v in arguments.items())
    return f"{name}[{given}]" if given else name


def _run(one: Check, plugin: Any) -> Outcome:
    began = time.perf_counter()
    status: Status = "passed"
    message = ""
    printed = io.TextIOWrapper(io.BytesIO())  # what the plugin prints would spoil the report
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            one()
    except (Skipped, Noted, Failed) as verdict:
        status, message = verdict.status, str(verdict)
    except Exception as error:
        status, message = "failed", "\n".join(filter(None, (describe_error(error), raised_at(error, plugin))))
    return Outcome(one.name, status, message, time.perf_counter() - began)
