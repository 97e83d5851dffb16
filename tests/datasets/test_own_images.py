"""Somebody's own arrays and pictures: what is white in them, what they're called, and what is told of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench.datasets import folder as folders
from PIL import Image

from bench import PixelScale, pixel_levels
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.protocol import RunRequest
from bench.contracts.scale import oddity
from bench.data import load, separate
from bench.running.outside import read_samples
from bench.running.planning import plan
from bench.util.arrays import open_arrays
from bench.util.errors import DataError, UsageError
from tests.conftest import Bench

NOWHERE = Path("/nowhere")
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 8, 8), np.uint8)
MASKS = RNG.integers(0, 2, (30, 8, 8), np.uint8)


def npz(path: Path, options: str = "", **arrays: Any) -> Data:
    np.savez(path / "x.npz", **arrays)
    return load(f"npz{options}:{path / 'x.npz'}", NOWHERE)


def pictures(path: Path, images: np.ndarray, mode: str | None = None) -> Path:
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        made = Image.fromarray(image)
        (made.convert(mode) if mode else made).save(path / f"{i:03}.png")
    return path


def folder(path: Path, options: str = "", **settings: Any) -> Data:
    return load(f"folder{options}:{path}", NOWHERE, **settings)


def pixels(images: Images) -> np.ndarray:
    return images.take(torch.arange(len(images))).numpy()


def everything(data: Data) -> list[bytes]:
    return sorted(image.tobytes() for split in (data.train, data.test) for image in pixels(split))


def levels(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


# what is white


@pytest.mark.fault(38, "images of 0 and 1 in whole numbers, as masks are", "black and white")
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, bool, np.float32])
def test_two_values_are_black_and_white_wherever_they_are_from(tmp_path: Path, kind: Any) -> None:
    expected = levels(255 * MASKS)
    assert everything(npz(tmp_path, x=MASKS.astype(kind))) == expected
    np.savez(tmp_path / "s.npz", samples=MASKS.astype(kind))
    assert levels(read_samples(tmp_path / "s.npz", (1, 8, 8), 99).pixels.numpy()) == expected
    if kind in (np.uint8, np.uint16):
        assert everything(folder(pictures(tmp_path / "p", MASKS.astype(kind)))) == expected
        samples = pictures(tmp_path / "s", MASKS)
        assert levels(read_samples(samples, (1, 8, 8), 99).pixels.numpy()) == expected


@pytest.mark.parametrize("values", [(0, 255), (-1, 1), (0, 4095), (0.0, 1 / 255)])
def test_other_pairs_are_black_and_white_too(tmp_path: Path, values: tuple[float, float]) -> None:
    array = np.where(MASKS == 1, values[1], values[0])
    assert everything(npz(tmp_path, x=array)) == levels(255 * MASKS)


def test_two_levels_that_are_in_their_range_stay_as_they_are(tmp_path: Path) -> None:
    assert everything(npz(tmp_path, x=100 * MASKS + 50)) == levels(100 * MASKS + 50)


@pytest.mark.fault(
    38, "pixels that were divided by 255 twice, or of 12 bits in a 16-bit file", "refused: what is white?"
)
@pytest.mark.parametrize(
    ("array", "seen", "white"),
    [
        (GREY / np.float32(255) ** 2, "float32, from 0 to 0.0039", 1 / 255),
        (GREY // 32, "uint8, from 0 to 7", 7),
        (GREY.astype(np.uint16) * 16 + 15, "uint16, from 15 to 4095", 4095),
        (GREY.astype(np.float32), "float32, from 0 to 255", 255),
    ],
)
def test_what_never_gets_far_is_refused_and_read_once_white_is_said(
    tmp_path: Path, array: np.ndarray, seen: str, white: float
) -> None:
    expected = levels(np.rint(array.astype(float) / white * 255).astype(np.uint8))
    with pytest.raises(DataError) as refused:
        npz(tmp_path, x=array)
    assert seen in refused.value.cause
    assert "npz[scale=" in refused.value.fix
    assert str(tmp_path / "x.npz") in refused.value.what
    assert everything(npz(tmp_path, f"[scale={white}]", x=array)) == expected
    np.savez(tmp_path / "s.npz", samples=array)
    with pytest.raises(DataError) as refused:
        read_samples(tmp_path / "s.npz", (1, 8, 8), 99)
    assert seen in refused.value.cause
    assert "--scale " in refused.value.fix
    assert levels(read_samples(tmp_path / "s.npz", (1, 8, 8), 99, white).pixels.numpy()) == expected


@pytest.mark.parametrize("size", ["", ",image_size=8"])
@pytest.mark.parametrize("few", [1_000, 0])
def test_pictures_of_twelve_bits_are_refused_and_read_once_white_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, size: str
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "FEW", few)
    deep = np.rint(GREY / 255 * 4095).astype(np.uint16)
    path = pictures(tmp_path / "p", deep)
    with pytest.raises(DataError) as refused:
        folder(path)
    assert "to 4095: none reaches a tenth of 65535" in refused.value.cause
    assert "folder[scale=4095]" in refused.value.fix
    assert everything(folder(path, f"[scale=4095{size}]")) == levels(GREY)
    with pytest.raises(DataError, match="values from") as refused:
        folder(path, "[scale=100]")
    assert "scale" in refused.value.fix


def test_masks_are_black_and_white_before_they_are_resized_and_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    ones, whites = pictures(tmp_path / "ones", MASKS), pictures(tmp_path / "whites", 255 * MASKS)
    expected = folder(whites, image_size=5).train.digest
    assert len(np.unique(pixels(folder(whites, image_size=5).train))) > 2
    assert folder(ones, image_size=5).train.digest == expected
    monkeypatch.setattr(folders, "FEW", 0)
    assert folder(ones, image_size=5).train.digest == folder(ones, image_size=5).train.digest == expected


def test_one_bright_picture_says_that_the_dark_ones_are_dark(tmp_path: Path) -> None:
    dark = GREY // 32
    dark[17, 0, 0] = 200
    assert everything(folder(pictures(tmp_path / "p", dark))) == levels(dark)


def test_splits_are_read_alike(tmp_path: Path) -> None:
    dark = npz(tmp_path, x_train=GREY, x_test=MASKS, x_val=MASKS)
    assert pixels(dark.test).max() == 1
    black = npz(tmp_path, x_train=MASKS, x_test=np.zeros_like(MASKS[:5]) + np.eye(8, dtype=np.uint8))
    assert np.unique(pixels(black.test)).tolist() == [0, 255]
    assert load(f"npz:{tmp_path / 'x.npz'}", NOWHERE, limit=1).test.digest == black.test.digest
    for split in ("train", "test"):
        pictures(tmp_path / "p" / split, GREY if split == "train" else MASKS)
    assert pixels(folder(tmp_path / "p").test).max() == 1


def test_floats_just_above_one_are_white(tmp_path: Path) -> None:
    array = (GREY / 255).astype(np.float32)
    array[array == 1] += np.float32(1e-6)
    assert everything(npz(tmp_path, x=array)) == levels(GREY)
    with pytest.raises(DataError):
        npz(tmp_path, x=array * 1.01)


def test_sixteen_bits_are_rounded_to_the_nearest_level() -> None:
    deep = np.arange(65_536)
    assert np.array_equal(PixelScale(0, 65_535).levels(deep), np.rint(deep / 257))


def test_types_of_different_range_are_told_apart() -> None:
    made = pixel_levels({"a": GREY, "b": GREY / 255}, None, of="x", option="{}")
    assert np.array_equal(made["a"], made["b"])


def test_scale_is_an_option_of_score(bench: Bench, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", samples=RNG.integers(0, 17, (50, 8, 8)))
    asked = ("score", tmp_path / "s.npz", "--dataset", "digits", "--metrics", "blur", "--out", tmp_path / "run")
    code, _, said = bench(*asked)
    assert (code, "--scale 16" in said) == (2, True)
    assert bench(*asked, "--scale", 16)[0] == 0


# what they're called


@pytest.mark.fault(38, "labels under another usual name than their images", "used; arrays that go unused are named")
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_train x_test", "train_labels test_labels"),
        ("X_train X_test", "y_train y_test"),
        ("train_x test_x", "train_y test_y"),
        ("train test", "train_target test_target"),
        ("imgs_train imgs_test", "targets_train targets_test"),
        ("train_data test_data", "train_label test_label"),
        ("trainX testX", "trainY testY"),
        ("x", "labels"),
        ("X", "y"),
        ("imgs", "target"),
        ("data", "targets"),
        ("images", "y"),
        ("arr_0", "arr_1"),
    ],
)
def test_labels_are_found_by_their_usual_names(tmp_path: Path, images: str, labels: str) -> None:
    y = np.arange(30) % 3
    arrays = {name: np.roll(GREY, i, axis=1) for i, name in enumerate(images.split())}
    found = npz(tmp_path, **arrays, **dict.fromkeys(labels.split(), y[:, None]))
    assert found.train.classes == found.test.classes == ("0", "1", "2")
    assert found.notes == ()


def test_arrays_of_medical_mnist_have_a_validation_split(tmp_path: Path) -> None:
    sizes = {"train": 20, "val": 6, "test": 4}
    colour = RNG.integers(0, 256, (30, 8, 8, 3), np.uint8)
    arrays = {f"{split}_images": np.roll(colour, n % 5, axis=1)[:n] for split, n in sizes.items()}
    arrays |= {f"{split}_labels": (np.arange(n) % 2)[:, None] for split, n in sizes.items()}
    np.savez(tmp_path / "x.npz", **arrays)
    name = f"npz:{tmp_path / 'x.npz'}"
    data, held = load(name, NOWHERE), load(name, NOWHERE, split="validation")
    assert [len(split) for split in (data.train, data.test, held.train, held.test)] == [20, 4, 20, 6]
    assert np.array_equal(pixels(held.test), arrays["val_images"].transpose(0, 3, 1, 2))
    assert held.test.classes == data.train.classes == ("0", "1")
    assert (data.notes, held.own_validation) == ((), True)
    request = RunRequest(("beta[beta=1|4]",), (name,), steps=1, baseline=False, sanity=False, out=str(tmp_path / "r"))
    planned = plan(request)
    assert planned.cells[0].row.data["train_images"] == 20
    assert "scored on 6 validation images, which the dataset has as a split of its own" in " ".join(planned.notes)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"meta": np.zeros(3)}, "'meta' is unused"),
        ({"x_train": GREY, "latents": np.zeros((30, 2))}, "'x_train', 'latents' are unused, and 'x', 'y' used"),
        ({"x_val": GREY[:, :7]}, "'x_val' is unused"),
        ({"x_val": GREY}, "x_val has no labels"),
        ({"x_val": GREY, "y_val": np.full(30, 7)}, "y_val has '7', which no training image has"),
    ],
)
def test_arrays_that_go_unused_are_named(tmp_path: Path, extra: dict[str, np.ndarray], says: str) -> None:
    found = npz(tmp_path, x=GREY, y=np.arange(30) % 3, **extra)
    assert says in "\n".join(found.notes)
    assert (len(found.train) + len(found.test), found.own_validation) == (30, False)
    request = RunRequest(("vae",), (found.name,), steps=1, out=str(tmp_path / "run"))
    assert set(found.notes) <= set(plan(request).notes)


def test_a_single_array_is_a_dataset(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GREY)
    assert everything(load(f"npz:{tmp_path / 'x.npy'}", NOWHERE)) == levels(GREY)


# transparency, and what is told


@pytest.mark.fault(38, "pictures whose ink lies in the alpha channel", "on white, or the background that is asked for")
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_ink_in_the_alpha_channel_lies_on_white(tmp_path: Path, mode: str) -> None:
    channels = len(mode) - 1
    ink = np.concatenate([np.zeros((30, 8, 8, channels), np.uint8), GREY[..., None]], axis=3)
    path = pictures(tmp_path / "p", ink)
    expected = np.stack([255 - GREY] * channels, axis=1)
    assert everything(folder(path)) == levels(expected)
    assert folder(path).notes == ()
    black = folder(path, "[background=black]")
    assert all(note.endswith("is 0 of 255") for note in black.notes)
    assert len(black.notes) == 2
    white = np.concatenate([np.full((30, 8, 8, channels), 255, np.uint8), GREY[..., None]], axis=3)
    assert everything(folder(pictures(tmp_path / "w", white), "[background=black]")) == levels(255 - expected)


def test_opaque_pictures_are_as_they_were(tmp_path: Path) -> None:
    assert everything(folder(pictures(tmp_path / "p", GREY, "RGBA"))) == levels(np.stack([GREY] * 3, axis=1))
    with pytest.raises(DataError, match="which value"):
        folder(pictures(tmp_path / "dark", GREY // 32, "RGBA"))


def test_a_transparent_colour_of_a_palette_shows_the_background(tmp_path: Path) -> None:
    for i, image in enumerate(GREY[:3]):
        made = Image.fromarray(image).quantize(4)
        made.save(tmp_path / f"{i}.png", transparency=0)
    index = np.asarray(made)
    found = {image.tobytes() for image in pixels(folder(tmp_path).train)} | {
        image.tobytes() for image in pixels(folder(tmp_path).test)
    }
    expected = np.array(made.convert("RGB"))
    expected[index == 0] = 255
    assert np.ascontiguousarray(expected.transpose(2, 0, 1)).tobytes() in found


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((20, 1, 4, 4), np.uint8), "every pixel of its 20 images is 0 of 255"),
        (np.full((20, 1, 4, 4), 255, np.uint8), "every pixel of its 20 images is 255 of 255"),
        (np.stack([GREY[:1]] * 20), "its 20 images are all the same"),
        (GREY[:, None] // 3, "the brightest pixel of its 30 images is 85 of 255"),
        (GREY[:, None], ""),
        (GREY[:1, None], ""),
    ],
)
def test_what_is_odd_about_pixels_is_said_in_a_line(array: np.ndarray, says: str) -> None:
    assert oddity(Images(array)) == says


def test_a_dim_set_and_dim_samples_are_told(bench: Bench, tmp_path: Path) -> None:
    dim = npz(tmp_path, x=GREY // 3)
    assert dim.notes[0] == f"{dim.name}, train: the brightest pixel of its 27 images is 85 of 255"
    planned = plan(RunRequest(("vae",), (dim.name,), steps=1, out=str(tmp_path / "r")))
    assert set(dim.notes) <= set(planned.notes)
    np.savez(tmp_path / "s.npz", samples=np.zeros((50, 8, 8), np.uint8))
    asked = ("--dataset", "digits", "--metrics", "blur", "--out", tmp_path / "run")
    code, _, said = bench("score", tmp_path / "s.npz", *asked)
    assert (code, "samples: every pixel of its 50 images is 0 of 255" in said) == (0, True)


# how they're asked for


def test_commas_of_a_path_that_is_there_are_part_of_it(tmp_path: Path) -> None:
    for name in ("a,b", "a", "k=v,[1]", "m[x"):
        (tmp_path / name).mkdir()
    for path in (tmp_path / "a,b", tmp_path / "k=v,[1]", tmp_path / "m[x"):
        assert separate(f"mnist[drop=1-2,binary=static], folder:{path},digits") == [
            "mnist[drop=1-2,binary=static]",
            f"folder:{path}",
            "digits",
        ]
    assert separate(f"folder[image_size=8,scale=1]:{tmp_path / 'a,b'} as x,folder:{tmp_path / 'a'}") == [
        f"folder[image_size=8,scale=1]:{tmp_path / 'a,b'} as x",
        f"folder:{tmp_path / 'a'}",
    ]
    assert separate("folder:/none,digits") == ["folder:/none", "digits"]
    assert separate("") == []
    with pytest.raises(UsageError, match="brackets"):
        separate("mnist[drop=1,digits")


@pytest.mark.fault(39, "a bare path in the place of a dataset", "what to write before it")
@pytest.mark.parametrize(("name", "asked"), [("my-images", "folder"), ("x.npz", "npz"), ("x.npy", "npz")])
def test_a_bare_path_is_told_what_reads_it(bench: Bench, tmp_path: Path, name: str, asked: str) -> None:
    path = tmp_path / name
    for there in (False, True):
        if there:
            path.mkdir() if asked == "folder" else path.touch()
        code, _, said = bench("run", "--variants", "vae", "--dataset", path, "--dry-run")
        assert (code, f"{asked}:{path}" in said.replace("\n", "")) == (2, True)
    with pytest.raises(UsageError) as refused:
        load("my-images", NOWHERE)
    assert "folder:" not in str(refused.value)


def test_commas_are_mentioned_where_blanks_stand_for_them(bench: Bench) -> None:
    for names, hint, told in (
        (("run", "--variants", "vae beta"), "vae,beta", True),
        (("run", "--variants", "vae", "beta"), "commas", True),
        (("data", "clear", "beta"), "commas", False),
    ):
        code, _, said = bench(*names)
        assert (code, hint in said) == (2, told)


@pytest.mark.fault(39, "a text file, or a file of torch.save, called .npz", "said; never 'allow_pickle'")
@pytest.mark.parametrize("old", [False, True])
def test_files_that_are_no_arrays_say_what_they_are(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "x.npz"
    torch.save({"x": torch.zeros(3)}, path, _use_new_zipfile_serialization=not old)
    for read in (lambda: load(f"npz:{path}", NOWHERE), lambda: read_samples(path, (1, 8, 8), 9)):
        with pytest.raises(DataError) as refused:
            read()
        assert "torch.save" in refused.value.cause
    path.write_text("no numbers")
    for read in (lambda: load(f"npz:{path}", NOWHERE), lambda: read_samples(path, (1, 8, 8), 9)):
        with pytest.raises(DataError) as refused:
            read()
        assert "allow_pickle" not in str(refused.value)
        assert ".npz or .npy" in refused.value.cause


def test_objects_in_an_archive_are_said_to_be_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}] * 10, dtype=object))
    with open_arrays(tmp_path / "x.npz") as arrays, pytest.raises(ValueError, match="nothing is unpickled"):
        arrays["x"]
    with pytest.raises(DataError) as refused:
        load(f"npz:{tmp_path / 'x.npz'}", NOWHERE)
    assert "allow_pickle" not in str(refused.value)


@pytest.mark.fault(39, "a picture of more pixels than Pillow opens", "called too large, and not damaged")
def test_a_huge_picture_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures(tmp_path / "p", GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # of 64: Pillow warns
        assert everything(folder(path)) == levels(GREY)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow refuses
        with pytest.raises(DataError) as refused:
            folder(path)
    said = str(refused.value)
    assert "too large" in said
    assert "000.png" in said
    assert "damaged" not in said
    for limit in (40, 30):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError) as refused:
            read_samples(path, (1, 8, 8), 9)
        assert "pixels" in refused.value.cause
        assert "bomb" not in str(refused.value)
