"""Checks of what is trained: losses, who moves what, and that a training can be broken off and gone on with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from bench.contracts.protocol import Training
from bench.contracts.variant import Loss, Stage, Variant
from bench.engine.snapshot import Snapshot, seeded, state
from bench.engine.trainer import train
from bench.plugins.hyperparameters import Hyperparameter, hyperparameters, show
from bench.running.grid import fresh
from bench.testing.kit import Failed, Noted, Skipped, said, where
from bench.testing.scoring import ask, calls
from bench.testing.subject import (
    CPU,
    UNTRAINABLE,
    Mean,
    N,
    Subject,
    Visit,
    batch_of,
    changed,
    draws,
    images,
    kept,
    listed,
    moved,
    part,
    plain,
    same,
    watched,
    well_formed,
)  # fmt: skip
from bench.util.errors import UsageError


def loss_is_one_finite_number(subject: Subject) -> None:
    """At the start, in the middle and at the end of a stage, a loss is one finite float32; so is each of its terms."""
    alone: list[str] = []

    def look(visit: Visit) -> None:
        for progress in (0.0, 0.5, 1.0):
            found = visit.phase.loss(subject.batch._replace(progress=torch.tensor(progress)))
            if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
                raise Failed(f"{visit.name} gives {type(found).__name__}", visit.where, "return loss, {'rec': rec}")
            for name, value in {"the loss": found[0], **found[1]}.items():
                if not isinstance(value, Tensor) or value.ndim != 0:
                    what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                    raise Failed(f"{name} is {what}", visit.where, "It's a 0-d tensor, a mean over images.")
                if not value.isfinite():
                    raise Failed(f"{name} is {value.item()} at progress {progress}", visit.where, "It's finite.")
            if found[0].dtype != torch.float32:
                raise Failed(f"the loss is {found[0].dtype}", visit.where, "It's float32.")
        try:
            if not visit.phase.loss(part(subject.batch, torch.tensor([0])))[0].isfinite():
                alone.append(f"{visit.name} isn't finite on a batch of one image")
        except Exception as error:
            alone.append(f"{visit.name} takes no batch of one image: {said(error)}")

    subject.visit(subject.build(), look)
    if alone:
        raise Noted("; ".join(alone))


def loss_is_a_mean_over_images(subject: Subject) -> None:
    """Neither the loss nor a term grows with the number of images.

    Per-image terms have the same expectation on parts of a batch, those of MMD or adversaries too; estimates over the
    batch (a minibatch's log-sum) drift like 1 / n or log n. Only a sum grows as much from 32 to 64 as from 0 to 32.
    """

    def look(visit: Visit) -> None:
        model.eval()  # what follows the batches stands still

        def draw() -> dict[str, Tensor]:
            order = torch.randperm(N)
            found: dict[str, Tensor] = {}
            for size in (16, 32, 64):
                for at in order.view(-1, size):
                    loss, terms = visit.phase.loss(part(subject.batch, at))
                    for name, value in {"the loss": loss, **terms}.items():
                        key = f"{size} {name}"
                        found[key] = found.get(key, torch.zeros(())) + value.detach() * size / N
            return found

        drawn = draws(draw, 12)
        for name in {k.split(" ", 1)[1] for k in drawn}:
            at = [drawn[f"{size} {name}"] for size in (16, 32, 64)]
            first, second = Mean.of(at[1] - at[0]), Mean.of(at[2] - at[1])
            noise = 5 * (first.error**2 + second.error**2) ** 0.5
            grows = abs(second.value) > 1.5 * abs(first.value) + noise
            if grows and abs(second.value) > 0.01 * float(at[2].mean().abs()):
                means = ", ".join(f"{v.mean():.4g}" for v in at)
                raise Failed(
                    f"{visit.name}: {name} grows with the batch: {means} on 16, 32 and 64 images",
                    visit.where,
                    "Every part of it is a mean over images: .mean(), or .sum() / len(x).",
                )

    for model in (subject.trained, subject.build()):
        subject.visit(model, look)


def phases_descend(subject: Subject) -> None:
    """The one trainer trains it, and each phase's loss falls, but for those declared `descends=False`."""
    if isinstance(subject.course, Exception):
        raise subject.course
    for visit, before, after in subject.course.falls:
        fall = Mean.of(before - after)
        if visit.phase.descends and fall.value <= 2 * fall.error:
            raise Failed(
                f"{visit.name} doesn't fall: {before.mean():.4g} before, {after.mean():.4g} after its stage",
                visit.where,
                "The trainer descends it. If players pull against each other: Phase(..., descends=False).",
            )


def every_weight_is_the_models(subject: Subject) -> None:
    """A loss depends on no weight that torch doesn't know to be the model's: it'd be neither trained nor saved."""
    model = subject.build()
    known = {id(t) for t in state(model).values()}
    for phase in (phase for stage in well_formed(model) for phase in stage.phases):
        try:
            with seeded(0, CPU):
                first, second = (_leaves(phase.loss(subject.batch)[0]) for _ in range(2))
        except Exception:
            raise Skipped(UNTRAINABLE) from None
        lasting = second.keys() - known & first.keys()  # a leaf of one call only is an input, as in a gradient penalty
        if (strangers := [first[i] for i in first if i in lasting]) != []:
            shapes = listed([str(tuple(t.shape)) for t in strangers])
            many = f"{len(strangers)} weight{'s' if len(strangers) > 1 else ''} of shape {shapes}"
            raise Failed(
                f"the loss depends on {many} that aren't the model's: a plain list hides layers from torch",
                where(phase.loss),
                "Keep them in nn.ModuleList or nn.ParameterList; what isn't trained, by register_buffer.",
            )


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """The leaves that a gradient of the loss may reach, by their ids."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    while todo:
        if (node := todo.pop()) is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        todo += [after for after, _ in node.next_functions]
    return found


def phases_move_only_what_they_say(subject: Subject) -> None:
    """A loss changes no parameter, leaves no gradient, and changes no buffer of what its stage doesn't move."""
    model, _ = subject.build(), subject.trained
    stages = model.stages()

    def watch(visit: Visit) -> Loss:
        before = kept(model)
        result = visit.phase.loss(visit.batch)
        parameters = dict(model.named_parameters())
        names = changed(model, before)
        if (stepped := [k for k in names if k in parameters]) != []:
            raise Failed(
                f"{visit.name} changes parameters itself: {listed(stepped)}",
                visit.where,
                "It only returns a loss; the trainer takes the step. Players of their own are phases.",
            )
        if (left := [k for k, p in parameters.items() if p.grad is not None]) != []:
            raise Failed(
                f"{visit.name} leaves gradients behind: {listed(left)}",
                visit.where,
                "No .backward() in a loss: torch.autograd.grad or torch.func.grad.",
            )
        if (drifted := sorted(set(names) - _following(model, stages[visit.place[0]]))) != []:
            raise Failed(
                f"{visit.name} changes buffers of what its stage doesn't move: {listed(drifted)}",
                visit.where,
                "What no phase of the running stage moves is frozen: follow batches only in train mode.",
            )
        return result

    watched(model, watch)
    train(model, images(subject.spec), Training(2, 16), seed=0)


def _following(model: Variant, stage: Stage) -> set[str]:
    """Buffers that may follow the batches of a stage: those of modules that it moves, or that own what it moves."""
    members = [m for phase in stage.phases for m in (phase.moves or (model,))]
    parts = {id(part) for m in members if isinstance(m, nn.Module) for part in m.modules()}
    alone = {id(m) for m in members if isinstance(m, nn.Parameter)}
    return {
        f"{name}.{buffer}".strip(".")
        for name, module in model.named_modules()
        if id(module) in parts or any(id(p) in alone for p in module.parameters(recurse=False))
        for buffer, _ in module.named_buffers(recurse=False)
    }


def players_do_not_pull_against_each_other(subject: Subject) -> None:
    """Two phases of a stage may move the same parameters, but not in opposite directions."""
    should = "Each player moves its own networks alone: the generator's phase doesn't move the critic."
    trained, pairs = subject.trained, []
    for s, stage in enumerate(trained.stages()):
        for (p, one), (q, other) in combinations(enumerate(stage.phases), 2):
            if (shared := sorted(moved(trained, one).keys() & moved(trained, other).keys())) == []:
                continue
            pairs.append(((s, p), (s, q), shared))
            if not (one.descends or other.descends):
                raise Failed(
                    f"{where(one.loss)} and {where(other.loss)} pull against each other, as both say by "
                    f"descends=False, and both move {listed(shared)}",
                    subject.where("stages"),
                    should,
                )
    if not pairs:
        raise Skipped("no two phases of a stage move the same parameters")
    cosines: dict[int, list[float]] = defaultdict(list)
    for seed in range(4):  # at any one place two sound losses may disagree, as a reconstruction and a prior do
        model = subject.build(seed=seed)
        train(model, images(subject.spec), Training(10, N), seed=seed)
        gradients = _gradients(subject, model)
        for i, (a, b, shared) in enumerate(pairs):
            u, v = (torch.cat([gradients[place][k].flatten() for k in shared]) for place in (a, b))
            cosines[i].append(float(torch.cosine_similarity(u, v, 0)))
    for i, (_, _, shared) in enumerate(pairs):
        if (cosine := sum(cosines[i]) / len(cosines[i])) < -0.7:
            raise Failed(
                f"two phases oppose each other in {listed(shared)}: the cosine of their gradients is {cosine:.2f}",
                subject.where("stages"),
                should,
            )


def _gradients(subject: Subject, model: Variant) -> dict[tuple[int, int], dict[str, Tensor]]:
    """Of each phase, by its place, the gradients of its loss by name."""
    found: dict[tuple[int, int], dict[str, Tensor]] = {}

    def look(visit: Visit) -> None:
        mine = moved(model, visit.phase)
        with seeded(0, CPU):
            grads = torch.autograd.grad(visit.phase.loss(subject.batch)[0], list(mine.values()))
        found[visit.place] = dict(zip(mine, grads, strict=True))

    subject.visit(model, look)
    return found


def training_resumes_exactly(subject: Subject) -> None:
    """A training that is broken off and gone on with in a fresh model ends with the same bits."""
    pictures, training = images(subject.spec), Training(3, 16)
    taken: list[Snapshot] = []
    whole, _ = subject.build(), subject.trained
    before = plain(whole)

    def on_turn(take: Callable[[], Snapshot]) -> None:
        now = take()
        taken.append(Snapshot({k: v.detach().clone() for k, v in now.tensors.items()}, now.position))

    train(whole, pictures, training, seed=0, on_turn=on_turn)
    if not taken:
        raise Skipped("it takes no step, so there is nothing to go on from")
    after = plain(whole)
    drifted = [name for name, value in after.items() if name not in before or not same(value, before[name])]
    for snapshot in {id(s): s for s in (taken[0], taken[len(taken) // 2])}.values():
        resumed = subject.build()
        with seeded(1, CPU):
            train(resumed, pictures, training, seed=0, resume=snapshot)
        if (differ := changed(resumed, kept(whole))) != []:
            raise Failed(
                f"resumed after step {snapshot.done} of {len(taken)}, it ends with other weights: {listed(differ)}"
                + (f"; no buffer, and changed by training: {listed(drifted)}" if drifted else ""),
                subject.where("stages"),
                "A loss depends on weights, buffers, batch and torch's generator alone: no counters, no caches.",
            )
    if drifted:
        many = len(drifted) > 1
        what = "change in training and are no buffers" if many else "changes in training and is no buffer"
        raise Noted(f"{listed(drifted)} {what}: if a loss reads {'them' if many else 'it'}, a resumed training differs")


def hyperparameters_change_something(subject: Subject) -> None:
    """Each hyperparameter of its own, set to another value, changes weights, losses or samples. A note."""
    model, _ = subject.build(), subject.trained
    inits = [vars(c)["__init__"] for c in subject.own if "__init__" in vars(c)]
    declared = {name for init in inits for name in getattr(init, "__kwdefaults__", None) or ()}
    known = [h for h in hyperparameters(subject.cls).values() if h.name in declared and _kind(h) is not None]
    if not known:
        raise Skipped("it declares no number, switch or choice of its own")
    usual = _outcome(subject, {}) or {}
    notes: list[str] = []
    for h in known:
        now = subject.given.get(h.name, h.default)
        now = getattr(model, h.name, None) if now is None else now
        tried = []
        for value in _others(h, now):
            if (found := _outcome(subject, {h.name: value})) is None:
                continue
            tried.append(value)
            if found.keys() != usual.keys() or not all(same(found[k], usual[k]) for k in found):
                break
        else:
            if tried:
                change = f"from {show(now)} to {show(tried[0])}"
                notes.append(f"changing `{h.name}` {change} changes neither weights, losses nor samples")
    if notes:
        raise Noted("; ".join(notes))


def _kind(h: Hyperparameter) -> Any:
    """int, float, bool or a Literal, be it optional; None for other types."""
    kinds = [k for k in get_args(h.type) if k is not type(None)] if get_origin(h.type) is not Literal else [h.type]
    kind = kinds[0] if len(kinds) == 1 else h.type
    return kind if kind in (int, float, bool) or get_origin(kind) is Literal else None


def _others(h: Hyperparameter, now: Any) -> list[Any]:
    """A few other values that it can take."""
    kind = _kind(h)
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if choice != now]
    if kind is bool or not isinstance(now, int | float):
        return [not now] if isinstance(now, bool) else []
    tried = [2 * now + 1, now / 2]
    if h.range is not None:  # never a huge one
        tried += [end for end in (h.range.low, h.range.high) if abs(end) <= 10 * max(1, abs(now))]
    found = []
    for value in dict.fromkeys(map(kind, tried)):
        try:
            found += [h.validate(value)] if value != now else []
        except UsageError:
            continue
    return found


def _outcome(subject: Subject, other: Mapping[str, Any]) -> dict[str, Any] | None:
    """What comes of it with these hyperparameters instead, by three steps of training; None where it can't be built."""
    try:
        model = fresh(subject.cls, subject.spec, **{**subject.given, **other})
    except Exception:
        return None
    found: dict[str, Any] = {f"built {name}": value for name, value in kept(model).items()}
    try:
        found["rows"] = str(train(model, images(subject.spec), Training(3, 16), seed=0).rows)
        batch = batch_of(subject.spec, 16)
        found |= {name: ask(call) for name, call in calls(model, batch.x, batch.y).items()}
    except Exception as error:
        found["raised"] = said(error)
    return found | {f"trained {name}": value for name, value in kept(model).items()}


CHECKS = (
    loss_is_one_finite_number,
    phases_descend,
    loss_is_a_mean_over_images,
    phases_move_only_what_they_say,
    every_weight_is_the_models,
    players_do_not_pull_against_each_other,
    training_resumes_exactly,
    hyperparameters_change_something,
)
