"""The importance-weighted autoencoder. Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519."""

import math
from typing import Annotated, Any

from bench import Batch, Loss, Range, Spec
from bench.blocks import GaussianVAE


class IWAE(GaussianVAE):
    """Descends -log 1/k sum_i w_i with w_i = p(x, z_i) / q(z_i|x) (eq. 8); its `elbo` is scored like everybody's."""

    def __init__(self, spec: Spec, *, k: Annotated[int, Range(1, 1000), "samples"] = 5, **rest: Any) -> None:
        super().__init__(spec, **rest)
        self.k = k

    def loss(self, batch: Batch) -> Loss:
        bound = (self.log_weights(batch.x, batch.y, self.k).logsumexp(0) - math.log(self.k)).mean()
        return -bound, {"bound": bound}
