"""What notebooks show: the numbers of the table, the images of the cells, and no markup of anybody's."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench import api
from bench.contracts.measurement import Score
from bench.results.store import Run
from bench.show.notebook import Results
from bench.tables.frames import frame
from tests.conftest import build
from tests.example_rows import bound, failed, register, row

GAN = row("gan", baseline=True, scores={"bound": 1.0})
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """A page's tags, the texts of its cells, and its images' addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside:
            self.cells[-1] += data.strip()


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))))


def test_results_are_a_frame_that_shows_means_over_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, bound=bound)
    rows = [row(seed=s, scores={"bound": v}) for s, v in enumerate((1.0, 2.0, 3.0))]
    rows += [row("beta", seed=s, scores={"bound": 1.0 + s / 100}) for s in range(3)]
    made = Results.of(rows, str(tmp_path))
    pd.testing.assert_frame_equal(pd.DataFrame(made), frame(rows))
    assert type(made.head()) is type(made[["label"]]) is pd.DataFrame
    page = Page(made._repr_html_())
    at = page.cells.index("vae")
    assert page.cells[at : at + 2] == ["vae", "2.0* ± 1.0"]
    assert "<b>2.0</b>* ± 1.0" in made._repr_html_()
    assert page.cells[page.cells.index("beta") + 1] == "1.0 ± 0.0~"
    assert "± sd over 3 seeds" in page.text
    assert page.images == []


def test_names_and_reasons_are_inert_text(tmp_path: Path) -> None:
    rows = [
        row(HOSTILE, dataset=HOSTILE, scores={"elbo": 1.5}),
        failed(HOSTILE, seed=1, dataset=HOSTILE, reason=HOSTILE),
    ]
    html = Results.of(rows, str(tmp_path))._repr_html_()
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count("alert(1)") >= 3


def test_notes_are_folded_and_warnings_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, bound=bound)
    rows = [row(scores={"bound": Score(1.0, 10, notes="of few images")}), failed("b", reason="boom")]
    html = Results.of(rows, str(tmp_path))._repr_html_()
    before, _, folded = html.partition("<details>")
    assert "diverged: boom" in Page(before).text
    assert "of few images" in Page(folded).text
    assert "of few images" not in before
    assert "<details>" not in Results.of([GAN], str(tmp_path))._repr_html_(), "no notes"


def test_samples_of_each_label_stand_below_the_table(tmp_path: Path) -> None:
    rows = [row("vae", seed=1), row("vae"), row("beta"), row("ae")]
    rows = [replace(r, cell=f"{r.label}-{r.seed}") for r in rows]
    levels = {"vae-0": 10, "vae-1": 20, "beta-0": 200}
    for name, level in levels.items():
        (tmp_path / "cells" / name / "done").mkdir(parents=True)
        kept = {"samples": torch.full((30, 1, 28, 28), level, dtype=torch.uint8)}
        save_file(kept, tmp_path / "cells" / name / "done" / "evidence.safetensors")
    page = Page(Results.of(rows, str(tmp_path))._repr_html_())
    (address,) = page.images
    picture = decoded(address)
    for level, count in ((20, 12), (200, 12), (10, 0)):  # a label's first seed alone
        assert (picture == level).all(2).sum() >= count * 56 * 56
        assert (picture == level).all(2).sum() < (count + 1) * 56 * 56


def test_a_run_without_a_result_shows_why(tmp_path: Path) -> None:
    page = Page(Results.of([failed(reason="non-finite loss at step 3")], str(tmp_path))._repr_html_())
    assert "non-finite loss at step 3" in page.text


def test_a_loaded_model_shows_its_hyperparameters_and_pictures(tmp_path: Path, digits: object) -> None:
    run = Run(tmp_path)
    model = build("vae[latent_dim=3]", digits)  # type: ignore[arg-type]
    about = {"shape": [1, 8, 8], "classes": 10, "train_images": 10, "latent_dim": 8}
    made = replace(row("vae[latent_dim=3]"), dataset=HOSTILE, cell="vae-x", data=about, likelihood="bernoulli")
    made = replace(made, hyperparameters={"latent_dim": 3, "hidden": None}, costs={"parameters": 12345}, plugin={})
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    run.write_done(made, model.state_dict(), [{"step": 1.0}], {}, {"samples": picture}, "")
    loaded = api.load(tmp_path / "cells" / "vae-x")
    page = Page(loaded._repr_html_())  # type: ignore[operator]
    assert page.cells[:6] == ["steps", "4,690", "parameters", "12,345", "likelihood", "bernoulli"]
    assert page.cells[6:] == ["latent_dim", "3"]
    assert "script" not in page.tags
    assert np.array_equal(decoded(page.images[0]), np.arange(64).reshape(8, 8))
    assert loaded.state_dict().keys() == model.state_dict().keys()
