"""Backbones: the pair of networks between images and flat codes, chosen by name (`--backbone mlp|conv`).

The objective and the networks are separate choices, so two variants can differ in the first alone. Registered in the
entry-point group `bench.backbones`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

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
