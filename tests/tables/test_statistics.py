"""Tests and intervals against closed forms, other people's code, and simulated data that they are made for."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.tables import statistics
from bench.tables.statistics import Paired, detectable, holm, paired, paired_over_images, paired_t, sign_flip, verdicts

RNG = np.random.default_rng


def within(share: float, expected: float, n: int) -> bool:
    """Whether a share of n agrees with what is expected, to 4 standard errors."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_paired_t_test_is_scipys(n: int) -> None:
    a, b = RNG(n).normal(size=(2, n))
    found, theirs = paired(list(a), list(b)), stats.ttest_rel(b, a)
    interval = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.sd == pytest.approx(stats.sem(b - a) * math.sqrt(n))


def test_pairs_count_and_not_their_order_or_a_shift_of_a_seed() -> None:
    a, b = RNG(0).normal(size=(2, 5))
    shift, order = 100 * RNG(1).normal(size=5), [3, 1, 4, 0, 2]
    assert paired(list(a + shift), list(b + shift)).p == pytest.approx(paired(list(a), list(b)).p)
    assert paired(list(a[order]), list(b[order])).p == pytest.approx(paired(list(a), list(b)).p)
    back = paired(list(b), list(a))
    assert back.p == pytest.approx(paired(list(a), list(b)).p)
    assert back.mean == pytest.approx(-paired(list(a), list(b)).mean)


def test_fewer_than_three_pairs_cannot_say() -> None:
    one, two = paired([1.0], [2.0]), paired([1.0, 2.0], [2.0, 5.0])
    assert (one.mean, one.sd, one.p, one.low, one.detectable) == (1.0, None, None, None, None)
    assert (two.mean, two.p, two.low, two.detectable) == (2.0, None, None, None)
    assert two.sd == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_an_error(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        paired(a, b)


@pytest.mark.parametrize("n", [9, 12, 16])
def test_differences_of_one_sign_have_the_least_p_there_is(n: int) -> None:
    assert sign_flip(1 + RNG(n).random(n))[0] == 2 / 2**n


def test_the_sign_flip_test_is_the_count_of_all_patterns_and_scipys() -> None:
    d = RNG(3).normal(0.4, 1, 9)
    means = [abs(np.mean(np.multiply(signs, d))) for signs in product((1, -1), repeat=9)]
    p, low, high = sign_flip(d)
    assert p == np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert p == pytest.approx(theirs.pvalue)
    assert low is not None
    assert high is not None
    assert low < d.mean() < high


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_where_the_sign_flip_test_is_silent(seed: int) -> None:
    d = RNG(seed).normal(0.5, 1, 10)
    _, low, high = sign_flip(d)
    assert low is not None
    assert high is not None
    for edge, inwards in ((low, 1e-9), (high, -1e-9)):
        assert sign_flip(d - edge - inwards)[0] > 0.05
        assert sign_flip(d - edge + inwards)[0] <= 0.05


def test_a_drawn_test_repeats_and_agrees_with_the_enumerated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    d = RNG(7).normal(0.5, 1, 14)
    exact = sign_flip(d)
    monkeypatch.setattr(statistics, "ENUMERATED", 13)
    drawn = sign_flip(d)
    assert drawn == sign_flip(d)
    assert within(drawn[0] / 2, exact[0] / 2, statistics.DRAWS)
    assert drawn[1:] == pytest.approx(exact[1:], abs=0.02)
    assert drawn[0] != exact[0]


def test_a_drawn_p_is_never_zero() -> None:
    assert sign_flip(np.arange(1.0, 41))[0] == 2 / statistics.DRAWS


def test_three_to_eight_pairs_take_t_and_more_the_sign_flip_test() -> None:
    d = RNG(2).normal(1, 1, 9)
    for n, test in ((3, paired_t), (8, paired_t), (9, sign_flip)):
        found = paired([0.0] * n, list(d[:n]))
        assert (found.p, found.low, found.high) == test(d[:n])


@pytest.mark.parametrize("n", [3, 5, 8, 12])
def test_equal_rows_do_not_differ(n: int) -> None:
    values = list(RNG(n).normal(-100, 3, n))
    found = paired(values, values)
    assert (found.mean, found.sd, found.p, found.detectable) == (0.0, 0.0, 1.0, None)


@pytest.mark.parametrize("n", [3, 5, 6, 12])
def test_a_constant_difference_is_as_sure_as_its_signs(n: int) -> None:
    a = RNG(n).normal(-100, 3, n)
    found = paired(list(a), list(a + 0.1))  # equal only to rounding
    assert (found.sd, found.p) == (0.0, 2 / 2**n)
    assert (found.low is None) == (n < 6)
    assert found.low is None or found.low == found.high == pytest.approx(0.1)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 5, 9])
def test_rates_of_false_alarms_and_of_covered_truths_are_nominal(n: int) -> None:
    trials, truth = 1_000, 0.7
    found = [paired([0.0] * n, list(d)) for d in RNG(n).normal(truth, 1, (trials, n))]
    beside = [paired([truth] * n, list(d)) for d in RNG(n).normal(truth, 1, (trials, n))]
    k = 2 * math.floor(0.025 * 2**n) / 2**n
    level = 0.05 if n < 9 else k
    assert within(float(np.mean([f.p is not None and f.p <= 0.05 for f in beside])), level, trials)
    covered = [f.low is not None and f.high is not None and f.low <= truth <= f.high for f in found]
    assert within(float(np.mean(covered)), 1 - level, trials)
    assert all((f.p or 0) > 0.05 or f.low is None or f.low > 0 or (f.high or 0) < 0 for f in found)


def test_the_detectable_difference_is_found_four_times_of_five() -> None:
    assert detectable(1.0, 5) == pytest.approx(1.6820, abs=1e-4)  # as G*Power has it for d_z
    for n in (3, 5, 8):
        power = stats.nct(n - 1, detectable(2.0, n) / 2 * math.sqrt(n))
        t = stats.t.ppf(0.975, n - 1)
        assert power.sf(t) + power.cdf(-t) == pytest.approx(0.8, abs=1e-5)


def test_holm_keeps_the_rate_of_any_false_alarm_where_bare_p_values_do_not() -> None:
    trials, lines, n = 1_000, 6, 5
    bare, corrected = 0, 0
    for d in RNG(11).normal(size=(trials, lines, n)):
        ps = [paired_t(line)[0] for line in d]
        bare += min(ps) <= 0.05
        corrected += min(holm(ps)) <= 0.05
    assert corrected / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert bare / trials > 0.2


def test_a_verdict_is_holms_over_merits_and_over_coordinates_apart() -> None:
    def of(mean: float, p: float | None) -> Paired:
        return Paired(5, mean, 1.0, p=p)

    family = [(of(1, 0.02), "higher"), (of(1, 0.001), "lower"), (of(-1, 0.04), None), (of(1, None), "higher")]
    found = verdicts([*family, (of(-2, 0.03), "lower")])  # type: ignore[list-item]
    assert [v.p for v in found] == pytest.approx([0.04, 0.003, 0.04, None, 0.04])
    assert [v.mark for v in found] == ["+", "-", "", "~", "+"]
    assert verdicts([]) == []


def test_pairing_over_images_takes_out_what_the_images_share() -> None:
    rng = RNG(0)
    shared, effect = rng.normal(-240, 75, 4_000), rng.normal(0.5, 2, 4_000)
    found = paired_over_images(shared, shared + effect)
    theirs = stats.ttest_rel(shared + effect, shared)
    assert found.n == 4_000
    assert found.mean == pytest.approx(effect.mean())
    assert found.mean / found.se == pytest.approx(theirs.statistic)
    assert found.se < 0.05 < stats.sem(shared)


def test_seeds_are_averaged_before_images_are_counted() -> None:
    a, b = RNG(5).normal(size=(2, 3, 50))
    found = paired_over_images(a, b)
    assert found.n == 50
    assert found.mean == pytest.approx((b - a).mean())
    assert found.se == pytest.approx(stats.sem((b - a).mean(0)))


@pytest.mark.parametrize(("a", "b"), [(np.zeros(5), np.zeros(6)), (np.zeros(1), np.zeros(1)), (0.0, 0.0)])
def test_values_of_other_images_are_not_paired(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="are not paired"):
        paired_over_images(a, b)
