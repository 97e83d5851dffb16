"""What a terminal shows, and what a file or a pipe gets."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console as RichConsole

from bench import console
from bench.compare import compare
from bench.errors import UsageError
from bench.events import CellEnded, CellStarted, Event, RunEnded, RunStarted, Scoring, Step, Stopping
from tests.synthetic import bound, failed, loss, many, rate, register, row


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


def shown(rows: list, width: int = 100, **options: Any) -> str:
    made = screen(width, **options)
    console.summary(rows, "results/x", made)
    return text(made)


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("seeds", [1, 2])
def test_nine_variants_and_twenty_metrics_fit(width: int, seeds: int) -> None:
    out = shown(many(seeds), width)
    assert max(map(len, out.splitlines())) <= width
    squeezed = "".join(out.split())
    for name in ("elbo↑", "sharpness", "perplexity", "only cvae: elbo_given_y", "beta[beta=10,"):
        assert "".join(name.split()) in squeezed
    assert "results/x" in out


def test_a_label_with_brackets_is_no_markup() -> None:
    assert "beta[red]" in shown([row("beta[red]", scores={"elbo": 1.5})])


def test_wide_tables_are_stacked_and_each_has_every_line() -> None:
    out = shown(many(2), 80).splitlines()
    tables = sum(set(line) == {"─"} for line in out)
    assert tables > 1
    assert sum("vqvae " in line.replace("\u00a0", " ")[:9] for line in out if "only" not in line) == tables


def test_reasons_stand_below_with_their_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss)
    out = shown([row("a", scores={"bound": 1.5, "loss": "no loss here"}), row("b", scores={"loss": 2.5})])
    assert "n/a¹" in out
    assert "¹ no loss here" in out


def test_a_column_that_nobody_has_is_hidden_and_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss)
    out = shown([row(scores={"bound": 1.5, "loss": "no weights"})])
    assert "loss" not in out.split("─")[0]
    assert "not shown: loss (no weights)" in out


def test_marks_survive_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound)
    out = shown([row("a", scores={"bound": 1.5}), row("b", scores={"bound": 2.5})])
    assert "2.500*" in out
    assert "1.500*" not in out
    assert "\x1b" not in out


def test_one_seed_labels_and_the_anchor_are_called_what_they_are() -> None:
    out = shown(many(1), 200)
    assert "one seed" in out
    assert "uses labels" in out
    assert "untuned anchor" in out


def test_a_run_in_which_everything_failed_still_shows_why() -> None:
    out = shown([failed(reason="non-finite loss at step 3"), failed("beta", status="skipped", reason="no labels")])
    assert "non-finite loss at step 3" in out
    assert "no labels" in out
    assert "vae" in out


def test_no_rows_print_nothing_but_the_folder() -> None:
    assert shown([]).split() == ["results", "results/x"]


def test_no_color_takes_colours_away(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("a", scores={"elbo": 1.5}), row("b", scores={"elbo": 2.5})]
    assert "\x1b[1;32m" in shown(rows, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in shown(rows, force_terminal=True, color_system="standard")


def test_an_error_is_what_cause_and_fix() -> None:
    made = screen()
    console.print_error(UsageError("it [broke]", cause="because", fix="mend it"), made)
    assert text(made).splitlines() == ["error: it [broke]", "because", "mend it"]


def test_a_comparison_shows_sign_and_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, bound=bound, loss=loss, rate=rate)
    made = screen(80)
    a, b = {"bound": 1.5, "loss": 1.5, "rate": 1.5}, {"bound": 2.0, "loss": 2.0, "rate": 2.0}
    console.comparison(compare([row(scores=a)], [row(scores=b)]), made)
    assert "+0.500 ▲" in text(made)
    assert "+0.500 ▼" in text(made)
    assert max(map(len, text(made).splitlines())) <= 80


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
    with console.Console(made) as listener:
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
    assert "1 cell there already" in out


def test_what_failed_before_says_how_to_try_again() -> None:
    out = played([RunStarted(1, 0, "x"), CellEnded("c0", failed("b"), reused=True), RunEnded("x", (), 0.2)])
    assert "1 cell of them without a result: --retry-failed tries again" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_another_try_goes_on_where_it_was(terminal: bool) -> None:
    again = [
        RunStarted(1, 100, "x"), CellStarted("c0", "vae", "d", 0, (100,)), Step("c0", 60, 0, {"loss": 1.0}),
        CellStarted("c0", "vae", "d", 0, (100,), 50), Stopping(1), CellEnded("c0", row()), RunEnded("x", (), 0.2),
    ]  # fmt: skip
    out = played(again, force_terminal=terminal)
    assert out.count("vae · d · seed 0") > 0
    assert "stopping: 1 cell under way, keeping a checkpoint each; once more stops at once" in out
    if not terminal:
        assert "[1/1] vae · d · seed 0: 100 steps, from step 50 on" in out


def test_an_interrupted_display_is_closed_and_knows_the_folder() -> None:
    made = screen(force_terminal=True)

    def interrupted(listener: console.Console) -> None:
        with listener:
            for event in EVENTS[:4]:
                listener(event)
            raise KeyboardInterrupt

    listener = console.Console(made)
    with pytest.raises(KeyboardInterrupt):
        interrupted(listener)
    assert listener.folder == "results/x"
    assert "\x1b[?25h" in text(made)
