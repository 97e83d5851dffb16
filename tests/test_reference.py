"""The published tables: their files say the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.tables import frames
from bench.tables.ratedistortion import planes, write

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
FOLDERS = sorted(path.parent.name for path in REFERENCE.glob("*/table.json"))


def test_there_are_some() -> None:
    assert {"fashion", "mnist"} <= set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_number_of_table_csv_is_table_json_s(name: str) -> None:
    """A metric that is younger than the tables is a column that they lack."""
    expected = pd.read_csv(REFERENCE / name / "table.csv")
    made = frames.frame(frames.read(REFERENCE / name / "table.json"))
    numbers = [c for c in expected.columns if c in made.columns and pd.api.types.is_float_dtype(made[c])]
    assert len(numbers) > 100
    assert made["label"].tolist() == expected["label"].tolist()
    assert made["seed"].tolist() == expected["seed"].tolist()
    pd.testing.assert_frame_equal(made[numbers], expected[numbers], check_dtype=False, check_exact=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_figure_is_of_the_table(name: str, tmp_path: Path) -> None:
    found, without = planes([(None, frames.read(REFERENCE / name / "table.json"))])
    assert write(tmp_path / "drawn.svg", found, without)
    assert (tmp_path / "drawn.svg").read_text("utf-8") == (REFERENCE / name / "rate-distortion.svg").read_text("utf-8")
