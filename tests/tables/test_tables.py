"""Frames, files and rendered tables, from rows made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.tables import frames
from bench.tables.summary import UNTUNED, Cell, Line, summary
from bench.util.errors import NotAvailable, StoreError, UnknownName
from tests.example_rows import SCORING, bound, failed, loss, loss_ratio, many, rate, register, row


@pytest.fixture(autouse=True)
def _metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate, loss_ratio=loss_ratio)


GAN = row("gan", baseline=True, scores={"loss": 4.0, "bound": "no bound"})


def lines(rows: list) -> dict[str, Line]:
    return {line.label: line for group in summary(rows).groups for line in group.lines}


def cell(rows: list, label: str, metric: str) -> Cell:
    return lines(rows)[label].cells[metric]


# frames


def test_a_frame_has_every_metric_in_the_registrys_order_then_unknown_ones() -> None:
    made = frames.frame([row(scores={"zzz_uninstalled": 7.0, "rate": 1.5, "bound": -3.25})])
    names = [c for c in made.columns if c in ("bound", "loss", "rate", "loss_ratio", "zzz_uninstalled")]
    assert names == ["bound", "loss", "rate", "loss_ratio", "zzz_uninstalled"]
    assert made.loc[0, "zzz_uninstalled"] == 7.0
    assert made.loc[0, "bound"] == -3.25
    assert made.loc[0, "bound_se"] == 0.5
    assert math.isnan(made.loc[0, "loss"])
    assert made.columns[-1] == "not_available"


def test_the_identity_of_a_row_is_in_the_frame() -> None:
    made = frames.frame([row("beta[beta=10]", 3, steps=(100, 50), hyperparameters={"beta": 10.0, "latent_dim": 8})])
    first = made.iloc[0]
    assert (first["variant"], first["label"], first["seed"]) == ("beta", "beta[beta=10]", 3)
    assert (first["steps"], first["hyperparameters"]) == ("100+50", "beta=10 latent_dim=8")
    assert first["latent_dim"] == 8


def test_protocols_are_hashed_and_equal_ones_share_a_hash() -> None:
    a, b, c = row(), row(seed=1), row(training={"steps": 1})
    made = frames.frame([a, b, c])
    assert made["training"][0] == made["training"][1] != made["training"][2]
    assert made["scoring"].nunique() == 1


def test_a_derived_metric_is_made_from_the_baseline_of_the_same_dataset_and_seed() -> None:
    rows = [
        row("vae", 0, scores={"loss": 2.0}),
        row("vae", 1, scores={"loss": 2.0}),
        row("vae", 0, dataset="mnist", scores={"loss": 2.0}),
        GAN,
        row("gan", 1, baseline=True, scores={"loss": 8.0}),
    ]
    made = frames.frame(rows)["loss_ratio"].tolist()
    assert made[:2] == [0.5, 0.25]
    assert math.isnan(made[2])
    assert frames.reasons(rows)[("vae", "mnist", 0), "loss_ratio"] == "no baseline in this run"
    assert made[3] == 1.0


def test_a_baseline_of_another_protocol_or_that_failed_is_no_denominator() -> None:
    vae = row(scores={"loss": 2.0})
    short = row("gan", baseline=True, training={"steps": 1}, scores={"loss": 8.0})
    key = (("vae", "fashion", 0), "loss_ratio")
    assert frames.reasons([vae, short])[key] == "no baseline in this run"
    broken = failed("gan", baseline=True, reason="non-finite loss at step 3")
    assert frames.reasons([vae, broken])[key] == "the baseline's loss: diverged: non-finite loss at step 3"


def test_the_baseline_counts_when_it_was_asked_for_by_name() -> None:
    assert frames.frame([row(scores={"loss": 2.0}), row("gan", scores={"loss": 4.0})])["loss_ratio"][0] == 0.5


def test_a_derived_metric_that_raises_costs_its_own_cell_only() -> None:
    rows = [row(scores={"loss": 2.0, "rate": 1.0}), row("gan", baseline=True, scores={"loss": 0.0})]
    assert frames.frame(rows)["rate"][0] == 1.0
    assert "ZeroDivisionError" in frames.reasons(rows)[("vae", "fashion", 0), "loss_ratio"]


def test_a_metric_that_cannot_be_imported_keeps_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "broken", bound=bound)
    rows = [row(scores={"broken": 5.0}), row(seed=1, scores={"bound": 1.0})]
    assert frames.frame(rows)["broken"][0] == 5.0
    assert "can't be imported" in frames.reasons(rows)[("vae", "fashion", 1), "broken"]


def test_a_row_that_is_not_ok_has_its_status_as_the_reason_for_every_score() -> None:
    rows = [failed(scores={"bound": -1.0})]
    assert frames.reasons(rows) == {
        (("vae", "fashion", 0), name): "diverged: non-finite" for name in ("bound", "loss", "rate", "loss_ratio")
    }
    assert frames.frame(rows)["not_available"][0] == "all: diverged: non-finite"


# files


def test_files_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [row(label, seed, scores={"bound": -seed / 3}) for label in ("b[x=10]", "b[x=4]", "a") for seed in (1, 0)]
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    frames.write(tmp_path / "x", rows)
    frames.write(tmp_path / "y", rows[::-1])
    for name in ("table.csv", "costs.csv", "table.md", "table.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
    labels = list(dict.fromkeys(pd.read_csv(tmp_path / "x" / "table.csv")["label"]))
    assert labels == ["a", "b[x=4]", "b[x=10]"]
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["costs.csv", "table.csv", "table.md", "table.parquet"]


def test_table_csv_keeps_every_bit_and_explains_every_blank(tmp_path: Path) -> None:
    value = -105.3412345678901234
    frames.write(tmp_path, [row(scores={"bound": value, "loss": "no loss here"}), failed(seed=1)])
    first, second = csv.DictReader((tmp_path / "table.csv").open())
    assert float(first["bound"]) == value
    assert first["loss"] == ""
    assert first["not_available"] == "loss: no loss here; rate: not scored; loss_ratio: loss: no loss here"
    assert second["bound"] == ""
    assert second["not_available"] == "all: diverged: non-finite"
    again = pd.read_parquet(tmp_path / "table.parquet")
    assert again["bound"][0] == value


def test_costs_are_apart_from_the_table(tmp_path: Path) -> None:
    frames.write(tmp_path, [row(costs={"parameters": 10.0, "train_seconds": 1.5})])
    costs = pd.read_csv(tmp_path / "costs.csv")
    assert costs["train_seconds"].tolist() == [1.5]
    assert "train_seconds" not in (tmp_path / "table.csv").read_text()


@pytest.mark.fault(12, "a name that a spreadsheet would run", "disarmed in table.csv")
def test_text_that_looks_like_a_formula_is_disarmed_and_numbers_are_not(tmp_path: Path) -> None:
    frames.write(tmp_path, [row("=cmd()", status="failed", reason="@SUM(A1)"), row("vae", scores={"bound": -1.5})])
    rows = {r["label"]: r for r in csv.DictReader((tmp_path / "table.csv").open())}
    assert rows["'=cmd()"]["reason"] == "'@SUM(A1)"
    assert rows["vae"]["bound"] == "-1.5"


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be written"):
        frames.write(tmp_path / "missing", [row()])


def test_no_rows_make_empty_tables(tmp_path: Path) -> None:
    frames.write(tmp_path, [])
    assert pd.read_csv(tmp_path / "table.csv").empty


def test_records_are_json_with_derived_scores_and_reasons() -> None:
    made = json.loads(json.dumps(frames.records([row(scores={"loss": 2.0, "bound": "none"}), GAN])))
    assert made[0]["scores"]["loss_ratio"]["value"] == 0.5
    assert made[0]["scores"]["bound"] == {"not_available": "none"}
    assert made[0]["steps"] == [4690]


def test_rows_read_back_make_the_same_tables(tmp_path: Path) -> None:
    scored = {"loss": 2.0, "bound": Score(-3.25, 10, 0.5, "a caveat; another"), "rate": "no rate", "uninstalled": 7.0}
    rows = [row(seed=s, steps=(9, 4), stacked=(0, 1), scores=scored) for s in (0, 1)]
    rows += [GAN, failed("conv", 2), row("mean", sanity=True, scores={"loss": 1.5})]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(frames.records(rows)), encoding="utf-8")
    again = frames.read(path)
    assert frames.records(again) == frames.records(rows)
    pd.testing.assert_frame_equal(frames.frame(again), frames.frame(rows))
    assert summary(again).groups[0].footnotes == summary(rows).groups[0].footnotes
    assert [r.steps for r in again] == [r.steps for r in rows]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "JSONDecodeError"),
        (b'[{"variant": "vae"', "JSONDecodeError"),
        (b'"\xff"', "UnicodeDecodeError"),
        (b"[" * 100_000, "Error"),
        (b"3", "isn't a list of rows"),
        (b'{"vae": 1}', "isn't a list of rows"),
        (b"[]", "the list is empty"),
        (b"[3]", "a row isn't an object"),
        (b'[{"variant": "vae"}]', "it lacks label, dataset, seed, status"),
        (b'[{NAMES, "seed": "0", "scores": {}}]', "seed is '0', not a whole number"),
        (b'[{NAMES, "seed": 0, "steps": 3, "scores": {}}]', "steps is 3, not a list"),
        (b'[{NAMES, "seed": 0, "hyperparameters": [], "scores": {}}]', "hyperparameters is a list, not an object"),
        (b'[{NAMES, "seed": 0, "cell": 3, "scores": {}}]', "cell is 3, not text"),
        (b'[{NAMES, "seed": 0, "status": "fine", "scores": {}}]', "status is 'fine', not"),
        (b'[{NAMES, "seed": 0, "scores": {"loss": 1}}]', "scores.loss is 1, not an object"),
        (b'[{NAMES, "seed": 0, "scores": {"loss": {"value": NaN, "n": 1}}}]', "scores.loss.value is out of range"),
        (
            b'[{NAMES, "seed": 0, "scores": {"loss": {"value": 1, "n": Infinity}}}]',
            "scores.loss.n is a large number, not a count",
        ),
        (
            b'[{NAMES, "seed": 0, "scores": {"loss": {"value": 1, "n": 1, "note": null}}}]',
            "scores.loss.note is null, not text",
        ),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(
        content.replace(b"NAMES", b'"variant": "vae", "label": "vae", "dataset": "digits", "status": "ok"')
    )
    with pytest.raises(StoreError, match="holds no rows") as caught:
        frames.read(path)
    assert why in caught.value.cause
    assert "bench table RUN --json" in caught.value.fix


def test_rows_in_utf_16_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(frames.records([GAN])), encoding="utf-16")  # as some shells redirect
    assert frames.records(frames.read(path)) == frames.records([GAN])


# the summary


def test_mean_and_standard_deviation_over_seeds() -> None:
    found = cell([row(seed=s, scores={"bound": v}) for s, v in enumerate((1.5, 2.5, 5.0))], "vae", "bound")
    assert (found.n, found.mean) == (3, 3.0)
    assert found.sd == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 2**2) / 2))


def test_the_best_is_marked_by_direction() -> None:
    rows = [row("a", scores={"bound": -1.5, "loss": 3.5}), row("b", scores={"bound": -2.5, "loss": 2.5})]
    assert [cell(rows, "a", m).best for m in ("bound", "loss")] == [True, False]
    assert [cell(rows, "b", m).best for m in ("bound", "loss")] == [False, True]


def test_a_coordinate_is_never_marked() -> None:
    rows = [row("a", scores={"rate": 1.5}), row("b", scores={"rate": 2.5})]
    assert not any(line.cells["rate"].best for line in lines(rows).values())


@pytest.mark.parametrize(
    "change",
    [
        {"hyperparameters": {"backbone": "conv", "latent_dim": 20}},
        {"hyperparameters": {"backbone": "mlp", "latent_dim": 8}},
        {"likelihood": "gaussian"},
        {"uses_labels": True},
        {"training": {"steps": 1}},
        {"scoring": {"samples": 5}},
        {"dataset": "mnist"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nothing_is_marked_across_blocks(change: dict) -> None:
    rows = [row("a", scores={"bound": 1.5}), row("b", scores={"bound": 2.5}, **change)]
    assert not any(line.cells["bound"].best for line in lines(rows).values())


def test_the_baseline_is_never_marked_and_gives_nobody_a_rival() -> None:
    rows = [row("vae", scores={"loss": 5.0}), GAN]
    assert not any(line.cells["loss"].best for line in lines(rows).values())


def test_two_seeds_of_one_label_are_no_rivals() -> None:
    assert not cell([row(seed=0, scores={"bound": 1.0}), row(seed=1, scores={"bound": 2.0})], "vae", "bound").best


def test_a_failed_row_is_never_marked_and_stays_in_the_table() -> None:
    rows = [row("a", scores={"bound": 1.5}), row("b", scores={"bound": 0.5}), failed("c", scores={"bound": 99.0})]
    assert cell(rows, "a", "bound").best
    gone = cell(rows, "c", "bound")
    assert (gone.mean, gone.best) == (None, False)
    assert summary(rows).groups[0].footnotes[gone.notes[0] - 1] == "diverged: non-finite"


def test_ties_are_by_what_is_printed() -> None:
    rows = [row(label, scores={"bound": v}) for label, v in (("a", 105.3412), ("b", 105.3409), ("c", 105.33))]
    assert [cell(rows, label, "bound").best for label in "abc"] == [True, True, False]


def test_when_all_are_equal_nobody_is_best() -> None:
    rows = [row("a", scores={"bound": 1.0}), row("b", scores={"bound": 1.0})]
    assert not any(line.cells["bound"].best for line in lines(rows).values())


def test_a_seed_that_failed_is_told_and_does_not_count() -> None:
    rows = [row(seed=0, scores={"bound": 1.5}), failed(seed=1, reason="non-finite loss at step 7")]
    line = lines(rows)["vae"]
    assert (line.seeds, line.cells["bound"].n) == ((0,), 1)
    assert summary(rows).groups[0].footnotes[line.notes[0] - 1] == "seed 1 diverged: non-finite loss at step 7"


def test_every_blank_has_a_footnote() -> None:
    for group in summary(many(2)).groups:
        assert len(group.lines) == 9
        for line in group.lines:
            for found in line.cells.values():
                assert found.mean is not None or found.notes
                assert all(1 <= n <= len(group.footnotes) for n in found.notes)
        told = {name for _, names in group.hidden for name in names}
        assert told | {c.name for c in group.columns} >= {"bound", "loss", "rate", "loss_ratio", "fid", "elbo"}


def test_a_caveat_of_a_score_becomes_a_footnote_and_a_common_one_is_said_once() -> None:
    rows = [
        row("a", scores={"loss": Score(1.5, 10, note="net-v1; few samples")}),
        row("b", scores={"loss": Score(2.5, 10, note="net-v1")}),
    ]
    (group,) = summary(rows).groups
    assert group.footnotes == ("net-v1", "few samples")
    assert group.column_notes["loss"] == (1,)
    assert cell(rows, "a", "loss").notes == (2,)
    assert cell(rows, "b", "loss").notes == ()


def test_caveats_of_seeds_that_differ_in_values_are_one_with_their_range() -> None:
    def noted(seed: int, note: str) -> Row:
        return row("a", seed, scores={"loss": Score(1.5, 10, note=note)})

    rows = [noted(0, "plain: -0.53"), noted(1, "plain: -10.2"), noted(2, "plain: 0.5"), noted(3, "plain: -0.53; late")]
    assert summary(rows).groups[0].footnotes == ("plain: -10.2 to 0.5", "for 1 of 4 seeds: late")
    twice = [noted(0, "a: 1.5; b: 0.5; b: 2.5"), noted(1, "a: 2.5"), row("a", 2, scores={"loss": "why"})]
    found = ("for 2 of 3 seeds: a: 1.5 to 2.5", "for 1 of 3 seeds: b: 0.5 to 2.5", "n/a for 1 of 3 seeds: why")
    assert summary(twice).groups[0].footnotes == found
    names = [noted(0, "never: 3, 7; net-v1.25"), noted(1, "never: 4, 7; net-v1.75")]  # of classes, of networks
    told = ("never: 3, 7", "net-v1.25", "never: 4, 7", "net-v1.75")
    assert summary(names).groups[0].footnotes == tuple(f"for 1 of 2 seeds: {text}" for text in told)


def test_a_column_of_a_single_line_is_told_in_words() -> None:
    rows = [row(label, scores={"bound": i + 0.5, "rate": "no codes"}) for i, label in enumerate("abcd")]
    rows.append(row("e", scores={"bound": 9.5, "rate": 2.25}))
    (group,) = summary(rows).groups
    assert [c.name for c in group.rare] == ["rate"]
    assert group.told == ["only e: rate 2.250 nats/image; n/a elsewhere (no codes)"]


def test_the_same_cell_of_two_runs_counts_once() -> None:
    rows = [row(scores={"bound": 1.5}), row(scores={"bound": 1.5})]
    assert cell(rows, "vae", "bound").n == 1
    assert "vae seed 0" in summary(rows).groups[0].remarks[-1]


def test_runs_of_different_budgets_are_not_averaged() -> None:
    rows = [row(scores={"bound": 1.5}), row(seed=1, training={"steps": 1}, steps=(1,), scores={"bound": 2.5})]
    (group,) = summary(rows).groups
    assert [line.cells["bound"].n for line in group.lines] == [1, 1]
    assert [b.heading.rpartition(" · ")[2] for b in group.blocks] != ["bernoulli", "bernoulli"]


def test_one_seed_says_what_it_cannot_show() -> None:
    remarks = [summary([row(seed=s) for s in range(n)]).groups[0].remarks[0] for n in (1, 2, 3)]
    assert ["can't say" in remark for remark in remarks] == [True, True, False]
    assert ["--seeds 3" in remark for remark in remarks] == [True, True, False]


# ties


def seeds(label: str, *values: float, metric: str = "bound", **changes: Any) -> list[Row]:
    return [row(label, seed, scores={metric: v}, **changes) for seed, v in enumerate(values)]


NEAR = [*seeds("a", -1.0, -3.0, -2.0, -1.5), *seeds("b", -1.3, -2.9, -2.4, -1.6), *seeds("c", -9.0, -11.2, -9.9, -9.6)]


def test_a_line_ties_with_the_best_unless_its_seeds_say_otherwise() -> None:
    assert [cell(NEAR, label, "bound").mark for label in "abc"] == ["best", "tie", ""]
    assert summary(NEAR).groups[0].tied


def test_pairing_by_seed_sees_through_what_seeds_share() -> None:
    rows = [*seeds("a", 10.0, 20.0, 30.0, 40.0), *seeds("b", 9.0, 18.9, 29.1, 39.05)]
    assert [cell(rows, label, "bound").mark for label in "ab"] == ["best", ""]
    shuffled = [*rows[:4], *seeds("b", 39.05, 9.0, 18.9, 29.1)]
    assert [cell(shuffled, label, "bound").mark for label in "ab"] == ["best", "tie"]


def test_ties_of_a_lower_is_better_metric() -> None:
    rows = [*seeds("a", 1.0, 1.2, 1.1, metric="loss"), *seeds("b", 1.1, 1.15, 1.2, metric="loss")]
    rows += seeds("c", 5.0, 5.3, 5.2, metric="loss")
    assert [cell(rows, label, "loss").mark for label in "abc"] == ["best", "tie", ""]


def test_holm_counts_the_lines_that_are_held_against_the_best() -> None:
    rows = [*seeds("a", 0.0, 0.0, 0.0, 0.0), *seeds("b", -1.0, -1.9, -0.7, -2.0)]
    assert cell(rows, "b", "bound").mark == ""  # p = .018
    rows += [r for label in "cde" for r in seeds(label, -1.2, -0.3, -0.8, 0.2)]
    assert cell(rows, "b", "bound").mark == "tie"  # 4 * .018


def test_fewer_than_three_common_seeds_leave_a_line_unmarked_and_say_so() -> None:
    two = [*seeds("a", 1.0, 2.0), *seeds("b", 0.9, 1.9)]
    assert [cell(two, label, "bound").mark for label in "ab"] == ["best", ""]
    others = [row("b", seed, scores={"bound": v}) for seed, v in ((1, 1.9), (2, 1.4), (7, 0.0), (8, 0.2))]
    rows = [*seeds("a", 1.0, 2.0, 1.5), *others]
    assert [cell(rows, label, "bound").mark for label in "ab"] == ["best", ""]
    assert summary(rows).groups[0].remarks[1].endswith("fewer than 3 seeds in common with the best: b")


def test_a_seed_that_is_left_of_five_wins_nothing() -> None:
    lone = [*seeds("x", 99.0), *(failed("x", seed) for seed in range(1, 5))]
    rows = [*lone, *seeds("y", 1.0, 2.0, 3.0, 4.0, 5.0), *seeds("z", 0.9, 1.7, 2.9, 3.6, 4.8)]
    assert [cell(rows, label, "bound").mark for label in "xyz"] == ["", "best", ""]
    assert summary(rows).groups[0].remarks[1] == "too few seeds to be compared, fewer than 3: x"
    rows = [*lone, *seeds("y", 1.0, 2.0, 3.0)]  # nobody to be better than
    assert [cell(rows, label, "bound").mark for label in "xy"] == ["", ""]
    assert "fewer than 3: x" in summary(rows).groups[0].remarks[1]


def test_a_line_that_prints_like_the_best_by_too_few_seeds_is_not_it() -> None:
    rows = [*seeds("a", 1.0, 2.0, 3.0), *seeds("b", 0.8, 1.9, 2.7), *seeds("x", 2.0)]
    assert cell(rows, "x", "bound").text == cell(rows, "a", "bound").text
    assert [cell(rows, label, "bound").mark for label in "abx"] == ["best", "tie", ""]


def test_a_metric_that_most_seeds_lack_is_named_with_its_line() -> None:
    rows = [*seeds("a", 1.0, 2.0, 3.0), *seeds("b", 0.8, 1.9, 2.7)]
    rows += [row("x", s, scores={"bound": 9.0 if s == 0 else "it broke"}) for s in range(3)]
    assert "too few seeds to be compared, fewer than 3: x (bound)" in summary(rows).groups[0].remarks


def test_anchors_are_neither_best_nor_tie() -> None:
    anchors = [*seeds("gan", 5.0, 5.1, 5.2, baseline=True), *seeds("real", 9.0, 9.1, 9.3, sanity=True)]
    found = lines([*NEAR, *anchors])
    assert [found[label].cells["bound"].mark for label in ("a", "b", "gan", "real")] == ["best", "tie", "", ""]


def test_lines_of_other_blocks_do_not_tie() -> None:
    rows = [*NEAR, *seeds("d", -1.2, -2.9, -2.1, -1.4, likelihood="gaussian")]
    assert cell(rows, "d", "bound").mark == ""


def test_the_truly_best_line_is_hardly_ever_left_unmarked() -> None:
    rng, lost, trials = np.random.default_rng(0), 0, 150
    for values in rng.normal(size=(trials, 5, 4)):
        rows = [r for label, own in zip("abcde", values, strict=True) for r in seeds(label, *own)]
        lost += cell(rows, "a", "bound").mark == ""
    assert lost / trials < 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_seeds_that_failed_stand_beside_every_mean() -> None:
    rows = [row(seed=s, scores={"bound": v}) for s, v in enumerate((1.5, 2.5))] + [failed(seed=2), row("b")]
    assert [lines(rows)[label].count for label in ("vae", "b")] == ["2 of 3", "1"]
    assert "| vae¹ | 4690 | 2 of 3 |" in frames.render(rows, "md")
    assert summary(rows).groups[0].remarks[0].startswith("mean ± standard deviation over 2 seeds; two can't say")
    assert summary([failed(seed=s) for s in range(3)]).groups[0].remarks == (UNTUNED,)


def test_a_metric_that_some_seeds_lack_says_how_many() -> None:
    rows = [row(seed=0, scores={"bound": 1.5}), row(seed=1, scores={"bound": "it broke"}), row("b", 0)]
    found = cell(rows, "vae", "bound")
    assert (found.n, found.mean) == (1, 1.5)
    assert summary(rows).groups[0].footnotes[found.notes[0] - 1] == "n/a for 1 of 2 seeds: it broke"


def test_marks_are_in_every_format() -> None:
    md, latex, csv_text = (frames.render(NEAR, form) for form in ("md", "latex", "csv"))
    assert "| **−1.88** ± 0.85 |" in md
    assert "−2.05 ± 0.73\\~ |" in md
    assert "\\~ ties with the best" in md
    assert r"$-$2.05 $\pm$ 0.73$^{\sim}$" in latex
    assert [r["bound_mark"] for r in csv.DictReader(io.StringIO(csv_text))] == ["best", "tie", ""]
    assert [r["marks"].get("bound", "") for r in frames.records(NEAR)] == ["best"] * 4 + ["tie"] * 4 + [""] * 4


def test_an_untuned_table_says_so() -> None:
    untuned = "no hyperparameter was tuned: one setting each"
    assert untuned in summary([row("vae"), row("beta[beta=2]"), GAN]).groups[0].remarks
    assert untuned not in summary([row("vae"), row("beta[beta=2]"), row("beta")]).groups[0].remarks
    (group,) = summary([row("vae")], tuning=["vae: best of 3 settings"]).groups
    assert group.remarks[1:] == ("vae: best of 3 settings",)


def test_what_broke_is_named_on_the_screen() -> None:
    """A stranger's metric that has no number for any row is neither a merit nor a column; its reason is told."""
    broken = NotAvailable("the metric raised RuntimeError: boom\n  at last", retry=True)
    rows = [row("vae", scores={"bound": 1.0, "odd@x.py": broken})]
    told = ("the metric raised RuntimeError: boom at last", ("odd@x.py",))
    assert told in summary(rows).groups[0].hidden
    assert told in summary(rows, ["+odd@x.py"]).groups[0].hidden
    assert told in summary(rows, ["bound", "odd@x.py"]).groups[0].hidden
    assert told not in summary(rows, ["bound"]).groups[0].hidden
    with pytest.raises(UnknownName):
        summary(rows, ["bound", "other@x.py"])


def test_several_settings_scored_on_test_are_no_choice() -> None:
    warned = "several settings scored on test: choosing among them here is choosing on the test split"
    on_test, held = ([row(label, scoring={**SCORING, "split": split}) for label in ("beta", "beta[beta=2]", "vae")]
                     for split in ("test", "validation"))  # fmt: skip
    assert warned in summary(on_test).groups[0].remarks
    assert warned not in summary(held).groups[0].remarks
    assert warned not in summary(on_test[1:]).groups[0].remarks
    assert warned not in summary(on_test, tuning=["beta: best of 2 settings"]).groups[0].remarks


def test_metrics_put_scores_into_words_and_a_broken_one_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(mean: float) -> str:
        return f"at {mean:.1f}" if mean < 2 else ""

    def broken(mean: float) -> str:
        raise ValueError(mean)

    for each, words in ((bound, told), (loss, broken), (rate, lambda mean: f"rate {mean:g}")):
        monkeypatch.setitem(each.__dict__, "told", words)
    rows = [*seeds("a", 1.0, 1.4), row("b", scores={"bound": 5.0, "loss": 1.0, "rate": 2.0}), row("c")]
    assert summary(rows).groups[0].sentences == ("a: at 1.2", "b: rate 2")
    assert "a: at 1.2  \nb: rate 2" in frames.render(rows, "md")


# columns


def test_names_choose_columns_in_reading_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(scores={"bound": 1.0, "loss": 2.0, "rate": 3.0})]

    def names(*chosen: str) -> list[str]:
        return [c.name for c in summary(rows, chosen).groups[0].columns]

    assert names("rate", "loss") == ["loss", "rate"]
    assert names("-loss") == ["bound", "rate"]
    assert names() == names("all") == ["bound", "loss", "rate"]
    with pytest.raises(UnknownName, match="no metric called 'los'"):
        names("los")
    monkeypatch.setattr("bench.tables.columns.MANY", 2)
    assert names() == ["bound"]
    assert summary(rows, ()).groups[0].unasked == ("loss", "rate")
    monkeypatch.setattr("bench.tables.columns.default", {"headline": "rate"}.get)
    assert names() == ["bound", "loss", "rate"]
    monkeypatch.setattr("bench.tables.columns.default", {}.get)
    assert names("+rate", "-loss") == ["bound", "rate"]
    assert [c.name for c in summary(rows).groups[0].columns] == names("all") == ["bound", "loss", "rate"]


# rendered


def test_markdown_marks_the_best_in_bold_and_escapes_pipes() -> None:
    rows = [row("a|b", scores={"bound": 1.5}), row("c", scores={"bound": 2.5, "rate": "p(x|y) is missing"})]
    text = frames.render(rows, "md")
    assert "| **2.500** |" in text
    assert "a\\|b" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {5}


def test_csv_has_means_in_full_and_reasons() -> None:
    rows = [row(seed=s, scores={"bound": v, "loss": "no loss"}) for s, v in enumerate((1.0, 2.0, 4.0))]
    (line,) = csv.DictReader(io.StringIO(frames.render([*rows], "csv")))
    assert float(line["bound"]) == 7 / 3
    assert line["bound_n"] == "3"
    both = frames.render([*rows, row("b", scores={"loss": 1.5})], "csv")
    first = next(csv.DictReader(io.StringIO(both)))
    assert "loss: no loss" in first["not_available"]


def test_latex_is_escaped_and_balanced() -> None:
    rows = [row("a_b[x=50%]", scores={"bound": -1.5}), row("c", scores={"bound": -2.5})]
    text = frames.render(rows, "latex")
    assert r"a\_b[x=50\%]" in text
    assert r"\textbf{$-$1.500}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count("{") == text.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1


def test_a_reason_survives_as_an_exception() -> None:
    assert isinstance(row(scores={"bound": "why"}).scores["bound"], NotAvailable)


def test_merits_come_before_coordinates_and_the_headline_first(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, rate=rate, loss=loss, bound=bound, loss_ratio=loss_ratio)
    rows = [row(scores={"rate": 1.0, "loss": 2.0, "bound": 3.0, "old": 4.0})]
    assert [c.name for c in summary(rows).groups[0].columns] == ["bound", "loss", "rate", "old"]
    score = loss_ratio.function
    monkeypatch.setattr(score, "__module__", "elsewhere")
    monkeypatch.setattr("bench.tables.columns.default", {"headline": "loss_ratio", "baseline": "gan"}.get)
    rows = [row(scores={"loss": 2.0, "bound": 3.0}), row("gan", baseline=True, scores={"loss": 2.0})]
    assert [c.name for c in summary(rows).groups[0].columns] == ["loss_ratio", "bound", "loss"]
