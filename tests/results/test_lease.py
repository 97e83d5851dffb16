"""Leases: a living owner keeps his, a dead one's is taken, whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.util import lease
from bench.util.lease import STALE, Lease, held

fault = pytest.mark.fault


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cell" / "lease.json"


def test_one_owner_at_a_time(path: Path) -> None:
    first = Lease.take(path)
    assert first is not None
    assert Lease.take(path) is None
    assert held(path)
    first.release()
    assert not path.exists()
    assert Lease.take(path) is not None


def test_the_lease_of_a_dead_process_is_taken_at_once(path: Path) -> None:
    code = f"from bench.util.lease import Lease; from pathlib import Path; assert Lease.take(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.exists()
    assert not held(path)
    assert Lease.take(path) is not None
    assert [p.name for p in path.parent.iterdir()] == ["lease.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="shown by /proc")
def test_the_lease_of_a_process_that_nobody_has_asked_after_is_taken(path: Path) -> None:
    """As below a container's first process, which may be no shell and no init."""
    pid = os.fork()
    if pid == 0:
        try:
            Lease.take(path)
        finally:
            os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not held(path)
    assert Lease.take(path) is not None
    os.waitpid(pid, 0)


def test_a_later_process_of_the_same_number_is_another(path: Path) -> None:
    assert Lease.take(path)
    rewrite(path, started="1")
    assert not held(path)


@fault(19, "clock jumps of two days, forwards and backwards", "no living owner on this machine loses a lease")
@pytest.mark.parametrize("jump", [-2 * 86400, 2 * 86400])
def test_clocks_do_not_count_on_one_machine(path: Path, jump: float) -> None:
    assert Lease.take(path)
    os.utime(path, (time.time() + jump,) * 2)
    assert held(path)
    assert Lease.take(path) is None


@fault(
    17, "a lease whose owner on another machine has fallen silent", "taken after ten times the heartbeat, not before"
)
def test_another_machines_lease_is_judged_by_the_file_systems_clock(path: Path) -> None:
    assert Lease.take(path)
    rewrite(path, host="elsewhere", pid=1)
    assert held(path)
    os.utime(path, (time.time() - STALE + 20,) * 2)
    assert Lease.take(path) is None
    os.utime(path, (time.time() - STALE - 20,) * 2)
    assert Lease.take(path) is not None


def test_a_lease_that_was_taken_from_us_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Lease.take(path)
    assert ours is not None
    rewrite(path, owner="somebody else")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(lease, "RENEW", 0.0)
    ours.renew()
    ours.release()
    assert path.stat().st_mtime_ns == before


def test_renewing_is_a_sign_of_life(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Lease.take(path)
    assert ours is not None
    os.utime(path, (0, 0))
    ours.renew()
    assert path.stat().st_mtime == 0  # not yet due
    monkeypatch.setattr(lease, "RENEW", 0.0)
    ours.renew()
    assert time.time() - path.stat().st_mtime < 60


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}"])
def test_a_torn_lease_is_honoured_for_a_moment_and_then_taken(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    if text != "{}":
        assert Lease.take(path) is None
    os.utime(path, (time.time() - 2 * STALE,) * 2)
    assert Lease.take(path) is not None


def test_many_at_once_have_one_winner(path: Path) -> None:
    code = (
        "from bench.util.lease import Lease; from pathlib import Path; import time, sys\n"
        f"got = Lease.take(Path({str(path)!r})); print(int(got is not None), flush=True); sys.stdin.read()"
    )
    path.parent.mkdir()
    path.write_text(json.dumps({**lease._process(2**22 + 1), "owner": "dead"}))  # to be stolen by one of them
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    won = [r.stdout.readline().strip() for r in racers if r.stdout]
    for racer in racers:
        racer.communicate("")
    assert sorted(won) == ["0"] * 5 + ["1"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["FIFO", "link"])
def test_what_is_no_file_is_nobodys_lease(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "cell" / "lease.json"
    path.parent.mkdir()
    make(path)
    assert not lease.held(path)
    taken = Lease.take(path)
    assert taken is not None
    assert path.is_file()
    taken.release()
    assert not os.path.lexists(path)
