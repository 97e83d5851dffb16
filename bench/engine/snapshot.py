"""Snapshots of a training between two steps: tensors, position, and the state of every random generator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class Snapshot:
    """All that the rest of a training depends on: continued from it, a training ends with the same bits.

    Weights, buffers, optimiser states, averages, the terms since the last interval, every generator; and the position.
    """

    tensors: dict[str, Tensor]
    position: dict[str, Any]  #: plain JSON

    @property
    def done(self) -> int:
        """The steps so far, of all stages."""
        turns: int = self.position["done"]
        return turns


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a model on `device` draws from. `torch.manual_seed` seeds other devices too, slowly."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        accelerator = torch.get_device_module(device)
        getattr(accelerator, "manual_seed_all", accelerator.manual_seed)(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every default generator inside; leave the caller's as they were."""
    devices = [device] if device.type == "cuda" else []
    before = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        seed_torch(seed, device)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, including those that aren't saved with the weights."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the parameters and buffers of a model.

    Raises:
        ValueError: the tensors are another model's.
    """
    here = state(model)
    if here.keys() != tensors.keys():
        raise ValueError(f"the snapshot's tensors aren't the model's: {sorted(here.keys() ^ tensors.keys())[:5]}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if here[name].shape == tensor.shape:
                here[name].copy_(tensor)
            elif isinstance(here[name], nn.Parameter):
                raise ValueError(f"{name} is {tuple(here[name].shape)}, the snapshot's {tuple(tensor.shape)}")
            else:  # a buffer that took its size from the data
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, tensor)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by their names without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def number(text: str) -> float:
    """Return the exact number that `repr` made into text, since strict JSON has no NaN."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def generators(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of torch's, numpy's and Python's default generators: their tensors, and the rest as JSON."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    tensors = {
        "generator.cpu": torch.get_rng_state(),
        "generator.numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "generator.python": torch.tensor(words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        tensors["generator.mps"] = torch.mps.get_rng_state()
    return tensors, {"numpy": [str(name), *rest], "python": [version, gauss]}


def set_generators(device: torch.device, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Set the default generators to the states that `generators` returned."""
    torch.set_rng_state(tensors["generator.cpu"].cpu())
    if "generator.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["generator.cuda"].cpu(), device)
    if "generator.mps" in tensors and device.type == "mps":
        torch.mps.set_rng_state(tensors["generator.mps"].cpu())
    name, *after = rest["numpy"]
    np.random.set_state((name, tensors["generator.numpy"].cpu().numpy().astype(np.uint32), *after))
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["generator.python"].tolist()), gauss))
