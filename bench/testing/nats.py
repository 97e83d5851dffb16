"""Checks of what is said in nats: terms, bounds, rates, weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.contracts.abilities import Bound, ConditionalBound, Decodes, HasPosterior, HasPrior, Reconstructs, Weighs
from bench.contracts.variant import Variant
from bench.testing.kit import Failed, Skipped
from bench.testing.subject import Mean, N, Subject, Visit, batch_of, draws, has


def _times(subject: Subject, value: float, reference: float) -> str:
    """By which factor a number is off, and what mistake that factor usually is."""
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


def _log_likelihood(subject: Subject, model: Variant) -> tuple[str, Callable[[], dict[str, Tensor]]]:
    """log p(x|z) of its bound, or of its own codes."""
    if has(model, Bound) or has(model, ConditionalBound):
        return subject.terms(model)
    if not has(model, Reconstructs):
        raise Skipped("it has no likelihood: neither a bound nor log_likelihood")
    batch = subject.batch

    def call() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"log_px": model.log_likelihood(batch.x, batch.y)}  # type: ignore[operator]

    return "log_likelihood", call


def terms_are_in_nats(subject: Subject) -> None:
    """The terms `rec` and `kl` are -log p(x|z) and the rate, in nats per image."""
    model = subject.trained
    method, call = _log_likelihood(subject, model)
    if method == "elbo_terms" and subject.cls.uses_labels:
        raise Skipped("its losses see the label, and its bound doesn't: give it conditional_elbo_terms")
    compared = []

    def look(visit: Visit) -> None:
        model.eval()
        scored = draws(call)
        said = draws(lambda: visit.phase.loss(subject.batch)[1])
        for term, key, name, sign in (("rec", "log_px", "-log p(x|z)", -1), ("kl", "rate", "the rate", 1)):
            if term not in said or key not in scored:
                continue
            compared.append(term)
            value, reference = Mean.of(said[term]), Mean.of(sign * scored[key].mean(1))
            if not value.agrees(reference, 0.02):
                c, h, w = subject.spec.shape
                raise Failed(
                    f"{term} is {value} at {c}x{h}x{w}, but {name} of {method} is {reference}: "
                    + _times(subject, value.value, reference.value),
                    visit.where,
                    f"{term} is in nats: summed over {'pixels' if term == 'rec' else 'latents'}, a mean over images.",
                )

    subject.visit(model, look)
    if not compared:
        raise Skipped("no phase reports `rec` or `kl`")


def bound_agrees_with_its_parts(subject: Subject) -> None:
    """The bound's terms are what posterior, prior and decoder say that they are."""
    model = subject.trained
    method, call = subject.terms(model)
    if not has(model, HasPosterior, HasPrior):
        raise Skipped("no posterior and prior to compare its bound with")
    batch = subject.batch
    y = subject.unlabelled if method == "elbo_terms" else batch.y
    bernoulli = subject.spec.likelihood == "bernoulli" and has(model, Decodes)

    def parts() -> dict[str, Tensor]:
        with torch.no_grad():
            q = model.posterior(batch.x, y)  # type: ignore[operator]
            z = q.rsample()
            log_q = q.log_prob(z)
            found = {"rate": (log_q.sum(-1) if log_q.ndim > 1 else log_q) - model.log_prior(z)}  # type: ignore[operator]
            if bernoulli:
                x, m = batch.x, model.decode(z, y)  # type: ignore[operator]
                log_p = torch.xlogy(x, m) + torch.xlogy(1 - x, 1 - m)
                known = (x == 1) | (m < 1 - 1e-5)  # nearer to 1, a float's 1 - m is rounded away
                found["log_px"] = log_p.where(known, torch.nan).flatten(1).sum(1)
        return found

    said, expected = draws(call, 30), draws(parts, 30)
    for key, what, how in (
        ("rate", "the rate", "It's E_q[log q(z|x) - log p(z)], at a weight of 1."),
        ("log_px", "log p(x|z)", "It's spec.make_likelihood()'s log_prob of the decoder's raw outputs, unweighted."),
    ):
        if key not in expected or not bool(expected[key].isfinite().all()):
            continue
        value, reference = Mean.of(said[key].mean(1)), Mean.of(expected[key].mean(1))
        if not value.agrees(reference, 0.02):
            raise Failed(
                f"{what} of {method} is {value}, but {reference} by posterior, prior and decoder: "
                + _times(subject, value.value, reference.value),
                subject.where(method),
                how,
            )


def bound_is_possible(subject: Subject) -> None:
    """log p(x|z) isn't above what any model of these pixels can reach."""
    kind, name = subject.build().spec.make_likelihood().kind, subject.spec.likelihood
    if kind == "density":
        raise Skipped(f"{name} is a density: it has no upper bound")
    x = subject.batch.x.double()
    entropy = -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1).mean()
    ceiling = -float(entropy) if kind == "bound" else 0.0
    for model, when in ((subject.build().eval(), "untrained"), (subject.trained, "trained")):
        method, call = _log_likelihood(subject, model)
        value = Mean.of(draws(call, 10)["log_px"].mean(1))
        if value.value > ceiling + 1e-3 * abs(ceiling) + 1e-3:
            why = "the entropy of the pixels" if kind == "bound" else "a mass is at most 1"
            raise Failed(
                f"log p(x|z) is {value} {when}, above the {ceiling:.4g} that is possible ({why})",
                subject.where(method),
                "Sum it over pixels and channels; take it from spec.make_likelihood().",
            )


def kl_is_not_negative(subject: Subject) -> None:
    """The rate of the bound is at least 0."""
    for model, when in ((subject.build().eval(), "untrained"), (subject.trained, "trained")):
        method, call = subject.terms(model)
        rate = draws(call, 10)["rate"]
        mean = Mean.of(rate.mean(1))
        lowest = float(rate.min()) if bool((rate == rate[0]).all()) else 0.0  # without noise, for each image
        if mean.value < -(1e-3 + 4 * mean.error) or lowest < -1e-3:
            raise Failed(
                f"the rate is {min(mean.value, lowest):.4g} {when}",
                subject.where(method),
                "It's a KL divergence or a code length, in nats: never below 0. The ELBO is log p(x|z) minus it.",
            )


def elbo_is_below_the_importance_weighted_bound(subject: Subject) -> None:
    """The mean of the log-weights is the ELBO, and the bound of 50 draws isn't below it.

    Where a model sums labels out, each weight is a sum over them: the mean of its logarithm lies above the ELBO.
    """
    model = subject.trained
    if not has(model, Weighs):
        raise Skipped("it has no importance weights")
    method, call = subject.terms(model, n := 16)
    batch = batch_of(subject.spec, n)
    y = torch.full_like(batch.y, -1) if method == "elbo_terms" else batch.y

    def weigh() -> dict[str, Tensor]:
        with torch.no_grad():
            log_w: Tensor = model.log_weights(batch.x, y, 50)  # type: ignore[operator]
        if log_w.shape != (50, n):
            raise Failed(
                f"log_weights of 50 draws and {n} images has shape {tuple(log_w.shape)}", subject.where("log_weights")
            )
        return {"mean": log_w.mean(), "bound": (log_w.logsumexp(0) - math.log(50)).mean()}

    weighed = draws(weigh, 10)
    elbo = Mean.of(draws(lambda: {"": (terms := call())["log_px"].mean() - terms["rate"].mean()}, 30)[""])
    mean, tighter = Mean.of(weighed["mean"]), Mean.of(weighed["bound"])
    summed = method == "elbo_terms" and getattr(model, "uses_labels", False)
    if not mean.agrees(elbo, 0.01) and not (summed and mean.value > elbo.value):
        raise Failed(
            f"the mean of log_weights is {mean}, but the ELBO of {method} is {elbo}: "
            + _times(subject, mean.value, elbo.value),
            subject.where("log_weights"),
            "They're log p(x|z) + log p(z) - log q(z|x), for draws z from q(z|x).",
        )
    if tighter.value < elbo.value - 4 * (tighter.error + elbo.error) - 1e-4 * abs(elbo.value):
        raise Failed(
            f"the importance-weighted bound of 50 draws is {tighter}, below the ELBO, {elbo}",
            subject.where("log_weights"),
            "Each of the k draws is one of its own from q(z|x).",
        )


def training_helps_the_bound(subject: Subject) -> None:
    """The bound on the training images, or their likelihood, isn't lower after training than before."""
    found = []
    for model in (subject.build().eval(), subject.trained):
        method, call = _log_likelihood(subject, model)
        terms = draws(call, 10)
        found.append(terms["log_px"].mean(1) - terms.get("rate", torch.zeros_like(terms["log_px"])).mean(1))
    before, after = found
    change = Mean.of(after - before)
    if change.value < -3 * change.error - 0.02 * float(before.mean().abs()):
        what = "the likelihood" if method == "log_likelihood" else "the ELBO"
        raise Failed(
            f"training makes {what} worse: {before.mean():.4g} before, {after.mean():.4g} after",
            f"{subject.where('stages')}, against {subject.where(method)}",
            "The loss is descended: rec + KL, minus a bound. Look for a sign.",
        )


CHECKS = (
    terms_are_in_nats,
    bound_agrees_with_its_parts,
    bound_is_possible,
    kl_is_not_negative,
    elbo_is_below_the_importance_weighted_bound,
    training_helps_the_bound,
)
