"""Plugins tried out in child processes: an import or a constructor may end its process, or never return."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.contracts.variant import Spec
from bench.plugins.failures import note
from bench.plugins.registry import Registry
from bench.plugins.unpublished import addressed
from bench.running.executors.local import Local
from bench.running.executors.server import RETURNED
from bench.running.grid import Config, Model
from bench.running.kinds import KINDS, registry_of
from bench.running.supervisor import POLL, describe_exit

IMPORT = 120.0  # seconds that a plugin may take to be imported

Named = tuple[str, str]  # kind and name
T = TypeVar("T")


def vet(
    plugins: Sequence[Named], local: Local, seconds: float = IMPORT, *, one_by_one: bool = False
) -> dict[Named, str]:
    """Return the plugins whose import ends or hangs its process, with how; note them for `bench list`.

    A plugin whose import raises is not among them.

    Args:
        one_by_one: start a process for each at once; else one for all, and more only if that one ends badly.
    """

    def begin(some: Sequence[Named]) -> int:
        named = [[kind, addressed(name)] for kind, name in some]
        return local.call("bench.running.vetting:load", {"plugins": named}, Path(os.devnull))

    harmful = _harmful(plugins, begin, partial(wait_all, local, seconds=seconds, done="imported"), one_by_one)
    for (kind, name), reason in harmful.items():
        registry = Registry[Any](KINDS[kind][0], kind)
        if (entry := registry.entry(name)).installed:
            note(registry.group, entry, f"it {reason}")
    return harmful


def try_out(models: Sequence[Model], local: Local, seconds: float = IMPORT) -> dict[Model, str]:
    """Return the models whose constructor ends or hangs its process, with how.

    A model whose constructor raises is not among them.
    """

    def address(value: Any) -> Any:
        return addressed(value) if isinstance(value, str) else value

    def begin(some: Sequence[Model]) -> int:
        plain = [[address(c.name), {name: address(v) for name, v in c.given}, asdict(spec)] for c, spec in some]
        return local.call("bench.running.vetting:build", {"models": plain}, Path(os.devnull))

    return _harmful(models, begin, partial(wait_all, local, seconds=seconds, done="built"))


def _harmful(
    things: Sequence[T],
    begin: Callable[[Sequence[T]], int],
    wait: Callable[[Mapping[T, int]], dict[T, str]],
    one_by_one: bool = False,
) -> dict[T, str]:
    """Return the things that harm the child that `begin` starts with them, with how; `wait` returns '' for success."""
    if not things or (not one_by_one and not any(wait({things[0]: begin(things)}).values())):
        return {}
    ends: dict[T, str] = {}
    cores = os.cpu_count() or 1
    for few in (things[i : i + cores] for i in range(0, len(things), cores)):  # more would wait for each other
        ends |= wait({thing: begin([thing]) for thing in few})
    return {thing: reason for thing, reason in ends.items() if reason}


def load(plugins: Sequence[Named]) -> None:
    """Load plugins, in a child. An exception harms no process: it is reported when the plugin is used."""
    from bench.util.errors import BenchError

    for kind, name in plugins:
        registry = registry_of(kind)
        with suppress(BenchError):
            registry.load(registry.take(name))


def build(models: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Build models, in a child, from each one's variant, hyperparameters and spec. Exceptions are ignored."""
    from bench.contracts.variant import VARIANTS

    for address, given, fields in models:
        with suppress(Exception):
            spec = Spec(**{**fields, "shape": tuple(fields["shape"])})
            config = Config.of(VARIANTS.take(address), given)
            config.stages(config.build(spec), spec)


def wait_all(local: Local, handles: Mapping[T, int], seconds: float = IMPORT, done: str = "imported") -> dict[T, str]:
    """Wait for calls in children; return the reason of failure of each, '' for success.

    The timeout starts when the fork server is ready, and does not count the time in which this process is stopped.
    """
    spent, last = 0.0, time.monotonic()
    left, reasons = dict(handles), dict[T, str]()
    while left:
        spent, last = spent + min(time.monotonic() - last, 5 * POLL) * local.ready, time.monotonic()
        for key, handle in list(left.items()):
            if (exit := local.poll(handle)) is not None:
                del left[key]
                ended = f"ends its process by {describe_exit(exit)} when it's {done}"
                reasons[key] = "" if exit.code == RETURNED else ended
            elif spent > seconds:
                local.stop(handle, signal.SIGKILL)
                del left[key]
                reasons[key] = f"isn't {done} within {seconds:g} s"
        time.sleep(POLL)
    return reasons
