"""Every executor leaves the same results, whatever becomes of its processes and of its machines."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contracts.events import Event, Listener, Step
from bench.contracts.executor import EXECUTORS, Exit, Job
from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running import runner
from bench.running.executors.ray import Ray
from bench.running.job import Conduct, perform, scoring_key
from bench.running.planning import plan
from bench.running.supervisor import Supervisor, Task
from bench.util.errors import StoreError, UsageError
from bench.util.lease import Lease
from tests.conftest import once
from tests.misbehaving_plugins import install
from tests.unreliable_executor import Chaos

REQUEST = RunRequest(
    variants=("vae", "vqvae", "gan"), datasets=("digits",), steps=100, baseline=False, sanity=False, device="cpu",
    threads=1, jobs=2, checkpoint=0.05, metrics=("elbo", "bce", "kl", "sharpness"),
)  # fmt: skip

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux", reason="needs vaebench[ray], on Linux"
)


@dataclass
class Way:
    """How the request is carried out, and what its rows must show."""

    settings: dict[str, Any]
    listener: Listener = lambda _: None
    proves: Callable[[list[Row]], None] = lambda _: None


Patch = pytest.MonkeyPatch


@contextmanager
def by_local(run: Path, patch: Patch) -> Iterator[Way]:
    yield Way({"executor": "local"})


@contextmanager
def by_chaos(run: Path, patch: Patch) -> Iterator[Way]:
    install(patch, EXECUTORS, chaos="tests.unreliable_executor:Chaos")
    patch.setattr(Chaos, "seed", 71)
    Chaos.did.clear()

    def proves(rows: list[Row]) -> None:
        assert min(Chaos.did[what] for what in ("late", "twice", "killed")) >= 2, Chaos.did
        assert max(row.costs["attempts"] for row in rows) == 3
        assert max(row.costs["resumed_from"] for row in rows) > 0

    yield Way({"executor": "chaos"}, proves=proves)


@contextmanager
def by_ray(run: Path, patch: Patch) -> Iterator[Way]:
    patch.setenv("MKL_NUM_THREADS", "7")
    with cluster_of_three(patch) as cluster:
        loses = Loses(cluster, run)

        def proves(rows: list[Row]) -> None:
            lost = next(row for row in rows if row.cell == loses.cell)
            assert lost.costs["attempts"] == 2
            assert lost.costs["resumed_from"] > 0
            assert not alive(loses.pid)  # it ended with its node
            assert {"CUDA_VISIBLE_DEVICES=0", "BENCH_OFFLINE=1", "BENCH_TEST=1"} <= set(loses.environment)
            others = [text for text in loses.environment if text.startswith(("RAY_", "OMP_", "MKL_"))]
            assert others == ["OMP_NUM_THREADS=3"]  # as the driver has it, and not as Ray or its node have
            executor = Ray(1, address=cluster.address)
            try:
                with pytest.raises(UsageError, match="no machine of the cluster has room for a cell of 9 CPU threads"):
                    executor.start(a_job(run, threads=9))
            finally:
                executor.close()

        try:
            patch.setenv("BENCH_TEST", "1")
            patch.delenv("MKL_NUM_THREADS")
            patch.setenv("OMP_NUM_THREADS", "3")
            yield Way({"executor": "ray", "address": cluster.address, "gpus_per_cell": 0.5}, loses, proves)
        finally:
            for pid in loses.stopped:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def cluster_of_three(patch: Patch) -> Iterator[Any]:
    """Three machines of one CPU each, as far as Ray can tell."""
    home = Path(tempfile.mkdtemp(prefix="cluster-test-", dir="/tmp"))
    (home / "ray").mkdir()
    patch.setenv("RAY_TMPDIR", str(home))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on the loopback
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    plain = {
        "num_cpus": 1,
        "num_gpus": 1,
        "object_store_memory": 80 * 2**20,
        "include_dashboard": False,
        "include_log_monitor": False,
        "temp_dir": str(home / "ray"),
    }

    def start() -> Any:
        cluster = Cluster()
        try:
            for more in ({"_system_config": soon}, {}, {}):
                cluster.add_node(wait=False, **plain, **more)
            cluster.wait_for_nodes()
        except BaseException:
            cluster.shutdown()
            raise
        return cluster

    cluster = None
    try:
        try:
            cluster = start()
        except Exception:  # Ray gives a node half a minute, which isn't enough on a machine that is very busy
            cluster = start()
        yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        shutil.rmtree(home, ignore_errors=True)


def a_job(run: Path, **settings: Any) -> Job:
    return Job(
        folder=str(run), cell="cell", attempt="attempt", variant="vae", hyperparameters={}, baseline=False,
        sanity=False, dataset="digits", seed=0, metrics=(),
        request=REQUEST.to_json(), **{"device": "cpu", "threads": 1, **settings},
    )  # fmt: skip


@dataclass
class Loses:
    """Takes a machine away in the midst of a cell that has a checkpoint."""

    cluster: Any
    run: Path
    cell: str = ""
    pid: int = 0
    environment: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if self.cell or not isinstance(event, Step):
            return
        for node in list(self.cluster.worker_nodes):
            raylet = node.all_processes["raylet"][0].process.pid
            for pid, cell in jobs_under(raylet, self.run).items():
                home = self.run / "cells" / cell
                os.kill(pid, signal.SIGSTOP)  # so that it can't finish meanwhile
                self.stopped.append(pid)
                if any((home / "work" / "checkpoints").glob("0*")) and not (home / "done").exists():
                    self.cell, self.pid = cell, pid
                    self.environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
                    self.cluster.remove_node(node, allow_graceful=False)
                    return
                os.kill(pid, signal.SIGCONT)


def descendants(root: int) -> dict[int, list[str]]:
    """Command lines of the processes below one."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_text().split("\0")
    found, todo = {}, [root]
    while todo:
        children = [pid for pid, parent in parents.items() if parent == todo[0] and pid in commands]
        found.update({pid: commands[pid] for pid in children})
        todo = todo[1:] + children
    return found


def jobs_under(root: int, run: Path) -> dict[int, str]:
    """The cells of a run by the processes below one that do them."""
    cells = run.resolve() / "cells"
    orders = {pid: Path(c[3]) for pid, c in descendants(root).items() if c[1:3] == ["-m", "bench.running.worker"]}
    return {pid: path.relative_to(cells).parts[0] for pid, path in orders.items() if cells in path.parents}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of one process that does one cell after the other."""

    def make(folder: Path) -> None:
        with Patch.context() as patch:
            patch.setenv("BENCH_CACHE", str(folder / "cache"))
            patch.setenv("BENCH_OFFLINE", "1")
            runner.run(replace(REQUEST, in_process=True, jobs=1, out=str(folder / "run")))

    return Run(once(tmp_path_factory, "reference", make) / "run")


@pytest.mark.xdist_group("executors")  # so that nobody waits for the reference
@pytest.mark.parametrize("by", [by_local, by_chaos, pytest.param(by_ray, marks=needs_ray)])
def test_every_executor_leaves_the_same_table(
    by: Callable[[Path, Patch], AbstractContextManager[Way]],
    reference: Run,
    tmp_path: Path,
    monkeypatch: Patch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with by(out, monkeypatch) as way:
        rows = runner.run(replace(REQUEST, out=str(out), **way.settings), way.listener)
        assert [(row.label, row.status, row.reason) for row in rows] == [(v, "ok", "") for v in REQUEST.variants]
        way.proves(rows)
    assert (out / "table.csv").read_bytes() == (reference.path / "table.csv").read_bytes()
    assert list(out.glob("cells/*/work")) == []
    assert list(out.glob("cells/*/lease.json")) == []
    assert capfd.readouterr().out == ""


@needs_ray
@pytest.mark.costly
def test_a_ray_of_our_own_is_private_and_leaves_nothing(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)  # no UNIX socket has room in there
    long.mkdir()
    strangers = str(Path(__file__).parents[1] / "third_party")
    before = set(Path("/tmp").glob("ray-*"))
    process = subprocess.Popen(
        [
            sys.executable, "-m", "bench.cli", "run", "--json", "--executor", "ray", "--jobs", "2", "--threads", "1",
            "--variants", "gan,segfaults", "--no-baseline", "--no-sanity", "--steps", "100000", "--checkpoint", "0.05",
            "--metrics", "elbo", "--device", "cpu", "--out", str(tmp_path / "run"),
        ],
        env={**os.environ, "PYTHONPATH": strangers, "TMPDIR": str(long), "RAY_ADDRESS": "127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    family: dict[int, list[str]] = {}
    try:
        cells, until = tmp_path / "run" / "cells", time.monotonic() + 120
        while not (
            list(cells.glob("gan-*/work/checkpoints/0*")) and list(cells.glob("segfaults-*/failed/1/cell.json"))
        ):
            assert process.poll() is None and time.monotonic() < until, process.stderr and process.stderr.read()  # noqa: PT018
            time.sleep(0.05)
        family = descendants(process.pid)
        (home,) = set(Path("/tmp").glob("ray-*")) - before
        assert home.stat().st_mode & 0o077 == 0
        (job,) = jobs_under(process.pid, tmp_path / "run")
        assert "CUDA_VISIBLE_DEVICES=" in Path(f"/proc/{job}/environ").read_text().split("\0")  # it reserved none
        open_to_others = [address for address in listening({process.pid, *family}) if not address.endswith("0100007F")]
        assert open_to_others == []
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    rows = {row["variant"]: row for row in json.loads(out)}
    assert rows["gan"]["status"] == "interrupted"
    assert rows["segfaults"]["status"] == "failed"
    assert "signal SIGSEGV" in rows["segfaults"]["reason"]
    assert list(cells.glob("gan-*/work/checkpoints/0*"))
    assert [pid for pid in family if alive(pid)] == []
    assert set(Path("/tmp").glob("ray-*")) <= before


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening(pids: set[int]) -> list[str]:
    """The addresses, in hexadecimal, at which processes take TCP connections."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(os.readlink(link))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    found = [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    assert found  # else nothing is shown
    return found


def test_without_ray_its_executor_says_what_to_install(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    environment = dict(os.environ)
    with pytest.raises(UsageError) as caught:
        Ray(2)
    assert caught.value.fix == "pip install 'vaebench[ray]'"
    assert dict(os.environ) == environment


@needs_ray
def test_a_cluster_that_isnt_there_is_said_soon() -> None:
    with pytest.raises(UsageError, match=r"no Ray cluster can be used at '127.0.0.1:1'"):
        Ray(2, address="127.0.0.1:1")


def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--address here:1"):
        runner.run(replace(REQUEST, address="here:1", out=str(tmp_path / "run")))


class Scripted:
    """An executor that says of each attempt what a test wants to be true."""

    slots = 1

    def __init__(self, poll: Callable[[Job], Exit | None], begun: Callable[[], bool] = lambda: True) -> None:
        self._poll, self._begun = poll, begun
        self.jobs: list[Job] = []
        self.signals: list[int] = []

    def start(self, job: Job) -> Job:
        self.jobs.append(job)
        return job

    def begun(self, handle: Job) -> bool:
        return self._begun()

    def poll(self, handle: Job) -> Exit | None:
        return self._poll(handle)

    def stop(self, handle: Job, signal: int) -> None:
        self.signals.append(signal)

    def close(self) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Run:
    """A run of one cell that is settled whatever its attempts come to."""
    store = Run(tmp_path / "run")
    store.create(REQUEST)
    store.write_failed(ROW, "")
    return store


ROW = Row("vae", "vae", "digits", 0, "skipped", "", cell="cell")


def test_no_limit_of_time_counts_while_a_job_waits_for_its_place(store: Run) -> None:
    until = time.monotonic() + 1
    begun = lambda: time.monotonic() > until  # noqa: E731
    queue = Scripted(lambda _: Exit(0) if begun() else None, begun)
    supervisor = Supervisor(queue, store, lambda _: None, timeout=0.2, stall=0.2)  # type: ignore[arg-type]
    assert len(list(supervisor.run([Task(a_job(store.path), ROW, lambda: False)]))) == 1
    assert queue.signals == []


def test_a_metric_is_to_blame_for_a_kill_only_when_it_happens_again_and_again(store: Run, monkeypatch: Patch) -> None:
    monkeypatch.setattr(store, "is_done", lambda _: True)

    def poll(job: Job) -> Exit:
        if job.dead:
            return Exit(0)
        home = store.work(job.cell) / job.attempt
        (home / "log.txt").touch()
        (home / "events.jsonl").write_text('{"event": "Scoring", "cell": "cell", "metric": "kl"}\n')
        return Exit(None, signal.SIGKILL, "its node was lost")

    nodes = Scripted(poll)
    supervisor = Supervisor(nodes, store, lambda _: None)  # type: ignore[arg-type]
    list(supervisor.run([Task(a_job(store.path), ROW, lambda: False)]))
    assert [dict(job.dead) for job in nodes.jobs] == [{}, {}, {}, {"kl": "signal SIGKILL (its node was lost)"}]


def test_a_job_that_no_executor_takes_leaves_its_cell_to_others(store: Run) -> None:
    class Refuses(Scripted):
        def start(self, job: Job) -> Job:
            raise UsageError("no machine is large enough")

    supervisor = Supervisor(Refuses(lambda _: None), store, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="large enough"):
        list(supervisor.run([Task(a_job(store.path), ROW, lambda: False)]))
    assert Lease.take(store.cells / "cell" / "lease.json") is not None


def test_attempts_at_once_lose_none_of_each_others_scores(store: Run) -> None:
    way = {"split": "test"}
    store.write_scores("cell", way, {"elbo": Score(1.0, 2), "kl": Score(3.0, 4)}, {})
    store.write_scores("cell", way, {"elbo": Score(1.0, 2)}, {})
    assert store.read_scores("cell", way) == {"elbo": Score(1.0, 2), "kl": Score(3.0, 4)}


@pytest.mark.parametrize("first", [True, False], ids=["done", "not done"])
def test_whose_checkpoints_are_tidied_away_goes_on_to_score(
    first: bool, reference: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Another attempt was first, and took the folder away that this one was writing to."""
    other = shutil.copytree(reference.path, tmp_path / "run")
    (planned,) = plan(replace(REQUEST, variants=("vae",), out=str(other))).cells
    done = other / "cells" / planned.name / "done"
    shutil.move(done, tmp_path / "done")
    shutil.rmtree(done.parent / "scores")
    store = Run(other)

    def save(*_: object) -> None:
        if first:
            shutil.move(tmp_path / "done", done)
        raise StoreError("no such folder")

    monkeypatch.setattr("bench.engine.checkpoint.Checkpoints.save", save)
    conduct = Conduct(torch.device("cpu"), threads=1, checkpoint=0.0)
    metrics = {"kl": METRICS.load("kl")}
    with nullcontext() if first else pytest.raises(StoreError, match="no such folder"):
        perform(planned.todo, metrics, store, lambda _: None, conduct)
    assert set(store.read_scores(planned.name, scoring_key(planned.todo))) == ({"kl"} if first else set())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process die with its parent")
@pytest.mark.parametrize("wait", [0.0, 2.0], ids=["before it asked", "later"])
def test_a_worker_ends_with_the_process_that_started_it(wait: float, tmp_path: Path) -> None:
    fifo = tmp_path / "job.json"
    os.mkfifo(fifo)  # whoever reads it waits
    code = f"""
import os, subprocess, sys, time
command = [sys.executable, "-m", "bench.running.worker", {str(fifo)!r}, str(os.getpid())]
child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
print(child.pid, flush=True)
time.sleep({wait})
os.kill(os.getpid(), 9)
"""
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child, until = int(parent.stdout), time.monotonic() + 20
    try:
        while alive(child):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
