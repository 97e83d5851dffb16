"""`--profile`: what its parts add up to, that it changes nothing, and that the trace is one."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench.contracts.protocol import RunRequest
from bench.engine.profiling import PARTS, TRACE, printed, profiles, summed
from bench.running.planning import default_folder
from bench.running.runner import run

STEP = "ProfilerStep*"
GRAD = "autograd::engine::evaluate_function: AddBackward0"
ADAM = "Optimizer.step#Adam.step"


def event(name: str, start: float, end: float, own: float = 0.0, device: str = "CPU") -> Any:
    """One of torch's profiler, in microseconds."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        device_type=SimpleNamespace(name=device),
        is_user_annotation=name in (STEP, "data", ADAM),
        self_cpu_time_total=own,
        self_device_time_total=0.0,
    )


ONE = [event("data", 5, 15), event(GRAD, 45, 60), event(GRAD, 60, 75), event(ADAM, 80, 95)]


def test_a_step_is_the_sum_of_its_parts() -> None:
    found = summed([event(STEP, 0, 100), *ONE])
    assert found["steps"] == 1
    assert found["parts_ms"] == pytest.approx(
        {"data": 0.010, "forward": 0.030, "backward": 0.030, "optimizer": 0.015, "bookkeeping": 0.015}
    )


def test_a_second_phase_has_a_forward_pass_of_its_own() -> None:
    second = [event(GRAD, 120, 130), event(ADAM, 130, 140)]
    found = summed([event(STEP, 0, 150), *ONE, *second])["parts_ms"]
    assert found["forward"] == pytest.approx(0.030 + 0.025)
    assert found["backward"] == pytest.approx(0.040)
    assert sum(found.values()) == pytest.approx(0.150)


def test_operations_are_per_step_and_the_longest_first() -> None:
    steps = [event(STEP, 0, 100), event(STEP, 100, 200)]
    work = [event("mm", 10, 20, own=6), event("mm", 110, 120, own=8), event("add", 30, 31, own=1)]
    outside = [event("mm", 300, 400, own=1_000)]
    found = summed([*steps, *work, *outside])
    assert found["step_ms"] == pytest.approx(0.1)
    assert [(o["name"], o["calls"], o["cpu_ms"]) for o in found["operations"]] == [
        ("mm", 1.0, pytest.approx(0.007)),
        ("add", 0.5, pytest.approx(0.0005)),
    ]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> RunRequest:
    """A run that was profiled."""
    out = tmp_path_factory.mktemp("profiled") / "run"
    request = RunRequest(
        ("vae",), ("digits",), steps=48, baseline=False, sanity=False, metrics=("psnr",), in_process=True, threads=1,
        device="cpu", out=str(out), profile=True,
    )  # fmt: skip
    assert [row.status for row in run(request)] == ["ok"]
    return request


def test_profiled_weights_are_the_same_to_the_bit(asked: RunRequest, tmp_path: Path) -> None:
    (row,) = run(replace(asked, profile=False, out=str(tmp_path)))
    weights = [Path(home) / "cells" / row.cell / "done" / "weights.safetensors" for home in (str(asked.out), tmp_path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "cells" / row.cell / "profile").exists()
    assert default_folder(asked) == default_folder(replace(asked, profile=False))
    assert not asked.lasting().profile


def test_its_trace_opens_and_its_table_adds_up(asked: RunRequest) -> None:
    (cell,) = (Path(str(asked.out)) / "cells").iterdir()
    (found,) = profiles(cell.parent, [(cell.name, "vae")])
    assert found.sums["steps"] == 30
    assert found.sums["parts_ms"].keys() == set(PARTS)
    assert all(ms > 0 for ms in found.sums["parts_ms"].values())
    assert sum(found.sums["parts_ms"].values()) == pytest.approx(found.sums["step_ms"])
    with gzip.open(found.folder / TRACE) as file:
        events = json.load(file)["traceEvents"]
    names = [e["name"] for e in events if e.get("ph") == "X"]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 30
    assert names.count("data") == 30
    assert "aten::addmm" in names
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        for part in printed(found):
            console.print(part, soft_wrap=isinstance(part, str))
    shown = capture.get()
    assert f"backward {found.sums['parts_ms']['backward'] / found.sums['step_ms']:.0%}" in shown
    assert all(o["name"] in shown for o in found.sums["operations"])
