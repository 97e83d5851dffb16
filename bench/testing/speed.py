"""Checks of where else a loss can run: on another device (a fault if not), compiled, stacked over seeds (notes)."""

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
from bench.testing.digits import batch_of
from bench.testing.kit import Failed, Noted, seeded, where
from bench.testing.models import phases_of
from bench.testing.scoring import ability_calls
from bench.testing.subject import VariantSubject, Visit


def compiles(subject: VariantSubject) -> None:
    """Each phase's loss compiles to one graph. A note."""
    import torch._dynamo as dynamo

    model, batch, notes = subject.trained, batch_of(subject.spec, 8), []

    def look(visit: Visit) -> None:
        try:
            torch.compile(visit.loss, fullgraph=True, backend="eager")(batch)
        except Exception as error:
            notes.append(f"{visit.name}: {_first_line(error)}")

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    dynamo.reset()
    try:
        subject.visit(model, look)
    finally:
        dynamo.reset()
        logging.disable(disabled)
    if notes:
        raise Noted("; ".join(notes))


class _LossModule(nn.Module):
    """The loss of the n-th phase of a model as a module's forward."""

    def __init__(self, model: Variant, n: int) -> None:
        super().__init__()
        self.model, self.n = model.train(), n

    def forward(self, batch: Batch) -> Tensor:
        return phases_of(self.model)[self.n].loss(batch)[0]


def stacks(subject: VariantSubject) -> None:
    """Two seeds stacked by torch.func have the losses that they have alone. A note."""
    batch, notes = batch_of(subject.spec, 8), []
    for n, phase in enumerate(phases_of(subject.trained)):
        pair = [_LossModule(subject.build(seed=seed), n) for seed in (0, 1)]

        def call(parameters: Any, buffers: Any, base: nn.Module = pair[0]) -> Any:
            return torch.func.functional_call(base, (parameters, buffers), (batch,))

        name = getattr(phase.loss, "__name__", f"phase {n + 1}")
        try:
            state = torch.func.stack_module_state(pair)
            with seeded(0), warnings.catch_warnings(action="ignore"):
                stacked = torch.vmap(call, randomness="same")(*state)
            alone = []
            for one in pair:
                with seeded(0):
                    alone.append(one(batch))
            if not torch.allclose(stacked, torch.stack(alone), rtol=1e-3, atol=1e-4):
                notes.append(f"{name}: stacked losses are {stacked.tolist()}, alone {[float(v) for v in alone]}")
        except Exception as error:
            notes.append(f"{name}: {_first_line(error)}")
    if notes:
        raise Noted("; ".join(notes))


def stays_on_its_device(subject: VariantSubject) -> None:
    """Losses and abilities make their tensors where the images are: on a device without data, and on a GPU if any."""
    like = [(t.shape, t.dtype) for t in subject.batch]
    with FakeTensorMode():
        try:
            with torch.device("meta"):
                model = subject.plugin(subject.spec, **subject.arguments)
        except Exception as error:
            raise Noted(f"the constructor reads values of tensors: {_first_line(error)}") from None
        batch = Batch(*(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in like))
        notes = _errors(subject, model, batch)
    if torch.cuda.is_available():
        model = subject.build().to("cuda")
        if faults := _errors(subject, model, Batch(*(t.cuda() for t in subject.batch))):
            raise Failed("on a GPU: " + "; ".join(faults))
    if notes:
        raise Noted("without data: " + "; ".join(notes))


def _errors(subject: VariantSubject, model: Variant, batch: Batch) -> list[str]:
    """Return errors of losses and abilities other than tensors on two devices, which raise Failed."""
    calls: list[tuple[str, Callable[[], Any]]] = [(where(p.loss), partial(p.loss, batch)) for p in phases_of(model)]
    calls += [(subject.where(name), call) for name, call in ability_calls(model, batch.x, batch.y).items()]
    errors = []
    for name, call in calls:
        try:
            call()
        except Exception as error:
            if "same device" in str(error):
                raise Failed(
                    f"tensors on different devices: {_first_line(error)}",
                    name,
                    "Create them with device=x.device, or keep them in buffers, which move with the model.",
                ) from None
            errors.append(f"{name}: {_first_line(error)}")
    return errors


def _first_line(error: Exception) -> str:
    """Return the type and the first line that is not empty of an error."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"


CHECKS = (stays_on_its_device, compiles, stacks)
