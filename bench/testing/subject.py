"""A variant under check: built at several sizes, trained briefly by the one trainer, its losses visited in place.

Everything is seeded, so that a check gives the same verdict each time; what is expensive is done once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts.abilities import Bound, ConditionalBound, why_not
from bench.contracts.images import Images, to_float, to_uint8
from bench.contracts.protocol import Training, seed_for
from bench.contracts.variant import Batch, Loss, Phase, Spec, Stage, Variant
from bench.engine.snapshot import fill, seeded, state
from bench.engine.trainer import stage_steps, train
from bench.plugins import hyperparameters
from bench.running.grid import fresh
from bench.testing.kit import Skipped, where
from bench.util.errors import Unsuitable

CPU = torch.device("cpu")
N = 64  # images to train and to measure on
UNTRAINABLE = "it can't be trained: see phases_descend"

SPECS = (
    Spec((1, 8, 8), 10, N, 8),
    Spec((1, 28, 28), 10, N, 20),
    Spec((1, 20, 24), 0, N, 20),
    Spec((3, 32, 32), 10, N, 128, "logistic"),
    Spec((1, 8, 8), 10, N, 8, "gaussian[sigma=0.3,learned=true]"),
)
"""What a variant may be built for, and the checks use the first that it takes."""


@cache
def images(spec: Spec) -> Images:
    """N real handwritten digits, scaled and tinted to the shape of `spec`, labelled where it has classes."""
    from sklearn.datasets import load_digits  # here, because it takes seconds

    source = load_digits()
    grey = torch.tensor(source.images[:N], dtype=torch.float32)[:, None] / 16
    c, h, w = spec.shape
    scaled = grey if (h, w) == (8, 8) else F.interpolate(grey, (h, w), mode="bilinear")
    tint = torch.linspace(1, 0.5, c)[:, None, None] if c > 1 else torch.ones(1, 1, 1)
    labels = torch.tensor(source.target[:N]) % spec.classes if spec.classes else None
    return Images(to_uint8(scaled * tint), labels, tuple(map(str, range(spec.classes))))


def batch_of(spec: Spec, n: int = N, progress: float = 1.0) -> Batch:
    """The first n of these images, as a loss sees them."""
    index, all_ = torch.arange(n), images(spec)
    return Batch(to_float(all_.take(index)), all_.labels(index), index, torch.tensor(progress))


def part(batch: Batch, at: Tensor) -> Batch:
    """The images at `at` of a batch."""
    return Batch(batch.x[at], batch.y[at], batch.index[at], batch.progress)


def draws(draw: Callable[[], Mapping[str, Tensor]], times: int = 20) -> dict[str, Tensor]:
    """What `draw` gives under `times` seeds, stacked: (times, ...), float64."""
    found = []
    for seed in range(times):
        with seeded(seed_for("draw", seed), CPU):
            found.append({k: v.detach().double() for k, v in draw().items()})
    return {k: torch.stack([one[k] for one in found]) for k in found[0]}


@dataclass(frozen=True)
class Mean:
    """A mean over draws, and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, drawn: Tensor) -> Mean:
        return cls(float(drawn.mean()), float(drawn.std()) / len(drawn) ** 0.5)

    def agrees(self, other: Mean, relative: float) -> bool:
        """Whether both may be the same number: within 5 standard errors, and `relative` of the larger."""
        noise = 5 * (self.error**2 + other.error**2) ** 0.5
        return bool(abs(self.value - other.value) <= noise + relative * max(abs(self.value), abs(other.value)) + 1e-4)

    def __str__(self) -> str:
        return f"{self.value:.4g}"


def per_image(rate: Tensor) -> Tensor:
    """(B,) or (B, L) to (B,)."""
    return rate.flatten(1).sum(1) if rate.ndim > 1 else rate


@dataclass(frozen=True)
class Visit:
    """A phase at its turn: its stage is under way, modules are in their modes."""

    place: tuple[int, int]  #: of the stage, and of the phase in it
    phase: Phase
    batch: Batch

    @property
    def where(self) -> str:
        return where(self.phase.loss)

    @property
    def name(self) -> str:
        return str(getattr(self.phase.loss, "__name__", f"phase {self.place[1] + 1} of stage {self.place[0] + 1}"))


@dataclass
class Trained:
    """A model after its training, and each phase's loss on the same images and noise before and after its stage."""

    model: Variant
    state: dict[str, Tensor]
    falls: list[tuple[Visit, Tensor, Tensor]]


class Subject:
    """A variant with hyperparameters, ready to be asked.

    Raises:
        UsageError: a hyperparameter that it can't take.
    """

    def __init__(self, cls: type[Variant], given: Mapping[str, Any]) -> None:
        self.cls, self.given = cls, hyperparameters.check(cls.__name__, cls, given)

    def build(self, spec: Spec | None = None, seed: int = 0) -> Variant:
        """A fresh model, as a cell gets it: the weights depend on `seed` alone.

        Raises:
            Unsuitable, and whatever the constructor raises.
        """
        return fresh(self.cls, spec or self.spec, seed, **self.given)

    @cached_property
    def spec(self) -> Spec:
        """The first that it takes."""
        for spec in SPECS:
            try:
                self.build(spec)
            except Unsuitable:
                continue
            except Exception as error:
                raise Skipped(f"it can't be built ({type(error).__name__}): see builds_at_several_sizes") from None
            return spec
        raise Skipped("it can be built at no size: see builds_at_several_sizes")

    @property
    def batch(self) -> Batch:
        return batch_of(self.spec)

    @property
    def unlabelled(self) -> Tensor:
        return torch.full((N,), -1)

    def where(self, method: str) -> str:
        """Where a method is written; for `stages`, the loss where the base's are meant."""
        if method == "stages" and self.cls.stages is Variant.stages:
            method = "loss"
        return where(getattr(self.cls, method, f"{self.cls.__name__}.{method}"))

    @property
    def own(self) -> list[type]:
        """Its class and those of its bases that are neither the suite's nor torch's."""
        return [c for c in self.cls.__mro__ if not library(c)]

    # training

    def training(self, model: Variant) -> Training:
        """About 60 steps a stage, and never many more than 180."""
        multiples = sum(stage.steps for stage in well_formed(model) if stage.phases)
        return Training(max(1, min(60, round(180 / max(multiples, 1)))), N)

    @cached_property
    def course(self) -> Trained | Exception:
        """What a brief training by the one trainer comes to."""
        model = self.build()
        try:
            training = self.training(model)
            steps = stage_steps(model.stages(), training.steps)
            calls: Counter[tuple[int, int]] = Counter()
            before: dict[tuple[int, int], Tensor] = {}
            falls = []

            def watch(visit: Visit) -> Loss:
                calls[visit.place] += 1
                if calls[visit.place] == 1:
                    before[visit.place] = self._losses(model, visit)
                elif calls[visit.place] == steps[visit.place[0]] * visit.phase.repeat:
                    falls.append((visit, before[visit.place], self._losses(model, visit)))
                return visit.phase.loss(visit.batch)

            watched(model, watch)
            train(model, images(self.spec), training, seed=0)
            del model.stages
        except Exception as error:
            return error
        return Trained(model.eval(), kept(model), falls)

    def _losses(self, model: Variant, visit: Visit) -> Tensor:
        """The phase's loss at the end of its warm-ups under 10 seeds, leaving no trace."""
        before = kept(model)

        def draw() -> dict[str, Tensor]:
            found = visit.phase.loss(self.batch)
            return {"": found[0] if isinstance(found, tuple) else torch.zeros(())}  # the trainer says what is wrong

        found = draws(draw, 10)[""]
        fill(model, before)
        return found

    @property
    def trained(self) -> Variant:
        """The model after a brief training, in eval mode; always from the same bits.

        Raises:
            Skipped: it can't be trained.
        """
        if isinstance(self.course, Skipped):
            raise self.course
        if isinstance(self.course, Exception):
            raise Skipped(UNTRAINABLE)
        model = self.course.model
        fill(model, self.course.state)
        return model.eval()

    # losses

    def visit(self, model: Variant, look: Callable[[Visit], None]) -> None:
        """Let the trainer take `model` through all its stages, and `look` at each phase at its first turn."""
        seen: set[tuple[int, int]] = set()

        def watch(visit: Visit) -> Loss:
            if visit.place not in seen:
                seen.add(visit.place)
                before = kept(model)
                look(visit)
                fill(model, before)
            return visit.phase.loss(visit.batch)

        watched(model, watch)
        try:
            train(model, images(self.spec), Training(1, N), seed=0)
        finally:
            del model.stages

    # scoring

    def terms(self, model: Variant, n: int = N) -> tuple[str, Callable[[], dict[str, Tensor]]]:
        """A method that bounds the likelihood of n images, by its name; the one given their labels, if there is one.

        Raises:
            Skipped: there is none.
        """
        batch = batch_of(self.spec, n)
        if has(model, ConditionalBound) and self.spec.classes:
            method, y = "conditional_elbo_terms", batch.y
        elif has(model, Bound):
            method, y = "elbo_terms", torch.full_like(batch.y, -1)
        else:
            raise Skipped(f"it has no bound: {why_not(model, Bound)}")

        def call() -> dict[str, Tensor]:
            with torch.no_grad():
                log_px, rate = getattr(model, method)(batch.x, y)
            return {"log_px": log_px, "rate": per_image(rate)}

        return method, call


def library(cls: type) -> bool:
    """Whether a class is the suite's, torch's or Python's own; the suite's variants are plugins like all others."""
    home = cls.__module__
    return home.partition(".")[0] in ("bench", "torch", "typing", "builtins") and not home.startswith("bench.variants")


def has(model: Variant, *abilities: type) -> bool:
    """Whether the model has all these abilities."""
    return all(why_not(model, ability) is None for ability in abilities)


def stages_fault(stages: Any) -> tuple[str, str] | None:
    """What is wrong with what `stages()` gives, and how it should be."""
    if not isinstance(stages, tuple) or not stages or not all(isinstance(s, Stage) for s in stages):
        return f"stages() gives {sort_of(stages)}", "It gives a tuple of Stage: (Stage((Phase(self.loss),)),)"
    for phases in (stage.phases for stage in stages):
        if not isinstance(phases, tuple) or not all(isinstance(p, Phase) for p in phases):
            return f"the phases of a stage are {sort_of(phases)}", "They are a tuple of Phase: (Phase(self.loss),)"
    return None


def sort_of(value: Any) -> str:
    """What sort of thing it is, without what is in it."""
    if value is None:
        return "None"
    if isinstance(value, tuple) and not value:
        return "an empty tuple"
    name = type(value).__name__
    inside = f" of {' and '.join(sorted({type(v).__name__ for v in value}))}" if isinstance(value, tuple) else ""
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}{inside}"


def well_formed(model: Variant) -> tuple[Stage, ...]:
    """Its stages.

    Raises:
        Skipped: they're none that a trainer could take.
    """
    if stages_fault(stages := model.stages()) is not None:
        raise Skipped("it has no tuple of stages of phases: see stages_are_well_formed")
    return stages


def trains(model: Variant) -> bool:
    """Whether any stage has a phase; else all of it is fitted before the first step."""
    return any(stage.phases for stage in well_formed(model))


def watched(model: Variant, watch: Callable[[Visit], Loss]) -> None:
    """Put `watch` between the trainer and each loss of the model, until `del model.stages`."""

    if trains(model) and not any(p.requires_grad for p in model.parameters()):
        raise Skipped("it has no parameters: see stages_are_well_formed")

    def wrap(place: tuple[int, int], phase: Phase) -> Phase:
        @wraps(phase.loss)
        def loss(batch: Batch) -> Loss:
            return watch(Visit(place, phase, batch))

        return replace(phase, loss=loss)

    stages = tuple(
        replace(stage, phases=tuple(wrap((s, p), phase) for p, phase in enumerate(stage.phases)))
        for s, stage in enumerate(well_formed(model))
    )
    model.stages = lambda: stages  # type: ignore[method-assign]


def moved(model: Variant, *phases: Phase) -> dict[str, nn.Parameter]:
    """What these phases move, by name."""
    members = [m for phase in phases for m in (phase.moves or (model,))]
    ids = {id(p) for m in members for p in (m.parameters() if isinstance(m, nn.Module) else (m,))}
    return {name: p for name, p in model.named_parameters() if id(p) in ids and p.requires_grad}


def changed(model: Variant, before: Mapping[str, Tensor]) -> list[str]:
    """Names of parameters and buffers that aren't what they were, bit for bit."""
    now = state(model)
    return [k for k in now if k not in before or not torch.equal(now[k].nan_to_num(), before[k].nan_to_num())]


def kept(model: Variant) -> dict[str, Tensor]:
    """Parameters and buffers as they are now."""
    return {k: v.detach().clone() for k, v in state(model).items()}


def plain(model: Variant) -> dict[str, Any]:
    """Numbers, texts and tensors that modules hold besides parameters and buffers, by how one would say it."""
    of_torch, registered = vars(nn.Module()).keys(), {id(t) for t in state(model).values()}
    return {
        f"`{key}` of {name or 'the model'}": value.detach().clone() if isinstance(value, Tensor) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in of_torch and isinstance(value, int | float | str | Tensor) and id(value) not in registered
    }


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, tensors bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and bool(a == b or a != a)


def listed(names: list[str], at_most: int = 4) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
