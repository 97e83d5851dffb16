"""Whether single dimensions of the code follow single factors of variation, where a dataset knows its factors.

Each score is a function of codes (N, d) and factors (N, F) of the same test images. None of them is one number for
"disentanglement": they ask different things, and their rankings differ (Locatello et al. 2019, arXiv:1811.12359).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.contracts.abilities import HasCodes
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.metrics.probing import UnlabelledCodes
from bench.util.errors import NotAvailable

BINS = 20
TREES_FROM = 2_000  #: images that the boosted trees of `dci_*` are grown on
BATCH = 64  #: images, or pairs, behind each vote
VOTES, ASKED = 10_000, 5_000  #: to learn from, and to be asked about
PRUNED = 0.05  #: standard deviation below which a dimension has no vote


class Factored(NamedTuple):
    """Codes (N, d) float64 and factors (N, F) int64 of N test images, each factor with two values at least."""

    codes: Tensor
    factors: Tensor


@dataclass(frozen=True)
class FactoredCodes(Request[Factored]):
    """Codes of the test split beside the factors that its images were made from."""

    def resolve(self, context: Context) -> Factored:
        factors = context.data.factors
        if factors is None:
            raise NotAvailable("this dataset has no known factors")
        if isinstance(context.model, HasCodes):
            raise NotAvailable("its codes are discrete: no dimension of theirs is asked to follow a factor")
        varied = [k for k in range(factors.shape[1]) if int(ranks(factors[:, k]).max()) > 0]
        if not varied:
            raise NotAvailable("no factor varies over the test images")
        return Factored(context.get(UnlabelledCodes("test")).double(), factors[:, varied].cpu())


def ranks(values: Tensor) -> Tensor:
    """Each of N values by its place among the distinct ones: (N,) int64, from 0."""
    found: tuple[Tensor, Tensor] = torch.unique(values, return_inverse=True)
    return found[1]


# --- mutual information gap ---


def information(a: Tensor, b: Tensor) -> float:
    """Mutual information of two discrete variables (N,), in nats, plugged in: biased upwards."""
    a, b = ranks(a), ranks(b)
    width = int(b.max()) + 1
    joint = torch.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).double().view(-1, width) / len(a)
    return entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)


def entropy(p: Tensor) -> float:
    """In nats, of probabilities in any shape."""
    return -torch.xlogy(p, p).sum().item()


def binned(code: Tensor) -> Tensor:
    """One of 20 bins of equal width between the smallest and the largest value: (N,) to (N,) int64."""
    low, high = code.min(), code.max()
    if low == high:
        return torch.zeros_like(code, dtype=torch.int64)
    return ((code - low) / (high - low) * BINS).long().clamp(max=BINS - 1)


def gap(scores: Tensor) -> Tensor:
    """The largest minus the second largest of each column: (d, F) to (F,). A single row stands against 0."""
    top = torch.cat([scores, torch.zeros_like(scores[:1])]).topk(2, 0).values
    return top[0] - top[1]


def mutual_information_gap(codes: Tensor, factors: Tensor) -> float:
    """mean_k (I(z_1st; v_k) - I(z_2nd; v_k)) / H(v_k), codes in 20 bins."""
    bins, columns = [binned(c) for c in codes.T], factors.T
    shared = torch.tensor([[information(b, v) for v in columns] for b in bins], dtype=torch.float64)
    return (gap(shared) / torch.tensor([information(v, v) for v in columns])).mean().item()


@metric(FactoredCodes(), unit="MIG", direction="higher", range=(0, 1), default=False)
def mig(data: Factored) -> Score:
    """Mutual information gap: how much more the best dimension tells of a factor than the second best, a share of H.

    Chen et al. 2018, in the variant of Locatello et al. 2019: posterior means in 20 bins of equal width, not draws.
    Two dimensions that share a factor score 0, however clean.
    """
    return Score(mutual_information_gap(*data), len(data.codes))


# --- disentanglement and completeness ---


@dataclass(frozen=True)
class Importances(Request[Tensor]):
    """How much each dimension counts when boosted trees tell each factor: (d, F) float64, not below 0.

    scikit-learn's GradientBoostingClassifier as it comes, one a factor, on 2,000 test images.
    """

    def resolve(self, context: Context) -> Tensor:
        from sklearn.ensemble import GradientBoostingClassifier

        codes, factors = context.get(FactoredCodes())
        order = torch.randperm(len(codes), generator=_generator("importances"))[:TREES_FROM]
        found = []
        for factor in factors[order].T:
            context.alive()
            if int(ranks(factor).max()) == 0:
                raise NotAvailable("too few images: a factor has one value among them")
            trees = GradientBoostingClassifier(random_state=0).fit(codes[order].numpy(), factor.numpy())
            found.append(torch.as_tensor(trees.feature_importances_, dtype=torch.float64))
        return torch.stack(found, 1)


def concentration(importances: Tensor) -> float:
    """1 - entropy of each row over its columns, base their number, weighted by the rows' mass: (n, m) to 0..1."""
    mass = importances.sum(1)
    if importances.shape[1] < 2 or mass.sum() == 0:
        return 0.0
    shares = importances / mass.clamp_min(1e-300)[:, None]
    spread = -torch.xlogy(shares, shares).sum(1) / math.log(importances.shape[1])
    return ((1 - spread) * mass / mass.sum()).sum().item()


def disentanglement(importances: Tensor) -> float:
    """Whether each dimension counts for one factor alone: (d, F) importances, weighted by dimension."""
    return concentration(importances)


def completeness(importances: Tensor) -> float:
    """Whether one dimension alone counts for each factor: (d, F) importances, weighted by factor."""
    return concentration(importances.T)


@metric(FactoredCodes(), Importances(), unit="DCI", direction="higher", range=(0, 1), default=False)
def dci_disentanglement(data: Factored, importances: Tensor) -> Score:
    """Whether each dimension counts for one factor alone, when boosted trees tell factors from codes.

    Eastwood & Williams 2018, in the variant of Locatello et al. 2019: gradient boosted trees, here grown on 2,000 test
    images. 1 - entropy over factors, weighted by how much a dimension counts. Two dimensions for one factor are fine.
    """
    return Score(disentanglement(importances), min(len(data.codes), TREES_FROM))


@metric(FactoredCodes(), Importances(), unit="DCI", direction="higher", range=(0, 1), default=False)
def dci_completeness(data: Factored, importances: Tensor) -> Score:
    """Whether one dimension alone counts for each factor: `dci_disentanglement` with the roles exchanged."""
    return Score(completeness(importances), min(len(data.codes), TREES_FROM))


# --- separated attribute predictability ---


def separated(codes: Tensor, factors: Tensor) -> float:
    """mean_k of the gap between the two largest squared correlations of a dimension with factor k."""
    z, v = codes - codes.mean(0), factors.double() - factors.double().mean(0)
    spread = z.square().sum(0)[:, None] * v.square().sum(0)
    alive = z.square().mean(0)[:, None] > 1e-12
    squared = torch.where(alive, (z.T @ v).square() / torch.where(alive, spread, 1), 0)
    return gap(squared).mean().item()


@metric(FactoredCodes(), unit="SAP", direction="higher", range=(0, 1), default=False)
def sap(data: Factored) -> Score:
    """Separated attribute predictability: gap between the two dimensions that tell most of a factor, mean over factors.

    Kumar et al. 2018, in the variant for ordered factors: squared linear correlation. A factor without an order (a
    shape) is taken in the order of its values; one that turns or is folded over a dimension counts little.
    """
    return Score(separated(*data), len(data.codes))


# --- votes ---


def _generator(purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for("disentanglement", purpose))


def partners(factor: Tensor, of: Tensor, generator: torch.Generator) -> Tensor:
    """For each position in `of` that of a random image with the same value of `factor` (N,): in the shape of `of`."""
    value = ranks(factor)
    count = torch.bincount(value)
    first, sought = count.cumsum(0) - count, value[of]
    step = (torch.rand(of.shape, generator=generator, dtype=torch.float64) * count[sought]).long()
    found: Tensor = value.argsort(stable=True)[first[sought] + step]
    return found


def fixed(factors: Tensor, votes: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """Each factor k, with a random share of `votes` and a random image for each: (k, positions)."""
    which = torch.randint(factors.shape[1], (votes,), generator=generator)
    for k in range(factors.shape[1]):
        yield k, torch.randint(len(factors), (int((which == k).sum()),), generator=generator)


def factor_vae(codes: Tensor, factors: Tensor) -> float:
    """Accuracy of telling which factor a batch shares by the dimension that varies least in it; 0 if none varies."""
    alive = codes.std(0) > PRUNED
    if not bool(alive.any()):
        return 0.0
    scaled, generator = codes[:, alive] / codes[:, alive].std(0), _generator("factor-vae")

    def vote(number: int) -> Tensor:
        found = torch.zeros(factors.shape[1], scaled.shape[1], dtype=torch.int64)
        for k, of in fixed(factors, number, generator):
            batch = scaled[partners(factors[:, k], of[:, None].expand(-1, BATCH), generator)]
            found[k] = torch.bincount(batch.var(1).argmin(1), minlength=scaled.shape[1])
        return found

    winner = vote(VOTES).argmax(0)
    asked = vote(ASKED)
    return asked[winner, torch.arange(asked.shape[1])].sum().item() / ASKED


def beta_vae(codes: Tensor, factors: Tensor) -> float:
    """Accuracy of a logistic regression that tells which factor pairs share by their mean absolute difference."""
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
    asked, answers = differences(ASKED)
    told = LogisticRegression(max_iter=1_000).fit(x.numpy(), y.numpy()).predict(asked.numpy())
    return (torch.as_tensor(told) == answers).double().mean().item()


def _two(factors: Tensor) -> None:
    if factors.shape[1] < 2:
        raise NotAvailable("needs two factors")


@metric(FactoredCodes(), unit="share right", direction="higher", range=(0, 1), default=False)
def factor_vae_score(data: Factored) -> Score:
    """Which of the factors 64 images share, told by the dimension that varies least among them: majority vote.

    Kim & Mnih 2018, in the variant of Locatello et al. 2019: 10,000 votes to learn from and 5,000 to be asked about,
    dimensions with a standard deviation below .05 left out. Guessing comes to 1 / factors.
    """
    _two(data.factors)
    return Score(factor_vae(*data), len(data.codes))


@metric(FactoredCodes(), unit="share right", direction="higher", range=(0, 1), default=False)
def beta_vae_score(data: Factored) -> Score:
    """Which of the factors pairs share, told by a logistic regression on the mean |difference| of 64 pairs.

    Higgins et al. 2017, in the variant of Locatello et al. 2019, 10,000 and 5,000 batches. A rotation of the factors
    within a subspace can reach 1. Guessing comes to 1 / factors.
    """
    _two(data.factors)
    return Score(beta_vae(*data), len(data.codes))
