"""Backbones: the pair of networks between images and flat codes, chosen by name (`--backbone mlp|conv`).

The objective and the networks are separate choices, so two variants can differ in the first alone. Registered in the
entry-point group `bench.backbones`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from bench.errors import UsageError
from bench.registry import Registry

Shape = tuple[int, int, int]


class Backbone(ABC):
    """Makes an encoder and its mirror image.

    `context` values c, such as a one-hot label, enter both networks beside their input. `hidden` are the widths of the
    dense layers, from the image inwards; None is the backbone's own; () leaves none.
    """

    @staticmethod
    @abstractmethod
    def encoder(shape: Shape, out: int, *, context: int = 0, hidden: tuple[int, ...] | None = None) -> nn.Module:
        """A module of (x (B, C, H, W), c (B, context) or None) to (B, out)."""

    @staticmethod
    @abstractmethod
    def decoder(latent: int, shape: Shape, *, context: int = 0, hidden: tuple[int, ...] | None = None) -> nn.Module:
        """A module of (z (B, latent), c (B, context) or None) to raw outputs (B, C, H, W)."""


def _is_backbone(obj: object) -> str | None:
    return None if isinstance(obj, type) and issubclass(obj, Backbone) else "not a subclass of bench.blocks.Backbone"


BACKBONES: Registry[type[Backbone]] = Registry("bench.backbones", "backbone", _is_backbone)


def _is_network(obj: object) -> str | None:
    able = isinstance(obj, type) and issubclass(obj, nn.Module | Backbone)
    return None if able else "neither a torch.nn.Module nor a bench.blocks.Backbone"


NETWORKS: Registry[type[nn.Module] | type[Backbone]] = Registry("bench.backbones", "network", _is_network)


def network(part: Literal["encoder", "decoder"], name: str, *sizes: Any, **options: Any) -> nn.Module:
    """One network: that part of the backbone called `name`, or a module of the user's own, './mine.py:Encoder'.

    A module is built as a backbone builds it, Encoder(shape, out) or Decoder(latent, shape), with `context` and
    `hidden` only where they are asked for; where there is no context it's called with its input alone.

    Raises:
        UsageError: the module takes no `context` or `hidden`, and is asked to.
    """
    found = NETWORKS.load(name)
    if issubclass(found, Backbone):
        made: nn.Module = getattr(found, part)(*sizes, **options)
        return made
    build: Callable[..., nn.Module] = found
    asked = {key: value for key, value in options.items() if value}
    known = inspect.signature(build).parameters
    if lacking := [key for key in asked if key not in known and not _takes_any(known)]:
        raise UsageError(
            f"{name} takes no {' and no '.join(lacking)}",
            cause=f"Its signature is {found.__name__}{inspect.signature(build)}.",
            fix=f"Let its constructor take {', '.join(lacking)} as a keyword argument.",
        )
    return build(*sizes, **asked)


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())
