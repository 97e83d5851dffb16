"""Backbones: the pair of networks between images and flat codes, chosen by name (`--backbone mlp|conv`).

The objective and the networks are separate choices, so two variants can differ in the objective alone. Backbones are
registered in the entry-point group `bench.backbones`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from bench.plugins.registry import Registry
from bench.util.errors import UsageError

Shape = tuple[int, int, int]


class Backbone(ABC):
    """An encoder and its mirror image.

    `context` values, such as a one-hot label, enter both networks beside their input. `hidden` are the widths of the
    dense layers, from the image inwards: None for the backbone's own, () for none.

    >>> encoder = BACKBONES.load("mlp").encoder((1, 8, 8), 4, context=10)
    >>> encoder(torch.rand(5, 1, 8, 8), torch.zeros(5, 10)).shape
    torch.Size([5, 4])
    """

    @staticmethod
    @abstractmethod
    def encoder(shape: Shape, out: int, *, context: int = 0, hidden: tuple[int, ...] | None = None) -> nn.Module:
        """Return a module of (x (B, C, H, W), c (B, context) or None) to (B, out)."""

    @staticmethod
    @abstractmethod
    def decoder(latent: int, shape: Shape, *, context: int = 0, hidden: tuple[int, ...] | None = None) -> nn.Module:
        """Return a module of (z (B, latent), c (B, context) or None) to raw outputs (B, C, H, W)."""


def _is_backbone(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Backbone) else "not a subclass of bench.blocks.Backbone"


BACKBONES: Registry[type[Backbone]] = Registry("bench.backbones", "backbone", _is_backbone)


def _is_network(obj: object) -> str | None:
    is_one = isinstance(obj, type) and issubclass(obj, nn.Module | Backbone)
    return None if is_one else "neither a torch.nn.Module nor a bench.blocks.Backbone"


NETWORKS: Registry[type[nn.Module] | type[Backbone]] = Registry("bench.backbones", "network", _is_network)


def network(part: Literal["encoder", "decoder"], name: str, *sizes: Any, **options: Any) -> nn.Module:
    """Build one network: that part of the backbone `name`, or a user's own module, './mine.py:Encoder'.

    A module is built like a backbone's, as Encoder(shape, out) or Decoder(latent, shape); it is given `context` and
    `hidden` only if they are set, and is called with its input alone if there is no context.

    Raises:
        UsageError: the module does not accept `context` or `hidden`, or returns another shape.
    """
    plugin = NETWORKS.load(name)
    if issubclass(plugin, Backbone):
        built: nn.Module = getattr(plugin, part)(*sizes, **options)
        return built
    build: Callable[..., nn.Module] = plugin
    given = {key: value for key, value in options.items() if value}
    signature = inspect.signature(build)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if lacking := [key for key in given if key not in signature.parameters and not accepts_any]:
        raise UsageError(
            f"{name} takes no {' and no '.join(lacking)}",
            cause=f"Its signature is {plugin.__name__}{signature}.",
            fix=f"Let its constructor take {', '.join(lacking)} as a keyword argument.",
        )
    module = build(*sizes, **given)
    _require_shape(module, part, name, sizes, given.get("context", 0))
    return module


def _require_shape(module: nn.Module, part: str, name: str, sizes: tuple[Any, ...], context: int) -> None:
    """Raise UsageError if the network returns another shape for two images, or cannot be called."""
    given, wanted = ((2, *sizes[0]), (2, sizes[1])) if part == "encoder" else ((2, sizes[0]), (2, *sizes[1]))
    inputs = [torch.zeros(given), *([torch.zeros(2, context)] if context else [])]
    try:
        with torch.no_grad():
            shape = tuple(module.eval()(*inputs).shape)
    except Exception as error:
        cause = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise UsageError(f"{name} can't take {given} as {part}", cause=cause) from error
    finally:
        module.train()
    if shape != wanted:
        raise UsageError(
            f"{name} gives {shape} for {given}, and should give {wanted}",
            cause=f"As {part} it is built as {type(module).__name__}({', '.join(map(str, sizes))}).",
        )
