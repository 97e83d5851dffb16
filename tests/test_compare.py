"""Two runs against each other, two labels of one run, and thresholds on what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from bench.compare import Difference, Evidence, between, compare
from bench.errors import IncomparableRows, UnknownName, UsageError
from bench.measurement import Score
from bench.row import Row
from bench.threshold import Threshold
from tests.synthetic import (
    DATA,
    SCORING,
    TRAINING,
    FakeRegistry,
    bound,
    failed,
    loss,
    loss_ratio,
    rate,
    register,
    row,
)


@pytest.fixture(autouse=True)
def _metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate, loss_ratio=loss_ratio)


def difference(a: list[Row], b: list[Row], metric: str, label: str = "vae") -> Difference:
    (group,) = compare(a, b).groups
    return {line.label: line.cells for line in group.lines}[label][metric]


def seeds(label: str, *values: float, metric: str = "bound") -> list[Row]:
    return [row(label, seed, scores={metric: v}) for seed, v in enumerate(values)]


SPREAD = (0.0, 0.3, -0.2, 0.1, -0.1)


def shifted(label: str, by: float, metric: str = "bound") -> list[Row]:
    return seeds(label, *(i + by + noise for i, noise in enumerate(SPREAD)), metric=metric)


def test_the_difference_is_b_minus_a_over_paired_seeds() -> None:
    a = [row(seed=s, scores={"bound": v}) for s, v in enumerate((1.0, 2.0, 50.0))]
    b = [row(seed=s, scores={"bound": v}) for s, v in enumerate((2.0, 5.0))]
    found = difference(a, b, "bound")
    assert (found.n, found.a, found.b, found.difference) == (2, 1.5, 3.5, 2.0)
    assert found.seeds is not None
    assert found.seeds.sd == pytest.approx(2**0.5)
    assert (found.mark, found.p) == ("~", None)


@pytest.mark.parametrize(
    ("metric", "by", "mark"),
    [("bound", 1.0, "+"), ("bound", -1.0, "-"), ("loss", 1.0, "-"), ("loss", -1.0, "+"), ("rate", 1.0, "")]
    + [(metric, by, "~") for metric in ("bound", "loss", "rate") for by in (0.05, 0.0)],
)
def test_the_mark_is_bs(metric: str, by: float, mark: str) -> None:
    a, b = seeds("vae", *map(float, range(5)), metric=metric), shifted("vae", by, metric)
    assert difference(a, b, metric).mark == mark


def test_one_seed_has_a_difference_and_no_verdict() -> None:
    found = difference(seeds("vae", 1.5), seeds("vae", 99.0), "bound")
    assert (found.difference, found.mark, found.p, found.interval) == (97.5, "~", None, "")
    (group,) = compare(seeds("vae", 1.5), seeds("vae", 99.0)).groups
    assert "fewer than 3 can't say" in group.notes[0]


def test_swapping_the_runs_changes_the_sign_and_the_mark() -> None:
    a, b = seeds("vae", *map(float, range(5))), shifted("vae", 0.75)
    there, back = difference(a, b, "bound"), difference(b, a, "bound")
    assert there.difference == -(back.difference or 0)
    assert (there.text, back.text) == ("+0.770", "−0.770")
    assert (there.mark, back.mark) == ("+", "-")
    assert there.p == back.p


def test_p_the_interval_and_the_detectable_difference_are_students() -> None:
    a, b = [float(i) for i in range(5)], [i + 0.5 + noise for i, noise in enumerate(SPREAD)]
    found, theirs = difference(seeds("vae", *a), seeds("vae", *b), "bound"), stats.ttest_rel(b, a)
    interval = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.seeds is not None
    assert (found.seeds.low, found.seeds.high) == pytest.approx((interval.low, interval.high))
    assert found.interval == f"+{interval.low:.3f} … +{interval.high:.3f}"
    assert float(found.detectable) == pytest.approx(
        1.682 * stats.tstd([y - x for x, y in zip(a, b, strict=True)]), 1e-2
    )


def test_holm_is_over_the_lines_of_a_metric() -> None:
    a = seeds("vae", *map(float, range(5)))
    alone = difference(a, shifted("vae", 0.25), "bound")
    a += seeds("beta", *map(float, range(5)))
    among = difference(a, [*shifted("vae", 0.25), *shifted("beta", 0.01)], "bound")
    assert alone.seeds is not None
    assert alone.p == alone.seeds.p
    assert among.p == 2 * (alone.p or 0)
    assert (alone.mark, among.mark) == ("+", "~")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {**TRAINING, "batch_size": 64}}, "training.batch_size: 128 in a, 64 in b"),
        ({"scoring": {**SCORING, "samples": 5}}, "scoring.samples: 10000 in a, 5 in b"),
        ({"data": {**DATA, "test": "cccc"}}, 'data.test: "bbbb" in a, "cccc" in b'),
        ({"likelihood": "gaussian"}, 'likelihood: "bernoulli" in a, "gaussian" in b'),
        ({"uses_labels": True}, "uses_labels: false in a, true in b"),
        ({"hyperparameters": {"backbone": "mlp", "latent_dim": 8}}, "hyperparameters.latent_dim: 20 in a, 8 in b"),
        ({"steps": (4690, 1)}, "steps: [4690] in a, [4690,1] in b"),
    ],
)
def test_other_conditions_are_refused_with_the_field_and_both_values(change: dict, message: str) -> None:
    with pytest.raises(IncomparableRows) as caught:
        compare([row()], [row(**change)])
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_rows_of_another_likelihood_stand_beside_comparable_ones_as_such() -> None:
    a = [*seeds("vae", 1.0, 2.0), *seeds("beta", 1.0)]
    b = [*seeds("vae", 1.5, 2.5), *(replace(r, likelihood="gaussian") for r in seeds("beta", 1.0))]
    (group,) = compare(a, b).groups
    assert [(line.label, line.marks, line.seeds) for line in group.lines] == [("vae", "", "2"), ("beta", "x", "0 of 1")]
    assert (group.lines[1].cells["bound"].mark, group.lines[1].cells["bound"].difference) == ("x", None)
    assert 'x likelihood: "bernoulli" in a, "gaussian" in b  (beta)' in group.notes


def test_a_single_seed_of_other_conditions_is_left_out() -> None:
    b = seeds("vae", 2.0, 3.0, 9.0)
    b[2] = replace(b[2], training={"steps": 1})
    (group,) = compare(seeds("vae", 1.0, 2.0, 3.0), b).groups
    (line,) = group.lines
    assert (line.cells["bound"].n, line.cells["bound"].difference, line.seeds) == (2, 1.0, "2 of 3")


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


def test_new_failures_and_fixed_ones_are_marked_and_not_compared() -> None:
    a = [*seeds("vae", 1.0, 2.0), row("beta", scores={"bound": 1.0}), failed("wae"), failed("ae")]
    b = [*seeds("vae", 1.5), failed(seed=1, status="oom", reason="no room"), failed("beta"), row("wae"), failed("ae")]
    found = compare(a, b)
    (group,) = found.groups
    assert [(line.label, line.marks, line.seeds) for line in group.lines] == [
        ("vae", "!", "1 of 2"),
        ("beta", "!", "0 of 1"),
        ("wae", "*", "0 of 1"),
    ]
    assert group.lines[0].cells["bound"].difference == 0.5
    assert [line.cells["bound"].mark for line in group.lines] == ["~", "!", "*"]
    assert "! vae, seed 1: oom in b: no room" in group.notes
    assert "* wae, seed 0: diverged in a: non-finite" in group.notes
    assert found.unscored == ("ae on fashion, seed 0 (diverged, diverged)",)


def test_new_failures_alone_are_no_error() -> None:
    assert [line.marks for line in compare([row()], [failed()]).groups[0].lines] == ["!"]


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
    assert (found.a, found.b, found.difference) == (0.5, 0.25, -0.25)


def test_a_comparison_is_plain_json_with_all_numbers() -> None:
    a, b = seeds("vae", *map(float, range(5))), shifted("vae", 1.0)
    made = json.loads(json.dumps(compare(a, b).to_json()))
    (found,) = [d for d in made["differences"] if d["metric"] == "bound"]
    assert (found["mark"], found["n"], found["difference"]) == ("+", 5, pytest.approx(1.02))
    assert found["low"] < found["difference"] < found["high"]
    assert 0 < found["p"] == found["p_holm"] < 0.05
    assert found["detectable"] > 0
    assert found["images"] is None


# two labels of one run


def test_two_labels_are_paired_by_seed() -> None:
    rows = [*seeds("vae", *map(float, range(5))), *shifted("beta[beta=2]", 1.0), *seeds("wae", 9.0)]
    found = between(rows, "vae", "beta[beta=2]")
    assert found.names == ("vae", "beta[beta=2]")
    (line,) = found.groups[0].lines
    assert (line.label, line.cells["bound"].mark, line.cells["bound"].n) == ("beta[beta=2] − vae", "+", 5)
    assert line.cells["bound"].difference == pytest.approx(1.02)


def test_labels_may_differ_in_hyperparameters_which_are_told_and_in_nothing_else() -> None:
    small = row("vae[latent_dim=8]", hyperparameters={"backbone": "mlp", "latent_dim": 8}, steps=(1, 1))
    (group,) = between([row(), small], "vae", "vae[latent_dim=8]").groups
    assert "hyperparameters: latent_dim 20 → 8" in group.notes
    with pytest.raises(IncomparableRows, match="likelihood"):
        between([row(), row("b", likelihood="gaussian")], "vae", "b")


def test_a_label_that_is_not_there_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownName, match="vae"):
        between([row(), row("beta")], "vea", "beta")
    with pytest.raises(UsageError, match="counterpart"):
        between([row(), row("beta", seed=1)], "vae", "beta")


# over images


def per_image(kept: Mapping[str, Tensor]) -> Tensor:
    return -kept["loss"]


def imaged(values: Tensor, seed: int = 0) -> Row:
    return row(seed=seed, scores={"bound": Score(-values.double().mean().item(), len(values), 0.5)})


def source(values: list[Tensor]) -> Evidence:
    return lambda row: {"loss": values[row.seed]}


def test_differences_are_paired_over_images_apart_from_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=replace(bound, per_image=per_image), loss=loss)
    g = torch.Generator().manual_seed(0)
    of_a = [torch.randn(400, generator=g) * 10 + 240 for _ in range(2)]
    of_b = [v - 1 + torch.randn(400, generator=g) for v in of_a]
    a, b = ([imaged(v, seed) for seed, v in enumerate(values)] for values in (of_a, of_b))
    (group,) = compare(a, b, (source(of_a), source(of_b))).groups
    found = group.lines[0].cells["bound"]
    theirs = stats.sem((torch.stack(of_a) - torch.stack(of_b)).double().mean(0).numpy())
    assert found.images is not None
    assert found.images.n == 400
    assert found.images.se == pytest.approx(theirs, rel=1e-4)
    assert found.images.mean == pytest.approx(found.difference, rel=1e-4)
    assert float(found.se) == pytest.approx(theirs, abs=1e-3)
    assert group.lines[0].cells["loss"].images is None


@pytest.mark.parametrize("kept", ["nothing", "another scoring", "other images", "a text"])
def test_evidence_that_does_not_come_to_the_score_is_not_used(monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    register(monkeypatch, bound=replace(bound, per_image=per_image))
    right, score = torch.tensor([1.0, 2.0, 3.0]), -2.0
    wrong = {"nothing": None, "another scoring": right + 0.01, "other images": torch.tensor([2.0, 2.0]), "a text": "x"}
    rows = [row(scores={"bound": score})]
    evidence: Evidence = lambda _: {} if wrong[kept] is None else {"loss": wrong[kept]}  # type: ignore[dict-item]  # noqa: E731
    (group,) = compare(rows, rows, (lambda _: {"loss": right}, evidence)).groups
    assert group.lines[0].cells["bound"].images is None
    (group,) = compare(rows, rows, (lambda _: {"loss": right},) * 2).groups
    assert group.lines[0].cells["bound"].images is not None


# thresholds


@pytest.fixture
def _thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = replace(loss, unit="FD", range=(0, math.inf))
    register(monkeypatch, bound=bound, loss=ratio)
    registry = FakeRegistry({"bound": bound, "loss": ratio})
    registry.entry = registry.load  # type: ignore[attr-defined]
    monkeypatch.setattr("bench.threshold.METRICS", registry)


@pytest.mark.usefixtures("_thresholds")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bound<-0.5nat", "vae · fashion: bound -0.6 is below -0.5 nat"),
        ("bound<-0.5 nats/image", "bound -0.6 is below -0.5 nats/image"),
        ("bound<-0.5", "bound -0.6 is below -0.5"),
        ("bound<-0.7nats", ""),
        ("bound>0", ""),
        ("vae:bound<-.5", "vae · fashion: bound -0.6 is below"),
        ("beta:bound<-0.5", ""),
        ("loss>5%", "vae · fashion: loss +10% is above 5%"),
        ("loss > 11 %", ""),
        ("loss>0.3FD", "loss +0.4 is above 0.3 FD"),
        ("ae:bound<0", "no row is called 'ae'"),
    ],
)
def test_a_difference_may_be_limited_in_its_unit_or_in_percent(text: str, says: str) -> None:
    a = [row(scores={"bound": -10.0, "loss": 4.0}), row("beta", scores={"bound": -10.0, "loss": 4.0})]
    b = [row(scores={"bound": -10.6, "loss": 4.4}), row("beta", scores={"bound": -10.0, "loss": 4.0})]
    lines = Threshold.parse(text, differences=True).crossed_by(compare(a, b))
    assert len(lines) == bool(says)
    assert says in "".join(lines)


@pytest.mark.usefixtures("_thresholds")
@pytest.mark.parametrize(
    ("text", "differences", "says"),
    [
        ("bound<-5%", True, "no zero to count from"),
        ("loss>5%", False, "percentage of nothing"),
        ("bound<-0.5bits", True, "isn't measured in bits"),
        ("loss>3 nats", False, "Its unit is FD"),
        ("bound<-0.5.1", True, "isn't [LABEL:]METRIC<VALUE"),
        ("bound<", True, "isn't [LABEL:]METRIC<VALUE"),
        ("boun<3", True, "no metric called 'boun'"),
    ],
)
def test_a_limit_that_means_nothing_is_refused_with_the_reason(text: str, differences: bool, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Threshold.parse(text, differences=differences)
    assert says in str(caught.value)


@pytest.mark.usefixtures("_thresholds")
def test_a_gate_that_measures_nothing_or_a_new_failure_is_not_open() -> None:
    limit = Threshold.parse("loss>5%", differences=True)
    ok = row(scores={"bound": 1.0})
    assert limit.crossed_by(compare([ok], [ok])) == ["--fail-if: no pair has loss"]
    a = [row(scores={"loss": 1.0}), row("beta", scores={"loss": 1.0})]
    assert limit.crossed_by(compare(a, a)) == []
    (line,) = limit.crossed_by(compare(a, [a[0], failed("beta")]))
    assert line == "beta · fashion: loss has no difference: new failure"
    assert Threshold.parse("loss>2").crossed([ok]) == ["--fail-if: no row has a score in loss"]
