"""Seeds trained in one pass get the weights that they get alone, and everything around them holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import Batch, Images, Loss, Optimizer, Phase, Spec, Stage, Variant
from bench.contracts.dataset import Data
from bench.contracts.images import to_float
from bench.contracts.protocol import RunRequest, Training
from bench.contracts.row import Row
from bench.engine.snapshot import Snapshot
from bench.engine.trainer import History, train, train_together, why_not_together
from bench.results.store import Run
from bench.running import runner
from bench.running.planning import plan
from bench.util.errors import Diverged
from tests.conftest import build

pytestmark = pytest.mark.usefixtures("warm_servers")

SEEDS = (3, 1, 4)
SPEC = Spec((1, 4, 4), 0, 40, 2)


@pytest.fixture
def images() -> Images:
    pixels = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked seeds draw from one generator; without noise nothing but rounding may tell them from seeds alone."""
    full: Callable[..., Tensor] = lambda *size, **_: torch.full(size, 0.3)  # noqa: E731
    monkeypatch.setattr(torch, "randn", full)
    monkeypatch.setattr(torch, "randn_like", lambda t, **_: torch.zeros_like(t) + 0.3)
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.arange(size[0]) % high)
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None, **_: torch.arange(n) * 7 % n)
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_: x)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a gradient is 0, Adam makes steps of its rounding."""
    for module in ("bench.engine.trainer", "bench.variants.vqvae"):
        monkeypatch.setattr(f"{module}.to_float", lambda pixels: to_float(pixels).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["vae", "cvae", "wae", "conv", "vqvae", "gan"])
def test_each_seed_gets_the_weights_that_it_gets_alone(digits: Data, no_noise: None, doubles: None, name: str) -> None:
    stacked, alone = ([build(name, digits, seed=seed).double() for seed in SEEDS] for _ in range(2))
    together = train_together(stacked, digits.train, Training(8), SEEDS)
    for model, other, seed, history in zip(stacked, alone, SEEDS, together, strict=True):
        expected = train(other, digits.train, Training(8), seed=seed)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert isinstance(history, History)
        for row, alone_row in zip(history.rows, expected.rows, strict=True):
            assert row == pytest.approx(alone_row, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["vae", "beta", "conv", "cvae", "vqvae", "wae", "ae", "gan"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_all_variants_of_the_suite_can_be_stacked(digits: Data, name: str) -> None:
    assert why_not_together(lambda seed: build(name, digits, seed=seed), digits.train, Training(8)) == ""


def test_seeds_draw_noise_of_their_own(digits: Data) -> None:
    """Equal weights, equal data; the posterior's noise alone parts them."""
    models = [build("vae", digits, seed=0) for _ in range(2)]
    train_together(models, digits.train, Training(1), (5, 5))
    a, b = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert not torch.equal(a, b)


class Line(Variant):
    """A weight that the first phase descends at rate 1 along `slope` times the mean of its batch."""

    def __init__(self, slope: float = 1.0, optimizer: Optimizer | None = None) -> None:
        super().__init__(SPEC)
        self.w = nn.Parameter(torch.zeros(2))
        self.register_buffer("slope", torch.tensor(slope))
        self.optimizer = optimizer or Optimizer("sgd", lr=1.0, betas=(0.0, 0.0))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage((Phase(self.loss, optimizer=self.optimizer),)),)

    def loss(self, batch: Batch) -> Loss:
        value = self.slope * self.w.sum()
        return value, {"value": value}


def test_clipping_bounds_each_seed_by_its_own_gradient(images: Images) -> None:
    clipped = Optimizer("sgd", lr=1.0, betas=(0.0, 0.0), clip=1.0)
    models = [Line(slope, clipped) for slope in (0.1, 100.0)]
    train_together(models, images, Training(1, 8), (0, 1))
    assert models[0].w.tolist() == pytest.approx([-0.1, -0.1])  # a norm of .14 is within the bound
    assert models[1].w.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_a_seed_that_diverges_leaves_the_others_alone(images: Images) -> None:
    models = [Line(slope) for slope in (1.0, float("inf"), 2.0)]
    first, lost, last = train_together(models, images, Training(4, 8), (0, 1, 2))
    assert isinstance(lost, Diverged)
    assert (isinstance(first, History), isinstance(last, History)) == (True, True)
    assert models[0].w.tolist() == [-4.0, -4.0]
    assert models[2].w.tolist() == [-8.0, -8.0]


def test_where_all_diverge_each_says_so(images: Images) -> None:
    found = train_together([Line(float("nan")) for _ in range(2)], images, Training(4, 8), (0, 1))
    assert all(isinstance(lost, Diverged) and lost.step == 1 for lost in found)


@pytest.mark.parametrize("at", [1, 9, 13])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_stack_goes_on_from_a_checkpoint_to_the_same_bits(digits: Data, at: int) -> None:
    """Over two stages, so that codebooks, optimisers and both seeds' orders are in it."""

    class Stop(Exception):
        pass

    kept: list[Snapshot] = []

    def turns() -> Callable[[Callable[[], Snapshot]], None]:
        left: Iterator[int] = iter(range(at, -1, -1))

        def turn(take: Callable[[], Snapshot]) -> None:
            if next(left) == 1:
                found = take()
                kept.append(Snapshot({k: t.detach().clone() for k, t in found.tensors.items()}, found.position))
                raise Stop

        return turn

    whole, broken, resumed = ([build("vqvae", digits, seed=seed) for seed in (0, 1)] for _ in range(3))
    train_together(whole, digits.train, Training(8), (0, 1))
    with pytest.raises(Stop):
        train_together(broken, digits.train, Training(8), (0, 1), on_turn=turns())
    train_together(resumed, digits.train, Training(8), (0, 1), resume=kept[0])
    for a, b in zip(whole, resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Assigns(Line):
    """Puts another tensor in a buffer's place: under `functional_call` that would be lost in silence."""

    def loss(self, batch: Batch) -> Loss:
        self.slope = self.slope * 1.1
        return super().loss(batch)


class Draws(Line):
    """Has a number of its own that isn't in a buffer: all seeds would be trained by the first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.order = torch.randperm(50).tolist()


class Branches(Line):
    def loss(self, batch: Batch) -> Loss:
        return super().loss(batch) if self.slope.item() > 0 else (self.w.sum(), {})


@pytest.mark.parametrize(
    ("cls", "why"), [(Assigns, "replaces the tensor slope"), (Branches, "item()"), (Draws, "attribute order")]
)
def test_what_cannot_be_stacked_says_why(images: Images, cls: type[Line], why: str) -> None:
    assert why in why_not_together(lambda seed: cls(), images, Training(4, 8))


def test_a_parameter_without_a_size_can_be_clipped_in_a_stack(images: Images) -> None:
    models = [Line(slope, Optimizer("sgd", lr=1.0, betas=(0.0, 0.0), clip=1.0)) for slope in (3.0, 4.0)]
    for model in models:
        model.w = nn.Parameter(torch.tensor(0.0))
    train_together(models, images, Training(1, 8), (0, 1))
    assert [model.w.item() for model in models] == pytest.approx([-1.0, -1.0], rel=1e-5)


def test_a_gradient_of_other_strides_is_applied_as_it_is(images: Images) -> None:
    """Fused optimisers read memory, not strides; such a gradient comes where a loss sees a weight transposed."""
    model = Variant(SPEC)
    model.weight = nn.Parameter(torch.randn(6, 16))
    columns = torch.randn(16, 6).T  # (6, 16), in the order of its columns
    model.loss = lambda batch: ((model.weight * columns).sum(), {})  # type: ignore[method-assign]
    assert torch.autograd.grad(model.loss(None)[0], model.weight)[0].stride() != model.weight.stride()  # type: ignore[arg-type]

    plain = nn.Parameter(model.weight.detach().clone())
    train(model, images, Training(3, 8), seed=0)
    adam = torch.optim.Adam([plain], lr=1e-3, foreach=False, fused=False)
    for _ in range(3):
        plain.grad = columns.contiguous()
        adam.step()
    torch.testing.assert_close(model.weight, plain)


@pytest.mark.parametrize("name", ["conv", "cvae", "vqvae", "wae", "ae", "gan"])
def test_all_variants_can_be_trained_in_bf16(digits: Data, name: str) -> None:
    """What they descend is fp32, and near what it is in fp32: products alone are rounded."""
    losses = {}
    for precision in ("fp32", "bf16"):
        model = build(name, digits)
        history = train(model, digits.train, Training(1, precision=precision), seed=0)
        losses[precision] = [value for row in history.rows for value in row.values()]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            index = torch.arange(8)
            batch = Batch(digits.train.take(index) / 255, digits.train.labels(index), index, torch.tensor(0.5))
            found = [phase.loss(batch) for stage in model.stages() for phase in stage.phases]
        assert {value.dtype for loss, terms in found for value in (loss, *terms.values())} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02, abs=0.02)


def test_bf16_rounds_products_and_nothing_else(digits: Data) -> None:
    """The loss of a fixed model differs by bf16's eight bits; densities and weights stay fp32."""
    seen: dict[str, list[torch.dtype]] = {}
    losses = {}
    for precision in ("fp32", "bf16"):
        model = build("vae", digits)
        first = model.encoder.layers[0]
        first.register_forward_hook(lambda _m, _i, out, p=precision: seen.setdefault(p, []).append(out.dtype))
        history = train(model, digits.train, Training(1, precision=precision), seed=0)
        losses[precision] = history.rows[0]["loss"]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (seen["fp32"], seen["bf16"]) == ([torch.float32], [torch.bfloat16])
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=2**-8)


@pytest.mark.costly
@pytest.mark.parametrize("name", ["vae", "vqvae"])
def test_compiled_losses_give_the_same_weights(digits: Data, name: str) -> None:
    """To rounding, noise included: it comes from the same generator."""
    plain, fast = build(name, digits), build(name, digits)
    training = Training(6, optimizer="sgd" if name == "vqvae" else "adam")
    train(plain, digits.train, training, seed=0)
    history = train(fast, digits.train, replace(training, compile=True), seed=0)
    assert 0 < history.compiling <= history.seconds
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return RunRequest(
        variants=("vae",), datasets=("digits",), seeds=(0, 1, 2), steps=6, stack_seeds=True, baseline=False,
        sanity=False, metrics=("elbo",), out=str(tmp_path / "run"), device="cpu", threads=1, in_process=True,
    )  # fmt: skip


def elbos(rows: list[Row]) -> list[float]:
    return [row.scores["elbo"].value for row in rows]  # type: ignore[union-attr]


@pytest.mark.parametrize("in_process", [True, False])
def test_a_run_trains_once_and_says_that_it_stacked(request_: RunRequest, tmp_path: Path, in_process: bool) -> None:
    rows = runner.run(replace(request_, in_process=in_process))
    assert [(row.seed, row.status, row.stacked) for row in rows] == [(seed, "ok", (0, 1, 2)) for seed in range(3)]
    logs = [(tmp_path / "run/cells" / row.cell / "done/log.txt").read_text() for row in rows]
    assert len({row.provenance["started"] for row in rows}) == 1
    assert all("trained 6 steps" in log for log in logs)
    assert "stacked" in (tmp_path / "run/table.md").read_text()
    first = elbos(rows)
    assert len(set(first)) == 3

    lost = tmp_path / "run/cells" / rows[1].cell  # one of them gone: all are trained, and come out the same
    (lost / "done").rename(tmp_path / "gone")
    assert elbos(runner.run(replace(request_, in_process=in_process))) == first


def test_stacked_cells_are_not_those_of_seeds_alone(request_: RunRequest) -> None:
    stacked, alone = (plan(replace(request_, stack_seeds=on)).cells for on in (True, False))
    others = plan(replace(request_, seeds=(0, 1))).cells
    assert len({c.name for c in (*stacked, *alone, *others)}) == 8
    single = plan(replace(request_, seeds=(1,))).cells[0]
    assert (single.name, single.todo.stacked) == (alone[1].name, ())  # one seed is never sent through vmap


def test_a_stack_is_dealt_to_one_shard(request_: RunRequest) -> None:
    shards = [plan(replace(request_, variants=("vae", "ae"), shard=(i, 2))).cells for i in (1, 2)]
    assert sorted((c.row.variant, c.row.seed) for c in shards[0]) in (
        [("vae", s) for s in range(3)],
        [("ae", s) for s in range(3)],
    )
    assert len(shards[1]) == 3


def test_a_stack_whose_process_dies_while_it_is_written_is_made_whole(
    request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell whose job it is comes last: while one is missing, the work isn't over."""
    write, made = Run.write_done, list[int]()

    def dies(store: Run, row: Row, *rest: Any) -> None:
        made.append(row.seed)
        if len(made) == 2:
            raise KeyboardInterrupt
        write(store, row, *rest)

    monkeypatch.setattr(Run, "write_done", dies)
    with pytest.raises(KeyboardInterrupt):
        runner.run(request_)
    assert 0 not in made
    monkeypatch.setattr(Run, "write_done", write)
    rows = runner.run(request_)
    assert [row.status for row in rows] == ["ok"] * 3
    assert all("elbo" in row.scores for row in rows)


def test_what_fails_together_says_so_in_every_row(request_: RunRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.running import job

    calls: list[Any] = []

    def broken(*given: Any, **_: Any) -> None:
        calls.append(given)
        raise RuntimeError("no such luck")

    monkeypatch.setattr(job, "train_together", broken)
    rows = runner.run(request_)
    assert [row.status for row in rows] == ["failed"] * 3
    assert all("no such luck" in row.reason for row in rows)
    assert len(calls) == 1
