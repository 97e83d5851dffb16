"""What writing leaves behind: nothing that isn't whole, the first error, and files with the user's modes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import cli
from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest
from bench.drawing.pictures import Image
from bench.engine.checkpoint import Checkpoints
from bench.engine.snapshot import Snapshot
from bench.metrics.cache import save_tensors
from bench.metrics.shelf import put
from bench.plugins import failures
from bench.plugins.entry import Entry
from bench.results.store import Run
from bench.running import runner
from bench.tables import frames
from bench.util import lease
from bench.util.durable import sweep, write_json
from bench.util.errors import StoreError
from bench.util.lease import STALE, Lease
from bench.util.process import kept_umask, make_folder, umask
from tests.results.test_store import ROW
from tests.running.test_faults import end, environment, run_to, until
from tests.warm_process import Mother

fault = pytest.mark.fault
REQUEST = RunRequest(
    ("vae",), ("digits",), steps=4, baseline=False, sanity=False, metrics=("bce",), in_process=True, threads=1
)  # fmt: skip


# who writes


def a_result(folder: Path) -> None:
    weights, picture = {"w": torch.zeros(9)}, Image.new("L", (2, 2))
    shutil.rmtree(folder / "cells" / ROW.cell / "done", ignore_errors=True)
    Run(folder).write_done(ROW, weights, [{"step": 1.0}], weights, {"samples": picture}, "log")


def a_failure(folder: Path) -> None:
    Run(folder).write_failed(replace(ROW, status="failed"), "log")


def a_score(folder: Path) -> None:
    make_folder(folder / "cells" / ROW.cell)
    Run(folder).write_scores(ROW.cell, {}, {"bce": Score(1.0, 2)}, {})


def a_checkpoint(folder: Path) -> None:
    Checkpoints(folder / "checkpoints", ROW.cell).save(Snapshot({"w": torch.zeros(9)}, {"done": time.monotonic_ns()}))


def a_table(folder: Path) -> None:
    frames.write(folder, [ROW])


WRITERS: tuple[Callable[[Path], object], ...] = (
    a_result,
    a_failure,
    a_score,
    a_table,
    a_checkpoint,
    lambda folder: write_json(folder / "run.json", {}),
    lambda folder: save_tensors(folder / "statistics" / "of.safetensors", {"mean": torch.zeros(9)}),
    lambda folder: put(folder / "shelf", "judge-v1-0", {"w": torch.zeros(9)}, {}),
)
NAMES = ("result", "failure", "score", "table", "checkpoint", "document", "statistics", "network")
every_writer = pytest.mark.parametrize("write", WRITERS, ids=NAMES)


def under_way(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def killed_in(write: Callable[[Path], object], folder: Path, end: Callable[[], object]) -> None:
    """Let a copy of this process write, and do `end` when all is written and before it's in its place."""
    pid = os.fork()
    if pid == 0:
        try:
            os.fsync = lambda _: end()  # type: ignore[assignment]
            write(folder)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def shoot() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@every_writer
@fault(36, "kill -9 while something is written", "nothing of it is left once the same command has run again")
def test_what_was_written_at_a_kill_is_gone_after_the_next_try(write: Callable[[Path], object], tmp_path: Path) -> None:
    killed_in(write, tmp_path, shoot)
    assert under_way(tmp_path)
    write(tmp_path)
    assert under_way(tmp_path) == []


@every_writer
@pytest.mark.filterwarnings("error")  # of a file that nobody has closed
@fault(36, "the disk fills up while something is written", "nothing of it is left; what was there before stays")
def test_an_error_leaves_nothing(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, StoreError)) as caught:
        write(tmp_path)
    assert "No space left" in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert under_way(tmp_path) == []


@every_writer
def test_a_writer_that_is_at_work_keeps_its_file(write: Callable[[Path], object], tmp_path: Path) -> None:
    """Two runs in one folder: the one doesn't sweep away what the other is about to put in its place."""
    (written, told), (go, going) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        fsync = os.fsync

        def wait(descriptor: int) -> None:
            os.fsync = fsync
            os.write(told, b"1")
            os.read(go, 1)

        code = 1
        try:
            os.fsync = wait
            write(tmp_path)
            code = 0
        finally:
            os._exit(code)
    os.close(told)
    assert os.read(written, 1)
    before = under_way(tmp_path)
    assert before
    write(tmp_path)
    sweep(tmp_path)
    assert {path for path in before if path.exists()} == set(before)
    os.write(going, b"1")
    assert os.waitpid(pid, 0)[1] == 0
    assert under_way(tmp_path) == []
    for descriptor in (written, go, going):
        os.close(descriptor)


@pytest.mark.parametrize("old", [False, True])
def test_what_another_machine_writes_goes_by_its_age(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_tag", lambda: "elsewhere")
    there = lease.signature()
    monkeypatch.undo()
    folder = tmp_path / f".tmp-{there}-0"
    folder.mkdir()
    (folder / "cell.json").write_text("{}")
    for path in (folder / "cell.json", folder) if old else (folder,):
        os.utime(path, (0, time.time() - 2 * STALE))
    sweep(tmp_path)
    assert folder.exists() != old


def test_settling_a_cell_removes_what_another_attempt_was_writing(tmp_path: Path) -> None:
    killed_in(a_failure, tmp_path, shoot)
    killed_in(a_score, tmp_path, shoot)
    a_result(tmp_path)
    assert under_way(tmp_path)
    Run(tmp_path).tidy(ROW.cell)
    assert under_way(tmp_path) == []


# what is told


@fault(36, "a result can't be saved, nor can the tables afterwards", "the first error is told; exit 4")
def test_the_first_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(*_: object) -> None:
        raise StoreError("the table can't be written")

    def done(*_: object) -> None:
        raise StoreError("the result can't be written")

    monkeypatch.setattr(frames, "write", table)
    with pytest.raises(StoreError, match="the table"):  # at the end, and not before the other cell
        runner.run(replace(REQUEST, variants=("vae", "ae"), out=str(tmp_path / "run")))
    assert len(list(tmp_path.glob("run/cells/*/scores/*.json"))) == 2
    monkeypatch.setattr(Run, "write_done", done)
    with pytest.raises(StoreError, match="the result"):
        runner.run(replace(REQUEST, out=str(tmp_path / "other")))


def test_a_table_that_cant_be_written_says_nothing_of_the_cells(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        frames.write(tmp_path / "nowhere", [ROW])
    assert str(tmp_path / "nowhere" / "table.csv") in caught.value.what
    assert "safe" not in str(caught.value)


@fault(36, "files are limited to 60,000 bytes (RLIMIT_FSIZE)", "exit 4, no part of a file; the rest without the limit")
def test_a_limit_on_file_sizes_leaves_nothing_half_done(mother: Mother, tmp_path: Path) -> None:
    run, env = tmp_path / "run", environment(tmp_path / "cache")
    grid = (*run_to(run), "--variants", "calm,ae", "--steps", "5", "--metrics", "bce")
    _, said = end(mother.run(*grid, env=env, file_size=60_000), 4)
    assert "can't be written: File too large" in " ".join(said.split())
    assert "table." not in said
    assert under_way(run) == []
    assert [path.name.partition("-")[0] for path in run.glob("cells/*") if (path / "done").exists()] == ["calm"]
    end(mother.run(*grid, env=env), 0)
    assert under_way(run) == []


# modes


MASKS = (0o022, 0o002, 0o077)


def odd(folder: Path, mask: int) -> dict[str, str]:
    """What in a folder has other modes than a umask gives: name and mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode) & ~stat.S_ISGID
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask:
            found[str(path.relative_to(folder))] = oct(mode)
    return found


@contextmanager
def as_umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", MASKS, ids=oct)
@fault(37, "a plugin sets a umask, or a library a mode of its own", "all files and folders have the user's modes")
def test_all_that_a_run_leaves_has_the_users_modes(mother: Mother, tmp_path: Path, mask: int) -> None:
    """Also for a group whose folder hands its group on."""
    shared = tmp_path / "shared"
    shared.mkdir()
    group = next(iter({*os.getgroups(), 1 if os.geteuid() == 0 else os.getegid()} - {os.getegid()}), os.getegid())
    os.chown(shared, -1, group)
    shared.chmod(0o2775)
    run, cache = shared / "run", shared / "cache"
    process = mother.run(
        *run_to(run), "--variants", "ends[way=masks],masks_at_import,raises,slow", "--steps", "60", "--jobs", "2",
        "--metrics", "bce,forks", "--eval-split", "test", "--profile", "--logger", "tensorboard",
        env=environment(cache), umask=mask,
    )  # fmt: skip
    until(lambda: list(run.glob("cells/slow-*/work/checkpoints/0*")))
    there = [run / "run.json", *run.glob("cells/slow-*/lease.json"), *run.glob("cells/slow-*/work/attempt-*/*")]
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in there if path.exists()}
    assert modes.keys() >= {"run.json", "lease.json", "events.jsonl", "log.txt"}
    assert set(modes.values()) == {0o666 & ~mask}
    assert [oct(p.lstat().st_mode) for p in run.glob("cells/slow-*/work/**/0*") if odd(p, mask)] == []
    end(process, 3)
    with as_umask(mask):
        assert cli.main(["report", str(run), "--out", str(run / "report.html")]) == 0
    names = {path.name for path in run.rglob("*")}
    assert names >= {"weights.safetensors", "evidence.safetensors", "samples.png", "table.parquet", "report.html"}
    assert odd(run, mask) == {}
    if cache.exists():
        assert odd(cache, mask) == {}
    assert {path.lstat().st_gid for path in run.rglob("*")} == {group}
    assert all(path.stat().st_mode & stat.S_ISGID for path in run.rglob("*") if path.is_dir())


@pytest.mark.parametrize("mask", MASKS, ids=oct)
@every_writer
def test_what_is_written_after_a_plugin_has_set_a_umask(
    write: Callable[[Path], object], tmp_path: Path, mask: int
) -> None:
    folder = tmp_path / "made"
    with as_umask(mask):
        folder.mkdir()
        with kept_umask():
            os.umask(0o777)
            write(folder)
        assert umask() == mask
        write(folder)
    assert odd(folder, mask) == {}


def test_a_lease_and_a_note_have_the_users_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    with as_umask(0o002), kept_umask():
        os.umask(0o777)
        assert Lease.take(tmp_path / "cell" / "lease.json") is not None
        failures.note("bench.variants", Entry("a", "b", "1.0", "c:d"), "why")
    assert odd(tmp_path / "cell", 0o002) == {}
    assert odd(tmp_path / "cache", 0o002) == {}
