"""Checks of where else a loss can run: compiled, stacked over seeds, on another device. All but the last are notes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from bench.contracts.variant import Batch, Variant
from bench.engine.snapshot import seeded
from bench.testing.kit import Failed, Noted, where
from bench.testing.scoring import calls
from bench.testing.subject import CPU, Subject, Visit, batch_of, well_formed


def compiles(subject: Subject) -> None:
    """Each phase's loss compiles to one graph."""
    import torch._dynamo as dynamo

    model, batch, reasons = subject.trained, batch_of(subject.spec, 8), []

    def look(visit: Visit) -> None:
        compiled = torch.compile(visit.phase.loss, fullgraph=True, backend="eager")
        try:
            compiled(batch)
        except Exception as error:
            reasons.append(f"{visit.name}: {_reason(error)}")

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    dynamo.reset()
    try:
        subject.visit(model, look)
    finally:
        dynamo.reset()
        logging.disable(disabled)
    if reasons:
        raise Noted("; ".join(reasons))


def stacks(subject: Subject) -> None:
    """Two seeds stacked by torch.func have the losses that they have alone."""

    class Loss(nn.Module):
        """One phase's loss as a module's forward."""

        def __init__(self, seed: int, place: tuple[int, int]) -> None:
            super().__init__()
            self.model, self.place = subject.build(seed=seed).train(), place

        def forward(self, batch: Batch) -> Tensor:
            stage, phase = self.place
            return self.model.stages()[stage].phases[phase].loss(batch)[0]

    stages, batch, reasons = subject.trained.stages(), batch_of(subject.spec, 8), []
    for place in ((s, p) for s, stage in enumerate(stages) for p in range(len(stage.phases))):
        pair = [Loss(seed, place) for seed in (0, 1)]
        name = getattr(stages[place[0]].phases[place[1]].loss, "__name__", str(place))
        try:
            state = torch.func.stack_module_state(pair)

            def call(parameters: Any, buffers: Any, base: nn.Module = pair[0]) -> Any:
                return torch.func.functional_call(base, (parameters, buffers), (batch,))

            with seeded(0, CPU), warnings.catch_warnings(action="ignore"):
                stacked = torch.vmap(call, randomness="same")(*state)
            alone = []
            for one in pair:
                with seeded(0, CPU):
                    alone.append(one(batch))
            if not torch.allclose(stacked, torch.stack(alone), rtol=1e-3, atol=1e-4):
                reasons.append(f"{name}: stacked losses are {stacked.tolist()}, alone {[float(v) for v in alone]}")
        except Exception as error:
            reasons.append(f"{name}: {_reason(error)}")
    if reasons:
        raise Noted("; ".join(reasons))


def stays_on_its_device(subject: Subject) -> None:
    """Losses and abilities make their tensors where the images are: on a device without data, and on a GPU if any."""
    like = [(t.shape, t.dtype) for t in subject.batch]
    with FakeTensorMode():
        try:
            with torch.device("meta"):
                model = subject.cls(subject.spec, **subject.given)
        except Exception as error:
            raise Noted(f"the constructor reads values of tensors: {_reason(error)}") from None
        batch = Batch(*(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in like))
        notes = _ask_all(subject, model, batch)
    if torch.cuda.is_available():
        model = subject.build().to("cuda")
        if (faults := _ask_all(subject, model, Batch(*(t.cuda() for t in subject.batch)))) != []:
            raise Failed("on a GPU: " + "; ".join(faults))
    if notes:
        raise Noted("without data: " + "; ".join(notes))


def _ask_all(subject: Subject, model: Variant, batch: Batch) -> list[str]:
    """What else goes wrong than tensors on another device."""
    phases = [phase for stage in well_formed(model) for phase in stage.phases]
    asked: list[tuple[str, Callable[[], Any]]] = [(where(p.loss), partial(p.loss, batch)) for p in phases]
    asked += [(subject.where(name), call) for name, call in calls(model, batch.x, batch.y).items()]
    notes = []
    for name, call in asked:
        try:
            call()
        except Exception as error:
            if "same device" in str(error):
                raise Failed(
                    f"tensors on different devices: {_reason(error)}",
                    name,
                    "Make them with device=x.device, or keep them in buffers, which move with the model.",
                ) from None
            notes.append(f"{name}: {_reason(error)}")
    return notes


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"


CHECKS = (stays_on_its_device, compiles, stacks)
