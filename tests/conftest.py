"""What the tests share: real data by the user's own setting, and small runs of the one trainer and evaluator."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
import torch

from bench import cli
from bench.contracts.dataset import Data
from bench.contracts.measurement import METRICS, NotAvailable, Score
from bench.contracts.protocol import RunRequest, Scoring, Training
from bench.contracts.variant import Spec, Variant
from bench.data import load
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.running.grid import expand
from bench.util.threads import limited
from tests.warm_process import Mother, instead


@pytest.fixture(scope="session", autouse=True)
def _side_by_side() -> Iterator[None]:
    """Tests run in processes side by side; sums come out in one order."""
    with limited(1):
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A run in this process leaves its threads behind, and those of processes side by side wait for each other."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test caches outlives the session or comes from the user's own."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("BENCH_OFFLINE", "1")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills in the first of the tests' processes that asks for it; the others wait."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def mother() -> Iterator[Mother]:
    """Where runs in processes of their own come from, without the seconds that imports take."""
    mother = Mother()
    yield mother
    mother.close()


@pytest.fixture
def warm_servers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the servers that a test launches from `mother`, which saves their imports; other tests launch real ones."""
    launch = lambda *a, **k: request.getfixturevalue("mother").server(*a, **k)  # noqa: E731
    monkeypatch.setattr("bench.running.executors.local.subprocess", instead(launch))


Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run the command line: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("BENCH_DEBUG", raising=False)

    def call(*argv: object) -> tuple[int, str, str]:
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call


def real(name: str) -> Data:
    """MNIST or Fashion-MNIST from the folder that BENCH_DATA names."""
    root = os.environ.get("BENCH_DATA")
    folder = {"mnist": "MNIST", "fashion": "FashionMNIST"}[name]
    if not root or not (Path(root) / folder / "raw").is_dir():
        pytest.skip(f"BENCH_DATA names no folder that holds {folder}: `bench data fetch {name}` brings it")
    return load(name, Path(root))


@pytest.fixture(scope="session")
def digits() -> Data:
    return load("digits", Path())


@pytest.fixture(scope="session")
def mnist() -> Data:
    return real("mnist")


@pytest.fixture(scope="session")
def fashion() -> Data:
    return real("fashion")


def build(selector: str, data: Data, *, likelihood: str | None = None, seed: int = 0) -> Variant:
    """A fresh model of one selector."""
    (config,) = expand(RunRequest(variants=(selector,), baseline=False, sanity=False))
    shape = data.train.shape
    spec = Spec(shape, data.classes, len(data.train), data.latent_dim, likelihood or data.likelihood)
    return config.build(spec, seed)


Scores = dict[str, Score | NotAvailable]


def trained(
    selector: str, data: Data, steps: int, *, lr: float = 1e-3, likelihood: str | None = None, seed: int = 0
) -> Variant:
    """A model trained by the one trainer."""
    model = build(selector, data, likelihood=likelihood, seed=seed)
    train(model, data.train, Training(steps, lr=lr), seed=seed)
    return model


def scored(model: Variant, data: Data, *metrics: str, scoring: Scoring | None = None) -> dict[str, float]:
    """Values of these metrics by the one evaluator."""
    evaluator = Evaluator(model, data, scoring or Scoring(), Path(os.environ["BENCH_CACHE"]))
    found = {name: evaluator.score(METRICS.load(name))[0] for name in metrics}
    missing = {name: s.reason for name, s in found.items() if isinstance(s, NotAvailable)}
    assert not missing
    return {name: s.value for name, s in found.items() if isinstance(s, Score)}


# docs/faults.md: `pytest --faults docs/faults.md`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", help="write the table of faults, expected and seen")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in slow or item.nodeid.partition("[")[0] in slow:
            item.add_marker("slow")
        for marker in item.iter_markers("fault"):
            item.user_properties.append(("fault", list(marker.args)))


class _Faults:
    """What was seen of each fault."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[tuple[int, str, str], list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            for name, found in report.user_properties:
                if name == "fault":
                    number, what, expected = found  # type: ignore[misc]
                    self.seen.setdefault((int(number), what, expected), []).append(report.outcome)

    def pytest_sessionfinish(self) -> None:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        lines = [
            "# Faults: what goes wrong, what should come of it, and what was seen",
            "",
            f"Generated by `make faults` on {date.today()}, at commit {commit.stdout.strip()}; each line is a test or "
            f"several. Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}.",
            "",
            "| | fault | expected | seen |",
            "|---|---|---|---|",
        ]
        for (number, what, expected), outcomes in sorted(self.seen.items(), key=lambda x: (x[0][0] or 99, x[0][1])):
            counts = Counter(outcomes)
            seen = "as expected" if set(counts) == {"passed"} else ", ".join(f"{n} {o}" for o, n in counts.items())
            times = f" ({len(outcomes)} tests)" if len(outcomes) > 1 else ""
            lines.append(f"| {number or ''} | {_md(what)} | {_md(expected)} | {seen}{times} |")
        lines += [
            "",
            "Not made in these tests, for want of the machine: CUDA out of memory in one of two cells on a GPU",
        ]
        lines += [
            "(24), the kernel's own out-of-memory killer (23, by a refused allocation instead), network file systems."
        ]
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _md(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--faults")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Faults(Path(path)))
