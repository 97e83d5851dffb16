"""The second classifier: how it's trained, named, kept and found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from bench.contracts.dataset import DATASETS
from bench.contracts.images import Images
from bench.evidence import Generated
from bench.metrics import judge as family
from bench.metrics import shelf
from bench.metrics.classifier import halves
from bench.metrics.judge import Judge, Judged, TheJudge, find, judge, load, right, save, train, trained_on
from bench.metrics.shelf import SHIPPED
from bench.util.errors import NotAvailable
from tests.metrics.test_networks import CLASSES, context, toy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training of 40 steps; the list grows with each."""
    calls: list[int] = []

    def few(images: Images, **_: object) -> Judge:
        calls.append(len(images))
        return train(images, steps=40)

    monkeypatch.setattr(family, "train", few)
    return calls


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 9), (1, 1, 1)])
def test_any_image_shape(shape: tuple[int, int, int]) -> None:
    probabilities = judge(Judge(shape, 3), torch.randint(0, 256, (2, *shape), dtype=torch.uint8))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_training_learns_and_repeats_itself() -> None:
    source, before = toy(), torch.get_rng_state()
    with torch.inference_mode():
        network = train(source, steps=40)
    assert torch.equal(torch.get_rng_state(), before)
    assert right(network, toy(80, seed=1)).double().mean() > 0.95
    again = train(source, steps=40).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())


def test_it_learns_from_the_half_that_the_other_classifier_does_not_see(quick: list[int]) -> None:
    source = toy()
    pixels, labels = source.take(torch.arange(160)), source.labels()
    first, _ = halves(160)
    one = trained_on(source)
    blank = pixels.clone()
    blank[first] = 0
    two = trained_on(Images(blank, labels, CLASSES))
    assert quick == [80, 80]
    assert all(torch.equal(value, two.network.state_dict()[name]) for name, value in one.network.state_dict().items())
    assert one.accuracy == right(one.network, source.subset(first)).double().mean().item() > 0.95
    assert two.accuracy < 0.7
    assert one.error < 0.01 < two.error


def test_a_saved_judge_comes_back_to_the_bit(tmp_path: Path, quick: list[int]) -> None:
    source = toy()
    fresh = trained_on(source)
    path = save(fresh, tmp_path, source)
    assert path.name.startswith(f"judge-v1-{source.digest[:12]}-")
    kept = find(source, tmp_path)
    assert kept is not None
    assert (kept.name, kept.accuracy) == (path.stem, pytest.approx(fresh.accuracy, abs=1e-6))
    assert kept.error == pytest.approx(fresh.error, abs=1e-8)
    pixels = source.take(torch.arange(50))
    assert torch.equal(judge(kept.network, pixels), judge(fresh.network, pixels))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert save(fresh, tmp_path, source) == path
    assert find(toy(100), tmp_path) is None


def test_a_changed_file_is_refused(tmp_path: Path, quick: list[int]) -> None:
    path = save(trained_on(toy()), tmp_path, toy())
    path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
    with pytest.raises(ValueError, match="isn't the file"):
        load(path)


def test_a_dataset_of_its_own_is_trained_on_once(tmp_path: Path, quick: list[int]) -> None:
    source = toy()
    first = context(source, tmp_path).get(TheJudge())
    assert context(source, tmp_path).get(TheJudge()).name == first.name
    assert quick == [80]
    (kept,) = (tmp_path / "networks").iterdir()
    kept.write_bytes(b"damaged")
    assert context(source, tmp_path).get(TheJudge()).name == first.name
    assert len(quick) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, quick: list[int]) -> None:
    (tmp_path / "file").touch()
    assert context(toy(), tmp_path / "file").get(TheJudge()).name.endswith("-unsaved")


def test_a_damaged_shipped_judge_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: list[int]
) -> None:
    path = save(trained_on(toy()), tmp_path, toy())
    path.write_bytes(b"damaged")
    quick.clear()
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path)
    with pytest.raises(NotAvailable, match="reinstall"):
        context(toy(), tmp_path).get(TheJudge())
    assert not quick


def test_classes_are_needed_and_images_that_differ(tmp_path: Path) -> None:
    pixels, labels = toy().take(torch.arange(160)), toy().labels()
    for source, reason in (
        (Images(pixels), "needs class labels"),
        (Images(pixels, 0 * labels, ("only",)), "needs two classes"),
        (Images(0 * pixels, labels, CLASSES), "all the same"),
    ):
        with pytest.raises(NotAvailable, match=reason):
            context(source, tmp_path).get(TheJudge())


def test_a_judge_that_may_be_guessing_judges_nothing(tmp_path: Path, quick: list[int]) -> None:
    """Of labels drawn at random nothing can be learnt."""
    x = toy(400)
    labels = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    noise = Images(x.take(torch.arange(400)), labels, ("a", "b", "c"))
    with pytest.raises(NotAvailable, match="the commonest class"):
        TheJudge().resolve(context(noise, tmp_path))
    with pytest.raises(NotAvailable, match="can't judge"):
        TheJudge().resolve(context(noise, tmp_path))  # the one that is kept


def test_samples_are_judged_as_images_are(tmp_path: Path, quick: list[int]) -> None:
    test = toy(80, seed=1)
    c = context(toy(), tmp_path, test)
    c.planted[Generated("prior")] = test.take(torch.arange(80))
    seen: Any = c.get(Judged("prior"))
    assert (seen.argmax(1) == test.labels()).double().mean().item() > 0.95


# --- the shipped ones ---


def test_three_judges_are_shipped_whole_and_small() -> None:
    shipped = sorted(SHIPPED.glob("judge-*.safetensors"))
    assert len(shipped) == 3
    for path in shipped:
        assert load(path).name == path.stem
        assert path.stat().st_size < 250_000
        with safe_open(path, framework="pt") as file:
            assert all(file.get_tensor(key).dtype == torch.float16 for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("name", "least"), [("digits", 0.95), ("mnist", 0.97), ("fashion", 0.87)])
def test_shipped_judges_recognise_test_images(name: str, least: float) -> None:
    dataset, root = DATASETS.load(name)(), Path(os.environ.get("BENCH_DATA", "nowhere"))
    if not dataset.ready(root):
        pytest.skip(f"needs {name} in the folder that BENCH_DATA names")
    splits = dataset.load(root)
    shipped = find(splits.train, SHIPPED)
    assert shipped is not None
    assert right(shipped.network, splits.test).double().mean().item() >= least
    unseen = splits.train.subset(halves(len(splits.train))[0])
    assert right(shipped.network, unseen).double().mean().item() == pytest.approx(shipped.accuracy, abs=2e-4)
