"""The suite of a variant: one check for each promise of `bench.contracts.variant` and `bench.contracts.abilities`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bench.contracts.variant import Variant
from bench.testing import building, nats, scoring, speed, training
from bench.testing.kit import Check
from bench.testing.subject import Subject

CHECKS = (*building.CHECKS, *training.CHECKS, *nats.CHECKS, *scoring.CHECKS, *speed.CHECKS)


def suite(cls: type[Variant], arguments: Mapping[str, Any]) -> list[Check]:
    """All checks of a variant with these hyperparameters; they share one brief training."""
    subject = Subject(cls, arguments)
    return [Check(c.__name__, (c.__doc__ or "").strip().partition("\n")[0], partial(c, subject)) for c in CHECKS]
