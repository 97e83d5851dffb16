"""pythae 0.1.2's own trainer: https://github.com/clementchadebec/benchmark_VAE.

Its trainer, loss and dataset; its data loader, in the main process as by default, over images as floats in memory as in
its examples; its progress bar. No evaluation set, no checkpoints. The copy of the best model that it makes after each
epoch isn't timed. Works as it is with torch 2.15 and numpy 2.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from .clock import Clock
from .networks import BATCH, LATENT, RATE, Network, TwoHeads


class Over(Exception):
    """The lap is over."""


def model_of(heads: TwoHeads) -> Any:
    """pythae's VAE around a network."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.trunk, self.embedding, self.log_var = heads.trunk, heads.mu, heads.logvar

        def forward(self, x: Tensor) -> Any:
            h = self.trunk(x)
            return ModelOutput(embedding=self.embedding(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.layers = heads.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder())


def train(network: Network, x: Tensor, clock: Clock) -> TwoHeads:
    """Train until the clock says so; `x` (N, 1, 28, 28) in [0, 1]."""
    from pythae.data.datasets import collate_dataset_output
    from pythae.data.preprocessors import DataProcessor
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Ticks(TrainingCallback):  # type: ignore[misc]
        def on_train_step_end(self, training_config: Any, **_: Any) -> None:
            if clock.tick():
                raise Over

    heads = TwoHeads(network)
    dataset = DataProcessor.to_dataset(x)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_epochs=1,
            learning_rate=RATE,
            no_cuda=clock.device.type != "cuda",
        )
        trainer = BaseTrainer(model_of(heads), dataset, training_config=config, callbacks=[Ticks()])
        steps = RandomSampler(dataset, num_samples=(clock.warmup + clock.steps) * BATCH)
        trainer.train_loader = DataLoader(dataset, BATCH, sampler=steps, collate_fn=collate_dataset_output)
        trainer.prepare_training()
        with contextlib.suppress(Over):
            trainer.train_step(epoch=1)
    logging.disable(logging.NOTSET)
    return heads
