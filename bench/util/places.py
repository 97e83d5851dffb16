"""The cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_dir() -> Path:
    """Return the folder of files that can be made again: `BENCH_CACHE`, else the user's cache directory."""
    given = os.environ.get("BENCH_CACHE")
    return Path(os.path.expanduser(given)) if given else user_cache_path("vaebench", appauthor=False)
