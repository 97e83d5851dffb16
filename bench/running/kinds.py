"""The kinds of plugins that a run may use, and the registry of each."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bench.plugins.registry import Registry

KINDS = {
    "variant": ("bench.variants", "bench.contracts.variant:VARIANTS"),
    "dataset": ("bench.datasets", "bench.contracts.dataset:DATASETS"),
    "metric": ("bench.metrics", "bench.contracts.measurement:METRICS"),
    "backbone": ("bench.backbones", "bench.blocks.backbone:BACKBONES"),
    "executor": ("bench.executors", "bench.contracts.executor:EXECUTORS"),
    "logger": ("bench.loggers", "bench.contracts.logger:LOGGERS"),
}
"""The entry-point group of a kind, and the registry that its contract defines."""


def registry_of(kind: str) -> Registry[Any]:
    """Return the registry of a kind; import the module of its contract."""
    module, _, attribute = KINDS[kind][1].partition(":")
    registry: Registry[Any] = getattr(import_module(module), attribute)
    return registry
