"""The models that are trained in one pass: one as it is, or several seeds of a variant together, under `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench.contracts.variant import Batch, Loss, Variant, lay_out
from bench.engine.snapshot import fill, state


class Alone:
    """One model, trained as it is."""

    shape: tuple[int, ...] = ()  #: of a loss

    def __init__(self, model: Variant) -> None:
        self.models: tuple[Variant, ...] = (model,)

    def gather(self) -> None:
        """Read the models' tensors again, after something else has changed them."""

    def parameter(self, name: str, own: nn.Parameter) -> Tensor:
        """Return the tensor to train for the first model's parameter of that name."""
        return own

    def every(self, loss: Callable[[Batch], Loss]) -> Callable[[Batch], Loss]:
        """Return a function that computes each model's loss, given the first model's."""
        return loss

    def clip(self, params: Sequence[Tensor], bound: float) -> None:
        """Bound the global norm of the gradient."""
        nn.utils.clip_grad_norm_(params, bound)

    def release(self) -> None:
        """Give each model tensors of its own."""

    def state(self) -> dict[str, Tensor]:
        return state(self.models[0])

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        fill(self.models[0], tensors)


class Stack:
    """S models of one variant that differ in their weights, stacked: each tensor is (S, ...).

    Each model's own tensors are views of its part, so that it can be evaluated at any time. Each has its own noise.
    """

    def __init__(self, models: Sequence[Variant]) -> None:
        self.models = tuple(models)
        self.shape = (len(self.models),)
        self._call = _Call(self.models[0])
        self.gather()

    def gather(self) -> None:
        parts = [state(model) for model in self.models]
        self.tensors: dict[str, Tensor] = {}
        for name, first in parts[0].items():
            held = torch.stack([part[name].detach() for part in parts])
            for one, part in zip(held, parts, strict=True):
                part[name].data = one
            self.tensors[name] = held.requires_grad_(first.requires_grad)

    def parameter(self, name: str, own: nn.Parameter) -> Tensor:
        return self.tensors[name]

    def every(self, loss: Callable[[Batch], Loss]) -> Callable[[Batch], Loss]:
        def one(tensors: dict[str, Tensor], *batch: Tensor) -> Loss:
            named = {f"model.{name}": tensor for name, tensor in tensors.items()}
            returned: Loss = functional_call(self._call, named, (loss, Batch(*batch)))
            return returned

        each = vmap(one, in_dims=(0, 0, 0, 0, None), randomness="different")
        return lambda batch: each(self.tensors, *batch)

    def clip(self, params: Sequence[Tensor], bound: float) -> None:
        """Bound the global norm of each model's gradient."""
        grads = [p.grad for p in params if p.grad is not None]
        norm = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in grads]).sum(0).sqrt()
        factor = (bound / (norm + 1e-6)).clamp(max=1)
        for g in grads:
            g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))

    def release(self) -> None:
        for model in self.models:
            for own in state(model).values():
                own.data = own.data.clone()
            lay_out(model)

    def state(self) -> dict[str, Tensor]:
        return self.tensors

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        for i, model in enumerate(self.models):
            fill(model, {name: tensor[i] for name, tensor in tensors.items()})
        self.gather()


Trainee = Alone | Stack


class _Call(nn.Module):
    """A module whose `forward` is a loss, as `functional_call` needs it."""

    def __init__(self, model: Variant) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[Batch], Loss], batch: Batch) -> Loss:
        return loss(batch)


def compiled(every: Callable[[Batch], Loss], device: torch.device) -> Callable[[Batch], Loss]:
    """Return the function compiled by `torch.compile`, with the same noise as without; CUDA graphs on a GPU."""
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    return torch.compile(every, dynamic=False, options=options)
