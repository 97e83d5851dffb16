"""Published values: all with a source, a metric that we have, and what differs."""

from __future__ import annotations

import pytest

from bench.cli import main
from bench.contracts.measurement import METRICS
from bench.data import parse
from bench.tables import published as module
from bench.tables.published import as_markdown, as_renderables, published
from bench.util.errors import PluginError


def test_every_value_says_where_it_is_from_and_what_differs() -> None:
    entries = published(["mnist", "fashion", "cifar10", "celeba", "svhn"])
    assert {e.dataset for e in entries} == {"mnist", "fashion", "cifar10", "celeba", "svhn"}
    for entry in entries:
        assert entry.differs
        assert entry.source
        assert entry.link.startswith("https://")
        known = METRICS.load(entry.metric)
        assert (known.unit, known.direction) == (entry.unit, entry.direction)
        assert parse(entry.dataset).title


@pytest.mark.parametrize(
    ("dataset", "source", "model", "text"),
    [
        ("mnist", "Dai & Wipf", "VAE, cross-entropy", "16.6 ± 0.4"),
        ("fashion", "Dai & Wipf", "VAE, learned sigma", "60.0 ± 1.1"),
        ("fashion", "Lucic", "WGAN", "21.5 ± 1.6"),
        ("mnist", "prior or one Gaussian", "AE", "58.73"),
        ("mnist", "Burda", "VAE", "86.76"),
        ("mnist", "examples", "VAE, log 1", "−105.56"),
        ("cifar10", "Dai & Wipf 2019, table 1", "2-stage VAE", "72.9 ± 0.9"),
        ("cifar10", "Lucic", "LSGAN", "87.1 ± 47.5"),
        ("cifar10", "prior or one Gaussian", "RAE-SN", "84.25"),
        ("cifar10", "2020, table 1, samples from a mixture", "AE", "76.47"),
        ("cifar10", "2022, table 1, samples from N(0, I)", "VAMP", "198.14"),
        ("cifar10", "Oord", "VQ-VAE", "4.67"),
        ("celeba", "Dai & Wipf 2019, table 1", "VAE, cross-entropy", "53.3 ± 0.6"),
        ("celeba", "Dai & Wipf 2019, table 2", "WAE-GAN", "42"),
        ("celeba", "Lucic", "WGAN-GP", "30.3 ± 1.0"),
        ("celeba", "prior or one Gaussian", "RAE-GP", "116.30"),
        ("celeba", "2022, table 1, samples from a mixture", "VAE", "55.50"),
        ("celeba", "pythae", "AAE", "43.3"),
        ("svhn", "2022, table 1, samples from N(0, I)", "RHVAE", "121.69"),
        ("svhn", "2022, table 1, samples from a mixture", "AE", "54.21"),
    ],
)
def test_values_are_as_printed(dataset: str, source: str, model: str, text: str) -> None:
    (entry,) = [e for e in published([dataset]) if source in e.source and e.model == model]
    assert entry.text == text
    assert entry.value == float(text.split(" ")[0].replace("−", "-"))


def test_the_caveats_below_a_table_are_those_of_all_in_it() -> None:
    for dataset in ("mnist", "fashion", "cifar10", "celeba", "svhn"):
        entries = published([dataset])
        tables = {(e.source, e.metric, e.link, e.differs) for e in entries}
        assert len(tables) == len({e.source for e in entries}) == as_markdown(entries).count("####")
        assert len({(e.source, e.model) for e in entries}) == len(entries)


def test_a_dataset_is_known_by_its_name_alone() -> None:
    assert published(["mnist[binary=dynamic]"]) == published(["mnist"])
    assert published(["digits", "folder:./mine"]) == []
    assert {e.dataset for e in published(["fashion", "mnist", "fashion"])} == {"mnist", "fashion"}
    assert len(published(["fashion", "fashion"])) == len(published(["fashion"]))


def test_they_are_shown_with_their_caveats_and_a_mark() -> None:
    entries = published(["fashion"])
    shown = as_markdown(entries)
    assert shown.count(module.MARK) == 2
    assert "| VAE, cross-entropy | 43.6 ± 0.7 |" in shown
    assert all(text in shown for entry in entries for text in entry.differs)
    assert as_markdown([]) == ""

    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in as_renderables(entries):
        console.print(part)
    printed = console.export_text()
    assert "43.6 ± 0.7" in printed
    assert "differs: networks of Lucic" in printed


@pytest.mark.parametrize("how", [["--json"], ["--format", "csv"], ["--format", "latex"]])
def test_what_has_no_place_for_them_is_refused_before_anything_is_printed(
    how: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", "nowhere", "--with", "published", *how]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"isn't printed by {' '.join(how)}" in err


def test_a_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module._all.cache_clear()
    monkeypatch.setattr("bench.plugins.registry.default", lambda role: "bench.datasets:gone.toml")
    with pytest.raises(PluginError, match="cannot be read"):
        published(["mnist"])
    monkeypatch.setattr("bench.plugins.registry.default", lambda role: None)
    assert published(["mnist"]) == []
    module._all.cache_clear()
