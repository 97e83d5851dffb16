"""Checks that need no training: hyperparameters, image sizes, stages, misspelt names."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from bench.contracts import abilities
from bench.contracts.variant import Batch, Phase, Spec, Variant
from bench.engine.snapshot import state
from bench.plugins.hyperparameters import Hyperparameter, hyperparameters
from bench.testing.digits import SPECS, batch_of
from bench.testing.kit import Failed, Noted, describe_error, raised_at, seeded, where
from bench.testing.models import describe_type, has, listed, moved, stages_fault
from bench.testing.subject import VariantSubject
from bench.util.errors import Unsuitable, UsageError

DECLARE = 'Declare it as `beta: Annotated[float, Range(0), "weight of the KL"] = 4.0`, after a `*`.'
HIDDEN = "Keep networks and parameters as attributes of the model: a plain list hides layers from torch."
SIZES = 'Take the sizes from spec.shape, or `raise Unsuitable("why")` in __init__.'
CALL_SUPER = "Call super().__init__(spec) first in __init__."


def hyperparameters_are_declared(subject: VariantSubject) -> None:
    """Each hyperparameter is keyword-only, and has a type, a description and a default within its own range."""
    cls = subject.plugin
    for owner in (c for c in cls.__mro__ if "__init__" in vars(c) and c not in (Variant, nn.Module, object)):
        init = vars(owner)["__init__"]
        hints = get_type_hints(init)
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "spec":
                continue
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise Failed(f"{name} is not keyword-only, so it is no hyperparameter", init, DECLARE)
            if name not in hints:
                raise Failed(f"{name} has no type, so its text would not be converted", init, DECLARE)
    for name, h in hyperparameters(cls).items():
        _require_complete(h, f"{cls.__name__}.__init__ or that of a base: {name}")
    model = subject.build()
    for name, h in hyperparameters(cls).items():
        if h.default is None and not hasattr(model, name) and not hasattr(model, f"{name}_"):
            raise Failed(
                f"{name} is None by default, and the model does not store the value that it uses instead",
                f"{cls.__name__}.__init__",
                f"Set self.{name} to that value: the row shows it.",
            )


def _require_complete(h: Hyperparameter, look: str) -> None:
    if h.default is inspect.Parameter.empty:
        raise Failed(f"{h.name} has no default", look, DECLARE)
    if not _is_supported(h.type):
        kinds = "int, float, bool, str, a Literal, a tuple of one of these, or one of these `| None`"
        raise Failed(f"{h.name} is a {h.type}, which the command line cannot read", look, f"Use {kinds}.")
    try:
        h.validate(h.default)
    except UsageError as error:
        raise Failed(f"the default does not fit: {error.what}", look, error.cause) from None
    if not h.doc:
        raise Failed(f"{h.name} has no description", look, DECLARE)


def _is_supported(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in get_args(kind) if a is not type(None)]
        return len(inner) == 1 and _is_supported(inner[0])
    if get_origin(kind) is tuple:
        return len(get_args(kind)) == 2 and get_args(kind)[1] is ... and _is_supported(get_args(kind)[0])
    return get_origin(kind) is Literal or kind in (int, float, bool, str)


def builds_at_several_sizes(subject: VariantSubject) -> None:
    """At each image size it builds and has a loss, or raises `Unsuitable`; its weights follow the seed."""
    refused = []
    for spec in SPECS:
        size = f"{spec.shape} with {spec.classes} classes and likelihood {spec.likelihood}"
        try:
            _call_all(subject, _build(subject, spec, size), batch_of(spec, 4), size)
        except Unsuitable as reason:
            refused.append(f"{size}: {reason}")
            if not str(reason):
                raise Failed(
                    f"it is unsuitable for {size}, without a reason", should='raise Unsuitable("why")'
                ) from None
    if len(refused) == len(SPECS):
        raise Failed("it accepts no size at all:\n" + "\n".join(refused))
    a, b, other = (state(subject.build(seed=seed)) for seed in (0, 0, 1))
    if differ := [k for k in a if not torch.equal(a[k], b[k])]:
        wrong = f"the same seed gives other weights: {listed(differ)}"
        raise Failed(wrong, should="Draw from torch's default generator.")
    drawn = [k for k, p in subject.build().named_parameters() if p.numel() and p.min() < p.max()]
    if drawn and all(torch.equal(a[k], other[k]) for k in drawn):
        raise Failed("every seed gives the same weights", should="Remove torch.manual_seed: the suite seeds torch.")


def _build(subject: VariantSubject, spec: Spec, size: str) -> Variant:
    init = subject.where("__init__")
    try:
        model = subject.build(spec)
    except Unsuitable:
        raise
    except Exception as error:
        fix = SIZES if _is_about_sizes(error) or spec != SPECS[0] else ""
        no_super = r"__init__\(\) call|no attribute '(_parameters|_modules|_buffers|spec)'|missing .*'spec'"
        if re.search(no_super, str(error)):
            fix = CALL_SUPER
        look = raised_at(error, subject.plugin) or init
        raise Failed(f"built for {size}: {describe_error(error)}", look, fix) from error
    if getattr(model, "spec", None) != spec:
        raise Failed("model.spec is not the spec that the model was built for", init, CALL_SUPER)
    return model


def _call_all(subject: VariantSubject, model: Variant, batch: Batch, size: str) -> None:
    """Call each loss and `sample` once."""

    def call(function: Any, value: Any, signature: str) -> None:
        try:
            function(value)
        except Unsuitable:
            raise
        except Exception as error:
            accepts = _accepts(function, value)
            look = (raised_at(error, subject.plugin) if accepts else "") or where(function)
            fix = SIZES if _is_about_sizes(error) else ""
            if not accepts or (isinstance(error, TypeError) and signature.startswith("sample")):
                fix = f"Let it accept the call {signature}."
            raise Failed(f"{signature.partition('(')[0]} for {size}: {describe_error(error)}", look, fix) from error

    with seeded(0):
        if stages_fault(stages := model.stages()) is None:
            for phase in (phase for stage in stages for phase in stage.phases):
                call(phase.loss, batch, f"{getattr(phase.loss, '__name__', 'loss')}(batch)")
        if has(model.eval(), abilities.Samples):
            call(model.sample, batch.y, "sample(y, temperature=1.0), with y: (B,) labels, -1 where there are none")


def _accepts(function: Callable[..., Any], value: Any) -> bool:
    """Return whether the function can be called with one value."""
    try:
        inspect.signature(function).bind(value)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True


def _is_about_sizes(error: Exception) -> bool:
    kinds = (RuntimeError, ValueError, IndexError, AssertionError)
    return isinstance(error, kinds) and re.search(r"\b(shape|size|dimension)", str(error), re.I) is not None


def stages_are_well_formed(subject: VariantSubject) -> None:
    """`stages()` is a tuple of `Stage`; their phases move only parts of the model, and together all of it."""
    model = subject.build()
    look = subject.where("stages")
    stages: Any = model.stages()
    if (fault := stages_fault(stages)) is not None:
        raise Failed(fault[0], look, fault[1])
    for stage in stages:
        if not (math.isfinite(stage.steps) and stage.steps > 0):
            raise Failed(f"a stage has steps={stage.steps}", look, "Give a multiple of the step budget, above 0.")
    phases: list[Phase] = [phase for stage in stages for phase in stage.phases]
    if not phases and not any(stage.start for stage in stages):
        raise Failed("no stage has a phase or a start", look, "Add a phase, or fit the model in Stage(start=...).")
    own = {id(m) for m in model.modules()} | {id(p) for p in model.parameters()}
    for phase in phases:
        loss = where(phase.loss)
        if not isinstance(phase.moves, tuple):
            kind = describe_type(phase.moves)
            raise Failed(f"{loss} has {kind} for `moves`", look, "Give a tuple: moves=(self.encoder,).")
        if any(id(m) not in own for m in phase.moves):
            raise Failed(f"{loss} moves something outside of the model, which is not saved", look, HIDDEN)
        if not moved(model, phase):
            raise Failed(f"{loss} moves nothing that requires a gradient", look, HIDDEN)
        if phase.repeat < 1:
            raise Failed(f"{loss} has repeat={phase.repeat}", look, "Give at least 1.")
    trained = moved(model, *phases)
    if never := [k for k, p in model.named_parameters() if p.requires_grad and k not in trained]:
        fix = "Let a phase move it, or make it a buffer (register_buffer) or requires_grad_(False)."
        raise Failed(f"never trained: {listed(never)}", look, fix)


def no_name_is_nearly_the_contracts(subject: VariantSubject) -> None:
    """No method has nearly the name of one in the contract, as a misspelt override would. A note."""
    notes = []
    for owner in subject.own_classes:
        others = [c for c in subject.plugin.__mro__ if c is not owner]
        bases = [c for c in owner.__mro__[1:] if c.__module__.startswith("bench.")]
        known = {"uses_labels", "lacks"} | {name for c in (*abilities.ABILITIES, *bases) for name in _methods(c)}
        for name in vars(owner):
            if name.startswith("_") or name in known or any(name in vars(c) for c in others):
                continue
            for right in get_close_matches(name, known - vars(owner).keys(), n=1, cutoff=0.8):
                notes.append(f"{owner.__name__} defines `{name}`: is it meant to be `{right}`?")
    if notes:
        raise Noted("; ".join(notes))


def _methods(cls: type) -> set[str]:
    return {name for name, value in vars(cls).items() if callable(value) and not name.startswith("_")}


CHECKS = (
    hyperparameters_are_declared, builds_at_several_sizes, stages_are_well_formed, no_name_is_nearly_the_contracts,
)  # fmt: skip
