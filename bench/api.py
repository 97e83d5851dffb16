"""What Python users call: `bench.run` and `bench.load`."""

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
    """Train and score variants on datasets, as `bench run` does; one line of the table a cell.

    A notebook shows it as a table of means over seeds, with samples below.

    Args:
        variants: selectors such as 'vae' or 'beta[beta=1|4]', files ('./mine.py:Mine'), or classes; all that are
            installed by default. A class of a notebook runs in this process.
        dataset: one or several names; the embedded one by default.
        seeds: how many (3 is 0, 1, 2), or which.
        set: hyperparameters, as {'beta.beta': 10} or ['beta.beta=10']; the value may be a class too.
        progress: show progress on stderr.
        settings: the other fields of `bench.contracts.protocol.RunRequest`: steps, epochs, out, device, limit, ...

    Raises:
        BenchError: what `bench run` would print.
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
            f"{str(value).splitlines()[0][:80]} can't be handed over",
            cause="A run builds each model anew, and its rows say from what.",
            fix="Hand over a class, or write './mine.py:Mine'.",
        )
    return "-".join(map(str, value)) or "none" if isinstance(value, tuple | list) else str(value)


def load(cell: str | Path, plugins: Iterable[str | type] = ()) -> Variant:
    """Return the trained model of a finished cell, on the CPU, in eval mode.

    It samples, encodes and decodes by the abilities it has (`bench.contracts.abilities`). A notebook shows its
    hyperparameters and the pictures that its cell keeps. Only safetensors and JSON are read.

    Args:
        cell: its folder.
        plugins: what it was trained with that isn't installed: classes, or files as './mine.py:Mine'. A results
            folder never names code to be run.

    Raises:
        StoreError: no finished cell lies there, or its weights don't fit.
        PluginError, UnknownName: its variant, or a network of it, is neither installed nor handed over.
    """
    from bench.running import loading

    model = loading.load(cell, map(_name, plugins))
    folder = Path(cell)
    model.__dict__["_repr_html_"] = partial(_html, str(folder.parent if folder.name == "done" else folder))
    return model


def _html(cell: str) -> str:
    from bench.show.notebook import model_html

    return model_html(cell)
