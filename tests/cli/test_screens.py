"""Screens as a user sees them, word for word: tests/golden/*.txt, 100 columns wide.

`python -m tests.cli.test_screens` records them anew, after a change of words that is meant.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
SCREENS = {"help": ["--help"], "run-help": ["run", "--help"], "list": ["list"], "info-vae": ["info", "vae"]}


def screen(arguments: list[str]) -> str:
    """Return what a command prints with the built-in plugins alone, without spaces at line ends and version."""
    env = {**os.environ, "COLUMNS": "100", "BENCH_DISABLE_PLUGINS": "1"}
    command = [sys.executable, "-m", "bench.cli", *arguments]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return "".join(f"{line.rstrip()}\n" for line in out.splitlines()).replace(version("vaebench"), "VERSION")


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_recorded(name: str) -> None:
    recorded = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert screen(SCREENS[name]) == recorded, "if this change is meant: python -m tests.cli.test_screens"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, arguments in SCREENS.items():
        (GOLDEN / f"{name}.txt").write_text(screen(arguments), encoding="utf-8")
