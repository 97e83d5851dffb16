"""Two runs against each other, two labels of one run, and thresholds on what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.tables.columns import Layout
from bench.tables.compare import Comparison, between, compare
from bench.tables.difference import Difference, Evidence
from bench.tables.summary import summary
from bench.tables.threshold import Threshold
from bench.util.errors import IncomparableRows, UnknownName, UsageError
from tests.conftest import Bench
from tests.example_rows import (
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
    (group,) = compare(a, b).datasets
    return {line.label: line.values for line in group.lines}[label][metric]


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
    assert found.p_text == "too few"
    (group,) = compare(seeds("vae", 1.5), seeds("vae", 99.0)).datasets
    assert "fewer than 3" in group.notes[0]


def test_swapping_the_runs_changes_the_sign_and_the_mark() -> None:
    a, b = seeds("vae", *map(float, range(5))), shifted("vae", 0.75)
    there, back = difference(a, b, "bound"), difference(b, a, "bound")
    assert there.difference == -(back.difference or 0)
    assert (there.text, back.text) == ("+0.77", "−0.77")
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


def family(metrics: Sequence[str] = ("all",)) -> Comparison:
    """Return two labels in one directed metric, one of them in another one and in one without direction: p < .05."""
    a = [row("vae", i, scores={"bound": i, "loss": i, "rate": i}) for i in range(5)]
    b = [row("vae", i, scores={"bound": i + 0.25 + x, "loss": i + 0.01 + x, "rate": i + 0.25 + x}) for i, x in OFF]
    a += seeds("beta", *map(float, range(5)))
    return compare(a, [*b, *shifted("beta", 0.01)], metrics=metrics)


OFF = list(enumerate(SPREAD))


def bare(d: Difference) -> float:
    """p before correction."""
    assert d.seeds is not None
    assert d.seeds.p is not None
    return d.seeds.p


def test_holm_is_over_all_merits_that_are_shown_and_over_coordinates_apart() -> None:
    found = family()
    vae, beta = (line.values for line in found.datasets[0].lines)
    assert 0.02 < bare(vae["bound"]) < 0.05
    assert vae["bound"].p == pytest.approx(3 * bare(vae["bound"]))
    assert vae["rate"].p == pytest.approx(bare(vae["rate"]))
    assert (vae["bound"].mark, vae["loss"].mark, beta["bound"].mark, vae["rate"].mark) == ("~", "~", "~", "")
    assert any(note.startswith("p: Holm-corrected over the 3 differences") for note in found.notes)
    assert found.to_json()["corrected_over"] == {"with_direction": 3, "without_direction": 1}


def test_what_is_not_shown_is_not_corrected_for() -> None:
    two, other = family(["bound"]), family(["loss", "rate"])
    assert [list(made.corrected_over.values()) for made in (two, other)] == [[2, 0], [1, 1]]
    assert [c.name for c in two.datasets[0].columns] == ["bound"]
    assert {d["metric"] for d in two.to_json()["differences"]} == {"bound"}
    of_two, of_other = (made.datasets[0].lines[0].values for made in (two, other))
    assert of_other["loss"].p == pytest.approx(bare(of_other["loss"]))
    assert of_two["bound"].p == pytest.approx(2 * bare(of_two["bound"]))
    assert not any("corrected" in note for note in other.notes)
    with pytest.raises(UnknownName, match="no metric called 'bond'"):
        family(["bond"])


def test_marks_of_equal_labels_are_rare_however_many_metrics_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    merits = {f"m{i}": bound for i in range(12)}
    register(monkeypatch, **merits)
    rng, marked, trials = np.random.default_rng(0), 0, 120
    for values in rng.normal(size=(trials, 2, 5, len(merits))):
        rows = [
            row(label, seed, scores=dict(zip(merits, of_seed, strict=True)))
            for label, own in zip("ab", values, strict=True)
            for seed, of_seed in enumerate(own)
        ]
        (line,) = between(rows, "a", "b").datasets[0].lines
        marked += any(cell.mark != "~" for cell in line.values.values())
    assert marked / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)  # 45 % without correction


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
    (group,) = compare(a, b).datasets
    assert [(line.label, line.marks, line.seeds) for line in group.lines] == [("vae", "", "2"), ("beta", "x", "0 of 1")]
    assert (group.lines[1].values["bound"].mark, group.lines[1].values["bound"].difference) == ("x", None)
    assert 'x likelihood: "bernoulli" in a, "gaussian" in b  (beta)' in group.notes


def test_a_single_seed_of_other_conditions_is_left_out() -> None:
    b = seeds("vae", 2.0, 3.0, 9.0)
    b[2] = replace(b[2], training={"steps": 1})
    (group,) = compare(seeds("vae", 1.0, 2.0, 3.0), b).datasets
    (line,) = group.lines
    assert (line.values["bound"].n, line.values["bound"].difference, line.seeds) == (2, 1.0, "2 of 3")


def test_a_refusal_stays_on_one_screen() -> None:
    a = [row(f"v{i}", training={f"field{i}": 1}) for i in range(60)]
    b = [row(f"v{i}", training={f"field{i}": 2}) for i in range(60)]
    with pytest.raises(IncomparableRows, match="and 48 more") as caught:
        compare(a, b)
    assert len(str(caught.value).splitlines()) < 20


def test_metrics_that_neither_was_scored_on_are_told_from_those_that_came_out_in_one() -> None:
    a, b = row(scores={"bound": 1.0, "loss": "broke"}), row(scores={"bound": 2.0})
    (group,) = compare([a], [b]).datasets
    assert "not scored in either: rate" in group.notes
    assert "in no pair of rows: loss, loss_ratio" in group.notes
    assert [n for n in compare([a], [b], metrics=["rate"]).datasets[0].notes if "in " in n] == [
        "not scored in either: rate"
    ]
    b = row(scores={"bound": 2.0, "rate": 1.0})
    assert any(n.startswith("in no pair of rows: ") and "rate" in n for n in compare([a], [b]).datasets[0].notes)


def test_metrics_left_out_of_a_screen_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tables.columns.layout", lambda: Layout(default=(("bound",),)))
    rows = [row(scores={"bound": 1.0, "loss": 2.0, "rate": 3.0})]
    (group,) = compare(rows, rows, metrics=()).datasets
    assert [c.name for c in group.columns] == ["bound"]
    assert "2 more metrics: --all, or --metrics NAMES" in group.notes
    assert not any("more metrics" in note for note in compare(rows, rows, metrics=["loss"]).datasets[0].notes)


def test_provenance_and_cost_may_differ() -> None:
    assert compare([row(provenance={"device": "cpu"})], [row(provenance={"device": "cuda"}, costs={})]).datasets


def test_rows_without_a_counterpart_are_listed() -> None:
    shared = row(scores={"bound": 1.0})
    found = compare([shared, row("beta")], [shared, row(seed=4)])
    assert found.to_json()["only_a"] == ["beta on fashion, seed 0"]
    assert found.to_json()["only_b"] == ["vae on fashion, seed 4"]


def test_rows_without_a_counterpart_stand_together_where_their_seeds_are_the_same() -> None:
    lone = [row(label, seed=seed) for label in ("beta", "wae") for seed in (2, 0, 1)] + [
        row("ae", seed=s) for s in (0, 2)
    ]
    found = compare([row(), *lone], [row()])
    assert len(found.to_json()["only_a"]) == 8
    assert "only in a: beta and wae on fashion, seeds 0 to 2; ae on fashion, seeds 0, 2" in found.notes


def test_nothing_in_common_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no row of one run has a counterpart"):
        compare([row("vae")], [row("beta")])


def test_new_failures_and_fixed_ones_are_marked_and_not_compared() -> None:
    a = [*seeds("vae", 1.0, 2.0), row("beta", scores={"bound": 1.0}), failed("wae"), failed("ae")]
    b = [*seeds("vae", 1.5), failed(seed=1, status="oom", reason="no room"), failed("beta"), row("wae"), failed("ae")]
    found = compare(a, b)
    (group,) = found.datasets
    assert [(line.label, line.marks, line.seeds) for line in group.lines] == [
        ("vae", "!", "1 of 2"),
        ("beta", "!", "0 of 1"),
        ("wae", "*", "0 of 1"),
    ]
    assert group.lines[0].values["bound"].difference == 0.5
    assert [line.values["bound"].mark for line in group.lines] == ["~", "!", "*"]
    assert "! vae, seed 1: oom in b: no room" in group.notes
    assert "* wae, seed 0: diverged in a: non-finite" in group.notes
    assert found.without_scores == ("ae on fashion, seed 0 (diverged, diverged)",)


def test_new_failures_alone_are_no_error() -> None:
    assert [line.marks for line in compare([row()], [failed()]).datasets[0].lines] == ["!"]


def test_a_score_that_one_run_lacks_is_na_with_the_reason() -> None:
    a = [row(scores={"bound": 1.0, "loss": 2.0}), row("beta", scores={"loss": 1.0})]
    b = [row(scores={"bound": 1.0, "loss": "no weights"}), row("beta", scores={"loss": 1.0})]
    found = difference(a, b, "loss")
    assert (found.n, found.difference, found.reason) == (0, None, "b: no weights")
    assert any("vae: b: no weights" in note for note in compare(a, b).datasets[0].notes)


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
    (line,) = found.datasets[0].lines
    assert (line.label, line.values["bound"].mark, line.values["bound"].n) == ("beta[beta=2] − vae", "+", 5)
    assert line.values["bound"].difference == pytest.approx(1.02)


def test_labels_may_differ_in_hyperparameters_which_are_told_and_in_nothing_else() -> None:
    small = row("vae[latent_dim=8]", hyperparameters={"backbone": "mlp", "latent_dim": 8}, steps=(1, 1))
    (group,) = between([row(), small], "vae", "vae[latent_dim=8]").datasets
    assert "hyperparameters: latent_dim 20 → 8" in group.notes
    with pytest.raises(IncomparableRows, match="likelihood"):
        between([row(), row("b", likelihood="gaussian")], "vae", "b")


def test_a_label_that_is_not_there_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownName, match="vae"):
        between([row(), row("beta")], "vea", "beta")
    with pytest.raises(UsageError, match="counterpart"):
        between([row(), row("beta", seed=1)], "vae", "beta")


MODES = {"a": (1.0, 1.0, 1.0), "b": (0.9, 0.9, 0.9), "c": (0.9, 0.9, 0.8)}


@pytest.mark.parametrize("metric", ["bound", "loss"])
@pytest.mark.parametrize("seed", range(-1, 12))
def test_the_table_and_a_comparison_say_the_same_of_two_labels(metric: str, seed: int) -> None:
    n, values = 3 + seed % 8, np.random.default_rng(abs(seed))
    a, b = MODES["a"], MODES["b"]
    if seed >= 0:
        a, b = (tuple(values.normal((0, seed % 3)[i], 1, n).round(1)) for i in range(2))
    rows = [*seeds("a", *a, metric=metric), *seeds("b", *b, metric=metric)]
    marks = {line.label: line.values[metric].mark for line in summary(rows)[0].lines}
    best, other = sorted(marks, key=lambda label: marks[label] != "best")
    (line,) = between(rows, best, other).datasets[0].lines
    assert (marks[best], marks[other]) == ("best", {"-": "", "~": "tie"}[line.values[metric].mark])


def test_a_constant_difference_of_few_seeds_is_a_tie_in_the_table_too() -> None:
    """Docs: nothing is called certain because few seeds happen to agree."""
    rows = [r for label, values in MODES.items() for r in seeds(label, *values)]
    found = {line.label: line.values["bound"].mark for line in summary(rows)[0].lines}
    assert found == {"a": "best", "b": "tie", "c": "tie"}
    assert between(rows, "a", "b").datasets[0].lines[0].values["bound"].p == 0.25


@pytest.mark.usefixtures("_thresholds")
def test_metrics_that_are_named_are_those_of_the_json_and_gates_see_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.store.Run.rows", lambda self: rows)
    rows = [r for label, by in (("a", 0.0), ("b", 1.0)) for r in shifted(label, by)]
    rows = [replace(r, scores={**r.scores, "loss": r.scores["bound"]}) for r in rows]
    call = ("compare", "run", "--between", "a,b", "--json")
    assert {d["metric"] for d in json.loads(bench(*call)[1])["differences"]} == {"bound", "loss"}
    made = json.loads(bench(*call, "--metrics", "loss")[1])
    assert {d["metric"] for d in made["differences"]} == {"loss"}
    assert made["corrected_over"] == {"with_direction": 1, "without_direction": 0}
    assert bench(*call, "--metrics", "loss", "--fail-if", "bound>0.5")[0] == 6
    assert bench(*call, "--metrics", "loss", "--fail-if", "bound>2")[0] == 0


# redraws


def redrawn(label: str, values: list[float], se: float | None) -> list[Row]:
    return [row(label, seed, scores={"loss": Score(v, 100, se)}) for seed, v in enumerate(values)]


def test_what_redraws_make_of_the_spread_over_seeds_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sds of 3 by training and of 4 by redraws make one of 5; differences have each of them twice."""
    drawn = replace(loss, redraws=True)
    register(monkeypatch, bound=bound, loss=drawn)
    b = 5 * math.sqrt(2) * stats.zscore(SPREAD, ddof=1)
    found = between([*redrawn("a", [0.0] * 5, 4.0), *redrawn("b", list(b), 4.0)], "a", "b")
    (line,) = found.datasets[0].lines
    cell = line.values["loss"]
    assert cell.redraw == pytest.approx(4 * math.sqrt(2))
    assert cell.training == pytest.approx(3 * math.sqrt(2))
    (note,) = (n for n in found.datasets[0].notes if n.startswith("sd of b − a"))
    assert note.endswith("loss 7.07 (5.66, 4.24)")
    (made,) = found.to_json()["differences"]
    assert (made["redraw_sd"], made["training_sd"]) == (cell.redraw, cell.training)


def test_redraws_that_would_make_more_than_the_spread_leave_training_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = replace(loss, redraws=True)
    register(monkeypatch, loss=drawn)
    a, b = [1.0, 1.1, 0.9], [2.0, 2.2, 2.1]

    def cell(se_a: float | None, se_b: float | None = 0.5) -> Difference:
        return difference(redrawn("vae", a, se_a), redrawn("vae", b, se_b), "loss")

    assert cell(0.5).training == 0.0
    assert (cell(None).redraw, cell(None).training) == (None, None)
    assert cell(0.5).p == cell(None).p == pytest.approx(stats.ttest_rel(a, b).pvalue)  # redraws are in the noise tested


def test_standard_errors_over_images_are_no_part_of_the_spread_over_seeds() -> None:
    found = compare(seeds("vae", 1.0, 2.0, 3.0), seeds("vae", 1.5, 2.7, 3.0)).datasets[0]  # each has an SE of .5
    assert found.lines[0].values["bound"].redraw is None
    assert not any("redrawn" in note for note in found.notes)


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
    (group,) = compare(a, b, (source(of_a), source(of_b))).datasets
    found = group.lines[0].values["bound"]
    theirs = stats.sem((torch.stack(of_a) - torch.stack(of_b)).double().mean(0).numpy())
    assert found.images is not None
    assert found.images.n == 400
    assert found.images.se == pytest.approx(theirs, rel=1e-4)
    assert found.images.mean == pytest.approx(found.difference, rel=1e-4)
    assert float(found.se) == pytest.approx(theirs, abs=1e-3)
    assert group.lines[0].values["loss"].images is None


@pytest.mark.parametrize("kept", ["nothing", "another scoring", "other images", "a text"])
def test_evidence_that_does_not_come_to_the_score_is_not_used(monkeypatch: pytest.MonkeyPatch, kept: str) -> None:
    register(monkeypatch, bound=replace(bound, per_image=per_image))
    right, score = torch.tensor([1.0, 2.0, 3.0]), -2.0
    wrong = {"nothing": None, "another scoring": right + 0.01, "other images": torch.tensor([2.0, 2.0]), "a text": "x"}
    rows = [row(scores={"bound": score})]
    evidence: Evidence = lambda _: {} if wrong[kept] is None else {"loss": wrong[kept]}  # type: ignore[dict-item]  # noqa: E731
    (group,) = compare(rows, rows, (lambda _: {"loss": right}, evidence)).datasets
    assert group.lines[0].values["bound"].images is None
    (group,) = compare(rows, rows, (lambda _: {"loss": right},) * 2).datasets
    assert group.lines[0].values["bound"].images is not None


# thresholds


@pytest.fixture
def _thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = replace(loss, unit="FD", range=(0, math.inf))
    register(monkeypatch, bound=bound, loss=ratio)
    registry = FakeRegistry({"bound": bound, "loss": ratio})
    registry.entry = registry.load  # type: ignore[attr-defined]
    monkeypatch.setattr("bench.tables.threshold.METRICS", registry)


@pytest.mark.usefixtures("_thresholds")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bound<-0.5", "bound -0.6 is below -0.5"),
        ("bound<-0.7", ""),
        ("bound>0", ""),
        ("vae:bound<-.5", "vae · fashion: bound -0.6 is below"),
        ("beta:bound<-0.5", ""),
        ("loss>5%", "vae · fashion: loss +10% is above 5%"),
        ("loss > 11 %", ""),
        ("loss>0.3", "loss +0.4 is above 0.3"),
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
        ("bound<-5%", True, "does not begin at 0"),
        ("loss>5%", False, "a percentage needs two runs"),
        ("bound<-0.5bits", True, "not written as"),
        ("bound<-0,5", True, "decimal point"),
        ("vae[x=1,y=2]:loss>20,000", True, "not written as"),
        ("bound<-0.5.1", True, "not written as"),
        ("bound<", True, "not written as"),
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
    assert line == "beta · fashion: new failure: a has a result, b has none"
    assert Threshold.parse("loss>2").crossed([ok]) == ["--fail-if: no row has a score in loss"]


@pytest.mark.usefixtures("_thresholds")
def test_a_seed_that_newly_failed_crosses_any_limit_of_its_line() -> None:
    a = [*seeds("vae", 1.0, 2.0), *seeds("beta", 1.0, 2.0), row("gan", baseline=True, scores={"bound": 1.0})]
    b = [*seeds("vae", 1.0, 2.0), *seeds("beta", 1.0), failed("beta", 1), failed("gan", baseline=True)]
    found = compare(a, b)

    def crossed(text: str) -> list[str]:
        return Threshold.parse(text, differences=True).crossed_by(found)

    beta, gan = (f"{label} · fashion: new failure: a has a result, b has none" for label in ("beta", "gan"))
    assert {line.label: line.marks for line in found.datasets[0].lines} == {"vae": "", "beta": "!", "gan": "!"}
    assert crossed("bound<-10") == [beta, gan]
    assert crossed("beta:bound<-10") == [beta]
    assert crossed("vae:bound<-10") == []
    assert crossed("loss>1") == [beta, gan, "--fail-if: no pair has loss"]
    assert crossed("vae:loss>1") == ["vae · fashion: loss has no difference: not scored"]


@pytest.mark.usefixtures("_thresholds")
@pytest.mark.parametrize(
    ("text", "b", "says"),
    [
        ("loss>5%", 0.0, "vae · fashion: loss has no percentage: a's mean is 0"),
        ("loss>5%", 0.1, "vae · fashion: loss +inf% is above 5%"),
        ("loss<-5%", 0.1, ""),
        ("loss>0.05", 0.1, "vae · fashion: loss +0.1 is above 0.05"),
    ],
)
def test_nothing_has_no_percentages(text: str, b: float, says: str) -> None:
    found = compare([row(scores={"loss": 0.0})], [row(scores={"loss": b})])
    assert "".join(Threshold.parse(text, differences=True).crossed_by(found)) == says


def test_a_strangers_metric_that_one_side_has_may_be_named() -> None:
    a, b = [row("vae", scores={"bound": 1.0, "odd@x.py": 2.0})], [row("vae", scores={"bound": 2.0})]
    (group,) = compare(a, b, metrics=["bound", "odd@x.py"]).datasets
    assert [c.name for c in group.columns] == ["bound"]
    with pytest.raises(UnknownName):
        compare(a, b, metrics=["other@x.py"])
