"""What metrics keep between runs: small safetensors files, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bench.contracts.measurement import Context
from bench.metrics.gaussians import Gaussian
from bench.util.durable import write_file
from bench.util.process import make_folder


def statistics(context: Context, name: str) -> Path:
    """Where what is known of a set of images is kept: no model's, so all runs share it."""
    return context.cache / "statistics" / f"{name}.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Keep tensors at `path`, whole or not at all.

    Raises:
        OSError: the folder can't be written.
    """
    write(path, content(tensors, metadata))


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the safetensors file of tensors, on whatever device they are."""
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata or {}))


def write(path: Path, data: bytes) -> None:
    """Put a file at `path`, whole, in a folder that is made if need be.

    Raises:
        OSError: the folder can't be written.
    """
    make_folder(path.parent)
    write_file(path, data)


def read_tensors(path: Path, *names: str) -> dict[str, Tensor] | None:
    """The tensors kept at `path`; None where there is no such file, or it's damaged or lacks one of `names`."""
    try:
        kept = load_file(path)
    except (OSError, SafetensorError):
        return None
    return kept if kept.keys() >= set(names) else None


def remembered_tensors(path: Path, compute: Callable[[], dict[str, Tensor]], *names: str) -> dict[str, Tensor]:
    """The tensors `names` kept at `path`, or computed and kept there if the folder can be written."""
    if (kept := read_tensors(path, *names)) is not None:
        return kept
    fresh = compute()
    with suppress(OSError):
        save_tensors(path, fresh)
    return fresh


def known(path: Path) -> Gaussian | None:
    """The Gaussian kept at `path`, if there is one."""
    kept = read_tensors(path, "mean", "cov", "n")
    return None if kept is None else Gaussian(kept["mean"], kept["cov"], int(kept["n"]))


def remembered(path: Path, compute: Callable[[], Gaussian]) -> Gaussian:
    """The Gaussian kept at `path`, or computed and kept there if the folder can be written."""
    if (kept := known(path)) is not None:
        return kept
    fresh = compute()
    if fresh.n is not None:
        with suppress(OSError):
            save_tensors(path, {"mean": fresh.mean, "cov": fresh.cov, "n": torch.tensor(fresh.n)})
    return fresh
