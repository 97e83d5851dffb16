"""The one trainer: stages in order, phases in turn; each phase descends its own loss in the parameters it moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn

from bench.contracts.images import Images, to_float
from bench.contracts.protocol import Training, seed_for
from bench.contracts.variant import Batch, Loss, Optimizer, Phase, Stage, Variant
from bench.engine.snapshot import Snapshot, generators, number, seeded, set_generators, under
from bench.engine.stacking import Alone, Stack, Trainee, compiled
from bench.util.errors import Diverged, PluginError

Progress = Callable[[int, int, dict[str, float]], None]  # step of the whole cell, stage, mean terms since the last call


@dataclass
class History:
    """The mean terms over each interval of steps, with the stage and the last step of the interval."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    compiling: float = 0.0  #: those of `seconds` in the first step of each stage, where losses are compiled
    images: int = 0


class Order:
    """The order of training images: an endless sequence of permutations, the same for every variant.

    A phase that repeats draws its further batches from a sequence of its own, so no variant shifts the order. Batches
    cross the ends of epochs, so all have the same size and every image is seen equally often. Batch k is a function of
    (seed, k) alone: resuming needs no other state.
    """

    def __init__(self, n: int, batch_size: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.n, self.batch_size, self.seed, self.device = n, batch_size, seed, device
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, e: int) -> Tensor:
        if e not in self._epochs:
            self._epochs = {k: v for k, v in self._epochs.items() if k == e - 1}
            generator = torch.Generator().manual_seed(seed_for("order", self.seed, e))
            self._epochs[e] = torch.randperm(self.n, generator=generator).to(self.device)
        return self._epochs[e]

    def batch(self, k: int) -> Tensor:
        """Return the positions (batch_size,) in the training split of batch k = 0, 1, ..."""
        parts, at, need = [], k * self.batch_size, self.batch_size
        while need:
            e, start = divmod(at, self.n)
            part = self._epoch(e)[start : start + need]
            parts.append(part)
            at, need = at + len(part), need - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def stage_steps(stages: tuple[Stage, ...], steps: int) -> tuple[int, ...]:
    """Return the optimiser steps of each stage for a budget of `steps`."""
    return tuple(max(1, round(steps * stage.steps)) if stage.phases else 0 for stage in stages)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model; the CPU if it has no tensors."""
    held = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if held is None else held.device


class _Player:
    """A phase ready to be trained: its parameters, their names, and an optimiser."""

    def __init__(self, subject: Trainee, phase: Phase, default: Optimizer, training: Training) -> None:
        self.subject, self.phase = subject, phase
        self.optimizer = phase.optimizer or default
        model = subject.models[0]
        moved = phase.moves or (model,)
        members = [p for m in moved for p in (m.parameters() if isinstance(m, nn.Module) else (m,))]
        self.modules = [m for m in moved if isinstance(m, nn.Module)]
        names = {id(p): name for name, p in model.named_parameters()}
        unique = {id(p): p for p in members if p.requires_grad}
        self.names = [names.get(i, "a parameter outside of the model") for i in unique]
        self.owners = set(unique)
        self.params = [subject.parameter(name, p) for name, p in zip(self.names, unique.values(), strict=True)]
        if not self.params:
            raise PluginError(
                f"{type(model).__name__}: the phase of {_name(phase)} moves nothing",
                cause="No module or parameter in its `moves` can be trained.",
            )
        self.steps = _build(self.optimizer, self.params)
        self.averages = [p.detach().clone() for p in self.params] if self.optimizer.ema is not None else []
        self.checked = False
        device = device_of(model)
        self.evaluate = subject.every(phase.loss)
        if training.compile:
            self.evaluate = compiled(self.evaluate, device)
        self.precision = precision(training.precision, device)

    def descend(self, batch: Batch, lr_factor: float, step: int) -> Loss:
        """Take one optimiser step on a batch; return the loss and the terms before it."""
        loss, terms = self._evaluate(batch)
        grads = torch.autograd.grad(loss.sum() if loss.ndim else loss, self.params, allow_unused=True)
        if not self.checked:
            self._check(grads)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)  # for fused steps
        if self.optimizer.clip is not None:
            self._clip(self.optimizer.clip)
        if self.optimizer.schedule != "constant":
            for group in self.steps.param_groups:
                group["lr"] = self.optimizer.lr * lr_factor
        self.steps.step()
        for p in self.params:
            p.grad = None
        self._average(step)
        return loss.detach(), terms

    def _evaluate(self, batch: Batch) -> Loss:
        with self.precision:
            returned = self.evaluate(batch)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise PluginError(
                f"{_name(self.phase)} returned {type(returned).__name__}",
                cause="A loss returns a pair: the number to descend, and a dict of terms to report (or an empty one).",
                fix='return loss, {"rec": rec}',
            )
        if returned[0].shape != self.subject.shape:
            raise PluginError(
                f"{_name(self.phase)} returned a loss of shape {tuple(returned[0].shape)}",
                cause="A loss is one number: the mean over the images of the batch.",
            )
        return returned

    def _clip(self, bound: float) -> None:
        for i, p in enumerate(self.params):  # in place: a gradient that two parameters share would be scaled twice
            if p.grad is not None and any(p.grad is other.grad for other in self.params[:i]):
                p.grad = p.grad.clone()
        self.subject.clip(self.params, bound)

    def _average(self, step: int) -> None:
        rising = (1 + step) / (10 + step)  # averages over the last tenth of the steps
        decay = min(self.optimizer.ema or 0.0, rising)
        for average, p in zip(self.averages, self.params, strict=False):
            average.lerp_(p.detach(), 1 - decay)

    def finish(self) -> None:
        """Set the weights to their averages, where the optimiser keeps averages."""
        with torch.no_grad():
            for average, p in zip(self.averages, self.params, strict=False):
                p.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the optimiser's state, and the averages."""
        tensors = {f"average.{i}": average for i, average in enumerate(self.averages)}
        for i, p in enumerate(self.params):
            tensors |= {f"{i}.{key}": v for key, v in self.steps.state.get(p, {}).items() if isinstance(v, Tensor)}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for i, average in enumerate(self.averages):
            average.copy_(tensors[f"average.{i}"])
        for i, p in enumerate(self.params):
            for key, value in under(f"{i}.", tensors).items():  # in the layout of the parameter
                self.steps.state[p][key] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value

    def _check(self, grads: tuple[Tensor | None, ...]) -> None:
        self.checked = True
        without = [name for name, g in zip(self.names, grads, strict=True) if g is None]
        if without:
            raise PluginError(
                f"{_name(self.phase)} gives no gradient to {', '.join(without[:5])}"
                + (f" and {len(without) - 5} more" if len(without) > 5 else ""),
                cause="The phase has it in `moves`, but its loss doesn't depend on it.",
                fix="Leave it out of `moves`, or use it in the loss.",
            )


def _name(phase: Phase) -> str:
    return getattr(phase.loss, "__qualname__", repr(phase.loss))


def precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which losses are computed: plain fp32, or autocast to bf16 for matrix products."""
    return torch.autocast(device.type, torch.bfloat16) if name == "bf16" else nullcontext()


def _build(o: Optimizer, params: list[Tensor]) -> torch.optim.Optimizer:
    if o.name == "sgd":
        return torch.optim.SGD(params, o.lr, momentum=o.betas[0], weight_decay=o.weight_decay, fused=True)
    cls = torch.optim.AdamW if o.name == "adamw" else torch.optim.Adam
    return cls(params, o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True)


def _lr_factor(schedule: str, progress: float) -> float:
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


def _set_modes(model: Variant, players: list[_Player]) -> None:
    """Set what a phase of this stage moves to train mode, and all else to eval mode."""
    model.eval()
    for player in players:
        for module in player.modules:
            module.train()
        if not player.phase.moves:
            model.train()
        for module in model.modules():  # modules of parameters that `moves` lists by themselves
            if any(id(p) in player.owners for p in module.parameters(recurse=False)):
                module.training = True


OnTurn = Callable[[Callable[[], Snapshot]], None]
"""Called after each step with a function that takes a snapshot; an exception in it ends the training."""


class _Training:
    """The state of a training, which changes from step to step."""

    def __init__(self, models: Sequence[Variant], images: Images, training: Training, seeds: Sequence[int]) -> None:
        self.subject: Trainee = Alone(*models) if len(models) == 1 else Stack(models)
        self.images, self.training = images, training
        self.device = device_of(models[0])
        self.default = Optimizer(training.optimizer, lr=training.lr)  # type: ignore[arg-type]
        size, at = training.batch_size, images.device
        self.orders = [Order(len(images), size, seed, at) for seed in seeds]
        self.extras = [Order(len(images), size, seed_for("repeats", seed), at) for seed in seeds]
        self.stages = [model.stages() for model in models]
        self.plan = stage_steps(self.stages[0], training.steps)
        self.interval = max(1, sum(self.plan) // 200)
        self.histories = [History() for _ in models]
        self.last: list[float | None] = [None for _ in models]
        self.diverged: list[Diverged | None] = [None for _ in models]
        self.number = self.step = self.done = self.repeats = 0  # stage, step in it, turns, batches of repeats
        self.losses: list[Tensor] = []
        self.sums: dict[str, list[Tensor]] = {}
        self.players: list[_Player] = []

    def start(self) -> None:
        """Do what the running stage does with the training data before its first step."""
        for model, stages in zip(self.subject.models, self.stages, strict=True):
            begin = stages[self.number].start
            if begin is not None:
                model.eval()
                begin(self.images)

    def enter(self) -> None:
        """Build the players of the running stage."""
        self.subject.gather()
        phases = self.stages[0][self.number].phases
        self.players = [_Player(self.subject, phase, self.default, self.training) for phase in phases]
        for model in self.subject.models:
            _set_modes(model, self.players)

    def turn(self) -> dict[str, float] | None:
        """Do one step, each phase once; return the mean terms of the first model if an interval ends here."""
        steps = self.plan[self.number]
        progress = torch.full((), self.step / steps, device=self.device)
        total: Tensor | None = None
        first = self._batch(self.orders, self.done, progress)
        for player in self.players:
            factor = _lr_factor(player.optimizer.schedule, self.step / steps)
            for again in range(player.phase.repeat):
                batch = self._batch(self.extras, self.repeats, progress) if again else first
                self.repeats += again > 0
                loss, terms = player.descend(batch, factor, self.step)
                total = self._lasting(loss) if total is None else total + loss
                for name, value in terms.items():
                    self.sums.setdefault(name, []).append(self._lasting(value))
        if total is not None:
            self.losses.append(total)
        self.step += 1
        self.done += 1
        return self._rows() if self.done % self.interval == 0 or self.step == steps else None

    def _batch(self, orders: Sequence[Order], k: int, progress: Tensor) -> Batch:
        batches = [order.batch(k) for order in orders]
        index = batches[0] if len(batches) == 1 else torch.cat(batches)
        x = to_float(self.images.take(index, self.device))
        y, index = self.images.labels(index, self.device), index.to(self.device)
        if self.subject.shape:
            x, y, index = (t.view(len(orders), -1, *t.shape[1:]) for t in (x, y, index))
        return Batch(x, y, index, progress)

    def _lasting(self, value: Tensor) -> Tensor:
        """Return a term that lasts until its interval ends: the next call of a CUDA graph overwrites its results."""
        return value.detach().clone() if self.training.compile else value.detach()

    def _rows(self) -> dict[str, float] | None:
        losses = self._columns(self.losses)
        terms = {name: self._columns(values) for name, values in self.sums.items()}
        for i, history in enumerate(self.histories):
            if self.diverged[i] is None:
                self._check(i, losses[i])
                means = {name: sum(columns[i]) / len(columns[i]) for name, columns in terms.items()}
                loss = sum(losses[i]) / len(losses[i])
                history.rows.append({"stage": self.number, "step": self.done, "loss": loss, **means})
        self.losses, self.sums = [], {}
        return self.histories[self.diverged.index(None)].rows[-1] if self.going else None

    def _columns(self, values: list[Tensor]) -> list[list[float]]:
        """Return a term's values in this interval, for each model."""
        stacked = torch.stack(values).cpu().double().view(len(values), len(self.histories), -1)
        columns: list[list[float]] = stacked.mean(-1).T.tolist()
        return columns

    def _check(self, i: int, losses: list[float]) -> None:
        for turn, value in enumerate(losses, self.done - len(losses) + 1):
            if not math.isfinite(value):
                self.diverged[i] = Diverged(turn, self.last[i])
                return
            self.last[i] = value

    @property
    def going(self) -> bool:
        """True while a model is left that has not diverged."""
        return None in self.diverged

    def leave(self) -> None:
        """End the running stage."""
        for player in self.players:
            player.finish()
        self.number, self.step = self.number + 1, 0

    def snapshot(self) -> Snapshot:
        tensors = {f"model.{name}": t for name, t in self.subject.state().items()}
        for i, player in enumerate(self.players):
            tensors |= {f"player.{i}.{name}": t for name, t in player.state().items()}
        if self.losses:
            tensors["pending"] = torch.stack(self.losses)
        tensors |= {f"pending.{name}": torch.stack(values) for name, values in self.sums.items()}
        streams, rest = generators(self.device)
        position = {
            "stage": self.number,
            "step": self.step,
            "done": self.done,
            "repeats": self.repeats,
            "last": self.last,
            "diverged": [None if lost is None else (lost.step, lost.last) for lost in self.diverged],
            "seconds": self.histories[0].seconds,
            "compiling": self.histories[0].compiling,
            "rows": [_exact(history.rows) for history in self.histories],
            "generators": rest,
        }
        return Snapshot(tensors | streams, position)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot.

        Raises:
            ValueError: the snapshot is of another model.
        """
        at, tensors = snapshot.position, snapshot.tensors
        self.number, self.step, self.done, self.repeats = (int(at[k]) for k in ("stage", "step", "done", "repeats"))
        self.last = list(at["last"])
        self.diverged = [None if lost is None else Diverged(*lost) for lost in at["diverged"]]
        for history, rows in zip(self.histories, at["rows"], strict=True):
            history.seconds, history.compiling = at["seconds"], at["compiling"]
            history.rows = [{k: number(v) for k, v in row.items()} for row in rows]
        self.subject.fill(under("model.", tensors))
        self.enter()
        for i, player in enumerate(self.players):
            player.restore(under(f"player.{i}.", tensors))
        self.losses = list(tensors["pending"].unbind()) if "pending" in tensors else []
        self.sums = {name: list(values.unbind()) for name, values in under("pending.", tensors).items()}
        set_generators(self.device, tensors, at["generators"])


def _exact(rows: list[dict[str, float]]) -> list[dict[str, str]]:
    """Return numbers as text, since strict JSON has no NaN."""
    return [{k: repr(v) for k, v in row.items()} for row in rows]


def train(
    model: Variant,
    images: Images,
    training: Training,
    *,
    seed: int,
    on_progress: Progress | None = None,
    on_turn: OnTurn | None = None,
    resume: Snapshot | None = None,
) -> History:
    """Train `model` in place, on `images` that lie on its device; it keeps the weights of the last step.

    Args:
        resume: continue from here; on a CPU, with as many threads, the weights are the same to the last bit.

    Raises:
        Diverged: a loss or a weight became non-finite.
        PluginError: a phase moves nothing, or a parameter that its loss doesn't depend on.
        Unsuitable: a stage can't start on these data.
    """
    (history,) = train_together([model], images, training, [seed], on_progress, on_turn, resume)
    if isinstance(history, Diverged):
        raise history
    return history


def train_together(
    models: Sequence[Variant],
    images: Images,
    training: Training,
    seeds: Sequence[int],
    on_progress: Progress | None = None,
    on_turn: OnTurn | None = None,
    resume: Snapshot | None = None,
) -> list[History | Diverged]:
    """Train several seeds of a variant in one pass, each on batches of its own order, as `train` does with one.

    Their noise comes from one generator, so the weights of a seed depend on the other seeds, their distribution does
    not. Times are divided evenly among the models.

    Returns:
        For each model its history, or how it diverged; the others are trained to the end.

    Raises:
        PluginError, Unsuitable: as `train`.
    """
    course = _Training(models, images, training, seeds)
    with seeded(seed_for("train", *seeds), course.device):
        if resume is not None:
            course.restore(resume)
        began, before = time.perf_counter(), course.histories[0].seconds
        while course.number < len(course.plan) and course.going:
            if course.step == 0:
                course.start()
                course.enter()
            while course.step < course.plan[course.number] and course.going:
                row = course.turn()
                if row is not None and on_progress is not None:
                    terms = {k: v for k, v in row.items() if k not in ("stage", "step")}
                    on_progress(course.done, course.number, terms)
                now = before + (time.perf_counter() - began) / len(models)
                for history in course.histories:
                    if course.step == 1 and training.compile:
                        history.compiling += now - history.seconds
                    history.seconds = now
                if on_turn is not None and course.going:
                    on_turn(course.snapshot)
            course.leave()
        for i, model in enumerate(models):
            model.eval()
            if course.diverged[i] is None and not all(bool(p.isfinite().all()) for p in model.parameters()):
                course.diverged[i] = Diverged(course.done, course.last[i])
        course.subject.release()
    for history in course.histories:
        history.seconds = before + (time.perf_counter() - began) / len(models)
        history.images = (course.done + course.repeats) * training.batch_size
    return [lost or history for lost, history in zip(course.diverged, course.histories, strict=True)]


def why_not_together(build: Callable[[int], Variant], images: Images, training: Training) -> str:
    """Return why seeds of a variant can't be trained in one pass; '' if they can. Tries two, for a step of each stage.

    Args:
        build: returns a new model for a seed.
    """
    once = replace(training, steps=1, compile=False)
    try:
        with seeded(0, torch.device("cpu")):
            course = _Training([build(0)], images, once, [0])
            for _ in course.plan:
                course.start()
                course.enter()
                held = {name: id(t) for name, t in course.subject.state().items()}
                if course.plan[course.number]:
                    course.turn()
                if moved := [name for name, t in course.subject.state().items() if held.get(name) != id(t)]:
                    return f"its loss replaces the tensor {moved[0]} instead of changing it in place"
                course.leave()
        pair = [build(0), build(1)]
        train_together(pair, images, once, [0, 1])
        own, other = map(_attributes, pair)
        if apart := [name for name, value in own.items() if value != other.get(name)]:
            return f"its attribute {apart[0]} differs between seeds, and is neither parameter nor buffer"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def _attributes(model: Variant) -> dict[str, object]:
    """Return the comparable attributes of a model and its modules, besides parameters and buffers."""
    return {
        f"{name}.{key}".lstrip("."): value.tolist() if isinstance(value, Tensor) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and isinstance(value, int | float | str | list | tuple | Tensor)
    }


def probe(build: Callable[[], Variant], images: Images, training: Training) -> float:
    """Return the seconds that a full training will take, measured on a few steps of a new model; NaN if these fail."""
    try:
        few = [replace(training, steps=n, compile=False) for n in (2, 7)]
        seconds = [train(build(), images, some, seed=0).seconds for some in few]
    except Exception:  # the cell itself will report it
        return math.nan
    return max(0.0, (seconds[1] - seconds[0]) / 5 * training.steps + seconds[0])
