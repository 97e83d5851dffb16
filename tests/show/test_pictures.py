"""Pictures of trained models: what they show, pixel by pixel, and what a model that lacks an ability is told."""

from __future__ import annotations

import base64
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from bench import api
from bench.contracts import abilities
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.variant import VARIANTS, Spec, Variant
from bench.drawing.figures import CLASSES, SHAPES, Drawing, Mark, Tile, Words
from bench.drawing.pictures import DISTINCT, Scatter, Sheet, _mark
from bench.results.store import Run
from bench.running import job
from bench.show import views
from bench.show.views import TrainedCell
from bench.util.errors import UsageError
from tests.conftest import Bench, build, once
from tests.example_rows import row

SHAPE = (1, 2, 3)


class Plain(Variant):
    """An image is its own code."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return z.view(-1, *self.spec.shape).clamp(0, 1)


class Labelled(Plain):
    """Its images are their label's grey level, or that of the label that they are decoded with."""

    uses_labels = True

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return (y.float() / 10).view(-1, 1, 1, 1).expand(-1, *self.spec.shape)

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.decode(y, y)


class Coded(Plain):
    """Its codes are discrete."""

    codebook_size = 256

    def codes(self, x: Tensor) -> Tensor:
        return x.flatten(1).mul(255).round().to(torch.int32)


class Flat(Plain):
    """A code of the first `d` pixels."""

    d = 2

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.d]


def images(n: int, classes: Sequence[str] = ("a", "b", "c"), seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, *SHAPE), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % len(classes) if classes else None, tuple(classes))


def toy(model: type[Variant], n: int = 30, classes: Sequence[str] = ("a", "b", "c"), **about: Any) -> TrainedCell:
    """A model beside `n` test images of random pixels."""
    test = images(n, classes)
    data = Data("toy", images(10, classes, 1), test, test, 6, 1, "bernoulli")
    made = model(Spec(SHAPE, len(classes), 10, 6)).eval()
    cell = TrainedCell(Run("nowhere"), replace(row("toy"), dataset="toy", **about), made)
    cell.__dict__["data"] = data
    return cell


def of(cell: TrainedCell, image: Tensor) -> list[int]:
    """Where in the test split this image is."""
    pixels = cell.data.test.take(torch.arange(len(cell.data.test)))
    return (pixels == image).flatten(1).all(1).nonzero().flatten().tolist()


# what a view holds


def test_a_perfect_reconstruction_has_no_error() -> None:
    sheet = views.reconstructions(toy(Plain), 13)
    assert sheet.labels == ["image", "decoded", "error"] * 2
    for original, decoded, error in zip(sheet.rows[::3], sheet.rows[1::3], sheet.rows[2::3], strict=True):
        assert torch.equal(original, decoded)
        assert not error.any()
    assert sum(map(len, sheet.rows[::3])) == 13


def test_the_error_is_the_absolute_difference() -> None:
    sheet = views.reconstructions(toy(Labelled), 3, classes=["b"])
    original, decoded, error = (row_.long() for row_ in sheet.rows)
    assert decoded.unique().tolist() == [26]  # 0.1 in 255 levels
    assert torch.equal(error, (original - 26).abs())


def test_an_interpolation_is_a_straight_line_between_two_images_of_two_classes() -> None:
    cell = toy(Plain)
    sheet = views.interpolations(cell, 4)
    for strip, label in zip(sheet.rows, sheet.labels, strict=True):
        start, end = strip[0], strip[-1]
        t = torch.linspace(0, 1, views.STEPS).view(-1, 1, 1, 1)
        expected = torch.lerp(start.float()[None], end.float()[None], t)
        assert (strip[1:-1].float() - expected).abs().max() <= 0.51
        a, b = label.split(" to ")
        assert a != b
        assert [cell.classes[cell.data.test.labels()[of(cell, x)[0]]] for x in (start, end)] == [a, b]
    assert sheet.heads[0] == sheet.heads[-1] == "image"
    assert [float(h) for h in sheet.heads[1:-1]] == torch.linspace(0, 1, views.STEPS).tolist()


def test_an_interpolation_stays_in_a_class_or_goes_between_two() -> None:
    assert views.interpolations(toy(Plain), 3, classes=["b"]).labels == ["b to b"] * 3
    assert views.interpolations(toy(Plain), 3, classes=["c", "0"]).labels == ["c to a"] * 3


def test_a_conditional_decoder_is_given_the_label_of_the_nearer_end() -> None:
    (strip,) = views.interpolations(toy(Labelled), 1, classes=["a", "c"]).rows
    half = views.STEPS // 2
    assert strip[1:-1, 0, 0, 0].tolist() == [0] * half + [51] * (views.STEPS - half)


def test_a_traversal_moves_one_unit_by_its_own_spread() -> None:
    cell = toy(Plain)
    codes = cell.data.test.take(torch.arange(30)).flatten(1) / 255
    mean, sd = codes.mean(0), codes.std(0, unbiased=False)
    sheet = views.traversals(cell)
    assert len(sheet.rows) == 6
    order = [int(label[2]) for label in sheet.labels]
    assert order == sd.argsort(descending=True).tolist()
    for unit, strip in zip(order, sheet.rows, strict=True):
        base, moved = strip[0].flatten(), strip[1:].flatten(1)
        others = [i for i in range(6) if i != unit]
        assert torch.equal(moved[:, others], base[others].expand(len(moved), -1))
        expected = (mean[unit] + torch.linspace(-3, 3, len(moved)) * sd[unit]).clamp(0, 1) * 255
        assert (moved[:, unit] - expected).abs().max() <= 0.51
    assert sheet.heads[len(sheet.heads) // 2] == "mean"


def test_codes_of_two_dimensions_are_their_own_plane() -> None:
    cell = toy(Flat)
    found = views.plane(cell, 20, classes=["a", "c"])
    assert found.axes == ("z[0]", "z[1]")
    pixels, labels = cell.data.test.take(torch.arange(30)).flatten(1) / 255, cell.data.test.labels()
    for point, label in zip(found.points, found.labels, strict=True):
        (where,) = (pixels[:, :2] == point).all(1).nonzero().flatten().tolist()
        assert labels[where] == label
    assert set(found.labels.tolist()) == {0, 2}


def test_codes_of_more_dimensions_are_seen_along_their_principal_components() -> None:
    cell = toy(Plain, 200)
    found = views.plane(cell)
    codes = cell.data.test.take(torch.arange(200)).flatten(1).double() / 255
    values = torch.linalg.eigvalsh(torch.cov(codes.T)).flip(0)
    assert torch.allclose(found.points.double().var(0), values[:2], rtol=1e-4)
    assert found.axes[0] == f"PC 1 ({values[0] / values.sum():.0%} of variance)"
    assert abs(float(torch.corrcoef(found.points.T)[0, 1])) < 1e-5


def test_codes_that_are_all_the_same_have_a_plane_as_well() -> None:
    class Constant(Plain):
        def encode(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.ones(len(x), 6)

    found = views.plane(toy(Constant))
    assert not found.points.any()
    assert found.axes[0].startswith("PC 1")
    assert found.drawing().image()


def test_codes_of_one_dimension_stand_in_a_band_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flat, "d", 1)
    found = views.plane(toy(Flat), classes=["a", "c"])
    assert found.bands
    assert found.points[:, 1].round().tolist() == (found.labels > 0).float().tolist()
    marks = [p for p in found.drawing().parts if isinstance(p, Words) and p.text in ("a", "c")]
    assert [m.text for m in sorted(marks, key=lambda m: -m.y)] == ["a", "c"]


def test_samples_of_a_conditional_model_are_in_rows_by_class() -> None:
    sheet = views.samples(toy(Labelled), 15, classes=["c", "a"])
    assert list(sheet.labels) == ["c", "a"]
    assert [r.unique().tolist() for r in sheet.rows] == [[51], [0]]
    assert [len(r) for r in sheet.rows] == [8, 7]
    many = views.samples(toy(Labelled), 39)
    assert list(many.labels) == ["a", "", "b", "", "c", ""]


def test_codes_come_with_labels_and_places() -> None:
    cell = toy(Plain)
    found = views.encode(cell, classes=["b"])
    assert found.index.tolist() == list(range(1, 30, 3))
    assert found.labels.tolist() == [1] * 10
    assert torch.equal((found.codes * 255).round(), cell.data.test.take(found.index).flatten(1).float())
    discrete = views.encode(toy(Coded), split="train")
    assert discrete.codes.dtype == torch.int64
    assert torch.equal(discrete.codes, cell.data.train.take(torch.arange(10)).flatten(1).long())


def test_a_seed_repeats_a_picture_and_leaves_the_callers_random_numbers_alone(digits: Data) -> None:
    cell = real("vae", digits)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (torch.cat(list(views.samples(cell, 20, seed).rows)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# abilities


def real(selector: str, digits: Data) -> TrainedCell:
    """An untrained model of the suite's."""
    label = replace(row(selector), dataset="digits")
    cell = TrainedCell(Run("nowhere"), label, build(selector, digits).eval())
    cell.__dict__["data"] = digits
    return cell


VIEWS = {
    "samples": (views.samples, [abilities.Samples]),
    "reconstructions": (views.reconstructions, [abilities.Encodes, abilities.Decodes]),
    "interpolations": (views.interpolations, [abilities.Encodes, abilities.Decodes]),
    "traversals": (views.traversals, [abilities.Encodes, abilities.Decodes]),
    "codes": (views.plane, [abilities.Encodes]),
}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_each_variant_is_drawn_or_says_what_it_lacks(name: str, digits: Data) -> None:
    cell = real(name, digits)
    for what, (view, needs) in VIEWS.items():
        reasons = [abilities.why_not(cell.model, need) for need in needs]
        if what == "samples" and isinstance(cell.model, abilities.HoldsSamples):
            reasons = []
        if isinstance(cell.model, abilities.HasCodes) and what in ("interpolations", "traversals"):
            reasons = ["its codes are discrete: there is nothing between two of them"]
        lacking = next(filter(None, reasons), None)
        if lacking is None:
            drawing = view(cell).drawing()  # type: ignore[operator]
            assert len(drawing.parts) > 10
            assert cell.name in drawing.title
        else:
            with pytest.raises(UsageError) as caught:
                view(cell)  # type: ignore[operator]
            assert caught.value.what == f"{name} has no {what}"
            assert caught.value.cause.casefold() == f"{lacking.rstrip('.')}.".casefold()


@pytest.mark.parametrize(
    ("view", "model", "settings", "said"),
    [
        (views.samples, Labelled, {"classes": ["d"]}, "no class called 'd'"),
        (views.samples, Labelled, {"classes": ["3"]}, "--class 3 is out of range\ntoy has 3 classes, 0 to 2."),
        (views.samples, Labelled, {"n": 2000}, "--n 2,000 is too large for a picture"),
        (views.reconstructions, Plain, {"n": 31}, "toy has 30 images in this split, not 31"),
        (views.reconstructions, Plain, {"n": 11, "classes": ["a"]}, "toy has 10 images of class a in this split"),
        (views.interpolations, Plain, {"n": 11, "classes": ["a", "b"]}, "11 strips need 11 test images of each class"),
        (views.interpolations, Plain, {"classes": ["a", "b", "c"]}, "an interpolation has two ends"),
        (views.traversals, Plain, {"n": 7}, "toy has 6 units, not 7"),
        (views.encode, Plain, {"n": 31}, "toy has 30 images in this split, not 31"),
    ],
)
def test_what_cant_be_drawn_says_why(view: Any, model: type[Variant], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        view(toy(model), **settings)
    assert said in str(caught.value)


def test_data_without_labels_is_drawn_without_classes() -> None:
    cell = toy(Plain, classes=())
    marks = {p.colour for p in views.plane(cell).drawing().parts if isinstance(p, Mark)}
    assert marks == {"k0"}
    assert views.encode(cell).labels.tolist() == [-1] * 30
    for view in (views.reconstructions, views.interpolations, views.traversals, views.plane):
        assert view(cell).drawing().parts  # type: ignore[operator]
        with pytest.raises(UsageError, match="toy has no labels"):
            view(cell, classes=["a"])  # type: ignore[operator]


def test_classes_that_differ_in_their_case_alone_are_each_found() -> None:
    cell = toy(Labelled, classes=("A", "a", "b"))
    assert [views.samples(cell, 2, classes=[name]).labels for name in ("A", "a", "B")] == [["A"], ["a"], ["b"]]


def test_samples_by_class_are_of_the_classes_that_there_are() -> None:
    from bench.show.report.studio import _classes

    names = ("0", "1", "2", "4", "5")  # as of MNIST without its threes
    assert _classes(toy(Labelled, classes=names)).rows == names


def test_a_single_test_image_is_enough_for_what_needs_one() -> None:
    cell = toy(Plain, 1)
    assert len(views.reconstructions(cell).rows[0]) == 1
    assert len(views.traversals(cell).rows) == 6
    assert len(views.plane(cell).points) == 1
    with pytest.raises(UsageError, match="6 strips need 12 test images"):
        views.interpolations(cell)


# drawings

HOSTILE = ('<script>alert("1")</script>', "a & b's", "]]>", "\x1b[31mred\x00")


def drawings() -> list[Drawing]:
    colour = torch.randint(256, (7, 3, 5, 9), dtype=torch.uint8)
    grey = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    long = "a name that goes on and on, well beyond what anybody would call a class"
    labels = torch.arange(60) % 55
    points = torch.rand(60, 2) * 1e-3 - 5
    names = [*HOSTILE, long, *map(str, range(50))]
    return [
        Sheet(f"{long} · {long}", [colour, colour[:3]], [long, ""], [str(i) * 12 for i in range(7)]).drawing(),
        Sheet("small", [grey[:1]]).drawing(),
        Scatter(long, points, labels, names, (long, "z[1]")).drawing(),
        Scatter(long, points, labels % 3, names, ("z[0]", ""), bands=True).drawing(),
        Scatter(
            "far", torch.tensor([[7000.0, -123.4561], [7001.0, -123.4562]]), torch.tensor([-1, -1]), (), ("a", "b")
        ).drawing(),
        Scatter("one point", torch.zeros(1, 2), torch.tensor([-1]), (), ("z[0]", "z[1]")).drawing(),
    ]


@pytest.mark.parametrize("i", range(6))
def test_no_text_is_cut_and_none_lies_on_an_image(i: int) -> None:
    drawing = drawings()[i]
    tiles = [p for p in drawing.parts if isinstance(p, Tile)]
    for part in drawing.parts:
        if not isinstance(part, Words):
            continue
        width = ImageFont.load_default(part.size).getlength(" ".join(part.text.split()))
        low = part.x - {"start": 0.0, "middle": width / 2, "end": width}[part.anchor]
        assert low >= 0
        assert low + width <= drawing.width
        assert part.size <= part.y <= drawing.height
        for tile in tiles:
            beside = low + width <= tile.x or low >= tile.x + tile.picture.width * tile.scale
            assert beside or part.y <= tile.y or part.y - part.size >= tile.y + tile.picture.height * tile.scale


def test_an_image_is_shown_as_it_is_in_png_and_svg() -> None:
    shown = torch.randint(256, (3, 3, 5, 9), dtype=torch.uint8)
    drawing = Sheet("t", [shown[:2], shown[2:]]).drawing()
    tiles = [p for p in drawing.parts if isinstance(p, Tile)]
    whole = np.asarray(drawing.image())
    addresses = [e.get("href", "") for e in ET.fromstring(drawing.svg()).iter("{http://www.w3.org/2000/svg}image")]
    assert len(addresses) == 3
    for tile, image, address in zip(tiles, shown, addresses, strict=True):
        expected = image.permute(1, 2, 0).numpy()
        large = expected.repeat(tile.scale, 0).repeat(tile.scale, 1)
        h, w = large.shape[:2]
        assert np.array_equal(whole[tile.y : tile.y + h, tile.x : tile.x + w], large)
        decoded = Image.open(BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
        assert np.array_equal(np.asarray(decoded), expected)


def test_names_are_inert_text_in_svg() -> None:
    found = Scatter(HOSTILE[0], torch.rand(8, 2), torch.arange(8) % 4, HOSTILE, ("x", "y")).drawing().svg()
    root = ET.fromstring(found)  # well-formed, though a name had a control character
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds <= {"svg", "title", "rect", "text", "path", "circle", "polygon"}
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert set(HOSTILE[:3]) <= set(texts)


def test_classes_differ_for_the_colour_blind_too() -> None:
    """By Machado, Oliveira & Fernandes 2009: hues that come near each other, in Lab, have another shape."""
    assert len({(m.colour, m.shape) for m in map(_mark, range(DISTINCT))}) == DISTINCT
    seen = {
        "normal": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }
    levels = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASSES]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    for matrix in seen.values():
        lab = _lab((linear @ np.array(matrix).T).clip(0, 1))
        for a, b in combinations(range(len(CLASSES)), 2):
            far = float(np.linalg.norm(lab[a] - lab[b])) > 15
            assert far or _mark(a).shape != _mark(b).shape, (CLASSES[a], CLASSES[b])
    assert {_mark(c).shape for c in range(10)} == set(SHAPES)


def _lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


# from the command line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds of `vae` and one of `cvae`, hardly trained."""

    def make(folder: Path) -> None:
        settings: dict[str, Any] = {"steps": 2, "metrics": ("elbo",), "in_process": True, "threads": 1}
        settings |= {"sanity": False, "baseline": False, "out": str(folder / "run"), "progress": False}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "KEPT", ())  # no view needs evidence, and it takes the longest
            api.run(["vae"], "digits", seeds=2, **settings)
            api.run(["cvae"], "digits", **settings)

    return once(tmp_path_factory, "pictured", make) / "run"


def test_the_first_finished_cell_is_drawn_and_said(
    bench: Bench, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = bench("sample", finished)
    assert code == 0, err
    (written,) = tmp_path.iterdir()
    assert out.strip() == written.name
    assert written.name.startswith("sample-vae-digits-s0-")
    assert "the first of 3 finished cells" in err
    assert Image.open(written).format == "PNG"


@pytest.mark.parametrize(
    ("argv", "cell"),
    [
        (["{run}:cvae"], "cvae-digits-s0"),
        (["{run}", "--variant", "vae", "--cell-seed", "1"], "vae-digits-s1"),
        (["{run}/cells/vae-digits-s1"], "vae-digits-s1"),
        (["{run}/vae-digits-s1"], "vae-digits-s1"),
    ],
)
def test_a_cell_is_named_in_several_ways(
    bench: Bench, finished: Path, tmp_path: Path, argv: list[str], cell: str
) -> None:
    target = tmp_path / "x.svg"
    code, out, err = bench("reconstruct", *[a.format(run=finished) for a in argv], "--out", target, "--n", "2")
    assert (code, out.strip(), err) == (0, str(target), "")
    label, dataset, seed = cell.split("-")
    assert f"{label} · {dataset} · seed {seed[1]}" in target.read_text()


def test_codes_are_written_as_npz(bench: Bench, finished: Path, tmp_path: Path, digits: Data) -> None:
    target = tmp_path / "codes.npz"
    code, _, err = bench("encode", f"{finished}:vae", "--cell-seed", "0", "--out", target)
    assert code == 0, err
    assert "360 codes of 8 units" in err
    with np.load(target, allow_pickle=False) as found:
        assert found["index"].tolist() == list(range(360))
        assert found["labels"].tolist() == digits.test.labels().tolist()
        (folder,) = (finished / "cells").glob("vae-digits-s0-*")
        model: Any = api.load(folder)
        x = digits.test.take(torch.arange(360)).float() / 255
        with torch.no_grad():
            assert np.allclose(found["codes"], model.encode(x, digits.test.labels()).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["sample", "{run}:vea"], 2, "no variant in this run called 'vea'"),
        (["sample", "{run}:cvae", "--variant", "vae"], 2, "names a variant already"),
        (["sample", "{run}", "--cell-seed", "7"], 2, "no cell was trained with seed 7"),
        (["sample", "{run}/nothing"], 4, "no run and no cell lies at"),
        (["sample", "{run}:vae", "--class", "3"], 2, "vae doesn't draw by class"),
        (["latent", "{run}:vae", "--class", "11"], 2, "--class 11 is out of range"),
        (["latent", "{run}:vae", "--out", "x.jpg"], 2, "--out x.jpg ends in '.jpg'"),
        (["latent", "{run}:vae", "--out", "x"], 2, "--out x has no ending"),
        (["encode", "{run}:vae", "--out", "x.png"], 2, "ends in .npz"),
        (["sample", "{run}:vae", "--out", "{run}/no/where/x.png"], 4, "can't be written: No such file or directory"),
        (["sample", "{run}:vae", "--n", "0"], 2, "0 is not in the range"),
        (["sample", "{run}:vae", "--out", "{run}/run.json/x.svg"], 4, "can't be written"),
    ],
)
def test_a_mistake_is_one_screen(bench: Bench, finished: Path, argv: list[str], code: int, said: str) -> None:
    found, out, err = bench(*[a.format(run=finished) for a in argv])
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) <= 6
    assert "Traceback" not in err


def test_a_damaged_cell_isnt_drawn(bench: Bench, finished: Path, tmp_path: Path) -> None:
    (folder,) = (finished / "cells").glob("cvae-*")
    home = tmp_path / folder.name
    shutil.copytree(folder, home)
    target = tmp_path / "x.png"
    assert bench("sample", home, "--out", target)[0] == 0  # a cell that was copied out of its run
    weights = home / "done" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    code, _, err = bench("sample", home, "--out", target)
    assert code == 5
    assert "weights.safetensors has changed" in err


def test_a_cell_that_failed_says_how(bench: Bench, finished: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create(Run(finished).request())
    run.write_failed(replace(row("beta"), status="diverged", reason="non-finite loss at step 3", cell="beta-d-s0"), "")
    code, _, err = bench("sample", tmp_path / "run")
    assert code == 4
    assert "has no finished cell" in err
    assert "beta-d-s0: diverged: non-finite loss at step 3" in err
