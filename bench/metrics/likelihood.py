"""The halves of the bound on log p(x), and what they make: nats per image, means over the test split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import NotAvailable
from bench.evidence import BoundTerms, ConditionalTerms, LogLikelihood, Terms, TestImages, TheSpec
from bench.images import Images, to_float
from bench.likelihood import Bernoulli
from bench.measurement import Context, Request, Score, metric
from bench.variant import Spec


def pixel_entropy(images: Images) -> Tensor:
    """sum over pixels of H(x), x read as the probability of a white pixel: (N,) float64, in nats.

    No decoder's cross-entropy on these images can be lower.
    """
    blocks = (to_float(images.take(part)).double() for part in torch.split(torch.arange(len(images)), 2_000))
    return torch.cat([(-torch.xlogy(x, x) - torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1).cpu() for x in blocks])


def _cross_entropy(spec: Spec, log_likelihood: Tensor) -> Tensor:
    if not isinstance(spec.make_likelihood(), Bernoulli):
        raise NotAvailable(f"its likelihood is {spec.likelihood}, no cross-entropy: see `distortion`")
    return -log_likelihood


@metric(Terms(), unit="nats/image", direction="higher")
def elbo(terms: BoundTerms) -> Score:
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)), at beta = 1 whatever was trained, one draw of z for each image.

    Where codes are discrete, the KL's place is taken by the code length under the learned prior. A model that
    knows labels sums them out.
    """
    return Score.of(terms.log_likelihood - terms.rate)


@dataclass(frozen=True)
class MassTerms(Request[BoundTerms]):
    """`Terms`, where the likelihood is a mass over the data's own levels."""

    def resolve(self, context: Context) -> BoundTerms:
        spec = context.get(TheSpec())
        kind = spec.make_likelihood().kind
        if kind != "mass":
            raise NotAvailable(f"{spec.likelihood} is a {kind}, no mass over the data's own levels")
        return context.get(Terms())


@metric(TheSpec(), MassTerms(), unit="bits/dim", direction="lower", range=(0, math.inf))
def bpd(spec: Spec, terms: BoundTerms) -> Score:
    """-ELBO / (D ln 2): bits for each pixel and channel, where the likelihood is a mass over the 256 levels."""
    return Score.of((terms.rate - terms.log_likelihood) / (math.prod(spec.shape) * math.log(2)))


@metric(TheSpec(), LogLikelihood(), unit="nats/image")
def distortion(spec: Spec, log_likelihood: Tensor) -> Score:
    """-log p(x|z) under the row's own likelihood: half of the bound, a coordinate and no merit by itself.

    Of Bernoulli pixels it is `bce`, and stands there.
    """
    if isinstance(spec.make_likelihood(), Bernoulli):
        raise NotAvailable("of Bernoulli pixels it is `bce`")
    return Score.of(-log_likelihood)


@metric(TheSpec(), LogLikelihood(), unit="nats/image")
def bce(spec: Spec, log_likelihood: Tensor) -> Score:
    """Binary cross-entropy of image and decoder, summed over pixels: the distortion of Bernoulli pixels."""
    return Score.of(_cross_entropy(spec, log_likelihood))


@metric(TheSpec(), LogLikelihood(), TestImages(), unit="nats/image", range=(0, float("inf")))
def bce_excess(spec: Spec, log_likelihood: Tensor, images: Images) -> Score:
    """`bce` minus the pixels' own entropy, the least that a decoder can reach: 0 would be perfect."""
    cross_entropy = _cross_entropy(spec, log_likelihood)
    return Score.of(cross_entropy - pixel_entropy(images))


@metric(Terms(), unit="nats/image")
def kl(terms: BoundTerms) -> Score:
    """The mean rate: KL(q(z|x) || p(z)), or the code length of discrete codes under their learned prior."""
    return Score.of(terms.rate)


@metric(ConditionalTerms(), unit="nats/image", direction="higher")
def elbo_given_y(terms: BoundTerms) -> Score:
    """The bound on log p(x|y), given the test image's true label: not comparable with `elbo`."""
    return Score.of(terms.log_likelihood - terms.rate)
