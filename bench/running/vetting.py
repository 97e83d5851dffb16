"""Tries plugins out in processes of their own: an import, or a constructor, may end its process, or never end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from bench.contracts.variant import Spec
from bench.plugins.failures import note
from bench.plugins.registry import Registry
from bench.plugins.unpublished import addressed
from bench.running.executors.local import Local
from bench.running.executors.server import RETURNED
from bench.running.grid import Config
from bench.running.kinds import KINDS, registry_of
from bench.running.supervisor import POLL, how

IMPORT = 120.0  # seconds that a plugin may take to be imported

Named = tuple[str, str]  # kind and name
Model = tuple[Config, Spec]
T = TypeVar("T")


def vet(
    plugins: Sequence[Named], local: Local, seconds: float = IMPORT, *, one_by_one: bool = False
) -> dict[Named, str]:
    """The plugins whose import harms its process, and how; noted for `bench list`. One that raises isn't among them.

    Args:
        one_by_one: a process for each at once, rather than one for all that is looked into only if it ends badly.
    """

    def begin(some: Sequence[Named]) -> int:
        named = [[kind, addressed(name)] for kind, name in some]
        return local.call("bench.running.vetting:load", {"plugins": named}, Path(os.devnull))

    bad = _harmful(plugins, begin, local, seconds, "imported", one_by_one=one_by_one)
    for (kind, name), reason in bad.items():
        registry = Registry[Any](KINDS[kind][0], kind)
        if (entry := registry.entry(name)).installed:
            note(registry.group, entry, f"it {reason}")
    return bad


def try_out(models: Sequence[Model], local: Local, seconds: float = IMPORT) -> dict[Model, str]:
    """The models whose making harms its process, and how. One that raises isn't among them."""

    def begin(some: Sequence[Model]) -> int:
        plain = [[addressed(c.name), _plain(c), asdict(spec)] for c, spec in some]
        return local.call("bench.running.vetting:build", {"models": plain}, Path(os.devnull))

    return _harmful(models, begin, local, seconds, "built")


def _plain(config: Config) -> dict[str, Any]:
    return {name: addressed(value) if isinstance(value, str) else value for name, value in config.given}


def _harmful(
    things: Sequence[T],
    begin: Callable[[Sequence[T]], int],
    local: Local,
    seconds: float,
    done: str,
    *,
    one_by_one: bool = False,
) -> dict[T, str]:
    """Of what children are begun with, what ends its process or takes too long, and how."""
    if not things or (not one_by_one and ended(local, {0: begin(things)}, seconds, done)[0] == ""):
        return {}
    found: dict[T, str] = {}
    cores = os.cpu_count() or 1
    for few in (things[i : i + cores] for i in range(0, len(things), cores)):  # no more: the clock is on
        found |= ended(local, {thing: begin([thing]) for thing in few}, seconds, done)
    return {thing: reason for thing, reason in found.items() if reason}


def load(plugins: Sequence[Named]) -> None:
    """What the child does: does the process survive it? An exception is no fault here; it's noted, or seen later."""
    from bench.util.errors import BenchError

    for kind, name in plugins:
        registry = registry_of(kind)
        try:
            registry.load(registry.take(name))
        except BenchError:
            continue


def build(models: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """The same for models: the variant, its hyperparameters and what it's built for."""
    from bench.contracts.variant import VARIANTS
    from bench.plugins.hyperparameters import check

    for address, given, fields in models:
        with suppress(Exception):
            name, spec = VARIANTS.take(address), Spec(**{**fields, "shape": tuple(fields["shape"])})
            config = Config(name, tuple(check(name, VARIANTS.load(name), dict(given)).items()))
            config.stages(config.build(spec), spec)


def ended(local: Local, handles: Mapping[Any, int], seconds: float = IMPORT, done: str = "imported") -> dict[Any, str]:
    """How calls ended: '' is well. The clock starts when the fork server is up, and stands still while we do."""
    spent, last = 0.0, time.monotonic()
    left, ends = dict(handles), {}
    while left:
        spent, last = spent + min(time.monotonic() - last, 5 * POLL) * local.ready, time.monotonic()
        for key, handle in list(left.items()):
            if (exit := local.poll(handle)) is not None:
                del left[key]
                ends[key] = "" if exit.code == RETURNED else f"ends its process by {how(exit)} when it's {done}"
            elif spent > seconds:
                local.stop(handle, signal.SIGKILL)
                del left[key]
                ends[key] = f"isn't {done} within {seconds:g} s"
        time.sleep(POLL)
    return ends
