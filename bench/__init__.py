"""VAE Bench: a plugin-based benchmark suite for variational autoencoders.

    import bench
    table = bench.run(variants=["vae", "beta"], dataset="fashion", seeds=3)   # a pandas DataFrame
    model = bench.load("results/.../cells/vae-fashion-s0-...")                # samples, encodes, decodes

A name is imported on first use, so that `import bench` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from bench.api import load, run
    from bench.contracts.abilities import (
        Bound,
        ConditionalBound,
        Decodes,
        Encodes,
        HasCodes,
        HasPosterior,
        HasPrior,
        Reconstructs,
        Samples,
        Weighs,
    )
    from bench.contracts.dataset import Data, Dataset, File, Splits
    from bench.contracts.images import Images, to_float, to_uint8
    from bench.contracts.likelihood import Likelihood
    from bench.contracts.measurement import BaselineScored, Context, Metric, Request, Score, Scored, metric
    from bench.contracts.scale import PixelScale, SeenPixels, pixel_levels
    from bench.contracts.variant import Batch, Loss, Optimizer, Phase, Spec, Stage, Variant
    from bench.plugins.hyperparameters import Plugin, Range
    from bench.util.arrays import open_arrays
    from bench.util.errors import BenchError, DataError, NotAvailable, Unsuitable, UsageError

_NAMES = {
    "bench.api": ("load", "run"),
    "bench.contracts.abilities": (
        "Bound",
        "ConditionalBound",
        "Decodes",
        "Encodes",
        "HasCodes",
        "HasPosterior",
        "HasPrior",
        "Reconstructs",
        "Samples",
        "Weighs",
    ),
    "bench.contracts.dataset": ("Data", "Dataset", "File", "Splits"),
    "bench.contracts.images": ("Images", "to_float", "to_uint8"),
    "bench.contracts.likelihood": ("Likelihood",),
    "bench.contracts.measurement": ("BaselineScored", "Context", "Metric", "Request", "Score", "Scored", "metric"),
    "bench.contracts.scale": ("PixelScale", "SeenPixels", "pixel_levels"),
    "bench.contracts.variant": ("Batch", "Loss", "Optimizer", "Phase", "Spec", "Stage", "Variant"),
    "bench.plugins.hyperparameters": ("Plugin", "Range"),
    "bench.util.arrays": ("open_arrays",),
    "bench.util.errors": ("BenchError", "DataError", "NotAvailable", "Unsuitable", "UsageError"),
    "torch": ("Tensor",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "BaselineScored", "Batch", "BenchError", "Bound", "ConditionalBound", "Context", "Data", "DataError", "Dataset",
    "Decodes", "Encodes", "File", "HasCodes", "HasPosterior", "HasPrior", "Images", "Likelihood", "Loss", "Metric",
    "NotAvailable", "Optimizer", "Phase", "PixelScale", "Plugin", "Range", "Reconstructs", "Request", "Samples",
    "Score", "Scored", "SeenPixels", "Spec", "Splits", "Stage", "Tensor", "Unsuitable", "UsageError", "Variant",
    "Weighs", "load", "metric", "open_arrays", "pixel_levels", "run", "to_float", "to_uint8",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vaebench")
        except PackageNotFoundError:
            return "0+unknown"
    if name not in _HOME:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
