"""Paths that users type: each names a run, its cells, or one of them."""

from __future__ import annotations

import os
from pathlib import Path

from bench.results.store import Run
from bench.util.errors import StoreError, UsageError

PARTS = ("done", "failed", "work", "scores")  # every cell has one of these folders


def opened(path: Path | str) -> Run:
    """Return the run in the folder `path`.

    Raises:
        StoreError: it is no run's folder.
    """
    run = Run(path)
    if Path(path).is_file():
        raise StoreError(
            f"{path} is a file, not a run's folder",
            cause="Rows printed by `bench table --json` are enough for `bench table`, `compare` and `pareto` only.",
            fix="Name the folder of a run; `ls results` shows yours.",
        )
    run.require()
    return run


def cells(path: Path | str) -> tuple[Run, list[str]]:
    """Return the cells that `path` names: all of a run, a cell's folder, or the beginning of cells' names in a run.

    Raises:
        StoreError: there are none.
    """
    path = Path(path)
    if path.name in ("", ".."):
        path = path.resolve()
    if os.path.lexists(path / "run.json"):
        run = opened(path)
        return run, run.names()
    if path.is_symlink() and path.parent.name != "cells":  # a user's own name for a cell
        path = path.resolve()
    if path.name == "done":
        path = path.parent
    if any((path / part).is_dir() for part in PARTS):
        return Run(path.parent.parent, path.parent), [path.name]  # even if the cells were copied out of their run
    for folder in (path.parent, path.parent / "cells"):
        if folder.name == "cells" and folder.is_dir():
            run = Run(folder.parent, folder)
            if names := [name for name in run.names() if name.startswith(path.name)]:
                return run, names
    raise StoreError(
        f"no run and no cell lies at {path}",
        cause="A run's folder has a run.json, a cell's folder a done/, failed/ or work/.",
        fix="Cells lie in results/<run>/cells/; the beginning of a cell's name is enough.",
    )


def one(path: Path | str) -> tuple[Run, str]:
    """Return the one cell that `path` names.

    Raises:
        StoreError: there is none.
        UsageError: there are several.
    """
    run, names = cells(path)
    if len(names) != 1:
        some = [*names[:12], *([f"and {len(names) - 12} more"] if len(names) > 12 else [])]
        raise UsageError(f"{path} is {len(names)} cells", cause="\n".join(some), fix="Name one of them.")
    return run, names[0]
