"""The columns that are declared, and those that a table shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contracts.measurement import METRICS
from bench.contracts.row import Row
from bench.tables import columns
from bench.tables.columns import ROLE, Layout, chosen, cost_columns, layout, reading_order
from bench.tables.summary import summary
from bench.util.errors import PluginError, UnknownName
from tests.example_rows import row

DEFAULT = ("elbo", "bce", "kl", "fd", "blur", "sharpness_vs_gan", "train")
SCORES = {"elbo": -1.5, "bce": 1.5, "kl": 2.5, "fd": 3.5, "blur": 0.5, "sharpness": 0.5, "modes": 1.0, "mmd": 0.5}


def names(rows: list[Row], *wanted: str) -> tuple[str, ...]:
    (table,) = summary(rows, wanted)
    return tuple(c.name for c in table.columns)


def rows(**more: float) -> list[Row]:
    return [row("vae", scores={**SCORES, **more}), row("gan", baseline=True, scores={**SCORES, **more})]


# the declaration


def test_every_metric_is_declared_in_one_family_and_no_other_name_is() -> None:
    ours = {entry.name for entry in METRICS.entries if entry.distribution == "vaebench"}
    declared = layout().families.keys()
    assert not ours - declared, "add it to a family in bench/metrics/columns.toml"
    assert not declared - ours, "no such metric: take it out of bench/metrics/columns.toml"


def test_all_that_is_declared_of_a_column_is_of_one_that_exists() -> None:
    known = {*METRICS, *layout().costs}
    default = [name for alternatives in layout().default for name in alternatives]
    assert len(set(default)) == len(default)
    assert {*default, *layout().narrow, *layout().instead} <= known
    assert set(layout().narrow) <= set(default), "left out of the default columns"
    second = {name for _, *others in layout().default for name in others}
    assert layout().instead.keys() == second, "a sentence for each alternative"
    assert not layout().costs.keys() & set(METRICS)


def test_no_name_stands_in_two_families() -> None:
    import tomllib
    from importlib.resources import files

    declared = tomllib.loads((files("bench.metrics") / "columns.toml").read_text(encoding="utf-8"))["families"]
    every = [name for listed in declared.values() for name in listed]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("content", [None, b"default = [", b"default = 3", b'[families]\nx = ["a"]', b"\xff"])
def test_a_declaration_that_cannot_be_read_is_a_fault_of_its_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    package = tmp_path / f"declared_{abs(hash(content))}"
    package.mkdir()
    (package / "__init__.py").touch()
    if content is not None:
        (package / "columns.toml").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(columns, "default", {ROLE: f"{package.name}:columns.toml"}.get)
    with pytest.raises(PluginError, match=package.name):
        layout()


def test_without_a_declaration_all_columns_are_shown_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "default", {}.get)
    assert layout() == Layout()
    assert cost_columns() == []
    found = columns.columns(rows())
    assert reading_order(found) == chosen(found) == found


# what a table shows


def test_default_columns_follow_the_declaration() -> None:
    assert [names_[-1] for names_ in layout().default] == list(DEFAULT)
    assert names(rows()) == DEFAULT
    assert names(rows(fid=20.0)) == tuple("fid" if name == "fd" else name for name in DEFAULT)


def test_an_alternative_is_shown_with_its_sentence() -> None:
    (table,) = summary(rows())
    assert layout().instead["fd"] in table.below.legend
    assert any(subject == "fid" for subject, _ in table.below.notes), "why it is not shown"
    (table,) = summary(rows(fid=20.0))
    assert layout().instead["fd"] not in table.below.legend


def test_a_column_without_a_score_is_not_shown() -> None:
    lacking = [row("vae", scores={"elbo": 1.5}, costs={})]
    assert names(lacking) == ("elbo",)
    assert names(lacking, "elbo", "fd") == ("elbo",)


def test_all_is_in_the_declared_order_then_what_is_not_declared() -> None:
    found = names(rows(zzz_uninstalled=1.0), "all")
    assert found[-2:] == ("zzz_uninstalled", "train")
    place = list(layout().families)
    assert list(found[:-2]) == sorted(found[:-2], key=place.index)


def test_names_add_to_leave_out_of_or_replace_the_default_columns() -> None:
    assert names(rows(), "mmd", "elbo") == ("mmd", "elbo")
    assert names(rows(), "+mmd", "-fd", "-train") == ("elbo", "bce", "kl", "blur", "sharpness_vs_gan", "mmd")
    assert "train" not in names(rows(), "all", "-train")
    with pytest.raises(UnknownName, match="no metric called 'elbow'"):
        names(rows(), "elbow")


def test_a_default_column_that_is_not_installed_any_more_keeps_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "METRICS", {})
    (table,) = summary([row(scores={"elbo": -1.5})])
    assert [c.name for c in table.columns] == ["elbo", "train"]
    assert table.columns[0].computed_by_default
