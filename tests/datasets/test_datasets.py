"""The datasets: known answers on real data, true formats written small, every way that files go wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contracts.dataset import DATASETS, Data, Dataset, Splits
from bench.contracts.images import Images
from bench.data import data_root, load, parse
from bench.util.errors import BenchError, DataError, UsageError

Random = np.random.Generator


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of a few images stand for those of tens of thousands: how many and which they are is tested elsewhere."""
    for name in ("mnist", "fashion", "kmnist", "emnist", "cifar10"):
        monkeypatch.setattr(DATASETS.load(name), "published", None)


@pytest.fixture
def random() -> Random:
    return np.random.default_rng(0)


def pixels(images: Images) -> torch.Tensor:
    return images.take(torch.arange(len(images)))


def same(images: Images, expected: np.ndarray) -> bool:
    return torch.equal(pixels(images), torch.from_numpy(np.ascontiguousarray(expected)))


def screen(error: pytest.ExceptionInfo[BenchError]) -> str:
    """The message, once it is found to fit a screen."""
    message = str(error.value)
    assert message.count("\n") < 10
    assert "Traceback" not in message
    return message


def digits() -> Splits:
    return parse("digits").load(Path())


def test_digits_are_split_once_and_for_all() -> None:
    splits = digits()
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    assert splits.train.shape == (1, 8, 8)
    assert splits.train.classes == tuple("0123456789")
    assert (splits.train.digest, splits.test.digest) == (digits().train.digest, digits().test.digest)


def test_the_digits_are_the_source_s() -> None:
    from sklearn.datasets import load_digits

    source, splits = load_digits(), digits()
    both = torch.cat([pixels(splits.train), pixels(splits.test)]).flatten(1)
    labels = torch.cat([splits.train.labels(), splits.test.labels()])
    expected = np.floor(source.data * 255 / 16 + 0.5)
    assert sorted(map(tuple, np.c_[both.numpy(), labels.numpy()].tolist())) == sorted(
        map(tuple, np.c_[expected, source.target].astype(int).tolist())
    )
    share = splits.test.labels().bincount() / labels.bincount()
    assert ((share > 0.19) & (share < 0.21)).all()


@pytest.fixture(scope="module")
def real() -> Callable[[str], Data]:
    root = os.environ.get("BENCH_DATA")

    def get(name: str) -> Data:
        if not root or not parse(name).ready(Path(root)):
            pytest.skip(f"BENCH_DATA has no {name}")
        return load(name, Path(root), download=False)

    return get


REAL = [
    ("mnist", 45.534, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], 2.3012),
    ("fashion", 189.858, [1000] * 10, 2.3026),
]


@pytest.mark.parametrize(("name", "floor", "counts", "entropy"), REAL)
def test_the_real_sets_have_their_known_figures(
    real: Callable[[str], Data], name: str, floor: float, counts: list[int], entropy: float
) -> None:
    found = real(name)
    assert (len(found.train), len(found.test), found.train.shape) == (60_000, 10_000, (1, 28, 28))
    p = pixels(found.test).double() / 255
    bce = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).flatten(1).sum(1).mean()
    assert bce.item() == pytest.approx(floor, abs=6e-4)
    assert found.test.labels().bincount().tolist() == counts
    share = found.train.labels().bincount() / 60_000
    assert -(share * share.log()).sum().item() == pytest.approx(entropy, abs=1e-4)
    assert (found.latent_dim, found.steps, found.likelihood) == (20, 4690, "bernoulli")


def test_real_gz_files_read_the_same_as_uncompressed(real: Callable[[str], Data], tmp_path: Path) -> None:
    plain = real("mnist")
    source = Path(os.environ["BENCH_DATA"]) / "MNIST" / "raw"
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        packed = source / f"{name}-ubyte.gz"
        content = packed.read_bytes() if packed.exists() else gzip.compress((source / f"{name}-ubyte").read_bytes(), 1)
        (tmp_path / "MNIST" / "raw" / packed.name).write_bytes(content)
    assert load("mnist", tmp_path, download=False).train.digest == plain.train.digest


def idx(array: np.ndarray) -> bytes:
    """IDX: two zero bytes, the type (8: unsigned byte), the number of axes, each length; big-endian."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def mnist_like(
    random: Random, root: Path, folder: str, splits: tuple[str, str], *, pack: bool
) -> dict[str, np.ndarray]:
    arrays = {}
    for split, count in zip(splits, (12, 5), strict=True):
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = random.integers(0, 10, count, np.uint8)
    for name, array in arrays.items():
        content = gzip.compress(idx(array)) if pack else idx(array)
        write(root / folder / (f"{name}.gz" if pack else name), content)
    return arrays


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_idx_files_are_read_in_either_form(random: Random, tmp_path: Path, name: str, folder: str, pack: bool) -> None:
    arrays = mnist_like(random, tmp_path, f"{folder}/raw", ("train", "t10k"), pack=pack)
    found = load(name, tmp_path, download=False)
    assert same(found.train, arrays["train-images-idx3-ubyte"][:, None])
    assert same(found.test, arrays["t10k-images-idx3-ubyte"][:, None])
    assert found.train.labels().tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert len(found.train.classes) == 10


def all_of(root: Path, text: str) -> Data:
    return load(text, root, download=False)


def test_static_binarisation_is_one_draw_by_a_fixed_seed(random: Random, tmp_path: Path) -> None:
    """Black or white, the same each time, and white as often as the grey levels say."""
    grey = mnist_like(random, tmp_path, "MNIST/raw", ("train", "t10k"), pack=False)
    state = torch.get_rng_state()
    first, again = (all_of(tmp_path, "mnist[binary=static]") for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for split, name in (("train", "train"), ("test", "t10k")):
        images, levels = getattr(first, split), torch.as_tensor(grey[f"{name}-images-idx3-ubyte"])[:, None]
        assert images.digest == getattr(again, split).digest
        assert not images.redrawn
        x = pixels(images).double() / 255
        assert set(x.unique().tolist()) == {0, 1}
        p = levels.double() / 255
        assert ((x == p) | ((p > 0) & (p < 1))).all(), "black stays black and white white"
        deviation = (x - p).sum() / (p * (1 - p)).sum().sqrt()
        assert abs(deviation) < 4
        assert images.labels().tolist() == grey[f"{name}-labels-idx1-ubyte"].tolist()


def test_dynamic_binarisation_draws_what_is_trained_on_anew(random: Random, tmp_path: Path) -> None:
    mnist_like(random, tmp_path, "KMNIST/raw", ("train", "t10k"), pack=False)
    static, dynamic = (all_of(tmp_path, f"kmnist[binary={kind}]") for kind in ("static", "dynamic"))
    assert dynamic.train.redrawn
    assert not torch.equal(pixels(dynamic.train), pixels(dynamic.train))
    assert set(pixels(dynamic.train).unique().tolist()) == {0, 255}
    assert dynamic.test.digest == static.test.digest, "both are scored on the same images"
    assert dynamic.train.digest != static.train.digest


def test_a_dropped_class_is_an_outlier_and_the_others_move_up(random: Random, tmp_path: Path) -> None:
    arrays = mnist_like(random, tmp_path, "FashionMNIST/raw", ("train", "t10k"), pack=False)
    labels = {split: np.arange(n) % 10 for split, n in (("train", 12), ("t10k", 5))}
    for split, y in labels.items():
        write(tmp_path / f"FashionMNIST/raw/{split}-labels-idx1-ubyte", idx(y))
    whole, found = all_of(tmp_path, "fashion"), all_of(tmp_path, "fashion[drop=1-3]")
    assert whole.outliers is None
    assert found.train.classes == tuple(c for c in whole.train.classes if c not in ("Trouser", "Dress"))
    for split, images in (("train", found.train), ("t10k", found.test)):
        keep = ~np.isin(labels[split], (1, 3))
        assert same(images, arrays[f"{split}-images-idx3-ubyte"][keep][:, None])
        names = [images.classes[i] for i in images.labels().tolist()]
        assert names == [whole.train.classes[i] for i in labels[split][keep]]
    assert found.outliers is not None
    assert same(found.outliers, arrays["t10k-images-idx3-ubyte"][[1, 3]][:, None])
    binary = all_of(tmp_path, "fashion[drop=1-3,binary=dynamic]")
    assert (len(binary.train), len(binary.test)) == (len(found.train), len(found.test))
    assert binary.train.redrawn
    assert binary.outliers is not None
    assert not binary.outliers.redrawn
    assert set(pixels(binary.outliers).unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mnist[drop=10]", "no class 10"),
        ("emnist[drop=46-47]", "no class 47"),
        ("mnist[drop=0-1-2-3-4-5-6-7-8-9]", "leaves no class"),
        ("mnist[drop=-1]", "is no value of drop"),
        ("mnist[drop=three]", "is no value of drop"),
        ("mnist[outliers=mnist]", "no outliers of their own set"),
        ("mnist[outliers=cifar10]", "wrong type"),
        ("mnist[outliers=fashion,drop=3]", "both say"),
        ("fashion[binary=larochelle]", "'none' or 'static' or 'dynamic'"),
    ],
)
def test_what_cannot_be_dropped_or_drawn_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert message in screen(refused)


def test_another_set_holds_the_outliers(mnist: Data, fashion: Data) -> None:
    found = load("fashion[outliers=mnist]", data_root(), download=False)
    assert found.outliers is not None
    everything = torch.arange(len(mnist.test))
    assert torch.equal(found.outliers.take(everything), mnist.test.take(everything))
    assert (found.train.digest, found.test.digest) == (fashion.train.digest, fashion.test.digest)
    assert {f.path.split("/")[0] for f in parse("fashion[outliers=mnist]").files} == {"FashionMNIST", "MNIST"}


@pytest.mark.parametrize(
    ("name", "options"), [("mnist", {"binary": "static"}), ("fashion", {"binary": "dynamic", "drop": (3,)})]
)
def test_the_options_keep_the_contract_of_a_dataset(
    random: Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    from bench.testing.datasets import suite

    cls = DATASETS.load(name)
    mnist_like(random, tmp_path, cls.folder, ("train", "t10k"), pack=False)  # type: ignore[attr-defined]
    for split, n in (("train", 12), ("t10k", 5)):
        write(tmp_path / cls.folder / f"{split}-labels-idx1-ubyte", idx(np.arange(n) % 10))  # type: ignore[attr-defined]
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    for check in suite(cls, options):
        check()


def _labels(count: int) -> np.ndarray:
    return np.zeros(count, np.uint8)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((12, 28, 28)))[:-1]),
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte", b"<html>not found</html>" * 100),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 28, 28)))),
        ("t10k-labels-idx1-ubyte", idx(_labels(5))[:-2]),
        ("t10k-labels-idx1-ubyte", idx(_labels(6))),
        ("t10k-labels-idx1-ubyte", idx(_labels(5) + 10)),
    ],
)
def test_damaged_idx_files_are_named(random: Random, tmp_path: Path, name: str, content: bytes, pack: bool) -> None:
    mnist_like(random, tmp_path, "MNIST/raw", ("train", "t10k"), pack=pack)
    suffix = ".gz" if pack else ""
    write(tmp_path / "MNIST/raw" / (name + suffix), gzip.compress(content) if pack else content)
    with pytest.raises(DataError) as refused:
        load("mnist", tmp_path, download=False)
    assert name + suffix in screen(refused)
    assert "Delete" in str(refused.value)


@pytest.mark.fault(25, "a dataset's file is cut", "named; never trained on")
def test_a_truncated_gz_is_named(random: Random, tmp_path: Path) -> None:
    mnist_like(random, tmp_path, "MNIST/raw", ("train", "t10k"), pack=True)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    write(path, path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged") as refused:
        load("mnist", tmp_path, download=False)
    assert str(path) in screen(refused)


def emnist_zip(random: Random, root: Path) -> dict[str, np.ndarray]:
    splits = ("emnist-balanced-train", "emnist-balanced-test")
    arrays = mnist_like(random, root / "made", "x", splits, pack=True)
    write(root / "EMNIST/raw/gzip.zip", b"")
    with zipfile.ZipFile(root / "EMNIST/raw/gzip.zip", "w") as archive:
        archive.writestr("../escaped.gz", b"x")
        archive.writestr("gzip/../../escaped-too", b"x")
        for name in arrays:
            archive.write(root / "made" / "x" / f"{name}.gz", f"gzip/{name}.gz")
    return arrays


def test_emnist_is_read_out_of_its_archive_upright(random: Random, tmp_path: Path) -> None:
    arrays = emnist_zip(random, tmp_path / "root")
    before = sorted(tmp_path.rglob("*"))
    found = load("emnist", tmp_path / "root", download=False)
    assert same(found.train, arrays["emnist-balanced-train-images-idx3-ubyte"].transpose(0, 2, 1)[:, None])
    assert found.test.labels().tolist() == arrays["emnist-balanced-test-labels-idx1-ubyte"].tolist()
    assert len(found.train.classes) == 47
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_emnist_takes_what_torchvision_unpacked(random: Random, tmp_path: Path) -> None:
    from torchvision.datasets import EMNIST

    mnist_like(random, tmp_path, "EMNIST/raw", ("emnist-balanced-train", "emnist-balanced-test"), pack=False)
    found, theirs = load("emnist", tmp_path, download=False), EMNIST(tmp_path, "balanced", train=True)
    assert torch.equal(pixels(found.train)[:, 0], theirs.data.transpose(1, 2))
    assert found.train.classes == tuple(theirs.classes)


@pytest.mark.parametrize("damage", ["truncated", "missing member", "no archive"])
def test_a_damaged_emnist_archive_is_named(random: Random, tmp_path: Path, damage: str) -> None:
    emnist_zip(random, tmp_path)
    path = tmp_path / "EMNIST/raw/gzip.zip"
    if damage == "truncated":
        write(path, path.read_bytes()[:-200])
    elif damage == "no archive":
        write(path, b"<html>")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("gzip/something-else.gz", b"x")
    with pytest.raises(DataError, match="is damaged") as refused:
        load("emnist", tmp_path, download=False)
    assert str(path) in screen(refused)


def cifar(root: Path, batches: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / "cifar-10-binary.tar.gz"


def cifar_batches(random: Random) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Six batches of 4 rows each; the last is the test's."""
    images = random.integers(0, 256, (24, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, 24, np.uint8)
    rows = np.c_[labels, images.reshape(24, -1)].astype(np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return (
        {f"cifar-10-batches-bin/{name}": rows[4 * i : 4 * i + 4].tobytes() for i, name in enumerate(names)},
        images,
        labels,
    )


@pytest.mark.fault(26, "an archive with ../ and absolute members", "members are read by name; nothing is unpacked")
def test_cifar10_is_read_from_the_members_of_its_archive(random: Random, tmp_path: Path) -> None:
    batches, images, labels = cifar_batches(random)
    extra = {
        "../escaped.bin": b"x",
        "/cifar-10-batches-bin/test_batch.bin": b"x",
        "cifar-10-batches-bin/readme": b"",
    }
    cifar(tmp_path / "root", extra | dict(reversed(batches.items())))
    found = load("cifar10", tmp_path / "root", download=False)
    assert same(found.train, images[:20])
    assert same(found.test, images[20:])
    assert found.train.labels().tolist() == labels[:20].tolist()
    assert (found.train.shape, found.likelihood, found.latent_dim) == ((3, 32, 32), "logistic", 128)
    assert len(list(tmp_path.rglob("*"))) == 2, "nothing is unpacked"


@pytest.mark.fault(26, "an archive with a link, cut, or no archive at all", "named; never trained on")
@pytest.mark.parametrize("damage", ["short member", "missing member", "link", "label", "truncated", "no archive"])
def test_a_damaged_cifar10_archive_is_named(random: Random, tmp_path: Path, damage: str) -> None:
    batches, _, _ = cifar_batches(random)
    test = "cifar-10-batches-bin/test_batch.bin"
    if damage == "short member":
        batches[test] = batches[test][:-1]
    elif damage == "label":
        batches[test] = b"\x0a" + batches[test][1:]
    elif damage in ("missing member", "link"):
        del batches[test]
    path = cifar(tmp_path, batches)
    if damage == "link":
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(test)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
    elif damage == "truncated":
        write(path, path.read_bytes()[:20_000])
    elif damage == "no archive":
        write(path, b"<html>")
    with pytest.raises(DataError) as refused:
        load("cifar10", tmp_path, download=False)
    assert str(path) in screen(refused)


def svhn(random: Random, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import scipy.io
    from torchvision.datasets import SVHN

    made, table = {}, dict(SVHN.split_list)
    for split, count in (("train", 12), ("test", 5)):
        images = random.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = np.arange(1, count + 1, dtype=np.uint8) % 10 + 1  # the source counts from 1 to 10
        path = root / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": labels[:, None]})
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        table[split] = [table[split][0], path.name, md5]
        made[split] = images, labels
    monkeypatch.setattr(SVHN, "split_list", table)
    return made


def test_svhn_calls_the_digit_zero_zero(random: Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = svhn(random, tmp_path, monkeypatch)
    found = load("svhn", tmp_path, download=False)
    assert same(found.train, made["train"][0].transpose(3, 2, 0, 1))
    assert found.test.labels().tolist() == (made["test"][1] % 10).tolist()
    assert set(found.train.labels().tolist()) == set(range(10))


def test_a_damaged_svhn_file_is_named(random: Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svhn(random, tmp_path, monkeypatch)
    path = tmp_path / "test_32x32.mat"
    write(path, path.read_bytes()[:-10])
    with pytest.raises(DataError) as refused:
        load("svhn", tmp_path, download=False)
    assert str(path) in screen(refused)


def jpeg(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "jpeg", quality=95)
    return out.getvalue()


@pytest.fixture
def celeba(random: Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[int, bytes]]:
    """An archive of 8 faces: 4 to train, 2 of the validation split, 2 to test."""
    cls = DATASETS.load("celeba")
    monkeypatch.setattr(cls, "train", range(1, 5))
    monkeypatch.setattr(cls, "test", range(7, 9))
    faces = {}
    path = write(tmp_path / "celeba/img_align_celeba.zip", b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped.jpg", b"x")
        for number in range(1, 9):
            face = np.full((218, 178, 3), 20 * number, np.uint8)
            face[:39] = face[-39:] = 255  # what the crop leaves out
            face[:, :19] = face[:, -19:] = 255
            faces[number] = jpeg(face)
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", faces[number])
    return tmp_path, faces


def test_celeba_is_cropped_resized_and_decoded_once(celeba: tuple[Path, dict[int, bytes]]) -> None:
    root, _ = celeba
    found = load("celeba", root, download=False)
    assert (len(found.train), len(found.test), found.train.shape) == (4, 2, (3, 64, 64))
    assert not found.train.labelled
    inner = pixels(found.train)[:, :, 8:-8, 8:-8].float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(inner, torch.tensor([20.0, 40.0, 60.0, 80.0]), atol=2, rtol=0)
    torch.testing.assert_close(pixels(found.test)[:, 0, 32, 32].float(), torch.tensor([140.0, 160.0]), atol=2, rtol=0)
    assert (pixels(found.train) < 150).all(), "no border is left"
    (root / "celeba/img_align_celeba.zip").unlink()
    assert load("celeba", root, download=False).train.digest == found.train.digest
    assert sorted(path.name for path in root.rglob("*.npy")) == ["aligned-140-64.npy"]
    assert not (root / "celeba/img_align_celeba").exists(), "nothing is unpacked"


def test_celeba_in_another_size_and_from_an_unpacked_folder(celeba: tuple[Path, dict[int, bytes]]) -> None:
    root, faces = celeba
    archived = load("celeba", root, image_size=32, download=False)
    for path in (root / "celeba").iterdir():
        path.unlink()
    for number, content in faces.items():
        write(root / f"celeba/img_align_celeba/{number:06d}.jpg", content)
    unpacked = load("celeba[image_size=32]", root, download=False)
    assert archived.train.shape == (3, 32, 32)
    assert archived.train.digest == unpacked.train.digest


def test_a_damaged_celeba_is_named_and_leaves_no_half_copy(celeba: tuple[Path, dict[int, bytes]]) -> None:
    root, faces = celeba
    path = root / "celeba/img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in faces.items():
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", content[: 300 if number == 7 else None])
    with pytest.raises(DataError) as refused:
        load("celeba", root, download=False)
    assert "000007.jpg" in screen(refused)
    assert [p.name for p in (root / "celeba").iterdir()] == ["img_align_celeba.zip"]
    write(path, b"<html>")
    with pytest.raises(DataError, match=r"img_align_celeba\.zip"):
        load("celeba", root, download=False)


@pytest.mark.parametrize("damage", ["truncated", "another shape"])
def test_a_damaged_copy_of_celeba_is_not_used(celeba: tuple[Path, dict[int, bytes]], damage: str) -> None:
    root, _ = celeba
    load("celeba", root, download=False)
    (copy,) = root.rglob("*.npy")
    if damage == "truncated":
        copy.write_bytes(copy.read_bytes()[:-1])
    else:
        np.save(copy, np.load(copy)[:-1])
    with pytest.raises(DataError) as refused:
        load("celeba", root, download=False)
    assert str(copy) in screen(refused)


def picture(path: Path, array: np.ndarray, mode: str | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return array


def folder(path: Path, **options: int) -> Data:
    return load(f"folder:{path}", Path("/nowhere"), **options)  # type: ignore[arg-type]


def grey(random: Random, *shape: int) -> np.ndarray:
    return random.integers(0, 256, shape, np.uint8)


def test_a_flat_folder_is_unlabelled_and_split_one_in_ten(random: Random, tmp_path: Path) -> None:
    made = {picture(tmp_path / f"{i:03d}.{s}", grey(random, 6, 5)).tobytes() for i in range(10) for s in ("png", "BMP")}
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()
    found = folder(tmp_path)
    assert (len(found.train), len(found.test), found.train.shape) == (18, 2, (1, 6, 5))
    assert not found.train.labelled
    assert found.train.classes == ()
    both = torch.cat([pixels(found.train), pixels(found.test)])
    assert {image.numpy().tobytes() for image in both} == made
    assert folder(tmp_path).train.digest == found.train.digest


@pytest.mark.parametrize("count", [2, 9, 11])
def test_there_is_always_a_test_image(random: Random, tmp_path: Path, count: int) -> None:
    for i in range(count):
        picture(tmp_path / f"{i}.png", grey(random, 4, 4))
    found = folder(tmp_path)
    assert len(found.test) == -(-count // 10)
    assert len(found.train) + len(found.test) == count


def test_sub_folders_are_classes(random: Random, tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "b" / f"{i}.jpg", grey(random, 4, 4, 3))
        picture(tmp_path / "a" / f"{i}.png", grey(random, 4, 4, 3))
    found = folder(tmp_path)
    assert found.train.classes == ("a", "b")
    assert found.train.labels().bincount().tolist() == [18, 18]
    assert found.test.labels().bincount().tolist() == [2, 2]
    assert found.train.shape == (3, 4, 4)


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_train_and_test_are_the_splits(random: Random, tmp_path: Path, classes: tuple[str, ...]) -> None:
    made = {}
    for split, count in (("train", 5), ("test", 3)):
        made[split] = [
            picture(tmp_path / split / name / f"{i}.png", grey(random, 4, 4))
            for name in (classes or ("",))
            for i in range(count)
        ]
    found = folder(tmp_path)
    assert same(found.train, np.stack(made["train"])[:, None])
    assert same(found.test, np.stack(made["test"])[:, None])
    assert found.train.classes == found.test.classes == classes
    if classes:
        assert found.test.labels().tolist() == [0, 0, 0, 1, 1, 1]


SPLITS = [
    ("Train", "Test"),
    ("TRAIN", "test"),
    ("training", "testing"),
    ("trainA", "testA"),
    ("train_B", "test_B"),
    ("training_set", "test_set"),
    ("train2017", "test2017"),
    ("train-images", "test-images"),
    ("shop_train", "shop_test"),
]


@pytest.mark.fault(41, "Train/ and Test/, training/ and testing/, trainA/ and testA/", "splits, not classes")
@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_usual_names_of_splits_are_splits(
    random: Random, tmp_path: Path, train: str, test: str, classes: tuple[str, ...]
) -> None:
    made = {}
    for split, count in ((train, 5), (test, 3)):
        made[split] = [
            picture(tmp_path / split / name / f"{i}.png", grey(random, 4, 4))
            for name in (classes or ("",))
            for i in range(count)
        ]
    found = folder(tmp_path)
    assert same(found.train, np.stack(made[train])[:, None])
    assert same(found.test, np.stack(made[test])[:, None])
    assert found.train.classes == found.test.classes == classes
    assert not found.own_validation


@pytest.mark.parametrize("validation", ["val", "Valid", "validation", "dev", "eval"])
def test_a_validation_folder_is_the_validation_split(random: Random, tmp_path: Path, validation: str) -> None:
    made = {
        split: np.stack([picture(tmp_path / split / f"{i}.png", grey(random, 4, 4)) for i in range(n)])[:, None]
        for split, n in (("train", 9), ("test", 3), (validation, 4))
    }
    found = folder(tmp_path)
    assert same(found.train, made["train"])
    assert same(found.test, made["test"])
    chosen = load(f"folder:{tmp_path}", Path("/nowhere"), split="validation")
    assert chosen.train.digest == found.train.digest, "it gives no image away"
    assert same(chosen.test, made[validation])


def test_a_copy_of_a_large_folder_has_its_validation_split(
    random: Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.folder.FEW", 2)
    monkeypatch.setattr("datasets.folder.SMALL", 0)
    made = {
        split: np.stack([picture(tmp_path / split / f"{i}.png", grey(random, 4, 4)) for i in range(n)])[:, None]
        for split, n in (("train", 9), ("test", 3), ("val", 4))
    }
    for _ in range(2):  # the second time from the copy
        found = load(f"folder:{tmp_path}", Path("/nowhere"), split="validation")
        assert found.test.digest == Images(made["val"]).digest
        assert same(found.test, made["val"])


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("trainA", "trainB", "testA", "testB"), ("trainA/ and trainB/", "folder of its own")),
        (("trainA", "trainB"), ("trainA/ and trainB/", "folder of its own")),
        (("test_1", "test_2"), ("test_1/ and test_2/", "rename those that are classes")),
        (("Train", "train", "test"), ("two folders", "Train/ and train/")),
        (("train", "test", "val", "dev"), ("two folders", "validation")),
        (("training", "bus"), ("no test/", "rename it")),
        (("train", "val"), ("no test/", "Rename val/ to test/")),
        (("train2017", "val2017"), ("no test/", "Rename val2017/ to test/")),
        (("test", "val"), ("no train/",)),
        (("Validation", "bus"), ("no train/", "rename it")),
    ],
)
def test_folders_that_may_be_splits_are_refused_with_the_way_out(
    random: Random, tmp_path: Path, folders: tuple[str, ...], says: tuple[str, ...]
) -> None:
    for name in folders:
        picture(tmp_path / name / "1.png", grey(random, 4, 4))
    with pytest.raises(DataError) as refused:
        folder(tmp_path)
    assert all(text in screen(refused) for text in says)


def test_classes_may_be_called_a_little_like_splits(random: Random, tmp_path: Path) -> None:
    names = ("steam_train", "bus", "contest", "valley", "trainer", "evaluate")
    for name in names:
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", grey(random, 4, 4))
    assert folder(tmp_path).train.classes == tuple(sorted(names))


def test_image_size_crops_the_centre_and_makes_all_alike(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 5:25] = 200
    picture(tmp_path / "wide.png", wide)
    picture(tmp_path / "colour.png", np.full((7, 7, 3), (200, 0, 0), np.uint8))
    found = folder(tmp_path, image_size=8)
    both = torch.cat([pixels(found.train), pixels(found.test)])
    assert both.shape == (2, 3, 8, 8)
    means = sorted(tuple(image.float().mean(dim=(1, 2)).tolist()) for image in both)
    assert means == [(200, 0, 0), (200, 200, 200)]


def test_image_size_leaves_grey_images_grey(random: Random, tmp_path: Path) -> None:
    for i, side in enumerate((5, 9, 20)):
        picture(tmp_path / f"{i}.png", grey(random, side, side))
    assert folder(tmp_path, image_size=7).train.shape == (1, 7, 7)


def test_every_kind_of_image_becomes_grey_or_rgb(random: Random, tmp_path: Path) -> None:
    level = grey(random, 4, 4)
    for directory, mode in (("1", "1"), ("la", "LA"), ("rgba", "RGBA"), ("p", "P")):
        for i in range(2):
            picture(tmp_path / directory / f"{i}.png", level, mode)
    for i in range(2):
        picture(tmp_path / "deep" / f"{i}.png", level.astype(np.uint16) * 257)
        picture(tmp_path / "cmyk" / f"{i}.jpg", level, "CMYK")
    channels = {d: folder(tmp_path / d).train.shape[0] for d in ("1", "la", "deep", "rgba", "p", "cmyk")}
    assert channels == {"1": 1, "la": 1, "deep": 1, "rgba": 3, "p": 3, "cmyk": 3}
    assert same(folder(tmp_path / "deep").train, level[None, None])
    assert same(folder(tmp_path / "rgba").train, np.stack([level] * 3)[None])


def test_photographs_stand_upright(tmp_path: Path) -> None:
    image = Image.fromarray(20 * np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for name in "ab":
        image.save(tmp_path / f"{name}.png", exif=exif)
    assert folder(tmp_path).train.shape == (1, 4, 3)


@pytest.mark.fault(27, "images of mixed sizes or channels", "both named, and the option that helps")
@pytest.mark.parametrize("other", [(4, 5), (5, 4), (4, 4, 3)])
def test_images_that_differ_are_both_named_with_the_way_out(
    random: Random, tmp_path: Path, other: tuple[int, ...]
) -> None:
    for name in ("a.png", "b.png", "d.png"):
        picture(tmp_path / name, grey(random, 4, 4))
    picture(tmp_path / "c.png", grey(random, *other))
    with pytest.raises(DataError) as refused:
        folder(tmp_path)
    message = screen(refused)
    assert str(tmp_path / "b.png") in message
    assert str(tmp_path / "c.png") in message
    assert "`--image-size 4`" in message
    assert folder(tmp_path, image_size=4).train.shape[1:] == (4, 4)


@pytest.mark.fault(27, "a truncated image", "named")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_image_is_named(random: Random, tmp_path: Path, suffix: str, damage: str) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.{suffix}", grey(random, 40, 40, 3))
    path = tmp_path / f"b.{suffix}"
    write(path, {"truncated": path.read_bytes()[:-400], "empty": b"", "text": b"no image"}[damage])
    with pytest.raises(DataError) as refused:
        folder(tmp_path)
    assert str(path) in screen(refused)


@pytest.mark.fault(27, "pixels of no known range", "refused")
def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.tiff", np.ones((4, 4), np.float32))
    with pytest.raises(DataError, match="floating-point"):
        folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no images"),
        (["notes.txt"], "has no images"),
        (["a/notes.txt"], "has no images"),
        ([".hidden.png"], "has no images"),
        (["only.png"], "one image"),
        (["a.png", "cats/b.png"], "in itself and in its sub-folders"),
        (["train/a.png", "train/b.png"], "no test/"),
        (["test/a.png", "other/b.png"], "no train/"),
        (["train/a.png", "test/notes.txt"], "has no images"),
        (["train/cat/a.png", "test/dog/b.png"], "the class 'dog'"),
        (["train/cat/a.png", "test/b.png"], "test/ has none"),
        (["train/a.png", "test/dog/b.png"], "the class 'dog'"),
    ],
)
def test_a_folder_that_is_no_dataset_is_explained(
    random: Random, tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        if name.endswith(".png"):
            picture(tmp_path / name, grey(random, 4, 4))
        else:
            write(tmp_path / name, b"text")
    with pytest.raises(DataError, match=message) as refused:
        folder(tmp_path)
    assert str(tmp_path) in screen(refused)


@pytest.mark.parametrize(
    "name", ["gone", "a\nb", "x" * 300, "nul\0byte", "~nobody-has-this-name/x", "é\udcff", "[a=1]"]
)
def test_a_folder_that_is_not_there_is_an_error_whatever_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as refused:
        folder(tmp_path / name)
    message = screen(refused)
    assert "a\nb" not in message
    assert message.encode()  # no lone surrogate that a terminal could not take


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    write(tmp_path / "x", b"")
    with pytest.raises(DataError, match="is a file, not a folder"):
        folder(tmp_path / "x")


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", deny)  # the tests may run as root, whom no mode stops
    with pytest.raises(DataError, match="can't be read") as refused:
        folder(tmp_path)
    assert "Permission denied" in screen(refused)


def test_odd_names_are_only_names(random: Random, tmp_path: Path) -> None:
    place = tmp_path / "a b, [c=1]:\n$(x)"
    for name in ("x..", "é", "new\nline", "-rf", "$(touch y)"):
        picture(place / name / "1.png", grey(random, 4, 4))
        picture(place / name / "2.png", grey(random, 4, 4))
    found = folder(place)
    assert len(found.train.classes) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == [place.name]


def npz(path: Path, **arrays: np.ndarray) -> Data:
    np.savez(path / "x.npz", **arrays)
    return load(f"npz:{path / 'x.npz'}", Path("/nowhere"))


@pytest.mark.parametrize(("train", "test"), [("x_train", "x_test"), ("train_images", "test_images"), ("train", "test")])
def test_arrays_with_splits(random: Random, tmp_path: Path, train: str, test: str) -> None:
    a, b = grey(random, 6, 5, 4), grey(random, 3, 5, 4)
    found = npz(tmp_path, **{train: a, test: b, "unrelated": np.zeros(3)})
    assert same(found.train, a[:, None])
    assert same(found.test, b[:, None])
    assert not found.train.labelled


@pytest.mark.parametrize("name", ["x", "images", "arr_0"])
def test_a_single_array_is_split_one_in_ten(random: Random, tmp_path: Path, name: str) -> None:
    array = grey(random, 20, 4, 4)
    found = npz(tmp_path, **{name: array})
    assert (len(found.train), len(found.test)) == (18, 2)
    both = torch.cat([pixels(found.train), pixels(found.test)])
    assert {image.numpy().tobytes() for image in both} == {image.tobytes() for image in array}
    assert npz(tmp_path, **{name: array}).test.digest == found.test.digest


def test_labels_of_arrays_become_classes(random: Random, tmp_path: Path) -> None:
    a, b = grey(random, 6, 4, 4), grey(random, 3, 4, 4)
    found = npz(
        tmp_path,
        x_train=a,
        x_test=b,
        y_train=np.array([7, 3, 3, 10, 7, 3]),
        y_test=np.array([[10], [3], [3]]),
    )
    assert found.train.classes == found.test.classes == ("3", "7", "10")
    assert found.train.labels().tolist() == [1, 0, 0, 2, 1, 0]
    assert found.test.labels().tolist() == [2, 0, 0]
    named = npz(tmp_path, x=grey(random, 20, 4, 4), y=np.array(["dog", "cat"] * 10))
    assert named.train.classes == ("cat", "dog")
    assert named.test.labels().bincount().tolist() == [1, 1]


def test_every_order_of_axes_and_every_float_gives_the_same_images(random: Random, tmp_path: Path) -> None:
    first = grey(random, 10, 3, 8, 6)
    expected = npz(tmp_path, x=first).train.digest
    assert npz(tmp_path, x=first.transpose(0, 2, 3, 1)).train.digest == expected
    for kind in (np.float16, np.float32, np.float64, ">f4"):
        assert npz(tmp_path, x=(first / 255).astype(kind)).train.digest == expected
    one = grey(random, 10, 8, 6)
    assert npz(tmp_path, x=one[:, None]).train.digest == npz(tmp_path, x=one[..., None]).train.digest
    assert npz(tmp_path, x=one).train.shape == (1, 8, 6)


X = np.zeros((10, 4, 4), np.uint8)


@pytest.mark.fault(27, "arrays that are no images: NaN, floats in 0..255, empty, ...", "explained; no silent cast")
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X.astype(complex)}, "type complex128"),
        ({"x": X + np.nan}, "NaN"),
        ({"x": X + np.inf}, "infinite"),
        ({"x": np.zeros((10, 16), np.uint8)}, "2 axes"),
        ({"x": np.zeros((10, 3, 5, 3), np.uint8)}, "channels first or channels last"),
        ({"x": np.zeros((10, 4, 5, 4), np.uint8)}, "neither 1 nor 3"),
        ({"x": X[:0]}, "empty"),
        ({"x": X[:1]}, "one image"),
        ({"x": X, "y": np.zeros(9, int)}, "10 images"),
        ({"x": X, "y": np.zeros((10, 14), int)}, "multi-label"),
        ({"x": X, "y": np.eye(14, dtype=int)[:10]}, "one-hot"),
        ({"x": X, "y": np.zeros((10, 2, 2), int)}, "10 images"),
        ({"x": X, "y": np.zeros(10)}, "float64"),
        ({"x_train": X}, "'x_train', and no test images"),
        ({"pixels": X}, "no images, only 'pixels'"),
        ({"x_train": X, "x_test": X[:, :3]}, "of shape"),
        ({"x_train": X, "x_test": X, "y_train": np.zeros(10, int)}, "no labels for the other split"),
        ({"x_train": X, "x_test": X, "y_train": np.zeros(10, int), "y_test": np.ones(10, int)}, "'1'"),
    ],
)
def test_arrays_that_are_no_images_are_explained(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match="can't be used") as refused:
        npz(tmp_path, **arrays)
    assert message in screen(refused)
    assert str(tmp_path / "x.npz") in str(refused.value)
    assert "(N, C, H, W)" in str(refused.value), "the way out"


class Tripwire:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (os.environ["TRIPWIRE"],)


@pytest.mark.fault(26, "a pickle in an npz archive", "never unpickled")
def test_nothing_in_an_archive_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPWIRE", str(tmp_path / "tripped"))
    with pytest.raises(DataError, match="can't be used"):
        npz(tmp_path, x=np.array([Tripwire()] * 10, dtype=object))
    assert not (tmp_path / "tripped").exists()


@pytest.mark.parametrize("damage", ["truncated", "inside", "empty", "text", "missing", "folder"])
def test_a_file_that_is_no_archive_is_named(random: Random, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=grey(random, 10, 8, 8))
    whole = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
    else:
        changed = whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]
        contents = {
            "truncated": whole[:-50],
            "inside": changed,
            "empty": b"",
            "text": b"no archive",
        }
        write(path, contents[damage])
    if damage == "folder":
        path.mkdir()
    with pytest.raises(DataError) as refused:
        load(f"npz:{path}", Path("/nowhere"))
    assert str(path) in screen(refused)


def test_every_dataset_says_what_it_is() -> None:
    for name in DATASETS:
        cls: type[Dataset] = DATASETS.load(name)
        assert 0 < len(cls.title) <= 90
        assert cls.license or not cls.files
