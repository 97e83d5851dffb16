"""`bench run` as a user types it, and what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PLAIN = ("--no-baseline", "--no-sanity", "--quiet")


@dataclass(frozen=True)
class Cost:
    """Of a run: its own process, its fork server and all its cells."""

    wall: float  #: seconds
    cpu: float  #: CPU seconds
    peak: float  #: MiB of the largest of its processes


def run(*options: object) -> Cost:
    """Do a run in a folder that is thrown away.

    Raises:
        SystemExit: it failed; what it said.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        out = ("--out", Path(folder) / "run")
        command = [sys.executable, "-m", "bench.cli", "run", *map(str, (*options, *PLAIN, *out))]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)  # what its descendants used is in it
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode()}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
