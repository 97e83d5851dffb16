"""A variant under check: built at several sizes and trained briefly, with its losses watched inside the real trainer.

Everything is seeded, so the verdict of a check repeats. Expensive results are computed once for each subject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor

from bench.contracts.protocol import Training
from bench.contracts.variant import Batch, Loss, Phase, Spec, Variant
from bench.engine.snapshot import fill
from bench.engine.trainer import stage_steps, train
from bench.plugins import hyperparameters
from bench.running.grid import fresh
from bench.testing.digits import SPECS, N, batch_of, digits, draws
from bench.testing.kit import Skipped, Subject
from bench.testing.models import UNTRAINABLE, copy_state, stages_of, trains
from bench.util.errors import Unsuitable


@dataclass(frozen=True)
class Visit:
    """One call of a phase's loss by the trainer: the stage is running and modules are in their modes."""

    place: tuple[int, int]  #: indices of the stage and of the phase in it
    phase: Phase
    batch: Batch

    @property
    def loss(self) -> Callable[[Batch], Loss]:
        return self.phase.loss

    @property
    def name(self) -> str:
        return str(getattr(self.loss, "__name__", f"phase {self.place[1] + 1} of stage {self.place[0] + 1}"))


@dataclass
class Course:
    """A finished brief training, with each phase's loss on the same images and noise before and after its stage."""

    model: Variant
    state: dict[str, Tensor]
    losses: list[tuple[Visit, Tensor, Tensor]]


class VariantSubject(Subject[type[Variant]]):
    """A variant with hyperparameters.

    Raises:
        UsageError: a hyperparameter is unknown or out of range.
    """

    def __init__(self, cls: type[Variant], arguments: Mapping[str, Any]) -> None:
        super().__init__(cls, hyperparameters.check(cls.__name__, cls, arguments))

    def build(self, spec: Spec | None = None, seed: int = 0, **other: Any) -> Variant:
        """Return a new model whose weights depend on `seed` alone; raise what its constructor raises."""
        return fresh(self.plugin, spec or self.spec, seed, **{**self.arguments, **other})

    @cached_property
    def spec(self) -> Spec:
        """The first spec that the variant accepts."""
        for spec in SPECS:
            try:
                self.build(spec)
            except Unsuitable:
                continue
            except Exception as error:
                raise Skipped(f"it cannot be built ({type(error).__name__}): see builds_at_several_sizes") from None
            return spec
        raise Skipped("it cannot be built at any size: see builds_at_several_sizes")

    @property
    def batch(self) -> Batch:
        return batch_of(self.spec)

    def where(self, member: str) -> str:
        """As the base class does; for `stages`, return the place of `loss` if the default stages are used."""
        return super().where("loss" if member == "stages" and self.plugin.stages is Variant.stages else member)

    @property
    def own_classes(self) -> list[type]:
        """The class and those of its bases that belong to neither the suite, torch nor Python."""
        return [c for c in self.plugin.__mro__ if not _of_a_library(c)]

    @cached_property
    def course(self) -> Course | Exception:
        """A training of about 60 steps a stage and at most about 180 in all, or the exception that ended it."""
        model = self.build()
        calls: Counter[tuple[int, int]] = Counter()
        before: dict[tuple[int, int], Tensor] = {}
        losses = []
        try:
            multiples = sum(stage.steps for stage in stages_of(model) if stage.phases)
            training = Training(max(1, min(60, round(180 / max(multiples, 1)))), N)
            steps = stage_steps(model.stages(), training.steps)

            def watch(visit: Visit) -> Loss:
                calls[visit.place] += 1
                if calls[visit.place] == 1:
                    before[visit.place] = self._losses(model, visit)
                elif calls[visit.place] == steps[visit.place[0]] * visit.phase.repeat:
                    losses.append((visit, before[visit.place], self._losses(model, visit)))
                return visit.loss(visit.batch)

            train_watched(model, self.spec, training, watch)
        except Exception as error:
            return error
        return Course(model.eval(), copy_state(model), losses)

    def _losses(self, model: Variant, visit: Visit) -> Tensor:
        """Return the phase's loss after any warm-up under 10 seeds, leaving the model as it was."""
        before = copy_state(model)

        def draw() -> dict[str, Tensor]:
            result = visit.loss(self.batch)
            return {"": result[0] if isinstance(result, tuple) else torch.zeros(())}  # the trainer reports the fault

        losses = draws(draw, 10)[""]
        fill(model, before)
        return losses

    @property
    def trained(self) -> Variant:
        """The model after the brief training, in eval mode, always with the same bits.

        Raises:
            Skipped: it cannot be trained.
        """
        if isinstance(self.course, Skipped):
            raise self.course
        if isinstance(self.course, Exception):
            raise Skipped(UNTRAINABLE)
        fill(self.course.model, self.course.state)
        return self.course.model.eval()

    def visit(self, model: Variant, look: Callable[[Visit], None]) -> None:
        """Train `model` for one step of each stage and call `look` at the first turn of each phase."""
        seen: set[tuple[int, int]] = set()

        def watch(visit: Visit) -> Loss:
            if visit.place not in seen:
                seen.add(visit.place)
                before = copy_state(model)
                look(visit)
                fill(model, before)
            return visit.loss(visit.batch)

        train_watched(model, self.spec, Training(1, N), watch)


def _of_a_library(cls: type) -> bool:
    home = cls.__module__  # the suite's own variants are plugins like all others
    return home.partition(".")[0] in ("bench", "torch", "typing", "builtins") and not home.startswith("bench.variants")


def train_watched(model: Variant, spec: Spec, training: Training, watch: Callable[[Visit], Loss]) -> None:
    """Train the model on the digits of `spec`; the trainer calls `watch` instead of each loss."""
    if trains(model) and not any(p.requires_grad for p in model.parameters()):
        raise Skipped("it has no parameters: see stages_are_well_formed")

    def wrap(place: tuple[int, int], phase: Phase) -> Phase:
        @wraps(phase.loss)
        def loss(batch: Batch) -> Loss:
            return watch(Visit(place, phase, batch))

        return replace(phase, loss=loss)

    stages = tuple(
        replace(stage, phases=tuple(wrap((s, p), phase) for p, phase in enumerate(stage.phases)))
        for s, stage in enumerate(stages_of(model))
    )
    model.stages = lambda: stages  # type: ignore[method-assign]
    try:
        train(model, digits(spec), training, seed=0)
    finally:
        del model.stages
