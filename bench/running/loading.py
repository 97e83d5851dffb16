"""Building the model of a finished cell, with its trained weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from bench.contracts.protocol import ENGINE
from bench.contracts.row import row_of
from bench.contracts.variant import VARIANTS, Spec, Variant
from bench.plugins.unpublished import sourceless
from bench.running.grid import Config, plugin_of
from bench.util import inside
from bench.util.durable import read_json
from bench.util.errors import Damaged, StoreError


def load(cell: str | Path, plugins: Iterable[str] = ()) -> Variant:
    """Return the trained model of a finished cell, on the CPU, in eval mode. Only safetensors and JSON are read.

    Args:
        cell: its folder.
        plugins: names or addresses ('./mine.py:Mine') of plugins that the cell needs and that are not installed.

    Raises:
        StoreError: no finished cell lies there, it is damaged, or its weights don't fit.
        PluginError, UnknownName: its variant, or a network of it, is neither installed nor handed over.
    """
    given = {name.partition("@")[0]: name for name in map(VARIANTS.take, plugins)}
    folder = Path(cell)
    done = folder if folder.name == "done" else folder / "done"
    if not (done / "cell.json").is_file():
        raise StoreError(
            f"{folder} isn't a finished cell",
            cause="It has no done/cell.json.",
            fix="Finished cells lie in results/<run>/cells/.",
        )
    inside.is_folder(done)
    try:
        row = row_of(read_json(done / "cell.json"), {})
        size = {name: row.data[name] for name in ("shape", "classes", "train_images", "latent_dim")}
    except ValueError as error:
        raise Damaged(done / "cell.json", f"says no row: {error}") from None
    except KeyError as error:
        raise Damaged(done / "cell.json", f"says no row: its data lacks {error}") from None
    name = given.get(row.variant.partition("@")[0], row.variant)  # a script's class goes by another file when imported
    config = Config.of(name, {k: v for k, v in row.hyperparameters.items() if v is not None})
    if not sourceless(name) and row.plugin.get("source") not in (None, plugin_of(name)["source"]):
        warnings.warn(f"the source of {name} has changed since {folder.name} was trained", stacklevel=3)
    if row.engine not in ("", ENGINE):
        warnings.warn(f"the suite's engine has changed since {folder.name} was trained", stacklevel=3)
    model = config.build(
        Spec(tuple(size["shape"]), size["classes"], size["train_images"], size["latent_dim"], row.likelihood)
    )
    try:
        model.load_state_dict(load_file(inside.file(done / "weights.safetensors")))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"the weights of {folder} don't fit its variant",
            cause=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="The variant's code has changed since, or the file is damaged.",
        ) from None
    return model.eval()
