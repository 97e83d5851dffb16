"""The last failure of each plugin to load, on disk: `bench list` shows it without loading any plugin."""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from bench.plugins.entry import Entry
from bench.util.places import cache_dir
from bench.util.process import make_folder


def _path(group: str, entry: Entry) -> Path:
    key = json.dumps([group, entry.name, entry.distribution, entry.version, entry.value])
    return cache_dir() / "plugins" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _source(entry: Entry) -> str:
    """Return a digest of the file behind an entry, found without importing anything; '' where it can't be found."""
    top, *rest = entry.module.split(".")
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError):
        spec = find_spec(top)
        homes = [Path(p).joinpath(*rest) for p in spec.submodule_search_locations or ()] if spec else []
        files = [f for home in homes for f in (home.with_suffix(".py"), home / "__init__.py")] if rest else []
        file = next((f for f in files if f.is_file()), Path(spec.origin or "") if spec else Path())
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return ""


def note(group: str, entry: Entry, reason: str) -> None:
    """Write down a failure; do nothing where the cache can't be written."""
    from bench.util.durable import write_file  # takes longer to import than most of what only reads

    path = _path(group, entry)
    seen = datetime.now(UTC).isoformat(" ", "minutes")
    text = json.dumps({"reason": " ".join(reason.split())[:500], "seen": seen, "source": _source(entry)})
    with contextlib.suppress(OSError):
        make_folder(path.parent)
        write_file(path, text)


def forget(group: str, entry: Entry) -> None:
    """Remove the failure of an entry that loads now."""
    with contextlib.suppress(OSError):
        _path(group, entry).unlink(missing_ok=True)


def last(group: str, entry: Entry) -> str | None:
    """Return the last failure, with its time; None where there is none, or the plugin's file has changed since."""
    try:
        failure = json.loads(_path(group, entry).read_text(encoding="utf-8"))
        if failure["source"] != _source(entry):  # it may be mended
            return None
        return f"{failure['reason']} (on {failure['seen'][:16]})"
    except (OSError, ValueError, KeyError, TypeError):
        return None
