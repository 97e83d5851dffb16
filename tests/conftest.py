"""What the tests share: real data by the user's own setting, and small runs of the one trainer and evaluator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bench.data import load
from bench.dataset import Data
from bench.evaluator import Evaluator
from bench.grid import expand
from bench.metric import METRICS, NotAvailable, Score
from bench.protocol import RunRequest, Scoring, Training
from bench.trainer import train
from bench.variant import Spec, Variant

torch.set_num_threads(1)  # tests run side by side; sums in one order


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test caches outlives the session or comes from the user's own."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("BENCH_OFFLINE", "1")


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
    (config,) = expand(RunRequest(variants=(selector,), baseline=False))
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
