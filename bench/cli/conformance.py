"""`bench check`: run the conformance checks of a plugin, and print a line for each check when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench import data
from bench.cli import catalogue
from bench.plugins import unpublished
from bench.plugins.hyperparameters import check as checked
from bench.running.kinds import registry_of
from bench.show import console
from bench.testing import Outcome, Report, check, checks_of
from bench.util.errors import UnknownName, UsageError

MARKS = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("–", "dim"), "noted": ("·", "yellow")}


def run(name: str, given: tuple[str, ...], only: tuple[str, ...], *, quiet: bool = False) -> list[Report]:
    """Check all plugins called `name`, and print the outcomes.

    Args:
        given: hyperparameters or options, as NAME=VALUE.
        only: names of the checks to run; all by default.

    Raises:
        UsageError: no such plugin or check, no checks for this kind of plugin, or a wrong hyperparameter.
        PluginError: the plugin can't be loaded.
    """
    unpublished.hand_over([name, *(text.partition("=")[2].strip() for text in given)])
    out, reports = console.out(), []
    for kind, plugin, arguments in _subjects(name, given):
        known = [c.name for c in checks_of(plugin, **arguments)]
        for wanted in only:
            if wanted not in known:
                raise UnknownName(f"check of a {kind}", wanted, known)
        if not quiet:
            out.print(Text.assemble((name, "bold"), f"  {kind}"))
        say = partial(_print, out=out, printed=set())
        report = check(plugin, only=only, on_outcome=(lambda _: None) if quiet else say, **arguments)
        if not quiet:
            out.print(Text(f"{name}: {_summary(report)}"))
        reports.append(report)
    return reports


def _subjects(name: str, given: tuple[str, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    pairs = [text.partition("=") for text in given]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise UsageError(f"--set {wrong[0]!r} is not of the form NAME=VALUE", fix="For example: --set beta=10")
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    if ":" in name and name.partition(":")[0] in registry_of("dataset"):
        homes = [("dataset", registry_of("dataset"))]  # folder:PATH
    else:
        homes = catalogue.homes(name)
    checkable = [(kind, registry) for kind, registry in homes if kind in ("variant", "dataset", "metric")]
    if not checkable:
        raise UsageError(
            f"{name!r} is a {homes[0][0]}: bench check has no checks for this kind of plugin",
            fix="Check a variant, a dataset or a metric. A backbone is checked with a variant: --set backbone=NAME.",
        )
    for kind, registry in checkable:
        if kind == "dataset":
            cls, arguments = data.asked_for(name)
            yield kind, cls, arguments | checked(name, cls, settings)
        else:
            obj: Any = registry.load(name)
            yield kind, obj, {} if kind == "metric" else checked(name, obj, settings)


def _print(outcome: Outcome, out: Console, printed: set[str]) -> None:
    """Print a check's mark, its name and, unless an earlier check printed the same one, its message."""
    mark, style = MARKS[outcome.status]
    out.print(Text.assemble((f" {mark} ", style), (outcome.check, "" if outcome.status != "skipped" else "dim")))
    if outcome.message and outcome.message not in printed:
        out.print(Padding(Text(outcome.message, "red" if outcome.status == "failed" else "dim"), (0, 0, 0, 5)))
        printed.add(outcome.message)


def _summary(report: Report) -> str:
    counts = {status: sum(o.status == status for o in report.outcomes) for status in MARKS}
    words = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    seconds = sum(o.seconds for o in report.outcomes)
    return f"{words}, in {seconds:.0f} s"
