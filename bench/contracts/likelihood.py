"""Pixel likelihoods p(x|z), in nats per image, summed over pixels and channels.

A decoder returns raw outputs of shape (..., C, H, W), which the likelihood interprets. Likelihoods belong to the suite,
so no variant can scale, average or clamp its reconstruction term differently from another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.plugins.hyperparameters import Range, parse_call

Kind = Literal["bound", "mass", "density"]


class Likelihood(nn.Module, ABC):
    """p(x|z) for images of `shape` (C, H, W) in [0, 1]."""

    kind: ClassVar[Kind]  #: whether `log_prob` is a mass, a density or only a bound for the grey or colour data

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Return log p(x|z) in nats for x (B, C, H, W) and raw outputs (..., B, C, H, W): (..., B)."""

    @abstractmethod
    def location(self, out: Tensor) -> Tensor:
        """Return the mean of p(x|z), in the shape of `out`; differentiable everywhere."""

    def mean(self, out: Tensor) -> Tensor:
        """Return E[x|z] as an image in [0, 1], to be shown and scored as a sample."""
        return self.location(out).clamp(0, 1)


class Bernoulli(Likelihood):
    """Binary pixels with probability sigmoid(out); for grey x in [0, 1] the cross-entropy, exact in expectation.

    BCE is linear in its target: for grey x it equals E over b ~ Bernoulli(x) of -log p(b|z), so -(BCE + KL) bounds the
    log-likelihood of dynamically binarised images, not that of the grey ones (no bits/dim).
    """

    kind = "bound"

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        target = x.expand_as(out)
        return -F.binary_cross_entropy_with_logits(out, target, reduction="none").flatten(-3).sum(-1)

    def location(self, out: Tensor) -> Tensor:
        return out.sigmoid()


class ContinuousBernoulli(Likelihood):
    """The Bernoulli's cross-entropy, normalised over [0, 1]: a density of the grey pixels themselves.

    p(x) = C(l) l^x (1 - l)^(1 - x) with l = sigmoid(out) and C(l) = 2 atanh(1 - 2l) / (1 - 2l). Loaiza-Ganem &
    Cunningham 2019, eq. 3 and 6. The mean is not l.
    """

    kind = "density"

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        cross_entropy = F.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none")
        return (_log_normaliser(out) - cross_entropy).flatten(-3).sum(-1)

    def location(self, out: Tensor) -> Tensor:
        # l / (2l - 1) + 1 / (2 atanh(1 - 2l)) = (1 + coth(out / 2)) / 2 - 1 / out
        near = out.abs() < NEAR_ZERO
        safe = torch.where(near, 1.0, out)
        far = 0.5 * (1 + 1 / torch.tanh(0.5 * safe)) - 1 / safe
        return torch.where(near, 0.5 + out / 12 - out**3 / 720, far)


NEAR_ZERO = 0.2  #: smaller logits use series, as the closed forms approach 0 / 0


def _log_normaliser(out: Tensor) -> Tensor:
    """Return log C(sigmoid(out)) = log(out / tanh(out / 2)), by its series around 0."""
    near = out.abs() < NEAR_ZERO
    safe = torch.where(near, 1.0, out)
    square = out.square()
    series = math.log(2) + square / 12 - 7 * square.square() / 1440
    return torch.where(near, series, torch.log(safe / torch.tanh(0.5 * safe)))


class Gaussian(Likelihood):
    """N(out, sigma^2 I), normalised, on the [0, 1] scale: a density. `learned`: one sigma, shared and trained."""

    kind = "density"

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        sigma: Annotated[float, Range(0, exclusive=True), "standard deviation of a pixel"] = 1.0,
        learned: Annotated[bool, "train sigma, starting from the given value"] = False,
    ) -> None:
        super().__init__(shape)
        log_sigma = torch.tensor(math.log(sigma))
        if learned:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        error = ((x - out) * torch.exp(-self.log_sigma)).square().flatten(-3).sum(-1)
        d = math.prod(self.shape)
        return -0.5 * error - d * (self.log_sigma + 0.5 * math.log(2 * math.pi))

    def location(self, out: Tensor) -> Tensor:
        return out


class Logistic(Likelihood):
    """Discretised logistic over the 256 grey levels, one learned scale a channel: a mass, so bits/dim mean something.

    Salimans et al. 2017 (PixelCNN++), eq. 2, with one component. The mean is sigmoid(out), so it stays in the image's
    range. The outermost levels take the tails.
    """

    kind = "mass"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.full((shape[0], 1, 1), math.log(0.1)))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        level = (x * 255).round()
        centred = level / 255 - out.sigmoid()
        inverse, half = torch.exp(-self.log_scale), 0.5 / 255
        upper, lower = (centred + half) * inverse, (centred - half) * inverse
        width = 2 * half * inverse
        # log(sigmoid(upper) - sigmoid(lower)), without the difference
        middle = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        log_p = torch.where(level <= 0, F.logsigmoid(upper), torch.where(level >= 255, F.logsigmoid(-lower), middle))
        return log_p.flatten(-3).sum(-1)

    def location(self, out: Tensor) -> Tensor:
        return out.sigmoid()


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "logistic": Logistic,
}


def likelihood(text: str, shape: tuple[int, int, int]) -> Likelihood:
    """Build a likelihood from text such as `bernoulli`, `logistic` or `gaussian[sigma=0.1,learned=true]`.

    Raises:
        UsageError: an unknown likelihood, or a wrong argument for it.
    """
    cls, arguments = parse_call("likelihood", text, LIKELIHOODS)
    return cls(shape, **arguments)
