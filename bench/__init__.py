"""VAE Bench: a plugin-based benchmark suite for variational autoencoders.

    import bench
    table = bench.run(variants=["vae", "beta"], dataset="fashion", seeds=3)   # a pandas DataFrame
    model = bench.load("results/.../cells/vae-fashion-s0-...")                # samples, encodes, decodes

Names are imported when first used, so that `import bench` costs nothing.
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

_HOME = {
    "Tensor": "torch",
    "BaselineScored": "bench.contracts.measurement",
    "Batch": "bench.contracts.variant",
    "BenchError": "bench.util.errors",
    "Bound": "bench.contracts.abilities",
    "ConditionalBound": "bench.contracts.abilities",
    "Context": "bench.contracts.measurement",
    "Data": "bench.contracts.dataset",
    "DataError": "bench.util.errors",
    "Dataset": "bench.contracts.dataset",
    "Decodes": "bench.contracts.abilities",
    "Encodes": "bench.contracts.abilities",
    "File": "bench.contracts.dataset",
    "HasCodes": "bench.contracts.abilities",
    "HasPosterior": "bench.contracts.abilities",
    "HasPrior": "bench.contracts.abilities",
    "Images": "bench.contracts.images",
    "Likelihood": "bench.contracts.likelihood",
    "Loss": "bench.contracts.variant",
    "Metric": "bench.contracts.measurement",
    "NotAvailable": "bench.util.errors",
    "Optimizer": "bench.contracts.variant",
    "Phase": "bench.contracts.variant",
    "PixelScale": "bench.contracts.scale",
    "Plugin": "bench.plugins.hyperparameters",
    "Range": "bench.plugins.hyperparameters",
    "Reconstructs": "bench.contracts.abilities",
    "Request": "bench.contracts.measurement",
    "Samples": "bench.contracts.abilities",
    "Score": "bench.contracts.measurement",
    "Scored": "bench.contracts.measurement",
    "SeenPixels": "bench.contracts.scale",
    "Spec": "bench.contracts.variant",
    "Splits": "bench.contracts.dataset",
    "Stage": "bench.contracts.variant",
    "Unsuitable": "bench.util.errors",
    "UsageError": "bench.util.errors",
    "Variant": "bench.contracts.variant",
    "Weighs": "bench.contracts.abilities",
    "load": "bench.api",
    "metric": "bench.contracts.measurement",
    "open_arrays": "bench.util.arrays",
    "pixel_levels": "bench.contracts.scale",
    "run": "bench.api",
    "to_float": "bench.contracts.images",
    "to_uint8": "bench.contracts.images",
}

__all__ = [
    "BaselineScored",
    "Batch",
    "BenchError",
    "Bound",
    "ConditionalBound",
    "Context",
    "Data",
    "DataError",
    "Dataset",
    "Decodes",
    "Encodes",
    "File",
    "HasCodes",
    "HasPosterior",
    "HasPrior",
    "Images",
    "Likelihood",
    "Loss",
    "Metric",
    "NotAvailable",
    "Optimizer",
    "Phase",
    "PixelScale",
    "Plugin",
    "Range",
    "Reconstructs",
    "Request",
    "Samples",
    "Score",
    "Scored",
    "SeenPixels",
    "Spec",
    "Splits",
    "Stage",
    "Tensor",
    "Unsuitable",
    "UsageError",
    "Variant",
    "Weighs",
    "load",
    "metric",
    "open_arrays",
    "pixel_levels",
    "run",
    "to_float",
    "to_uint8",
]


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
