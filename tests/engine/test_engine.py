"""Weights are what they were when `ENGINE` was raised last: a change of numbers needs a new version, prose does not.

`python -m tests.engine.test_engine` records the weights of this version in tests/assets/engine.json.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch

from bench.contracts.dataset import Data
from bench.contracts.likelihood import LIKELIHOODS
from bench.contracts.protocol import ENGINE, Training
from bench.contracts.variant import VARIANTS, Variant
from bench.data import load
from bench.engine.trainer import train, train_together
from bench.util.threads import limited
from tests.conftest import build

RECORD = Path(__file__).parents[1] / "assets" / "engine.json"
SELECTORS = (*sorted(VARIANTS), "vae[backbone=conv]", "cvae[backbone=conv]")


STACKED = "two seeds of vae, stacked"


def cases() -> list[tuple[str, str | None]]:
    alone = [*((selector, None) for selector in SELECTORS), *(("vae", likelihood) for likelihood in LIKELIHOODS)]
    return [*alone, (STACKED, None)]


def made(selector: str, likelihood: str | None, data: Data) -> Variant:
    training = Training(6, batch_size=32)
    if selector == STACKED:
        models = [build("vae", data, seed=seed) for seed in (3, 4)]
        train_together(models, data.train, training, (3, 4))
        return models[1]
    model = build(selector, data, likelihood=likelihood, seed=3)
    train(model, data.train, training, seed=3)
    return model


def bits(model: Variant) -> str:
    """Return a digest of the weights and buffers, to the last bit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def size(model: Variant) -> float:
    """Return the root mean square of the weights, which other machines come near to."""
    flat = torch.cat([t.double().flatten() for t in model.state_dict().values()] or [torch.zeros(1).double()])
    return float(flat.square().mean().sqrt())


def machine() -> str:
    """Return what decides the last bit of a sum, beside the code."""
    return f"torch {torch.__version__.partition('+')[0]} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize(("selector", "likelihood"), cases())
def test_weights_change_with_the_engine_version_alone(selector: str, likelihood: str | None, digits: Data) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert record["engine"] == ENGINE, "a new version: record its weights with `python -m tests.engine.test_engine`"
    model = made(selector, likelihood, digits)
    then = record["weights"][f"{selector} {likelihood or ''}".strip()]
    assert size(model) == pytest.approx(then["size"], rel=1e-4), (
        "weights changed: raise ENGINE in bench/contracts/protocol.py"
    )
    if (exact := then["bits"].get(machine())) is not None:
        assert bits(model) == exact, "weights changed: raise ENGINE in bench/contracts/protocol.py"


if __name__ == "__main__":
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"engine": ""}
    kept = before["weights"] if before["engine"] == ENGINE else {}
    with limited(1):
        digits = load("digits", Path())
        for selector, likelihood in cases():
            name, model = f"{selector} {likelihood or ''}".strip(), made(selector, likelihood, digits)
            others = kept.get(name, {"bits": {}})["bits"]
            kept[name] = {"size": size(model), "bits": {**others, machine(): bits(model)}}
    RECORD.write_text(json.dumps({"engine": ENGINE, "weights": kept}, indent=1) + "\n", encoding="utf-8")
