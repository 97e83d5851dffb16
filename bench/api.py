"""What Python users call: `bench.run` and `bench.load`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StoreError, UsageError
from bench.hyperparameters import split
from bench.protocol import RunRequest
from bench.unpublished import adopt, hand_over

if TYPE_CHECKING:
    import pandas as pd

    from bench.row import Row
    from bench.variant import Variant


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
        settings: the other fields of `bench.protocol.RunRequest`: steps, epochs, out, device, limit, ...

    Raises:
        BenchError: what `bench run` would print.
    """
    from bench import runner
    from bench.grid import words
    from bench.logger import logged
    from bench.notebook import Results
    from bench.progress import Console

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
    """The trained model of a finished cell, on the CPU, in eval mode.

    It samples, encodes and decodes by the abilities it has (`bench.abilities`). Only safetensors and JSON are read.
    A notebook shows its hyperparameters and the pictures that its cell keeps.

    Args:
        cell: its folder.
        plugins: what it was trained with that isn't installed: classes, or files as './mine.py:Mine'. A results
            folder never names code to be run.

    Raises:
        StoreError: no finished cell lies there, or its weights don't fit.
        PluginError, UnknownName: its variant, or a network of it, is neither installed nor handed over.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from bench import inside
    from bench.grid import Config, plugin_of
    from bench.hyperparameters import check
    from bench.protocol import ENGINE
    from bench.variant import VARIANTS, Spec

    known = {name.partition("@")[0]: name for name in map(VARIANTS.take, map(_name, plugins))}
    folder = Path(cell)
    done = folder if folder.name == "done" else folder / "done"
    if not (done / "cell.json").is_file():
        raise StoreError(
            f"{folder} isn't a finished cell",
            cause="It has no done/cell.json.",
            fix="Finished cells lie in results/<run>/cells/.",
        )
    inside.is_folder(done)
    row = _row(done / "cell.json")
    data, name = row.data, row.variant
    name = known.get(name.partition("@")[0], name)  # a class of a script is another file's when it's imported
    spec = Spec(
        tuple(data["shape"]), data["classes"], data["train_images"], data["latent_dim"], row.likelihood
    )  # fmt: skip
    given = check(name, VARIANTS.load(name), {k: v for k, v in row.hyperparameters.items() if v is not None})
    if row.plugin.get("source") not in (None, plugin_of(name)["source"]):
        warnings.warn(f"the source of {name} isn't the one that {folder.name} was trained with", stacklevel=2)
    if row.engine not in ("", ENGINE):
        warnings.warn(f"the suite's engine isn't the one that {folder.name} was trained with", stacklevel=2)
    model = Config(name, tuple(sorted(given.items()))).build(spec)
    try:
        model.load_state_dict(load_file(inside.file(done / "weights.safetensors")))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"the weights of {folder} don't fit its variant",
            cause=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="The variant's code has changed since, or the file is damaged.",
        ) from None
    model.__dict__["_repr_html_"] = partial(_html, str(done.parent))
    return model.eval()


def _row(path: Path) -> Row:
    """The row in a finished cell's file, which says all that its model is built from.

    Raises:
        Damaged: it isn't what was written.
    """
    from bench.durable import read_json
    from bench.errors import Damaged
    from bench.row import row_of

    try:
        row = row_of(read_json(path), {})
    except ValueError as error:
        raise Damaged(path, f"says no row: {error}") from None
    if missing := {"shape", "classes", "train_images", "latent_dim"} - row.data.keys():
        raise Damaged(path, f"says no row: data lacks {', '.join(sorted(missing))}")
    return row


def _html(cell: str) -> str:
    from bench.notebook import model_html

    return model_html(cell)
