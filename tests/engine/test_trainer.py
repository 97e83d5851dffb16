"""The one trainer: what moves, on what data, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import Batch, Images, Loss, Optimizer, Phase, Spec, Stage, Variant
from bench.contracts.dataset import Data
from bench.contracts.protocol import Training
from bench.engine.trainer import Order, stage_steps, train
from bench.util.errors import Diverged, PluginError
from tests.conftest import build

SPEC = Spec((1, 4, 4), 2, 40, 2)


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(40) % 2, ("a", "b"))


class Toy(Variant):
    """One weight matrix a player; phases are given by the test."""

    def __init__(self, phases: Callable[[Toy], tuple[Phase, ...]] | None = None) -> None:
        super().__init__(SPEC)
        self.a, self.b = nn.Linear(16, 1), nn.Linear(16, 1)
        self.norm = nn.BatchNorm1d(16)
        self.seen: list[Tensor] = []
        self._phases = phases

    def stages(self) -> tuple[Stage, ...]:
        return (Stage(self._phases(self)),) if self._phases else super().stages()

    def of(self, *players: nn.Module) -> Callable[[Batch], Loss]:
        def loss(batch: Batch) -> Loss:
            self.seen.append(batch.index)
            h = self.norm(batch.x.flatten(1))
            value = sum((p(h).square().mean() for p in players), start=torch.zeros(()))
            return value, {"value": value}

        return loss


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.state_dict().values()]


def moved(before: list[Tensor], module: nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))


def test_a_phase_moves_its_own_player_alone(images: Images) -> None:
    model = Toy(lambda m: (Phase(m.of(m.a, m.b), (m.a,)),))
    a, b, norm = weights(model.a), weights(model.b), weights(model.norm)
    train(model, images, Training(5, 8), seed=0)

    assert moved(a, model.a)
    assert not moved(b, model.b)  # though the loss depends on it
    assert not moved(norm, model.norm)  # running statistics of a frozen module stay


def test_what_one_player_descends_gives_no_momentum_to_the_other(images: Images) -> None:
    """Two players with opposed losses on a shared output: each ends where its own loss sends it."""

    def up(m: Toy) -> Callable[[Batch], Loss]:
        return lambda batch: (-(m.a(batch.x.flatten(1)) + m.b(batch.x.flatten(1))).mean(), {})

    def down(m: Toy) -> Callable[[Batch], Loss]:
        return lambda batch: ((m.a(batch.x.flatten(1)) + m.b(batch.x.flatten(1))).mean(), {})

    sgd = Optimizer("sgd", lr=0.1, betas=(0.0, 0.0))
    model = Toy(lambda m: (Phase(up(m), (m.a,), sgd), Phase(down(m), (m.b,), sgd)))
    a, b = model.a.bias.item(), model.b.bias.item()
    train(model, images, Training(10, 8), seed=0)

    assert model.a.bias.item() == pytest.approx(a + 1.0, abs=1e-5)
    assert model.b.bias.item() == pytest.approx(b - 1.0, abs=1e-5)


def test_each_repeat_draws_a_batch_of_its_own(images: Images) -> None:
    model = Toy(lambda m: (Phase(m.of(m.a), (m.a,), repeat=3), Phase(m.of(m.b), (m.b,))))
    train(model, images, Training(2, 8), seed=3)
    order = Order(40, 8, 3)

    assert len(model.seen) == 8
    assert [torch.equal(seen, order.batch(k // 4)) for k, seen in enumerate(model.seen)] == [
        *(True, False, False, True),
        *(True, False, False, True),
    ]
    assert len({tuple(seen.tolist()) for seen in model.seen}) == 6


def test_a_single_parameter_can_move(images: Images) -> None:
    model = Toy(lambda m: (Phase(m.of(m.a), (m.a.bias,)),))
    weight, bias = model.a.weight.clone(), model.a.bias.clone()
    train(model, images, Training(3, 8), seed=0)

    assert torch.equal(weight, model.a.weight)
    assert not torch.equal(bias, model.a.bias)


def test_a_moved_parameter_without_gradient_is_named(images: Images) -> None:
    model = Toy(lambda m: (Phase(m.of(m.a), (m.a, m.b)),))
    with pytest.raises(PluginError, match=r"no gradient to b\.weight, b\.bias"):
        train(model, images, Training(3, 8), seed=0)


def test_a_loss_that_is_no_scalar_is_refused(images: Images) -> None:
    model = Toy(lambda m: (Phase(lambda batch: (m.a(batch.x.flatten(1)), {}), (m.a,)),))
    with pytest.raises(PluginError, match="shape"):
        train(model, images, Training(3, 8), seed=0)


@pytest.mark.parametrize("at", [0, 7, 199])
def test_a_non_finite_loss_names_its_step_and_the_last_finite_one(images: Images, at: int) -> None:
    count = 0

    def phases(m: Toy) -> tuple[Phase, ...]:
        def loss(batch: Batch) -> Loss:
            nonlocal count
            count += 1
            value = m.a(batch.x.flatten(1)).square().mean() * 0 + (math.nan if count == at + 1 else float(count))
            return value, {}

        return (Phase(loss, (m.a,)),)

    with pytest.raises(Diverged) as caught:
        train(Toy(phases), images, Training(400, 8), seed=0)

    assert caught.value.step == at + 1
    assert caught.value.last == (at or None)


def test_order_sees_every_image_equally_often_and_depends_on_seed_and_k_alone() -> None:
    order = Order(10, 4, seed=1)
    run = torch.cat([order.batch(k) for k in range(10)])

    assert run.bincount().tolist() == [4] * 10
    for epoch in run.split(10):
        assert epoch.sort().values.tolist() == list(range(10))
    assert torch.equal(Order(10, 4, seed=1).batch(7), run[28:32])
    assert not torch.equal(Order(10, 4, seed=2).batch(0), run[:4])


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    assert Order(3, 8, 0).batch(0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_data_order_is_shared_by_all_variants(digits: Data) -> None:
    seen: dict[str, list[Tensor]] = {}
    for name in ("vae", "cvae", "wae"):
        model = build(name, digits)
        inner = model.loss

        def loss(batch: Batch, inner: Any = inner, name: str = name) -> Loss:
            seen.setdefault(name, []).append(batch.index)
            return inner(batch)

        model.loss = loss  # type: ignore[method-assign]
        train(model, digits.train, Training(3), seed=5)

    first, *rest = seen.values()
    assert len(first) == 3
    for other in rest:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_stage_steps_are_multiples_of_the_budget() -> None:
    loss = Phase(lambda batch: (batch.x.sum(), {}))
    assert stage_steps((Stage((loss,)), Stage((loss,), steps=0.5), Stage()), 100) == (100, 50, 0)


def test_progress_runs_from_0_to_1_within_each_stage(images: Images) -> None:
    seen: list[float] = []

    class Two(Toy):
        def stages(self) -> tuple[Stage, ...]:
            return (Stage((Phase(self.look, (self.a,)),)), Stage((Phase(self.look, (self.a,)),)))

        def look(self, batch: Batch) -> Loss:
            seen.append(float(batch.progress))
            return self.a(batch.x.flatten(1)).mean(), {}

    train(Two(), images, Training(4, 8), seed=0)
    assert seen == [0, 0.25, 0.5, 0.75] * 2


def test_training_is_a_function_of_the_seed_and_leaves_the_callers_generator(digits: Data) -> None:
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        model = build("vae", digits, seed=seed)
        train(model, digits.train, Training(5), seed=seed)
        runs.append(torch.cat([p.flatten() for p in model.state_dict().values()]))

    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_adam_equals_a_plain_loop(digits: Data) -> None:
    """The trainer against ten lines of torch: same seed, same weights."""
    from bench.contracts.images import to_float
    from bench.contracts.protocol import seed_for

    ours, plain = build("vae", digits), build("vae", digits)
    train(ours, digits.train, Training(6), seed=0)
    torch.manual_seed(seed_for("train", 0))
    adam, order = torch.optim.Adam(plain.parameters(), lr=1e-3), Order(len(digits.train), 128, 0)
    for k in range(6):
        index = order.batch(k)
        batch = Batch(to_float(digits.train.take(index)), digits.train.labels(index), index, torch.tensor(k / 6))
        adam.zero_grad()
        plain.loss(batch)[0].backward()
        adam.step()

    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_scales_the_rate(images: Images, schedule: str) -> None:
    def phases(m: Toy) -> tuple[Phase, ...]:
        sgd = Optimizer("sgd", lr=1.0, betas=(0.0, 0.0), schedule=schedule)  # type: ignore[arg-type]
        return (Phase(lambda batch: (m.a.bias.sum(), {}), (m.a.bias,), sgd),)

    model = Toy(phases)
    before = model.a.bias.item()
    train(model, images, Training(4, 8), seed=0)
    shares = [k / 4 for k in range(4)]
    total = sum(0.5 * (1 + math.cos(math.pi * s)) if schedule == "cosine" else 1 - s for s in shares)
    assert model.a.bias.item() == pytest.approx(before - total, abs=1e-5)


def test_clip_bounds_the_gradient(images: Images) -> None:
    def phases(m: Toy) -> tuple[Phase, ...]:
        sgd = Optimizer("sgd", lr=1.0, betas=(0.0, 0.0), clip=0.5)
        return (Phase(lambda batch: (100 * m.a.bias.sum(), {}), (m.a.bias,), sgd),)

    model = Toy(phases)
    before = model.a.bias.item()
    train(model, images, Training(1, 8), seed=0)
    assert model.a.bias.item() == pytest.approx(before - 0.5, abs=1e-4)


@pytest.mark.parametrize("ema", [0.0, 0.15, 0.999])
def test_averaged_weights_are_the_average_of_the_path(ema: float, images: Images) -> None:
    """Of what was passed lately: the decay rises to `ema`, so that the weights of the beginning are forgotten."""

    def phases(m: Toy) -> tuple[Phase, ...]:
        sgd = Optimizer("sgd", lr=1.0, betas=(0.0, 0.0), ema=ema)
        return (Phase(lambda batch: (m.a.bias.sum(), {}), (m.a.bias,), sgd),)

    model = Toy(phases)
    w0 = model.a.bias.item()  # w falls by 1 a step: w0 - 1, w0 - 2, w0 - 3
    train(model, images, Training(3, 8), seed=0)
    expected = w0
    for k, rising in ((1, 1 / 10), (2, 2 / 11), (3, 3 / 12)):
        decay = min(ema, rising)
        expected = decay * expected + (1 - decay) * (w0 - k)
    assert model.a.bias.item() == pytest.approx(expected, abs=1e-5)
