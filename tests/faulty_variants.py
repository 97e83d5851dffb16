"""Variants that are wrong in one way each, and the checks that must catch them: the first is meant for it.

The others are those in which the same fault necessarily shows too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Batch, Bound, Images, Loss, Phase, Range, Spec, Stage, Unsuitable, Variant
from bench.blocks import EMAQuantizer, GaussianVAE, gaussian_kl, mlp
from tests.correct_variants import FactorVAE

T = TypeVar("T", bound=type[Variant])
WRONG: dict[type[Variant], tuple[str, ...]] = {}
NOTED: dict[type[Variant], tuple[str, str]] = {}
"""What isn't surely wrong: the check that must note it, and what it says."""


def caught_by(*checks: str) -> Callable[[T], T]:
    def register(cls: T) -> T:
        WRONG[cls] = checks
        return cls

    return register


def noted_by(check: str, says: str) -> Callable[[T], T]:
    def register(cls: T) -> T:
        NOTED[cls] = check, says
        return cls

    return register


def halves(model: GaussianVAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """-log p(x|z) and KL, (B,) and (B, d): what an honest VAE adds up."""
    mu, logvar = model.encode_terms(batch.x, batch.y)
    z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
    return -model.log_px(batch.x, z, batch.y), gaussian_kl(mu, logvar)


# nats


@caught_by("terms_are_in_nats")
class PixelMean(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        rec, kl = halves(self, batch)
        rec, kl = rec.mean() / 64, kl.sum(1).mean()
        return rec + kl, {"rec": rec, "kl": kl}


@caught_by("bound_is_possible", "bound_agrees_with_its_parts", "elbo_is_below_the_importance_weighted_bound")
class PixelMeanEverywhere(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        log_px, rate = self.elbo_terms(batch.x, batch.y)
        rec, kl = -log_px.mean(), rate.sum(1).mean()
        return rec + kl, {"rec": rec, "kl": kl}

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_px, rate = super().elbo_terms(x, y)
        return log_px / 64, rate


@caught_by("bound_is_possible")
class PixelMeanAndNoParts(Variant):
    """As consistent as can be: there is nothing in it to compare its bound with."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.logits = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        rec = -self.log_likelihood(batch.x, batch.y).mean()
        return rec, {"rec": rec}

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(self.logits.expand_as(x), x, reduction="none").mean((1, 2, 3))


@caught_by("terms_are_in_nats")
class LatentMean(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        rec, kl = halves(self, batch)
        return rec.mean() + kl.mean(), {"rec": rec.mean(), "kl": kl.mean()}


@caught_by("bound_agrees_with_its_parts", "terms_are_in_nats", "elbo_is_below_the_importance_weighted_bound")
class Bits(GaussianVAE):
    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_px, rate = super().elbo_terms(x, y)
        return log_px * 1.4427, rate * 1.4427


@caught_by("bound_agrees_with_its_parts", "terms_are_in_nats", "elbo_is_below_the_importance_weighted_bound")
class LogvarAsStd(GaussianVAE):
    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encode_terms(x, y)
        z = mu + torch.randn_like(mu) * logvar
        return self.log_px(x, z, y), gaussian_kl(mu, logvar)


@caught_by("kl_is_not_negative", "terms_are_in_nats", "bound_agrees_with_its_parts",
           "elbo_is_below_the_importance_weighted_bound")  # fmt: skip
class NegativeRate(GaussianVAE):
    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        log_px, rate = super().elbo_terms(x, y)
        return log_px, -rate


@caught_by("elbo_is_below_the_importance_weighted_bound")
class WeightsUpsideDown(GaussianVAE):
    def log_weights(self, x: Tensor, y: Tensor, k: int) -> Tensor:
        return -super().log_weights(x, y, k)


@caught_by("training_helps_the_bound")
class KLPushedUp(GaussianVAE):
    def weigh(self, kl: Tensor) -> Tensor:
        return -0.3 * kl


@caught_by("training_helps_the_bound")
class IWAEUpsideDown(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        log_w = self.log_weights(batch.x, batch.y, 5)
        return log_w.logsumexp(0).mean(), {}


# losses


@caught_by("loss_is_a_mean_over_images", "terms_are_in_nats")
class SumOverImages(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        rec, kl = halves(self, batch)
        return rec.sum() + kl.sum(), {"rec": rec.sum(), "kl": kl.sum()}


@caught_by("loss_is_a_mean_over_images")
class QuietSum(GaussianVAE):
    """Its terms are right."""

    def loss(self, batch: Batch) -> Loss:
        rec, kl = halves(self, batch)
        return rec.mean() + kl.sum(), {"rec": rec.mean(), "kl": kl.sum(1).mean()}


@caught_by("loss_is_one_finite_number", "phases_descend")
class NotFinite(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        return loss + torch.where(batch.progress > 0.4, torch.nan, 0.0), terms


@caught_by("loss_is_one_finite_number", "phases_descend")
class OnePerImage(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        rec, kl = halves(self, batch)
        return rec + kl.sum(1), {"rec": rec.mean()}


@caught_by("phases_descend", "training_helps_the_bound")
class Ascends(GaussianVAE):
    """It doesn't: the sign is turned in the gradient alone."""

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        return 2 * loss.detach() - loss, terms


@caught_by("stages_are_well_formed")
class NeverTrained(GaussianVAE):
    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.forgotten = nn.Parameter(torch.zeros(3))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.loss, (self.encoder, self.decoder, self.likelihood)),)),)


@caught_by("stages_are_well_formed")
class ListOfStages(GaussianVAE):
    def stages(self) -> tuple[Stage, ...]:
        return [Stage((Phase(self.loss),))]  # type: ignore[return-value]


@caught_by("every_weight_is_the_models")
class LayersInAList(GaussianVAE):
    """Torch doesn't see them: never trained, not saved."""

    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.regressors = [nn.Linear(self.latent_dim, 1) for _ in range(2)]

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        z, bright = self.encode(batch.x, batch.y), batch.x.mean((1, 2, 3))
        errors = [(regressor(z)[:, 0] - bright).square().mean() for regressor in self.regressors]
        return loss + torch.stack(errors).sum(), terms


@caught_by("phases_move_only_what_they_say", "stages_are_well_formed", "training_resumes_exactly")
class PrivateOptimizer(GaussianVAE):
    """It trains a regressor of its own inside of the loss, and its gradients reach the encoder."""

    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.regressor = nn.Linear(self.latent_dim, 1)
        self.private = torch.optim.Adam(self.regressor.parameters(), 1e-2)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.loss, (self.encoder, self.decoder, self.likelihood)),)),)

    def loss(self, batch: Batch) -> Loss:
        error = (self.regressor(self.encode(batch.x, batch.y)) - batch.x.mean((1, 2, 3))[:, None]).square().mean()
        error.backward()
        self.private.step()
        return super().loss(batch)


@caught_by("phases_move_only_what_they_say")
class GradientsLeft(GaussianVAE):
    """A penalty on the encoder's gradient, by a backward pass that reaches all weights."""

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        with torch.enable_grad():
            x = batch.x.clone().requires_grad_()
            self.encode(x, batch.y).square().sum().backward()
        return loss + 0 * x.grad.square().sum(), terms  # type: ignore[union-attr]


# players


class Adversarial(Variant):
    """A sound small GAN for others to break."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        pixels = math.prod(spec.shape)
        self.generator, self.critic = mlp(8, 100, pixels), mlp(pixels, 100, 1)
        self.likelihood = spec.make_likelihood()

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((
            Phase(self.critic_loss, (self.critic,), descends=False),
            Phase(self.generator_loss, (self.generator,), descends=False),
        )),)  # fmt: skip

    def critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            fake = self.sample(batch.y)
        real, fake = self.critic(torch.cat([batch.x, fake]).flatten(1)).chunk(2)
        return F.softplus(-real).mean() + F.softplus(fake).mean(), {}

    def generator_loss(self, batch: Batch) -> Loss:
        return F.softplus(-self.critic(self.sample(batch.y).flatten(1))).mean(), {}

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        z = temperature * torch.randn(len(y), 8, device=y.device)
        return self.likelihood.mean(self.generator(z).view(-1, *self.spec.shape))


@caught_by("players_do_not_pull_against_each_other")
class Leak(Adversarial):
    def stages(self) -> tuple[Stage, ...]:
        critic, generator = super().stages()[0].phases
        return (Stage((critic, Phase(generator.loss, descends=False))),)


@caught_by("players_do_not_pull_against_each_other")
class LeakIntoTheCritic(FactorVAE):
    """The VAE's phase moves everything, the critic of the total correlation too."""

    def stages(self) -> tuple[Stage, ...]:
        vae, critic = super().stages()[0].phases
        return (Stage((Phase(vae.loss), critic)),)


class Codes(Variant):
    """A sound small VQ-VAE with a histogram for its prior, for others to break."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        pixels = math.prod(spec.shape)
        self.encoder, self.decoder = mlp(pixels, 100, 4 * 8), mlp(4 * 8, 100, pixels)
        self.quantizer = EMAQuantizer(16, 8, 0.9)
        self.likelihood, self.codebook_size = spec.make_likelihood(), 16
        self.prior = nn.Parameter(torch.zeros(4, 16))

    def stages(self) -> tuple[Stage, ...]:
        codec = (self.encoder, self.decoder, self.quantizer, self.likelihood)
        return (Stage((Phase(self.loss, codec),)), Stage((Phase(self.prior_loss, (self.prior,)),)))

    def latents(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x.flatten(1))
        return z.view(-1, 8)

    def raw(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(z.reshape(-1, 32))
        return out.view(-1, *self.spec.shape)

    def commit(self, z_e: Tensor, z_q: Tensor, batch: Batch) -> Tensor:
        return 0.25 * (z_e - z_q).square().sum(1).mean()

    def loss(self, batch: Batch) -> Loss:
        z_e = self.latents(batch.x)
        z_q, _ = self.quantizer(z_e, batch.progress < 0.5)
        rec = -self.likelihood.log_prob(batch.x, self.raw(z_e + (z_q - z_e).detach())).mean()
        return rec + self.commit(z_e, z_q, batch), {"rec": rec}

    def prior_loss(self, batch: Batch) -> Loss:
        rate = self.elbo_terms(batch.x, batch.y)[1].sum(1).mean()
        return rate, {"rate": rate}

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        return self.quantizer.nearest(self.latents(x)).view(-1, 4)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.quantizer.codebook[self.codes(x)].flatten(1)

    def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        k = self.codes(x)
        rate = F.cross_entropy(self.prior.expand(len(k), -1, -1).transpose(1, 2), k, reduction="none")
        return self.likelihood.log_prob(x, self.raw(self.encode(x, y))), rate

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        k = torch.multinomial(self.prior.softmax(1), len(y), replacement=True).T
        return self.likelihood.mean(self.raw(self.quantizer.codebook[k]))


@caught_by("loss_is_a_mean_over_images")
class CommitmentTimesBatch(Codes):
    def commit(self, z_e: Tensor, z_q: Tensor, batch: Batch) -> Tensor:
        return super().commit(z_e, z_q, batch) * len(batch.x)


@caught_by("phases_move_only_what_they_say")
class CodesGoOnLearning(Codes):
    """The codebook follows its codes while the prior is fitted to them."""

    def prior_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            self.quantizer.train()(self.latents(batch.x), torch.zeros(()))
            self.quantizer.eval()
        return super().prior_loss(batch)


@caught_by("abilities_have_their_shapes")
class CodesOutOfRange(Codes):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.codebook_size = 4


# abilities


@caught_by("abilities_have_their_shapes")
class OutOfRange(GaussianVAE):
    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return 2 * super().sample(y, temperature) - 1


@caught_by("samples_follow_the_seed", "abilities_have_their_shapes", "stays_on_its_device")
class WrongCount(GaussianVAE):
    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return super().sample(torch.zeros(16), temperature)


@caught_by("samples_follow_the_seed")
class FixedNoise(GaussianVAE):
    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.register_buffer("noise", torch.randn(1024, self.latent_dim))

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * self.get_buffer("noise")[: len(y)], y)


@caught_by("abilities_have_their_shapes")
class FlatBatch(GaussianVAE):
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return super().encode(x, y)[:, None]


@caught_by("abilities_have_their_shapes")
class NothingToScore(Variant):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.image = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        return (batch.x - self.image).square().flatten(1).sum(1).mean(), {}


@caught_by("abilities_have_their_shapes")
class LacksWithoutAReason(GaussianVAE):
    lacks: ClassVar[dict[type, str]] = {Bound: ""}


class Labelled(GaussianVAE):
    """A sound conditional VAE, for others to break."""

    uses_labels = True
    lacks: ClassVar[dict[type, str]] = {Bound: "it doesn't sum the labels out"}

    def __init__(self, spec: Spec, **rest: Any) -> None:
        if not spec.classes:
            raise Unsuitable("it conditions on labels")
        super().__init__(spec, **rest)

    def context_width(self, spec: Spec) -> int:
        return 10

    def context(self, y: Tensor) -> Tensor:
        return F.one_hot(y, 10).float()

    def conditional_elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().elbo_terms(x, y)


@caught_by("labels_are_used_as_declared")
class LabelIgnored(GaussianVAE):
    uses_labels = True


@caught_by("labels_are_used_as_declared")
class LabelNotDeclared(Labelled):
    uses_labels = False


@caught_by("labels_are_used_as_declared")
class LabelsOnlyEncoded(GaussianVAE):
    """A bound given the label whose samples know none."""

    uses_labels = True

    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.shift = nn.Embedding(10, 2 * self.latent_dim)

    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = (self.encoder(x) + self.shift(y.clamp(min=0))).chunk(2, -1)
        return mu, logvar

    def conditional_elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().elbo_terms(x, y)


@caught_by("images_are_scored_one_by_one")
class BatchStatistics(GaussianVAE):
    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode_terms(x - x.mean(0), y)


@caught_by("scoring_changes_nothing")
class CountsScores(GaussianVAE):
    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.register_buffer("seen", torch.zeros(()))

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        self.get_buffer("seen").add_(len(x))
        return super().encode(x, y)


# noise and state


@caught_by("noise_is_torch_default", "stays_on_its_device")
class NumpyNoise(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        mu, logvar = self.encode_terms(batch.x, batch.y)
        z = mu + torch.from_numpy(np.random.randn(*mu.shape)).float() * (0.5 * logvar).exp()
        rec, kl = -self.log_px(batch.x, z, batch.y).mean(), gaussian_kl(mu, logvar).sum(1).mean()
        return rec + kl, {"rec": rec, "kl": kl}


@caught_by("noise_is_torch_default")
class PythonNoise(GaussianVAE):
    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return super().sample(y, temperature * random.uniform(0.9, 1.1))


@caught_by("noise_is_torch_default")
class SeedsTorch(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        torch.manual_seed(0)
        return super().loss(batch)


@caught_by("builds_at_several_sizes", "noise_is_torch_default")
class SeedsItsWeights(GaussianVAE):
    def __init__(self, spec: Spec, **rest: Any) -> None:
        torch.manual_seed(0)
        super().__init__(spec, **rest)


@caught_by("saved_weights_are_all", "training_resumes_exactly")
class MeanOutsideOfBuffers(GaussianVAE):
    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.loss),), start=self.look),)

    mean: Tensor | None = None

    def look(self, train: Images) -> None:
        self.mean = train.take(torch.arange(len(train))).float().mean(0) / 255

    def encode_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return super().encode_terms(x if self.mean is None else x - self.mean, y)


@caught_by("training_resumes_exactly")
class HiddenCounter(GaussianVAE):
    calls = 0

    def loss(self, batch: Batch) -> Loss:
        self.calls += 1
        rec, kl = halves(self, batch)
        rec, kl = rec.mean(), kl.sum(1).mean()
        return rec + min(1.0, self.calls / 100) * kl, {"rec": rec, "kl": kl}


@noted_by("training_resumes_exactly", "`calls` of the model")
class Counts(GaussianVAE):
    """No loss reads it yet."""

    calls = 0

    def loss(self, batch: Batch) -> Loss:
        self.calls += 1
        return super().loss(batch)


@noted_by("training_resumes_exactly", "`last` of encoder")
class KeepsATensor(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        vars(self.encoder)["last"] = terms["kl"].detach()
        return loss, terms


@caught_by("stays_on_its_device")
class NoiseOnTheCPU(GaussianVAE):
    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * torch.randn(len(y), self.latent_dim), y)


# constructors


@caught_by("hyperparameters_are_declared")
class Untyped(GaussianVAE):
    def __init__(self, spec: Spec, *, beta=4.0, **rest: Any) -> None:  # type: ignore[no-untyped-def]
        super().__init__(spec, **rest)


@caught_by("hyperparameters_are_declared")
class DefaultOutOfRange(GaussianVAE):
    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0, 1), "weight"] = 4.0, **rest: Any) -> None:
        super().__init__(spec, **rest)


@caught_by("hyperparameters_are_declared")
class Positional(GaussianVAE):
    def __init__(self, spec: Spec, beta: float = 4.0, **rest: Any) -> None:
        super().__init__(spec, **rest)


@caught_by("hyperparameters_are_declared")
class Unparsed(GaussianVAE):
    def __init__(self, spec: Spec, *, betas: Annotated[dict[str, float], "weights"] = {}, **rest: Any) -> None:  # noqa: B006
        super().__init__(spec, **rest)


@caught_by("builds_at_several_sizes")
class OnlySquares(GaussianVAE):
    """It raises at 20 x 24, and not `Unsuitable`."""

    def __init__(self, spec: Spec, **rest: Any) -> None:
        super().__init__(spec, **rest)
        torch.zeros(spec.shape[1:]) + torch.zeros(spec.shape[2], spec.shape[2])


@caught_by("builds_at_several_sizes")
class Unbuildable(Variant):
    def __init__(self, spec: Spec) -> None:
        raise ZeroDivisionError("no")


@caught_by("builds_at_several_sizes")
class NoSuper(Variant):
    def __init__(self, spec: Spec) -> None:
        self.image = nn.Linear(1, 1)


@caught_by("builds_at_several_sizes")
class SuperWithoutSpec(Variant):
    def __init__(self, spec: Spec) -> None:
        super().__init__()  # type: ignore[call-arg]


@caught_by("builds_at_several_sizes", "phases_descend", "loss_is_one_finite_number")
class LossOfTwo(GaussianVAE):
    def loss(self, x: Tensor, y: Tensor) -> Loss:  # type: ignore[override]
        return x.mean(), {}


@noted_by("no_name_is_nearly_the_contracts", "Misspelt defines `los`: is it meant to be `loss`?")
class Misspelt(GaussianVAE):
    def los(self, batch: Batch) -> Loss:
        return super().loss(batch)


@noted_by("no_name_is_nearly_the_contracts", "`use_labels`: is it meant to be `uses_labels`?")
class MisspeltFlag(GaussianVAE):
    use_labels = True


@noted_by("hyperparameters_change_something", "changing `beta` from 4 to 9 changes neither weights, losses nor samples")
class Unread(GaussianVAE):
    def __init__(self, spec: Spec, *, beta: Annotated[float, Range(0), "weight"] = 4.0, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.beta = beta


@noted_by("hyperparameters_change_something", "changing `prior` from normal to laplace")
class UnreadChoice(GaussianVAE):
    def __init__(
        self, spec: Spec, *, prior: Annotated[Literal["normal", "laplace"], "p(z)"] = "normal", **rest: Any
    ) -> None:
        super().__init__(spec, **rest)
