"""Which images they are, whatever they are called: a named set is what it says, the same images are one dataset."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contracts.dataset import DATASETS, Data, Splits
from bench.contracts.disjoint import require_disjoint
from bench.contracts.images import Images
from bench.contracts.naming import alike, asked, called, is_there, own, texts
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.data import load
from bench.results.store import Run
from bench.running.moved import distinct
from bench.running.planning import default_folder, plan
from bench.tables.compare import compare
from bench.tables.summary import summary
from bench.util.errors import DataError, IncomparableRows, UsageError
from datasets._reading import Published
from tests.conftest import Bench
from tests.datasets.test_datasets import idx, write
from tests.example_rows import DATA, SCORING, bound, loss, register, row

pytestmark = pytest.mark.usefixtures("warm_servers")

# what a named set's files hold


def small_set(root: Path, folder: str, seed: int, images: tuple[int, int] = (20, 10)) -> None:
    """MNIST's form, every class as often as the others."""
    random = np.random.default_rng(seed)
    for split, count in zip(("train", "t10k"), images, strict=True):
        write(root / folder / f"{split}-images-idx3-ubyte", idx(random.integers(0, 256, (count, 28, 28), np.uint8)))
        write(root / folder / f"{split}-labels-idx1-ubyte", idx(np.arange(count) % 10))


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small sets in the place of MNIST and Fashion-MNIST, with their digests; KMNIST's isn't known."""
    for name, folder, seed in (("mnist", "MNIST", 1), ("fashion", "FashionMNIST", 2), ("kmnist", "KMNIST", 3)):
        small_set(tmp_path, f"{folder}/raw", seed)
        monkeypatch.setattr(DATASETS.load(name), "published", None)
        found = load(name, tmp_path, download=False)
        digests = (None, None) if name == "kmnist" else (found.train.digest, found.test.digest)
        known = Published(20, 2, digests[0]), Published(10, 1, digests[1])
        monkeypatch.setattr(DATASETS.load(name), "published", known)
    return tmp_path


def put(root: Path, source: str, target: str, **names: str) -> None:
    """Copy a set's files over another one's; `names` says which split lies under which name."""
    for of, under in (names or {"train": "train", "t10k": "t10k"}).items():
        for kind in ("images-idx3", "labels-idx1"):
            shutil.copyfile(
                root / source / "raw" / f"{of}-{kind}-ubyte", root / target / "raw" / f"{under}-{kind}-ubyte"
            )


def refused(root: Path, name: str) -> str:
    with pytest.raises(DataError) as found:
        load(name, root, download=False)
    message = str(found.value)
    assert message.count("\n") < 10
    assert "npz:PATH" in message, "the way out for images of one's own"
    assert "data fetch" in message
    return message


def test_the_sets_themselves_are_read(sets: Path) -> None:
    for name in ("mnist", "fashion", "kmnist", "mnist[binary=static]", "fashion[outliers=mnist]"):
        assert len(load(name, sets, download=False).train) == 20


@pytest.mark.fault(40, "another set's files in a named set's place", "refused, with the name of the set that they are")
@pytest.mark.parametrize("name", ["mnist", "kmnist", "mnist[binary=static]", "mnist[drop=3]"])
def test_the_files_of_a_known_other_set_are_named(sets: Path, name: str) -> None:
    put(sets, "FashionMNIST", "MNIST")
    put(sets, "FashionMNIST", "KMNIST")
    message = refused(sets, name)
    assert "Fashion-MNIST's training split" in message
    assert str(sets / ("KMNIST" if name == "kmnist" else "MNIST") / "raw") in message


def test_the_outliers_are_held_to_what_they_are_called(sets: Path) -> None:
    put(sets, "FashionMNIST", "MNIST")
    assert "Fashion-MNIST's test split" in refused(sets, "kmnist[outliers=mnist]")


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_other_images_and_other_counts_are_refused(sets: Path, name: str) -> None:
    folder = f"{'MNIST' if name == 'mnist' else 'KMNIST'}/raw"
    small_set(sets, folder, 9, (30, 10))
    message = refused(sets, name)
    assert "30 images" in message
    assert "20" in message
    small_set(sets, folder, 9)
    if name == "mnist":
        assert "aren't those of MNIST's training split" in refused(sets, name)
    write(sets / folder / "t10k-labels-idx1-ubyte", idx(np.zeros(10)))
    assert "test split" in refused(sets, "kmnist") if name == "kmnist" else True


@pytest.mark.parametrize(("source", "target"), [("t10k", "train"), ("train", "t10k")])
def test_one_split_under_the_others_name_is_named(sets: Path, source: str, target: str) -> None:
    put(sets, "MNIST", "MNIST", **{source: target})
    wrong = {"t10k": "MNIST's test split", "train": "MNIST's training split"}[source]
    assert f"holds {wrong}" in refused(sets, "mnist")


def test_real_files_are_told_apart(tmp_path: Path) -> None:
    """By the digests of the real sets."""
    source = Path(os.environ.get("BENCH_DATA", "/nowhere"))
    if not all((source / folder / "raw/t10k-images-idx3-ubyte").exists() for folder in ("MNIST", "FashionMNIST")):
        pytest.skip("BENCH_DATA has no uncompressed MNIST and Fashion-MNIST")
    for folder in ("MNIST", "KMNIST"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "raw").symlink_to(source / "FashionMNIST" / "raw")
    (tmp_path / "FashionMNIST").symlink_to(source / "MNIST")
    assert "Fashion-MNIST's training split" in refused(tmp_path, "mnist")
    assert "Fashion-MNIST's training split" in refused(tmp_path, "kmnist")
    assert "holds MNIST's training split" in refused(tmp_path, "fashion")


def test_the_counts_of_named_sets_are_those_of_their_titles() -> None:
    for name in ("mnist", "fashion", "kmnist", "emnist", "cifar10"):
        cls = DATASETS.load(name)
        train, test = cls.published  # type: ignore[attr-defined]
        assert f"{train.images:,} + {test.images:,}" in cls.title
        assert all(p.each is None or p.each * len(cls.classes) == p.images for p in (train, test))  # type: ignore[attr-defined]


# test images that are training images


def random_images(n: int, seed: int = 0, side: int = 8) -> torch.Tensor:
    return torch.randint(256, (n, 1, side, side), generator=torch.Generator().manual_seed(seed)).byte()


X, Y = random_images(50), random_images(50, seed=1)


@pytest.mark.parametrize(
    ("train", "test", "bad"),
    [
        (X, Y, False),
        (X, X, True),
        (X, X[torch.randperm(50)], True),
        (torch.cat([X, Y]), Y[:7], True),
        (X, torch.cat([Y[:1], X[1:]]), False),
        (X, X[:1], False),  # one image says nothing
        (torch.zeros_like(X), torch.zeros_like(X[:20]), False),  # nor does one that is there again and again
        (torch.cat([X[:5]] * 10), X[:5], False),
    ],
)
def test_a_test_split_that_lies_in_the_training_split_is_refused(
    train: torch.Tensor, test: torch.Tensor, bad: bool
) -> None:
    for splits in (Splits(Images(train), Images(test)), Splits(Images(train), Images(Y[:3]), validation=Images(test))):
        if splits.validation is not None and test is not X and bad and len(test) == 7:
            continue  # there the other split is bad as well
        state = torch.get_rng_state()
        if bad:
            kind = "test" if splits.validation is None else "validation"
            with pytest.raises(DataError, match=f"all {len(test)} {kind} images"):
                require_disjoint("x", splits)
        else:
            require_disjoint("x", splits)
        assert torch.equal(state, torch.get_rng_state())


def test_large_images_are_compared_exactly() -> None:
    """Sums over 200,000 pixels lose nothing, whatever the blocks: one pixel that differs is another image."""
    big = random_images(6, side=450)
    other = big.clone()
    other[:, 0, 449, 449] ^= 1
    with pytest.raises(DataError):
        require_disjoint("x", Splits(Images(big), Images(big[2:5])))
    require_disjoint("x", Splits(Images(big), Images(other[2:5])))


@pytest.mark.fault(
    40, "the test split is a copy of the training split, or lies in it", "refused, for files of any kind"
)
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_it_is_asked_where_datasets_are_loaded(tmp_path: Path, kind: str) -> None:
    if kind == "npz":
        np.savez(tmp_path / "x.npz", x_train=X[:, 0].numpy(), x_test=X[10:20, 0].numpy())
        text = f"npz:{tmp_path / 'x.npz'}"
    else:
        for split, some in (("train", X), ("test", X[10:20])):
            pictures(tmp_path / "x" / split, some)
        text = f"folder:{tmp_path / 'x'}"
    with pytest.raises(DataError, match="all 10 test images are training images too") as found:
        load(text, tmp_path)
    assert "test split of its own" in str(found.value)


def pictures(path: Path, images: torch.Tensor) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(path / f"{i:03d}.png")
    return path


# names


def test_a_name_can_be_given(tmp_path: Path) -> None:
    path = pictures(tmp_path / "mine", X)
    plain, named = (load(text, tmp_path) for text in (f"folder:{path}", f"folder:{path} as faces"))
    assert (plain.name, named.name) == (f"folder:{path}", "faces")
    assert (plain.train.digest, plain.test.digest) == (named.train.digest, named.test.digest)
    sized = load(f"folder[image_size=4]:{path} as small", tmp_path)
    assert (sized.name, sized.train.shape) == ("small", (1, 4, 4))


def test_a_path_that_is_there_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = pictures(tmp_path / "mine as faces", X)
    assert load(f"folder:{path}", tmp_path).name == f"folder:{path}"
    assert load(f"folder:{path} as it", tmp_path).name == "it"
    text = f"folder:{tmp_path / 'gone'} as faces"
    assert (asked(text), called(text)) == (f"folder:{tmp_path / 'gone'}", "faces")


@pytest.mark.parametrize(
    ("text", "says"),
    [("digits as mine", "keeps its name"), ("folder:PATH as mnist", "installed dataset"), ("folder: as x", "PATH")],
)
def test_names_that_are_taken_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = pictures(tmp_path / "mine", X)
    with pytest.raises(UsageError) as found:
        load(text.replace("PATH", str(path)), tmp_path)
    assert says.replace("PATH", "needs a PATH") in str(found.value)


def test_which_names_are_of_somebodys_own_images() -> None:
    known = ("digits", "mnist", "mnist[binary=static]", "fashion[outliers=mnist]", "vaebench:digits")
    mine = ("folder:/x", "npz:x.npz", "folder[image_size=8]:/x", "faces", "folder:/a as b")
    assert [own(name) for name in (*known, *mine)] == [False] * len(known) + [True] * len(mine)


def test_the_texts_that_ask_for_a_name_are_tried_from_the_last_one() -> None:
    asked_for = ("folder:/a as faces", "digits", "folder:/b as faces")
    assert texts("faces", asked_for) == ["folder:/b as faces", "folder:/a as faces"]
    assert texts("digits", asked_for) == ["digits"]
    assert texts("folder:/c", asked_for) == ["folder:/c"]


def test_one_data_under_two_names_counts_once(tmp_path: Path) -> None:
    path = pictures(tmp_path / "mine", X)
    loaded = [load(text, tmp_path) for text in (f"folder:{path}", f"folder:{tmp_path}/./mine as mine", "digits")]
    kept, notes = distinct(loaded)
    assert [data.name for data in kept] == [f"folder:{path}", "digits"]
    (note,) = notes
    assert "mine" in note
    data = loaded[0]
    others = replace(data, name="outliers", outliers=Images(Y)), replace(data, name="factors", factors=torch.ones(5, 1))
    assert [d.name for d in distinct([data, *others])[0]] == [data.name, "outliers", "factors"]
    with pytest.raises(UsageError, match="are called"):
        distinct([data, replace(loaded[2], name=data.name)])


# rows of several runs


def on(dataset: str, seed: int = 0, train: str = "aaaa", test: str = "bbbb", **values: float) -> Row:
    data, scoring = {**DATA, "train": train, "test": test}, {**SCORING, "test": test, "source": train}
    return row("vae", seed, dataset, data=data, scoring=scoring, scores=values or {"bound": float(seed)})


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss)


@pytest.mark.usefixtures("metrics")
@pytest.mark.fault(41, "the same images under another path: laptop against cluster", "rows are paired by the images")
def test_the_same_images_are_paired_under_any_name() -> None:
    laptop = [on("folder:/home/me/x", seed, bound=1.0) for seed in range(3)]
    cluster = [on("folder:/scratch/x", seed, bound=2.0) for seed in range(3)]
    found = compare(laptop, cluster)
    (group,) = found.datasets
    assert group.lines[0].values["bound"].n == 3
    assert group.lines[0].values["bound"].difference == 1.0
    assert group.dataset == "folder:/home/me/x"
    assert any("folder:/scratch/x in b" in note for note in group.notes)
    assert compare(laptop, [replace(r, dataset="faces") for r in cluster]).datasets[0].dataset == "faces"


@pytest.mark.usefixtures("metrics")
@pytest.mark.parametrize(("changed", "what"), [("train", "training images"), ("test", "test images")])
def test_other_images_under_one_name_are_not_paired(changed: str, what: str) -> None:
    with pytest.raises(IncomparableRows) as refused:
        compare([on("folder:x")], [on("folder:x", **{changed: "cccc"})])  # type: ignore[arg-type]
    assert f"folder:x is not the same data: other {what} in b" in str(refused.value)
    with pytest.raises(UsageError, match="counterpart"):
        compare([on("folder:x")], [on("folder:y", **{changed: "cccc"})])  # type: ignore[arg-type]


@pytest.mark.usefixtures("metrics")
def test_a_limit_is_no_other_data() -> None:
    limited = on("folder:x", train="cccc")
    with pytest.raises(IncomparableRows) as refused:
        compare([on("folder:x")], [replace(limited, training={**limited.training, "limit": 100})])
    assert "is not the same data" not in str(refused.value)
    assert "training.limit" in str(refused.value)


@pytest.mark.usefixtures("metrics")
def test_tables_of_several_runs_have_one_caption_for_one_data() -> None:
    a, b = alike([on("folder:/a"), on("folder:/z", train="dddd")], [on("faces", 1), on("fashion", train="eeee")])
    assert [r.dataset for r in (*a, *b)] == ["faces", "folder:/z", "faces", "fashion"]
    first, *_ = summary([*a, *b])
    assert (first.dataset, first.lines[0].seeds) == ("faces", (0, 1))


@pytest.mark.usefixtures("metrics")
def test_installed_sets_keep_their_names() -> None:
    """What they have besides, as outliers, is in their name alone."""
    rows = [on("fashion"), on("fashion[outliers=mnist]"), on("folder:/x"), on("theirs[outliers=a]:/x")]
    (found,) = alike(rows)
    assert [r.dataset for r in found] == [r.dataset for r in rows]


# runs


@pytest.fixture
def run(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Row]]:
    monkeypatch.chdir(tmp_path)

    def call(dataset: str, *more: object, here: bool = True) -> list[Row]:
        code, out, err = bench(
            "run", "--variants", "vae", "--steps", 2, "--batch-size", 8, "--dataset", dataset, "--metrics", "elbo",
            "--no-sanity", "--no-baseline", "--json", "--quiet", *(["--in-process"] if here else []), *more,
        )  # fmt: skip
        assert code == 0, err
        return [Row(**{**r, "scores": {}}) for r in (_row(d) for d in json.loads(out))]

    return call


def _row(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if name in Row.__dataclass_fields__}


def cells() -> set[str]:
    return {path.parent.parent.name for path in Path().glob("*/*/cells/*/done/cell.json")} | {
        path.parent.parent.name for path in Path().glob("*/cells/*/done/cell.json")
    }


@pytest.mark.fault(41, "a folder of images is moved or renamed", "its results are used, none is made again")
def test_a_moved_folder_uses_its_results(run: Callable[..., list[Row]], tmp_path: Path, bench: Bench) -> None:
    pictures(tmp_path / "a", X)
    (first,) = run("folder:a")
    (tmp_path / "a").rename(tmp_path / "b")
    (again,) = run("folder:b")
    assert cells() == {first.cell} == {again.cell}
    assert (first.dataset, again.dataset) == ("folder:a", "folder:b")
    assert len(list(Path("results").iterdir())) == 1, "nothing lies beside it"
    (tmp_path / "b").rename(tmp_path / "c")
    rows = run("folder:c as faces", "--seeds", 2)
    assert [r.dataset for r in rows] == ["faces", "faces"]
    assert rows[0].cell == first.cell
    (folder,) = Path("results").iterdir()
    assert Run(folder).request().datasets == ("folder:c as faces",)
    assert {r.dataset for r in Run(folder).rows()} == {"faces"}
    code, out, _ = bench("table", folder)
    assert code == 0
    assert out.startswith("faces")
    assert "folder:" not in out
    (tmp_path / "c").rename(tmp_path / "d")
    run("folder:d as faces", "--seeds", 2)
    code, out, _ = bench("verify", folder)
    assert code == 0, out
    (back,) = run("folder:d")
    assert back.dataset == "folder:d"
    assert len(cells()) == 2


def test_other_images_in_a_folder_are_trained_on(run: Callable[..., list[Row]], tmp_path: Path) -> None:
    for split, some in (("train", X), ("test", Y[:10])):
        pictures(tmp_path / "a" / split, some)
    (first,) = run("folder:a", "--out", "out")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    pictures(tmp_path / "b" / "test", Y[10:20])
    (other_test,) = run("folder:b", "--out", "out")
    assert other_test.cell != first.cell, "scored on other images, so it is not the same data"
    pictures(tmp_path / "b" / "train", Y[20:])
    (other,) = run("folder:b", "--out", "out")
    assert len({first.cell, other_test.cell, other.cell}) == 3
    assert {r.dataset for r in Run("out").rows()} == {"folder:a", "folder:b"}


def test_an_interrupted_or_failed_cell_is_found_too(run: Callable[..., list[Row]], tmp_path: Path) -> None:
    pictures(tmp_path / "a", X)
    (first,) = run("folder:a", "--out", "out")
    store = Run("out")
    row = store.row(first.cell)
    assert row is not None
    store.forget(first.cell)
    store.write_failed(replace(row, status="failed", reason="made up"), "")
    (tmp_path / "a").rename(tmp_path / "b")
    planned = plan(RunRequest(
        variants=("vae",), datasets=("folder:b",), steps=2, batch_size=8, baseline=False, sanity=False, out="out"
    ))  # fmt: skip
    assert [(c.name, c.state) for c in planned.cells] == [(first.cell, "ended")]
    (again,) = run("folder:b", "--out", "out", "--retry-failed")
    assert (again.cell, again.status) == (first.cell, "ok")


def test_a_moved_cell_is_scored_by_a_process_of_its_own(run: Callable[..., list[Row]], tmp_path: Path) -> None:
    pictures(tmp_path / "a", X)
    (first,) = run("folder:a", "--out", "out")
    (tmp_path / "a").rename(tmp_path / "b")
    (again,) = run("folder:b as it", "--out", "out", "--metrics", "elbo,kl", here=False)
    assert (again.cell, again.dataset) == (first.cell, "it")
    assert set(Run("out").read_scores(first.cell, again.scoring)) == {"elbo", "kl"}


def test_two_spellings_in_one_run_are_one_dataset(run: Callable[..., list[Row]], tmp_path: Path) -> None:
    pictures(tmp_path / "a", X)
    rows = run("folder:a,folder:./a", "--out", "out")
    assert [r.dataset for r in rows] == ["folder:a"]
    assert Run("out").request().datasets == ("folder:a",)


def test_runs_of_two_machines_are_merged_into_one(run: Callable[..., list[Row]], tmp_path: Path, bench: Bench) -> None:
    pictures(tmp_path / "a", X)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (laptop,) = run("folder:a", "--out", "laptop")
    run("folder:b", "--out", "cluster")
    run("folder:b", "--out", "cluster", "--seeds", 2)
    code, out, err = bench("compare", "laptop", "cluster", "--json")
    assert code == 0, err
    assert json.loads(out)["differences"][0]["n"] == 1
    code, out, err = bench("merge", "merged", "laptop", "cluster")
    assert code == 0, err
    merged = Run("merged")
    assert len(merged.names()) == 2
    assert laptop.cell in merged.names()
    assert {(r.dataset, r.seed) for r in merged.rows()} == {("folder:a", 0), ("folder:a", 1)}
    assert merged.request().datasets == ("folder:a",)


def test_names_of_a_run_that_are_damaged_are_named(run: Callable[..., list[Row]], tmp_path: Path, bench: Bench) -> None:
    pictures(tmp_path / "a", X)
    run("folder:a", "--out", "out")
    for text in ('{"names": {"a": 5}}', '{"names": 3}', "nonsense"):
        (tmp_path / "out" / "names.json").write_text(text)
        code, _, err = bench("table", "out")
        assert code == 4
        assert "names.json" in err


@pytest.mark.parametrize("kind", ["edited", "link", "FIFO"])
def test_no_cell_is_put_aside_for_damaged_names(
    run: Callable[..., list[Row]], tmp_path: Path, bench: Bench, kind: str
) -> None:
    pictures(tmp_path / "a", X)
    (row,) = run("folder:a", "--out", "out")
    names = tmp_path / "out" / "names.json"
    match kind:
        case "edited":
            names.write_text('{"schema": 3, "names": {}}')
        case "link":
            names.symlink_to("/dev/zero")
        case _:
            os.mkfifo(names)
    requested = ("run", "--config", "out/run.json", "--out", "out", "--quiet")
    for command in (("table", "out"), ("verify", "out", "--only-sums"), requested):
        code, out, err = bench(*command)
        assert code == 4, command
        assert "out/names.json" in err
        assert "Delete it" in err
        assert "damaged" not in out
    assert sorted(path.name for path in (tmp_path / "out" / "cells" / row.cell).iterdir()) == ["done", "scores"]
    names.unlink()
    assert bench("table", "out")[0] == 0


def test_a_given_name_names_the_results(tmp_path: Path) -> None:
    request = RunRequest(datasets=(f"folder:{tmp_path}/x as faces",))
    assert default_folder(request) == Path("results/faces")
    assert default_folder(RunRequest(datasets=("mnist",))) == Path("results/mnist")
    assert default_folder(replace(request, datasets=("folder:/y as faces",))) == Path("results/faces")


def test_installed_sets_have_the_cells_that_they_had(digits: Data) -> None:
    """A name isn't part of an identity, and a folder is called as it was."""
    planned = plan(RunRequest(variants=("vae",), datasets=("digits",), baseline=False, sanity=False, out="/nowhere/x"))
    (c,) = planned.cells
    assert c.name.startswith("vae-digits-s0-")
    assert c.todo.at == ""
    assert c.row.data["train"] == digits.train.digest


def test_what_can_be_no_path_is_not_there(tmp_path: Path) -> None:
    assert is_there(str(tmp_path))
    assert is_there("~")
    assert not any(map(is_there, ("", "a\0b", "~a\0b", "x" * 9_000)))
