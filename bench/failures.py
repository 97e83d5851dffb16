"""How each plugin failed when it was last loaded, so that `bench list` can tell without loading any."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from bench.entry import Entry
from bench.places import cache_dir


def _path(group: str, entry: Entry) -> Path:
    key = json.dumps([group, entry.name, entry.distribution, entry.version, entry.value])
    return cache_dir() / "plugins" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def note(group: str, entry: Entry, reason: str) -> None:
    """Remember a failure. A cache that can't be written is none."""
    path = _path(group, entry)
    text = json.dumps({"reason": " ".join(reason.split())[:500], "seen": datetime.now(UTC).isoformat(" ", "minutes")})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def forget(group: str, entry: Entry) -> None:
    """It loads now."""
    with contextlib.suppress(OSError):
        _path(group, entry).unlink(missing_ok=True)


def last(group: str, entry: Entry) -> str | None:
    """The failure that was noted last, with its time; None where there is none."""
    try:
        found = json.loads(_path(group, entry).read_text(encoding="utf-8"))
        return f"{found['reason']} (on {found['seen'][:16]})"
    except (OSError, ValueError, KeyError, TypeError):
        return None
