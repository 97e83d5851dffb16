"""Real images in the place of samples: what is best that a distance between samples and data can be."""

from __future__ import annotations

from typing import ClassVar

import torch

from bench import (
    Bound,
    Decodes,
    Encodes,
    Images,
    Reconstructs,
    Spec,
    Stage,
    Tensor,
    Variant,
    Weighs,
    to_float,
)

HELD = 10_000  #: as many as are scored


class Real(Variant):
    """Images of the training split, drawn by the seed without replacement: 10,000 of them, or all there are.

    They are scored as they are, each once (`held_samples`): draws with replacement would hold 6,300 different ones,
    and seem to cover less than real images do. Against the training split they are copies, and score as such.
    """

    lacks: ClassVar[dict[type, str]] = dict.fromkeys(
        (Bound, Decodes, Encodes, Reconstructs, Weighs), "the training images themselves: no model, codes or density"
    )
    held: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("held", torch.zeros(min(HELD, spec.size), *spec.shape, dtype=torch.uint8))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(start=self.hold),)

    def hold(self, train: Images) -> None:
        self.held.copy_(train.take(torch.randperm(len(train))[: len(self.held)]))

    def held_samples(self) -> Tensor:
        return self.held

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return to_float(self.held[torch.randint(len(self.held), (len(y),), device=self.held.device)])
