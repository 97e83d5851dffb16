"""The one trainer: stages in order, phases in turn, each descending its own loss in what it moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn

from bench.errors import Diverged, PluginError
from bench.images import Images, to_float
from bench.protocol import Training, seed_for
from bench.snapshot import Snapshot, fill, generators, number, seeded, set_generators, state, under
from bench.variant import Batch, Optimizer, Phase, Stage, Variant

Progress = Callable[[int, int, dict[str, float]], None]  # step of the whole cell, stage, mean terms since the last call


@dataclass
class History:
    """Mean terms over each interval of steps, with the stage and the last step of the interval."""

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0


class Order:
    """Which images the batch of turn k holds: one endless run of permutations, the same for every variant.

    A phase that repeats draws its further batches from a run of its own, so that no variant shifts the order.

    Batches straddle epochs, so that all have the same size and every image is seen equally often. A function of
    (seed, k) alone: resuming needs no state but k.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, e: int) -> Tensor:
        if e not in self._epochs:
            self._epochs = {k: v for k, v in self._epochs.items() if k == e - 1}
            generator = torch.Generator().manual_seed(seed_for("order", self.seed, e))
            self._epochs[e] = torch.randperm(self.n, generator=generator)
        return self._epochs[e]

    def batch(self, k: int) -> Tensor:
        """Positions (batch_size,) in the training split of batch k = 0, 1, ..."""
        parts, at, need = [], k * self.batch_size, self.batch_size
        while need:
            e, start = divmod(at, self.n)
            part = self._epoch(e)[start : start + need]
            parts.append(part)
            at, need = at + len(part), need - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def stage_steps(stages: tuple[Stage, ...], steps: int) -> tuple[int, ...]:
    """Optimiser steps of each stage for a budget of `steps`."""
    return tuple(max(1, round(steps * stage.steps)) if stage.phases else 0 for stage in stages)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU if it holds nothing."""
    held = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if held is None else held.device


class _Player:
    """A phase made ready: its parameters, their names, and an optimiser."""

    def __init__(self, model: Variant, phase: Phase, default: Optimizer) -> None:
        self.phase = phase
        self.optimizer = phase.optimizer or default
        moved = phase.moves or (model,)
        members = [p for m in moved for p in (m.parameters() if isinstance(m, nn.Module) else (m,))]
        self.modules = [m for m in moved if isinstance(m, nn.Module)]
        names = {id(p): name for name, p in model.named_parameters()}
        unique = {id(p): p for p in members if p.requires_grad}
        self.params = list(unique.values())
        self.names = [names.get(i, "a parameter outside of the model") for i in unique]
        if not self.params:
            raise PluginError(
                f"{type(model).__name__}: the phase of {_name(phase)} moves nothing",
                cause="No module or parameter in its `moves` has anything to train.",
            )
        self.steps = _build(self.optimizer, self.params)
        self.averages = [p.detach().clone() for p in self.params] if self.optimizer.ema is not None else []
        self.checked = False

    def descend(self, batch: Batch, lr_factor: float) -> tuple[Tensor, dict[str, Tensor]]:
        returned = self.phase.loss(batch)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise PluginError(
                f"{_name(self.phase)} returned {type(returned).__name__}",
                cause="A loss returns two things: what is descended, and a dict of terms to report (or an empty one).",
                fix='return loss, {"rec": rec}',
            )
        loss, terms = returned
        if loss.ndim != 0:
            raise PluginError(
                f"{_name(self.phase)} returned a loss of shape {tuple(loss.shape)}",
                cause="A loss is one number: the mean over the images of the batch.",
            )
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        if not self.checked:
            self._check(grads)
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        if self.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(self.params, self.optimizer.clip)
        if self.optimizer.schedule != "constant":
            for group in self.steps.param_groups:
                group["lr"] = self.optimizer.lr * lr_factor
        self.steps.step()
        for p in self.params:
            p.grad = None
        for average, p in zip(self.averages, self.params, strict=False):
            average.lerp_(p.detach(), 1 - (self.optimizer.ema or 0.0))
        return loss.detach(), terms

    def finish(self) -> None:
        """What the end of the stage brings: averaged weights, where they were asked for."""
        with torch.no_grad():
            for average, p in zip(self.averages, self.params, strict=False):
                p.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """What the optimiser and the averages remember."""
        kept = {f"average.{i}": average for i, average in enumerate(self.averages)}
        for i, p in enumerate(self.params):
            kept |= {f"{i}.{key}": v for key, v in self.steps.state.get(p, {}).items() if isinstance(v, Tensor)}
        return kept

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        for i, average in enumerate(self.averages):
            average.copy_(kept[f"average.{i}"])
        for i, p in enumerate(self.params):
            for key, value in under(f"{i}.", kept).items():  # in the layout of what it belongs to
                self.steps.state[p][key] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value

    def _check(self, grads: tuple[Tensor | None, ...]) -> None:
        self.checked = True
        without = [name for name, g in zip(self.names, grads, strict=True) if g is None]
        if without:
            raise PluginError(
                f"{_name(self.phase)} gives no gradient to {', '.join(without[:5])}"
                + (f" and {len(without) - 5} more" if len(without) > 5 else ""),
                cause="The phase `moves` it, but its loss doesn't depend on it.",
                fix="Leave it out of `moves`, or use it in the loss.",
            )


def _name(phase: Phase) -> str:
    return getattr(phase.loss, "__qualname__", repr(phase.loss))


def _build(o: Optimizer, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    if o.name == "sgd":
        return torch.optim.SGD(params, o.lr, momentum=o.betas[0], weight_decay=o.weight_decay, fused=True)
    cls = torch.optim.AdamW if o.name == "adamw" else torch.optim.Adam
    return cls(params, o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True)


def _lr_factor(schedule: str, progress: float) -> float:
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


def _set_modes(model: Variant, players: list[_Player]) -> None:
    """What a phase of this stage moves is in train mode, all else in eval mode."""
    model.eval()
    for player in players:
        for module in player.modules:
            module.train()
        if not player.phase.moves:
            model.train()
        owners = {id(p) for p in player.params}
        for module in model.modules():  # the owner of a parameter that is moved by itself
            if any(id(p) in owners for p in module.parameters(recurse=False)):
                module.training = True


OnTurn = Callable[[Callable[[], Snapshot]], None]
"""Called after each turn with a function that takes a snapshot; what it raises ends the training."""


class _Training:
    """A training under way: all that changes from turn to turn."""

    def __init__(self, model: Variant, images: Images, training: Training, seed: int) -> None:
        self.model, self.images = model, images
        self.device = device_of(model)
        self.default = Optimizer(training.optimizer, lr=training.lr)  # type: ignore[arg-type]
        self.order = Order(len(images), training.batch_size, seed)
        self.extra = Order(len(images), training.batch_size, seed_for("repeats", seed))
        self.stages = model.stages()
        self.plan = stage_steps(self.stages, training.steps)
        self.interval = max(1, sum(self.plan) // 200)
        self.history = History()
        self.number = self.step = self.done = self.repeats = 0  # stage, step in it, turns, batches of repeats
        self.last: float | None = None
        self.losses: list[Tensor] = []
        self.sums: dict[str, list[Tensor]] = {}
        self.players: list[_Player] = []

    def enter(self) -> None:
        """Make ready the players of the running stage."""
        self.players = [_Player(self.model, phase, self.default) for phase in self.stages[self.number].phases]
        _set_modes(self.model, self.players)

    def turn(self) -> dict[str, float] | None:
        """One step: each phase once. Mean terms where an interval ends."""
        steps = self.plan[self.number]
        progress = torch.tensor(self.step / steps, device=self.device)
        losses: list[Tensor] = []
        first = _batch(self.images, self.order.batch(self.done), progress)
        for player in self.players:
            factor = _lr_factor(player.optimizer.schedule, self.step / steps)
            for again in range(player.phase.repeat):
                batch = first if not again else _batch(self.images, self.extra.batch(self.repeats), progress)
                self.repeats += again > 0
                loss, terms = player.descend(batch, factor)
                losses.append(loss)
                for name, value in terms.items():
                    self.sums.setdefault(name, []).append(value.detach())
        self.losses.append(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        self.step += 1
        self.done += 1
        return self._row() if self.done % self.interval == 0 or self.step == steps else None

    def _row(self) -> dict[str, float]:
        values = torch.stack(self.losses).cpu().double().tolist()
        self.last = _finite(values, self.done, self.last)
        row = {name: torch.stack(v).cpu().double().mean().item() for name, v in self.sums.items()}
        row = {"stage": self.number, "step": self.done, "loss": sum(values) / len(values), **row}
        self.history.rows.append(row)
        self.losses, self.sums = [], {}
        return row

    def leave(self) -> None:
        """End the running stage."""
        for player in self.players:
            player.finish()
        self.number, self.step = self.number + 1, 0

    def snapshot(self) -> Snapshot:
        tensors = {f"model.{name}": t for name, t in state(self.model).items()}
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
            "seconds": self.history.seconds,
            "rows": [{k: repr(v) for k, v in row.items()} for row in self.history.rows],  # exact, and NaN may be there
            "generators": rest,
        }
        return Snapshot(tensors | streams, position)

    def restore(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken.

        Raises:
            ValueError: it's of another model.
        """
        at, tensors = snapshot.position, snapshot.tensors
        self.number, self.step, self.done, self.repeats = (int(at[k]) for k in ("stage", "step", "done", "repeats"))
        self.last = at["last"]
        self.history.seconds = at["seconds"]
        self.history.rows = [{k: number(v) for k, v in row.items()} for row in at["rows"]]
        fill(self.model, under("model.", tensors))
        self.enter()
        for i, player in enumerate(self.players):
            player.restore(under(f"player.{i}.", tensors))
        self.losses = list(tensors["pending"].unbind()) if "pending" in tensors else []
        self.sums = {name: list(values.unbind()) for name, values in under("pending.", tensors).items()}
        set_generators(self.device, tensors, at["generators"])


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
    """Train `model` where it is, on `images` held on its device. The last step is what remains.

    Args:
        resume: go on from here; on a CPU, with as many threads, the weights come out the same to the last bit.

    Raises:
        Diverged: a loss or a weight became non-finite.
        PluginError: a phase moves nothing, or something that its loss doesn't depend on.
        Unsuitable: a stage found no way to start on this data.
    """
    course = _Training(model, images, training, seed)
    history = course.history
    with seeded(seed_for("train", seed), course.device):
        if resume is not None:
            course.restore(resume)
        began, before = time.perf_counter(), history.seconds
        while course.number < len(course.stages):
            stage = course.stages[course.number]
            if course.step == 0:
                if stage.start is not None:
                    model.eval()
                    stage.start(images)
                course.enter()
            while course.step < course.plan[course.number]:
                row = course.turn()
                if row is not None and on_progress is not None:
                    terms = {k: v for k, v in row.items() if k not in ("stage", "step")}
                    on_progress(course.done, course.number, terms)
                history.seconds = before + time.perf_counter() - began
                if on_turn is not None:
                    on_turn(course.snapshot)
            course.leave()
        model.eval()
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise Diverged(course.done, course.last)
    history.seconds = before + time.perf_counter() - began
    history.images = (course.done + course.repeats) * training.batch_size
    return history


def _batch(images: Images, index: Tensor, progress: Tensor) -> Batch:
    device = progress.device
    x = to_float(images.take(index, device))
    return Batch(x, images.labels(index, device), index.to(device), progress)


def _finite(values: list[float], done: int, last: float | None) -> float | None:
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise Diverged(done - len(values) + i + 1, last)
        last = value
    return last


def probe(build: Callable[[], Variant], images: Images, training: Training) -> float:
    """Seconds that a full training will take, from a few steps of a throw-away model. NaN where even that fails."""
    try:
        seconds = [train(build(), images, replace(training, steps=n), seed=0).seconds for n in (2, 7)]
    except Exception:  # the cell itself will say what is wrong
        return math.nan
    return max(0.0, (seconds[1] - seconds[0]) / 5 * training.steps + seconds[0])
