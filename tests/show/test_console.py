"""What a terminal shows, and what a file or a pipe gets."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console as RichConsole
from scipy import stats

from bench.contracts.events import CellEnded, CellStarted, Event, RunEnded, RunStarted, Scoring, Step, Stopping
from bench.show import console, progress
from bench.tables.columns import layout
from bench.tables.compare import compare
from bench.tables.summary import NOT_RANKED
from bench.util.errors import UsageError
from tests import golden
from tests.example_rows import bound, failed, loss, many, rate, register, row


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def screen(width: int = 100, **options: Any) -> RichConsole:
    return RichConsole(file=io.StringIO(), width=width, highlight=False, markup=False, **options)


def text(made: RichConsole) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def shown(
    rows: list,
    width: int = 100,
    runs: Sequence[str] = ("results/x",),
    names: Sequence[str] = (),
    *,
    notes: bool = False,
    **options: Any,
) -> str:
    made = screen(width, **options)
    console.summary(rows, runs, made, names, notes=notes)
    return text(made)


def rows_of(out: str) -> list[str]:
    """The printed lines between the caption and the blank line below the table."""
    return out.split("\n\n")[1].splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("names", [(), ("all",), ("+mmd", "-fd")])
def test_nine_variants_and_twenty_metrics_fit(width: int, seeds: int, names: tuple[str, ...]) -> None:
    made = screen(width)
    console.summary(many(seeds), [], made, names, notes=True)
    out = text(made)
    assert max(map(len, out.splitlines())) <= width
    squeezed = "".join(out.split())
    for name in ("elbo\u00a0↑", "vqvae", "cvae") + (("perplexity",) if names == ("all",) else ()):
        assert "".join(name.split()) in squeezed.replace("\u00a0", "")


def test_a_narrow_terminal_leaves_columns_out_in_the_declared_order_and_says_so() -> None:
    assert layout().narrow[:2] == ("train", "blur")
    heads = {width: shown(many(2), width, runs=[]) for width in (48, 60, 72, 120)}
    for width, out in heads.items():
        unwrapped = out.replace("\n  ", " ").splitlines()
        left_out = [line for line in unwrapped if line.startswith(f"not shown in {width} columns")]
        names = left_out[0].partition(": ")[2].split(", ") if left_out else []
        there = [name for name in layout().narrow if name in ("train", "bce", "kl")]  # the others have no scores
        assert names == there[: len(names)]
        assert not set(names) & set("\n".join(rows_of(out)).replace("\u00a0", " ").split())
        assert max(map(len, out.splitlines())) <= width
    lengths = [heads[width].count("─") for width in (48, 60, 72, 120)]
    assert lengths == sorted(lengths)
    assert "not shown" not in heads[120]
    assert "not shown" in heads[48]


def test_named_columns_are_never_left_out() -> None:
    out = shown(many(2), 48, names=("elbo", "bce", "kl", "fd", "train"))
    assert "not shown" not in out
    assert {"elbo", "bce", "kl", "fd", "train"} <= set(out.replace("\u00a0", " ").split())
    assert sum(set(line) == {"─"} for line in out.splitlines()) > 1


def test_a_label_that_is_too_long_is_cut_in_the_middle() -> None:
    label = "beta[beta=10,latent_dim=20,warmup=0.25,hidden=512]"
    (line,) = [line for line in shown([row(label, scores={"elbo": 1.5})], 60).splitlines() if "…" in line]
    assert line.startswith("  beta[")
    assert "512]" in line
    assert cell_len(line.partition("…")[0]) < 24
    for wide in ("漢字" * 40, "e\u0301" * 60):
        rows = [row(wide, scores={"elbo": 1.5}), row("b", scores={"elbo": 2.5})]
        for width in (40, 60, 80):
            assert max(cell_len(line) for line in rows_of(shown(rows, width))) <= width
    assert label in shown([row(label, scores={"elbo": 1.5})], 200)


def test_families_stay_together_where_a_table_is_broken() -> None:
    made = screen(100)
    console.summary(many(2), [], made, ("all",))
    heads = text(made).replace("\u00a0", " ").split("─")[0::1]
    order = [name for part in heads for name in part.split() if name in layout().families]
    place = list(layout().families)
    assert [place.index(name) for name in dict.fromkeys(order)] == sorted(place.index(name) for name in set(order))


def test_ties_are_marked_and_explained() -> None:
    of = {"a": (1.0, 2.3, 1.6), "b": (0.9, 2.4, 1.3)}
    rows = [row(label, s, scores={"elbo": v}) for label, values in of.items() for s, v in enumerate(values)]
    found = [line.split()[1][-1] for line in rows_of(shown(rows)) if line.startswith(("  a ", "  b "))]
    assert found == ["*", "~"]
    assert "~ ties with it" in shown(rows)


def test_a_label_with_brackets_is_no_markup() -> None:
    assert "beta[red]" in shown([row("beta[red]", scores={"elbo": 1.5})])


def test_wide_tables_are_stacked_and_each_has_every_line() -> None:
    out = shown(many(2), 80, names=("all",)).splitlines()
    tables = sum(set(line) == {"─"} for line in out)
    assert tables > 1
    assert sum(line.startswith("  vqvae ") for line in out) == tables


def test_what_is_missing_is_a_dash_and_notes_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate)
    rows = [row("a", scores={"bound": 1.5, "loss": "no loss here"}), row("b", scores={"loss": 2.5, "rate": "no rate"})]
    out = shown(rows)
    assert "no loss here" not in out
    assert "– n/a (see notes)" in out
    assert any(line.split() == ["a", "1.50", "–"] for line in out.splitlines())
    full = shown(rows, notes=True)
    assert "loss: n/a (no loss here): a" in full
    assert "rate" not in full.split("─")[0], "nobody has it"


def test_marks_survive_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound)
    out = shown([row("a", scores={"bound": 1.5}), row("b", scores={"bound": 2.5})])
    assert "2.50*" in out
    assert "1.50*" not in out
    assert "\x1b" not in out


def test_one_seed_labels_and_references_are_called_what_they_are() -> None:
    out = shown(many(1), 200)
    assert "one seed" in out
    assert "uses labels" in out
    assert NOT_RANKED in out


def test_a_run_in_which_everything_failed_still_shows_why() -> None:
    out = shown([failed(reason="non-finite loss at step 3"), failed("beta", status="skipped", reason="no labels")])
    assert "non-finite loss at step 3" in out
    assert "no labels" in out
    assert "  vae" in out


def test_the_last_line_says_how_to_see_more(tmp_path: Path) -> None:
    rows, folder = many(1), str(tmp_path)
    both = f"more columns and notes: bench table {folder} --all --notes · pictures: bench report {folder}"
    assert both in shown(rows, 400, runs=[folder])
    assert both.split(" · ") == shown(rows, 60, runs=[folder]).splitlines()[-2:], "whole commands, to be copied"
    assert "pictures" not in shown(rows, 400, runs=[folder, folder])
    assert "--notes" not in shown(rows, 400, runs=["x.json"], notes=True).split(NOT_RANKED)[-1].splitlines()[-1]
    assert shown([]).split() == ["more", "columns", "and", "notes:", "bench", "table", "results/x", "--all", "--notes"]


@pytest.mark.parametrize("name", golden.TABLES)
@pytest.mark.parametrize("width", golden.WIDTHS)
def test_tables_are_as_recorded(name: str, width: int) -> None:
    out = golden.screen(name, width)
    recorded = golden.file(name, width).read_text(encoding="utf-8")
    assert out == recorded, "if this change is meant: python -m tests.golden"

    assert max(map(len, out.splitlines())) <= width
    assert name != "readme" or out.count("\n") <= 25


@pytest.mark.parametrize("width", [80, 140])
def test_at_most_six_lines_stand_below_a_table_with_two_warnings(width: int) -> None:
    rows = [r for r in golden.seeds() if r.label not in ("beta", "hvae")]
    below = shown(rows, width, runs=[]).rpartition("\n\n")[2].splitlines()
    assert sum(not line.startswith("  ") for line in below) <= 6
    assert sum("collapsed" in line for line in below) == 2


def test_no_color_takes_colours_away(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("a", scores={"elbo": 1.5}), row("b", scores={"elbo": 2.5})]
    assert "\x1b[1;32m" in shown(rows, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in shown(rows, force_terminal=True, color_system="standard")


def test_an_error_is_what_cause_and_fix() -> None:
    made = screen()
    console.print_error(UsageError("it [broke]", cause="because", fix="mend it"), made)
    assert text(made).splitlines() == ["error: it [broke]", "because", "mend it"]


def compared(width: int, a: list, b: list) -> str:
    made = screen(width)
    console.comparison(compare(a, b), made)
    assert max(map(len, text(made).splitlines())) <= width
    return text(made)


@pytest.mark.parametrize("width", [64, 140])
def test_a_comparison_shows_what_the_seeds_show(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate)
    noise = (0.0, 0.3, -0.2, 0.1, -0.1)
    a = [row(seed=s, scores=dict.fromkeys(("bound", "loss", "rate"), 200.5 + s)) for s in range(5)]
    b = [row(seed=s, scores=dict.fromkeys(("bound", "loss", "rate"), 201.5 + s + n)) for s, n in enumerate(noise)]
    out = compared(width, [*a, row("beta[beta=10,latent_dim=8]")], [*b, failed("beta[beta=10,latent_dim=8]")])
    marks = [line.replace("\u00a0", " ")[:5] for line in out.splitlines() if "+1.02" in line]
    assert marks == ["+ vae", "- vae", "  vae"]
    (line,) = [line for line in out.splitlines() if line.startswith("+")][:1]
    found = stats.ttest_1samp([1 + n for n in noise], 0)
    low, high = found.confidence_interval(0.95)
    assert f"+{low:.2f} … +{high:.2f}" in line
    assert f"{found.pvalue:.3f}" in line or "<0.001" in line
    assert ("202.50" in line) == (width == 140)
    assert "! beta[beta=10,latent_dim=8], seed 0: diverged in b: non-finite" in " ".join(out.split())
    assert "x not comparable, ! new failure, * fixed" in " ".join(out.split())


def test_a_comparison_of_one_seed_says_that_it_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound)
    out = compared(80, [row(scores={"bound": 1.5})], [row(scores={"bound": 2.0})])
    assert "+0.500" in out
    assert "~\u00a0vae" in out
    assert "interval" not in out
    assert "fewer than 3 cannot show" in out


@pytest.mark.parametrize(
    ("value", "width", "lines"),
    [
        ("sharpness_vs_gan", 10, ["sharpness_", "vs_gan"]),
        ("nats/image", 6, ["nats/", "image"]),
        ("fd", 1, ["fd"]),
        ("", 5, []),
    ],
)
def test_heads_break_at_joints(value: str, width: int, lines: list[str]) -> None:
    assert console.wrap(value, width) == lines


# progress

EVENTS: list[Event] = [
    RunStarted(2, 200, "results/x", ("one seed shows no spread",)),
    CellStarted("c0", "vae[x=1]", "fashion", 0, (60, 40)),
    *(Step("c0", step, 0, {"loss": 100.0 - step, "kl": 2.0}) for step in range(10, 101, 10)),
    Scoring("c0", "elbo"),
    CellEnded("c0", row("vae[x=1]")),
    CellStarted("c1", "beta", "fashion", 0, (100,)),
    CellEnded("c1", failed("beta", reason="non-finite loss at step 3")),
    RunEnded("results/x", (), 75.0),
]


def played(events: list[Event], **options: Any) -> str:
    made = screen(**options)
    with progress.Console(made) as listener:
        for event in events:
            listener(event)
    return text(made)


def test_plain_lines_are_sparse_where_there_is_no_terminal() -> None:
    out = played(EVENTS).splitlines()
    assert "\x1b" not in "".join(out)
    assert out[0] == "2 cells, 200 steps to train, in results/x"
    assert "one seed shows no spread" in out
    assert sum("step " in line and "kl 2" in line for line in out) == 3
    assert "[1/2] vae[x=1] · fashion · seed 0: 60+40 steps" in out
    assert any(line.startswith("[2/2] beta · fashion · seed 0  diverged: non-finite loss at step 3") for line in out)
    assert out[-1] == "2/2 cells in 1 min 15 s"


def test_a_terminal_gets_bars_that_leave_nothing_behind() -> None:
    out = played(EVENTS, force_terminal=True)
    assert "all cells" in out
    assert "\x1b[?25h" in out  # the cursor is back
    assert "2/2 cells in 1 min 15 s" in out


def test_cells_that_are_there_already_are_counted_not_listed() -> None:
    out = played([RunStarted(1, 0, "x"), CellEnded("c0", row(), reused=True), RunEnded("x", (), 0.2)])
    assert "seed 0" not in out
    assert "1 cell reused" in out


def test_what_failed_before_says_how_to_try_again() -> None:
    out = played([RunStarted(1, 0, "x"), CellEnded("c0", failed("b"), reused=True), RunEnded("x", (), 0.2)])
    assert "1 cell of these failed: --retry-failed" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_another_try_goes_on_where_it_was(terminal: bool) -> None:
    again = [
        RunStarted(1, 100, "x"), CellStarted("c0", "vae", "d", 0, (100,)), Step("c0", 60, 0, {"loss": 1.0}),
        CellStarted("c0", "vae", "d", 0, (100,), 50), Stopping(1), CellEnded("c0", row()), RunEnded("x", (), 0.2),
    ]  # fmt: skip
    out = played(again, force_terminal=terminal)
    assert ("vae · d" if terminal else "vae · d · seed 0") in out
    assert "stopping: writing a checkpoint of 1 cell" in " ".join(out.split())
    if not terminal:
        assert "[1/1] vae · d · seed 0: 100 steps, from step 50 on" in out


def test_an_interrupted_display_is_closed_and_knows_the_folder() -> None:
    made = screen(force_terminal=True)

    def interrupted(listener: progress.Console) -> None:
        with listener:
            for event in EVENTS[:4]:
                listener(event)
            raise KeyboardInterrupt

    listener = progress.Console(made)
    with pytest.raises(KeyboardInterrupt):
        interrupted(listener)
    assert listener.folder == "results/x"
    assert "\x1b[?25h" in text(made)


def grid_of_cells(jobs: int = 3) -> list[Event]:
    """What a run of 20 cells says, `jobs` of them at once."""
    labels = ("vae", "beta[beta=10,latent_dim=8]", "a_long_name_of_a_plugin[first=1,second=2,third=3]", "cvae")
    waiting = [(f"{label}-{seed}", label, seed) for label in labels for seed in range(5)]
    told: list[Event] = [RunStarted(len(waiting), 20 * 9380, "results/x")]
    working: dict[tuple[str, str, int], int] = {}
    for turn in range(1000):
        while waiting and len(working) < jobs:
            cell, label, seed = waiting[0]
            told.append(CellStarted(cell, label, "fashion", seed, (4690, 4690)))
            working[waiting.pop(0)] = 0
        for key in list(working):
            working[key] = min(working[key] + 700 + 61 * key[2] + 13 * len(key[1]), 9380)
            terms = {"loss": 10.0 ** (turn % 7), "rec": 3.14159, "kl": -1e-7, "commitment": 1.0}
            told.append(Step(key[0], working[key], 0, terms))
            if working[key] == 9380:
                told.append(Scoring(key[0], "linear_probe_all_of_it"))
                told.append(CellEnded(key[0], row(key[1], seed=key[2])))
                del working[key]
        if not working:
            break
    return told


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_stay_where_they_are(width: int) -> None:
    made = screen(width, force_terminal=True)
    tall, places, seen = 0, dict[str, int](), 0
    with progress.Console(made) as listener:
        for event in grid_of_cells():
            listener(event)
            assert listener._live is not None
            probe = screen(width)
            probe.print(listener._live.get_renderable())
            lines = text(probe).splitlines()
            assert max(map(len, lines)) <= width  # else a terminal wraps
            assert tall <= len(lines) <= 4
            tall = len(lines)
            assert lines[0].startswith("all cells")
            ends = {line.index("/9,380") for line in lines if "/9,380" in line}
            assert len(ends) <= 1
            if isinstance(event, Step):  # its line is the same from its first step to its last
                name = f"{event.step:,}/9,380"
                (at,) = [i for i, line in enumerate(lines) if name in line][-1:]
                if sum(name in line for line in lines) == 1:
                    assert places.setdefault(event.cell, at) == at
                    seen += 1
    assert seen > 50


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_line_has_name_seed_step_and_terms_as_far_as_there_is_room(width: int) -> None:
    made = screen(width, force_terminal=True)
    with progress.Console(made) as listener:
        for event in [
            RunStarted(2, 20, "x"),
            CellStarted("a", "vae", "fashion", 0, (10,)),
            CellStarted("b", "beta[beta=10,latent_dim=8,backbone=conv,likelihood=gaussian]", "fashion", 4, (10,)),
            Step("b", 5, 0, {"loss": 1.5, "kl": 2.0}),
        ]:
            listener(event)
        assert listener._live is not None
        probe = screen(width)
        probe.print(listener._live.get_renderable())
    _, first, second = text(probe).splitlines()
    assert re.match(r"vae · fas\S* +s0 ", first)
    assert re.match(r"beta\[beta=.*… s4 .* 5/10 .*loss 1\.", second)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_note_is_broken_between_words_on_a_screen_and_whole_in_a_log(terminal: bool) -> None:
    note = " ".join(["scored", "on", "images"] * 20)
    out = played([RunStarted(1, 10, "x", (note,))], force_terminal=terminal)
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out).splitlines() if "scored" in line]
    assert " ".join(" ".join(lines).split()) == note
    assert (max(map(len, lines)) <= 100) == terminal
    assert {word for line in lines for word in line.split()} == {"scored", "on", "images"}
