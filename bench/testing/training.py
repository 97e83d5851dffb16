"""Checks of the training: the losses, what each phase moves, and resuming after an interruption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from bench.contracts.protocol import Training
from bench.contracts.variant import Loss, Stage, Variant
from bench.engine.snapshot import Snapshot, state
from bench.engine.trainer import train
from bench.plugins.hyperparameters import Hyperparameter, hyperparameters, show
from bench.testing.digits import Mean, N, batch_of, digits, draws, select
from bench.testing.kit import Failed, Noted, Skipped, describe_error, seeded, where
from bench.testing.models import UNTRAINABLE, changed, copy_state, describe_type, listed, moved, phases_of, same
from bench.testing.scoring import ability_calls, ask
from bench.testing.subject import VariantSubject, Visit, train_watched
from bench.util.errors import UsageError

ONE_PLAYER = "Let each player move only its own networks: the generator's phase must not move the critic."


def loss_is_one_finite_number(subject: VariantSubject) -> None:
    """At the start, in the middle and at the end of a stage, a loss is one finite float32; so is each of its terms."""
    notes: list[str] = []

    def look(visit: Visit) -> None:
        for progress in (0.0, 0.5, 1.0):
            _require_finite(visit, visit.loss(subject.batch._replace(progress=torch.tensor(progress))), progress)
        try:
            if not visit.loss(select(subject.batch, torch.tensor([0])))[0].isfinite():
                notes.append(f"{visit.name} is not finite on a batch of one image")
        except Exception as error:
            notes.append(f"{visit.name} cannot take a batch of one image: {describe_error(error)}")

    subject.visit(subject.build(), look)
    if notes:
        raise Noted("; ".join(notes))


def _require_finite(visit: Visit, result: Any, progress: float) -> None:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise Failed(f"{visit.name} gives {describe_type(result)}", visit.loss, "Write `return loss, {'rec': rec}`.")
    for name, value in {"the loss": result[0], **result[1]}.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise Failed(f"{name} is {what}", visit.loss, "Return a 0-d tensor: the mean over images.")
        if not value.isfinite():
            fix = "Look for a logarithm or a division of 0, or an exp that overflows."
            raise Failed(f"{name} is {value.item()} at progress {progress}", visit.loss, fix)
    if result[0].dtype != torch.float32:
        raise Failed(f"the loss is {result[0].dtype}", visit.loss, "Return float32: loss.float().")


def loss_is_a_mean_over_images(subject: VariantSubject) -> None:
    """Neither the loss nor a term grows with the number of images.

    Per-image terms have the same expectation on parts of a batch, those of MMD or adversaries too; estimates over the
    batch (a minibatch's log-sum) drift like 1 / n or log n. Only a sum grows as much from 32 to 64 as from 0 to 32.
    """

    def look(visit: Visit) -> None:
        model.eval()  # buffers that follow the batches stand still

        def draw() -> dict[str, Tensor]:
            order = torch.randperm(N)
            means: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
            for size in (16, 32, 64):
                for at in order.view(-1, size):
                    loss, terms = visit.loss(select(subject.batch, at))
                    for name, value in {"the loss": loss, **terms}.items():
                        means[f"{size} {name}"] = means[f"{size} {name}"] + value.detach() * size / N
            return means

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
                    visit.loss,
                    "Average every part of it over images: .mean(), or .sum() / len(x).",
                )

    for model in (subject.trained, subject.build()):
        subject.visit(model, look)


def phases_descend(subject: VariantSubject) -> None:
    """The suite's trainer can train it, and each phase's loss falls unless declared `descends=False`."""
    if isinstance(subject.course, Exception):
        raise subject.course
    for visit, before, after in subject.course.losses:
        fall = Mean.of(before - after)
        if visit.phase.descends and fall.value <= 2 * fall.error:
            raise Failed(
                f"{visit.name} does not fall: {before.mean():.4g} before, {after.mean():.4g} after its stage",
                visit.loss,
                "Look for a wrong sign: the trainer minimises it. For adversaries write Phase(..., descends=False).",
            )


def every_weight_is_the_models(subject: VariantSubject) -> None:
    """A loss depends only on weights that torch knows as the model's: others are neither trained nor saved."""
    model = subject.build()
    known = {id(t) for t in state(model).values()}
    for phase in phases_of(model):
        try:
            with seeded(0):
                first, second = (_leaves(phase.loss(subject.batch)[0]) for _ in range(2))
        except Exception:
            raise Skipped(UNTRAINABLE) from None
        lasting = second.keys() - known & first.keys()  # a leaf of one call only is an input, as in a gradient penalty
        if strangers := [first[i] for i in first if i in lasting]:
            shapes = listed([str(tuple(t.shape)) for t in strangers])
            many = f"{len(strangers)} weight{'s' if len(strangers) > 1 else ''} of shape {shapes}"
            raise Failed(
                f"the loss depends on {many} unknown to the model: a plain list hides layers from torch",
                phase.loss,
                "Keep them in nn.ModuleList or nn.ParameterList; register constants by register_buffer.",
            )


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """Return the leaves that a gradient of the loss reaches, by their ids."""
    leaves: dict[int, Tensor] = {}
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    while todo:
        if (node := todo.pop()) is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves[id(leaf)] = leaf
        todo += [after for after, _ in node.next_functions]
    return leaves


def phases_move_only_what_they_say(subject: VariantSubject) -> None:
    """A loss changes no parameter, leaves no gradient, and changes no buffer of what its stage doesn't move."""
    model, _ = subject.build(), subject.trained
    stages = model.stages()

    def watch(visit: Visit) -> Loss:
        before = copy_state(model)
        result = visit.loss(visit.batch)
        parameters = dict(model.named_parameters())
        names = changed(model, before)
        if stepped := [k for k in names if k in parameters]:
            fix = "Only return a loss, and declare a Phase for what takes steps of its own: the trainer takes them."
            raise Failed(f"{visit.name} changes parameters itself: {listed(stepped)}", visit.loss, fix)
        if left := [k for k, p in parameters.items() if p.grad is not None]:
            fix = "Replace .backward() by torch.autograd.grad or torch.func.grad."
            raise Failed(f"{visit.name} leaves gradients behind: {listed(left)}", visit.loss, fix)
        if drifted := sorted(set(names) - _followers(model, stages[visit.place[0]])):
            raise Failed(
                f"{visit.name} changes buffers of what its stage does not move: {listed(drifted)}",
                visit.loss,
                "Update buffers only where self.training: modules that the stage does not move are in eval mode.",
            )
        return result

    train_watched(model, subject.spec, Training(2, 16), watch)


def _followers(model: Variant, stage: Stage) -> set[str]:
    """Return the buffers that a stage may change: those of modules that it moves, or that own what it moves."""
    members = [m for phase in stage.phases for m in (phase.moves or (model,))]
    parts = {id(part) for m in members if isinstance(m, nn.Module) for part in m.modules()}
    alone = {id(m) for m in members if isinstance(m, nn.Parameter)}
    return {
        f"{name}.{buffer}".strip(".")
        for name, module in model.named_modules()
        if id(module) in parts or any(id(p) in alone for p in module.parameters(recurse=False))
        for buffer, _ in module.named_buffers(recurse=False)
    }


def players_do_not_pull_against_each_other(subject: VariantSubject) -> None:
    """Two phases of a stage may move the same parameters, but not in opposite directions."""
    trained, pairs, look = subject.trained, [], subject.where("stages")
    for s, stage in enumerate(trained.stages()):
        for (p, one), (q, other) in combinations(enumerate(stage.phases), 2):
            if not (shared := sorted(moved(trained, one).keys() & moved(trained, other).keys())):
                continue
            pairs.append(((s, p), (s, q), shared))
            if not (one.descends or other.descends):
                both = f"{where(one.loss)} and {where(other.loss)}"
                raise Failed(
                    f"{both} are both declared descends=False, as adversaries, and both move {listed(shared)}",
                    look,
                    ONE_PLAYER,
                )
    if not pairs:
        raise Skipped("no two phases of a stage move the same parameters")
    cosines: dict[int, list[float]] = defaultdict(list)
    for seed in range(4):  # at any one place two sound losses may disagree, as a reconstruction and a prior do
        model = subject.build(seed=seed)
        train(model, digits(subject.spec), Training(10, N), seed=seed)
        gradients = _gradients(subject, model)
        for i, (a, b, shared) in enumerate(pairs):
            u, v = (torch.cat([gradients[place][k].flatten() for k in shared]) for place in (a, b))
            cosines[i].append(float(torch.cosine_similarity(u, v, 0)))
    for i, (_, _, shared) in enumerate(pairs):
        if (cosine := sum(cosines[i]) / len(cosines[i])) < -0.7:
            wrong = f"two phases oppose each other in {listed(shared)}: the cosine of their gradients is {cosine:.2f}"
            raise Failed(wrong, look, ONE_PLAYER)


def _gradients(subject: VariantSubject, model: Variant) -> dict[tuple[int, int], dict[str, Tensor]]:
    """Return the gradients of each phase's loss, by the phase's place and the parameter's name."""
    gradients: dict[tuple[int, int], dict[str, Tensor]] = {}

    def look(visit: Visit) -> None:
        mine = moved(model, visit.phase)
        with seeded(0):
            grads = torch.autograd.grad(visit.loss(subject.batch)[0], list(mine.values()))
        gradients[visit.place] = dict(zip(mine, grads, strict=True))

    subject.visit(model, look)
    return gradients


def training_resumes_exactly(subject: VariantSubject) -> None:
    """A training that is interrupted and resumed in a new model ends with the same bits."""
    pictures, training = digits(subject.spec), Training(3, 16)
    taken: list[Snapshot] = []
    whole, _ = subject.build(), subject.trained
    before = _unregistered(whole)

    def on_turn(take: Callable[[], Snapshot]) -> None:
        now = take()
        taken.append(Snapshot({k: v.detach().clone() for k, v in now.tensors.items()}, now.position))

    train(whole, pictures, training, seed=0, on_turn=on_turn)
    if not taken:
        raise Skipped("it takes no step, so there is nothing to resume")
    after = _unregistered(whole)
    drifted = listed([name for name, value in after.items() if name not in before or not same(value, before[name])])
    for snapshot in {id(s): s for s in (taken[0], taken[len(taken) // 2])}.values():
        resumed = subject.build()
        with seeded(1):
            train(resumed, pictures, training, seed=0, resume=snapshot)
        if differ := changed(resumed, copy_state(whole)):
            raise Failed(
                f"resumed after step {snapshot.done} of {len(taken)}, it ends with other weights: {listed(differ)}"
                + (f"; training changes {drifted}, outside of buffers" if drifted else ""),
                subject.where("stages"),
                "Keep what a loss reads in buffers (register_buffer): plain counters and caches are not restored.",
            )
    if drifted:
        raise Noted(f"training changes {drifted}, outside of buffers: a loss that reads it differs when resumed")


def _unregistered(model: Variant) -> dict[str, Any]:
    """Return numbers, texts and tensors of the modules besides parameters and buffers, by name in words."""
    of_torch, registered = vars(nn.Module()).keys(), {id(t) for t in state(model).values()}
    return {
        f"`{key}` of {name or 'the model'}": value.detach().clone() if isinstance(value, Tensor) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in of_torch and isinstance(value, int | float | str | Tensor) and id(value) not in registered
    }


def hyperparameters_change_something(subject: VariantSubject) -> None:
    """Each hyperparameter of its own, set to another value, changes weights, losses or samples. A note."""
    model, _ = subject.build(), subject.trained
    inits = [vars(c)["__init__"] for c in subject.own_classes if "__init__" in vars(c)]
    declared = {name for init in inits for name in getattr(init, "__kwdefaults__", None) or ()}
    others: dict[str, tuple[Any, list[Any]]] = {}
    for h in hyperparameters(subject.plugin).values():
        now = subject.arguments.get(h.name, h.default)
        now = getattr(model, h.name, None) if now is None else now
        if h.name in declared and (values := _other_values(h, now)):
            others[h.name] = now, values
    if not others:
        raise Skipped("it declares no number, switch or choice of its own")
    usual = _results(subject, {}) or {}
    notes: list[str] = []
    for name, (now, values) in others.items():
        if (ignored := _ignored_value(subject, name, values, usual)) is not None:
            change = f"from {show(now)} to {show(ignored)}"
            notes.append(f"changing `{name}` {change} changes neither weights, losses nor samples")
    if notes:
        raise Noted("; ".join(notes))


def _other_values(h: Hyperparameter, now: Any) -> list[Any]:
    """Return a few other values of a number, switch or choice; none for other types."""
    kinds = (h.type, *get_args(h.type))  # the type itself, and those of T | None
    candidates = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if isinstance(now, bool):
        candidates = [not now]
    elif isinstance(now, int | float) and (int in kinds or float in kinds):
        candidates = [2 * now + 1, now / 2]
        if h.range is not None:  # never a huge one
            candidates += [end for end in (h.range.low, h.range.high) if abs(end) <= 10 * max(1, abs(now))]
        candidates = list(dict.fromkeys(map(float if float in kinds else int, candidates)))
    values = []
    for value in candidates:
        with suppress(UsageError):
            values += [h.validate(value)] if value != now else []
    return values


def _ignored_value(subject: VariantSubject, name: str, values: list[Any], usual: Mapping[str, Any]) -> Any:
    """Return the first of the values that a model can be built with, if none changes a result; else None."""
    first = None
    for value in values:
        if (results := _results(subject, {name: value})) is None:
            continue
        if results.keys() != usual.keys() or not all(same(results[k], usual[k]) for k in results):
            return None
        first = value if first is None else first
    return first


def _results(subject: VariantSubject, other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return weights, history and samples after three steps with these hyperparameters; None if it cannot be built."""
    try:
        model = subject.build(**other)
    except Exception:
        return None
    results: dict[str, Any] = {f"built {name}": value for name, value in copy_state(model).items()}
    try:
        results["rows"] = str(train(model, digits(subject.spec), Training(3, 16), seed=0).rows)
        batch = batch_of(subject.spec, 16)
        results |= {name: ask(call) for name, call in ability_calls(model, batch.x, batch.y).items()}
    except Exception as error:
        results["raised"] = describe_error(error)
    return results | {f"trained {name}": value for name, value in copy_state(model).items()}


CHECKS = (
    loss_is_one_finite_number, phases_descend, loss_is_a_mean_over_images, phases_move_only_what_they_say,
    every_weight_is_the_models, players_do_not_pull_against_each_other, training_resumes_exactly,
    hyperparameters_change_something,
)  # fmt: skip
