"""Checks of what is scored: abilities, seeds, labels, and that a score is of the saved weights and of one image."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributions import Distribution

from bench.contracts import abilities
from bench.contracts.abilities import (
    ABILITIES,
    Bound,
    ConditionalBound,
    Decodes,
    Encodes,
    HasCodes,
    HasPosterior,
    HasPrior,
    Reconstructs,
    Samples,
    Weighs,
)  # fmt: skip
from bench.engine.snapshot import fill, seeded
from bench.testing.kit import Failed, Noted, Skipped
from bench.testing.subject import CPU, Mean, N, Subject, Visit, changed, draws, has, kept, listed, part, trains

Calls = dict[str, Callable[[], Any]]


def calls(model: Any, x: Tensor, y: Tensor) -> Calls:
    """All that a metric may ask this model, by method."""
    unlabelled = torch.full_like(y, -1)
    every: dict[str, tuple[type, Callable[[], Any]]] = {
        "sample": (Samples, lambda: model.sample(y)),
        "encode": (Encodes, lambda: model.encode(x, y)),
        "log_likelihood": (Reconstructs, lambda: model.log_likelihood(x, y)),
        "elbo_terms": (Bound, lambda: model.elbo_terms(x, unlabelled)),
        "conditional_elbo_terms": (ConditionalBound, lambda: model.conditional_elbo_terms(x, y)),
        "log_weights": (Weighs, lambda: model.log_weights(x, y, 3)),
        "codes": (HasCodes, lambda: model.codes(x)),
    }
    found = {name: call for name, (ability, call) in every.items() if has(model, ability)}
    if has(model, Encodes, Decodes):
        found["decode"] = lambda: model.decode(model.encode(x, y), y)
    return found


@torch.no_grad()
def ask(call: Callable[[], Any], seed: int = 0) -> Tensor:
    """What a method gives under a seed, as one tensor."""
    with seeded(seed, CPU):
        found = call()
    return torch.cat([t.flatten() for t in found]) if isinstance(found, tuple) else found.clone()


def abilities_have_their_shapes(subject: Subject) -> None:
    """Each ability gives shapes, types and ranges as `bench.contracts.abilities` says; what it `lacks` has a reason."""
    model: Any = subject.trained
    x, y, shape = subject.batch.x, subject.batch.y, (N, *subject.spec.shape)
    for ability, reason in subject.cls.lacks.items():
        if ability not in ABILITIES:
            raise Failed(
                f"{ability!r} in `lacks` is no ability", should="Its keys are protocols of bench.contracts.abilities."
            )
        if not isinstance(reason, str) or not reason.strip():
            raise Failed(f"`lacks` gives no reason for {ability.__name__}", should="The reason is shown in the table.")
    if not any(has(model, a) for a in (Samples, Encodes, Reconstructs, Bound, ConditionalBound)):
        raise Failed(
            "nothing of it can be scored: it neither samples, nor encodes, nor has a likelihood or bound",
            subject.cls.__name__,
            "Give it at least sample(y), encode(x, y) or elbo_terms(x, y): see bench.contracts.abilities.",
        )

    def expect(name: str, value: Any, *, shapes: tuple[tuple[int, ...], ...] = (), dims: int | None = None) -> None:
        if not isinstance(value, Tensor):
            raise Failed(f"{name} gives {type(value).__name__}", subject.where(name), "It gives a tensor.")
        if (shapes and value.shape not in shapes) or (dims is not None and (value.ndim != dims or len(value) != N)):
            right = " or ".join(map(str, shapes)) or f"({N}, d)"
            raise Failed(f"{name} gives {tuple(value.shape)} for {N} images", subject.where(name), f"It's {right}.")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise Failed(f"{name} gives values that aren't finite", subject.where(name))

    def image(name: str, value: Any) -> None:
        expect(name, value, shapes=(shape,))
        if not 0 <= float(value.min()) <= float(value.max()) <= 1:
            low, high = float(value.min()), float(value.max())
            raise Failed(
                f"{name} gives pixels from {low:.3g} to {high:.3g}",
                subject.where(name),
                "They're decoder means in [0, 1]: spec.make_likelihood().mean(out).",
            )

    with torch.no_grad(), seeded(0, CPU):
        z = None
        if has(model, Encodes):
            expect("encode", z := model.encode(x, y), dims=2)
        if has(model, Decodes) and z is not None:
            image("decode", model.decode(z, y))
        if has(model, Samples):
            image("sample", model.sample(y))
            image("sample", model.sample(y, temperature=0.5))
        if has(model, Reconstructs):
            expect("log_likelihood", model.log_likelihood(x, y), shapes=((N,),))
        for ability, name, labels in (
            (Bound, "elbo_terms", subject.unlabelled),
            (ConditionalBound, "conditional_elbo_terms", y),
        ):
            if has(model, ability) and (ability is Bound or subject.spec.classes):
                terms = getattr(model, name)(x, labels)
                if not isinstance(terms, tuple) or len(terms) != 2:
                    raise Failed(f"{name} gives no pair", subject.where(name), "It gives log p(x|z) (B,) and the rate.")
                expect(name, terms[0], shapes=((N,),))
                expect(name, terms[1], shapes=((N,), (N, *terms[1].shape[1:2])))
        if has(model, HasCodes):
            expect("codes", k := model.codes(x), dims=2)
            if k.dtype != torch.int64 or int(k.min()) < 0 or int(k.max()) >= model.codebook_size:
                raise Failed(
                    f"codes gives {k.dtype} from {int(k.min())} to {int(k.max())}",
                    subject.where("codes"),
                    f"They're int64 indices from 0 to {model.codebook_size - 1}.",
                )
        if has(model, HasPosterior):
            q = model.posterior(x, y)
            if not isinstance(q, Distribution) or not q.has_rsample:
                raise Failed(f"posterior gives {q!r}", subject.where("posterior"), "It has reparametrised samples.")
            expect("posterior", drawn := q.rsample(), dims=2)
            expect("posterior", q.log_prob(drawn), shapes=((N,), tuple(drawn.shape)))
            if has(model, HasPrior):
                expect("log_prior", model.log_prior(drawn), shapes=((N,),))


def samples_follow_the_seed(subject: Subject) -> None:
    """One image for each label; the same under the same seed of torch, others under another."""
    model: Any = subject.trained
    if not has(model, Samples):
        raise Skipped(f"it draws no images: {abilities.why_not(model, Samples)}")
    for n in (1, 7):
        if len(found := ask(partial(model.sample, subject.batch.y[:n]))) != n:
            raise Failed(
                f"sample gives {len(found)} images for {n} labels", subject.where("sample"), "One for each: len(y)."
            )
    a, b, other = (ask(lambda: model.sample(subject.batch.y), seed) for seed in (0, 0, 1))
    if not torch.equal(a, b):
        raise Failed(
            "the same seed gives other samples", subject.where("sample"), "Draw from torch's default generator."
        )
    if torch.equal(a, other) and not trains(model):
        raise Noted("every sample is one image, and nothing of it is trained")
    if torch.equal(a, other):
        raise Failed(
            "every seed gives the same samples",
            subject.where("sample"),
            "Draw noise anew at each call, from torch's default generator.",
        )
    if torch.equal(a[0], a[10]):  # of the same class
        raise Failed("all samples of a class are one image", subject.where("sample"), "Each has noise of its own.")


def labels_are_used_as_declared(subject: Subject) -> None:
    """With `uses_labels`, labels change samples, codes, bounds or losses; without, they change none."""
    if not subject.spec.classes:
        raise Skipped("no labelled dataset is taken")
    model, batch = subject.trained, subject.batch
    zeros, ones = torch.zeros_like(batch.y), torch.ones_like(batch.y)
    one, other = (calls(model, batch.x, y) for y in (zeros, ones))
    differs = {name for name in one if not torch.equal(ask(one[name]), ask(other[name]))}

    def look(visit: Visit) -> None:
        found = []
        for y in (zeros, ones):
            before = kept(model)
            with seeded(0, CPU):
                found.append(visit.phase.loss(batch._replace(y=y))[0].detach())
            fill(model, before)
        if not torch.equal(found[0], found[1]):
            differs.add(visit.name)

    subject.visit(model, look)
    if differs and not subject.cls.uses_labels:
        raise Failed(
            f"labels change {listed(sorted(differs))}, and uses_labels is False",
            f"class {subject.cls.__name__}",
            "Say so, for its row is of another kind: uses_labels = True.",
        )
    if subject.cls.uses_labels and not differs:
        raise Failed(
            "uses_labels is True, and labels change nothing: neither samples, codes, bounds nor losses",
            f"class {subject.cls.__name__}",
            "Let them enter, or leave out uses_labels.",
        )
    if subject.cls.uses_labels and has(model, ConditionalBound, Samples) and "sample" not in differs:
        raise Failed(
            "it bounds log p(x|y), and its samples don't depend on y",
            subject.where("sample"),
            "sample(y) draws an image of each class in y.",
        )


def images_are_scored_one_by_one(subject: Subject) -> None:
    """In eval mode an image's codes, likelihood and bound don't depend on the images beside it."""
    model, batch = subject.trained, part(subject.batch, torch.arange(4))
    names = [n for n in calls(model, batch.x, batch.y) if n != "sample"]
    if not names:
        raise Skipped("it only samples")
    singles = [part(batch, torch.tensor([i])) for i in range(4)]
    for name in names:
        whole, *single = (calls(model, b.x, b.y)[name] for b in (batch, *singles))
        if torch.equal(ask(whole, 0), ask(whole, 1)):
            a, b = (v.double().flatten().sort().values for v in (ask(whole), torch.stack([ask(one) for one in single])))
            alike = torch.allclose(a, b, rtol=1e-3, atol=1e-3)
            numbers = f"they differ by up to {float((a - b).abs().max()):.3g}"
        else:
            drawn = draws(partial(_beside, whole, single), 10)
            together, apart = Mean.of(drawn["together"]), Mean.of(drawn["apart"])
            alike, numbers = together.agrees(apart, 0.01), f"their mean is {together} together and {apart} apart"
        if not alike:
            raise Failed(
                f"{name} of four images isn't that of each alone: {numbers}",
                subject.where(name),
                "No statistics of the batch in eval mode: a score is of one image.",
            )


def _beside(whole: Callable[[], Any], single: list[Callable[[], Any]]) -> dict[str, Tensor]:
    """A mean over images scored together, and over the same ones scored apart, each with noise of its own."""
    seed = torch.initial_seed()
    apart = torch.stack([ask(one, seed + 1 + i) for i, one in enumerate(single)])
    return {"together": ask(whole, seed).mean(), "apart": apart.mean()}


def scoring_changes_nothing(subject: Subject) -> None:
    """In eval mode, whatever is asked leaves parameters and buffers as they were."""
    model = subject.trained
    for name, call in calls(model, subject.batch.x, subject.batch.y).items():
        before = kept(model)
        ask(call)
        if (names := changed(model, before)) != []:
            raise Failed(
                f"{name} changes {listed(names)}", subject.where(name), "Follow images only where self.training."
            )


def noise_is_torch_default(subject: Subject) -> None:
    """Constructor, losses and samples draw from torch's default generator alone, and never seed it."""

    def watch(what: str, act: Callable[[], Any], look: str) -> None:
        with seeded(20, CPU):
            numbers, words = np.random.get_state(legacy=False), random.getstate()
            act()
            if torch.initial_seed() != 20:
                raise Failed(f"{what} seeds torch's generator", look, "No torch.manual_seed: the bench seeds it.")
            if str(np.random.get_state(legacy=False)) != str(numbers):
                raise Failed(f"{what} draws from numpy's generator", look, "Draw by torch.randn, torch.randint, ...")
            if random.getstate() != words:
                raise Failed(f"{what} draws from Python's generator", look, "Draw by torch.randn, torch.randint, ...")

    watch("the constructor", lambda: subject.cls(subject.spec, **subject.given), subject.where("__init__"))
    model = subject.trained

    def loss(visit: Visit) -> None:
        found = []
        for _ in range(2):
            before = kept(model)
            watch(visit.name, lambda: found.append(visit.phase.loss(subject.batch)[0].detach()), visit.where)
            fill(model, before)
        if not torch.equal(found[0], found[1]):
            raise Failed(
                f"{visit.name} isn't the same under the same seed: {found[0]:.6g}, then {found[1]:.6g}",
                visit.where,
                "It draws from torch's default generator alone, and remembers nothing from call to call.",
            )

    for name, call in calls(model, subject.batch.x, subject.batch.y).items():
        watch(name, torch.no_grad()(call), subject.where(name))
    subject.visit(model, loss)


def saved_weights_are_all(subject: Subject) -> None:
    """A fresh model with the saved weights samples, encodes and scores the same."""
    model, fresh = subject.trained, subject.build(seed=1)
    saved = load(save({k: v.detach().contiguous() for k, v in model.state_dict().items()}))
    try:
        fresh.load_state_dict(saved)
    except RuntimeError as error:
        raise Failed(
            f"its saved weights don't fit a fresh model: {' '.join(str(error).split())}",
            subject.where("__init__"),
            "Buffers have their size from the start.",
        ) from None
    fresh.eval()
    x, y = subject.batch.x, subject.batch.y
    for name, call in calls(model, x, y).items():
        a, b = ask(call), ask(calls(fresh, x, y)[name])
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-5, atol=1e-6):
            raise Failed(
                f"{name} of the loaded model isn't that of the trained one",
                subject.where(name),
                "All that it needs is in parameters and buffers (register_buffer): nothing else is saved.",
            )


CHECKS = (
    abilities_have_their_shapes,
    samples_follow_the_seed,
    labels_are_used_as_declared,
    images_are_scored_one_by_one,
    scoring_changes_nothing,
    noise_is_torch_default,
    saved_weights_are_all,
)
