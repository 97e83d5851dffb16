"""The vanilla VAE on convolutions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from bench import Spec

from .vae import VAE


class ConvVAE(VAE):
    """The objective of `vae` on convolutions 1-32-64-128 with two stride-2 steps, dense 500, mirrored."""

    def __init__(self, spec: Spec, *, backbone: Annotated[Literal["conv"], "networks"] = "conv", **rest: Any) -> None:
        super().__init__(spec, backbone=backbone, **rest)
