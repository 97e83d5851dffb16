"""Disentanglement on codes and factors of known truth, and the sprites that have known factors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.contracts.dataset import Data
from bench.contracts.measurement import METRICS, Score
from bench.data import load
from bench.metrics import disentanglement as scores
from bench.metrics.disentanglement import Factored
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, data_of, images


def ideal(n: int = 10_000, factors: int = 5, values: int = 10, seed: int = 0) -> Tensor:
    """Independent factors of 10 values each: (n, factors) int64."""
    return torch.randint(values, (n, factors), generator=torch.Generator().manual_seed(seed))


V = ideal()
CLEAN = V.double()
DOUBLED = torch.cat([CLEAN, CLEAN], 1)
NOTHING = torch.zeros(len(V), 5, dtype=torch.float64)
NOISE = torch.randn(len(V), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- mutual information gap ---


def test_mig_of_codes_that_are_the_factors() -> None:
    assert 0.99 < scores.mutual_information_gap(CLEAN, V) <= 1
    assert scores.mutual_information_gap(-3 * CLEAN + 7, V) == pytest.approx(scores.mutual_information_gap(CLEAN, V))


def test_mig_of_doubled_constant_and_random_codes() -> None:
    assert scores.mutual_information_gap(DOUBLED, V) == 0
    assert scores.mutual_information_gap(NOTHING, V) == 0
    assert abs(scores.mutual_information_gap(NOISE, V)) < 0.001


def test_mig_of_two_factors_turned_by_45_degrees() -> None:
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    assert scores.mutual_information_gap(CLEAN[:, :2] @ turn.T, V[:, :2]) == pytest.approx(0.016, abs=0.015)


def test_bins_are_those_of_numpy() -> None:
    code = NOISE[:500, 0] + CLEAN[:500, 0]
    edges = np.histogram(code.numpy(), 20)[1][:-1]
    assert torch.equal(scores.binned(code) + 1, torch.as_tensor(np.digitize(code.numpy(), edges)))


def test_a_single_dimension_stands_alone() -> None:
    assert scores.mutual_information_gap(CLEAN[:, :1], V[:, :1]) == pytest.approx(1)


# --- disentanglement and completeness ---


def test_dci_of_one_dimension_for_each_factor() -> None:
    diagonal = 5 * torch.eye(5, dtype=torch.float64)
    with_dead = torch.tensor([[1.0, 0], [0, 1], [0, 0]]).double()
    for importances in (diagonal, with_dead):
        assert scores.concentration(importances) == pytest.approx(1)
        assert scores.concentration(importances.T) == pytest.approx(1)
    assert scores.concentration(diagonal[:2]) == pytest.approx(1)


def test_dci_of_two_dimensions_for_each_factor_and_the_reverse() -> None:
    diagonal = 5 * torch.eye(5, dtype=torch.float64)
    doubled, shared = torch.cat([diagonal, diagonal]), torch.cat([diagonal, diagonal], 1)
    less = 1 - math.log(2) / math.log(10)
    assert less == pytest.approx(0.699, abs=1e-3)
    assert scores.concentration(doubled) == pytest.approx(1)
    assert scores.concentration(doubled.T) == pytest.approx(less)
    assert scores.concentration(shared) == pytest.approx(less)
    assert scores.concentration(shared.T) == pytest.approx(1)


def test_dci_of_nothing_or_all_alike_is_zero() -> None:
    for importances in (torch.zeros(10, 10), torch.ones(10, 10)):
        assert scores.concentration(importances.double()) == pytest.approx(0)
        assert scores.concentration(importances.double().T) == pytest.approx(0)


def test_dci_weights_dimensions_by_how_much_they_count() -> None:
    importances = torch.tensor([[3.0, 0.0], [0.5, 0.5]]).double()
    assert scores.concentration(importances) == pytest.approx(3 / 4)


def planted(codes: Tensor, factors: Tensor) -> Bare:
    return Bare(planted={scores.FactoredCodes(): Factored(codes, factors)})


def test_trees_find_the_dimension_that_tells_a_factor() -> None:
    factors = ideal(400, 2, 3)
    spare = torch.randn(400, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    codes = torch.cat([spare, factors.double().flip(1)], 1)
    importances = planted(codes, factors).get(scores.Importances())
    torch.testing.assert_close(importances, torch.tensor([[0.0, 0], [0, 1], [1, 0]]).double(), atol=0.02, rtol=0)


# --- separated attribute predictability ---


def test_sap_of_clean_doubled_constant_and_random_codes() -> None:
    assert scores.separated(CLEAN, V) > 0.99
    assert scores.separated(DOUBLED, V) == pytest.approx(0, abs=1e-12)
    assert scores.separated(NOTHING, V) == 0
    assert scores.separated(NOISE, V) < 0.001


def test_sap_is_a_gap_of_squared_correlations() -> None:
    codes = torch.stack([CLEAN[:, 0] + NOISE[:, 0] * 3, NOISE[:, 1], CLEAN[:, 0] + NOISE[:, 2] * 9], 1)
    r = sorted(np.corrcoef(c.numpy(), V[:, 0].numpy())[0, 1] ** 2 for c in codes.T)
    assert scores.separated(codes, V[:, :1]) == pytest.approx(r[-1] - r[-2], abs=1e-12)


# --- votes ---


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "VOTES", 2_000)
    monkeypatch.setattr(scores, "TESTED", 2_000)


@pytest.mark.usefixtures("fewer")
def test_votes_on_codes_that_are_the_factors() -> None:
    assert scores.factor_vae(CLEAN, V) > 0.99
    assert scores.beta_vae(CLEAN, V) > 0.99
    assert scores.factor_vae(DOUBLED, V) > 0.99


@pytest.mark.usefixtures("fewer")
def test_votes_on_codes_without_content_are_guessing() -> None:
    assert scores.factor_vae(NOTHING, V) == 0
    assert scores.beta_vae(NOTHING, V) == pytest.approx(0.2, abs=0.04)
    assert scores.factor_vae(NOISE, V) < 0.26
    assert scores.beta_vae(NOISE, V) < 0.26


@pytest.mark.usefixtures("fewer")
def test_a_dimension_that_hardly_moves_has_no_vote() -> None:
    scale = torch.tensor([0.016, 1, 1, 1, 1])  # a standard deviation of .046
    assert scores.factor_vae(CLEAN * scale, V) < 0.9
    assert scores.factor_vae(CLEAN * scale * 1.2, V) > 0.99


def test_partners_share_the_factor_and_are_drawn_evenly() -> None:
    factor = torch.tensor([7, 3, 7, 7, 9, 3])
    of = torch.arange(6)[:, None].expand(-1, 6_000)
    found = scores.partners(factor, of, torch.Generator().manual_seed(0))
    assert torch.equal(factor[found], factor[of])
    counts = torch.bincount(found[0], minlength=6)
    assert counts.tolist()[1::3] == [0, 0]
    assert all(abs(c - 2_000) < 150 for c in counts[[0, 2, 3]].tolist())


# --- what they are for ---


class Pixels(nn.Module):
    uses_labels = False

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


ALL = ("mig", "dci_disentanglement", "dci_completeness", "sap", "factor_vae_score", "beta_vae_score")


def context(model: Any, factors: Tensor | None) -> Bare:
    split = images(torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2))
    return Bare(model=model, data=replace(data_of(split, split), factors=factors))


def test_without_factors_none_of_them_has_a_number() -> None:
    class Discrete(Pixels):
        codebook_size = 3

        def codes(self, x: Tensor) -> Tensor:
            return x.flatten(1).long()

    class Given(Pixels):
        uses_labels = True

    for model, factors, why in (
        (Pixels(), None, "no known factors"),
        (Discrete(), torch.arange(6)[:, None], "discrete"),
        (Given(), torch.arange(6)[:, None], "labels enter it"),
        (Pixels(), torch.ones(6, 2).long(), "no factor varies"),
    ):
        for name in ALL:
            metric, where = METRICS.load(name), context(model, factors)
            assert not metric.default
            with pytest.raises(NotAvailable, match=why):
                metric(*(where.get(need) for need in metric.needs))


def test_a_factor_of_one_value_is_left_out() -> None:
    factors = torch.stack([torch.ones(6), torch.arange(6)], 1).long()
    data = context(Pixels(), factors).get(scores.FactoredCodes())
    assert torch.equal(data.factors, factors[:, 1:])
    for name in ("factor_vae_score", "beta_vae_score"):
        with pytest.raises(NotAvailable, match="two factors"):
            METRICS.load(name)(data)


# --- the sprites ---


@pytest.fixture(scope="module")
def sprites() -> Data:
    return load("sprites", Path())


def pixels(data: Data) -> Tensor:
    return data.test.take(torch.arange(len(data.test)))[:, 0].double() / 255


def centres(x: Tensor) -> Tensor:
    """Centres of mass (N, 2): column, row."""
    at, mass = torch.arange(x.shape[1]).double(), x.sum((1, 2))
    return torch.stack([(x.sum(1) * at).sum(1), (x.sum(2) * at).sum(1)], 1) / mass[:, None]


def test_every_combination_is_there_once(sprites: Data) -> None:
    """The pinned digest: the same images on every machine."""
    both = torch.cat([s.take(torch.arange(len(s))) for s in (sprites.train, sprites.test)]).flatten(1)
    assert both.shape == (12_000, 784)
    assert len(torch.unique(both, dim=0)) == 12_000
    assert sprites.test.digest.startswith("ced8b59da6f8")
    assert sprites.train.digest.startswith("096737af7a9d")
    assert sprites.factors is not None
    assert len(torch.unique(sprites.factors, dim=0)) == len(sprites.factors) == 2_000
    assert (sprites.factors.max(0).values + 1).tolist() == [3, 4, 10, 10, 10]
    assert torch.equal(sprites.factors[:, 0], sprites.test.labels())


def test_factors_say_where_and_how_large_a_sprite_is(sprites: Data) -> None:
    assert sprites.factors is not None
    x, v = pixels(sprites), sprites.factors
    even = v[:, 0] < 2  # a heart's centre of mass isn't its middle
    expected = 13.5 + 1.5 * (v[:, 3:].double() - 4.5)
    torch.testing.assert_close(centres(x)[even], expected[even], atol=0.03, rtol=0)
    area, sizes = x.sum((1, 2)), torch.tensor([3.05, 3.85, 4.65, 5.45]).double()[v[:, 1]]
    for shape, of_one in ((0, 1.72**2), (1, math.pi * 1.1 * 0.62)):
        some = v[:, 0] == shape
        torch.testing.assert_close(area[some], of_one * sizes[some] ** 2, rtol=0.1, atol=0)


def test_an_ellipse_turns_by_nine_degrees_a_step(sprites: Data) -> None:
    assert sprites.factors is not None
    some = (sprites.factors[:, 0] == 1) & (sprites.factors[:, 1] == 3)
    x, at = pixels(sprites)[some], torch.arange(28).double()
    c = centres(x)
    column, row = at[None, None, :] - c[:, :1, None], -(at[None, :, None] - c[:, 1:, None])  # rows count downwards
    mass = x.sum((1, 2))
    xx, yy, xy = ((x * w).sum((1, 2)) / mass for w in (column**2, row**2, column * row))
    angle = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)
    torch.testing.assert_close(angle, 9 * sprites.factors[some, 2].double(), atol=1.5, rtol=0)


@pytest.mark.usefixtures("fewer")
def test_codes_and_factors_are_of_the_same_images(sprites: Data) -> None:
    """An encoder that reads the place reaches all of both places, and nothing of the others."""

    class Place(Pixels):
        def encode(self, x: Tensor, y: Tensor) -> Tensor:
            return centres(x[:, 0].double()).float()

    assert sprites.factors is not None
    where = Bare(model=Place(), data=replace(sprites, factors=sprites.factors[:, 3:]))

    def score(name: str) -> float:
        metric = METRICS.load(name)
        found: Score = metric(*(where.get(need) for need in metric.needs))
        assert found.n == 2_000
        return found.value

    assert score("mig") > 0.85
    assert score("sap") > 0.95
    assert score("factor_vae_score") > 0.99
    assert score("beta_vae_score") > 0.99
