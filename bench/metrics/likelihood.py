"""The bound on log p(x) and its halves: nats per image, means over the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.images import Images, to_float
from bench.contracts.likelihood import Bernoulli
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.contracts.variant import Spec
from bench.evidence import BoundTerms, ConditionalTerms, LogLikelihood, Terms, TestImages, TheSpec
from bench.metrics.notes import COLLAPSED
from bench.util.errors import NotAvailable


def pixel_entropy(images: Images, where: Tensor | None = None) -> Tensor:
    """Return the sum over pixels of H(x), x read as the probability of a white pixel: (N,) float64, in nats.

    No decoder's cross-entropy on these images can be lower. `where` (N,) are the images' positions; all by default.
    """
    x = to_float(torch.arange(256)).double()
    of_level = -torch.xlogy(x, x) - torch.xlogy(1 - x, 1 - x)
    blocks = (images.take(part, "cpu") for part in _parts(images, where))
    return torch.cat([of_level[block.int()].flatten(1).sum(1) for block in blocks])


def binary(images: Images) -> bool:
    """Return whether every pixel is black or white."""
    blocks = (images.take(part, "cpu") for part in _parts(images))
    return all(bool(((block == 0) | (block == 255)).all()) for block in blocks)


def _parts(images: Images, where: Tensor | None = None) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(images)) if where is None else where, 500)


def _cross_entropy(spec: Spec, log_likelihood: Tensor) -> Tensor:
    if not isinstance(spec.make_likelihood(), Bernoulli):
        raise NotAvailable(f"its likelihood is {spec.likelihood}, which is no cross-entropy: see `distortion`")
    return -log_likelihood


def _bounds(kept: Mapping[str, Tensor]) -> Tensor:
    return -(kept["distortion"].double() + kept["rate"].double())


@dataclass(frozen=True)
class OfBinarised(Request["Note | None"]):
    """A note if the likelihood bounds that of binarised images instead of the pixels themselves."""

    def resolve(self, context: Context) -> Note | None:
        with suppress(NotAvailable):  # the likelihood is unknown
            if context.get(TheSpec()).make_likelihood().kind == "bound" and not binary(context.data.test):
                text = "pixels are grey: it bounds the log-likelihood of their dynamic binarisation"
                return Note(text, "dynamic_binarisation")
        return None


@metric(Terms(), OfBinarised(), unit="nats/image", direction="higher", per_image=_bounds)
def elbo(terms: BoundTerms, binarised: Note | None) -> Score:
    """Evidence lower bound, nats per image: E_q[log p(x|z)] - KL(q(z|x) || p(z)), one draw of z for each image.

    At beta = 1 whatever was trained. For discrete codes, the KL is the code length under the learned prior. A model
    that knows labels sums them out. Of grey pixels under Bernoulli likelihood it bounds the log-likelihood of
    dynamically binarised images, and compares with nothing else: not with densities, nor with static binarisation.
    """
    return Score.of(terms.elbo, binarised or ())


@dataclass(frozen=True)
class OwnTerms(Request[BoundTerms]):
    """`Terms`, if the likelihood is a mass or a density of the data. Bernoulli's is neither for grey pixels."""

    def resolve(self, context: Context) -> BoundTerms:
        if context.get(OfBinarised()):
            raise NotAvailable(f"{context.get(TheSpec()).likelihood} is no mass and no density of grey pixels")
        return context.get(Terms())


@metric(TheSpec(), OwnTerms(), unit="bits/dim", direction="lower")
def bpd(spec: Spec, terms: BoundTerms) -> Score:
    """Bits for each pixel and channel, -ELBO / (D ln 2), where the likelihood is a mass or a density of the data.

    For a density, cells are one level wide, 1/255 on the scale of [0, 1]: log2 255 is added.
    """
    bits = -terms.elbo / (math.prod(spec.shape) * math.log(2))
    if spec.make_likelihood().kind != "density":
        return Score.of(bits)
    return Score.of(bits + math.log2(255), Note("a density without dequantisation bounds no probability", "density"))


@metric(TheSpec(), LogLikelihood(), unit="nats/image")
def distortion(spec: Spec, log_likelihood: Tensor) -> Score:
    """Distortion, nats per image: -log p(x|z) under the row's own likelihood; for Bernoulli pixels see `bce`."""
    if isinstance(spec.make_likelihood(), Bernoulli):
        raise NotAvailable("for Bernoulli pixels it is `bce`")
    return Score.of(-log_likelihood)


@metric(TheSpec(), LogLikelihood(), unit="nats/image")
def bce(spec: Spec, log_likelihood: Tensor) -> Score:
    """Binary cross-entropy, nats per image, summed over pixels: the distortion of Bernoulli pixels.

    Linear in its target: of a grey image, the mean over binarisations of it.
    """
    return Score.of(_cross_entropy(spec, log_likelihood))


@metric(TheSpec(), LogLikelihood(), TestImages(), unit="nats/image", range=(0, float("inf")))
def bce_excess(spec: Spec, log_likelihood: Tensor, images: Images) -> Score:
    """`bce` minus the pixels' own entropy, nats per image: 0 would be a perfect decoder."""
    return Score.of(_cross_entropy(spec, log_likelihood) - pixel_entropy(images))


@metric(Terms(), unit="nats/image")
def kl(terms: BoundTerms) -> Score:
    """Rate, nats per image: KL(q(z|x) || p(z)), or the length of discrete codes under their learned prior.

    Below .1 nats for a model that has codes, its posterior has collapsed (Bowman et al. 2016), and the note says so.
    """
    score = Score.of(terms.rate)
    return score.noted(COLLAPSED) if score.value < NO_CODE else score


NO_CODE = 0.1  #: nats per image below which codes say next to nothing of the image


@metric(ConditionalTerms(), unit="nats/image", direction="higher")
def elbo_given_y(terms: BoundTerms) -> Score:
    """Bound on log p(x|y), nats per image, given the test image's true label: not comparable with `elbo`."""
    return Score.of(terms.log_likelihood - terms.rate)
