"""What rows cost, and what metrics say beforehand that they will."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console as RichConsole

from bench.contracts.dataset import Data
from bench.contracts.events import CellStarted, Scoring
from bench.contracts.measurement import METRICS, Context, Request, Score, metric
from bench.contracts.protocol import Scoring as Protocol
from bench.engine.evaluator import Evaluator
from bench.show.progress import Console
from bench.tables.costs import SHARED, costs, markdown, printed
from bench.util.errors import NotAvailable
from tests.conftest import build
from tests.example_rows import failed, row

MACHINE = {"device_name": "x", "threads": 2}


def paid(label: str, seed: int, train: float, seconds: dict[str, float], **more: Any) -> Any:
    spent = {"parameters": 10.0, "train_seconds": train, "evidence_seconds": 1.0, "peak_mib": 100.0}
    return row(label, seed, costs=spent, seconds=seconds, **{"provenance": MACHINE, **more})


def test_means_over_seeds_and_the_share_of_scoring() -> None:
    rows = [
        paid("a", 0, 10.0, {"elbo": 1.0, "fd": 2.0}),
        paid("a", 1, 30.0, {"elbo": 2.0, "fd": 3.0, "late": 4.0}),
        failed("a", 2),
    ]
    (cost,) = costs(rows)
    assert (cost.label, cost.seeds, cost.train_seconds, cost.machine) == ("a", 2, 20.0, "x, 2 threads")
    assert cost.metrics == {"elbo": 1.5, "fd": 2.5, "late": 4.0}
    assert cost.score_seconds == 9.0
    assert cost.share == pytest.approx(0.45)


def test_what_takes_no_steps_has_no_share() -> None:
    (cost,) = costs([paid("mean", 0, 0.01, {"elbo": 1.0}, steps=(0,))])
    assert cost.share is None
    assert "| mean | 1 | 10 | 0.01 | 1.00 | 1.00 | n/a | 100 |" in markdown(
        [paid("mean", 0, 0.01, {"elbo": 1}, steps=(0,))]
    )


def test_metrics_that_cost_next_to_nothing_share_a_line() -> None:
    """A twentieth of a second on any label is a line."""
    rows = [paid("a", 0, 9.0, {"elbo": 0.01, "kl": 0.02, "bce": 0.001}), paid("b", 0, 9.0, {"elbo": 0.05, "kl": 0.04})]
    text = markdown(rows)
    assert "| elbo | 0.01 | 0.05 |" in text
    assert "| kl" not in text
    assert "and 2 more metrics, below 0.05 s each" in text
    out = RichConsole(file=io.StringIO(), width=80)
    for part in printed(rows, 80):
        out.print(part)
    assert "and 2 more metrics, below 0.05 s each" in out.file.getvalue()  # type: ignore[attr-defined]
    assert "more metric" not in markdown([paid("a", 0, 9.0, {"elbo": 1.0})])


def test_seconds_of_different_machines_arent_averaged() -> None:
    rows = [paid("a", 0, 10.0, {}), paid("a", 1, 1.0, {}, provenance={"device_name": "y"})]
    assert sorted((c.machine, c.train_seconds) for c in costs(rows)) == [("x, 2 threads", 10.0), ("y", 1.0)]


def test_old_rows_have_what_they_have() -> None:
    (cost,) = costs([row("a", costs={"parameters": 5.0})])
    assert (cost.parameters, cost.train_seconds, cost.share, cost.score_seconds) == (5.0, None, None, 0.0)
    assert "n/a" in markdown([row("a", costs={})])


def test_tables_say_all_of_it() -> None:
    rows = [paid(f"name|{i}", 0, 20.0, {"elbo": 1.0, "fd": 200.0 + i}) for i in range(9)]
    lines = markdown(rows).splitlines()
    assert r"| name\|0 | 1 | 10 | 20.0 | 1.00 | 201 | 1010% | 100 |" in lines
    assert lines.index(next(x for x in lines if x.startswith("| fd"))) < lines.index(
        next(x for x in lines if x.startswith("| elbo"))
    )
    assert SHARED in markdown(rows)
    out = RichConsole(file=io.StringIO(), width=60)
    for part in printed(rows, 60):
        out.print(part)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 60
    for i in range(9):
        assert f"{200 + i}" in text


# beforehand


class _Evidence(Request[int]):
    def resolve(self, context: Context) -> int:
        return 1


def saying(predicted: Callable[[Any], float]) -> Any:
    @metric(_EVIDENCE, unit="x", predicted=predicted)
    def one(x: int) -> Score:
        """One."""
        return Score(x, 1)

    return one


_EVIDENCE = _Evidence()


@pytest.fixture
def evaluator(digits: Data, tmp_path: Path) -> Evaluator:
    return Evaluator(build("vae", digits), digits, Protocol(nll_samples=100, nll_images=300), tmp_path)


def test_a_prediction_is_a_length_of_time_or_none(evaluator: Evaluator) -> None:
    def lacks(_: Any) -> float:
        raise NotAvailable("no weights")

    def breaks(_: Any) -> float:
        raise ZeroDivisionError

    assert evaluator.predict(saying(lambda _: 12.5)) == 12.5
    assert evaluator.predict(saying(lacks)) is None
    assert evaluator.predict(saying(lambda _: math.nan)) is None
    assert evaluator.predict(saying(lambda _: -1.0)) is None
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert evaluator.predict(saying(breaks)) is None
    evaluator.get(_EVIDENCE)
    assert evaluator.predict(saying(lambda _: 12.5)) is None  # its evidence is there


def test_a_prediction_changes_no_score_and_no_random_number(evaluator: Evaluator, digits: Data, tmp_path: Path) -> None:
    nll = METRICS.load("nll")
    before = torch.get_rng_state()
    assert evaluator.predict(nll) is not None
    assert torch.equal(before, torch.get_rng_state())
    other = Evaluator(build("vae", digits), digits, evaluator.scoring, tmp_path)
    assert evaluator.score(nll)[0] == other.score(nll)[0]


def test_nll_foretells_its_time(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 images in chunks of 200, 100 draws in blocks of 5: 1.5 x 20 blocks' time."""

    def slow(self: Any, x: torch.Tensor, y: torch.Tensor, k: int) -> torch.Tensor:
        time.sleep(0.02)
        return torch.zeros(k, len(x))

    monkeypatch.setattr(type(evaluator.model), "log_weights", slow)
    seconds = evaluator.predict(METRICS.load("nll"))
    assert seconds is not None
    assert 0.6 <= seconds < 6.0  # a busy machine sleeps longer


def test_progress_says_it_once_for_all_seeds() -> None:
    out = RichConsole(file=io.StringIO(), width=200)
    display = Console(out)
    for seed in (0, 1):
        display(CellStarted(f"c{seed}", "vae", "fashion", seed, (10,)))
        for name, seconds in (("elbo", None), ("quick", 0.2), ("slow", 780.0)):
            display(Scoring(f"c{seed}", name, seconds))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("slow takes about 13 min") == 1
    assert "quick" not in text
