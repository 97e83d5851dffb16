"""A shelf of trained networks: files whose names say what they were trained on and what they hold.

    <kind>-v<version>-<digest of the training split>-<sha256 of the file>.safetensors

digest and hash shortened to 12 digits, so that a name stands for one network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.contracts.protocol import canonical
from bench.metrics.cache import content, write
from bench.util.errors import NotAvailable

T = TypeVar("T")


def put(folder: Path, prefix: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write a network under the name that `prefix` and its bytes make.

    Raises:
        OSError: the folder can't be written.
    """
    # one entry: safetensors writes several in no fixed order, and equal networks shall have equal bytes
    data = content(tensors, {"about": canonical(dict(about))})
    path = folder / f"{prefix}-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    write(path, data)
    return path


def take(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors at `path` and what is known about them, checked against the hash in its name.

    Raises:
        ValueError: the file isn't the one that it's named for.
    """
    if _sha256(path)[:12] != path.name.removesuffix(".safetensors").rpartition("-")[2]:
        raise ValueError(f"{path} isn't the file that its name says")
    try:
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, json.loads(file.metadata()["about"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no network: {error}") from error


def every(folder: Path, prefix: str) -> list[Path]:
    """What stands in `folder` under `prefix`, in a fixed order."""
    return sorted(folder.glob(f"{prefix}-*.safetensors"))


def found(prefix: str, shipped: Path, kept: Path, load: Callable[[Path], T]) -> T | None:
    """The network under `prefix` that came with the package, else the one that is kept; a damaged one is removed there.

    Raises:
        NotAvailable: the one that came with the package is damaged.
    """
    for path in every(shipped, prefix)[:1]:
        try:
            return load(path)
        except ValueError as error:
            raise NotAvailable(f"a network of the package is damaged, reinstall it: {error}") from None
    for path in every(kept, prefix):
        try:
            return load(path)
        except ValueError:
            path.unlink(missing_ok=True)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
