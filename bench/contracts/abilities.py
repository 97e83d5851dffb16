"""What a trained model may be able to do, one small protocol each.

A metric or a verb asks for the ability, never for the name. What a model lacks is n/a with the reason: `Variant.lacks`
if the model gives one, the ability's own sentence otherwise.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from bench.util.errors import NotAvailable


@runtime_checkable
class Samples(Protocol):
    """It can draw images."""

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        """One image for each class in `y` (B,): decoder means (B, C, H, W) in [0, 1]. Unconditional: only B counts."""
        ...


@runtime_checkable
class HoldsSamples(Protocol):
    """Its samples are a fixed set of images."""

    def held_samples(self) -> Tensor:
        """All of them: (N, C, H, W) uint8. The first are scored, each once, in the place of as many draws."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """It maps an image to a code."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W), (B,) to codes (B, d); of a posterior, its mean."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """It maps a code to an image."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """(B, d), (B,) to decoder means (B, C, H, W) in [0, 1]."""
        ...


@runtime_checkable
class HasPosterior(Protocol):
    """It has an approximate posterior q(z|x)."""

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        """q(z|x) with batch shape (B, d) or (B,) and reparametrised samples (B, d)."""
        ...


@runtime_checkable
class HasPrior(Protocol):
    """It has a density p(z) over codes."""

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z), (..., d) to (...), in nats."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """It assigns an image a likelihood given the image's own code."""

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x|z) at the model's own z for x: (B,), in nats."""
        ...


@runtime_checkable
class Bound(Protocol):
    """It bounds log p(x) from below."""

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) (B,) and the rate (B,) or (B, L), in nats; their difference is the ELBO, whatever was trained.

        `y` is what a model may know of an unlabelled image: -1. A conditional model sums the labels out.
        """
        ...


@runtime_checkable
class ConditionalBound(Protocol):
    """It bounds log p(x|y) from below."""

    def conditional_elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z, y) (B,) and the rate (B,) or (B, L), in nats, given the true label."""
        ...


@runtime_checkable
class Weighs(Protocol):
    """It has importance weights log p(x, z) - log q(z|x)."""

    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        """(k, B), in nats, for k draws from q(z|x)."""
        ...


@runtime_checkable
class HasCodes(Protocol):
    """Its codes are discrete."""

    codebook_size: int

    def codes(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to indices (B, L) in 0..codebook_size-1."""
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
"""The abilities, and the reason for n/a where a model lacks one and gives no reason of its own."""

A = TypeVar("A")


def why_not(model: Any, ability: type) -> str | None:
    """Return None where `model` has the ability, else the reason for n/a."""
    lacks: dict[type, str] = getattr(model, "lacks", {})
    if ability in lacks:
        return lacks[ability]
    if isinstance(model, ability):
        return None
    return ABILITIES.get(ability, f"it lacks the ability {ability.__name__}")


def require(model: Any, ability: type[A]) -> A:
    """`model`, known to have `ability`.

    Raises:
        NotAvailable: it hasn't; the message is the reason.
    """
    if (reason := why_not(model, ability)) is not None:
        raise NotAvailable(reason)
    able: A = model
    return able
