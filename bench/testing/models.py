"""Functions of a model under check: its stages, abilities, parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.contracts.abilities import why_not
from bench.contracts.variant import Phase, Stage, Variant
from bench.engine.snapshot import state
from bench.testing.kit import Skipped

UNTRAINABLE = "it cannot be trained: see phases_descend"


def has(model: Variant, *abilities: type) -> bool:
    """Return whether the model has all these abilities."""
    return all(why_not(model, ability) is None for ability in abilities)


def stages_fault(stages: Any) -> tuple[str, str] | None:
    """Return the fault in the type of `stages()` and what to return instead; None if it is a tuple of stages."""
    if not isinstance(stages, tuple) or not stages or not all(isinstance(s, Stage) for s in stages):
        return f"stages() gives {describe_type(stages)}", "Return a tuple of Stage: (Stage((Phase(self.loss),)),)"
    for phases in (stage.phases for stage in stages):
        if not isinstance(phases, tuple) or not all(isinstance(p, Phase) for p in phases):
            return f"the phases of a stage are {describe_type(phases)}", "Give a tuple of Phase: (Phase(self.loss),)"
    return None


def describe_type(value: Any) -> str:
    """Return the type in words, such as "a list" or "a tuple of Phase"."""
    if value is None:
        return "None"
    if isinstance(value, tuple) and not value:
        return "an empty tuple"
    name = type(value).__name__
    inside = f" of {' and '.join(sorted({type(v).__name__ for v in value}))}" if isinstance(value, tuple) else ""
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}{inside}"


def stages_of(model: Variant) -> tuple[Stage, ...]:
    """Return the stages of a model.

    Raises:
        Skipped: they are not a tuple of stages of phases.
    """
    if stages_fault(stages := model.stages()) is not None:
        raise Skipped("it has no tuple of stages of phases: see stages_are_well_formed")
    return stages


def phases_of(model: Variant) -> list[Phase]:
    """Return the phases of all stages, in order; raise as `stages_of`."""
    return [phase for stage in stages_of(model) for phase in stage.phases]


def trains(model: Variant) -> bool:
    """Return whether any stage has a phase; without one, the model is fitted before the first step."""
    return bool(phases_of(model))


def moved(model: Variant, *phases: Phase) -> dict[str, nn.Parameter]:
    """Return the parameters that these phases move, by name."""
    members = [m for phase in phases for m in (phase.moves or (model,))]
    ids = {id(p) for m in members for p in (m.parameters() if isinstance(m, nn.Module) else (m,))}
    return {name: p for name, p in model.named_parameters() if id(p) in ids and p.requires_grad}


def copy_state(model: Variant) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, by name."""
    return {k: v.detach().clone() for k, v in state(model).items()}


def changed(model: Variant, before: Mapping[str, Tensor]) -> list[str]:
    """Return the names of parameters and buffers that differ from `before` in any bit."""
    return [k for k, now in state(model).items() if k not in before or not same(now, before[k])]


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal; tensors bit for bit, NaN equal to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and bool(a == b or a != a)


def listed(names: list[str], at_most: int = 4) -> str:
    """Return the first names and the number of the others, in one text."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
