"""Participation ratio of the codes' covariance. Gao & Ganguli 2015, https://arxiv.org/abs/1503.08779."""

import torch

from bench import NotAvailable, Score, metric
from bench.evidence import Codes, LabelledCodes


@metric(Codes("test"), unit="dimensions", range=(1, 10**6))
def effective_dimensions(test: LabelledCodes) -> Score:
    """(sum l)^2 / sum l^2, l the eigenvalues of the test codes' covariance: d if all vary alike, 1 if one does."""
    variances = torch.linalg.svdvals(test.codes.double() - test.codes.double().mean(0)).square()
    if not variances.sum() > 0:
        raise NotAvailable("its codes are all the same")
    return Score((variances.sum().square() / variances.square().sum()).item(), len(test.codes))
