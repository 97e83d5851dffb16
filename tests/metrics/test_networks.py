"""The classifiers behind `fd`: how they're trained, named, kept and found."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from bench.contracts.dataset import DATASETS, Data, prepare
from bench.contracts.images import Images, to_float, to_uint8
from bench.evidence import Generated
from bench.metrics import classifier, networks, shelf
from bench.metrics.cache import remembered_tensors
from bench.metrics.classifier import FEATURES, Classifier, _shift, accuracy, halves, predict, train
from bench.metrics.gaussians import FeatureGaussian, frechet_distance
from bench.metrics.kernel import kernel_distance
from bench.metrics.networks import FeatureNetwork, Predicted, PredictedReal, find, load, save, unseen
from bench.metrics.shelf import SHIPPED
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare

CLASSES = ("dark below", "dark above")


def toy(n: int = 160, seed: int = 0) -> Images:
    """Noisy 8x8 images, bright in their upper or in their lower half."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    pixels = torch.randint(0, 100, (n, 1, 8, 8), generator=generator)
    upper = (torch.arange(8) < 4).float()[:, None].expand(8, 8)
    bright = torch.where(labels[:, None, None].bool(), 1 - upper, upper)
    return Images((pixels + 150 * bright[:, None].long()).to(torch.uint8), labels, CLASSES)


def context(source: Images, cache: Path, test: Images | None = None) -> Bare:
    data = Data("toy", source, test or toy(80, seed=1), source, latent_dim=2, steps=1, likelihood="bernoulli")
    return Bare(data=data, cache=cache)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training of 30 steps; the list grows with each."""
    calls: list[int] = []

    def few(images: Images, **_: object) -> Classifier:
        calls.append(len(images))
        return train(images, steps=30)

    monkeypatch.setattr(networks, "train", few)
    return calls


@pytest.mark.parametrize("n", [2, 7, 1_000])
def test_halves_part_the_images(n: int) -> None:
    first, second = halves(n)
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(n))
    assert len(first) - len(second) == n % 2
    assert torch.equal(first, first.sort().values)
    assert torch.equal(first, halves(n)[0])


def test_halves_are_no_prefix() -> None:
    assert 400 < (halves(1_000)[0] < 500).sum().item() / 500 * 1_000 < 600


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 5, 9), (1, 3, 3), (1, 130, 90)]
)
def test_any_image_shape(shape: tuple[int, int, int]) -> None:
    network = Classifier(shape, 3).eval()
    features, probabilities = predict(network, torch.randint(0, 256, (2, *shape), dtype=torch.uint8), "cpu")
    assert features.shape == (2, FEATURES)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))


def test_training_learns_and_repeats_itself() -> None:
    source, before = toy(), torch.get_rng_state()
    with torch.inference_mode():
        network = train(source, steps=30)
    assert torch.equal(torch.get_rng_state(), before)
    assert accuracy(network, toy(80, seed=1)) > 0.95
    again = train(source, steps=30).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())


def test_training_sees_one_half_only() -> None:
    source = toy()
    pixels, labels = source.take(torch.arange(160)), source.labels()
    other = halves(160)[1]
    pixels[other], labels = 0, labels.index_fill(0, other, 0)
    one, two = train(source, steps=3), train(Images(pixels, labels, CLASSES), steps=3)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_features_have_unit_spread_on_what_was_trained_on() -> None:
    source = toy()
    features, _ = predict(train(source, steps=30), source.subset(halves(160)[0]), "cpu")
    spread = features.std(0)
    assert spread.max().item() == pytest.approx(1, abs=1e-3)
    assert spread.median().item() == pytest.approx(1, abs=1e-3)


def test_no_image_depends_on_its_neighbours() -> None:
    network, pixels = (
        Classifier((1, 8, 8), 2).eval(),
        torch.randint(0, 256, (1_030, 1, 8, 8), dtype=torch.uint8),
    )
    together, _ = predict(network, pixels, "cpu")
    alone, _ = predict(network, pixels[500:501], "cpu")
    torch.testing.assert_close(together[500:501], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_no_batch_size_changes_features(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = train(toy(), steps=3), torch.randint(0, 256, (130, 1, 8, 8), dtype=torch.uint8)
    single, double = predict(network, pixels, "cpu")[0], predict(network.double(), pixels, "cpu")[0]
    monkeypatch.setattr(classifier, "AT_ONCE", at_once)
    torch.testing.assert_close(predict(network, pixels, "cpu")[0], double, atol=1e-10, rtol=0)
    torch.testing.assert_close(predict(network.float(), pixels, "cpu")[0], single, atol=1e-5, rtol=1e-5)


def test_a_network_in_training_mode_predicts_as_ever_and_learns_nothing() -> None:
    """Features of one that a caller has left in training mode; torchmetrics would move its batch statistics."""
    network, pixels = train(toy(), steps=3), torch.randint(0, 256, (130, 1, 8, 8), dtype=torch.uint8)
    before, features = {k: v.clone() for k, v in network.state_dict().items()}, predict(network, pixels, "cpu")[0]
    assert torch.equal(predict(network.train(), pixels, "cpu")[0], features)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 30), (1, 65, 65)])
def test_a_folded_network_is_the_same_function(shape: tuple[int, int, int]) -> None:
    """In double precision to rounding, with statistics of batches, scales and shifts that are anything."""
    torch.manual_seed(0)
    network, pixels = Classifier(shape, 3).double(), torch.randint(0, 256, (20, *shape), dtype=torch.uint8)
    for tensor in (p for layer in network.body if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()):
        nn.init.uniform_(tensor, 0.5, 2)
    network.train()(pixels)  # moves the running statistics
    folded = network.eval().folded()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    for found, expected in zip(folded(pixels), network(pixels), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_another_replicate_is_another_network() -> None:
    one, same, other = (train(toy(), steps=2, replicate=r).head.weight for r in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_shifts_move_an_image_and_continue_its_border() -> None:
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    shifted = _shift(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    allowed = {
        tuple(image[0, 0][(torch.arange(8) + dy).clamp(0, 7)][:, (torch.arange(8) + dx).clamp(0, 7)].flatten().tolist())
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert {tuple(x.flatten().tolist()) for x in shifted} == allowed


def test_a_saved_network_comes_back_and_is_named_by_its_bytes(tmp_path: Path) -> None:
    source = toy()
    network = train(source, steps=3)
    path = save(network, tmp_path, source, 0.75)
    assert path.name.startswith(f"fd-v1-{source.digest[:12]}-")
    trained = find(source, tmp_path)
    assert trained is not None
    assert (trained.name, trained.accuracy) == (path.stem, 0.75)
    pixels = source.take(torch.arange(5))
    torch.testing.assert_close(predict(trained.network, pixels, "cpu"), predict(network, pixels, "cpu"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert find(toy(100), tmp_path) is None


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = save(train(toy(), steps=1), tmp_path, toy(), 0.5)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="isn't the file"):
        load(path)


def test_a_dataset_of_its_own_is_trained_on_once(tmp_path: Path, quick: list[int]) -> None:
    source = toy()
    first = context(source, tmp_path).get(FeatureNetwork())
    second = context(source, tmp_path).get(FeatureNetwork())
    assert quick == [160]
    assert first.name == second.name
    assert first.accuracy > 0.95
    (kept,) = (tmp_path / "networks").iterdir()
    kept.write_bytes(b"damaged")
    assert context(source, tmp_path).get(FeatureNetwork()).name == first.name
    assert len(quick) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, quick: list[int]) -> None:
    (tmp_path / "file").touch()
    trained = context(toy(), tmp_path / "file").get(FeatureNetwork())
    assert trained.name.endswith("-unsaved")


def test_a_damaged_shipped_network_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: list[int]
) -> None:
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path)
    path = save(train(toy(), steps=1), tmp_path, toy(), 0.5)
    path.write_bytes(b"damaged")
    with pytest.raises(NotAvailable, match="reinstall"):
        context(toy(), tmp_path).get(FeatureNetwork())
    assert not quick


def test_images_that_are_all_the_same_have_no_classifier(tmp_path: Path, quick: list[int]) -> None:
    flat = Images(torch.full((160, 1, 8, 8), 7, dtype=torch.uint8), toy().labels(), CLASSES)
    with pytest.raises(NotAvailable, match="all the same"):
        context(flat, tmp_path).get(FeatureNetwork())
    assert not quick


def test_real_images_are_predicted_once(tmp_path: Path, quick: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source, test = toy(), toy(80, seed=1)
    first = context(source, tmp_path, test)
    seen = {split: first.get(PredictedReal(split)) for split in ("test", "train")}
    network = first.get(FeatureNetwork()).network
    torch.testing.assert_close(seen["test"].features, predict(network, test, "cpu")[0])
    torch.testing.assert_close(seen["train"].probabilities, predict(network, unseen(first.data), "cpu")[1])
    monkeypatch.setattr(networks, "predict", lambda *_: pytest.fail("predicted again"))
    again = context(source, tmp_path, test)
    for split, predictions in seen.items():
        kept = again.get(PredictedReal(split))
        assert torch.equal(kept.features, predictions.features)
        assert torch.equal(kept.probabilities, predictions.probabilities)


@pytest.mark.parametrize("settings", [{}, {"validation": 100}, {"limit": 300}])
def test_no_scored_image_is_among_the_other_real_ones(settings: dict[str, int]) -> None:
    """The scored images of a validation split come out of the training split, which the others come out of, too."""
    dataset = DATASETS.load("digits")()
    splits = dataset.load(Path())
    data = prepare("digits", dataset, splits, split="validation", **settings)  # type: ignore[arg-type]
    others = unseen(data)
    scored, drawn = ({x.numpy().tobytes() for x in s.take(torch.arange(len(s)))} for s in (data.test, others))
    assert not scored & drawn
    assert len(others) == len(data.test)
    plain = prepare("digits", dataset, splits, **settings)  # type: ignore[arg-type]
    assert plain.held is None
    assert unseen(plain).digest == unseen(prepare("digits", dataset, splits)).digest


def test_labels_of_two_classes_are_needed(tmp_path: Path) -> None:
    pixels = toy().take(torch.arange(160))
    with pytest.raises(NotAvailable, match="labels"):
        context(Images(pixels), tmp_path).get(FeatureNetwork())
    with pytest.raises(NotAvailable, match="labels"):
        context(toy(), tmp_path, test=Images(pixels)).get(FeatureNetwork())
    one = Images(pixels, torch.zeros(160).long(), ("only",))
    with pytest.raises(NotAvailable, match="two classes"):
        context(one, tmp_path, test=one).get(FeatureNetwork())


def test_samples_are_predicted_as_images_are(tmp_path: Path, quick: list[int]) -> None:
    test = toy(80, seed=1)
    c = context(toy(), tmp_path, test)
    c.planted[Generated("prior")] = test.take(torch.arange(80))
    seen: Any = c.get(Predicted("prior"))
    assert (seen.probabilities.argmax(1) == test.labels()).double().mean().item() > 0.95


# --- the shipped ones ---


def shipped() -> list[Path]:
    return sorted(SHIPPED.glob("fd-*.safetensors"))


def test_three_networks_are_shipped_whole_and_small() -> None:
    assert len(shipped()) == 3
    for path in shipped():
        assert load(path).name == path.stem
        assert path.stat().st_size < 300_000
        with safe_open(path, framework="pt") as file:
            assert all(isinstance(file.get_tensor(key), Tensor) for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("name", "least"), [("digits", 0.95), ("mnist", 0.985), ("fashion", 0.90)])
def test_shipped_networks_recognise_test_images(name: str, least: float) -> None:
    dataset, root = DATASETS.load(name)(), Path(os.environ.get("BENCH_DATA", "nowhere"))
    if not dataset.ready(root):
        pytest.skip(f"needs {name} in the folder that BENCH_DATA names")
    splits = dataset.load(root)
    trained = find(splits.train, SHIPPED)
    assert trained is not None
    measured = accuracy(trained.network, splits.test)
    assert measured >= least
    assert measured == pytest.approx(trained.accuracy, abs=2e-4)


DISTURBANCES = {
    "blur": (1.0, 2.0, 4.0),
    "noise": (0.25, 0.5, 0.75),
    "salt and pepper": (0.1, 0.2, 0.3),
    "strangers": (0.25, 0.5, 0.75),
}


def worse(kind: str, strength: float, x: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] made worse, as uint8."""
    generator = torch.Generator().manual_seed(0)
    if kind == "blur":
        x = gaussian_blur(x, [2 * round(3 * strength) + 1] * 2, strength)
    elif kind == "noise":
        x = (1 - strength) * x + strength * torch.rand(x.shape, generator=generator)
    elif kind == "salt and pepper":
        hit = torch.rand(x.shape, generator=generator) < strength
        x = torch.where(hit, torch.randint(2, x.shape, generator=generator), x)
    elif kind == "strangers":
        x = torch.cat([1 - x[: round(strength * len(x))].flip(2), x[round(strength * len(x)) :]])
    return to_uint8(x)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_distances_rise_with_each_disturbance_of_real_images(name: str, request: pytest.FixtureRequest) -> None:
    """Strictly, by every step, for the shipped networks: Heusel et al. 2017, figure 3."""
    data: Data = request.getfixturevalue(name)
    trained = find(data.source, SHIPPED)
    assert trained is not None
    network, real = trained.network, to_float(unseen(data).take(torch.arange(500)))
    test, _ = predict(network, data.test.subset(torch.arange(0, 10_000, 10)), "cpu")
    reference = FeatureGaussian.of(test)
    undisturbed, _ = predict(network, to_uint8(real), "cpu")
    for kind, strengths in DISTURBANCES.items():
        found = [undisturbed, *(predict(network, worse(kind, s, real), "cpu")[0] for s in strengths)]
        fds = [frechet_distance(FeatureGaussian.of(f), reference) for f in found]
        kds = [kernel_distance(f, test)[0] for f in found]
        assert all(a < b for distances in (fds, kds) for a, b in pairwise(distances)), (kind, fds, kds)


def test_a_full_disk_costs_what_would_be_kept_and_nothing_else(tmp_path: Path) -> None:
    import resource

    fresh = {"x": torch.arange(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        found = remembered_tensors(tmp_path / "kept.safetensors", lambda: fresh, "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found is fresh
    assert not list(tmp_path.iterdir())
