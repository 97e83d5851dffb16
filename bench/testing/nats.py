"""Checks of quantities in nats: reported terms, bounds, rates, importance weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.contracts import abilities as able
from bench.contracts.abilities import why_not
from bench.contracts.variant import Variant
from bench.testing.digits import Mean, N, batch_of, draws
from bench.testing.kit import Failed, Skipped
from bench.testing.models import has
from bench.testing.subject import VariantSubject, Visit


class _Terms(NamedTuple):
    """A method that gives log p(x|z) of some images and, if it is a bound, the rate."""

    method: str
    y: Tensor  #: the labels that it is called with
    call: Callable[[], dict[str, Tensor]]  #: `log_px` (n,), and `rate` (n,) of a bound


def _bound(subject: VariantSubject, model: Any, n: int = N) -> _Terms:
    """Return the bound of n images, given their labels if the model has such a bound.

    Raises:
        Skipped: it has no bound.
    """
    batch = batch_of(subject.spec, n)
    if has(model, able.ConditionalBound) and subject.spec.classes:
        method, y = "conditional_elbo_terms", batch.y
    elif has(model, able.Bound):
        method, y = "elbo_terms", torch.full_like(batch.y, -1)
    else:
        raise Skipped(f"it has no bound: {why_not(model, able.Bound)}")

    @torch.no_grad()
    def call() -> dict[str, Tensor]:
        log_px, rate = getattr(model, method)(batch.x, y)
        return {"log_px": log_px, "rate": rate.flatten(1).sum(1) if rate.ndim > 1 else rate}

    return _Terms(method, y, call)


def _likelihood(subject: VariantSubject, model: Any) -> _Terms:
    """Return the bound, or without one the likelihood of images given their own codes.

    Raises:
        Skipped: it has neither.
    """
    if has(model, able.Bound) or has(model, able.ConditionalBound):
        return _bound(subject, model)
    if not has(model, able.Reconstructs):
        raise Skipped("it has no likelihood: neither a bound nor log_likelihood")
    x, y = subject.batch.x, subject.batch.y
    return _Terms("log_likelihood", y, torch.no_grad()(lambda: {"log_px": model.log_likelihood(x, y)}))


def _untrained_and_trained(subject: VariantSubject) -> tuple[tuple[Variant, str], ...]:
    return (subject.build().eval(), "untrained"), (subject.trained, "trained")


def _times(subject: VariantSubject, value: float, reference: float) -> str:
    """Return the factor between two numbers in words, with the usual mistake that gives this factor."""
    if value * reference < 0:
        return f"the sign is wrong ({value / reference:.3g} times)"
    if not value or not reference:
        return "one of them is 0"
    c, h, w = subject.spec.shape
    latents = getattr(subject.trained, "latent_dim", None) or subject.spec.latent_dim
    factor = abs(reference / value)
    usual = {
        "a mean over pixels and channels instead of a sum": c * h * w,
        "a mean over pixels instead of a sum": h * w,
        "a mean over latents instead of a sum": latents,
        "divided by the batch size once too often": N,
        "a sum over images instead of a mean": 1 / N,
        "in bits instead of nats": math.log(2),
    }
    why = next((f": {mistake}" for mistake, of in usual.items() if abs(math.log(factor / of)) < 0.05), "")
    return f"{factor:.3g} times smaller{why}" if factor > 1 else f"{1 / factor:.3g} times larger{why}"


def terms_are_in_nats(subject: VariantSubject) -> None:
    """The terms `rec` and `kl` are -log p(x|z) and the rate, in nats per image."""
    model = subject.trained
    terms = _likelihood(subject, model)
    if terms.method == "elbo_terms" and subject.plugin.uses_labels:
        raise Skipped("its losses see the label, and its bound does not: add conditional_elbo_terms to compare them")
    compared = []

    def look(visit: Visit) -> None:
        model.eval()
        scored = draws(terms.call)
        reported = draws(lambda: visit.loss(subject.batch)[1])
        for term, key, name, sign in (("rec", "log_px", "-log p(x|z)", -1), ("kl", "rate", "the rate", 1)):
            if term not in reported or key not in scored:
                continue
            compared.append(term)
            value, reference = Mean.of(reported[term]), Mean.of(sign * scored[key].mean(1))
            if not value.agrees(reference, 0.02):
                c, h, w = subject.spec.shape
                raise Failed(
                    f"{term} is {value} at {c}x{h}x{w}, but {name} of {terms.method} is {reference}: "
                    + _times(subject, value.value, reference.value),
                    visit.loss,
                    f"Sum {term} over {'pixels' if term == 'rec' else 'latents'} and average it over images, in nats.",
                )

    subject.visit(model, look)
    if not compared:
        raise Skipped("no phase reports `rec` or `kl`")


def bound_agrees_with_its_parts(subject: VariantSubject) -> None:
    """The bound's terms agree with posterior, prior and decoder."""
    model: Any = subject.trained
    method, y, call = _bound(subject, model)
    if not has(model, able.HasPosterior, able.HasPrior):
        raise Skipped("no posterior and prior to compare its bound with")
    x = subject.batch.x
    bernoulli = subject.spec.likelihood == "bernoulli" and has(model, able.Decodes)

    @torch.no_grad()
    def parts() -> dict[str, Tensor]:
        q = model.posterior(x, y)
        z = q.rsample()
        log_q = q.log_prob(z)
        terms = {"rate": (log_q.sum(-1) if log_q.ndim > 1 else log_q) - model.log_prior(z)}
        if bernoulli:
            m = model.decode(z, y)
            log_p = torch.xlogy(x, m) + torch.xlogy(1 - x, 1 - m)
            known = (x == 1) | (m < 1 - 1e-5)  # nearer to 1, a float's 1 - m is rounded away
            terms["log_px"] = log_p.where(known, torch.nan).flatten(1).sum(1)
        return terms

    bound, expected = draws(call, 30), draws(parts, 30)
    for key, what, fix in (
        ("rate", "the rate", "Return E_q[log q(z|x) - log p(z)], at a weight of 1."),
        ("log_px", "log p(x|z)", "Return spec.make_likelihood().log_prob(x, raw decoder outputs), unweighted."),
    ):
        if key not in expected or not bool(expected[key].isfinite().all()):
            continue
        value, reference = Mean.of(bound[key].mean(1)), Mean.of(expected[key].mean(1))
        if not value.agrees(reference, 0.02):
            raise Failed(
                f"{what} of {method} is {value}, but {reference} by posterior, prior and decoder: "
                + _times(subject, value.value, reference.value),
                subject.where(method),
                fix,
            )


def bound_is_possible(subject: VariantSubject) -> None:
    """log p(x|z) is not above the maximum that any model of these pixels can reach."""
    kind, name = subject.build().spec.make_likelihood().kind, subject.spec.likelihood
    if kind == "density":
        raise Skipped(f"{name} is a density: it has no upper bound")
    x = subject.batch.x.double()
    entropy = -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1).mean()
    ceiling = -float(entropy) if kind == "bound" else 0.0
    for model, when in _untrained_and_trained(subject):
        terms = _likelihood(subject, model)
        value = Mean.of(draws(terms.call, 10)["log_px"].mean(1))
        if value.value > ceiling + 1e-3 * abs(ceiling) + 1e-3:
            why = "the entropy of the pixels" if kind == "bound" else "a mass is at most 1"
            raise Failed(
                f"log p(x|z) is {value} {when}, above the {ceiling:.4g} that is possible ({why})",
                subject.where(terms.method),
                "Sum it over pixels and channels, and compute it by spec.make_likelihood().log_prob.",
            )


def kl_is_not_negative(subject: VariantSubject) -> None:
    """The rate of the bound is at least 0."""
    for model, when in _untrained_and_trained(subject):
        terms = _bound(subject, model)
        rate = draws(terms.call, 10)["rate"]
        mean = Mean.of(rate.mean(1))
        lowest = float(rate.min()) if bool((rate == rate[0]).all()) else 0.0  # without noise, for each image
        if mean.value < -(1e-3 + 4 * mean.error) or lowest < -1e-3:
            raise Failed(
                f"the rate is {min(mean.value, lowest):.4g} {when}",
                subject.where(terms.method),
                "Return a KL divergence or a code length, which is at least 0. The ELBO is log p(x|z) minus it.",
            )


def elbo_is_below_the_importance_weighted_bound(subject: VariantSubject) -> None:
    """The mean of the log-weights is the ELBO, and the bound of 50 draws isn't below it.

    Where a model sums labels out, each weight is a sum over them: the mean of its logarithm lies above the ELBO.
    """
    model: Any = subject.trained
    if not has(model, able.Weighs):
        raise Skipped("it has no importance weights")
    method, y, call = _bound(subject, model, n := 16)
    x, look = batch_of(subject.spec, n).x, subject.where("log_weights")

    @torch.no_grad()
    def weigh() -> dict[str, Tensor]:
        log_w: Tensor = model.log_weights(x, y, 50)
        if log_w.shape != (50, n):
            wrong = f"log_weights of 50 draws and {n} images has shape {tuple(log_w.shape)}"
            raise Failed(wrong, look, "Return the shape (k, B).")
        return {"mean": log_w.mean(), "bound": (log_w.logsumexp(0) - math.log(50)).mean()}

    weighed = draws(weigh, 10)
    elbo = Mean.of(draws(lambda: {"": (terms := call())["log_px"].mean() - terms["rate"].mean()}, 30)[""])
    mean, tighter = Mean.of(weighed["mean"]), Mean.of(weighed["bound"])
    summed = method == "elbo_terms" and getattr(model, "uses_labels", False)
    if not mean.agrees(elbo, 0.01) and not (summed and mean.value > elbo.value):
        raise Failed(
            f"the mean of log_weights is {mean}, but the ELBO of {method} is {elbo}: "
            + _times(subject, mean.value, elbo.value),
            look,
            "Return log p(x|z) + log p(z) - log q(z|x), for draws z from q(z|x).",
        )
    if tighter.value < elbo.value - 4 * (tighter.error + elbo.error) - 1e-4 * abs(elbo.value):
        wrong = f"the importance-weighted bound of 50 draws is {tighter}, below the ELBO, {elbo}"
        raise Failed(wrong, look, "Draw z from q(z|x) anew for each of the k weights.")


def training_helps_the_bound(subject: VariantSubject) -> None:
    """The bound on the training images, or their likelihood, isn't lower after training than before."""
    values, terms = [], _likelihood(subject, subject.trained)
    for model, _ in _untrained_and_trained(subject):
        drawn = draws(_likelihood(subject, model).call, 10)
        values.append(drawn["log_px"].mean(1) - drawn.get("rate", torch.zeros_like(drawn["log_px"])).mean(1))
    before, after = values
    change = Mean.of(after - before)
    if change.value < -3 * change.error - 0.02 * float(before.mean().abs()):
        what = "the likelihood" if terms.method == "log_likelihood" else "the ELBO"
        raise Failed(
            f"training makes {what} worse: {before.mean():.4g} before, {after.mean():.4g} after",
            f"{subject.where('stages')}, against {subject.where(terms.method)}",
            "Look for a wrong sign: the trainer minimises the loss, which is rec + KL, or minus a bound.",
        )


CHECKS = (
    terms_are_in_nats, bound_agrees_with_its_parts, bound_is_possible, kl_is_not_negative,
    elbo_is_below_the_importance_weighted_bound, training_helps_the_bound,
)  # fmt: skip
