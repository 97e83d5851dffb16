"""A training that goes on from a checkpoint ends with the same bits; a broken checkpoint is never trusted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench import Batch, Images, Loss, Optimizer, Phase, Spec, Stage, Variant
from bench.contracts.dataset import Data
from bench.contracts.protocol import Training
from bench.engine.checkpoint import Checkpoints
from bench.engine.snapshot import Snapshot
from bench.engine.trainer import train
from bench.util.errors import StoreError
from tests.conftest import build

STEPS = 9


class Stop(BaseException):
    pass


def stopped_at(turn: int, keep: Callable[[Snapshot], None]) -> Callable[[Callable[[], Snapshot]], None]:
    turns = 0

    def on_turn(take: Callable[[], Snapshot]) -> None:
        nonlocal turns
        turns += 1
        if turns == turn:
            keep(take())
            raise Stop

    return on_turn


def both(
    make: Callable[[], Variant], images: Images, turn: int, folder: Path, *, steps: int = STEPS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a training that ran through, and of one that stopped after `turn` and went on from the disk."""
    training = Training(steps, 32)
    whole = make()
    told = train(whole, images, training, seed=3)

    checkpoints = Checkpoints(folder, "c")
    with pytest.raises(Stop):
        train(make(), images, training, seed=3, on_turn=stopped_at(turn, checkpoints.save))
    torch.manual_seed(99)  # whatever state the process is in
    np.random.seed(99)
    random.seed(99)
    snapshot, rejected = checkpoints.load()
    assert snapshot is not None
    assert snapshot.done == turn
    assert rejected == []
    resumed = make()
    history = train(resumed, images, training, seed=3, resume=snapshot)
    assert history.rows == told.rows
    assert history.images == told.images
    return whole.state_dict(), resumed.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


NAMES = ("vae", "conv", "beta", "cvae", "vqvae", "wae", "ae", "gan")
PLACES = [*((name, turn) for name in NAMES for turn in (1, 4, STEPS)), ("vqvae", STEPS + 1), ("vqvae", 2 * STEPS)]


@pytest.mark.parametrize(("name", "turn"), PLACES)
def test_every_variant_goes_on_with_the_same_bits(name: str, turn: int, digits: Data, tmp_path: Path) -> None:
    assert same(*both(lambda: build(name, digits), digits.train, turn, tmp_path))


class Odd(Variant):
    """All that a trainer must remember besides weights: dropout, BatchNorm, two players, repeats, averages, schedules,
    numpy's and Python's generators, a buffer that isn't saved and one whose size comes from the data.
    """

    def __init__(self) -> None:
        super().__init__(Spec((1, 8, 8), 10, 100, 2))
        self.a, self.b = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)), nn.Linear(8, 1)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.register_buffer("found", torch.empty(0))
        self.alone = nn.Parameter(torch.ones(()))

    def stages(self) -> tuple[Stage, ...]:
        sgd = Optimizer("sgd", lr=0.01, schedule="linear", clip=1.0)
        adamw = Optimizer("adamw", lr=0.01, ema=0.9, schedule="cosine")
        return (
            Stage(),
            Stage((Phase(self.first, (self.a,), adamw), Phase(self.second, (self.b, self.alone), sgd, repeat=3)),
                  start=self.look),
            Stage((Phase(self.first, (self.a,)),), steps=0.5),
        )  # fmt: skip

    def look(self, images: Images) -> None:
        self.found = images.take(torch.arange(5)).float()

    def first(self, batch: Batch) -> Loss:
        self.count += 1
        noise = np.random.rand() + random.random() + torch.randn(())
        h = self.a(batch.x.flatten(1)) * self.found.mean()
        loss = (self.b(h) - noise).square().mean() * (1 + self.count)
        return loss, {"noise": noise, "a": loss}

    def second(self, batch: Batch) -> Loss:
        loss = (self.b(self.a(batch.x.flatten(1))) * self.alone).square().mean()
        return loss, {"b": loss}


@pytest.mark.parametrize("turn", [1, 5, 8, 9, 11])
def test_all_that_a_training_remembers_comes_back(turn: int, digits: Data, tmp_path: Path) -> None:
    def make() -> Variant:
        torch.manual_seed(0)
        return Odd()

    assert same(*both(make, digits.train, turn, tmp_path, steps=8))


def test_a_long_interval_of_terms_is_cut_nowhere(digits: Data, tmp_path: Path) -> None:
    """450 steps: two a history row, so that a stop falls into the middle of one."""
    for turn in (1, 301):
        assert same(*both(lambda: build("ae", digits), digits.train, turn, tmp_path / str(turn), steps=450))


# what lies on the disk


@pytest.fixture
def two(digits: Data, tmp_path: Path) -> Checkpoints:
    """Checkpoints of turns 2, 4 and 6, of which two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", "cell-a")

    def on_turn(take: Callable[[], Snapshot]) -> None:
        if (snapshot := take()).done % 2 == 0:
            checkpoints.save(snapshot)

    train(build("ae", digits), digits.train, Training(6, 32), seed=0, on_turn=on_turn)
    return checkpoints


def done(checkpoints: Checkpoints) -> int | None:
    snapshot, _ = checkpoints.load()
    return snapshot.done if snapshot else None


def test_two_are_kept(two: Checkpoints) -> None:
    assert sorted(p.name for p in two.folder.iterdir()) == ["0000000004", "0000000006"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.fault(
    4, "the newest checkpoint is cut, flipped, emptied or gone", "the one before is used, and the costs say so"
)
@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("harm", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_broken_one_falls_back_to_the_one_before_and_says_so(
    two: Checkpoints, file: str, harm: Callable[[Path], object]
) -> None:
    harm(two.folder / "0000000006" / file)
    snapshot, rejected = two.load()
    assert snapshot is not None
    assert snapshot.done == 4
    assert len(rejected) == 1
    assert rejected[0].startswith("checkpoint at step 6 rejected: ")


@pytest.mark.fault(4, "both checkpoints are broken", "it begins anew")
def test_if_all_are_broken_it_begins_anew(two: Checkpoints) -> None:
    for folder in list(two.folder.iterdir()):
        _flip(folder / "state.safetensors")
    snapshot, rejected = two.load()
    assert snapshot is None
    assert len(rejected) == 2
    assert two.load() == (None, [])


@pytest.mark.fault(5, "the checkpoint of another cell is copied in", "refused")
def test_the_checkpoint_of_another_cell_is_refused(two: Checkpoints) -> None:
    snapshot, rejected = Checkpoints(two.folder, "cell-b").load()
    assert snapshot is None
    assert all("belongs to cell-a" in reason for reason in rejected)


def test_a_newer_schema_is_refused(two: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.util.durable.SCHEMA", 1)
    assert done(two) is None


@pytest.mark.fault(6, "a hostile pickle under a checkpoint's name", "never unpickled")
def test_a_hostile_pickle_is_never_opened(two: Checkpoints, tmp_path: Path) -> None:
    """A file of that name that would run code, with right sums: it isn't safetensors, and nothing else is read."""
    import pickle

    from bench.util.durable import SUMS, sha256

    class Canary:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "canary",))

    newest = two.folder / "0000000006"
    (newest / "state.safetensors").write_bytes(pickle.dumps(Canary()))
    names = ("state.json", "state.safetensors")
    (newest / SUMS).write_text("".join(f"{sha256(newest / n)}  {n}\n" for n in names))
    assert done(two) == 4
    assert not (tmp_path / "canary").exists()


def test_what_was_being_written_is_not_seen(two: Checkpoints) -> None:
    (two.folder / ".tmp-abc").mkdir()
    (two.folder / "0000000009").mkdir()  # as if a file system had shown an empty folder after a power cut
    snapshot, rejected = two.load()
    assert snapshot is not None
    assert snapshot.done == 6
    assert len(rejected) == 1


@pytest.mark.fault(13, "the disk is full at a checkpoint", "said so; the older checkpoints stay")
def test_a_full_disk_says_so_and_keeps_the_older_ones(
    two: Checkpoints, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    snapshot, _ = two.load()
    assert snapshot is not None
    snapshot.position["done"] = 8
    monkeypatch.setattr("bench.engine.checkpoint.save_file", full)
    with pytest.raises(StoreError, match="No space left"):
        two.save(snapshot)
    assert sorted(p.name for p in two.folder.iterdir()) == ["0000000004", "0000000006"]


def test_a_snapshot_of_another_model_is_an_error(two: Checkpoints, digits: Data) -> None:
    snapshot, _ = two.load()
    for other, says in (("gan", "aren't the model's"), ("vae", "the snapshot's")):
        with pytest.raises(ValueError, match=says):
            train(build(other, digits), digits.train, Training(6, 32), seed=0, resume=snapshot)


def test_a_checkpoint_is_plain_safetensors(two: Checkpoints, tmp_path: Path) -> None:
    tensors = load_file(two.folder / "0000000006" / "state.safetensors")
    assert {"generator.cpu", "generator.numpy", "generator.python"} <= tensors.keys()
    assert any(name.startswith("player.0.") for name in tensors)
    save_file(tensors, tmp_path / "again.safetensors")
