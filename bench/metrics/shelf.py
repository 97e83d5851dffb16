"""Files of trained networks, shipped with the package or kept in the cache.

    <kind>-v<version>-<digest of the training split>-<sha256 of the file>.safetensors

Digest and hash have 12 digits each, so that a name stands for one network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bench.contracts.images import Images
from bench.contracts.protocol import canonical
from bench.metrics.cache import content, write
from bench.util.errors import NotAvailable

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)

SHIPPED = Path(__file__).parent / "networks"


def put(folder: Path, prefix: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write a network and what is known of it, and return its path. Raises OSError if the folder cannot be written."""
    # one entry: safetensors writes several in no fixed order, and equal networks shall have equal bytes
    data = content(tensors, {"about": canonical(dict(about))})
    path = folder / f"{prefix}-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    write(path, data)
    return path


def take(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a network and what is known of it. Raises ValueError if the file is damaged."""
    if hashlib.sha256(path.read_bytes()).hexdigest()[:12] != path.name.removesuffix(".safetensors").rpartition("-")[2]:
        raise ValueError(f"{path} isn't the file that its name says")
    try:
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, json.loads(file.metadata()["about"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no network: {error}") from error


def restore(path: Path, kind: Callable[[tuple[int, int, int], int], N]) -> tuple[N, dict[str, Any]]:
    """Return the network at `path`, and what is known of it. Raises ValueError if damaged or of another version."""
    tensors, about = take(path)
    try:
        with torch.inference_mode(False):
            network = kind(tuple(about["shape"]), about["classes"])
            network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no network of this version: {error}") from error
    return network.eval().requires_grad_(False), about


def files(folder: Path, prefix: str) -> list[Path]:
    """Return the files in `folder` under `prefix`, in a fixed order."""
    return sorted(folder.glob(f"{prefix}-*.safetensors"))


def obtain(
    prefix: str, cache: Path, load: Callable[[Path], T], train: Callable[[], T], save: Callable[[T, Path], Path]
) -> T:
    """Return the network under `prefix`: the shipped one, else the one in the cache, else a new one, written there.

    A damaged file in the cache is removed; a damaged shipped one raises NotAvailable.
    """
    for path in files(SHIPPED, prefix)[:1]:
        try:
            return load(path)
        except ValueError as error:
            raise NotAvailable(f"a network of the package is damaged, reinstall it: {error}") from None
    folder = cache / "networks"
    for path in files(folder, prefix):
        try:
            return load(path)
        except ValueError:
            path.unlink(missing_ok=True)
    fresh = train()
    with suppress(OSError):
        return load(save(fresh, folder))
    return fresh


def require_classes(source: Images) -> None:
    """Raise NotAvailable if no classifier can learn from these training images."""
    if not source.labelled:
        raise NotAvailable("needs class labels: it uses a classifier of this dataset")
    if len(source.classes) < 2 or len(source) < 4:
        raise NotAvailable("needs two classes: it uses a classifier of this dataset")
    some = source.take(torch.arange(min(len(source), 1_000)), "cpu")
    if bool((some == some[:1]).all()):
        raise NotAvailable("the training images are all the same: no classifier tells them apart")
