"""The evidence that metrics request: what the core can draw from a model and its data, each resolved once a cell."""

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
SHOWN = 256  #: samples and reconstructions that are kept to be looked at


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
    """What the model was built for."""

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
    """Which `n` images of a split stand for it: drawn by a fixed seed, since a source may have sorted them; or all."""
    if n is None or n >= len(images):
        return torch.arange(len(images))
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_for("positions")))[:n]


def _batches(context: Context, images: Images, where: Tensor, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    for part in context.chunks(len(where), purpose):
        index = where[part]
        yield to_float(images.take(index, context.device)), images.labels(index, context.device)


@dataclass(frozen=True)
class Terms(Request[BoundTerms]):
    """Both halves of the bound on the test split. No label of a test image reaches the model."""

    def resolve(self, context: Context) -> BoundTerms:
        model = require(context.model, abilities.Bound)
        images, pairs = context.data.test, []
        for x, y in _batches(context, images, positions(images), "bound"):
            pairs.append(model.elbo_terms(x, torch.full_like(y, -1)))
        return _terms(pairs, len(images))

    def keep(self, value: BoundTerms) -> dict[str, Tensor]:
        return {"rate": value.rate.float()}


@dataclass(frozen=True)
class BoundOn(Request[Tensor]):
    """The ELBO of `n` images of a split, drawn by a fixed seed: (n,) float64, in nats. No label reaches the model."""

    split: Literal["train", "test"]
    n: int

    def resolve(self, context: Context) -> Tensor:
        model = require(context.model, abilities.Bound)
        images = context.data.train if self.split == "train" else context.data.test
        batches = _batches(context, images, positions(images, self.n), f"bound-{self.split}")
        terms = _terms([model.elbo_terms(x, torch.full_like(y, -1)) for x, y in batches], min(self.n, len(images)))
        return terms.log_likelihood - terms.rate


FOLLOWED = BoundOn("test", 2_000)  #: what is looked at when a fifth of the last stage is still ahead
FOLLOWED_FROM = 0.8


def earlier(images: Images) -> str:
    """Where evidence holds `FOLLOWED` as it was when a fifth of the last stage was still ahead."""
    return f"bound_earlier_{images.digest[:12]}"


@dataclass(frozen=True)
class EarlierBound(Request[Tensor]):
    """`FOLLOWED` on the same images when a fifth of the last stage was still ahead: (n,) float64, in nats."""

    def resolve(self, context: Context) -> Tensor:
        require(context.model, abilities.Bound)
        if (found := context.kept.get(earlier(context.data.test))) is None:
            raise NotAvailable("its bound wasn't followed on these images while it was trained")
        return found.double()


@dataclass(frozen=True)
class ConditionalTerms(Request[BoundTerms]):
    """Both halves of the bound on log p(x|y), given the test labels."""

    def resolve(self, context: Context) -> BoundTerms:
        model = require(context.model, abilities.ConditionalBound)
        images = context.data.test
        batches = _batches(context, images, positions(images), "conditional")
        return _terms([model.conditional_elbo_terms(x, y) for x, y in batches], len(images))


def _terms(pairs: list[tuple[Tensor, Tensor]], n: int) -> BoundTerms:
    if any(a.ndim != 1 or b.shape[:1] != a.shape for a, b in pairs) or sum(len(a) for a, _ in pairs) != n:
        raise NotAvailable("its bound isn't a log-likelihood (B,) and a rate (B,) or (B, d) of B images")
    log_px = torch.cat([a.cpu().double() for a, _ in pairs])
    rate = torch.cat([(b.flatten(1).sum(1) if b.ndim > 1 else b).cpu().double() for _, b in pairs])
    return BoundTerms(log_px, rate)


@dataclass(frozen=True)
class LogLikelihood(Request[Tensor]):
    """log p(x|z) of each test image at the model's own z: (N,) float64, in nats."""

    def resolve(self, context: Context) -> Tensor:
        if abilities.why_not(context.model, abilities.Bound) is None:
            return context.get(Terms()).log_likelihood
        model = require(context.model, abilities.Reconstructs)
        images = context.data.test
        found = [model.log_likelihood(x, y) for x, y in _batches(context, images, positions(images), "log-likelihood")]
        if any(v.ndim != 1 for v in found) or sum(map(len, found)) != len(images):
            raise NotAvailable("its log-likelihood isn't one number for each image")
        return torch.cat([v.cpu().double() for v in found])

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
        found = [model.encode(x, y).float().cpu() for x, y in _batches(context, images, where, f"codes-{self.split}")]
        codes = torch.cat(found)
        if len(codes) != len(where):
            raise NotAvailable(f"it has {len(codes)} codes of {len(where)} images")
        return LabelledCodes(codes, images.labels(where, "cpu"))


@dataclass(frozen=True)
class DiscreteCodes(Request[Indices]):
    """Indices of the test split."""

    def resolve(self, context: Context) -> Indices:
        model = require(context.model, abilities.HasCodes)
        images = context.data.test
        found = [model.codes(x).cpu() for x, _ in _batches(context, images, positions(images), "discrete-codes")]
        return Indices(torch.cat(found), model.codebook_size)


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
    """Samples as decoder means, quantised: (n, C, H, W) uint8 on the CPU. n is the scoring protocol's.

    `prior` is the model's own, or what a fixed set holds of so many. `gmm` draws codes from a full-covariance Gaussian
    mixture fitted on training codes, the same for all models (Ghosh et al. 2020, ex-post density estimation).
    """

    sampler: Sampler = "prior"

    def resolve(self, context: Context) -> Tensor:
        if self.sampler == "prior" and isinstance(context.model, abilities.HoldsSamples):
            return context.model.held_samples()[: context.scoring.samples].cpu()
        labels = context.get(SampledLabels()).to(context.device)
        if self.sampler == "prior":
            model = require(context.model, abilities.Samples)

            def draw(part: slice) -> Tensor:
                return model.sample(labels[part])
        else:
            decoder = require(context.model, abilities.Decodes)
            codes = context.get(MixtureCodes()).to(context.device)

            def draw(part: slice) -> Tensor:
                return decoder.decode(codes[part], labels[part])

        found = []
        for part in context.chunks(len(labels), f"samples-{self.sampler}"):
            shape = (part.stop - part.start, *context.data.train.shape)
            found.append(to_uint8(_checked(draw(part), shape, "samples")).cpu())
        return torch.cat(found)

    def keep(self, value: Tensor) -> dict[str, Tensor]:
        return {"samples" if self.sampler == "prior" else f"samples_{self.sampler}": value[:SHOWN]}


def _checked(x: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if x.shape != shape:
        raise NotAvailable(f"its {what} are {tuple(x.shape)}, and should be {shape}")
    if not bool(((x >= -OVERSHOOT) & (x <= 1 + OVERSHOOT)).all()):
        raise NotAvailable(f"its {what} aren't images in [0, 1]{', but hold NaN' if bool(x.isnan().any()) else ''}")
    return x


@dataclass(frozen=True)
class MixtureCodes(Request[Tensor]):
    """Draws from a Gaussian mixture fitted on training codes: (n, d) float32."""

    def resolve(self, context: Context) -> Tensor:
        from sklearn.mixture import GaussianMixture

        if isinstance(context.model, abilities.HasCodes):
            raise NotAvailable("its codes are discrete: a Gaussian mixture has no density over a grid of symbols")
        scoring = context.scoring
        codes = context.get(Codes("train", scoring.codes)).codes.double().numpy()
        components = min(scoring.mixture, max(1, len(codes) // (2 * codes.shape[1])))
        seed = seed_for("mixture") % 2**32
        mixture = GaussianMixture(components, reg_covar=1e-6 * max(float(codes.var()), 1e-12), random_state=seed)
        try:
            with limited(1):  # its matrices are too small to share: two threads take three times as long
                mixture.fit(codes)
        except ValueError as error:
            raise NotAvailable(f"the mixture can't be fitted on its codes: {error}") from None
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
        found = []
        for x, y in _batches(context, images, positions(images, self.n), "reconstructions"):
            decoded = decoder.decode(encoder.encode(x, y), y)
            found.append(to_uint8(_checked(decoded, tuple(x.shape), "reconstructions")).cpu())
        return torch.cat(found)

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


#: What every cell keeps on disk, whatever metrics were asked for.
KEPT: tuple[Request[Any], ...] = (
    Terms(),
    LogLikelihood(),
    KeptCodes(),
    Generated("prior"),
    Generated("gmm"),
    Reconstructions(),
)
