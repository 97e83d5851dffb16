"""Checks of scoring: abilities, seeds, labels, one image at a time, and that saved weights are all of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributions import Distribution

from bench.contracts import abilities as able
from bench.contracts.abilities import why_not
from bench.engine.snapshot import fill
from bench.testing.digits import Mean, N, draws, select
from bench.testing.kit import Failed, Noted, Skipped, moved_generators, random_states, seeded
from bench.testing.models import changed, copy_state, has, listed, trains
from bench.testing.subject import VariantSubject, Visit

Call = Callable[[], Any]
TORCH_NOISE = "Draw from torch's default generator: torch.randn, torch.randint, ..."


def ability_calls(model: Any, x: Tensor, y: Tensor) -> dict[str, Call]:
    """Return the calls that metrics may make of this model, by method."""
    unlabelled = torch.full_like(y, -1)
    every: dict[str, tuple[type, Call]] = {
        "sample": (able.Samples, lambda: model.sample(y)),
        "encode": (able.Encodes, lambda: model.encode(x, y)),
        "log_likelihood": (able.Reconstructs, lambda: model.log_likelihood(x, y)),
        "elbo_terms": (able.Bound, lambda: model.elbo_terms(x, unlabelled)),
        "conditional_elbo_terms": (able.ConditionalBound, lambda: model.conditional_elbo_terms(x, y)),
        "log_weights": (able.Weighs, lambda: model.log_weights(x, y, 3)),
        "codes": (able.HasCodes, lambda: model.codes(x)),
    }
    calls = {name: call for name, (ability, call) in every.items() if has(model, ability)}
    if has(model, able.Encodes, able.Decodes):
        calls["decode"] = lambda: model.decode(model.encode(x, y), y)
    return calls


@torch.no_grad()
def ask(call: Call, seed: int = 0) -> Tensor:
    """Return the result of a call under a seed, as one tensor."""
    with seeded(seed):
        result = call()
    return torch.cat([t.flatten() for t in result]) if isinstance(result, tuple) else result.clone()


def abilities_have_their_shapes(subject: VariantSubject) -> None:
    """Each ability gives shapes, types and ranges as `bench.contracts.abilities` says; what it `lacks` has a reason."""
    model: Any = subject.trained
    _require_reasons(subject)
    if not any(
        has(model, a) for a in (able.Samples, able.Encodes, able.Reconstructs, able.Bound, able.ConditionalBound)
    ):
        raise Failed(
            "no metric can score it: it neither samples, nor encodes, nor has a likelihood or bound",
            subject.plugin.__name__,
            "Add at least sample(y), encode(x, y) or elbo_terms(x, y): see bench.contracts.abilities.",
        )
    expect = _Expectations(subject)
    x, y = subject.batch.x, subject.batch.y
    with torch.no_grad(), seeded(0):
        if has(model, able.Encodes):
            z = expect.shape("encode", model.encode(x, y), (N, "d"))
            if has(model, able.Decodes):
                expect.images("decode", model.decode(z, y))
        if has(model, able.Samples):
            expect.images("sample", model.sample(y))
            expect.images("sample", model.sample(y, temperature=0.5))
        if has(model, able.Reconstructs):
            expect.shape("log_likelihood", model.log_likelihood(x, y), (N,))
        if has(model, able.Bound):
            expect.bound("elbo_terms", model.elbo_terms(x, torch.full_like(y, -1)))
        if has(model, able.ConditionalBound) and subject.spec.classes:
            expect.bound("conditional_elbo_terms", model.conditional_elbo_terms(x, y))
        if has(model, able.HasCodes):
            expect.codes(model.codes(x), model.codebook_size)
        if has(model, able.HasPosterior):
            z = expect.posterior(model.posterior(x, y))
            if has(model, able.HasPrior):
                expect.shape("log_prior", model.log_prior(z), (N,))


def _require_reasons(subject: VariantSubject) -> None:
    look = f"{subject.plugin.__name__}.lacks"
    for ability, reason in subject.plugin.lacks.items():
        if ability not in able.ABILITIES:
            fix = "Use the protocols of bench.contracts.abilities as its keys."
            raise Failed(f"{ability!r} in `lacks` is no ability", look, fix)
        if not isinstance(reason, str) or not reason.strip():
            wrong = f"`lacks` gives no reason for {ability.__name__}"
            raise Failed(wrong, look, "Write the reason that the table should show.")


class _Expectations:
    """Checks of what the methods of a variant return for N images."""

    def __init__(self, subject: VariantSubject) -> None:
        self.where, self.image = subject.where, (N, *subject.spec.shape)

    def shape(self, method: str, value: Any, *shapes: tuple[int | str, ...]) -> Tensor:
        """Return the tensor `value`, which has one of these shapes; a letter stands for any size."""
        if not isinstance(value, Tensor):
            raise Failed(f"{method} gives {type(value).__name__}", self.where(method), "Return a tensor.")
        if not any(_matches(tuple(value.shape), shape) for shape in shapes):
            right = " or ".join(str(shape).replace("'", "") for shape in shapes)
            wrong = f"{method} gives {tuple(value.shape)} for {N} images"
            raise Failed(wrong, self.where(method), f"Return the shape {right}.")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            fix = "Look for a logarithm or a division of 0, or an exp that overflows."
            raise Failed(f"{method} gives values that are not finite", self.where(method), fix)
        return value

    def images(self, method: str, value: Any) -> None:
        low, high = self.shape(method, value, self.image).aminmax()
        if not 0 <= float(low) <= float(high) <= 1:
            wrong = f"{method} gives pixels from {low:.3g} to {high:.3g}"
            fix = "Return decoder means in [0, 1]: spec.make_likelihood().mean(out)."
            raise Failed(wrong, self.where(method), fix)

    def bound(self, method: str, terms: Any) -> None:
        if not isinstance(terms, tuple) or len(terms) != 2:
            raise Failed(f"{method} gives no pair", self.where(method), "Return log p(x|z) (B,) and the rate.")
        self.shape(method, terms[0], (N,))
        self.shape(method, terms[1], (N,), (N, "L"))

    def codes(self, value: Any, size: int) -> None:
        k = self.shape("codes", value, (N, "L"))
        if k.dtype != torch.int64 or int(k.min()) < 0 or int(k.max()) >= size:
            wrong = f"codes gives {k.dtype} from {int(k.min())} to {int(k.max())}, with codebook_size = {size}"
            raise Failed(wrong, self.where("codes"), f"Return int64 indices from 0 to {size - 1}.")

    def posterior(self, q: Any) -> Tensor:
        if not isinstance(q, Distribution) or not q.has_rsample:
            fix = "Return a torch Distribution with rsample, such as Independent(Normal(mu, std), 1)."
            raise Failed(f"posterior gives {q!r}", self.where("posterior"), fix)
        z = self.shape("posterior", q.rsample(), (N, "d"))
        self.shape("posterior", q.log_prob(z), (N,), tuple(z.shape))
        return z


def _matches(shape: tuple[int, ...], pattern: tuple[int | str, ...]) -> bool:
    return len(shape) == len(pattern) and all(isinstance(p, str) or p == n for n, p in zip(shape, pattern, strict=True))


def samples_follow_the_seed(subject: VariantSubject) -> None:
    """One image for each label; the same under the same seed of torch, others under another."""
    model: Any = subject.trained
    look, y = subject.where("sample"), subject.batch.y
    if not has(model, able.Samples):
        raise Skipped(f"it draws no images: {why_not(model, able.Samples)}")
    for n in (1, 7):
        if (count := len(ask(partial(model.sample, y[:n])))) != n:
            raise Failed(f"sample gives {count} images for {n} labels", look, "Return one image for each: len(y).")
    a, b, other = (ask(lambda: model.sample(y), seed) for seed in (0, 0, 1))
    if not torch.equal(a, b):
        raise Failed("the same seed gives other samples", look, TORCH_NOISE)
    if torch.equal(a, other) and not trains(model):
        raise Noted("every sample is one image, and nothing of it is trained")
    if torch.equal(a, other):
        raise Failed("every seed gives the same samples", look, f"Draw new noise in each call. {TORCH_NOISE}")
    if torch.equal(a[0], a[10]):  # of the same class
        raise Failed("all samples of a class are one image", look, "Draw noise for each image: torch.randn(len(y), d).")


def labels_are_used_as_declared(subject: VariantSubject) -> None:
    """With `uses_labels`, labels change samples, codes, bounds or losses; without, they change none."""
    if not subject.spec.classes:
        raise Skipped("it takes no labelled dataset")
    model, batch, declared = subject.trained, subject.batch, subject.plugin.uses_labels
    zeros, ones = torch.zeros_like(batch.y), torch.ones_like(batch.y)
    one, other = (ability_calls(model, batch.x, y) for y in (zeros, ones))
    differs = {name for name in one if not torch.equal(ask(one[name]), ask(other[name]))}

    def look(visit: Visit) -> None:
        losses = []
        for y in (zeros, ones):
            before = copy_state(model)
            with seeded(0):
                losses.append(visit.loss(batch._replace(y=y))[0].detach())
            fill(model, before)
        if not torch.equal(losses[0], losses[1]):
            differs.add(visit.name)

    subject.visit(model, look)
    cls = f"class {subject.plugin.__name__}"
    if differs and not declared:
        wrong = f"labels change {listed(sorted(differs))}, and uses_labels is False"
        raise Failed(wrong, cls, "Declare `uses_labels = True`: tables compare it with other models that see labels.")
    if declared and not differs:
        wrong = "uses_labels is True, and labels change nothing: neither samples, codes, bounds nor losses"
        raise Failed(wrong, cls, "Let y enter the model, or remove uses_labels.")
    if declared and has(model, able.ConditionalBound, able.Samples) and "sample" not in differs:
        wrong = "it bounds log p(x|y), and its samples do not depend on y"
        raise Failed(wrong, subject.where("sample"), "Let sample(y) draw an image of each class in y.")


def images_are_scored_one_by_one(subject: VariantSubject) -> None:
    """In eval mode an image's codes, likelihood and bound don't depend on the images beside it."""
    model, batch = subject.trained, select(subject.batch, torch.arange(4))
    names = [n for n in ability_calls(model, batch.x, batch.y) if n != "sample"]
    if not names:
        raise Skipped("it only samples")
    singles = [select(batch, torch.tensor([i])) for i in range(4)]
    for name in names:
        whole, *single = (ability_calls(model, b.x, b.y)[name] for b in (batch, *singles))
        if torch.equal(ask(whole, 0), ask(whole, 1)):
            a, b = (v.double().flatten().sort().values for v in (ask(whole), torch.stack([ask(one) for one in single])))
            alike = torch.allclose(a, b, rtol=1e-3, atol=1e-3)
            numbers = f"they differ by up to {float((a - b).abs().max()):.3g}"
        else:
            drawn = draws(partial(_means, whole, single), 10)
            together, apart = Mean.of(drawn["together"]), Mean.of(drawn["apart"])
            alike, numbers = together.agrees(apart, 0.01), f"their mean is {together} together and {apart} apart"
        if not alike:
            wrong = f"{name} of four images is not that of each alone: {numbers}"
            raise Failed(wrong, subject.where(name), "Use no statistics of the batch in eval mode.")


def _means(whole: Call, single: list[Call]) -> dict[str, Tensor]:
    """Return means over the same images scored together and apart, each with noise of its own."""
    seed = torch.initial_seed()
    apart = torch.stack([ask(one, seed + 1 + i) for i, one in enumerate(single)])
    return {"together": ask(whole, seed).mean(), "apart": apart.mean()}


def scoring_changes_nothing(subject: VariantSubject) -> None:
    """In eval mode, all that metrics call leaves parameters and buffers as they were."""
    model = subject.trained
    for name, call in ability_calls(model, subject.batch.x, subject.batch.y).items():
        before = copy_state(model)
        ask(call)
        if names := changed(model, before):
            raise Failed(f"{name} changes {listed(names)}", subject.where(name), "Update it only where self.training.")


def noise_is_torch_default(subject: VariantSubject) -> None:
    """Constructor, losses and samples draw from torch's default generator alone, and never seed it."""

    def watch(what: str, act: Call, look: Callable[..., Any] | str) -> None:
        with seeded(20):
            before = random_states()
            act()
            if torch.initial_seed() != 20:
                raise Failed(f"{what} seeds torch's generator", look, "Remove torch.manual_seed.")
            if others := [name for name in moved_generators(before) if name != "torch"]:
                raise Failed(f"{what} draws from the generator of {listed(others)}", look, TORCH_NOISE)

    watch("the constructor", lambda: subject.plugin(subject.spec, **subject.arguments), subject.where("__init__"))
    model = subject.trained

    def look(visit: Visit) -> None:
        losses: list[Tensor] = []
        for _ in range(2):
            before = copy_state(model)
            watch(visit.name, lambda: losses.append(visit.loss(subject.batch)[0].detach()), visit.loss)
            fill(model, before)
        if not torch.equal(losses[0], losses[1]):
            raise Failed(
                f"{visit.name} is not the same under the same seed: {losses[0]:.6g}, then {losses[1]:.6g}",
                visit.loss,
                f"Keep nothing from call to call outside of buffers. {TORCH_NOISE}",
            )

    for name, call in ability_calls(model, subject.batch.x, subject.batch.y).items():
        watch(name, torch.no_grad()(call), subject.where(name))
    subject.visit(model, look)


def saved_weights_are_all(subject: VariantSubject) -> None:
    """A new model with the saved weights samples, encodes and scores the same."""
    model, other = subject.trained, subject.build(seed=1)
    saved = load(save({k: v.detach().contiguous() for k, v in model.state_dict().items()}))
    try:
        other.load_state_dict(saved)
    except RuntimeError as error:
        wrong = f"its saved weights do not fit a new model: {' '.join(str(error).split())}"
        raise Failed(wrong, subject.where("__init__"), "Create buffers in __init__ with their final size.") from None
    other.eval()
    x, y = subject.batch.x, subject.batch.y
    for name, call in ability_calls(model, x, y).items():
        a, b = ask(call), ask(ability_calls(other, x, y)[name])
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-5, atol=1e-6):
            raise Failed(
                f"{name} of the loaded model is not that of the trained one",
                subject.where(name),
                "Keep all that it needs in parameters and buffers (register_buffer): nothing else is saved.",
            )


CHECKS = (
    abilities_have_their_shapes, samples_follow_the_seed, labels_are_used_as_declared, images_are_scored_one_by_one,
    scoring_changes_nothing, noise_is_torch_default, saved_weights_are_all,
)  # fmt: skip
