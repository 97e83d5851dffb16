"""The evidence that metrics request of a model and its data. Each request is resolved once a cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_float, to_uint8
from bench.contracts.measurement import Context, Request
from bench.contracts.protocol import seed_for
from bench.contracts.scale import OVERSHOOT
from bench.contracts.variant import Spec
from bench.util.errors import NotAvailable
from bench.util.threads import limited

Sampler = Literal["prior", "gmm"]
SHOWN = 256  #: samples and reconstructions that are kept for pictures


class BoundTerms(NamedTuple):
    """The two halves of one bound at beta = 1, for each test image, in nats: both (N,) float64."""

    log_likelihood: Tensor
    rate: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, (N,) float64, in nats."""
        return self.log_likelihood - self.rate


class LabelledCodes(NamedTuple):
    """Codes (N, d) float32 and class indices (N,)."""

    codes: Tensor
    labels: Tensor


class Indices(NamedTuple):
    """Discrete codes (N, L) of the test split, and the size K of their codebook."""

    codes: Tensor
    size: int


@dataclass(frozen=True)
class TheSpec(Request[Spec]):
    """The spec that the model was built for."""

    def resolve(self, context: Context) -> Spec:
        return context.model.spec


@dataclass(frozen=True)
class TheData(Request[Data]):
    """The dataset, with all its splits."""

    def resolve(self, context: Context) -> Data:
        return context.data


@dataclass(frozen=True)
class TestImages(Request[Images]):
    """The test split."""

    __test__ = False

    def resolve(self, context: Context) -> Images:
        return context.data.test


def positions(images: Images, n: int | None = None) -> Tensor:
    """Return the positions of `n` images of a split, drawn by a fixed seed since a split may be sorted; or of all."""
    if n is None or n >= len(images):
        return torch.arange(len(images))
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_for("positions")))[:n]


def _batches(context: Context, images: Images, where: Tensor, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    for part in context.chunks(len(where), purpose):
        index = where[part]
        yield to_float(images.take(index, context.device)), images.labels(index, context.device)


def bound_terms(context: Context, images: Images, where: Tensor, purpose: str) -> BoundTerms:
    """Return both halves of the bound on the images at `where`. No label reaches the model."""
    model = require(context.model, abilities.Bound)
    batches = _batches(context, images, where, purpose)
    return _terms([model.elbo_terms(x, torch.full_like(y, -1)) for x, y in batches], len(where))


def _terms(pairs: list[tuple[Tensor, Tensor]], n: int) -> BoundTerms:
    if any(a.ndim != 1 or b.shape[:1] != a.shape for a, b in pairs) or sum(len(a) for a, _ in pairs) != n:
        raise NotAvailable("its bound is not a log-likelihood (B,) and a rate (B,) or (B, d) of B images")
    log_px = torch.cat([a.cpu().double() for a, _ in pairs])
    rate = torch.cat([(b.flatten(1).sum(1) if b.ndim > 1 else b).cpu().double() for _, b in pairs])
    return BoundTerms(log_px, rate)


@dataclass(frozen=True)
class Terms(Request[BoundTerms]):
    """Both halves of the bound on the test split. No label of a test image reaches the model."""

    def resolve(self, context: Context) -> BoundTerms:
        return bound_terms(context, context.data.test, positions(context.data.test), "bound")

    def keep(self, value: BoundTerms) -> dict[str, Tensor]:
        return {"rate": value.rate.float()}


@dataclass(frozen=True)
class BoundOn(Request[Tensor]):
    """The ELBO of `n` images of a split, drawn by a fixed seed: (n,) float64, in nats. No label reaches the model."""

    split: Literal["train", "test"]
    n: int

    def resolve(self, context: Context) -> Tensor:
        images = context.data.train if self.split == "train" else context.data.test
        terms = bound_terms(context, images, positions(images, self.n), f"bound-{self.split}")
        return terms.log_likelihood - terms.rate


FOLLOWED = BoundOn("test", 2_000)  #: the bound that is computed when a fifth of the last stage is left, and at the end
FOLLOWED_FROM = 0.8


def earlier(images: Images) -> str:
    """Return the name under which evidence keeps `FOLLOWED` of `images`, computed before the last fifth."""
    return f"bound_earlier_{images.digest[:12]}"


@dataclass(frozen=True)
class EarlierBound(Request[Tensor]):
    """`FOLLOWED` before the last fifth of the last stage: (n,) float64, in nats."""

    def resolve(self, context: Context) -> Tensor:
        require(context.model, abilities.Bound)
        if (bound := context.kept.get(earlier(context.data.test))) is None:
            raise NotAvailable("its bound wasn't followed on these images during training")
        return bound.double()


@dataclass(frozen=True)
class ConditionalTerms(Request[BoundTerms]):
    """Both halves of the bound on log p(x|y), given the test labels."""

    def resolve(self, context: Context) -> BoundTerms:
        model = require(context.model, abilities.ConditionalBound)
        images = context.data.test
        batches = _batches(context, images, positions(images), "conditional")
        return _terms([model.conditional_elbo_terms(x, y) for x, y in batches], len(images))


def log_likelihood(context: Context, images: Images, purpose: str) -> Tensor:
    """Return log p(x|z) of each image at its reconstruction's z: (N,) float64, in nats."""
    model = require(context.model, abilities.Reconstructs)
    parts = [model.log_likelihood(x, y) for x, y in _batches(context, images, positions(images), purpose)]
    if any(values.ndim != 1 for values in parts) or sum(map(len, parts)) != len(images):
        raise NotAvailable("its log-likelihood is not one number for each image")
    return torch.cat([values.cpu().double() for values in parts])


@dataclass(frozen=True)
class LogLikelihood(Request[Tensor]):
    """log p(x|z) of each test image at the model's own z: (N,) float64, in nats."""

    def resolve(self, context: Context) -> Tensor:
        if abilities.why_not(context.model, abilities.Bound) is None:
            return context.get(Terms()).log_likelihood
        return log_likelihood(context, context.data.test, "log-likelihood")

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {"distortion": -value.float()}


@dataclass(frozen=True)
class Codes(Request[LabelledCodes]):
    """Codes of `n` images of a split, drawn by a fixed seed (all by default)."""

    split: Literal["train", "test"] = "test"
    n: int | None = None

    def resolve(self, context: Context) -> LabelledCodes:
        model = require(context.model, abilities.Encodes)
        images = context.data.train if self.split == "train" else context.data.test
        where = positions(images, self.n)
        batches = _batches(context, images, where, f"codes-{self.split}")
        codes = torch.cat([model.encode(x, y).float().cpu() for x, y in batches])
        if len(codes) != len(where):
            raise NotAvailable(f"it has {len(codes)} codes of {len(where)} images")
        return LabelledCodes(codes, images.labels(where, "cpu"))


@dataclass(frozen=True)
class DiscreteCodes(Request[Indices]):
    """Discrete codes of the test split, as indices into the codebook."""

    def resolve(self, context: Context) -> Indices:
        model = require(context.model, abilities.HasCodes)
        images = context.data.test
        batches = _batches(context, images, positions(images), "discrete-codes")
        return Indices(torch.cat([model.codes(x).cpu() for x, _ in batches]), model.codebook_size)


@dataclass(frozen=True)
class SampledLabels(Request[Tensor]):
    """One class for each sample, with the training labels' frequencies: (n,) int64; -1 without labels."""

    def resolve(self, context: Context) -> Tensor:
        n, train = context.scoring.samples, context.data.train
        if not train.labelled:
            return torch.full((n,), -1)
        generator = torch.Generator().manual_seed(seed_for("sampled-labels"))
        return train.labels().cpu()[torch.randint(len(train), (n,), generator=generator)]


@dataclass(frozen=True)
class Generated(Request[Tensor]):
    """Samples as decoder means, quantised: (n, C, H, W) uint8 on the CPU, n from the scoring protocol.

    `prior` samples are the model's own, or the first n of a fixed set. `gmm` samples are decoded from draws of a
    Gaussian mixture of full covariance, fitted on training codes, the same for all models (Ghosh et al. 2020).
    """

    sampler: Sampler = "prior"

    def resolve(self, context: Context) -> Tensor:
        if self.sampler == "prior" and isinstance(context.model, abilities.HoldsSamples):
            return context.model.held_samples()[: context.scoring.samples].cpu()
        labels = context.get(SampledLabels()).to(context.device)
        if self.sampler == "prior":
            sample = require(context.model, abilities.Samples).sample
        else:
            decode = require(context.model, abilities.Decodes).decode
            codes = context.get(MixtureCodes()).to(context.device)
        images = []
        for part in context.chunks(len(labels), f"samples-{self.sampler}"):
            drawn = sample(labels[part]) if self.sampler == "prior" else decode(codes[part], labels[part])
            shape = (part.stop - part.start, *context.data.train.shape)
            images.append(to_uint8(_checked(drawn, shape, "samples")).cpu())
        return torch.cat(images)

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {"samples" if self.sampler == "prior" else f"samples_{self.sampler}": value[:SHOWN]}


def _checked(x: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if x.shape != shape:
        raise NotAvailable(f"its {what} are {tuple(x.shape)}, and should be {shape}")
    if not bool(((x >= -OVERSHOOT) & (x <= 1 + OVERSHOOT)).all()):
        raise NotAvailable(f"its {what} {'hold NaN' if bool(x.isnan().any()) else 'leave the range of pixels, [0, 1]'}")
    return x


@dataclass(frozen=True)
class MixtureCodes(Request[Tensor]):
    """Draws from a Gaussian mixture fitted on training codes: (n, d) float32."""

    def resolve(self, context: Context) -> Tensor:
        from sklearn.mixture import GaussianMixture

        if isinstance(context.model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: no Gaussian mixture fits them")
        scoring = context.scoring
        codes = context.get(Codes("train", scoring.codes)).codes.double().numpy()
        components = min(scoring.mixture, max(1, len(codes) // (2 * codes.shape[1])))
        seed = seed_for("mixture") % 2**32
        mixture = GaussianMixture(components, reg_covar=1e-6 * max(float(codes.var()), 1e-12), random_state=seed)
        try:
            with limited(1):  # the matrices are small: two threads take three times as long
                mixture.fit(codes)
        except ValueError as error:
            raise NotAvailable(f"no mixture fits its codes: {error}") from None
        drawn, _ = mixture.sample(scoring.samples)
        order = np.random.default_rng(seed).permutation(len(drawn))  # sample() returns component by component
        return torch.as_tensor(drawn[order], dtype=torch.float32)


@dataclass(frozen=True)
class Reconstructions(Request[Tensor]):
    """Decoded codes of `n` test images (all: None), those at `positions(test, n)`: (n, C, H, W) uint8."""

    n: int | None = SHOWN

    def resolve(self, context: Context) -> Tensor:
        encoder, decoder = require(context.model, abilities.Encodes), require(context.model, abilities.Decodes)
        images = context.data.test
        parts = []
        for x, y in _batches(context, images, positions(images, self.n), "reconstructions"):
            decoded = decoder.decode(encoder.encode(x, y), y)
            parts.append(to_uint8(_checked(decoded, tuple(x.shape), "reconstructions")).cpu())
        return torch.cat(parts)

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {"reconstructions": value} if self.n == SHOWN else {}


@dataclass(frozen=True)
class KeptCodes(Request[LabelledCodes]):
    """2,000 codes of test images with their labels: vectors, or indices where the codes are discrete."""

    def resolve(self, context: Context) -> LabelledCodes:
        images = context.data.test
        if not isinstance(context.model, abilities.HasCodes):
            return context.get(Codes("test", 2_000))
        where = positions(images, 2_000)
        return LabelledCodes(context.get(DiscreteCodes()).codes[where], images.labels(where, "cpu"))

    def keep(self, value: LabelledCodes) -> dict[str, Tensor]:
        return {"codes": value.codes, "labels": value.labels}


#: The evidence that every cell keeps on disk, whatever its metrics are.
KEPT: tuple[Request[Any], ...] = (
    Terms(),
    LogLikelihood(),
    KeptCodes(),
    Generated("prior"),
    Generated("gmm"),
    Reconstructions(),
)
