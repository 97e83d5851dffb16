"""The suite of a variant: one check for each promise of `bench.contracts.variant` and `bench.contracts.abilities`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contracts.variant import Variant
from bench.testing import building, nats, scoring, speed, training
from bench.testing.kit import Check, bind
from bench.testing.subject import VariantSubject

CHECKS = (*building.CHECKS, *training.CHECKS, *nats.CHECKS, *scoring.CHECKS, *speed.CHECKS)


def suite(cls: type[Variant], arguments: Mapping[str, Any]) -> list[Check]:
    """Return all checks of a variant with these hyperparameters; they share one brief training."""
    return bind(CHECKS, VariantSubject(cls, arguments))
