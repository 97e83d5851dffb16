"""`--profile`: it changes no weight, its trace can be read, and its table is printed."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.contracts.protocol import RunRequest
from bench.engine.profiling import TRACE, printed, profiles
from bench.running.planning import default_folder
from bench.running.runner import run


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


def test_its_trace_opens_and_its_table_is_printed(asked: RunRequest) -> None:
    (cell,) = (Path(str(asked.out)) / "cells").iterdir()
    (found,) = profiles(cell.parent, [(cell.name, "vae")])
    with gzip.open(found.folder / TRACE) as file:
        events = json.load(file)["traceEvents"]
    names = [e["name"] for e in events if e.get("ph") == "X"]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 30
    assert "aten::addmm" in names
    assert "Self CPU" in found.table
    assert "aten::" in found.table
    label, table, trace = printed(found)
    assert (label, table) == ("vae", found.table)
    assert str(found.folder / TRACE) in trace
    assert profiles(cell.parent, [("another", "vae")]) == []
