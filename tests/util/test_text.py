"""Text that others chose: whatever it holds, no terminal obeys it and no page takes it for markup, in any renderer."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from rich.console import Console as RichConsole

from bench.cli import completion
from bench.contracts.events import CellEnded, CellStarted, Event, Preparing, RunStarted, Scoring, Step
from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.garbage import Removed
from bench.results.store import Run
from bench.running.planning import plan
from bench.show import console, progress
from bench.show.notebook import Results
from bench.tables import frames
from bench.util.durable import parsed
from bench.util.errors import BenchError, NotAvailable, StoreError
from bench.util.text import escape_markdown, inert, json_text, plain
from tests.conftest import Bench
from tests.example_rows import failed, row

CONTROLS = "\x1b[31mred\x1b]0;title\x07\r\x08\x9b2J\u202eflip\u2066\u200b\U000e0041\ud800\ufeff"
MARKUP = "[bold]mark[/bold] [link=http://x]y[/link] :smile: <script>alert(1)</script> [z](http://z) `t` a|b"
EVIL = f"{CONTROLS} {MARKUP}"
WRITTEN = EVIL.replace("\ud800", "")  # as UTF-8
HARMFUL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


# the function


@pytest.mark.parametrize(
    "text", ["beta[beta=4]", "β-VAE 漢字 é", "−1 × 3 ± 2", "\N{WOMAN}\u200d\N{ROCKET}", "a\xa0b", ""]
)
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert plain(text) == text
    assert inert({text: [text, (1, None, text)]}) == {text: [text, (1, None, text)]}


def test_every_harmful_letter_is_shown_by_its_number() -> None:
    assert plain("a\x1b[0m\u202eb\x9b\ud800") == r"a\x1b[0m\u202eb\x9b\ud800"
    assert plain("a\nb\tc\rd\r\ne") == "a b c d e"
    assert plain("a\r\nb\rc\td", lines=True) == "a\nb\nc\td"
    for code in [*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xE0041]:
        assert not HARMFUL.search(plain(chr(code)))
        assert not HARMFUL.search(plain(chr(code), lines=True).replace("\t", ""))
        document = json.dumps({"a": f"a{chr(code)}"}, ensure_ascii=0xD800 <= code < 0xE000).encode()
        assert not HARMFUL.search(parsed("x.json", document)["a"])
        assert not HARMFUL.search(parsed("x.json", json.dumps({"a": chr(code)}).encode())["a"])


def test_what_holds_nothing_harmful_is_the_same_object() -> None:
    document = {"a": [1.5, {"b": "c"}], "d": float("nan")}
    assert inert(document) is document


def test_json_says_the_same_and_is_harmless() -> None:
    shown = json_text(json.dumps({EVIL: [EVIL]}, indent=1, ensure_ascii=False))
    assert not HARMFUL.search(shown)
    assert json.loads(shown) == {EVIL: [EVIL]}


@pytest.mark.parametrize(
    "text",
    ["<script>", "[a](http://b)", "![a](b)", "`x`", "a|b", "**x**", "# h", "- x", "1. x", "&lt;", "[x]: y", "__x__"],
)
def test_markdown_takes_no_text_for_markup(text: str) -> None:
    html = _as_html(escape_markdown(text))
    assert html == text


def _as_html(text: str) -> str:
    """What CommonMark prints of a line in which every sign that it could obey has a backslash."""
    assert not re.search(r"(?<!\\)(?:<|`|\*|\||\]\()|^(?:#|-|\d+\.|\[)", text)
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", text)


# a folder from a stranger


@contextmanager
def doors_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if another program wrote the folder: what is kept of a row is what it was given."""
    with monkeypatch.context() as patch:
        for name in ("bench.contracts.row.settle", "bench.contracts.measurement.plain", "bench.util.errors.plain"):
            patch.setattr(name, lambda text, **_: text)
        yield


def kept(label: str, seed: int, bound: float, **changes: Any) -> Row:
    scores = {"elbo": Score(bound, 100, 0.5, EVIL), "kl": Score(3.0, 100), f"own{EVIL}": NotAvailable(EVIL)}
    about = {"device": EVIL, "device_name": EVIL, "torch": EVIL, "python": EVIL, "vaebench": EVIL, "ended": EVIL}
    values: dict[str, Any] = {
        "dataset": f"data{EVIL}",
        "scores": scores,
        "provenance": {**about, "threads": 1},
        "likelihood": f"likely{EVIL}",
        "hyperparameters": {"backbone": EVIL, "latent_dim": 3, EVIL: EVIL},
        "plugin": {"distribution": EVIL, "version": EVIL},
        "training": {"steps": 5, "optimizer": EVIL, "batch_size": 1 + (label == "two")},
        "cell": f"{label}-s{seed}",
    }
    return row(f"{label}{EVIL}", seed, **values | changes)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Every text that a stranger may choose is hostile, and all sums are right."""
    run = Run(tmp_path / "theirs")
    with doors_open(monkeypatch):
        run.create(RunRequest(variants=(f"vae[note={EVIL}]",), datasets=(f"data{EVIL}",), seeds=(0, 1)))
        for i, label in enumerate(("one", "two")):
            for seed in range(2):
                made = kept(label, seed, -90.0 - i - seed / 3)
                evidence = {"rate": torch.full((4,), 9.0 + i), "distortion": torch.full((4,), 80.0 + i)}
                history = [{"stage": 0.0, "step": float(s), WRITTEN: 1.0 + s} for s in range(4)]
                run.write_done(made, {"w": torch.zeros(2)}, history, evidence, {}, WRITTEN)
                run.write_scores(made.cell, made.scoring, made.scores, {f"own{EVIL}": 1.5})
        for seed in range(2):
            made = failed(f"one{EVIL}", seed + 2, reason=EVIL, dataset=f"data{EVIL}", cell=f"one-s{seed + 2}")
            run.write_failed(made, WRITTEN)
    (run.cells / "one-s0" / "lease.json").write_text(json.dumps({"host": EVIL, "pid": 1}))
    return run


def harmless(text: str, *, markup: bool = True) -> None:
    assert (found := HARMFUL.search(text)) is None, ascii(text[found.start() - 60 : found.end() + 20])
    if markup:
        assert "red" in text, "it tells of the rows"


ARGUMENTS: dict[str, tuple[str, ...]] = {
    "table": ("table", "RUN"),
    "all columns": ("table", "RUN", "--all"),
    "csv": ("table", "RUN", "--format", "csv"),
    "latex": ("table", "RUN", "--format", "latex"),
    "md": ("table", "RUN", "--format", "md"),
    "json": ("table", "RUN", "--json"),
    "methods": ("table", "RUN", "--methods"),
    "methods, json": ("table", "RUN", "--methods", "--json"),
    "costs": ("table", "RUN", "--costs"),
    "costs, md": ("table", "RUN", "--costs", "--format", "md"),
    "costs, json": ("table", "RUN", "--costs", "--json"),
    "compare": ("compare", "RUN", "RUN", "--all"),
    "compare, json": ("compare", "RUN", "RUN", "--json"),
    "pareto": ("pareto", "RUN"),
    "pareto, json": ("pareto", "RUN", "--json"),
    "why": ("verify", "--why", "RUN/cells/one-s0"),
    "why, json": ("verify", "--why", "RUN/cells/one-s0", "--json"),
    "why a failure": ("verify", "--why", "RUN/cells/one-s2"),
    "report": ("report", "RUN"),
    "verify": ("verify", "RUN"),
    "score": ("sample", "RUN:one"),
    "no such label": ("compare", "RUN", "--between", f"{EVIL.replace(',', '')},x"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.fault(34, "ESC, OSC, CR, BEL, U+202E in every text of a folder", "shown by its number in all verbs")
def test_no_verb_writes_a_strangers_text_to_the_terminal(name: str, run: Run, bench: Bench) -> None:
    _, out, err = bench(*(text.replace("RUN", str(run.path)) for text in ARGUMENTS[name]))
    harmless(out, markup=False)
    harmless(err, markup=False)
    assert "unexpected" not in err
    for path in (run.path / "report.html", run.path / "rate-distortion.svg"):
        if path.exists():
            harmless(path.read_text(encoding="utf-8").replace("\t", ""))


@pytest.mark.parametrize("name", ["table", "csv", "latex", "md", "json", "methods", "compare", "pareto", "why"])
def test_the_text_is_still_told(name: str, run: Run, bench: Bench) -> None:
    code, out, _ = bench(*(text.replace("RUN", str(run.path)) for text in ARGUMENTS[name]))
    assert code == 0
    squeezed = "".join(out.split()).replace("\\textbackslash{}", "\\").replace("\\\\", "\\")
    assert "\\x1b[31mred\\x1b]0;title\\x07" in squeezed
    if name in ("table", "methods", "compare", "pareto", "why"):  # where rich prints, or plain text is meant
        assert "[bold]mark[/bold]" in squeezed
        assert ":smile:" in squeezed


@pytest.mark.fault(34, "<script>, links, code and | in a label", "text in Markdown")
def test_markdown_has_no_tag_and_no_link_of_a_row(run: Run, bench: Bench) -> None:
    frames.write(run.path, run.rows())
    made = [bench("table", run.path, "--format", "md")[1], bench("table", run.path, "--costs", "--format", "md")[1]]
    for text in (*made, (run.path / "table.md").read_text(encoding="utf-8")):
        harmless(text)
        assert not re.search(r"(?<!\\)<(?!br>)|(?<!\\)\]\(|(?<!\\)`", text)
        heads = [line for line in text.splitlines() if line.startswith("| :--")]
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| one")}
        assert widths <= {head.count("|") for head in heads}, "no text has a cell of its own"
    for path in (run.path / "table.csv", run.path / "costs.csv"):
        harmless(path.read_text(encoding="utf-8"))


def test_a_table_without_its_run_is_read_by_the_same_door(run: Run, bench: Bench, tmp_path: Path) -> None:
    document = frames.records(run.rows())
    hostile = json.loads(json.dumps(document).replace("one\\\\x1b", "one\\u001b").replace("data\\\\x1b", "data\\u009b"))
    assert HARMFUL.search(hostile[0]["label"])
    (tmp_path / "table.json").write_text(json.dumps(hostile))
    for arguments in (("table",), ("table", "--methods"), ("table", "--format", "md"), ("pareto",)):
        code, out, _ = bench(arguments[0], tmp_path / "table.json", *arguments[1:])
        assert code == 0
        harmless(out)


def test_what_notebooks_show_is_harmless(run: Run) -> None:
    html = Results.of(run.rows(), str(run.path))._repr_html_()
    harmless(html)
    assert "<script" not in html


def test_rows_scores_events_and_errors_are_plain_however_they_are_made() -> None:
    made = row(EVIL, reason=EVIL, provenance={"x": [EVIL]}, scores={EVIL: Score(1.0, 1, None, EVIL)})
    texts = [made.label, made.reason, made.provenance["x"][0], *made.scores, str(made.scores[plain(EVIL)])]
    texts += [replace(made, label=EVIL).label, str(NotAvailable(EVIL)), NotAvailable(EVIL).reason]
    texts += [
        CellStarted("c", EVIL, EVIL, 0, (1,)).label,
        *Step("c", 1, 0, {EVIL: 1.0}).terms,
        Scoring("c", EVIL).metric,
    ]
    error = BenchError(EVIL, cause=EVIL, fix=f"{EVIL}\nnext")
    for text in (*texts, error.what, error.cause, error.line, str(error)):
        harmless(text)
    assert error.fix.endswith("\nnext")
    assert row("β 漢字").label == "β 漢字"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_live_display_obeys_no_event(terminal: bool) -> None:
    made = RichConsole(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    ended = row(EVIL, reason=EVIL, status="failed", cell="c")
    events: list[Event] = [
        Preparing(EVIL),
        RunStarted(1, 100, f"results/{CONTROLS}", (EVIL,)),
        CellStarted("c", EVIL, EVIL, 0, (100,)),
        *(Step("c", n, 0, {EVIL: 1.0}) for n in (30, 60, 90)),
        Scoring("c", EVIL, 70.0),
        CellEnded("c", ended),
    ]
    with progress.Console(made) as display:
        for event in events:
            display(event)
        display.warn(EVIL)
    console.print_error(BenchError(EVIL, cause=EVIL), made)
    assert isinstance(made.file, io.StringIO)
    text = made.file.getvalue()
    assert terminal or "\x1b" not in text
    own = re.sub(r"\x1b\[\??\d*[A-Zhl]|\r", "", text)  # rich moves the cursor and hides it
    harmless(own)
    assert "[bold]mark[/bold]" in own
    assert ":smile:" in own


def test_a_shell_is_offered_no_name_that_it_would_obey(tmp_path: Path) -> None:
    (tmp_path / "cells" / "fine").mkdir(parents=True)
    (tmp_path / "cells" / "od\x1b[31md").mkdir()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "table.csv").write_text(f"label\nvae\n{'x' + chr(27)}\n")
    context, parameter = click.Context(click.Command("x")), click.Argument(["cell"])
    found = [
        item.value for typed in (f"{tmp_path}/", f"{tmp_path}:") for item in completion.cells(context, parameter, typed)
    ]
    assert [name.rpartition("/")[2].rpartition(":")[2] for name in found] == ["fine", "vae"]


def test_names_of_folders_are_lines_of_text(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    run.create(RunRequest())
    monkeypatch.setattr("bench.results.garbage.collect", lambda *_, **__: [Removed(Path(f"cells/{CONTROLS}"), 3)])
    (run.cells / "x\x1b[31m").mkdir()
    (run.cells / "y\x1b[31m").mkdir()
    for arguments in (
        ("gc", run.path),
        ("verify", "--why", run.path),
        ("verify", run.path),
        ("table", run.path / "x\x1b[0m"),
    ):
        _, out, err = bench(*arguments)
        harmless(out + err, markup=False)
        assert out + err


@pytest.mark.parametrize("field", ["datasets", "variants", "set"])
def test_a_request_with_such_letters_is_refused_with_the_way_out(field: str, tmp_path: Path, bench: Bench) -> None:
    with pytest.raises(BenchError) as error:
        plan(RunRequest(**{"datasets": ("digits",), field: (f"folder:{tmp_path}/a\x1bb",)}))
    assert "\\x1b" in error.value.what
    assert "ln -s" in error.value.fix


def test_a_document_that_cannot_be_read_is_told_harmlessly(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "run.json").write_text(json.dumps({CONTROLS: 1}))
    for read in (Run(tmp_path).request, lambda: frames.read(tmp_path / "run.json")):
        with pytest.raises(BenchError) as error:
            read()
        harmless(str(error.value), markup=False)
    assert isinstance(error.value, StoreError)


READERS: dict[str, Callable[[Run], Any]] = {
    "request": lambda run: run.request().to_json(),
    "rows": lambda run: [vars(row) | {"scores": {k: str(v) for k, v in row.scores.items()}} for row in run.rows()],
    "scorings": lambda run: list(run.scorings("one-s0").values()),
}


@pytest.mark.parametrize("name", READERS)
def test_what_a_store_reads_is_plain(name: str, run: Run) -> None:
    found = READERS[name](run)
    assert inert(found) is found
