"""Building the model of a finished cell, with its trained weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from bench.contracts.protocol import ENGINE
from bench.contracts.row import Row, row_of
from bench.contracts.variant import VARIANTS, Spec, Variant
from bench.plugins.hyperparameters import check
from bench.plugins.unpublished import sourceless
from bench.running.grid import Config, plugin_of
from bench.util import inside
from bench.util.durable import read_json
from bench.util.errors import Damaged, StoreError


def load(cell: str | Path, plugins: Iterable[str] = ()) -> Variant:
    """Return the trained model of a finished cell, on the CPU, in eval mode. Only safetensors and JSON are read.

    Args:
        cell: its folder.
        plugins: the names or addresses ('./mine.py:Mine') of what the cell was trained with and that is not installed.

    Raises:
        StoreError: no finished cell lies there, or its weights don't fit.
        PluginError, UnknownName: its variant, or a network of it, is neither installed nor handed over.
    """
    known = {name.partition("@")[0]: name for name in map(VARIANTS.take, plugins)}
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
    if not sourceless(name) and row.plugin.get("source") not in (None, plugin_of(name)["source"]):
        warnings.warn(f"the source of {name} isn't the one that {folder.name} was trained with", stacklevel=3)
    if row.engine not in ("", ENGINE):
        warnings.warn(f"the suite's engine isn't the one that {folder.name} was trained with", stacklevel=3)
    model = Config(name, tuple(sorted(given.items()))).build(spec)
    try:
        model.load_state_dict(load_file(inside.file(done / "weights.safetensors")))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"the weights of {folder} don't fit its variant",
            cause=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="The variant's code has changed since, or the file is damaged.",
        ) from None
    return model.eval()


def _row(path: Path) -> Row:
    """The row in a finished cell's file, which says all that its model is built from.

    Raises:
        Damaged: it isn't what was written.
    """
    try:
        row = row_of(read_json(path), {})
    except ValueError as error:
        raise Damaged(path, f"says no row: {error}") from None
    if missing := {"shape", "classes", "train_images", "latent_dim"} - row.data.keys():
        raise Damaged(path, f"says no row: data lacks {', '.join(sorted(missing))}")
    return row
