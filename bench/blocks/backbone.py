"""Backbones: the pair of networks between images and flat codes, chosen by name (`--backbone mlp|conv`).

The objective and the networks are separate choices, so two variants can differ in the first alone. Registered in the
entry-point group `bench.backbones`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from bench.plugins.registry import Registry
from bench.util.errors import UsageError

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
    made = build(*sizes, **asked)
    _try(made, part, name, sizes, asked.get("context", 0))
    return made


def _try(made: nn.Module, part: str, name: str, sizes: tuple[Any, ...], context: int) -> None:
    """Two images through a network of the user's own: a wrong shape is told before anything is trained.

    Raises:
        UsageError: it gives another shape than it should, or can't be called.
    """
    given, wanted = ((2, *sizes[0]), (2, sizes[1])) if part == "encoder" else ((2, sizes[0]), (2, *sizes[1]))
    inputs = [torch.zeros(given), *([torch.zeros(2, context)] if context else [])]
    try:
        with torch.no_grad():
            found = tuple(made.eval()(*inputs).shape)
    except Exception as error:
        raise UsageError(
            f"{name} can't take {given} as {part}", cause=f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        made.train()
    if found != wanted:
        raise UsageError(
            f"{name} gives {found} for {given}, and should give {wanted}",
            cause=f"As {part} it's built as {type(made).__name__}({', '.join(map(str, sizes))}).",
        )


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())
