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

    from bench.abilities import (
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
    from bench.api import load, run
    from bench.arrays import open_arrays
    from bench.dataset import Data, Dataset, File, Splits
    from bench.errors import BenchError, DataError, NotAvailable, Unsuitable, UsageError
    from bench.hyperparameters import Plugin, Range
    from bench.images import Images, to_float, to_uint8
    from bench.likelihood import Likelihood
    from bench.measurement import BaselineScored, Context, Metric, Request, Score, Scored, metric
    from bench.scale import PixelScale, SeenPixels, pixel_levels
    from bench.variant import Batch, Loss, Optimizer, Phase, Spec, Stage, Variant

_HOME = {
    "Tensor": "torch",
    "BaselineScored": "bench.measurement",
    "Batch": "bench.variant",
    "BenchError": "bench.errors",
    "Bound": "bench.abilities",
    "ConditionalBound": "bench.abilities",
    "Context": "bench.measurement",
    "Data": "bench.dataset",
    "DataError": "bench.errors",
    "Dataset": "bench.dataset",
    "Decodes": "bench.abilities",
    "Encodes": "bench.abilities",
    "File": "bench.dataset",
    "HasCodes": "bench.abilities",
    "HasPosterior": "bench.abilities",
    "HasPrior": "bench.abilities",
    "Images": "bench.images",
    "Likelihood": "bench.likelihood",
    "Loss": "bench.variant",
    "Metric": "bench.measurement",
    "NotAvailable": "bench.errors",
    "Optimizer": "bench.variant",
    "Phase": "bench.variant",
    "PixelScale": "bench.scale",
    "Plugin": "bench.hyperparameters",
    "Range": "bench.hyperparameters",
    "Reconstructs": "bench.abilities",
    "Request": "bench.measurement",
    "Samples": "bench.abilities",
    "Score": "bench.measurement",
    "Scored": "bench.measurement",
    "SeenPixels": "bench.scale",
    "Spec": "bench.variant",
    "Splits": "bench.dataset",
    "Stage": "bench.variant",
    "Unsuitable": "bench.errors",
    "UsageError": "bench.errors",
    "Variant": "bench.variant",
    "Weighs": "bench.abilities",
    "load": "bench.api",
    "metric": "bench.measurement",
    "open_arrays": "bench.arrays",
    "pixel_levels": "bench.scale",
    "run": "bench.api",
    "to_float": "bench.images",
    "to_uint8": "bench.images",
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
