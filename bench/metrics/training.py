"""Is it trained? The change of the bound at the end of training, and its gap between training and test images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.images import Images, to_float
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.evidence import FOLLOWED, BoundOn, BoundTerms, EarlierBound, Terms, positions
from bench.metrics.cache import remembered_tensors, statistics
from bench.metrics.likelihood import pixel_entropy

SEEN = BoundOn("train", 5_000)
FALLS = 0.3  #: nats over the last fifth of the steps: with a larger fall, training ended too early
STILL_FALLING = Note("still falling at the last step: train longer", "still_falling", warns=True)


class Content(NamedTuple):
    """Content of each image, whatever the model: c covariates, (n, c) and (m, c) float64.

    Of the images behind `SEEN`, and of the test split.
    """

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class PixelContent(Request[Content]):
    """The pixels' own entropy, and the squared error of 20 principal components of other training images.

    Without as many other images as `SEEN` has, entropies alone: components fit their own images better.
    """

    def resolve(self, context: Context) -> Content:
        train, test = context.data.train, context.data.test
        path = statistics(context, f"content-v1-{train.digest[:16]}-{test.digest[:16]}")
        return Content(**remembered_tensors(path, lambda: self._of(train, test), "train", "test"))

    def _of(self, train: Images, test: Images) -> dict[str, Tensor]:
        seen = positions(train, SEEN.n)
        others = torch.ones(len(train)).index_fill(0, seen, 0).nonzero()[:, 0]
        others = others[torch.randperm(len(others), generator=_generator())[: 2 * len(seen)]]
        columns = {"train": [pixel_entropy(train, seen)], "test": [pixel_entropy(test)]}
        if len(others) >= len(seen):
            mean, components = _principal(_flat(train, others))
            for name, images, where in (("train", train, seen), ("test", test, positions(test))):
                parts = [_flat(images, part) - mean for part in torch.split(where, 500)]
                columns[name].append(
                    torch.cat([(x - x @ components @ components.T).square().sum(1).double() for x in parts])
                )
        return {name: torch.stack(covariates, 1) for name, covariates in columns.items()}


def _flat(images: Images, where: Tensor) -> Tensor:
    return to_float(images.take(where, "cpu")).flatten(1)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(seed_for("content"))


def _principal(x: Tensor, d: int = 20) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and d principal components (D, d) of x (N, D), by a randomised factorisation.

    With twice as many components and 8 rounds, the gap on Fashion-MNIST is within 1e-4 nat of that of exact ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("content"))
        return x.mean(0), torch.pca_lowrank(x, min(2 * d, *x.shape), niter=8)[2][:, :d]


@metric(SEEN, Terms(), PixelContent(), unit="nats/image")
def generalisation_gap(seen: Tensor, terms: BoundTerms, content: Content) -> Score:
    """ELBO of training images minus ELBO of equally complex test images, nats per image.

    An analysis of covariance, with slopes in common: no model has a part in the covariates, and their means differ
    between splits, that of the pixels' entropy by 1.6 nats on Fashion-MNIST. Where all images have the same covariates,
    it is the plain difference. The standard error is over images, which are the same for all models.
    """
    unseen = terms.log_likelihood - terms.rate
    e = torch.cat([seen - seen.mean(), unseen - unseen.mean()])
    h = torch.cat([content.train - content.train.mean(0), content.test - content.test.mean(0)])
    slopes = torch.linalg.pinv(h) @ e
    a, b = Score.of(seen - content.train @ slopes), Score.of(unseen - content.test @ slopes)
    se = None if a.se is None or b.se is None else math.hypot(a.se, b.se)
    plain = Note("not adjusted: {difference}", "not_adjusted", {"difference": (seen.mean() - unseen.mean()).item()})
    return Score(a.value - b.value, min(a.n, b.n), se, plain)


@metric(FOLLOWED, EarlierBound(), unit="nats/image")
def still_falling(now: Tensor, earlier: Tensor) -> Score:
    """Fall of the test -ELBO over the last fifth of the last stage's steps, nats per image, paired by image.

    Above .3, more steps would still have helped; below 0, the bound got worse.
    """
    fall = Score.of(now - earlier)
    return fall.noted(STILL_FALLING) if fall.value > FALLS else fall
