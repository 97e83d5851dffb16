"""The one trainer: stages in order, phases in turn, each descending its own loss in what it moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import Diverged, PluginError
from bench.images import Images, to_float
from bench.protocol import Training, seed_for
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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every default generator inside; leave the caller's as they were."""
    devices = [device] if device.type == "cuda" else []
    before = np.random.get_state()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


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
        loss, terms = self.phase.loss(batch)
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


def train(
    model: Variant, images: Images, training: Training, *, seed: int, on_progress: Progress | None = None
) -> History:
    """Train `model` where it is, on `images` held on its device. The last step is what remains.

    Raises:
        Diverged: a loss or a weight became non-finite.
        PluginError: a phase moves nothing, or something that its loss doesn't depend on.
        Unsuitable: a stage found no way to start on this data.
    """
    device = next(model.parameters()).device
    default = Optimizer(training.optimizer, lr=training.lr)  # type: ignore[arg-type]
    order = Order(len(images), training.batch_size, seed)
    extra = Order(len(images), training.batch_size, seed_for("repeats", seed))
    stages = model.stages()
    plan = stage_steps(stages, training.steps)
    interval = max(1, sum(plan) // 200)
    history = History()
    began = time.perf_counter()
    done = repeats = 0
    last: float | None = None
    with seeded(seed_for("train", seed), device):
        for number, (stage, steps) in enumerate(zip(stages, plan, strict=True)):
            if stage.start is not None:
                model.eval()
                stage.start(images)
            players = [_Player(model, phase, default) for phase in stage.phases]
            _set_modes(model, players)
            losses: list[Tensor] = []
            sums: dict[str, list[Tensor]] = {}
            for step in range(steps):
                progress = torch.tensor(step / steps, device=device)
                turn: list[Tensor] = []
                first = _batch(images, order.batch(done), progress)
                for player in players:
                    factor = _lr_factor(player.optimizer.schedule, step / steps)
                    for again in range(player.phase.repeat):
                        batch = first if not again else _batch(images, extra.batch(repeats), progress)
                        repeats += again > 0
                        loss, terms = player.descend(batch, factor)
                        turn.append(loss)
                        for name, value in terms.items():
                            sums.setdefault(name, []).append(value.detach())
                losses.append(turn[0] if len(turn) == 1 else torch.stack(turn).sum())
                done += 1
                if done % interval == 0 or step == steps - 1:
                    values = torch.stack(losses).cpu().double().tolist()
                    last = _finite(values, done, last)
                    row = {name: torch.stack(v).cpu().double().mean().item() for name, v in sums.items()}
                    row = {"stage": number, "step": done, "loss": sum(values) / len(values), **row}
                    history.rows.append(row)
                    if on_progress is not None:
                        on_progress(done, number, {k: v for k, v in row.items() if k not in ("stage", "step")})
                    losses, sums = [], {}
            for player in players:
                player.finish()
        model.eval()
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise Diverged(done, last)
    history.seconds, history.images = time.perf_counter() - began, (done + repeats) * training.batch_size
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
