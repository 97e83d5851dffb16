"""What a report says of several rows is true of each of them, in whatever order they come."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.show.report.chapter import _split
from bench.show.report.provenance import settings
from tests.tables.test_statements_of_several_rows import DIFFERENT, made


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_order_of_rows_changes_no_setting(name: str) -> None:
    changes, _ = DIFFERENT[name]
    rows = [made(label, seed) for label in ("one", "two", "three") for seed in range(3)]
    rows = [replace(r, **changes) if r.label == "two" else r for r in rows]
    orders = (rows, rows[::-1], [*rows[4:], *rows[:4]])
    assert len({frozenset(map(repr, settings(order))) for order in orders}) == 1


def test_a_report_says_what_was_scored_and_settings_of_each_dataset() -> None:
    exhibit = lambda split: SimpleNamespace(split=split)  # noqa: E731
    assert [_split([exhibit(s) for s in splits]) for splits in (["test"], ["validation"], ["test", "validation"])] == [  # type: ignore[misc]
        "test", "validation", "scored",
    ]  # fmt: skip
    sizes = [made("a", costs={"parameters": 10.0}), made("a", dataset="mnist", costs={"parameters": 3000.0})]
    assert [s.parameters for s in settings(sizes)] == [s.parameters for s in settings(sizes[::-1])] == ["10 to 3,000"]
    newer = replace(sizes[1], plugin={"distribution": "mine", "version": "2"})
    assert {s.plugin for s in settings([sizes[0], newer])} == {"vaebench 0.1.0", "mine 2"}
