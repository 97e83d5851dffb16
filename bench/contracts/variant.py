"""The contract of a variant: what moves when, each loss a function of weights and batch alone.

    class BetaVAE(GaussianVAE):
        def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight of the KL"] = 4.0, ...): ...

So one trainer serves every objective, single, adversarial or staged, and can checkpoint, stack and compile it. A loss
draws noise from torch's default generator, doesn't branch on the values of tensors, and doesn't call `.item()`.
What a trained variant can do besides is said by the abilities (`bench.contracts.abilities`) that it has.
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
    """What a loss sees."""

    x: Tensor  #: (B, C, H, W), in [0, 1]
    y: Tensor  #: (B,), class index; -1 where there is none
    index: Tensor  # type: ignore[assignment]  #: (B,), position in the training split (it hides tuple.index)
    progress: Tensor  #: 0-d, 0 to 1 within the stage: warm-ups read it


Loss = tuple[Tensor, dict[str, Tensor]]
"""The scalar to descend, a mean over images; and terms to report, never descended (`rec`, `kl` in nats per image)."""


@dataclass(frozen=True)
class Optimizer:
    """A description; the trainer builds it.

    `clip` bounds the gradient's global norm, `schedule` scales `lr`; at the end of the stage the weights become their
    exponential average of decay `ema`, (1 + t) / (10 + t) while that is less at step t = 0, 1, ...
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
    """One kind of update: descend `loss` in what it `moves`."""

    loss: Callable[[Batch], Loss]
    moves: tuple[nn.Module | nn.Parameter, ...] = ()  #: () is everything
    optimizer: Optimizer | None = None  #: None is the protocol's
    repeat: int = 1  #: updates a turn, each on a batch of its own; the phases of a turn share the first
    descends: bool = True  #: its loss falls as it trains; False where players pull against each other


@dataclass(frozen=True)
class Stage:
    """Phases take turns; a step is one turn. Optimisers are born with the stage."""

    phases: tuple[Phase, ...] = ()
    steps: float = 1.0  #: as a multiple of the budget
    start: Callable[[Images], None] | None = None  #: work on training data before the first step; keep it in buffers


@dataclass(frozen=True)
class Spec:
    """What a variant is built for."""

    shape: tuple[int, int, int]  #: (C, H, W) of an image
    classes: int  #: 0 where the dataset has no labels
    size: int  #: images in the training split
    latent_dim: int  #: the dataset's size of z, the same for all variants
    likelihood: str = "bernoulli"

    def make_likelihood(self) -> Likelihood:
        """A fresh p(x|z) for this image shape, in nats per image."""
        return likelihood(self.likelihood, self.shape)


class Variant(nn.Module):
    """A generative model that the bench can train.

    The keyword arguments of `__init__` are its hyperparameters. `raise Unsuitable("why")` in it makes the cell
    `skipped` with that reason. A module that no phase of the running stage moves is in eval mode.
    """

    uses_labels: ClassVar[bool] = False  #: labels enter training, sampling or scoring: said in its row
    lacks: ClassVar[dict[type, str]] = {}  #: abilities that it defines away, and why: the reason of an n/a

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def stages(self) -> tuple[Stage, ...]:
        """What is trained, in order. By default one stage of one phase: everything descends `loss`."""
        return (Stage((Phase(self.loss),)),)

    def loss(self, batch: Batch) -> Loss:
        """The objective of the default stage: a mean over images, and terms to report."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss() nor stages()")


def lay_out(model: nn.Module) -> None:
    """Keep weights of convolutions in the layout of the faster ones, channels last; no value changes."""
    for p in model.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


def _is_variant(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Variant) else "not a subclass of bench.Variant"


VARIANTS: Registry[type[Variant]] = Registry("bench.variants", "variant", _is_variant)
