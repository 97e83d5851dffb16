"""A large folder of images, decoded once into a memory-mapped copy: the same images, whatever comes in between."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench.datasets import _mapped
from bench.datasets import folder as folders
from PIL import Image

from bench.contracts.dataset import Data
from bench.data import load
from bench.util.errors import BenchError, DataError
from bench.util.places import cache_dir
from tests.conftest import Bench

COUNT, SIZE = 12, 16 * 16 * 3  # images in two classes, and bytes of each


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as large, a cache of its own, blocks of two images, and one process."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "FEW", 0)
    monkeypatch.setattr(_mapped, "BLOCK", 2 * SIZE)
    monkeypatch.setattr(_mapped, "SETTLE", 0.0)
    processes(monkeypatch, 1)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return tmp_path / "images"


def processes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))


Heard = Callable[[str, int, int], None]


def read(home: Path, on_progress: Heard | None = None, **options: int) -> Data:
    return load(f"folder:{home}", Path("/nowhere"), on_progress=on_progress, **options)  # type: ignore[arg-type]


def in_memory(home: Path, **options: int) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "FEW", COUNT * 2)
        return read(home, **options)


def digests(data: Data) -> tuple[str, str]:
    return data.train.digest, data.test.digest


def copies() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "decoded").iterdir())


def files(home: Path) -> list[Path]:
    """In the order in which they're decoded, which is that of the splits."""
    found = sorted(home.rglob("*.png"))
    train, test = folders.fixed_split(np.arange(COUNT) // (COUNT // 2), every=10)
    return [found[i] for i in (*train, *test)]


def spoil(path: Path) -> None:
    """Make an image that can't be decoded of it, with the same size and times."""
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def stopping_at(done: int, stop: Callable[[], None]) -> Heard:
    """Calls `stop` once as many images are decoded."""
    return lambda what, so_far, _: stop() if what.startswith("decoding") and so_far >= done * SIZE else None


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("options", [{}, {"image_size": 8}])
def test_the_copy_holds_the_same_images(
    home: Path, monkeypatch: pytest.MonkeyPatch, count: int, options: dict[str, int]
) -> None:
    processes(monkeypatch, count)
    expected = in_memory(home, **options)
    random = torch.get_rng_state()
    heard: list[tuple[str, int, int]] = []
    made = read(home, lambda *args: heard.append(args), **options)
    assert torch.equal(torch.get_rng_state(), random)
    total = COUNT * 3 * (options.get("image_size", 16)) ** 2
    at = [done for what, done, of in heard if what.startswith("decoding") and of == total]
    assert at == sorted(at)
    assert (at[0], at[-1]) == (0, total)
    for path in files(home):
        spoil(path)  # nobody looks at them again
    for data in (made, read(home, **options)):
        assert digests(data) == digests(expected)
        for name in ("train", "test"):
            got, right = getattr(data, name), getattr(expected, name)
            index = torch.tensor([len(right) - 1, 0, 0])
            assert torch.equal(got.take(index), right.take(index))
            assert torch.equal(got.labels(), right.labels())
            assert got.classes == right.classes == ("a", "b")


def test_the_copy_is_not_held_in_memory(home: Path) -> None:
    read(home)
    (pixels,) = cache_dir().rglob("pixels")
    data = read(home)
    with open(pixels, "r+b") as file:
        file.write(b"\7" * SIZE)  # seen through the map, as long as nothing has copied it
    assert (data.train.take(torch.tensor([0])) == 7).all()
    data.train.take(torch.tensor([0])).zero_()
    assert pixels.read_bytes()[:SIZE] == b"\7" * SIZE


def replaced(home: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 7, np.uint8)).save(files(home)[3])


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        lambda home: files(home)[3].unlink(),
        lambda home: shutil.copy(files(home)[3], home / "a" / "more.png"),
        lambda home: files(home)[3].rename(home / "b" / "moved.png"),
        lambda home: (home / "a").rename(home / "z"),
    ],
    ids=["replaced", "removed", "added", "moved", "renamed"],
)
def test_a_folder_that_has_changed_is_decoded_again(home: Path, change: Callable[[Path], None]) -> None:
    before = read(home)
    change(home)
    after = read(home)
    assert digests(after) == digests(in_memory(home)) != digests(before)
    assert len(copies()) == 1, "the old one is gone"


def test_a_copy_is_of_one_size_and_of_one_folder(home: Path) -> None:
    small, other = read(home, image_size=8), home.with_name("other")
    shutil.copytree(home, other)
    same = read(other, image_size=8)
    assert (small.train.shape, read(home).train.shape) == ((3, 8, 8), (3, 16, 16))
    assert digests(small) == digests(same)
    assert len(copies()) == 3


@pytest.mark.fault(27, "Ctrl-C while a folder is decoded", "gone on with")
def test_an_interrupted_copy_is_gone_on_with(home: Path) -> None:
    expected = digests(in_memory(home))
    with pytest.raises(KeyboardInterrupt):
        read(home, stopping_at(6, interrupt))
    for path in files(home)[:6]:
        spoil(path)
    first: list[int] = []
    found = read(home, lambda what, done, _: first.append(done) if what.startswith("decoding") else None)
    assert first[0] == 6 * SIZE
    assert digests(found) == expected


@pytest.mark.parametrize("name", ["pixels", "done", "form.json"])
def test_what_an_interrupted_copy_lost_is_decoded_again(home: Path, name: str) -> None:
    expected = digests(in_memory(home))
    with pytest.raises(KeyboardInterrupt):
        read(home, stopping_at(6, interrupt))
    (path,) = cache_dir().rglob(name)
    path.unlink()
    assert digests(read(home)) == expected


def forked(work: Callable[[], object]) -> int:
    """A process that does it, and then goes."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


@pytest.mark.fault(27, "kill -9 while a folder is decoded", "the next process takes it over")
def test_what_a_killed_process_left_is_taken_over(home: Path) -> None:
    expected = digests(in_memory(home))
    child = forked(lambda: read(home, stopping_at(6, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert [name.partition(".")[2] for name in copies()] == ["lock", "part"]
    for path in files(home)[:4]:  # what was settled before the kill
        spoil(path)
    assert digests(read(home)) == expected
    assert len(copies()) == 1


@pytest.mark.fault(27, "two processes decode one folder", "one does, the other waits and says so")
def test_of_two_processes_one_decodes_and_the_other_waits(home: Path) -> None:
    expected = digests(in_memory(home))
    (started, start), (waited, wait) = os.pipe(), os.pipe()
    child = forked(lambda: read(home, stopping_at(4, lambda: (os.write(start, b"x"), os.read(waited, 1)))))
    os.read(started, 1)
    heard: list[str] = []

    def hear(what: str, *_: int) -> None:
        heard.append(what)
        os.write(wait, b"x" * COUNT)

    found = read(home, hear)
    os.waitpid(child, 0)
    assert heard == [f"waiting for another process that decodes {str(home)!r}"]
    assert digests(found) == expected


@pytest.mark.fault(27, "a process that decodes is killed", "said so; the rest is kept")
@pytest.mark.parametrize("busy_elsewhere", [False, True])
def test_a_killed_helper_is_said_and_what_is_done_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, busy_elsewhere: bool
) -> None:
    processes(monkeypatch, 2)
    parent, read_one = os.getpid(), folders._read

    def die(path: str, *how: Any) -> np.ndarray:
        if path == str(files(home)[-1]) and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_one(path, *how)

    def wait(what: str, done: int, total: int) -> None:
        if busy_elsewhere and 0 < done == total // 2:
            time.sleep(60)
            pytest.fail("no signal came")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_read", die)
        with pytest.raises(DataError, match="was killed"):
            read(home, wait)
    spoil(files(home)[0])
    assert read(home).train.shape == (3, 16, 16)


def test_a_helper_killed_where_nothing_can_be_kept_is_said_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, 2)
    monkeypatch.setattr(folders, "SEEN", 2)
    (home.parent / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(home.parent / "file"))
    parent, form_of = os.getpid(), folders._form_of

    def die(path: str) -> object:
        if path == str(sorted(home.rglob("*.png"))[-1]) and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return form_of(path)

    monkeypatch.setattr(folders, "_form_of", die)
    with pytest.raises(DataError, match="was killed"):
        read(home)


def test_a_helper_s_own_error_isn_t_called_a_kill(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, 2)

    def fail(*_: object) -> np.ndarray:
        raise RecursionError("too deep")

    monkeypatch.setattr(_mapped, "_block", fail)
    with pytest.raises(RecursionError, match="too deep"):
        read(home)


def truncated(copy: Path) -> None:
    os.truncate(copy / "pixels", COUNT * SIZE - 1)


def changed(copy: Path) -> None:
    with open(copy / "pixels", "r+b") as file:
        file.write(bytes(SIZE))


@pytest.mark.fault(27, "a damaged copy of a folder's images", "made again")
@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        changed,
        lambda copy: (copy / "pixels").unlink(),
        lambda copy: (copy / "copy.json").unlink(),
        lambda copy: (copy / "copy.json").write_text('{"shape": [1'),
        lambda copy: (copy / "copy.json").write_text("[]"),
    ],
    ids=["truncated", "changed", "no pixels", "no document", "half a document", "another document"],
)
def test_a_damaged_copy_is_made_again(home: Path, damage: Callable[[Path], None]) -> None:
    expected = digests(read(home))
    (copy,) = (cache_dir() / "decoded").iterdir()
    damage(copy)
    heard: list[str] = []
    found = read(home, lambda what, *_: heard.append(what))
    assert digests(found) == expected
    assert torch.equal(found.train.take(torch.arange(5)), in_memory(home).train.take(torch.arange(5)))
    assert any(what.startswith("decoding") for what in heard)


def test_a_copy_that_was_only_touched_is_kept(home: Path) -> None:
    expected = digests(read(home))
    (pixels,) = cache_dir().rglob("pixels")
    os.utime(pixels)
    for path in files(home):
        spoil(path)
    assert digests(read(home)) == digests(read(home)) == expected


def screen(error: pytest.ExceptionInfo[BenchError]) -> str:
    message = str(error.value)
    assert message.count("\n") < 10
    return message


@pytest.mark.fault(27, "no room, or no right, to keep decoded images", "held in memory if they fit, or refused")
@pytest.mark.parametrize("lack", ["room", "right"])
def test_where_nothing_can_be_kept_they_are_held_in_memory_if_they_fit(
    home: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    if lack == "room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    else:  # the tests may run as root, whom no mode stops
        (home.parent / "file").touch()
        monkeypatch.setenv("BENCH_CACHE", str(home.parent / "file"))
    heard: list[str] = []
    found = read(home, lambda what, *_: heard.append(what))
    assert digests(found) == digests(in_memory(home))
    assert {"room": "No space left", "right": "Not a directory"}[lack] in heard[-1]
    monkeypatch.setattr(_mapped, "MEMORY", 0.0)
    with pytest.raises(DataError, match="can't be kept") as refused:
        read(home)
    assert "BENCH_CACHE" in screen(refused)


@pytest.mark.fault(27, "an image that vanishes or changes while a folder is decoded", "named, and nothing is kept")
def test_what_happens_to_the_folder_meanwhile_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_, last = files(home)
    content = last.read_bytes()
    with pytest.raises(DataError, match="No such file") as refused:
        read(home, stopping_at(2, lambda: last.unlink(missing_ok=True)))
    assert str(last) in screen(refused)
    last.write_bytes(content)
    with pytest.raises(DataError, match="changed while it was decoded"):
        read(home, stopping_at(2, lambda: os.utime(first)))
    assert copies() == []


def test_a_damaged_image_is_named_by_whichever_process_meets_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, 2)
    path = files(home)[7]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError) as refused:
        read(home)
    assert str(path) in screen(refused)
    assert "good copy" in screen(refused)


def test_images_that_differ_are_found_before_any_is_decoded(home: Path) -> None:
    odd = files(home)[8]
    Image.fromarray(np.zeros((16, 17, 3), np.uint8)).save(odd)
    heard: list[str] = []
    with pytest.raises(DataError, match="differ in size or colour") as refused:
        read(home, lambda what, *_: heard.append(what))
    assert str(odd) in screen(refused)
    assert not any(what.startswith("decoding") for what in heard)
    for path in files(home):
        Image.fromarray(np.zeros((8, 24, 3), np.uint8)).save(path)
    Image.fromarray(np.zeros((24, 8, 3), np.uint8)).save(odd)  # its header could say that it lies on its side
    with pytest.raises(DataError, match="8 wide and 24 high") as refused:
        read(home)
    assert str(odd) in screen(refused)


def test_colour_in_one_image_is_colour_for_all(home: Path) -> None:
    for path in files(home)[:-1]:
        Image.fromarray(np.full((16, 16), 9, np.uint8)).save(path)
    data = read(home, image_size=16)
    assert data.train.shape == (3, 16, 16)
    assert (data.train.take(torch.arange(5)) == 9).all()
    assert digests(data) == digests(in_memory(home, image_size=16))


def test_a_limit_and_a_validation_split_are_the_same_out_of_a_copy(home: Path) -> None:
    options = {"limit": 4, "validation": 3}
    expected = in_memory(home, **options)
    assert digests(read(home, **options)) == digests(read(home, **options)) == digests(expected)


def test_copies_are_listed_and_removed_but_not_those_that_are_being_made(home: Path, bench: Bench) -> None:
    expected = digests(read(home))
    read(home, image_size=8)
    with pytest.raises(KeyboardInterrupt):
        read(home, stopping_at(0, interrupt), image_size=4)
    *_, made = sorted(cache_dir().rglob("*.part"))
    code, out, _ = bench("data", "clear", "--dry-run")
    assert code == 0
    assert f"{str(home)!r}\n" in out
    assert f"{str(home)!r} at image_size 8\n" in out
    assert out.count("being made") == 1
    assert len(copies()) == 3
    bench("data", "clear")
    assert copies() == [made.name]
    for path in made.iterdir():
        os.utime(path, (0, 0))
    assert "not complete" in bench("data", "clear")[1]
    assert copies() == []
    assert digests(read(home)) == expected
