"""Checks of what is there before anything is trained: hyperparameters, sizes, stages."""

from __future__ import annotations

import inspect
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from bench import abilities
from bench.errors import Unsuitable, UsageError
from bench.hyperparameters import hyperparameters
from bench.snapshot import seeded, state
from bench.testing.kit import Failed, raised_at, where
from bench.testing.subject import CPU, SPECS, Subject, batch_of, has, listed, moved
from bench.variant import Batch, Phase, Stage, Variant

HOW = 'Write it as `beta: Annotated[float, Range(0), "weight of the KL"] = 4.0`, behind a `*`.'


def hyperparameters_are_declared(subject: Subject) -> None:
    """Each hyperparameter is keyword-only, and has a type, a description and a default within its own range."""
    for owner in (c for c in subject.cls.__mro__ if "__init__" in vars(c) and c not in (Variant, nn.Module, object)):
        init = vars(owner)["__init__"]
        hints = get_type_hints(init)
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "spec":
                continue
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise Failed(f"{name} isn't keyword-only, so it's no hyperparameter", where(init), HOW)
            if name not in hints:
                raise Failed(f"{name} has no type, so its text would be passed as it is", where(init), HOW)
    for name, h in hyperparameters(subject.cls).items():
        look = f"{subject.cls.__name__}.__init__ or that of a base: {name}"
        if h.default is inspect.Parameter.empty:
            raise Failed(f"{name} has no default", look, HOW)
        if not _parsed(h.type):
            kinds = "int, float, bool, str, a Literal, a tuple of one of them, or one of these `| None`"
            raise Failed(f"{name} is a {h.type}, which the command line can't parse", look, f"It takes {kinds}.")
        try:
            h.validate(h.default)
        except UsageError as error:
            raise Failed(f"the default doesn't fit: {error.what}", look, error.cause) from None
        if not h.doc:
            raise Failed(f"{name} has no description", look, HOW)
    model = subject.build()
    for name, h in hyperparameters(subject.cls).items():
        if h.default is None and not hasattr(model, name) and not hasattr(model, f"{name}_"):
            raise Failed(
                f"{name} is None by default, and the model doesn't say what it settled on",
                f"{subject.cls.__name__}.__init__",
                f"Keep it for the row: self.{name} = ...",
            )


def _parsed(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in get_args(kind) if a is not type(None)]
        return len(inner) == 1 and _parsed(inner[0])
    if get_origin(kind) is tuple:
        return len(get_args(kind)) == 2 and get_args(kind)[1] is ... and _parsed(get_args(kind)[0])
    return get_origin(kind) is Literal or kind in (int, float, bool, str)


def builds_at_several_sizes(subject: Subject) -> None:
    """At each image size it builds and has a loss, or raises `Unsuitable`; its weights follow the seed."""
    refused = []
    for spec in SPECS:
        size = f"{spec.shape} with {spec.classes} classes and likelihood {spec.likelihood}"
        try:
            model = subject.build(spec)
            _one_of_each(model, batch_of(spec, 4))
        except Unsuitable as reason:
            refused.append(f"{size}: {reason}")
            if not str(reason):
                raise Failed(
                    f"it's unsuitable for {size}, without a reason", should='raise Unsuitable("why")'
                ) from None
        except Exception as error:
            raise Failed(
                f"images of {size}: {type(error).__name__}: {error}",
                raised_at(error, subject.cls),
                'Take the sizes from spec.shape, or `raise Unsuitable("why")` in __init__.',
            ) from error
        else:
            if model.spec != spec:
                raise Failed("model.spec isn't the spec that it was built for", should="super().__init__(spec)")
    if len(refused) == len(SPECS):
        raise Failed("it takes no size at all:\n" + "\n".join(refused))
    a, b, other = (state(subject.build(seed=seed)) for seed in (0, 0, 1))
    if (differ := [k for k in a if not torch.equal(a[k], b[k])]) != []:
        raise Failed(
            f"the same seed gives other weights: {listed(differ)}", should="Draw from torch's default generator."
        )
    drawn = [
        k for k, p in subject.build().named_parameters() if p.numel() and p.min() < p.max()
    ]  # not filled with one value
    if drawn and all(torch.equal(a[k], other[k]) for k in drawn):
        raise Failed("every seed gives the same weights", should="Don't seed torch's generator: the bench does.")


def _one_of_each(model: Variant, batch: Batch) -> None:
    with seeded(0, CPU):
        for stage in model.stages():
            for phase in stage.phases:
                phase.loss(batch)
        if has(model.eval(), abilities.Samples):
            model.sample(batch.y)  # type: ignore[operator]


def stages_are_well_formed(subject: Subject) -> None:
    """`stages()` is a tuple of `Stage`; their phases move what is the model's own, and together all of it."""
    model = subject.build()
    look = subject.where("stages")
    stages: Any = model.stages()
    if not isinstance(stages, tuple) or not stages or not all(isinstance(s, Stage) for s in stages):
        raise Failed(f"stages() gives {stages!r}", look, "It gives a tuple of Stage.")
    phases: list[Phase] = []
    for stage in stages:
        if not isinstance(stage.phases, tuple) or not all(isinstance(p, Phase) for p in stage.phases):
            raise Failed(f"the phases of a stage are {stage.phases!r}", look, "They are a tuple of Phase.")
        if not (math.isfinite(stage.steps) and stage.steps > 0):
            raise Failed(f"a stage has steps={stage.steps}", look, "It's a multiple of the budget, above 0.")
        phases += stage.phases
    if not phases:
        raise Failed("no stage has a phase", look, "A variant trains something.")
    own = {id(m) for m in model.modules()} | {id(p) for p in model.parameters()}
    for phase in phases:
        if not isinstance(phase.moves, tuple):
            raise Failed(f"{where(phase.loss)} has moves={phase.moves!r}", look, "`moves` is a tuple: (self.encoder,).")
        if any(id(m) not in own for m in phase.moves):
            raise Failed(
                f"{where(phase.loss)} moves what isn't part of the model, so it's neither saved nor restored",
                look,
                "Keep networks and parameters as attributes of the model.",
            )
        if not moved(model, phase):
            raise Failed(f"{where(phase.loss)} moves nothing that requires a gradient", look)
        if phase.repeat < 1:
            raise Failed(f"{where(phase.loss)} has repeat={phase.repeat}", look, "It's at least 1.")
    trained = moved(model, *phases)
    if (never := [k for k, p in model.named_parameters() if p.requires_grad and k not in trained]) != []:
        raise Failed(
            f"never trained: {listed(never)}",
            look,
            "Let a phase move it, or make it a buffer (register_buffer) or requires_grad_(False).",
        )


CHECKS = (hyperparameters_are_declared, builds_at_several_sizes, stages_are_well_formed)
