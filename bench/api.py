"""The functions of the Python interface: `bench.run` and `bench.load`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contracts.protocol import RunRequest
from bench.plugins.hyperparameters import split
from bench.plugins.unpublished import adopt, hand_over
from bench.util.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from bench.contracts.variant import Variant


def run(
    variants: str | type[Variant] | Iterable[str | type[Variant]] = (),
    dataset: str | Iterable[str] = (),
    *,
    seeds: int | Iterable[int] = 1,
    set: Mapping[str, Any] | Iterable[str] = (),
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Train and score variants on datasets, as `bench run` does, and return a table with one row for each cell.

    A notebook shows the table as means over seeds, with samples below.

        bench.run("vae,beta", "fashion", seeds=3)
        bench.run([MyVAE, "vae"], "digits", set={"beta.beta": 10}, steps=300, out="results/monday")

    Args:
        variants: names with settings ('vae', 'beta[beta=1|4]'), files ('./mine.py:Mine') or classes; by default all
            installed variants. A class that was defined in a notebook is trained in the notebook's process.
        dataset: one name or several; by default the embedded dataset.
        seeds: number of seeds (3 means 0, 1, 2), or the seeds themselves.
        set: values of hyperparameters, as {'beta.beta': 10} or ['beta.beta=10']; a value can be a class.
        progress: whether to show progress on stderr.
        settings: further fields of `bench.contracts.protocol.RunRequest`: steps, epochs, out, device, limit, ...

    Raises:
        BenchError: the error that `bench run` would print.
    """
    from bench.contracts.logger import logged
    from bench.running import runner
    from bench.running.grid import words
    from bench.show.notebook import Results
    from bench.show.progress import Console

    request = RunRequest.from_json(
        {
            "variants": _texts(variants),
            "datasets": _texts(dataset),
            "seeds": tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
            "set": tuple(f"{k}={_name(v)}" for k, v in set.items()) if isinstance(set, Mapping) else tuple(set),
            **settings,
        }
    )
    hand_over(words(request))
    display = Console(quiet=not progress)
    with display, logged(request.logger, display, display.warn) as listener:
        rows = runner.run(request, listener)
    return Results.of(rows, display.folder)


def _texts(value: str | type | Iterable[str | type]) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(split(value))
    return (_name(value),) if isinstance(value, type) else tuple(map(_name, value))


def _name(value: Any) -> str:
    if isinstance(value, type):
        return adopt(value)
    if not isinstance(value, str | int | float | bool | tuple | list | None):
        raise UsageError(
            f"{str(value).splitlines()[0][:80]} is an object, not a class or a name",
            cause="A run builds each model itself, so that its rows can say how.",
            fix="Pass the class, or the class's file as './mine.py:Mine'.",
        )
    return "-".join(map(str, value)) or "none" if isinstance(value, tuple | list) else str(value)


def load(cell: str | Path, plugins: Iterable[str | type] = ()) -> Variant:
    """Return the trained model of a finished cell, on the CPU, in eval mode.

    The model's methods (`sample`, `encode`, `decode`, ...) depend on its abilities: see `bench.contracts.abilities`. A
    notebook shows the model's hyperparameters and pictures. Only safetensors and JSON files are read.

    Args:
        cell: folder of the cell.
        plugins: variants and networks of the cell that are not installed: classes, or files as './mine.py:Mine'. Code
            that only the results folder names is never run.

    Raises:
        StoreError: the folder has no finished cell, or its weights don't fit the variant.
        PluginError, UnknownName: the variant or a network is neither installed nor among `plugins`.
    """
    from bench.running import loading

    model = loading.load(cell, map(_name, plugins))
    folder = Path(cell)
    model.__dict__["_repr_html_"] = partial(_html, str(folder.parent if folder.name == "done" else folder))
    return model


def _html(cell: str) -> str:
    from bench.show.notebook import model_html

    return model_html(cell)
