"""The common part of models with an encoder and a decoder over flat codes: networks, likelihood, and use of labels."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor, nn

from bench.blocks.backbone import BACKBONES, network
from bench.contracts.variant import Spec, Variant
from bench.plugins.hyperparameters import Plugin, Range, show
from bench.util.errors import UsageError


class Autoencoder(Variant):
    """An encoder of (B, C, H, W) to (B, `code_width`) and a decoder of z (B, latent_dim) to raw outputs.

    Subclasses define what the encoder's outputs mean, and the loss.

    >>> import torch
    >>> model = Autoencoder(Spec((1, 8, 8), classes=10, size=100, latent_dim=4), hidden=(16,))
    >>> x, y = torch.rand(5, 1, 8, 8), torch.zeros(5)
    >>> z = model.encoded(x, y)
    >>> z.shape, model.decode(z, y).shape, model.log_px(x, z, y).shape
    (torch.Size([5, 4]), torch.Size([5, 1, 8, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        spec: Spec,
        *,
        latent_dim: Annotated[int | None, Range(1, 1_000_000), "size of z"] = None,
        backbone: Annotated[str, Plugin("bench.backbones"), "networks"] = "mlp",
        hidden: Annotated[tuple[int, ...] | None, "widths of the dense layers; none: a linear map"] = None,
        encoder: Annotated[str | None, Plugin("bench.backbones"), "another backbone's, or ./mine.py:Encoder"] = None,
        decoder: Annotated[str | None, Plugin("bench.backbones"), "another backbone's, or ./mine.py:Decoder"] = None,
    ) -> None:
        super().__init__(spec)
        self.latent_dim = latent_dim or spec.latent_dim
        self.backbone, self.hidden = backbone, hidden
        if hidden is not None and min(hidden, default=1) < 1:
            raise UsageError(
                f"hidden={show(hidden)}: a layer has at least one unit", fix="hidden=none is a linear map."
            )
        self.likelihood = spec.make_likelihood()
        BACKBONES.load(backbone)
        common: dict[str, Any] = {"context": self.context_width(spec), "hidden": hidden}
        self.encoder = network("encoder", encoder or backbone, spec.shape, self.code_width(), **common)
        self.decoder = network("decoder", decoder or backbone, self.latent_dim, spec.shape, **common)

    def code_width(self) -> int:
        """Return the number of outputs of the encoder."""
        return self.latent_dim

    def context_width(self, spec: Spec) -> int:
        """Return the size of `context`; 0 if there is none."""
        return 0

    def context(self, y: Tensor) -> Tensor | None:
        """Return an extra input of both networks for labels (B,): (B, context_width), or None."""
        return None

    def encoded(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the encoder's outputs: (B, code_width)."""
        return _apply(self.encoder, x, self.context(y))

    def decoded(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the decoder's raw outputs, the parameters of p(x|z): (B, C, H, W)."""
        return _apply(self.decoder, z, self.context(y))

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.likelihood.mean(self.decoded(z, y))

    def log_px(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """Return log p(x|z), (B, C, H, W) and (B, d) to (B,), in nats."""
        return self.likelihood.log_prob(x, self.decoded(z, y))


def _apply(network: nn.Module, value: Tensor, context: Tensor | None) -> Tensor:
    out: Tensor = network(value) if context is None else network(value, context)
    return out.to(value.dtype)  # networks may compute in bf16; the rest of a model does not
