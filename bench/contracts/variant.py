"""The contract of a variant: the phases of its training, each with a loss that depends on weights and batch alone.

    class BetaVAE(GaussianVAE):
        def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the KL"] = 4.0, ...): ...

One trainer serves every objective, single, adversarial or staged, and can checkpoint, stack and compile it. A loss
draws noise from torch's default generator, does not branch on the values of tensors, and does not call `.item()`.
Trained variants show by their abilities (`bench.contracts.abilities`) how they can be scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.contracts.images import Images
from bench.contracts.likelihood import Likelihood, likelihood
from bench.plugins.registry import Registry


class Batch(NamedTuple):
    """The argument of a loss."""

    x: Tensor  #: (B, C, H, W), in [0, 1]
    y: Tensor  #: (B,), class index; -1 without labels
    index: Tensor  # type: ignore[assignment]  #: (B,), position in the training split (it hides tuple.index)
    progress: Tensor  #: 0-d, 0 to 1 within the stage: warm-ups read it


Loss = tuple[Tensor, dict[str, Tensor]]
"""The scalar to minimise, a mean over images; and terms that are only reported (`rec`, `kl` in nats per image)."""


@dataclass(frozen=True)
class Optimizer:
    """A description of an optimiser, which the trainer builds.

    `clip` bounds the gradient's global norm; `schedule` scales `lr`. With `ema`, the stage ends with the exponential
    average of the weights, of decay min(ema, (1 + t) / (10 + t)) at step t = 0, 1, ...
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)  # sgd: betas[0] is the momentum
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    ema: float | None = None


@dataclass(frozen=True)
class Phase:
    """One kind of update: minimise `loss` over the parameters that it `moves`."""

    loss: Callable[[Batch], Loss]
    moves: tuple[nn.Module | nn.Parameter, ...] = ()  #: (): everything
    optimizer: Optimizer | None = None  #: None: the protocol's
    repeat: int = 1  #: updates a turn, each on a batch of its own; the phases of a turn share the first
    descends: bool = True  #: whether its loss falls; False for adversaries


@dataclass(frozen=True)
class Stage:
    """Phases that take turns; a step is one turn of all. Optimisers start anew with each stage."""

    phases: tuple[Phase, ...] = ()
    steps: float = 1.0  #: a multiple of the budget
    start: Callable[[Images], None] | None = None  #: work on training data before the first step; keep it in buffers


@dataclass(frozen=True)
class Spec:
    """The properties of a dataset that a variant is built for."""

    shape: tuple[int, int, int]  #: (C, H, W) of an image
    classes: int  #: 0 without labels
    size: int  #: images in the training split
    latent_dim: int  #: the dataset's size of z, the same for all variants
    likelihood: str = "bernoulli"

    def make_likelihood(self) -> Likelihood:
        """Return a new p(x|z) for this image shape, in nats per image."""
        return likelihood(self.likelihood, self.shape)


class Variant(nn.Module):
    """A generative model that the bench can train.

    The keyword arguments of `__init__` are its hyperparameters. `raise Unsuitable("why")` in it makes the cell
    `skipped` with that reason. A module that no phase of the running stage moves is in eval mode.
    """

    uses_labels: ClassVar[bool] = False  #: whether labels enter training, sampling or scoring
    lacks: ClassVar[dict[type, str]] = {}  #: abilities that it takes away, with the reason for n/a

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of the training; by default one phase that minimises `loss` over all parameters."""
        return (Stage((Phase(self.loss),)),)

    def loss(self, batch: Batch) -> Loss:
        """Return the objective of the default stage, a mean over images, and terms to report."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss() nor stages()")


def lay_out(model: nn.Module) -> None:
    """Store weights of convolutions channels last, which is faster; no value changes."""
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def _is_variant(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Variant) else "not a subclass of bench.Variant"


VARIANTS: Registry[type[Variant]] = Registry("bench.variants", "variant", _is_variant)
