"""What a report says of several rows is true of each of them, in whatever order they come."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.show.report.chapter import _protocol, _split
from bench.show.report.provenance import settings
from tests.tables.test_statements_of_several_rows import DIFFERENT, made, part


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("seeded", [False, True])
def test_nothing_that_holds_for_some_rows_is_said_of_all(name: str, seeded: bool) -> None:
    changes, mark = DIFFERENT[name]
    rows = [made(label, seed) for label in ("one", "two", "three") for seed in range(3)]
    rows = [replace(r, **changes) if r.label == "two" and (not seeded or r.seed == 1) else r for r in rows]
    orders = (rows, rows[::-1], [*rows[4:], *rows[:4]])
    assert not any(re.search(mark, _protocol(order)) for order in orders)
    assert len({_protocol(order) for order in orders}) == 1
    assert len({frozenset(map(repr, settings(order))) for order in orders}) == 1


def test_a_report_says_what_was_scored_and_settings_of_each_dataset() -> None:
    held = {**part("scoring", split="validation", test="vvvv"), **part("training", validation=77)}
    assert "77 images" in _protocol([made("a", **held)])
    assert "scored" not in _protocol([made("a", **held), made("b")])
    assert "1 to 3 seeds" in _protocol([*(made("a", s) for s in range(3)), made("b")])
    exhibit = lambda split: SimpleNamespace(split=split)  # noqa: E731
    assert [_split([exhibit(s) for s in splits]) for splits in (["test"], ["validation"], ["test", "validation"])] == [  # type: ignore[misc]
        "test", "validation", "scored",
    ]  # fmt: skip
    sizes = [made("a", costs={"parameters": 10.0}), made("a", dataset="mnist", costs={"parameters": 3000.0})]
    assert [s.parameters for s in settings(sizes)] == [s.parameters for s in settings(sizes[::-1])] == ["10 to 3,000"]
    newer = replace(sizes[1], plugin={"distribution": "mine", "version": "2"})
    assert {s.plugin for s in settings([sizes[0], newer])} == {"vaebench 0.1.0", "mine 2"}
