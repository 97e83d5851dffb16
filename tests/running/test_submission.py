"""`bench score`: samples and bounds from files as a row, and what of a file is refused."""

from __future__ import annotations

import csv
import itertools
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.cli import main
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.likelihood import Likelihood, likelihood
from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.engine.evaluator import Evaluator
from bench.evidence import BoundTerms
from bench.results.store import Run
from bench.running.outside import check_bounds, read_bounds, read_samples
from bench.running.submission import Feedback, Submission
from bench.running.submission import submit as submitted
from bench.util.errors import BenchError, DataError, NotAvailable, UsageError
from tests.conftest import Bench, scored, trained

SHAPE = (1, 8, 8)


def submit(samples: Path, dataset: str, feedback: Feedback | None = None, **settings: Any) -> tuple[Row, Run]:
    return submitted(Submission(samples, dataset, **settings), feedback)


def some(n: int = 30, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def pictures(folder: Path, pixels: np.ndarray, mode: str = "L") -> Path:
    """(N, 1, H, W) as .png files."""
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image[0]).convert(mode).save(folder / f"{i:05}.png")
    return folder


# reading


@pytest.mark.parametrize("layout", ["N H W", "N H W C", "N C H W"])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_every_layout_and_type_is_the_same_images(
    layout: str, kind: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    pixels = some(20, shape)
    array = (pixels / 255 if "float" in kind else pixels).astype(kind)
    if layout == "N H W":
        if shape[0] == 3:
            return
        array = array[:, 0]
    elif layout == "N H W C":
        array = np.moveaxis(array, 1, -1)
    found = read_samples(saved(tmp_path / "x.npz", samples=array), shape, 100)
    assert found.of == 20
    assert found.pixels.numpy().tolist() == pixels.tolist()


def test_floats_are_rounded_and_not_truncated(tmp_path: Path) -> None:
    level = np.full((1, 8, 8), 0.5019, dtype=np.float32)  # 127.98
    assert read_samples(saved(tmp_path / "x.npz", samples=level), SHAPE, 9).pixels.unique().tolist() == [128]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_arithmetics_overshoot_is_black_or_white(kind: str, tmp_path: Path) -> None:
    pixels = np.array([-9e-4, -1e-6, 0, 1, 1 + 1e-6, 1 + 9e-4, 0.5, 0.5], dtype=kind).repeat(8).reshape(1, 8, 8)
    found = read_samples(saved(tmp_path / "x.npz", samples=pixels), SHAPE, 9).pixels[0, 0, :, 0]
    assert found.tolist() == [0, 0, 0, 255, 255, 255, 128, 128]


def test_more_than_overshoot_is_refused_with_its_digits(tmp_path: Path) -> None:
    level = np.full((1, 8, 8), 1.0010001)
    with pytest.raises(DataError, match=r"from 1\.0010001 to 1\.0010001, .* 0 to 1"):
        read_samples(saved(tmp_path / "x.npz", samples=level), SHAPE, 9)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_three_equal_channels_are_a_grey_image(axis: int, kind: str, tmp_path: Path) -> None:
    pixels = some()
    array = (pixels / 255 if kind == "float32" else pixels).astype(kind).repeat(3, 1)
    path = saved(tmp_path / "x.npz", samples=np.moveaxis(array, 1, axis))
    assert np.array_equal(read_samples(path, SHAPE, 99).pixels, pixels)
    array[7, 2, 0, 0] = not array[7, 1, 0, 0]  # blue alone, of one pixel
    with pytest.raises(DataError, match="3 channels that differ"):
        read_samples(saved(path, samples=np.moveaxis(array, 1, axis)), SHAPE, 99)


def test_an_array_is_found_by_name_or_by_being_alone(tmp_path: Path) -> None:
    a, b = some(seed=1), some(seed=2)
    labels = np.zeros(30)
    for arrays in ({"samples": a, "other": b}, {"arr_0": a, "arr_1": labels}, {"whatever": a}):
        assert np.array_equal(read_samples(saved(tmp_path / "x.npz", **arrays), SHAPE, 99).pixels, a)
    np.save(tmp_path / "x.npy", a)
    assert np.array_equal(read_samples(tmp_path / "x.npy", SHAPE, 99).pixels, a)


def test_a_folder_of_pictures_is_the_same_images(tmp_path: Path) -> None:
    pixels = some()
    for mode in ("L", "RGB"):  # torchvision writes grey images as RGB
        assert np.array_equal(read_samples(pictures(tmp_path / mode, pixels, mode), SHAPE, 99).pixels, pixels)
    (tmp_path / "L" / "notes.txt").write_text("no picture")
    (tmp_path / "L" / "deeper").mkdir()
    assert read_samples(tmp_path / "L", SHAPE, 99).of == 30


def test_of_too_many_the_same_ones_are_drawn_each_time(tmp_path: Path) -> None:
    pixels = np.arange(200, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    path = saved(tmp_path / "x.npz", samples=pixels)
    found = read_samples(path, SHAPE, 50)
    chosen = found.pixels[:, 0, 0, 0].tolist()
    assert (found.of, len(set(chosen))) == (200, 50)
    assert chosen != list(range(50)), "a file may be sorted by class"
    assert chosen == read_samples(path, SHAPE, 50).pixels[:, 0, 0, 0].tolist()
    from_folder = read_samples(pictures(tmp_path / "folder", pixels), SHAPE, 50)
    assert from_folder.pixels[:, 0, 0, 0].tolist() == chosen


class Harm:
    def __reduce__(self) -> object:
        raise AssertionError("unpickled")


def objects(path: Path) -> Path:
    array = np.empty(2, dtype=object)
    array[:] = [{}, []]
    np.savez(path, samples=array, allow_pickle=True)
    return path


def text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def png(folder: Path, content: bytes) -> Path:
    text(pictures(folder, some(2)) / "00001.png", content)
    return folder


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none.npz", "no such file"),
    "wrong size": (lambda p: saved(p / "x.npz", samples=some(5, (1, 9, 8))), "shape is (5, 1, 9, 8)"),
    "wrong channels": (lambda p: saved(p / "x.npz", samples=some(5, (3, 8, 8))), "3 channels that differ"),
    "four channels": (lambda p: saved(p / "x.npz", samples=some(5, (4, 8, 8))), "shape is (5, 4, 8, 8)"),
    "flat": (lambda p: saved(p / "x.npz", samples=some(5).reshape(5, 64)), "shape is (5, 64)"),
    "no samples": (lambda p: saved(p / "x.npz", samples=some(0)), "no samples"),
    "above 1": (lambda p: saved(p / "x.npz", samples=some() / 100), "--scale"),
    "below 0": (lambda p: saved(p / "x.npz", samples=some() / 127.5 - 1), "float64, from -1"),
    "above 255": (lambda p: saved(p / "x.npz", samples=some().astype(int) + 9), "--scale 264"),
    "dark": (lambda p: saved(p / "x.npz", samples=some() // 16), "--scale 15"),
    "darker": (lambda p: saved(p / "x.npz", samples=some() / 255**2), "--scale 0.0039"),
    "NaN": (lambda p: saved(p / "x.npz", samples=np.full((2, 8, 8), np.nan)), "NaN"),
    "infinite": (lambda p: saved(p / "x.npz", samples=np.full((2, 8, 8), np.inf)), "NaN or infinite"),
    "complex": (lambda p: saved(p / "x.npz", samples=some() + 0j), "complex128"),
    "text": (lambda p: saved(p / "x.npz", samples=np.full((2, 8, 8), "a")), "<U1"),
    "objects": (lambda p: objects(p / "x.npz"), "nothing is unpickled"),
    "a pickle": (lambda p: text(p / "x.npz", pickle.dumps(Harm)), "no .npz or .npy file"),
    "no archive": (lambda p: text(p / "x.npz", b"PK\x03\x04" + b"\0" * 50), ""),
    "two arrays": (lambda p: saved(p / "x.npz", a=some(), b=some()), "which of its arrays"),
    "an empty folder": (lambda p: p, "no .png files"),
    "a torn picture": (lambda p: png(p / "d", b"\x89PNG\r\n\x1a\n broken"), "'00001.png'"),
    "no picture": (lambda p: png(p / "d", b"<html>"), "'00001.png'"),
    "pictures of another size": (lambda p: pictures(p / "d", some(2, (1, 8, 9))), "9 wide and 8 high"),
    "pictures with transparency": (lambda p: pictures(p / "d", some(2), "RGBA"), "mode is RGBA"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_holds_no_samples_is_refused(case: str, tmp_path: Path) -> None:
    make, says = BAD[case]
    with pytest.raises(DataError) as caught:
        read_samples(make(tmp_path), SHAPE, 100)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 3


def test_pictures_in_colour_are_no_grey_images(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.fromarray(np.moveaxis(some(1, (3, 8, 8))[0], 0, -1)).save(tmp_path / "d" / "a.png")
    with pytest.raises(DataError, match=r"'a\.png': it has 3 channels that differ"):
        read_samples(tmp_path / "d", SHAPE, 9)
    pictures(tmp_path / "grey", some(1))
    with pytest.raises(DataError, match="1 channels"):
        read_samples(tmp_path / "grey", (3, 8, 8), 9)


def test_bounds_are_read_as_they_are(tmp_path: Path) -> None:
    a, b = np.linspace(-9, -8, 5), np.linspace(1, 2, 5)
    lines = "\n".join(f"{i},{x!r},{y!r}" for i, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)))
    (tmp_path / "b.csv").write_text(f"\ufeffimage, log_likelihood ,rate\n{lines}\n\n", encoding="utf-8")
    for path in (saved(tmp_path / "b.npz", log_likelihood=a, rate=b, elbo=a - b), tmp_path / "b.csv"):
        terms = read_bounds(path, 5)
        assert (terms.log_likelihood.tolist(), terms.rate.tolist()) == (a.tolist(), b.tolist())


def test_of_the_bound_alone_no_half_is_known(tmp_path: Path) -> None:
    terms = read_bounds(saved(tmp_path / "b.npz", elbo=np.arange(5.0)), 5)
    assert terms.elbo.tolist() == [0, 1, 2, 3, 4]
    for half in ("log_likelihood", "rate"):
        with pytest.raises(NotAvailable, match="ELBO alone"):
            getattr(terms, half)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"elbo": np.zeros(4)}, "shape (4,), and there are 5 test images"),
        ({"elbo": np.zeros((5, 1))}, "shape (5, 1)"),
        ({"elbo": np.array([0, 0, np.nan, 0, 0])}, "NaN"),
        ({"elbo": np.array([0, 0, 0, np.nan, -np.inf])}, "in 2 of 5 images, first in 3"),
        ({"elbo": np.array(list("abcde"))}, "`elbo`: could not convert"),
        ({"rate": np.zeros(5)}, "neither `elbo` nor"),
        ({"elbo": np.zeros(5), "log_likelihood": np.zeros(5), "rate": np.ones(5)}, "isn't `log_likelihood` - `rate`"),
    ],
)
def test_bounds_that_are_none_are_refused(arrays: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_bounds(saved(tmp_path / "b.npz", **arrays), 5)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "neither `elbo` nor"),
        ("1\n2\n3\n4\n5\n", "neither `elbo` nor"),
        ("i;elbo\n0;1\n", "but 'i;elbo'"),
        ("elbo\n1\n2,3\n", "line 3 has 2 fields"),
        ("elbo\n1\nx\n3\n4\n5\n", "`elbo`: could not convert string to float"),
        ("elbo,elbo\n1,2\n3,4\n", "its first line names a column twice"),
        ("i,elbo\n0,1\n\n1,\n2,3\n", "`elbo`: could not convert"),  # a blank line is passed over
        ("elbo,rate,log_likelihood\n" + "1,x,1\n" * 5, "`rate`: could not convert"),
        ("elbo\n1\n2\nnan\n4\n5\n", "first in 2"),
    ],
)
def test_a_csv_that_is_none_is_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        read_bounds(tmp_path / "b.csv", 5)
    assert says in str(caught.value)


# bounds that can't be

PIXELS = torch.from_numpy(some(40, seed=3))
GREY, BINARY = Images(PIXELS), Images((PIXELS > 127).to(torch.uint8) * 255)


def check(images: Images, text: str | None, half: torch.Tensor, rate: torch.Tensor) -> None:
    check_bounds(Path(), BoundTerms(half.double(), rate.double()), images, text)


def entropy(images: Images) -> torch.Tensor:
    """Of pixels as probabilities, summed: (N,)."""
    x = images.take(torch.arange(len(images))).double() / 255
    return torch.distributions.Bernoulli(x).entropy().flatten(1).sum(1)


def limits(images: Images) -> dict[str, torch.Tensor]:
    """What log p(x|z) comes to at most, in closed form, by likelihood."""
    no, constant = torch.zeros(len(images), dtype=torch.float64), 64 * 0.5 * math.log(2 * math.pi)
    return {
        "bernoulli": -entropy(images),
        "logistic": no,
        "gaussian": no - constant,
        "gaussian[sigma=0.1]": no - constant + 64 * math.log(10),
    }


@pytest.mark.parametrize("images", [GREY, BINARY], ids=["grey", "binary"])
@pytest.mark.parametrize("text", limits(GREY))
def test_a_log_likelihood_above_that_of_the_image_itself_is_refused(text: str, images: Images) -> None:
    most, rate = limits(images)[text], torch.full((40,), 3.0)
    check(images, text, most, rate)
    over = most.clone()
    over[17] += 0.02
    with pytest.raises(
        DataError, match=r"`log_likelihood` is above what .* allows in \d+ of 40 images: .* of image 17,"
    ):
        check(images, text, over, rate)
    check(images, None, over, rate)  # of a density, say


@pytest.mark.parametrize("text", limits(GREY))
def test_no_decoder_reaches_beyond_that_limit(text: str) -> None:
    x, generator = GREY.take(torch.arange(40)).double() / 255, torch.Generator().manual_seed(0)
    made: Likelihood = likelihood(text, SHAPE)
    for scale in (0, 0.1, 1, 10):
        for near in (x, torch.logit(x, 1e-3), torch.zeros_like(x)):
            out = near + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            check(GREY, text, made.log_prob(x, out).detach(), torch.zeros(40))


@pytest.mark.parametrize("text", ["continuous_bernoulli", "gaussian[learned=true]"])
def test_densities_without_a_limit_are_not_judged(text: str) -> None:
    check(BINARY, text, torch.full((40,), 1e4), torch.zeros(40))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda elbo: -elbo, "in 40 of 40 images"),
        (lambda elbo: elbo / 64, "in 40 of 40 images"),
        (lambda elbo: elbo.where(torch.arange(40) != 17, elbo + 100), "in 1 of 40 images: .* of image 17,"),
    ],
    ids=["a loss", "a mean over pixels", "one image"],
)
def test_an_elbo_above_the_pixels_entropy_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], says: str, tmp_path: Path
) -> None:
    right = -entropy(GREY) - 20
    path = saved(tmp_path / "b.npz", elbo=right.numpy())
    check_bounds(path, read_bounds(path, 40), GREY, "bernoulli")
    terms = read_bounds(saved(path, elbo=change(right).numpy()), 40)
    check_bounds(path, terms, GREY, None)  # of a density, say
    with pytest.raises(DataError, match=f"`elbo` is above what bernoulli allows {says}") as caught:
        check_bounds(path, terms, GREY, "bernoulli")
    assert (caught.value.exit_code, len(str(caught.value).splitlines())) == (2, 3)


def test_a_rate_below_0_is_refused_and_that_of_single_draws_is_not() -> None:
    half = torch.full((40,), -1e3)
    for text in ("bernoulli", None):
        with pytest.raises(DataError, match="`rate` is below what a KL can be in 40 of 40 images: -2 nats"):
            check(GREY, text, half, torch.full((40,), -2.0))
    check(GREY, "bernoulli", half, torch.full((40,), -5e-4))  # a collapsed posterior's, in few bits
    images, normal = Images(torch.zeros(2000, 1, 1, 1, dtype=torch.uint8)), torch.distributions.Normal
    for i, (m, s) in enumerate([(0.02, 1.0), (0.0, 0.8), (0.1, 0.99), (1.0, 0.5)] * 25):
        generator = torch.Generator().manual_seed(i)
        z = m + s * torch.randn(2000, generator=generator, dtype=torch.float64)
        rate = normal(m, s).log_prob(z) - normal(0, 1).log_prob(z)  # log q(z) - log p(z) at one draw from q
        assert float(rate.min()) < -0.01
        check(images, None, torch.zeros(2000), rate)


# the row

METRICS = ("elbo", "kl", "bce", "fd", "sharpness", "modes", "linear_probe")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images of digits as somebody's samples."""
    from bench.data import load

    train = load("digits", Path()).train
    return saved(tmp_path_factory.mktemp("mine") / "mine.npz", samples=train.take(torch.arange(len(train))).numpy())


def value(row: Row, name: str) -> float:
    score = row.scores[name]
    assert isinstance(score, Score), score
    return score.value


def test_the_row_is_scored_as_any_other(copies: Path, digits: Data, tmp_path: Path) -> None:
    bound = np.linspace(-30, -20, len(digits.test))
    row, run = submit(
        copies, "digits", bounds=saved(tmp_path / "b.npz", elbo=bound), metrics=METRICS, out=tmp_path / "run",
        device="cpu",
    )  # fmt: skip
    known = scored(trained("real", digits, 1), digits, "fd", "sharpness", "modes")  # the same images, in another order
    assert {name: value(row, name) for name in known} == pytest.approx(known, rel=1e-6, abs=1e-6)
    assert value(row, "elbo") == pytest.approx(bound.mean())
    assert row.scores["elbo"].n == len(digits.test)  # type: ignore[union-attr]
    assert "ELBO alone" in str(row.scores["kl"])
    assert "ELBO alone" in str(row.scores["bce"])
    assert "no model that can be asked" in str(row.scores["linear_probe"])

    assert (row.label, row.likelihood, row.steps, dict(row.training)) == ("mine", "unknown", (), {})
    assert row.plugin["distribution"] == "samples from a file"
    kept = {path.name for path in (run.cells / row.cell / "done").iterdir()}
    assert {"cell.json", "SHA256SUMS", "samples.png", "evidence.safetensors", "weights.safetensors"} <= kept
    assert run.damage(row.cell) == []
    assert [other.cell for other in Run(run.path).rows()] == [row.cell]
    assert (run.path / "table.csv").is_file()


def test_halves_of_a_known_likelihood_have_their_metrics(copies: Path, digits: Data, tmp_path: Path) -> None:
    n = len(digits.test)
    bounds = saved(tmp_path / "b.npz", log_likelihood=np.full(n, -20.0), rate=np.full(n, 3.0))
    row, _ = submit(
        copies, "digits", bounds=bounds, likelihood="bernoulli", metrics=METRICS, out=tmp_path / "run", device="cpu"
    )  # fmt: skip
    assert [value(row, name) for name in ("elbo", "kl", "bce")] == pytest.approx([-23, 3, 20])
    assert row.likelihood == "bernoulli"


def test_bounds_that_cannot_be_write_nothing(copies: Path, digits: Data, bench: Bench, tmp_path: Path) -> None:
    bounds = saved(tmp_path / "b.npz", elbo=np.full(len(digits.test), 27.0))
    call = ("score", copies, "--dataset", "digits", "--bounds", bounds, "--likelihood", "bernoulli")
    code, out, err = bench(*call, "--metrics", "elbo", "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "`elbo` is above what bernoulli allows" in err
    assert not (tmp_path / "run").exists()


def test_it_stands_beside_others_in_a_block_of_its_own(copies: Path, bench: Bench, tmp_path: Path) -> None:
    run = ("run", "--variants", "mean", "--steps", 2, "--metrics", "fd", "--no-baseline", "--no-sanity", "--quiet")
    bench(*run, "--in-process", "--threads", 1, "--device", "cpu", "--out", tmp_path / "ours")
    code, out, err = bench("score", copies, "--dataset", "digits", "--metrics", "fd", "--out", tmp_path / "mine")
    assert (code, err) == (0, "")
    assert "mine" in out
    _, out, _ = bench("table", tmp_path / "ours", tmp_path / "mine", "--format", "csv")
    lines = list(csv.reader(out.splitlines()))
    block, label = lines[0].index("block"), lines[0].index("label")
    assert {line[label] for line in lines[1:]} == {"mean", "mine"}
    assert len({line[block] for line in lines[1:]}) == 2


def test_again_scores_what_is_missing_and_keeps_the_rest(copies: Path, tmp_path: Path) -> None:
    said: list[str] = []
    settings = {"out": tmp_path / "run", "device": "cpu", "feedback": Feedback(say=said.append)}
    submit(copies, "digits", metrics=("sharpness",), **settings)
    row, run = submit(copies, "digits", metrics=("sharpness", "noise"), **settings)
    assert said == ["reading", "evidence", "sharpness", "reading", "noise"]
    assert set(row.scores) == {"sharpness", "noise"}
    other = saved(tmp_path / "other.npz", samples=some(50))
    submit(other, "digits", name="mine", metrics=("sharpness",), **settings)
    assert len(run.rows()) == 2, "other samples are another result"


def test_no_metric_stumbles_over_a_model_that_is_not_there(copies: Path, tmp_path: Path) -> None:
    row, _ = submit(copies, "digits", out=tmp_path / "run", device="cpu", metrics=("-fid", "-fid_gmm", "-kid"))
    reasons = {name: s.reason for name, s in row.scores.items() if isinstance(s, NotAvailable)}
    assert len(reasons) > 5
    assert not [name for name, reason in reasons.items() if "raised" in reason]


def test_what_takes_long_is_told_before_it_starts(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[object] = []
    predicted = {"noise": 780.0, "sharpness": 0.4}
    monkeypatch.setattr(Evaluator, "predict", lambda _, metric: predicted.get(metric.function.__name__))
    monkeypatch.setattr(Evaluator, "score", lambda *_: said.append("scored") or (NotAvailable("planted"), 0.0))
    names = ("sharpness", "noise", "hfr")
    settings = {"out": tmp_path / "run", "device": "cpu", "metrics": names}
    submit(copies, "digits", Feedback(foretell=lambda *told: said.append(told)), **settings)
    assert said[1::2] == ["scored"] * 3
    assert {*said[::2]} == {("noise", 780.0), ("sharpness", 0.4), ("hfr", None)}
    assert main(["score", str(copies), "--dataset", "digits", "--metrics", "noise", "--out", str(tmp_path / "o")]) == 0
    assert capsys.readouterr().err.strip() == "noise takes about 13 min 0 s"


def test_of_two_results_of_one_name_it_says_which_counts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(10)
    monkeypatch.setattr("bench.running.submission.now", lambda: f"2030-01-01T{next(hours)}:00:00+00:00")
    call = ("--dataset", "digits", "--name", "m", "--metrics", "noise", "--device", "cpu", "--out", tmp_path / "run")
    first, second = (saved(tmp_path / f"{seed}.npz", samples=some(20, seed=seed)) for seed in (1, 2))
    assert bench("score", first, *call)[::2] == (0, "")
    (older,) = Run(tmp_path / "run").names()
    code, _, err = bench("score", second, *call)
    (newer,) = set(Run(tmp_path / "run").names()) - {older}
    assert code == 0
    assert f"the newest, {newer}, and not {older}" in err
    assert bench("score", first, *call)[2] == err, "what is scored already doesn't become the newest"
    _, out, _ = bench("table", tmp_path / "run", "--json")
    assert json.loads(out)[0]["cell"] == newer
    assert bench("score", second, *call, "--likelihood", "bernoulli")[2] == "", "a block of its own, and a line"
    assert bench("score", second, *call[:3], "other", *call[4:])[2] == ""


def test_few_samples_cost_scores_and_not_the_row(tmp_path: Path) -> None:
    row, _ = submit(
        saved(tmp_path / "few.npz", samples=some(12)), "digits", metrics=("fd", "sharpness", "noise"),
        out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    assert row.status == "ok"
    assert isinstance(row.scores["fd"], NotAvailable)
    assert row.scores["sharpness"].n == 12  # type: ignore[union-attr]


def test_an_existing_run_keeps_its_request(copies: Path, bench: Bench, tmp_path: Path) -> None:
    run = ("run", "--variants", "mean", "--steps", 2, "--metrics", "elbo", "--no-baseline", "--no-sanity", "--quiet")
    bench(*run, "--in-process", "--threads", 1, "--out", tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    submit(copies, "digits", metrics=("sharpness",), out=tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert {row.label for row in Run(tmp_path / "run").rows()} == {"mean", "mine"}


@pytest.mark.parametrize("name", ["../x", "a/b", "new\nline", "\x1b[31mred", "", "x" * 65, "=cmd()", "vae", ".."])
def test_a_name_that_cannot_be_is_refused(name: str, copies: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        submit(copies, "digits", name=name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong", [{"likelihood": "poisson"}, {"dataset": "digitz"}, {"metrics": ("elbow",)}, {"bounds": Path("none.npz")}]
)
def test_a_wrong_request_writes_nothing(wrong: dict[str, object], copies: Path, tmp_path: Path) -> None:
    settings = {"dataset": "digits", "out": tmp_path / "run", "device": "cpu", **wrong}
    with pytest.raises(BenchError) as caught:
        submit(copies, **settings)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_bad_file_is_one_screen_and_exit_code_2(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("score", tmp_path / "no\x1bne.npz", "--dataset", "digits", "--name", "x")
    assert (code, out) == (2, "")
    assert "\x1b" not in err
    assert len(err.splitlines()) < 12


def test_a_reference_from_a_file_reaches_its_metric(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.contracts.measurement import Metric, metric
    from bench.evidence import Generated
    from bench.running import submission

    def to(path: Path) -> Metric:
        @metric(Generated("prior"), unit="levels")
        def darkest(samples: torch.Tensor) -> Score:
            return Score(float(np.load(path)["mu"]) + float(samples.min()), len(samples))

        return darkest

    monkeypatch.setattr(submission, "_to", to)
    reference = saved(tmp_path / "reference.npz", mu=np.array(7.0))
    row, _ = submit(
        copies, "digits", metrics=("sharpness",), fid_reference=reference, out=tmp_path / "run", device="cpu"
    )  # fmt: skip
    assert value(row, "darkest") == 7
