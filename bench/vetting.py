"""Loads plugins in processes of their own: an import may bring its process down, or never end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.catalogue import KINDS, registry_of
from bench.executors.local import Local
from bench.failures import note
from bench.registry import Registry
from bench.supervisor import POLL, how
from bench.unpublished import addressed

IMPORT = 120.0  # seconds that a plugin may take to be imported

Named = tuple[str, str]  # kind and name


def vet(
    plugins: Sequence[Named], local: Local, seconds: float = IMPORT, *, one_by_one: bool = False
) -> dict[Named, str]:
    """The plugins whose import harms its process, and how; noted for `bench list`. One that raises isn't among them.

    Args:
        one_by_one: a process for each at once, rather than one for all that is looked into only if it ends badly.
    """
    if not plugins or (not one_by_one and ended(local, {0: _load(local, plugins)}, seconds)[0] == ""):
        return {}
    found: dict[Named, str] = {}
    cores = os.cpu_count() or 1
    for few in (plugins[i : i + cores] for i in range(0, len(plugins), cores)):  # no more: the clock is on
        found |= ended(local, {plugin: _load(local, [plugin]) for plugin in few}, seconds)
    bad = {plugin: reason for plugin, reason in found.items() if reason}
    for (kind, name), reason in bad.items():
        registry = Registry[Any](KINDS[kind][0], kind)
        if (entry := registry.entry(name)).installed:
            note(registry.group, entry, f"it {reason}")
    return bad


def _load(local: Local, plugins: Sequence[Named]) -> int:
    named = [[kind, addressed(name)] for kind, name in plugins]
    return local.call("bench.vetting:load", {"plugins": named}, Path(os.devnull))


def load(plugins: Sequence[Named]) -> None:
    """What the child does: does the process survive it? An exception is no fault here; it's noted, or seen later."""
    from bench.errors import BenchError

    for kind, name in plugins:
        registry = registry_of(kind)
        try:
            registry.load(registry.take(name))
        except BenchError:
            continue


def ended(local: Local, handles: Mapping[Any, int], seconds: float = IMPORT) -> dict[Any, str]:
    """How calls ended: '' is well. The clock starts when the fork server is up, and stands still while we do."""
    spent, last = 0.0, time.monotonic()
    left, ends = dict(handles), {}
    while left:
        spent, last = spent + min(time.monotonic() - last, 5 * POLL) * local.ready, time.monotonic()
        for key, handle in list(left.items()):
            if (exit := local.poll(handle)) is not None:
                del left[key]
                ends[key] = "" if exit.code == 0 else f"ends its process by {how(exit)} when it's imported"
            elif spent > seconds:
                local.stop(handle, signal.SIGKILL)
                del left[key]
                ends[key] = f"isn't imported within {seconds:g} s"
        time.sleep(POLL)
    return ends
