"""Checks of what is there before anything is trained: hyperparameters, sizes, stages."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from bench.contracts import abilities
from bench.contracts.variant import Batch, Phase, Spec, Variant
from bench.engine.snapshot import seeded, state
from bench.plugins.hyperparameters import hyperparameters
from bench.testing.kit import Failed, Noted, raised_at, said, where
from bench.testing.subject import CPU, SPECS, Subject, batch_of, has, listed, moved, sort_of, stages_fault
from bench.util.errors import Unsuitable, UsageError

HOW = 'Write it as `beta: Annotated[float, Range(0), "weight of the KL"] = 4.0`, behind a `*`.'
HIDDEN = "Keep networks and parameters as attributes of the model: a plain list hides layers from torch."
SIZES = 'Take the sizes from spec.shape, or `raise Unsuitable("why")` in __init__.'


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
            model = _built(subject, spec, size)
            _one_of_each(subject, model, batch_of(spec, 4), size)
        except Unsuitable as reason:
            refused.append(f"{size}: {reason}")
            if not str(reason):
                raise Failed(
                    f"it's unsuitable for {size}, without a reason", should='raise Unsuitable("why")'
                ) from None
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


def _built(subject: Subject, spec: Spec, size: str) -> Variant:
    try:
        model = subject.build(spec)
    except Unsuitable:
        raise
    except Exception as error:
        text = str(error)
        should = ""
        if re.search(r"__init__\(\) call|no attribute '(_parameters|_modules|_buffers|spec)'|missing .*'spec'", text):
            should = "Call super().__init__(spec) first in __init__."
        elif _speaks_of_sizes(error) or spec != SPECS[0]:
            should = SIZES
        look = raised_at(error, subject.cls) or subject.where("__init__")
        raise Failed(f"built for {size}: {said(error)}", look, should) from error
    if getattr(model, "spec", None) != spec:
        look = subject.where("__init__")
        raise Failed("model.spec isn't the spec that it was built for", look, "super().__init__(spec)")
    return model


def _one_of_each(subject: Subject, model: Variant, batch: Batch, size: str) -> None:
    def ask(function: Any, value: Any, call: str) -> None:
        try:
            function(value)
        except Unsuitable:
            raise
        except Exception as error:
            fits = _takes(function, value)
            look = (raised_at(error, subject.cls) if fits else "") or where(function)
            should = SIZES if _speaks_of_sizes(error) else ""
            if not fits or (isinstance(error, TypeError) and call.startswith("sample")):
                should = f"It's called as {call}."
            raise Failed(f"{call.partition('(')[0]} for {size}: {said(error)}", look, should) from error

    with seeded(0, CPU):
        if stages_fault(stages := model.stages()) is None:
            for phase in (phase for stage in stages for phase in stage.phases):
                ask(phase.loss, batch, f"{getattr(phase.loss, '__name__', 'loss')}(batch)")
        if has(model.eval(), abilities.Samples):
            ask(model.sample, batch.y, "sample(y, temperature=1.0), with y: (B,) labels, -1 where there are none")


def _takes(function: Callable[..., Any], value: Any) -> bool:
    """Whether it can be called with one value."""
    try:
        inspect.signature(function).bind(value)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True


def _speaks_of_sizes(error: Exception) -> bool:
    kinds = (RuntimeError, ValueError, IndexError, AssertionError)
    return isinstance(error, kinds) and re.search(r"\b(shape|size|dimension)", str(error), re.I) is not None


def stages_are_well_formed(subject: Subject) -> None:
    """`stages()` is a tuple of `Stage`; their phases move what is the model's own, and together all of it."""
    model = subject.build()
    look = subject.where("stages")
    stages: Any = model.stages()
    if (fault := stages_fault(stages)) is not None:
        raise Failed(fault[0], look, fault[1])
    phases: list[Phase] = []
    for stage in stages:
        if not (math.isfinite(stage.steps) and stage.steps > 0):
            raise Failed(f"a stage has steps={stage.steps}", look, "It's a multiple of the budget, above 0.")
        phases += stage.phases
    if not phases and not any(stage.start for stage in stages):
        raise Failed("no stage has a phase or a start", look, "A variant trains something, or fits it in closed form.")
    own = {id(m) for m in model.modules()} | {id(p) for p in model.parameters()}
    for phase in phases:
        if not isinstance(phase.moves, tuple):
            raise Failed(
                f"{where(phase.loss)} has {sort_of(phase.moves)} for `moves`",
                look,
                "`moves` is a tuple: (self.encoder,).",
            )
        if any(id(m) not in own for m in phase.moves):
            raise Failed(
                f"{where(phase.loss)} moves what isn't part of the model, so it's neither saved nor restored",
                look,
                "Keep networks and parameters as attributes of the model.",
            )
        if not moved(model, phase):
            raise Failed(f"{where(phase.loss)} moves nothing that requires a gradient", look, HIDDEN)
        if phase.repeat < 1:
            raise Failed(f"{where(phase.loss)} has repeat={phase.repeat}", look, "It's at least 1.")
    trained = moved(model, *phases)
    if (never := [k for k, p in model.named_parameters() if p.requires_grad and k not in trained]) != []:
        raise Failed(
            f"never trained: {listed(never)}",
            look,
            "Let a phase move it, or make it a buffer (register_buffer) or requires_grad_(False).",
        )


def no_name_is_nearly_the_contracts(subject: Subject) -> None:
    """No method is called nearly as one of the contract's, which then stays the base's. A note."""
    notes = []
    for owner in subject.own:
        others = [c for c in subject.cls.__mro__ if c is not owner]
        bases = [c for c in owner.__mro__[1:] if c.__module__.startswith("bench.")]
        known = {"uses_labels", "lacks"} | {name for c in (*abilities.ABILITIES, *bases) for name in _methods(c)}
        for name in vars(owner):
            if name.startswith("_") or name in known or any(name in vars(c) for c in others):
                continue
            close = {right: SequenceMatcher(None, name, right).ratio() for right in known - vars(owner).keys()}
            right = max(close, key=lambda k: (close[k], k))
            if close[right] >= 0.8:
                notes.append(f"{owner.__name__} defines `{name}`: is it meant to be `{right}`?")
    if notes:
        raise Noted("; ".join(notes))


def _methods(cls: type) -> set[str]:
    return {name for name, value in vars(cls).items() if callable(value) and not name.startswith("_")}


CHECKS = (
    hyperparameters_are_declared,
    builds_at_several_sizes,
    stages_are_well_formed,
    no_name_is_nearly_the_contracts,
)
