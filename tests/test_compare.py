"""Two runs against each other."""

from __future__ import annotations

import json

import pytest

from bench.compare import Difference, compare
from bench.errors import IncomparableRows, UsageError
from tests.synthetic import DATA, SCORING, TRAINING, bound, failed, loss, loss_ratio, rate, register, row


@pytest.fixture(autouse=True)
def _metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate, loss_ratio=loss_ratio)


def difference(a: list, b: list, metric: str, label: str = "vae") -> Difference:
    (group,) = compare(a, b).groups
    return dict(group.lines)[label][metric]


def test_the_difference_is_b_minus_a_over_paired_seeds() -> None:
    a = [row(seed=s, scores={"bound": v}) for s, v in enumerate((1.0, 2.0, 50.0))]
    b = [row(seed=s, scores={"bound": v}) for s, v in enumerate((2.0, 5.0))]
    found = difference(a, b, "bound")
    assert (found.n, found.a, found.b, found.difference) == (2, 1.5, 3.5, 2.0)
    assert found.sd == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("metric", "a", "b", "verdict"),
    [
        ("bound", 1.5, 2.5, "better"),
        ("bound", 2.5, 1.5, "worse"),
        ("loss", 1.5, 2.5, "worse"),
        ("loss", 2.5, 1.5, "better"),
        ("rate", 1.5, 2.5, ""),
        ("loss", 1.5, 1.5, "equal"),
        ("loss", 105.5, 105.5 + 1e-9, "equal"),
    ],
)
def test_the_verdict_is_bs(metric: str, a: float, b: float, verdict: str) -> None:
    assert difference([row(scores={metric: a})], [row(scores={metric: b})], metric).verdict == verdict


def test_swapping_the_runs_changes_the_sign_and_the_verdict() -> None:
    a, b = [row(scores={"bound": 1.5})], [row(scores={"bound": 2.25})]
    there, back = difference(a, b, "bound"), difference(b, a, "bound")
    assert there.difference == -back.difference
    assert (there.text, back.text) == ("+0.750", "−0.750")
    assert (there.verdict, back.verdict) == ("better", "worse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {**TRAINING, "batch_size": 64}}, "training.batch_size: 128 in a, 64 in b"),
        ({"scoring": {**SCORING, "samples": 5}}, "scoring.samples: 10000 in a, 5 in b"),
        ({"data": {**DATA, "test": "cccc"}}, 'data.test: "bbbb" in a, "cccc" in b'),
        ({"likelihood": "gaussian"}, 'likelihood: "bernoulli" in a, "gaussian" in b'),
        ({"hyperparameters": {"backbone": "mlp", "latent_dim": 8}}, "hyperparameters.latent_dim: 20 in a, 8 in b"),
        ({"steps": (4690, 1)}, "steps: [4690] in a, [4690,1] in b"),
    ],
)
def test_other_conditions_are_refused_with_the_field_and_both_values(change: dict, message: str) -> None:
    with pytest.raises(IncomparableRows) as caught:
        compare([row()], [row(**change)])
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_refusal_stays_on_one_screen() -> None:
    a = [row(f"v{i}", training={f"field{i}": 1}) for i in range(60)]
    b = [row(f"v{i}", training={f"field{i}": 2}) for i in range(60)]
    with pytest.raises(IncomparableRows, match="and 48 more") as caught:
        compare(a, b)
    assert len(str(caught.value).splitlines()) < 20


def test_provenance_and_cost_may_differ() -> None:
    assert compare([row(provenance={"device": "cpu"})], [row(provenance={"device": "cuda"}, costs={})]).groups


def test_rows_without_a_counterpart_are_listed() -> None:
    shared = row(scores={"bound": 1.0})
    found = compare([shared, row("beta")], [shared, row(seed=4)])
    assert found.only_a == ("beta on fashion, seed 0",)
    assert found.only_b == ("vae on fashion, seed 4",)


def test_nothing_in_common_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no row of one run has a counterpart"):
        compare([row("vae")], [row("beta")])


def test_a_failed_row_is_listed_and_not_compared() -> None:
    found = compare([row(scores={"bound": 1.0}), row("beta")], [row(scores={"bound": 1.0}), failed("beta")])
    assert found.unscored == ("beta on fashion, seed 0 (ok, diverged)",)
    assert [label for label, _ in found.groups[0].lines] == ["vae"]


def test_a_score_that_one_run_lacks_is_na_with_the_reason() -> None:
    a = [row(scores={"bound": 1.0, "loss": 2.0}), row("beta", scores={"loss": 1.0})]
    b = [row(scores={"bound": 1.0, "loss": "no weights"}), row("beta", scores={"loss": 1.0})]
    found = difference(a, b, "loss")
    assert (found.n, found.difference, found.reason) == (0, None, "b: no weights")
    assert any("vae: b: no weights" in note for note in compare(a, b).groups[0].notes)


def test_derived_metrics_are_compared_by_each_runs_own_baseline() -> None:
    a = [row(scores={"loss": 2.0}), row("gan", baseline=True, scores={"loss": 4.0})]
    b = [row(scores={"loss": 2.0}), row("gan", baseline=True, scores={"loss": 8.0})]
    found = difference(a, b, "loss_ratio")
    assert (found.a, found.b, found.verdict) == (0.5, 0.25, "better")


def test_a_comparison_is_plain_json() -> None:
    made = json.loads(json.dumps(compare([row(scores={"bound": 1.5})], [row(scores={"bound": 2.0})]).to_json()))
    (found,) = [d for d in made["differences"] if d["metric"] == "bound"]
    assert (found["difference"], found["verdict"]) == (0.5, "better")
