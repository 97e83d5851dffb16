"""Active units. Burda, Grosse & Salakhutdinov 2016, section 5.1, https://arxiv.org/abs/1509.00519."""

from bench import Score, metric
from bench.evidence import Codes, LabelledCodes


@metric(Codes("test"), unit="dimensions", range=(0, 10**6))
def active_units(test: LabelledCodes) -> Score:
    """Latent dimensions whose posterior mean varies over test images by more than 0.01: Var_x(E_q(z|x)[z])."""
    variance = test.codes.double().var(0)
    return Score(int((variance > 0.01).sum()), len(test.codes))
