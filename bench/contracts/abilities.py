"""The abilities of trained models, one small protocol each.

A metric or a verb asks for an ability, never for a variant's name. If a model lacks an ability, the score is n/a with
a reason: the one in `Variant.lacks`, else the ability's own in `ABILITIES`.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from bench.util.errors import NotAvailable


@runtime_checkable
class Samples(Protocol):
    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw an image for each class in `y` (B,): decoder means (B, C, H, W) in [0, 1]. Without labels, y gives B."""
        ...


@runtime_checkable
class HoldsSamples(Protocol):
    def held_samples(self) -> Tensor:
        """Return a fixed set of images, (N, C, H, W) uint8; the first ones are scored instead of draws."""
        ...


@runtime_checkable
class Encodes(Protocol):
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """Map images (B, C, H, W) and labels (B,) to codes (B, d); for a posterior, its mean."""
        ...


@runtime_checkable
class Decodes(Protocol):
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Map codes (B, d) and labels (B,) to decoder means (B, C, H, W) in [0, 1]."""
        ...


@runtime_checkable
class HasPosterior(Protocol):
    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        """Return q(z|x) with batch shape (B, d) or (B,) and reparametrised samples (B, d)."""
        ...


@runtime_checkable
class HasPrior(Protocol):
    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z), (..., d) to (...), in nats."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log p(x|z) at the model's own z for x: (B,), in nats."""
        ...


@runtime_checkable
class Bound(Protocol):
    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x|z) (B,) and the rate (B,) or (B, L), in nats; their difference is the ELBO at beta = 1.

        `y` is -1, as for an unlabelled image. A conditional model sums the labels out.
        """
        ...


@runtime_checkable
class ConditionalBound(Protocol):
    def conditional_elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x|z, y) (B,) and the rate (B,) or (B, L), in nats, given the true label."""
        ...


@runtime_checkable
class Weighs(Protocol):
    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        """Return log p(x, z) - log q(z|x) for k draws from q(z|x): (k, B), in nats."""
        ...


@runtime_checkable
class HasCodes(Protocol):
    codebook_size: int

    def codes(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to indices (B, L) in 0..codebook_size-1."""
        ...


ABILITIES: dict[type, str] = {
    Samples: "it can't draw images",
    HoldsSamples: "its samples aren't a fixed set of images",
    Encodes: "it doesn't map an image to a code",
    Decodes: "it doesn't map a code to an image",
    HasPosterior: "it lacks an approximate posterior q(z|x)",
    HasPrior: "it lacks a density p(z) over codes",
    Reconstructs: "it doesn't assign an image a likelihood given the image's own code",
    Bound: "it doesn't bound log p(x) from below",
    ConditionalBound: "it doesn't bound log p(x|y) from below",
    Weighs: "it lacks importance weights log p(x, z) - log q(z|x)",
    HasCodes: "its codes aren't discrete",
}
"""All abilities, each with the reason for n/a if a model lacks it and gives no reason of its own."""

A = TypeVar("A")


def why_not(model: Any, ability: type) -> str | None:
    """Return None if `model` has the ability, else the reason for n/a."""
    lacks: dict[type, str] = getattr(model, "lacks", {})
    if ability in lacks:
        return lacks[ability]
    if isinstance(model, ability):
        return None
    return ABILITIES.get(ability, f"it lacks the ability {ability.__name__}")


def require(model: Any, ability: type[A]) -> A:
    """Return `model`, typed as having `ability`.

    Raises:
        NotAvailable: it lacks the ability; the message is the reason.
    """
    if (reason := why_not(model, ability)) is not None:
        raise NotAvailable(reason)
    able: A = model
    return able
