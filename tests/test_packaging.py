"""What the wheel puts into site-packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    source = tmp_path_factory.mktemp("source")
    tracked = ["pyproject.toml", "README.md", "LICENSE", "bench", "variants", "datasets"]
    subprocess.run(["cp", "-r", *[str(ROOT / name) for name in tracked], str(source)], check=True)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("vaebench-*.whl")
    return zipfile.ZipFile(path)


def test_nothing_called_datasets_or_variants_at_the_top(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"bench"}


def test_plugins_networks_and_the_type_marker_are_in(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {
        "bench/variants/vae.py",
        "bench/datasets/digits.py",
        "bench/metrics/likelihood.py",
        "bench/py.typed",
    } <= names
    assert sum(name.endswith(".safetensors") for name in names) == 6
    assert not any("tests" in name.split("/") for name in names)  # bench.testing is for authors


def test_every_module_of_the_tree_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    folders = {"bench": "bench", "variants": "bench/variants", "datasets": "bench/datasets"}
    for source, target in folders.items():
        for path in (ROOT / source).rglob("*.py"):
            assert f"{target}/{path.relative_to(ROOT / source).as_posix()}" in wheel.namelist()
