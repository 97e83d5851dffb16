"""Frames, files and rendered tables, from rows made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.contracts.measurement import Note, Score
from bench.contracts.row import Row
from bench.tables import frames
from bench.tables.below import ON_TEST, UNTUNED
from bench.tables.columns import Layout
from bench.tables.summary import NO_RESULT, NOT_RANKED, DatasetTable, Value, VariantLine, summary
from bench.util.errors import NotAvailable, StoreError, UnknownName, UsageError
from tests.example_rows import SCORING, bound, declare, failed, loss, loss_ratio, many, rate, register, row


@pytest.fixture(autouse=True)
def _metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate, loss_ratio=loss_ratio)


NOTED = Note("{share} of it is missing", "missing", {"share": 0.25}, warns=True)
GAN = row("gan", baseline=True, scores={"loss": 4.0, "bound": "no bound"})


def table(rows: list[Row], *names: str, **options: Any) -> DatasetTable:
    """The table of rows of one dataset."""
    (made,) = summary(rows, names, **options)
    return made


def lines(rows: list[Row]) -> dict[str, VariantLine]:
    return {line.label: line for table in summary(rows, ("all",)) for line in table.lines}


def value(rows: list[Row], label: str, metric: str) -> Value:
    return lines(rows)[label].values[metric]


def marks(rows: list[Row], labels: str, metric: str = "bound") -> list[str]:
    return [value(rows, label, metric).mark for label in labels]


def notes(rows: list[Row], subject: str) -> list[str]:
    """The notes on a column or a label, or on the table as a whole."""
    return [text for about, text in table(rows).below.notes if about == subject]


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


def test_a_repeat_that_took_longer_writes_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, Layout(default=(("bound",), ("train",)), costs={"train": "train_seconds"}))
    for name, seconds in (("x", 1.5), ("y", 99.0)):
        (tmp_path / name).mkdir()
        frames.write(tmp_path / name, [row(costs={"train_seconds": seconds}, scores={"bound": 1.5})])
    for name in ("table.csv", "table.md", "table.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


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
    scored = {"loss": 2.0, "bound": Score(-3.25, 10, 0.5, ("a caveat", NOTED)), "rate": "no rate", "uninstalled": 7.0}
    rows = [row(seed=s, steps=(9, 4), stacked=(0, 1), scores=scored) for s in (0, 1)]
    rows += [GAN, failed("conv", 2), row("mean", sanity=True, scores={"loss": 1.5})]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(frames.records(rows)), encoding="utf-8")
    again = frames.read(path)
    assert frames.records(again) == frames.records(rows)
    pd.testing.assert_frame_equal(frames.frame(again), frames.frame(rows))
    assert [(t.caption, t.below) for t in summary(again)] == [(t.caption, t.below) for t in summary(rows)]
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
    found = value([row(seed=s, scores={"bound": v}) for s, v in enumerate((1.5, 2.5, 5.0))], "vae", "bound")
    assert (found.n, found.mean) == (3, 3.0)
    assert found.sd == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 2**2) / 2))


def test_the_best_is_marked_by_direction() -> None:
    rows = [row("a", scores={"bound": -1.5, "loss": 3.5}), row("b", scores={"bound": -2.5, "loss": 2.5})]
    assert marks(rows, "ab", "bound") == ["best", ""]
    assert marks(rows, "ab", "loss") == ["", "best"]


def test_a_metric_without_a_direction_is_never_marked() -> None:
    assert marks([row("a", scores={"rate": 1.5}), row("b", scores={"rate": 2.5})], "ab", "rate") == ["", ""]


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
    assert marks(rows, "ab") == ["", ""]
    headings = [(table.dataset, block.heading) for table in summary(rows) for block in table.blocks]
    assert len(set(headings)) == 2


def test_the_baseline_is_never_marked_and_gives_nobody_a_rival() -> None:
    rows = [row("vae", scores={"loss": 5.0}), GAN]
    assert not any(line.values["loss"].mark for line in lines(rows).values())


def test_two_seeds_of_one_label_are_no_rivals() -> None:
    assert not value([row(seed=0, scores={"bound": 1.0}), row(seed=1, scores={"bound": 2.0})], "vae", "bound").mark


def test_a_failed_row_is_never_marked_and_stays_in_the_table() -> None:
    rows = [row("a", scores={"bound": 1.5}), row("b", scores={"bound": 0.5}), failed("c", scores={"bound": 99.0})]
    assert marks(rows, "abc") == ["best", "", ""]
    assert value(rows, "c", "bound").mean is None
    assert [block.heading for block in table(rows).blocks][-1] == NO_RESULT
    assert "c: diverged: non-finite" in table(rows).below.warnings


def test_ties_are_by_what_is_printed() -> None:
    rows = [row(label, scores={"bound": v}) for label, v in (("a", 105.3412), ("b", 105.3409), ("c", 105.33))]
    assert marks(rows, "abc") == ["best", "best", ""]


def test_when_all_are_equal_nobody_is_best() -> None:
    assert marks([row("a", scores={"bound": 1.0}), row("b", scores={"bound": 1.0})], "ab") == ["", ""]


def test_a_seed_that_failed_is_named_and_does_not_count() -> None:
    rows = [row(seed=0, scores={"bound": 1.5}), failed(seed=1, reason="non-finite loss at step 7")]
    line = lines(rows)["vae"]
    assert (line.seeds, line.seeds_requested, line.values["bound"].n) == ((0,), 2, 1)
    assert table(rows).below.warnings == ("vae: seed 1 diverged: non-finite loss at step 7",)
    assert table([*rows, rows[1]]).below.warnings[0].startswith("vae: seed 1 diverged"), "found in two runs"


def test_every_blank_has_a_reason() -> None:
    rows = many(2)
    made = table(rows, "all")
    assert len(made.lines) == 9
    missing = {name: text for name, text in made.below.notes if "n/a" in text}
    for line in made.lines:
        for name, found in line.values.items():
            assert (found.mean is None) == bool(found.reason)
            assert found.mean is not None or name in missing
    assert {c.name for c in made.columns} | missing.keys() >= {"bound", "loss", "rate", "loss_ratio", "fid", "elbo"}


def test_a_caveat_of_all_scores_is_said_once_and_others_with_their_labels() -> None:
    rows = [
        row("a", scores={"loss": Score(1.5, 10, notes=("net-v1", "few samples"))}),
        row("b", scores={"loss": Score(2.5, 10, notes="net-v1"), "rate": "no codes"}),
        row("c", scores={"loss": Score(3.5, 10, notes="net-v1"), "rate": "no codes"}),
    ]
    assert notes(rows, "loss") == ["net-v1", "few samples: a"]
    for order in (rows, rows[::-1]):
        assert set(notes([*order, row("d", scores={"rate": 1.0})], "rate")) >= {"n/a (no codes): b, c"} or order != rows
    assert table(rows).below.warnings == ()


def test_reasons_of_a_column_that_nobody_has_are_said_of_whom_they_hold_for() -> None:
    rows = [row(label, scores={"loss": 1.0, "rate": why}) for label, why in zip("abcd", "xxyy", strict=True)]
    found = table(rows, "loss", "rate").below.notes
    assert [text for name, text in found if name == "rate"] == ["n/a (x): a, b", "n/a (y): c, d"]
    found = table(rows[:2], "loss", "rate").below.notes
    assert [text for name, text in found if name == "rate"] == ["n/a (x)"]


def test_caveats_of_seeds_that_differ_in_values_are_one_with_their_range() -> None:
    def noted(seed: int, *given: str | Note) -> Row:
        return row("a", seed, scores={"loss": Score(1.5, 10, notes=given)})

    def plain(value: float, kind: str = "a") -> Note:
        return Note(f"{kind}: {{x}}", kind, {"x": value})

    rows = [noted(0, plain(-0.53)), noted(1, plain(-10.2)), noted(2, plain(0.5)), noted(3, plain(-0.53), "late")]
    assert notes(rows, "loss") == ["a: -10.2 to 0.5: a", "1 of 4 seeds: late: a"]
    twice = [noted(0, plain(1.5), plain(0.5, "b"), plain(2.5, "b")), noted(1, plain(2.5))]
    twice.append(row("a", 2, scores={"loss": "why"}))
    found = ["2 of 3 seeds: a: 1.5 to 2.5: a", "1 of 3 seeds: b: 0.5 to 2.5: a", "n/a for 1 of 3 seeds (why): a"]
    assert notes(twice, "loss") == found
    names = [noted(0, "never: 3, 7", "net-v1.25"), noted(1, "never: 4, 7", "net-v1.75")]  # of classes, of networks
    assert len(notes(names, "loss")) == 4


def test_the_same_cell_of_two_runs_counts_once() -> None:
    rows = [row(scores={"bound": 1.5}), row(scores={"bound": 1.5})]
    assert value(rows, "vae", "bound").n == 1
    assert any("vae seed 0" in text for text in table(rows).below.warnings)


def test_runs_of_different_budgets_are_not_averaged() -> None:
    rows = [row(scores={"bound": 1.5}), row(seed=1, training={"steps": 1}, steps=(1,), scores={"bound": 2.5})]
    made = table(rows)
    assert [line.values["bound"].n for line in made.lines] == [1, 1]
    assert len({block.heading for block in made.blocks}) == 2


def test_one_seed_says_what_it_cannot_show() -> None:
    legends = [table([row(seed=s, scores={"bound": 1.5}) for s in range(n)]).below.legend for n in (1, 2, 3)]
    assert [any("--seeds 3" in text for text in legend) for legend in legends] == [True, True, False]
    assert [f"± sd over {n} seeds" in " ".join(legend) for n, legend in enumerate(legends, 1)] == [False, True, True]


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        ([(105.341, 105.339)], "105.34"),
        ([(105.3, 105.9)], "105.6"),
        ([(100.0, 190.5)], "145"),
        ([(0.25,), (3.25,)], "0.25"),
        ([(0.25,), (0.5,)], "0.250"),
        ([(10.0, 9.0)], "9.5"),
        ([(10.0,)], "10"),
        ([(0.0002,)], "2.00e-04"),
        ([(12345.6,)], "12345.6"),
    ],
)
def test_decimals_follow_the_spread_over_seeds(lines: list[tuple[float, ...]], printed: str) -> None:
    rows = [
        row(label, s, scores={"bound": v})
        for label, of in zip("ab"[: len(lines)], lines, strict=True)
        for s, v in enumerate(of)
    ]
    assert value(rows, "a", "bound").text == printed
    assert (value(rows, "a", "bound").sd_text == "") == (len(lines[0]) == 1)


# ties


def seeds(label: str, *values: float, metric: str = "bound", **changes: Any) -> list[Row]:
    return [row(label, seed, scores={metric: v}, **changes) for seed, v in enumerate(values)]


NEAR = [*seeds("a", -1.0, -3.0, -2.0, -1.5), *seeds("b", -1.3, -2.9, -2.4, -1.6), *seeds("c", -9.0, -11.2, -9.9, -9.6)]


def test_a_line_ties_with_the_best_unless_its_seeds_say_otherwise() -> None:
    assert marks(NEAR, "abc") == ["best", "tie", ""]


def test_pairing_by_seed_sees_through_what_seeds_share() -> None:
    rows = [*seeds("a", 10.0, 20.0, 30.0, 40.0), *seeds("b", 9.0, 18.9, 29.1, 39.05)]
    assert marks(rows, "ab") == ["best", ""]
    shuffled = [*rows[:4], *seeds("b", 39.05, 9.0, 18.9, 29.1)]
    assert marks(shuffled, "ab") == ["best", "tie"]


def test_what_is_printed_alike_is_not_best_if_its_seeds_tell_it_from_the_best() -> None:
    rows = [*seeds("a", 10.0, 20.0, 30.0, 40.0), *seeds("b", 9.9, 19.88, 29.91, 39.89)]
    assert value(rows, "a", "bound").text == value(rows, "b", "bound").text == "25"
    assert marks(rows, "ab") == ["best", ""]


def test_ties_of_a_lower_is_better_metric() -> None:
    rows = [*seeds("a", 1.0, 1.2, 1.1, metric="loss"), *seeds("b", 1.1, 1.15, 1.2, metric="loss")]
    rows += seeds("c", 5.0, 5.3, 5.2, metric="loss")
    assert marks(rows, "abc", "loss") == ["best", "tie", ""]


def test_holm_counts_the_lines_that_are_held_against_the_best() -> None:
    rows = [*seeds("a", 0.0, 0.0, 0.0, 0.0), *seeds("b", -1.0, -1.9, -0.7, -2.0)]
    assert marks(rows, "b") == [""]  # p = .018
    rows += [r for label in "cde" for r in seeds(label, -1.2, -0.3, -0.8, 0.2)]
    assert marks(rows, "b") == ["tie"]  # 4 * .018


def test_fewer_than_three_common_seeds_leave_a_line_unmarked_and_say_so() -> None:
    two = [*seeds("a", 1.0, 2.0), *seeds("b", 0.9, 1.9)]
    assert marks(two, "ab") == ["best", ""]
    others = [row("b", seed, scores={"bound": v}) for seed, v in ((1, 1.9), (2, 1.4), (7, 0.0), (8, 0.2))]
    rows = [*seeds("a", 1.0, 2.0, 1.5), *others]
    assert marks(rows, "ab") == ["best", ""]
    assert any("in common with the best" in text and "b (bound)" in text for text in notes(rows, "table"))


def test_a_seed_that_is_left_of_five_wins_nothing() -> None:
    lone = [*seeds("x", 99.0), *(failed("x", seed) for seed in range(1, 5))]
    rows = [*lone, *seeds("y", 1.0, 2.0, 3.0, 4.0, 5.0), *seeds("z", 0.9, 1.7, 2.9, 3.6, 4.8)]
    assert marks(rows, "xyz") == ["", "best", ""]
    assert "fewer than 3 seeds, so not compared: x (bound)" in notes(rows, "table")
    elsewhere = seeds("w", 9.0, 9.5, 9.2, hyperparameters={"backbone": "conv"})
    assert best_overall([*rows, *elsewhere]) == {"bound": ["w"]}
    rows = [*lone, *seeds("y", 1.0, 2.0, 3.0)]  # nobody to be better than
    assert marks(rows, "xy") == ["", ""]
    assert "fewer than 3 seeds, so not compared: x (bound)" in notes(rows, "table")


def test_a_line_that_prints_like_the_best_by_too_few_seeds_is_not_it() -> None:
    rows = [*seeds("a", 1.0, 2.0, 3.0), *seeds("b", 0.8, 1.9, 2.7), *seeds("x", 2.0)]
    assert value(rows, "x", "bound").text == value(rows, "a", "bound").text
    assert marks(rows, "abx") == ["best", "tie", ""]


def test_a_metric_that_most_seeds_lack_is_named_with_its_line() -> None:
    rows = [*seeds("a", 1.0, 2.0, 3.0), *seeds("b", 0.8, 1.9, 2.7)]
    rows += [row("x", s, scores={"bound": 9.0 if s == 0 else "it broke"}) for s in range(3)]
    assert "fewer than 3 seeds, so not compared: x (bound)" in notes(rows, "table")
    assert "n/a for 2 of 3 seeds (it broke): x" in notes(rows, "bound")
    both = [row("x", s, scores=dict.fromkeys(("bound", "loss"), 9.0)) for s in range(2)]
    both += [row(label, s, scores={"bound": s + 1.5, "loss": s + 0.5}) for label in "ab" for s in range(3)]
    assert "fewer than 3 seeds, so not compared: x (bound, loss)" in notes(both, "table")


def test_reference_rows_are_neither_best_nor_tie_and_stand_under_one_heading() -> None:
    references = [*seeds("real", 9.0, 9.1, 9.3, sanity=True), *seeds("gan", 5.0, 5.1, 5.2, baseline=True)]
    rows = [*references, *NEAR]
    assert [value(rows, label, "bound").mark for label in ("a", "b", "gan", "real")] == ["best", "tie", "", ""]
    last = table(rows).blocks[-1]
    assert (last.heading, [line.label for line in last.lines]) == (NOT_RANKED, ["gan", "real"])
    assert all(line.reference for line in last.lines)


def test_reference_rows_of_other_protocols_say_which() -> None:
    other = {"training": {"steps": 77}, "steps": (77,)}
    rows = [row("a"), row("a", **other), GAN, row("gan", baseline=True, scores={"loss": 9.0}, **other)]
    headings = [block.heading for block in table(rows).blocks]
    assert len(headings) == len(set(headings)) == 4
    assert [(h.startswith(NOT_RANKED), "steps 77" in h) for h in headings[2:]] == [(True, False), (True, True)]


def test_lines_of_other_blocks_do_not_tie() -> None:
    rows = [*NEAR, *seeds("d", -1.2, -2.9, -2.1, -1.4, likelihood="gaussian")]
    assert marks(rows, "d") == [""]


def test_the_truly_best_line_is_hardly_ever_left_unmarked() -> None:
    rng, lost, trials = np.random.default_rng(0), 0, 150
    for values in rng.normal(size=(trials, 5, 4)):
        rows = [r for label, own in zip("abcde", values, strict=True) for r in seeds(label, *own)]
        lost += marks(rows, "a") == [""]
    assert lost / trials < 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def best_overall(rows: list[Row]) -> dict[str, list[str]]:
    """What the legend names as best of all blocks."""
    said = [text.partition(": ")[2] for text in table(rows).below.legend if text.startswith("best of all")]
    found = [entry.partition(" ") for text in said for entry in text.split(" · ")]
    return {column: labels.split(", ") for column, _, labels in found}


CONV = {"hyperparameters": {"backbone": "conv", "latent_dim": 20}}


def test_the_best_of_all_blocks_is_named_where_these_are_scored_alike() -> None:
    rows = [row("a", scores={"bound": 1.0, "loss": 1.0}), row("b", scores={"bound": 2.0, "loss": 2.0}, **CONV)]
    assert best_overall(rows) == {"bound": ["b"], "loss": ["a"]}
    assert best_overall([rows[0], row("b", scores={"bound": 2.0})]) == {}, "one block"
    assert best_overall([rows[0], row("b", scores={"bound": 2.0}, baseline=True)]) == {}, "one ranked block"
    for change in (
        {"scoring": {**SCORING, "samples": 5}},
        {"data": {"train": "cccc", "test": "dddd"}},
        {"likelihood": "gaussian"},
    ):
        assert best_overall([*rows, row("c", scores={"bound": 3.0}, **change)]) == {}
    assert best_overall([*rows, row("c", scores={"loss": 0.5}, likelihood="")]) == {"bound": ["b"], "loss": ["c"]}
    assert best_overall([*rows, failed("c")]) == {"bound": ["b"], "loss": ["a"]}


def test_seeds_that_failed_count_as_requested() -> None:
    rows = [row(seed=s, scores={"bound": v}) for s, v in enumerate((1.5, 2.5))] + [failed(seed=2), row("b")]
    found = lines(rows)
    assert [(len(found[x].rows), found[x].seeds_requested) for x in ("vae", "b")] == [(2, 3), (1, 1)]
    assert "vae: seed 2 diverged: non-finite" in table(rows).below.warnings
    assert table([failed(seed=s) for s in range(3)]).below.warnings == ("vae: diverged: non-finite",)


def test_marks_are_in_every_format() -> None:
    md, latex, csv_text = (frames.render(NEAR, form) for form in ("md", "latex", "csv"))
    assert "| **−1.9**\\* ± 0.9 |" in md
    assert "−2.0 ± 0.7\\~ |" in md
    assert r"\textbf{$-$1.9}* $\pm$ 0.9" in latex
    assert r"$-$2.0 $\pm$ 0.7$^{\sim}$" in latex
    assert [r["bound_mark"] for r in csv.DictReader(io.StringIO(csv_text))] == ["best", "tie", ""]
    assert [r["marks"].get("bound", "") for r in frames.records(NEAR)] == ["best"] * 4 + ["tie"] * 4 + [""] * 4
    for text in (md, latex):
        assert "ties with it" in text


# the text below a table


def test_lines_that_failed_alike_share_a_warning() -> None:
    rows = [*seeds("a", 1.0, 2.0), *(failed(label, s) for label in "bc" for s in range(2)), failed("d", 1), row("d")]
    assert table(rows).below.warnings == ("b, c: diverged: non-finite", "d: seed 1 diverged: non-finite")
    every = [failed(label, status="skipped", reason="no labels") for label in "ab"]
    assert table(every).below.warnings == ("all variants: skipped: no labels",)


def test_misleading_scores_are_warned_of_with_labels_also_of_columns_that_are_not_shown() -> None:
    warning, silent = Note("classes missing: {n}", "modes", {"n": 3}, warns=True), Note("of 10 classes")
    rows = [row(label, scores={"bound": 1.0, "rate": Score(0.5, 10, notes=(warning, silent))}) for label in "ab"]
    rows += [row("c", scores={"bound": 1.0}), row("mean", sanity=True, scores=rows[0].scores)]
    assert table(rows, "bound").below.warnings == ("a, b: classes missing: 3",)
    more = [
        *rows,
        row("a", 1, scores={"rate": Score(0.5, 10, notes=Note(warning.text, "modes", {"n": 5}, warns=True))}),
    ]
    assert "a: classes missing: 3 to 5" in table(more, "bound").below.warnings


@pytest.mark.parametrize("headline", ["bound", "loss"])
def test_a_headline_no_better_than_the_mean_images_is_warned_of(monkeypatch: pytest.MonkeyPatch, headline: str) -> None:
    declare(monkeypatch, Layout(), **{"headline": headline, "sanity-mean": "mean"})
    sign = 1 if headline == "bound" else -1
    rows = [row(label, scores={headline: sign * v}) for label, v in (("a", -9.0), ("b", -10.0), ("c", -11.0))]
    rows += [row("far", scores={headline: sign * -99.0}, likelihood="gaussian"), GAN, row("none")]
    mean = row("mean", sanity=True, scores={headline: sign * -10.0})
    assert table(rows).below.warnings == ()
    assert table([*rows, mean]).below.warnings == (f"b, c: {headline} no better than the mean image's",)
    other = row("mean", sanity=True, scores={headline: sign * -10.0}, data={"train": "cccc", "test": "dddd"})
    assert table([*rows, other]).below.warnings == ()


def test_what_broke_is_named_below_every_table() -> None:
    """A stranger's metric that has no number for any row is no column; why is a warning."""
    broken = NotAvailable("the metric raised RuntimeError: boom\n  at last", retry=True)
    rows = [row("vae", scores={"bound": 1.0, "odd@x.py": broken}), row("b", scores={"bound": 2.0})]
    for names in ((), ("+odd@x.py",), ("bound", "odd@x.py"), ("bound",)):
        made = table(rows, *names)
        (warning,) = made.below.warnings
        assert all(word in warning for word in ("odd@x.py", "RuntimeError: boom at last", "vae: "))
        assert "odd@x.py" not in {c.name for c in made.columns}
    with pytest.raises(UnknownName):
        summary(rows, ["bound", "other@x.py"])


def test_a_formula_that_fails_costs_its_own_score() -> None:
    rows = [row(scores={"loss": 2.0, "bound": 1.0}), row("gan", baseline=True, scores={"loss": 0.0})]
    made = table(rows)
    assert {c.name for c in made.columns} == {"bound", "loss"}
    (warning,) = made.below.warnings
    assert "loss_ratio" in warning
    assert "ZeroDivisionError" in warning


def test_several_settings_scored_on_test_are_no_choice() -> None:
    on_test, held = ([row(label, scoring={**SCORING, "split": split}) for label in ("beta", "beta[beta=2]", "vae")]
                     for split in ("test", "validation"))  # fmt: skip
    assert ON_TEST in table(on_test).below.warnings
    assert ON_TEST not in table(held).below.warnings
    assert ON_TEST not in table(on_test[1:]).below.warnings


def test_an_untuned_table_says_so_in_its_notes() -> None:
    assert UNTUNED in notes([row("vae"), row("beta[beta=2]"), GAN], "table")
    assert UNTUNED not in notes([row("vae"), row("beta[beta=2]"), row("beta")], "table")
    chosen = table([row("vae")], tuning=["vae: best of 3 settings"]).below.notes
    assert [text for about, text in chosen if about == "table"] == ["vae: best of 3 settings"]


def test_of_many_warnings_the_first_are_shown_and_the_others_counted() -> None:
    rows = [row("a", scores={"bound": 1.0}), *(failed(label, reason=label) for label in "bcdef")]
    below = table(rows).below
    assert len(below.warnings) == 5
    assert below.short[:2] == list(below.warnings[:2])
    assert "3 more" in below.short[2]
    assert below.full[:5] == list(below.warnings)
    for n in (1, 2, 3):
        assert table(rows[: n + 1]).below.short[:n] == [*table(rows[: n + 1]).below.warnings]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_at_most_six_lines_stand_below_a_table_with_two_warnings(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    declare(monkeypatch, Layout((("bound",), ("rate", "loss")), instead={"loss": "loss: rate has no score"}))
    rows = [r for label in "ab" for r in seeds(label, *(i + ord(label) / 3 for i in range(count)), metric="loss")]
    rows += [row("c", s, scores={"bound": 1.0 + s, "loss": 99.0 + s / 3}, **CONV) for s in range(count)]
    rows += [row("d", s, scores={"bound": 2.0 + s}) for s in range(count)]
    rows += [failed("f"), failed("g", reason="out of memory")]
    below = table(rows).below
    assert len(below.warnings) == 2
    assert len(below.short) <= 6
    assert any("best of all" in text for text in below.legend)
    assert "loss: rate has no score" in below.legend


def test_metrics_put_scores_into_words_and_a_broken_one_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(mean: float) -> str:
        return f"at {mean:.1f}" if mean < 2 else ""

    def broken(mean: float) -> str:
        raise ValueError(mean)

    for each, words in ((bound, told), (loss, broken), (rate, lambda mean: f"rate {mean:g}")):
        monkeypatch.setitem(each.__dict__, "told", words)
    rows = [*seeds("a", 1.0, 1.4), row("b", scores={"bound": 5.0, "loss": 1.0, "rate": 2.0}), row("c")]
    assert [notes(rows, label) for label in "abc"] == [["at 1.2"], ["rate 2"], []]
    assert "a: at 1.2  \nb: rate 2" in frames.render(rows, "md", notes=True)
    assert "at 1.2" not in frames.render(rows, "md")


# columns


def names(rows: list[Row], *chosen: str, **options: Any) -> list[str]:
    return [c.name for c in table(rows, *chosen, **options).columns]


def test_names_choose_columns_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(scores={"bound": 1.0, "loss": 2.0, "rate": 3.0})]
    assert names(rows, "rate", "loss") == ["rate", "loss"]
    assert names(rows, "-loss") == ["bound", "rate"]
    assert names(rows) == names(rows, "all") == ["bound", "loss", "rate"]
    with pytest.raises(UnknownName, match="no metric called 'los'"):
        names(rows, "los")
    declare(monkeypatch, Layout((("rate",), ("bound",)), families={"loss": "x", "rate": "x"}))
    assert names(rows) == ["rate", "bound"]
    assert names(rows, "+loss", "-rate") == ["bound", "loss"]
    assert names(rows, "all") == ["loss", "rate", "bound"]
    assert not table(rows, "+loss").explicit
    assert table(rows, "rate").explicit


def test_of_alternatives_the_first_that_has_a_score_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "loss: rate needs weights"
    declare(monkeypatch, Layout((("bound",), ("rate", "loss")), instead={"loss": said}))
    rows = [row("a", scores={"bound": 1.0, "loss": 2.0, "rate": "no weights"}), row("b", scores={"bound": 2.0})]
    made = table(rows)
    assert [c.name for c in made.columns] == ["bound", "loss"]
    assert said in made.below.legend
    assert ("rate", "n/a (no weights): a") in made.below.notes
    assert said not in table(rows, "loss").below.legend, "named by the reader"
    scored = [*rows, row("c", scores={"rate": 2.0})]
    assert names(scored) == ["bound", "rate"]
    for chosen in ((), ("+loss",)):
        assert said not in table(scored, *chosen).below.legend


def test_where_no_default_column_has_a_score_all_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, Layout((("bound",), ("train",)), costs={"train": "train_seconds"}))
    assert names([row(scores={"loss": 1.0, "own": 2.0})]) == ["loss", "own"]
    assert names([row(scores={"loss": 1.0, "bound": 2.0})]) == ["bound", "train"]


def test_a_cost_is_a_length_of_time_that_is_never_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, Layout((("bound",), ("train",)), costs={"train": "train_seconds"}))
    took = {"a": 12.5, "b": 90.0, "c": 7200.0, "d": 0.25}
    rows = [row(label, costs={"train_seconds": s}, scores={"bound": s}) for label, s in took.items()]
    rows += [row("real", sanity=True, steps=(0,)), row("e", costs={})]
    made = {line.label: line.values["train"] for line in table(rows).lines}
    assert [made[label].text for label in "abcd"] == ["12 s", "2 min", "2.0 h", "0.2 s"]
    assert not any(v.mark for v in made.values())
    assert made["real"].reason != made["e"].reason != ""
    assert "train" not in csv.DictReader(io.StringIO(frames.render(rows, "csv"))).fieldnames  # type: ignore[operator]


def test_lines_are_sorted_by_a_column_the_best_first() -> None:
    rows = [row(label, scores={"bound": v, "loss": v}) for label, v in (("a", 2.0), ("b", 3.0), ("c", 1.0))]
    rows += [row("x", scores={"bound": 99.0}, **CONV), row("n"), GAN, failed("f")]

    def order(sort: str) -> list[str]:
        return [line.label for block in table(rows, sort=sort).blocks for line in block.lines]

    assert order("") == ["a", "b", "c", "n", "x", "gan", "f"]
    assert [label for label in order("bound") if label in "abcn"] == ["b", "a", "c", "n"]
    assert [label for label in order("loss") if label in "abcn"] == ["c", "a", "b", "n"]
    for sort in ("bound", "loss"):
        assert [block.heading for block in table(rows, sort=sort).blocks][-2:] == [NOT_RANKED, NO_RESULT]
    with pytest.raises(UsageError, match="'los'"):
        order("los")
    elsewhere = [*rows, row("vae", dataset="mnist", scores={"loss": 1.0})]
    assert len(summary(elsewhere, sort="bound")) == 2, "no score on one of several datasets"


# the order of rows


@pytest.mark.parametrize("draw", range(25))
def test_the_order_of_rows_changes_nothing_but_the_order_of_lines(monkeypatch: pytest.MonkeyPatch, draw: int) -> None:
    declare(monkeypatch, Layout((("bound",), ("rate", "loss")), instead={"loss": "so"}), headline="bound")
    rng = np.random.default_rng(draw)
    changes: list[dict[str, Any]] = [
        {}, CONV, {"likelihood": "gaussian"}, {"uses_labels": True}, {"stacked": (0, 1)}, {"baseline": True},
        {"sanity": True}, {"training": {"steps": 7, "limit": 5}, "steps": (7,)}, {"scoring": {"samples": 5}},
    ]  # fmt: skip
    rows = []
    for label in "abcdefgh":
        change = changes[rng.integers(len(changes))] if rng.random() < 0.6 else {}
        for seed in rng.permutation(5)[: rng.integers(1, 5)]:
            given = {name: float(rng.normal()) for name in ("bound", "loss", "rate") if rng.random() < 0.8}
            scores: dict[str, Any] = {name: Score(v, 10, notes=["few"] * (v > 1)) for name, v in given.items()}
            state = {"status": "diverged", "reason": "boom"} if rng.random() < 0.15 else {}
            rows.append(row(label, int(seed), scores=scores, **{**change, **state}))

    def said(order: list[Row]) -> Any:
        made = table(order)
        blocks = {
            block.heading: {line.label: (line.seeds, line.seeds_requested, dict(line.values)) for line in block.lines}
            for block in made.blocks
        }
        below = [made.caption, *made.below.warnings, *made.below.legend, *(f"{a}: {b}" for a, b in made.below.notes)]
        return blocks, [c.name for c in made.columns], sorted(sorted(re.findall(r"[^ ,:()]+", text)) for text in below)

    orders = [[rows[i] for i in rng.permutation(len(rows))] for _ in range(3)]
    for order in orders:
        assert said(order) == said(rows)


# rendered


def test_markdown_marks_the_best_in_bold_and_escapes_pipes() -> None:
    rows = [row("a|b", scores={"bound": 1.5}), row("c", scores={"bound": 2.5, "rate": "p(x|y) is missing"})]
    text = frames.render(rows, "md", ("bound", "rate"), notes=True)
    assert "| **2.50**\\* |" in text
    assert "a\\|b" in text
    assert "p(x\\|y) is missing" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {3}


def test_csv_has_means_in_full_and_reasons() -> None:
    rows = [row(seed=s, scores={"bound": v, "loss": "no loss"}) for s, v in enumerate((1.0, 2.0, 4.0))]
    (line,) = csv.DictReader(io.StringIO(frames.render([*rows], "csv")))
    assert float(line["bound"]) == 7 / 3
    assert line["bound_n"] == "3"
    both = frames.render([*rows, row("b", scores={"loss": 1.5}), failed("c")], "csv")
    first, _, last = csv.DictReader(io.StringIO(both))
    assert "loss: no loss" in first["not_available"]
    assert "bound: diverged: non-finite" in last["not_available"]
    assert (last["seeds"], last["seeds_requested"]) == ("0", "1")


@pytest.mark.fault(12, "a name that a spreadsheet would run", "disarmed in table.csv")
def test_csv_disarms_what_a_spreadsheet_would_run() -> None:
    text = frames.render([row("=cmd()", dataset="+x", scores={"bound": -1.5, "@m": 1.0})], "csv")
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["label"], line["dataset"], line["bound"]) == ("'=cmd()", "'+x", "-1.5")
    assert "'@m" in line


def test_latex_is_escaped_and_balanced() -> None:
    rows = [row("a_b[x=50%]", scores={"bound": -1.5}), row("c", scores={"bound": -2.5}), row("[d]")]
    text = frames.render(rows, "latex", notes=True)
    assert r"a\_b[x=50\%]" in text
    assert r"\textbf{$-$1.50}*" in text
    assert "\n{[}d]" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count("{") == text.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1


def test_a_reason_survives_as_an_exception() -> None:
    assert isinstance(row(scores={"bound": "why"}).scores["bound"], NotAvailable)
