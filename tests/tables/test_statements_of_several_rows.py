"""What a heading, a note or a paragraph says of several rows is true of each of them, in whatever order they come."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from bench.contracts.row import Row
from bench.show import console
from bench.tables import compare, costs, render
from bench.tables.below import ON_TEST, UNTUNED
from bench.tables.methods import methods
from bench.tables.ratedistortion import planes
from bench.tables.summary import DatasetTable, summary
from tests.example_rows import bound, failed, loss, rate, register, row

ABOUT = {"vaebench": "1.0", "torch": "2.10", "python": "3.11", "device": "cpu", "threads": 1}
TRAINING = {"steps": 50, "batch_size": 128, "optimizer": "adam", "lr": 1e-3, "precision": "fp32", "limit": None}
SCORING = {"samples": 10_000, "mixture": 10, "split": "test", "nll_samples": 100, "nll_images": 1000, "test": "bbbb"}
DATA = {"train": "aaaa", "test": "bbbb", "shape": [1, 28, 28], "train_images": 900, "test_images": 80}


@pytest.fixture(autouse=True)
def _metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate)
    monkeypatch.setattr("bench.tables.ratedistortion.default", lambda role: role)


def made(label: str, seed: int = 0, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "provenance": ABOUT,
        "training": {**TRAINING, "validation": 0},
        "scoring": SCORING,
        "data": DATA,
        "scores": {"bound": -90.0 - seed, "rate": 9.0 + seed},
        "cell": f"{label}-{seed}",
    }
    return row(label, seed, **values | changes)


def part(name: str, **changes: Any) -> dict[str, Any]:
    whole = {"training": {**TRAINING, "validation": 0}, "scoring": SCORING, "data": DATA, "provenance": ABOUT}
    whole["hyperparameters"] = {"backbone": "mlp", "latent_dim": 20}
    return {name: {**whole[name], **changes}}


NOTHING = r"(?!)"
DIFFERENT: Mapping[str, tuple[dict[str, Any], str]] = {
    "stacked": ({"stacked": (0, 1, 2)}, r"stacked"),
    "compile": (part("training", compile=True), r"compiled|compile (?!none)"),
    "batch size": (part("training", batch_size=77), r"77"),
    "optimizer": (part("training", optimizer="rmsprop"), r"(?i:rmsprop)"),
    "learning rate": (part("training", lr=0.0077), r"0\.0077"),
    "precision": (part("training", precision="bf16"), r"bf16"),
    "steps": ({**part("training", steps=77), "steps": (77,)}, r"77"),
    "limit": ({**part("training", limit=777), **part("data", train_images=777)}, r"777"),
    "validation": (part("training", validation=77), r"77"),
    "split": (
        {**part("scoring", split="validation"), **part("training", validation=77)},
        r"validation (?!0)|held out of training|77",
    ),
    "samples": (part("scoring", samples=7777), r"7,?777"),
    "importance samples": (part("scoring", nll_samples=77), r"77"),
    "mixture": (part("scoring", mixture=77), r"77"),
    "protocol version": (part("scoring", version=77), r"77"),
    "training images": (part("data", train="7777cafe"), r"7777cafe"),
    "test images": (part("data", test_images=77), r"77"),
    "shape": (part("data", shape=[3, 77, 77]), r"77"),
    "likelihood": ({"likelihood": "laplace77"}, r"laplace77"),
    "backbone": (part("hyperparameters", backbone="net77"), r"net77"),
    "encoder": (part("hyperparameters", encoder="net77"), r"net77"),
    "latent size": (part("hyperparameters", latent_dim=77), r"77"),
    "no latent size": ({"hyperparameters": {"backbone": "mlp"}}, NOTHING),
    "labels": ({"uses_labels": True}, r"uses labels"),
    "threads": (part("provenance", threads=77), r"77"),
    "device": (part("provenance", device="gpu77", device_name="gpu77"), r"gpu77"),
    "torch": (part("provenance", torch="77.0"), r"77"),
    "suite": (part("provenance", vaebench="77.0"), r"77"),
    "python": (part("provenance", python="77.0"), r"77"),
    "likelihood, unsaid": ({"likelihood": ""}, NOTHING),
    "provenance, unsaid": ({"provenance": {}}, NOTHING),
}


def table(rows: Sequence[Row], **options: Any) -> DatasetTable:
    """The table of rows of one dataset."""
    (made,) = summary(rows, **options)
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """What the notes say of the table as a whole."""
    return [text for subject, text in table(rows).below.notes if subject == "table"]


def heads(table: DatasetTable) -> Iterator[tuple[str, list[Row]]]:
    """What stands above rows, and these."""
    yield re.sub(r" \([^)]*\)", "", table.caption), [row for line in table.lines for row in line.rows]
    for block in table.blocks:
        yield block.heading, [row for line in block.lines for row in line.rows]


def unqualified(text: str) -> str:
    """A paragraph without what it says of some labels alone: in brackets, and before '(only' and '(not'."""
    return re.sub(r"[^;,.(]*(?:\.\d+[^;,.(]*)* \((?:only|not) [^()]*\)|\([^()]*: [^()]*\)", "", text)


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("anchor", ["", "sanity", "baseline"])
@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.fault(34, "rows of one table that differ in any field", "no line above several states one row's value")
def test_nothing_that_holds_for_some_rows_is_said_of_all(name: str, anchor: str, seeded: bool) -> None:
    """`seeded`: it's one seed of a label that differs, not a label."""
    changes, mark = DIFFERENT[name]
    kind = {anchor: True} if anchor else {}
    rows = [made(label, seed, **kind) for label in ("one", "two", "three") for seed in range(3)]
    odd = [r for r in rows if (r.label == "two" and (not seeded or r.seed == 1))]
    rows = [replace(r, **changes) if r in odd else r for r in rows]
    cells = {r.cell for r in odd}
    said = []
    for order in (rows, rows[::-1], [*rows[4:], *rows[:4]]):
        shown = table(order)
        for heading, below in heads(shown):
            if re.search(mark, unqualified(heading)):
                assert {r.cell for r in below} <= cells, heading
        paragraph = methods(order)
        assert not re.search(mark, unqualified(paragraph)), paragraph
        untold = ("backbone", "encoder", "labels", "test images", "device", "validation")
        assert mark == NOTHING or name in untold or re.search(mark, paragraph), "it's told of whom it's true"
        for plane in planes([(None, order)])[0]:
            held = {p.label for p in plane.points}
            assert not re.search(mark, plane.heading) or held == {"two"} or not held
        for cost in costs.costs(order):
            mine = [r for r in order if r.label == cost.label and costs._machine(r) == cost.machine]
            alike = [[r for r in mine if (r.steps, r.training) == (x.steps, x.training)] for x in mine]
            assert cost.seeds in {len(of) for of in alike}
        said.append(
            (
                {(h, frozenset(r.cell for r in below)) for h, below in heads(shown)},
                paragraph,
                {" ".join(sorted(re.findall(r"[^ ,:()]+", text))) for text in shown.below.full},
                {p.heading for p in planes([(None, order)])[0]},
            )
        )
    assert said[0] == said[1] == said[2], "the order of rows is of no account"


def test_stacked_is_said_in_the_heading_of_all_and_else_of_the_lines_that_were() -> None:
    stacked = {"stacked": (0, 1, 2)}
    rows = [made(label, seed, **stacked) for label in "ab" for seed in range(3)]
    assert "trained together" in table(rows).blocks[0].heading
    assert notes(rows) == [UNTUNED]
    mixed = [
        *rows[:3],
        *(replace(r, stacked=()) for r in rows[3:]),
        made("c"),
        *(made("c", s, **stacked) for s in (1, 2)),
    ]
    for order in (mixed, mixed[::-1]):
        (block,) = table(order).blocks  # stacked rows and others are compared
        assert "together" not in block.heading
        (text,) = (text for text in notes(order) if "together" in text)
        assert set(text.partition(": ")[2].split(", ", 1)) in ({"a", "c (seeds 1, 2)"}, {"c (seeds 1", "2), a"})
        for form in ("md", "latex"):
            assert text in render.render(order, form, notes=True)  # type: ignore[arg-type]


def test_the_paragraph_names_the_labels_and_seeds_that_something_holds_for() -> None:
    compiled = part("training", compile=True)
    rows = [made(label, seed) for label in "abc" for seed in range(2)]
    first = [replace(rows[0], **compiled), *rows[1:]]
    assert "losses compiled (only a seed 0)" in methods(first)
    most = [replace(r, **compiled) if r.label != "b" else r for r in rows]
    assert "losses compiled (not b)" in methods(most)
    assert "losses compiled;" in methods([replace(r, **compiled) for r in rows])
    other = [replace(r, **part("training", batch_size=64)) if (r.label, r.seed) == ("c", 1) else r for r in rows]
    assert "batches of 128 (c seed 1: batches of 64)" in methods(other)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_seeds_are_counted_by_line(order: Sequence[int]) -> None:
    lines = [[made("a", s) for s in range(5)], [made("b", s) for s in (0, 1)], [made("c", 7)]]
    rows = [r for i in order for r in lines[i]]
    assert any("over 5 seeds (b 2, c 1)" in text for text in table(rows).below.legend)
    said = {text for text in notes(rows) if "only seed" in text}
    assert said == {"a has only seeds 0 to 4", "b has only seeds 0, 1", "c has only seed 7"}
    assert {line.label: len(line.seeds) for line in table(rows).lines} == {"a": 5, "b": 2, "c": 1}
    apart = table([made("a", 0), made("b", 1)]).below.legend
    assert not any("2 seeds" in text for text in apart), "no line has two"


def test_a_reference_rows_only_seed_is_no_news() -> None:
    rows = [*(made("a", s) for s in range(3)), made("mean", sanity=True)]
    assert table(rows).caption.startswith("fashion · seeds 0 to 2 · ")
    assert not any("seed 0" in text for text in notes(rows))
    assert any("over 3 seeds" in text for text in table(rows).below.legend)


def test_a_seed_that_failed_counts_to_the_line_that_it_was_trained_like() -> None:
    long = {**part("training", steps=77), "steps": (77,)}
    rows = [made("a", 0), made("a", 0, **long), failed("a", 1, **long, data=DATA)]
    for order in permutations(rows):
        found = {line.steps: (len(line.rows), line.seeds_requested) for line in table(order).lines}
        assert found == {"4690": (1, 1), "77": (1, 2)}


def test_what_is_said_of_a_choice_is_said_of_the_dataset_that_it_was_on() -> None:
    several = [made("a[x=1]", dataset="mnist"), made("a[x=2]", dataset="mnist"), made("a[x=1]", dataset="digits")]
    assert {t.dataset: ON_TEST in t.below.warnings for t in summary(several)} == {"mnist": True, "digits": False}
    outside = [made("a"), made("mine", training={}, steps=())]
    assert UNTUNED not in notes(outside), "of samples from a file nobody knows"
    assert "none" not in " ".join(b.heading for b in table([*outside, made("b", **DIFFERENT["steps"][0])]).blocks)


def test_compared_seeds_and_settings_are_those_of_each_line() -> None:
    a = [made(label, s) for label in "xy" for s in range(3)]
    b = [r for r in a if (r.label, r.seed) != ("y", 2)]
    for left, right in ((a, b), (a[::-1], b[::-1])):
        (group,) = compare.compare(left, right).datasets
        assert group.notes[0].startswith("paired seeds: 0,1,2 (y: 0,1)")
    rows = [made("x", s) for s in range(2)]
    rows += [made("y", s, **part("hyperparameters", beta=float(s))) for s in range(2)]
    for order in (rows, rows[::-1]):
        (group,) = compare.between(order, "x", "y").datasets
        notes = [note for note in group.notes if note.startswith("hyperparameters")]
        assert [re.findall(r"seed \d|→ \d", note) for note in notes] == [["seed 0", "→ 0"], ["seed 1", "→ 1"]]


def test_planes_hold_what_was_scored_on_the_same_images() -> None:
    elsewhere = part("scoring", test="cccc", split="validation")
    found, _ = planes([(None, [made("a"), made("b", **elsewhere)])])
    assert [[p.label for p in plane.points] for plane in found] == [["a"], ["b"]]
    assert ["80 test images" in plane.heading for plane in found] == [True, False]
    rows = [made("a", baseline=True), made("a", 1)]
    assert {planes([(None, order)])[0][0].points[0].reference for order in (rows, rows[::-1])} == {False}


def test_why_a_label_is_in_no_plane_is_every_seeds_reason() -> None:
    rows = [failed("a", 0, reason="x"), made("a", 1, scores={"bound": "y", "rate": 1.0})]
    for order in (rows, rows[::-1]):
        assert planes([(None, order)])[1] == {"a": "bound: y; diverged: x"}


def test_a_caption_says_what_all_lines_have_in_common() -> None:
    limited = {**part("training", limit=777), **part("data", train_images=777)}
    assert "first 777 training images" in table([made("a", **limited), made("b", **limited)]).caption
    assert "777" not in table([made("a", **limited), made("b")]).caption
    assert "80 test images" in table([made("a"), made("b")]).caption
    held = {**part("scoring", split="validation", test="vvvv"), **part("training", validation=77)}
    assert "77 validation images" in table([made("a", **held)]).caption
    assert "images" not in table([made("a", **held), made("b")]).caption
    long = {**part("training", steps=77), "steps": (77,)}
    assert "4,690 steps (b 77)" in table([made("a"), made("c"), made("b", **long)]).caption
    for order in permutations([made("a"), made("a", 1, **long), made("c", **long)]):
        assert "77 steps (a 4,690)" in table(order).caption, "a label in two lines"
    many = [made(label, **long) for label in "vwxyz"] + [made(label) for label in "abcdefg"]
    assert "4,690 steps (5 variants differ)" in table(many).caption


def test_a_screen_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [made("a", stacked=(0, 1)), made("b")]
    console.summary(rows, notes=True)
    out = capsys.readouterr().out
    assert "together" not in out.splitlines()[0]
    assert "seeds trained together: a" in out
