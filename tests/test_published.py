"""Published values: all with a source, a metric that we have, and what differs."""

from __future__ import annotations

import pytest

from bench import published as module
from bench.data import parse
from bench.errors import PluginError
from bench.measurement import METRICS
from bench.published import as_markdown, as_renderables, published


def test_every_value_says_where_it_is_from_and_what_differs() -> None:
    entries = published(["mnist", "fashion"])
    assert len(entries) > 40
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
    ],
)
def test_values_are_as_printed(dataset: str, source: str, model: str, text: str) -> None:
    (entry,) = [e for e in published([dataset]) if source in e.source and e.model == model]
    assert entry.text == text
    assert entry.value == float(text.split(" ")[0].replace("−", "-"))


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


def test_a_file_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module._all.cache_clear()
    monkeypatch.setattr(module, "default", lambda role: "bench.datasets:gone.toml")
    with pytest.raises(PluginError, match="can't be read"):
        published(["mnist"])
    monkeypatch.setattr(module, "default", lambda role: None)
    assert published(["mnist"]) == []
    module._all.cache_clear()
