"""The objective of training: the weight of the rate against the distortion."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.contracts.images import to_float
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.variant import Batch, Phase
from bench.evidence import positions
from bench.util.errors import NotAvailable

IMAGES = 128


class Weight(NamedTuple):
    """A ratio of two derivatives, and the number of images behind them."""

    ratio: float
    images: int


@dataclass(frozen=True)
class KLWeight(Request[Weight]):
    """(d loss / d kl) / (d loss / d rec) on training images at the end of a stage.

    Of the last loss that has both terms. Differentiated on a copy: the model stays as it is.
    """

    def resolve(self, context: Context) -> Weight:
        train = context.data.train
        where = positions(train, IMAGES)
        part = next(iter(context.chunks(len(where), "objective")))
        with torch.inference_mode(False), torch.enable_grad():
            index = where[part].to(context.device)
            x = to_float(train.take(index, context.device))
            batch = Batch(x, train.labels(index, context.device), index, torch.ones((), device=context.device))
            for stage in reversed(deepcopy(context.model).stages()):
                for phase in stage.phases:
                    if (ratio := _ratio(phase, batch)) is not None:
                        return Weight(ratio.item(), len(x))
        raise NotAvailable("none of its losses has the terms `rec` and `kl`")


def _ratio(phase: Phase, batch: Batch) -> Tensor | None:
    loss, terms = phase.loss(batch)
    if not {"rec", "kl"} <= terms.keys() or not all(t.requires_grad for t in (loss, terms["rec"], terms["kl"])):
        return None
    by_rec, by_kl = torch.autograd.grad(loss, (terms["rec"], terms["kl"]), allow_unused=True, retain_graph=True)
    if by_rec is None or by_kl is None or by_rec == 0:
        return None
    moves = [p for m in phase.moves for p in (m.parameters() if isinstance(m, nn.Module) else (m,))]
    moved = [p for p in moves if p.requires_grad]
    if moved and all(g is None for g in torch.autograd.grad(terms["kl"], moved, allow_unused=True)):
        return None  # the phase moves something else, such as the likelihood's scale
    return by_kl / by_rec


def _told(value: float) -> str:
    return "" if abs(value - 1) < 0.05 else f"trained with a KL weight of {value:.3g}, which lowers its elbo"


@metric(KLWeight(), unit="weight", told=_told)
def beta_eff(weight: Weight) -> Score:
    """Effective weight of the KL against the reconstruction in the training loss, both in nats per image.

    At the end of training, so after any warm-up: 1 is the ELBO itself, beta that of a beta-VAE, the slope where the KL
    enters otherwise. Differentiated, not declared.
    """
    return Score(weight.ratio, weight.images)
