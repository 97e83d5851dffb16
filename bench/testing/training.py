"""Checks of what is trained: losses, who moves what, and that a training can be broken off and gone on with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from bench.protocol import Training
from bench.snapshot import Snapshot, seeded
from bench.testing.kit import Failed, Noted, Skipped, where
from bench.testing.subject import (
    CPU,
    Mean,
    N,
    Subject,
    Visit,
    changed,
    draws,
    images,
    kept,
    listed,
    moved,
    part,
    watched,
)  # fmt: skip
from bench.trainer import train
from bench.variant import Loss, Stage, Variant


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
            alone.append(f"{visit.name} takes no batch of one image: {type(error).__name__}: {error}")

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

    def on_turn(take: Callable[[], Snapshot]) -> None:
        now = take()
        taken.append(Snapshot({k: v.detach().clone() for k, v in now.tensors.items()}, now.position))

    train(whole, pictures, training, seed=0, on_turn=on_turn)
    for snapshot in {id(s): s for s in (taken[0], taken[len(taken) // 2])}.values():
        resumed = subject.build()
        with seeded(1, CPU):
            train(resumed, pictures, training, seed=0, resume=snapshot)
        if (differ := changed(resumed, kept(whole))) != []:
            raise Failed(
                f"resumed after step {snapshot.done} of {len(taken)}, it ends with other weights: {listed(differ)}",
                f"the losses of {subject.where('stages')}",
                "A loss depends on weights, buffers, batch and torch's generator alone: no counters, no caches.",
            )


CHECKS = (
    loss_is_one_finite_number,
    phases_descend,
    loss_is_a_mean_over_images,
    phases_move_only_what_they_say,
    players_do_not_pull_against_each_other,
    training_resumes_exactly,
)
