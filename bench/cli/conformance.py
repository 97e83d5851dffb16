"""`bench check`: a plugin's conformance, a line for each check as it ends."""

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
    """Check all plugins called `name`, and print what comes of it.

    Raises:
        UsageError: there is none, there are no checks of its kind, or a hyperparameter doesn't fit.
        PluginError: it can't be loaded.
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
        say = partial(_print, out=out, told=set())
        report = check(plugin, only=only, on_outcome=(lambda _: None) if quiet else say, **arguments)
        if not quiet:
            out.print(Text(f"{name}: {_sum(report)}"))
        reports.append(report)
    return reports


def _subjects(name: str, given: tuple[str, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    pairs = [text.partition("=") for text in given]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise UsageError(f"--set {wrong[0]!r} isn't NAME=VALUE", fix="For example: --set beta=10")
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    if ":" in name and name.partition(":")[0] in registry_of("dataset"):
        found = [("dataset", registry_of("dataset"))]  # folder:PATH
    else:
        found = [(kind, registry) for kind, registry in catalogue.homes(name) if kind != "backbone"]
    if not found:
        raise UsageError(f"{name!r} is a backbone, and there are no checks of those", fix="Check a variant.")
    for kind, registry in found:
        if kind == "dataset":
            cls, arguments = data.asked_for(name)
            yield kind, cls, arguments | checked(name, cls, settings)
        else:
            obj: Any = registry.load(name)
            yield kind, obj, {} if kind == "metric" else checked(name, obj, settings)


def _print(outcome: Outcome, out: Console, told: set[str]) -> None:
    """A check's name, and what is to be said of it; what was said before isn't said again."""
    mark, style = MARKS[outcome.status]
    out.print(Text.assemble((f" {mark} ", style), (outcome.check, "" if outcome.status != "skipped" else "dim")))
    if outcome.message and outcome.message not in told:
        out.print(Padding(Text(outcome.message, "red" if outcome.status == "failed" else "dim"), (0, 0, 0, 5)))
        told.add(outcome.message)


def _sum(report: Report) -> str:
    counts = {status: sum(o.status == status for o in report.outcomes) for status in MARKS}
    words = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    seconds = sum(o.seconds for o in report.outcomes)
    return f"{words}, in {seconds:.0f} s"
