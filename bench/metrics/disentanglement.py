"""Scores of how single dimensions of the code follow single factors of variation, for datasets with known factors.

Each is a function of codes (N, d) and factors (N, F) of the same test images. None of them is the one number for
"disentanglement": they measure different things, and their rankings differ (Locatello et al. 2019, arXiv:1811.12359).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.abilities import HasCodes
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.metrics.probing import UnlabelledCodes
from bench.util.errors import NotAvailable

BINS = 20
TREES_FROM = 2_000  #: images that the boosted trees of `dci_*` learn from
BATCH = 64  #: images, or pairs, behind each vote
VOTES, TESTED = 10_000, 5_000  #: votes to learn from, and to test on
PRUNED = 0.05  #: a dimension with a smaller standard deviation has no vote


class Factored(NamedTuple):
    """Codes (N, d) float64 and factors (N, F) int64 of N test images, each factor with two values at least."""

    codes: Tensor
    factors: Tensor


@dataclass(frozen=True)
class FactoredCodes(Request[Factored]):
    """Codes of the test split and the factors of its images."""

    def resolve(self, context: Context) -> Factored:
        factors = context.data.factors
        if factors is None:
            raise NotAvailable("this dataset has no known factors")
        if isinstance(context.model, HasCodes):
            raise NotAvailable("its codes are discrete: they have no dimensions that could follow a factor")
        varied = [k for k in range(factors.shape[1]) if int(ranks(factors[:, k]).max()) > 0]
        if not varied:
            raise NotAvailable("no factor varies over the test images")
        return Factored(context.get(UnlabelledCodes("test")).double(), factors[:, varied].cpu())


def ranks(values: Tensor) -> Tensor:
    """Return the place of each of N values among the distinct ones: (N,) int64, from 0."""
    inverse: Tensor = torch.unique(values, return_inverse=True)[1]
    return inverse


_factor_score = partial(metric, direction="higher", range=(0, 1), default=False)


# --- mutual information gap ---


def binned(code: Tensor) -> Tensor:
    """Return one of 20 bins of equal width between the smallest and the largest value: (N,) to (N,) int64."""
    low, high = code.min(), code.max()
    if low == high:
        return torch.zeros_like(code, dtype=torch.int64)
    return ((code - low) / (high - low) * BINS).long().clamp(max=BINS - 1)


def gap(scores: Tensor) -> Tensor:
    """Return the largest minus the second largest of each column: (d, F) to (F,). A second row of 0 is added to one."""
    top = torch.cat([scores, torch.zeros_like(scores[:1])]).topk(2, 0).values
    return top[0] - top[1]


def mutual_information_gap(codes: Tensor, factors: Tensor) -> float:
    """Return mean_k (I(z_1st; v_k) - I(z_2nd; v_k)) / H(v_k), codes in 20 bins, information plugged in (biased up)."""
    from sklearn.metrics import mutual_info_score

    bins, columns = [binned(c).numpy() for c in codes.T], [v.numpy() for v in factors.T]
    shared = torch.tensor([[mutual_info_score(b, v) for v in columns] for b in bins], dtype=torch.float64)
    return (gap(shared) / torch.tensor([mutual_info_score(v, v) for v in columns])).mean().item()


@_factor_score(FactoredCodes(), unit="MIG")
def mig(data: Factored) -> Score:
    """Mutual information gap, 0 to 1: information on a factor of the best dimension less the second best, over H.

    Chen et al. 2018, in the variant of Locatello et al. 2019: posterior means in 20 bins of equal width, not draws.
    Two dimensions that share a factor score 0, however clean.
    """
    return Score(mutual_information_gap(*data), len(data.codes))


# --- disentanglement and completeness ---


@dataclass(frozen=True)
class Importances(Request[Tensor]):
    """Importance of each dimension to boosted trees that tell each factor: (d, F) float64, not below 0.

    scikit-learn's GradientBoostingClassifier with its defaults, one for each factor, on 2,000 test images.
    """

    def resolve(self, context: Context) -> Tensor:
        from sklearn.ensemble import GradientBoostingClassifier

        codes, factors = context.get(FactoredCodes())
        order = torch.randperm(len(codes), generator=_generator("importances"))[:TREES_FROM]
        importances = []
        for factor in factors[order].T:
            context.alive()
            if int(ranks(factor).max()) == 0:
                raise NotAvailable("too few images: a factor has one value among them")
            trees = GradientBoostingClassifier(random_state=0).fit(codes[order].numpy(), factor.numpy())
            importances.append(torch.as_tensor(trees.feature_importances_, dtype=torch.float64))
        return torch.stack(importances, 1)


def concentration(importances: Tensor) -> float:
    """Return 1 - entropy of each row over its columns, base their number, weighted by the rows' mass: (n, m) to 0..1.

    Of importances (d, F) it is the disentanglement; of their transpose, the completeness.
    """
    mass = importances.sum(1)
    if importances.shape[1] < 2 or mass.sum() == 0:
        return 0.0
    shares = importances / mass.clamp_min(1e-300)[:, None]
    spread = -torch.xlogy(shares, shares).sum(1) / math.log(importances.shape[1])
    return ((1 - spread) * mass / mass.sum()).sum().item()


@_factor_score(FactoredCodes(), Importances(), unit="DCI")
def dci_disentanglement(data: Factored, importances: Tensor) -> Score:
    """Disentanglement, 0 to 1: each dimension counts for one factor alone, when boosted trees tell factors from codes.

    Eastwood & Williams 2018, in the variant of Locatello et al. 2019: gradient boosted trees, here on 2,000 test
    images. 1 - entropy over factors, weighted by how much a dimension counts. Two dimensions for one factor are fine.
    """
    return Score(concentration(importances), min(len(data.codes), TREES_FROM))


@_factor_score(FactoredCodes(), Importances(), unit="DCI")
def dci_completeness(data: Factored, importances: Tensor) -> Score:
    """Completeness, 0 to 1: one dimension alone counts for each factor. `dci_disentanglement` with exchanged roles."""
    return Score(concentration(importances.T), min(len(data.codes), TREES_FROM))


# --- separated attribute predictability ---


def separated(codes: Tensor, factors: Tensor) -> float:
    """Return mean_k of the gap between the two largest squared correlations of a dimension with factor k."""
    z, v = codes - codes.mean(0), factors.double() - factors.double().mean(0)
    spread = z.square().sum(0)[:, None] * v.square().sum(0)
    alive = z.square().mean(0)[:, None] > 1e-12
    squared = torch.where(alive, (z.T @ v).square() / torch.where(alive, spread, 1), 0)
    return gap(squared).mean().item()


@_factor_score(FactoredCodes(), unit="SAP")
def sap(data: Factored) -> Score:
    """Separated attribute predictability, 0 to 1: gap between the two dimensions that tell most of a factor, averaged.

    Kumar et al. 2018, in the variant for ordered factors: squared linear correlation. A factor without an order (a
    shape) is taken in the order of its values; one that turns or is folded over a dimension counts little.
    """
    return Score(separated(*data), len(data.codes))


# --- votes ---


def _generator(purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for("disentanglement", purpose))


def partners(factor: Tensor, of: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each position in `of` that of a random image with the same value of `factor` (N,)."""
    value = ranks(factor)
    count = torch.bincount(value)
    first, sought = count.cumsum(0) - count, value[of]
    step = (torch.rand(of.shape, generator=generator, dtype=torch.float64) * count[sought]).long()
    positions: Tensor = value.argsort(stable=True)[first[sought] + step]
    return positions


def fixed(factors: Tensor, votes: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """Yield each factor k and the positions of random images, one for each vote of its random share of `votes`."""
    which = torch.randint(factors.shape[1], (votes,), generator=generator)
    for k in range(factors.shape[1]):
        yield k, torch.randint(len(factors), (int((which == k).sum()),), generator=generator)


def factor_vae(codes: Tensor, factors: Tensor) -> float:
    """Return the accuracy of telling which factor a batch shares by its least varying dimension; 0 if none varies."""
    alive = codes.std(0) > PRUNED
    if not bool(alive.any()):
        return 0.0
    scaled, generator = codes[:, alive] / codes[:, alive].std(0), _generator("factor-vae")

    def vote(number: int) -> Tensor:
        votes = torch.zeros(factors.shape[1], scaled.shape[1], dtype=torch.int64)
        for k, of in fixed(factors, number, generator):
            batch = scaled[partners(factors[:, k], of[:, None].expand(-1, BATCH), generator)]
            votes[k] = torch.bincount(batch.var(1).argmin(1), minlength=scaled.shape[1])
        return votes

    winner = vote(VOTES).argmax(0)
    tested = vote(TESTED)
    return tested[winner, torch.arange(tested.shape[1])].sum().item() / TESTED


def beta_vae(codes: Tensor, factors: Tensor) -> float:
    """Return the accuracy of a logistic regression on mean absolute differences of pairs that share a factor."""
    from sklearn.linear_model import LogisticRegression

    generator = _generator("beta-vae")

    def differences(number: int) -> tuple[Tensor, Tensor]:
        x, y = [], []
        for k, some in fixed(factors, number, generator):
            one = torch.randint(len(factors), (len(some), BATCH), generator=generator)
            other = partners(factors[:, k], one, generator)
            x.append((codes[one] - codes[other]).abs().mean(1))
            y.append(torch.full((len(some),), k))
        return torch.cat(x), torch.cat(y)

    x, y = differences(VOTES)
    test_x, test_y = differences(TESTED)
    predicted = LogisticRegression(max_iter=1_000).fit(x.numpy(), y.numpy()).predict(test_x.numpy())
    return (torch.as_tensor(predicted) == test_y).double().mean().item()


def _votes(score: Callable[[Tensor, Tensor], float], data: Factored) -> Score:
    if data.factors.shape[1] < 2:
        raise NotAvailable("needs two factors")
    return Score(score(*data), len(data.codes))


@_factor_score(FactoredCodes(), unit="share right")
def factor_vae_score(data: Factored) -> Score:
    """Accuracy of telling which factor 64 images share by the dimension that varies least among them: majority vote.

    Kim & Mnih 2018, in the variant of Locatello et al. 2019: 10,000 votes to learn from and 5,000 to test on,
    dimensions with a standard deviation below .05 left out. Guessing scores 1 / factors.
    """
    return _votes(factor_vae, data)


@_factor_score(FactoredCodes(), unit="share right")
def beta_vae_score(data: Factored) -> Score:
    """Accuracy of telling which factor pairs share by a logistic regression on the mean |difference| of 64 pairs.

    Higgins et al. 2017, in the variant of Locatello et al. 2019, 10,000 and 5,000 batches. A rotation of the factors
    within a subspace can reach 1. Guessing scores 1 / factors.
    """
    return _votes(beta_vae, data)
