"""Tensors that metrics keep between runs: small safetensors files, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bench.contracts.measurement import Context
from bench.util.durable import write_file
from bench.util.process import make_folder


def statistics(context: Context, name: str) -> Path:
    """Return the path of what is computed from real images alone. All runs share it."""
    return context.cache / "statistics" / f"{name}.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to `path`. Raises OSError if the folder cannot be written."""
    write(path, content(tensors))


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file of tensors, on whatever device they are."""
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata or {}))


def write(path: Path, data: bytes) -> None:
    """Write a file and, if need be, its folder. Raises OSError if the folder cannot be written."""
    make_folder(path.parent)
    write_file(path, data)


def read_tensors(path: Path, *names: str) -> dict[str, Tensor] | None:
    """Return the tensors at `path`; None if the file is missing or damaged, or lacks one of `names`."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    return tensors if tensors.keys() >= set(names) else None


def remembered_tensors(path: Path, compute: Callable[[], dict[str, Tensor]], *names: str) -> dict[str, Tensor]:
    """Return the tensors `names` at `path`; if they are not there, compute them, and write them if possible."""
    if (tensors := read_tensors(path, *names)) is not None:
        return tensors
    fresh = compute()
    with suppress(OSError):
        save_tensors(path, fresh)
    return fresh


def remembered(path: Path, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """Return the one tensor `name` at `path`, as `remembered_tensors` does."""
    return remembered_tensors(path, lambda: {name: compute()}, name)[name]
