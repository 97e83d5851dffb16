"""The report: what it says is what the rows say, names are inert, and what can't be shown is said to be missing."""

from __future__ import annotations

import os
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import cli
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.drawing.figures import CLASSES, Scale
from bench.results.store import Run
from bench.show.plane import code_plane
from bench.show.report import curves, provenance, sharpness, sheet
from bench.show.report.curves import spread_out
from bench.show.report.page import REPORT, write
from bench.show.report.plane import scatter
from bench.tables.summary import summary
from bench.util.errors import NotAvailable
from tests.conftest import Bench, once
from tests.example_rows import DATA, SCORING, TRAINING, failed, row

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}


class Element:
    """A node of a page, read back."""

    def __init__(self, tag: str, attributes: dict[str, str], above: Element | None) -> None:
        self.tag, self.attributes, self.above = tag, attributes, above
        self.inside: list[Element | str] = []

    def all(self) -> Iterator[Element]:
        yield self
        for inner in self.inside:
            if isinstance(inner, Element):
                yield from inner.all()

    def find(self, tag: str = "", kind: str = "") -> list[Element]:
        return [
            e
            for e in self.all()
            if (not tag or e.tag == tag) and (not kind or kind in e.attributes.get("class", "").split())
        ]

    @property
    def text(self) -> str:
        return "".join(inner if isinstance(inner, str) else inner.text for inner in self.inside)


class Page(HTMLParser):
    """What a browser makes of a report, without its script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.root = self.at = Element("", {}, None)
        self.feed(html)
        self.ids = {e.attributes["id"]: e for e in self.root.all() if "id" in e.attributes}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.inside.append(made)
        if tag not in VOID:
            self.at = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.inside.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"{tag} closes {self.at.tag}"
        assert self.at.above is not None
        self.at = self.at.above

    def handle_data(self, data: str) -> None:
        self.at.inside.append(data)

    def section(self, name: str) -> Element:
        return self.ids[name]


def report(*runs: Run, **options: Any) -> Page:
    path = runs[0].path / REPORT
    write(runs, path, **options)
    return Page(path.read_text(encoding="utf-8"))


# runs by hand, and one that was trained


def images(n: int, shape: tuple[int, int, int] = (1, 28, 28), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)


def evidence(shape: tuple[int, int, int] = (1, 28, 28), d: int = 3, n: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(d)
    return {
        "samples": images(n, shape),
        "samples_gmm": images(n, shape, 1),
        "reconstructions": images(n, shape, 2),
        "codes": torch.randn(n, d, generator=generator),
        "labels": torch.arange(n) % 3,
        "kl_per_dimension": torch.arange(d) / 7,
        "rate": torch.rand(n, generator=generator),
        "distortion": 80 + torch.rand(n, generator=generator),
    }


ABOUT = {**DATA, "classes": 10, "train_images": 100, "latent_dim": 20}
HISTORY = [{"stage": 0.0, "step": 10.0 * i, "loss": 100.0 / i, "rec": 90.0 / i} for i in range(1, 30)]


def keep(run: Run, made: Row, history: Sequence[dict[str, float]] = HISTORY, **changes: Any) -> None:
    found = {**evidence(**changes)} if changes.pop("evidence", True) else {}
    run.write_done(made, {"w": torch.zeros(1)}, list(history), found, {}, "")
    run.write_scores(made.cell, made.scoring, made.scores, {})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.create(RunRequest(("nobody",)))  # so that nothing else is missed
    return run


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run: two latent dimensions, one, discrete codes, labels, no codes at all."""

    def make(folder: Path) -> None:
        wanted = "vae[latent_dim=2],vae[latent_dim=1],vqvae,cvae,gan"
        how = ("--steps", "8", "--in-process", "--threads", "1", "--no-sanity", "--quiet", "--eval-split", "test")
        code = cli.main(
            ["run", "--variants", wanted, *how, "--metrics", "elbo,active_kl", "--out", str(folder / "run")]
        )
        assert code == 0

    return Run(once(tmp_path_factory, "report", make) / "run")


@pytest.fixture(scope="session")
def short_page(short: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("report") / REPORT
    write([short], path)
    return Page(path.read_text(encoding="utf-8"))


# the file


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(short_page: Page) -> None:
    (policy,) = (
        e.attributes["content"]
        for e in short_page.root.find("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (element,) = short_page.root.find(tag)
        digest = b64encode(sha256(element.text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in policy


def test_nothing_is_loaded_and_nothing_runs_that_isnt_in_the_file(short_page: Page) -> None:
    for e in short_page.root.all():
        assert not [name for name in e.attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if name in e.attributes:
                assert e.attributes[name].startswith(("data:", "#"))
        assert e.tag not in ("iframe", "object", "embed", "base", "form")


def test_pictures_have_words_and_references_have_targets(short_page: Page) -> None:
    assert len(short_page.ids) == sum("id" in e.attributes for e in short_page.root.all())
    for e in short_page.root.all():
        if e.tag == "img":
            assert e.attributes["alt"].strip()
        if e.attributes.get("role") == "img":
            named = [short_page.ids[i].text for i in e.attributes.get("aria-labelledby", "").split()]
            assert (e.attributes.get("aria-label") or " ".join(named)).strip()
        for name in ("aria-describedby", "aria-labelledby"):
            for target in e.attributes.get(name, "").split():
                assert target in short_page.ids
        if e.tag == "a":
            assert e.attributes["href"][1:] in short_page.ids


def test_equal_runs_give_equal_bytes(short: Run, short_page: Page, tmp_path: Path) -> None:
    again = tmp_path / "copy" / short.path.name
    shutil.copytree(short.path, again)
    write([Run(again)], tmp_path / REPORT)
    assert (tmp_path / REPORT).read_text(encoding="utf-8") == short_page.html


def test_the_template_is_in_the_package() -> None:
    names = {path.name for path in (files("bench.show.report") / "page").iterdir()}
    assert {"page.html", "page.css", "page.js", "parts.html", "summary.html"} <= names


# the table


def rows_with_marks() -> list[Row]:
    rows = []
    for seed in range(4):
        noise = 0.1 * (-1) ** seed
        rows += [
            row("a", seed, scores={"elbo": -90.0 + noise, "kl": "no rate here"}, cell=f"a-{seed}"),
            row("b", seed, scores={"elbo": -90.05 - noise, "kl": 4.0}, cell=f"b-{seed}"),
            row("c", seed, scores={"elbo": -95.0 + noise / 2, "kl": 5.0}, cell=f"c-{seed}"),
        ]
    return rows


def test_marks_and_numbers_are_the_tables_own(run: Run) -> None:
    rows = rows_with_marks()
    for made in rows:
        keep(run, made)
    page = report(run)
    (shown,) = summary(run.rows())
    table = page.section("summary").find("table", "ranking")[0]
    heads = [th.find("button")[0].text.split("\xa0")[0].split(" ")[0] for th in table.find("th") if th.find("button")]
    assert heads == [c.name for c in shown.columns]
    found = {}
    for tr in table.find("tr"):
        if tr.find("td"):
            label = tr.find("th")[0].text.strip()
            found[label] = dict(zip(heads, tr.find("td"), strict=True))
    for line in shown.lines:
        for name in heads:
            cell, td = line.values[name], found[line.label][name]
            assert td.attributes["class"].split() == ([cell.mark] if cell.mark else [] if cell.n else ["na"])
            assert cell.text in td.text
            if cell.mean is not None:
                assert float(td.attributes["data-value"]) == cell.mean
    assert [found[label]["elbo"].attributes["class"] for label in "abc"] == ["best", "tie", ""]


def test_na_has_its_reason(run: Run) -> None:
    for made in rows_with_marks():
        keep(run, made)
    page = report(run)
    missing = page.section("summary").find("table", "ranking")[0].find("td", "na")
    assert missing
    for td in missing:
        (noted,) = td.find("span", "noted")
        assert noted.attributes["tabindex"] == "0"
        assert noted.attributes["data-note"] in noted.attributes["aria-label"]
    reasons = [td.find("span", "noted")[0].attributes["data-note"] for td in missing]
    assert "no rate here" in reasons
    assert all(reason in page.section("summary").find("details", "notes")[0].text for reason in reasons)  # in print


def test_failures_are_told_with_the_end_of_their_log(run: Run) -> None:
    keep(run, row("a", cell="a"))
    log = "\n".join(f"line {i}" for i in range(100))
    run.write_failed(failed("b", reason="non-finite loss at step 7", cell="b"), log)
    run.work("c-digits-s0").mkdir(parents=True)
    page = report(run)
    first, second = page.section("failures").find("article")
    assert "diverged" in first.text
    assert "non-finite loss at step 7" in first.text
    assert first.find("pre")[0].text.splitlines()[-1] == "line 99"
    assert len(first.find("pre")[0].text.splitlines()) < 40
    assert "unfinished" in second.text
    assert "1 of 3 finished" in page.root.text


def test_cells_that_never_began_are_missed(tmp_path: Path) -> None:
    from bench.running.grid import expand

    request = RunRequest(("vae", "beta[beta=1|7]"), ("fashion",), (0, 1), baseline=False)
    run = Run(tmp_path / "run")
    run.create(request)
    keep(run, row("vae", cell="vae-fashion-s0-0123456789ab"))
    for attempt, text in enumerate(("earlier", "\x1b[31mlatest\x1b[0m")):
        log = run.work("vae-fashion-s1-0123456789ab") / str(attempt) / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text(text)
        os.utime(log, (attempt, attempt))
    (run.cells / ".DS_Store").touch()
    unfinished, *missed = report(run).section("failures").find("article")
    assert unfinished.find("pre")[0].text == "latest"
    expected = {c.label: "0" if c.sanity else "0, 1" for c in expand(request) if c.label != "vae"}
    assert len(expected) > 2
    found = {" ".join(a.find("h3")[0].text.split()) for a in missed}
    assert found == {f"missing {label} fashion · seed {seeds}" for label, seeds in expected.items()}
    cells = 2 + sum(1 + seeds.count(",") for seeds in expected.values())
    assert f"1 of {cells} finished" in report(run).root.text


def test_nothing_is_said_to_have_finished_that_never_began(run: Run) -> None:
    assert "No cell has begun." in report(run).section("failures").text
    keep(run, row("nobody", cell="a"))
    assert "No cell failed." in report(run).section("failures").text


def test_a_results_folder_names_no_code_to_be_run(tmp_path: Path) -> None:
    code = tmp_path / "wrong.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for request in (
        RunRequest((f"{code}:Wrong",)),
        RunRequest(("vae",), set=(f"vae.backbone={code}:Wrong",)),
        RunRequest(("vae",), backbone=f"{code}:Wrong"),
        RunRequest((f"vae[backbone={code}:Wrong]",)),
    ):
        run = Run(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        run.create(request)
        page = report(run)
        assert not (tmp_path / "ran").exists()
        assert str(tmp_path) not in page.html
        assert "./wrong.py:Wrong" in page.section("provenance").text


@pytest.mark.parametrize("content", ["{}", '{"variant": "vae", "costs": 3}', "[]", '{"scores'])
def test_a_row_that_isnt_one_is_damaged(run: Run, content: str) -> None:
    keep(run, row("a", cell="a"))
    keep(run, row("b", cell="b"))
    (run.cells / "b" / "done" / "cell.json").write_text(content)
    page = report(run)
    (failure,) = page.section("failures").find("article")
    assert "damaged" in failure.text
    assert "1 of 2 finished" in page.root.text


def test_a_reason_may_hold_bytes_that_are_no_text(run: Run) -> None:
    run.write_failed(failed("a", reason="bad \udcff byte", cell="a"), "")
    assert r"bad \udcff byte" in report(run).section("failures").text


def test_terms_that_cant_be_drawn_cost_their_own_panel(run: Run) -> None:
    far = [{"stage": 0.0, "step": float(i), "far": (-1) ** i * 1.7e308, "near": float(i)} for i in range(1, 30)]
    for seed in (0, 1):
        keep(run, row("a", seed, cell=f"a{seed}"), far)
    keep(run, row("b", cell="b"))
    (run.cells / "b" / "done" / "history.csv").write_text(f"step,loss\n1,{'9' * 200_000}\n")
    panels = {f.find("figcaption")[0].text: f for f in report(run).section("training").find("figure")}
    assert sorted(panels) == ["far", "near"]
    assert not panels["far"].find("svg")
    assert panels["far"].find("p", "missing")[0].text
    assert panels["near"].find("svg", "chart")


def test_planes_that_cant_be_drawn_cost_themselves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OverflowError("too far")

    keep(run, row("a", cell="a"))
    monkeypatch.setattr("bench.show.report.chapter.rd.planes", broken)
    assert "OverflowError: too far" in report(run).section("tradeoffs").text


# names and texts are only text


HOSTILE = """"><script>window.hacked = 1</script><img src=x onerror="hacked=1">{{ 7 * 7 }}'&amp;\u202e"""


def hostile_run(run: Run) -> None:
    """Every text that a stranger may choose is hostile."""
    for seed in range(3):
        made = row(
            HOSTILE,
            seed,
            dataset="]]></style><script>hacked=1</script>",
            scores={"elbo": -90.0 - seed, HOSTILE: 1.0, "</script>": HOSTILE},
            hyperparameters={"backbone": HOSTILE, "latent_dim": 3, "x": HOSTILE},
            likelihood="<b>",
            plugin={"distribution": HOSTILE, "version": "<i>"},
            provenance={"device_name": HOSTILE, "torch": "<u>", "ended": "<s>"},
            cell=f"hostile-{seed}",
        )
        keep(run, made, [{"stage": 0.0, "step": float(i), HOSTILE.replace("\n", ""): 1.0 + i} for i in range(9)])
    run.write_failed(failed(HOSTILE, 3, reason=HOSTILE, cell="hostile-3"), HOSTILE)


def test_names_are_inert(run: Run) -> None:
    hostile_run(run)
    page = report(run)
    assert len(page.root.find("script")) == len(page.root.find("style")) == 1
    assert not page.root.find("b", "") or all(e.text != "" for e in page.root.find("b"))
    for e in page.root.all():
        assert not [name for name in e.attributes if name.startswith("on")]
        if e.tag == "img":
            assert e.attributes["src"].startswith("data:image/")
    text = page.root.text
    assert text.count("<script>window.hacked = 1</script>") > 8  # told, where others have their names
    assert "{{ 7 * 7 }}" in text  # a template in a name isn't one
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.html)  # nor do they turn what follows them


# what is missing is said


def test_a_run_without_a_finished_cell(run: Run) -> None:
    assert "No cell of this run has a result yet" in report(run).section("summary").text
    run.write_failed(failed("a", cell="a"), "")
    page = report(run)
    assert "0 of 1 finished" in page.root.text
    for name in ("images", "training", "tradeoffs", "latent"):
        assert page.section(name).text.strip()


@pytest.mark.parametrize("harm", ["evidence.safetensors", "weights.safetensors", "history.csv", "cell.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_damaged_file_costs_what_needs_it(short: Run, tmp_path: Path, harm: str, how: str) -> None:
    shutil.copytree(short.path, tmp_path / "run")
    copy = Run(tmp_path / "run")
    cell = next(name for name in copy.names() if name.startswith("cvae"))
    victim = copy.cells / cell / "done" / harm
    victim.unlink() if how == "missing" else victim.write_bytes(b"\x93not what it was")
    page = report(copy)
    assert len(page.section("images").find("img")) > 8  # of the others
    told = {
        "evidence.safetensors": ("images", "evidence is missing or damaged"),
        "weights.safetensors": ("latent", "its weights are missing or damaged"),
        "history.csv": ("training", ""),
        "cell.json": ("failures", "cell.json is missing" if how == "missing" else "cell.json has changed"),
    }[harm]
    assert told[1] in page.section(told[0]).text or "cvae" in page.section(told[0]).text
    if harm == "history.csv":
        assert not [e for e in page.section("training").find("title") if e.text == "cvae"]
    else:
        assert told[1] in page.section(told[0]).text


def test_without_the_dataset_and_without_the_variant(run: Run) -> None:
    keep(run, row("nobody", dataset="fashion", data=ABOUT, cell="a"))
    page = report(run, data_root=str(run.path / "nowhere"))
    assert "isn't at hand" in page.section("images").text
    assert "no variant called 'nobody': it isn't installed" in page.section("latent").text
    assert [e.text for e in page.section("latent").find("ul", "legend")[0].find("li")] == ["0", "1", "2"]
    assert len(page.section("images").find("img", "sheet")) >= 3  # what the cell keeps needs neither
    assert page.section("latent").find("svg", "scatter")


def test_datasets_of_all_kinds_in_one_report(run: Run) -> None:
    keep(run, row("grey", dataset="one", cell="grey"))
    keep(run, row("colour", dataset="two", cell="colour"), shape=(3, 32, 32), d=2)
    keep(run, row("large", dataset="three", cell="large"), shape=(3, 64, 48), d=1)
    keep(run, row("odd", dataset="four", cell="odd"), shape=(2, 5, 3), d=1, n=1)
    keep(run, row("bare", dataset="five", cell="bare"), [], evidence=False)
    page = report(run)
    assert [e.text for e in page.section("images").find("h3", "dataset")] == ["five", "four", "one", "three", "two"]
    for e in page.root.find("img", "sheet"):
        picture = Image.open(BytesIO(b64decode(e.attributes["src"].split(",")[1])))
        ratio = int(e.attributes["width"]) / int(e.attributes["height"])
        assert ratio == pytest.approx(picture.width / picture.height, rel=0.02)


def test_one_test_image_is_enough(tmp_path: Path) -> None:
    pixels = images(12, (1, 8, 8)).numpy()[:, 0]
    np.savez(tmp_path / "few.npz", x_train=pixels, x_test=pixels[:1])
    how = ("--steps", "2", "--in-process", "--threads", "1", "--no-sanity", "--no-baseline", "--quiet")
    out = tmp_path / "run"
    code = cli.main(["run", "--variants", "vae[latent_dim=1]", "--dataset", f"npz:{tmp_path / 'few.npz'}", *how,
                     "--metrics", "elbo", "--out", str(out)])  # fmt: skip
    assert code == 0
    page = report(Run(out))
    assert page.section("latent").find("svg", "scatter")
    assert "has 1 such test image" in page.section("latent").text


def test_discrete_codes_without_their_model_miss_the_model(run: Run) -> None:
    codes = {**evidence(), "codes": torch.zeros(64, 49, dtype=torch.int32)}
    run.write_done(row("vea", data=ABOUT, cell="a"), {"w": torch.zeros(1)}, [], codes, {}, "")
    run.write_scores("a", row().scoring, {}, {})
    text = report(run).section("latent").text
    assert "no variant called 'vea': it isn't installed" in text
    assert "id you mean" not in text  # a guess at another name is no reason
    assert "there is no plane" not in text


def test_reasons_tell_no_paths(tmp_path: Path) -> None:
    from bench.show.report.exhibit import attempt

    assert attempt(open, tmp_path / "gone").missing == "FileNotFoundError: No such file or directory"
    run = Run(tmp_path / "run")
    run.create(RunRequest(("nobody",)))
    loop = run.cells / "a" / "done" / "cell.json"
    loop.parent.mkdir(parents=True)
    loop.symlink_to(loop)
    found = run.row("a")
    assert found is not None
    assert found.reason == "cells/a/done/cell.json is a link, where a file belongs"
    page = report(run)
    assert "damaged" in page.section("failures").text
    assert str(tmp_path) not in page.html


def test_the_verb_says_where_it_is(bench: Bench, run: Run, tmp_path: Path) -> None:
    keep(run, row("a", cell="a"))
    code, out, _ = bench("report", run.path)
    assert (code, out.strip()) == (0, str(run.path / REPORT))
    assert (run.path / REPORT).read_text(encoding="utf-8").startswith("<!doctype html>")
    code, _, err = bench("report", run.path, run.path)
    assert code == 2
    assert "--out" in err
    code, out, _ = bench("report", run.path, run.path, "--out", tmp_path / "both.html")
    assert (code, (tmp_path / "both.html").exists()) == (0, True)
    code, _, err = bench("report", tmp_path / "nothing")
    assert code == 4
    assert "isn't a run" in err
    for wrong, why in (("nothing.py:Mine", "there is no file"), ("vea", "--plugin vea names no file")):
        code, out, err = bench("report", run.path, "--plugin", wrong)
        assert (code, out) == (2, "")
        assert why in err
    code, _, err = bench("report", run.path, "--metrics", "elbow")
    assert code == 2
    assert "elbo" in err


def test_the_verb_completes_runs_and_metrics(run: Run) -> None:
    import click

    from bench.cli.verbs.report import report as verb

    found = {p.name: [i.value for i in p.shell_complete(click.Context(verb), begun)]
             for p, begun in zip(verb.params, (str(run.path), "", "elb"), strict=False)}  # fmt: skip
    assert found["runs"] == [str(run.path)]
    assert "elbo" in found["metrics"]


# the command that repeats a run


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest(),
        RunRequest(("vae", "beta[beta=1|4]"), ("fashion", "mnist"), (0, 1, 2), steps=300, threads=1, jobs=2),
        RunRequest(("./my file.py:Mine",), seeds=(3, 1, 8), set=("*.latent_dim=8", "beta.beta=10"), baseline=False),
        RunRequest(epochs=2.5, sanity=False, metrics=("-fd", "+kl"), eval_split="validation", validation=50),
        RunRequest(batch_size=64, likelihood="gaussian", backbone="conv", limit=500, image_size=32, timeout=90.0),
        RunRequest(timeout=30 * 86400.0, epochs=12.345678, gpus_per_cell=0.25, checkpoint=1234567.0),
        RunRequest(stack_seeds=True, compile=True, precision="bf16", inception_precision="bf16", nll_samples=1000),
    ],
)
def test_the_command_asks_for_the_same(request_: RunRequest) -> None:
    import shlex

    from bench.cli.verbs.run import _settle, run

    words = shlex.split(provenance.command(request_))
    assert words[:2] == ["bench", "run"]
    with run.make_context("run", words[2:]) as context:
        settings = {
            k: tuple(v) if isinstance(v, list) else v for k, v in _settle(context, dict(context.params)).items()
        }
    assert RunRequest(**settings) == request_


def test_what_no_option_says_is_left_to_the_file() -> None:
    assert provenance.command(RunRequest(seeds=(7,))) == "bench run --config run.json"
    assert provenance.command(RunRequest(profile=True, logger=("mlflow",), force=True)) == "bench run"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("/home/me/x.py:Mine", "./x.py:Mine"),
        ("~/my models/x.py:Mine[a=3]", "./x.py:Mine[a=3]"),
        ("C:\\Users\\me\\x.py:Mine", "./x.py:Mine"),
        ("vae[backbone=mlp|/home/me/nets.py:Net]", "vae[backbone=mlp|./nets.py:Net]"),
        ("vae,/home/me/x.py:Mine,/a/y.py:B", "vae,./x.py:Mine,./y.py:B"),
        ("./x.py:Mine", "./x.py:Mine"),
        ("beta[beta=1|4]", "beta[beta=1|4]"),
    ],
)
def test_code_is_told_by_its_files_name_alone(setting: str, told: str) -> None:
    assert provenance.portable(setting) == told


def test_a_report_tells_no_paths_of_the_machine(run: Run) -> None:
    run.create(RunRequest(("vae",), data_root="/home/somebody/data", address="10.0.0.1", out=str(run.path)))
    keep(run, row("vae", cell="a"))
    text = report(run).html
    assert "/home/somebody" not in text
    assert "10.0.0.1" not in text
    assert str(run.path) not in text


# pictures


def unpacked(made: sheet.Picture) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(made.src.split(",")[1]))).convert("RGB"))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 9)])
def test_a_sheet_holds_its_images_to_the_bit(shape: tuple[int, int, int]) -> None:
    found = images(7, shape)
    pixels, (_, h, w) = unpacked(sheet.sheet(found, 3, "")), shape
    assert pixels.shape[:2] == (3 * (h + 1) - 1, 3 * (w + 1) - 1)
    for i, image in enumerate(found):
        top, left = i // 3 * (h + 1), i % 3 * (w + 1)
        expected = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
        assert (pixels[top : top + h, left : left + w] == expected).all()


def test_error_maps_go_from_white_to_red() -> None:
    originals = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    reconstructions = torch.tensor([[[[0, 255, 64]]]], dtype=torch.uint8)
    (found,) = sheet.error_maps(originals, reconstructions)
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 0, 1].tolist() == [150, 0, 24]
    half = 1 - 64 / 255 / 0.5
    assert found[0, 0, 2] == round(255 * half + 150 * (1 - half))


def test_ridges_compare_with_real_images() -> None:
    real = images(64)
    flat = (real.float() * 0.5).to(torch.uint8)
    (first, second), _ = sharpness.ridges(
        [sharpness.ImageSet("real", "ca", real), sharpness.ImageSet("b", "c0", flat)], "real"
    )
    assert first.ratio == "1.00"
    assert float(second.ratio) == pytest.approx(0.25, abs=0.01)


def test_ridges_of_equal_names_keep_their_own_numbers() -> None:
    real = images(64)
    flat, small = (real.float() * 0.5).to(torch.uint8), images(9, (1, 2, 2))
    sets = [("real", real), ("vae", flat), ("vae", real), ("vae", images(9, (1, 9, 9))), ("vae", small)]
    found, _ = sharpness.ridges([sharpness.ImageSet(label, "c0", pixels) for label, pixels in sets], "real")
    assert [r.ratio for r in found] == ["1.00", "0.25", "1.00", ""]  # another size doesn't compare, 2 x 2 has none


def test_labels_of_two_runs_are_told_apart(tmp_path: Path) -> None:
    runs = []
    for name, steps in (("short", 10), ("long", 4690)):
        run = Run(tmp_path / name)
        run.create(RunRequest(("nobody",)))
        keep(run, row("nobody", steps=(steps,), training={"steps": steps}, cell="a"))
        runs.append(run)
    names = {e.text for e in report(*runs).section("images").find("span", "who")}
    assert names - {"real images", "originals"} == {"nobody (short, 10 steps)", "nobody (long, 4690 steps)"}


def test_a_label_stands_beside_the_images_that_it_was_scored_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run was scored on the test split, another one on validation images."""
    from bench.data import load
    from bench.show.report import chapter

    digests, given, runs = {}, {}, []
    studio = chapter.studio

    def noted(exhibit: Any, data: Any, *more: Any) -> Any:
        given[exhibit.label] = data.test.digest
        return studio(exhibit, data, *more)

    monkeypatch.setattr(chapter, "studio", noted)
    for split, held in (("test", 0), ("validation", 100)):
        data = load("digits", tmp_path, validation=held, split=split)
        digests[split], about = data.test.digest, {**DATA, "test": data.test.digest}
        run = Run(tmp_path / split)
        run.create(RunRequest(("nobody",), ("digits",)))
        how = {"training": {**TRAINING, "validation": held}, "scoring": {**SCORING, "split": split}}
        keep(run, row(split, dataset="digits", data=about, cell=split, **how), shape=(1, 8, 8))
        runs.append(run)
    films = report(*runs).section("images").find("div", "films")[0].find("figure")
    assert given == digests
    told = {f.find("span", "who")[0].text: f for f in films}
    assert sorted(told) == ["originals", "test", "validation"]
    assert "above their errors" in told["test"].find("img")[0].attributes["alt"]
    assert "errors" not in told["validation"].find("img")[0].attributes["alt"]
    assert "of other images" in told["validation"].text
    assert "of other images" not in told["test"].text


# curves


def test_a_curve_is_a_mean_and_a_band_over_seeds(run: Run) -> None:
    for seed in (0, 1, 2):
        history = [{"stage": 0.0, "step": float(s), "loss": s + seed**2} for s in (1, 2, 3)]
        keep(run, row("a", seed, steps=(2, 1), cell=f"a{seed}"), history)
    rows = run.rows()
    (line,) = summary(rows)[0].lines
    from bench.show.report.exhibit import exhibits

    run_of = {id(r): run for r in rows}
    (exhibit,) = exhibits([line], run_of, "x")
    found = curves.curves(exhibit, run_of)["loss"]
    assert found.steps == (1, 2, 3)
    assert found.mean == pytest.approx([1 + 5 / 3, 2 + 5 / 3, 3 + 5 / 3])
    assert (found.low, found.high) == ((1, 2, 3), (5, 6, 7))
    assert found.stages == (2,)


def test_a_curve_is_drawn_from_its_first_settled_step_to_the_end_of_its_axis(run: Run) -> None:
    keep(run, row("a", steps=(290,), cell="a"))
    panels = {f.find("figcaption")[0].text.split()[0]: f for f in report(run).section("training").find("figure")}
    assert sorted(panels) == ["loss", "rec"]
    assert "reconstruction" in panels["rec"].find("figcaption")[0].text
    for panel in panels.values():
        (line,) = panel.find("path", "curve")
        right = max(
            float(spot.split()[0]) for p in panel.find("path", "axis") for spot in p.attributes["d"][1:].split("L")
        )
        assert line.find("title")[0].text == "a"
        spots = line.attributes["d"][1:].split("L")
        assert len(spots) == 27  # of 29 steps, those of the first 5 % are left out
        assert float(spots[-1].split()[0]) == right


def test_labels_keep_apart() -> None:
    found = spread_out([50, 51, 52, 10, 99], 14, 0, 100)
    assert found.index(min(found)) == 3
    places = sorted(found)
    assert min(b - a for a, b in pairwise(places)) >= 14 - 1e-9
    assert places[0] >= 0
    assert places[-1] <= 100
    assert spread_out([10.0, 90.0], 14, 0, 100) == [10, 90]


def test_a_logarithm_has_its_decades_where_they_belong() -> None:
    scale = Scale.over([0.01, 100.0], 0.0, 100.0, log=True, pad=0.0)
    assert scale(1.0) == pytest.approx(50.0)
    assert [value for value, _ in scale.ticks(5)] == pytest.approx([0.01, 0.1, 1, 10, 100])


# codes


def test_two_dimensions_are_their_own_axes() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 0.0]])
    found = code_plane(z, torch.zeros(3))
    assert torch.equal(found.at, z)
    assert found.axes == ("z[0]", "z[1]")  # as traversals and bars call them
    lattice, rows = found.lattice(5)
    assert (len(lattice), rows) == (25, 5)
    assert lattice[0, 0] < lattice[4, 0]  # to the right
    assert lattice[0, 1] > lattice[-1, 1]  # upwards


def test_more_dimensions_are_principal_components() -> None:
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(300, 6, generator=generator) * torch.tensor([3.0, 0.1, 2.0, 0.5, 0.3, 0.2]) + 5
    found, reference = code_plane(z, torch.zeros(300)), PCA(2).fit(z.double().numpy())
    theirs = torch.from_numpy(reference.transform(z.double().numpy())).float()
    signs = (found.at * theirs).sum(0).sign()
    assert torch.allclose(found.at, theirs * signs, atol=1e-4)
    assert f"{reference.explained_variance_ratio_[0]:.0%}" in found.axes[0]
    lattice, _ = found.lattice(7)
    back = (lattice - found.centre) @ found.basis.T  # what is decoded lies where it's drawn
    assert torch.allclose(found.centre + back @ found.basis, lattice, atol=1e-5)
    assert back[0, 0] == pytest.approx(found.u[0] + (found.u[1] - found.u[0]) / 14, abs=1e-4)
    assert back[0, 1] == pytest.approx(found.v[1] - (found.v[1] - found.v[0]) / 14, abs=1e-4)


def test_one_dimension_is_a_line() -> None:
    z = torch.linspace(-2, 2, 50)[:, None]
    found = code_plane(z, torch.arange(50) % 5)
    lattice, rows = found.lattice(20)
    assert (found.flat, rows, tuple(lattice.shape)) == (True, 1, (20, 1))
    assert bool((lattice[1:] > lattice[:-1]).all())
    assert torch.equal(found.at[:, 0], z[:, 0])


@pytest.mark.parametrize("z", [torch.zeros(1, 4), torch.ones(9, 3), torch.zeros(5, 2)])
def test_codes_without_spread_have_a_plane(z: Tensor) -> None:
    found = code_plane(z, torch.zeros(len(z)))
    assert bool(found.lattice(4)[0].isfinite().all())
    assert scatter(found, "").count('class="dots') == 1


def test_discrete_and_broken_codes_have_none() -> None:
    for z in (torch.zeros(3, 4, dtype=torch.long), torch.full((3, 2), torch.nan)):
        with pytest.raises(NotAvailable):
            code_plane(z, torch.zeros(3))


def test_bars_are_called_as_axes_and_traversals_are(short_page: Page) -> None:
    names: dict[str, set[str]] = {}
    for article in short_page.section("latent").find("article"):
        titles = [t.text.split(":")[0] for svg in article.find("svg", "bars") for t in svg.find("title")]
        names[article.find("h3")[0].text.split()[0]] = {re.sub(r"\d+", "N", title) for title in titles}
    assert names["vqvae"] == {"code N"}
    assert names["cvae"] == {"z[N]"}


def test_the_decoded_plane_is_the_models_own(short: Run, short_page: Page) -> None:
    """The tile under the pointer is what the model decodes there."""
    import bench as api
    from bench.contracts.images import to_uint8

    cell = next(row.cell for row in short.rows() if row.label == "vae[latent_dim=2]")
    explorer = next(
        a.find("div", "explorer")[0]
        for a in short_page.section("latent").find("article")
        if "latent_dim=2" in a.find("h3")[0].text
    )
    tiles = explorer.find("img", "tiles")[0]
    pixels = np.asarray(Image.open(BytesIO(b64decode(tiles.attributes["src"].split(",")[1]))).convert("L"))
    columns, rows = (int(explorer.attributes[f"data-{name}"]) for name in ("columns", "rows"))
    u0, u1, v0, v1 = (float(explorer.attributes[f"data-{name}"]) for name in ("u0", "u1", "v0", "v1"))
    column, line = 3, 16
    z = torch.tensor([[u0 + (column + 0.5) / columns * (u1 - u0), v1 - (line + 0.5) / rows * (v1 - v0)]])
    model: Any = api.load(short.cells / cell)
    with torch.inference_mode():
        expected = to_uint8(model.decode(z, torch.zeros(1, dtype=torch.long)))[0, 0].numpy().astype(int)
    found = pixels[line * 8 : line * 8 + 8, column * 8 : column * 8 + 8].astype(int)
    assert abs(found - expected).max() <= 1


def test_what_a_model_lacks_is_told_by_ability(short_page: Page) -> None:
    articles = {a.find("h3")[0].text.split(" ")[0].strip(): a for a in short_page.section("latent").find("article")}
    assert "it has no encoder" in articles["gan"].text
    assert "perplexity" in articles["vqvae"].text
    assert articles["cvae"].find("div", "explorer")
    classes = list(short_page.section("images").find("figure", "by-class"))
    assert [f.find("figcaption")[0].text.strip() for f in classes] == ["cvae"]
    assert [li.text for li in classes[0].find("li")] == list("0123456789")


def test_large_colour_images_stay_within_what_can_be_mailed(run: Run) -> None:
    """Eight labels, three seeds, 64 x 64 colour: noise, which nothing compresses, with sheets that models would add."""
    for i in range(8):
        keep(run, row(f"v{i}", cell=f"v{i}-0"), shape=(3, 64, 64), n=36)
        for seed in (1, 2):  # of which no image is shown
            keep(run, row(f"v{i}", seed, cell=f"v{i}-{seed}"), n=4)
    size = len(report(run).html)
    noise = images(14 * 14, (3, 64, 64))
    drawn = [sheet.sheet(noise, 14, "", gap=0), sheet.sheet(noise[:44], 11, ""), sheet.sheet(noise[:42], 7, "")]
    assert size + 8 * sum(len(made.src) for made in drawn) < 15e6


def test_of_many_labels_some_have_pictures_and_the_page_says_so(run: Run) -> None:
    for i in range(30):
        keep(run, row(f"v[a={i}]", scores={"elbo": -90.0 - i}, cell=f"v{i}"), n=4)
    keep(run, row("gan", baseline=True, cell="gan"), n=4)
    page = report(run)
    shown = [a.find("h3")[0].text for a in page.section("latent").find("article")]
    assert len(shown) == 24
    assert "gan" in shown[-1]
    for name in ("images", "training", "latent"):
        assert "7 more labels" in page.section(name).text
    assert len(page.section("summary").find("table", "ranking")[0].find("tr")) == 31 + 3  # head, blocks, and all labels


def test_of_many_reference_rows_as_many_are_shown(run: Run) -> None:
    for i in range(26):
        keep(run, row(f"g[a={i}]", baseline=True, cell=f"g{i}"), n=4)
    for i in range(5):
        keep(run, row(f"v[a={i}]", cell=f"v{i}"), n=4)
    page = report(run)
    assert len(page.section("latent").find("article")) == 24
    assert "7 more labels" in page.section("latent").text


# light and dark


def test_classes_have_the_colours_of_the_other_pictures() -> None:
    css = (files("bench.show.report") / "page" / "page.css").read_text(encoding="utf-8")
    assert re.findall(r"\.k\d, \.k1\d \{ color: (#\w+); \}", css) == list(CLASSES)


def luminance(colour: str) -> float:
    text = colour.lstrip("#")
    text = "".join(2 * c for c in text) if len(text) == 3 else text
    parts = [int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_light_and_in_dark() -> None:
    """WCAG 2.1: 4.5 for text, 3 for what is drawn."""
    css = (files("bench.show.report") / "page" / "page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for name in ("ink", "soft", "accent", "alarm", *(f"c{i}" for i in range(8))):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        assert contrast(colours["ca"], colours["paper"]) >= 3
        assert contrast(colours["soft"], colours["wash"]) >= 4.5
