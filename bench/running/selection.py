"""Choosing hyperparameters on validation images, and scoring only the chosen ones on the test split.

`--select val:METRIC` picks, for each variant and dataset, the setting with the best mean over seeds. The winners'
trained weights are then scored on the test split; no other setting is, so that no test score has a part in the choice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from bench.contracts.dataset import Data
from bench.contracts.events import Listener, Preparing
from bench.contracts.measurement import METRICS, Direction, Metric, Score
from bench.contracts.protocol import RunRequest, canonical
from bench.contracts.protocol import Scoring as Protocol
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running.grid import Cell
from bench.running.identity import data_of, present
from bench.running.job import DIED, Conduct, missing, perform
from bench.running.planning import device_of, in_reading_order
from bench.running.runner import threads_for
from bench.tables.choices import Choice, Setting
from bench.tables.columns import columns, scores
from bench.util.errors import BenchError, IntegrityError, NotAvailable, StoreError, UsageError
from bench.util.lease import Lease

VALIDATION, TEST = "validation", "test"
Scored = tuple[Row, Score | NotAvailable]


@dataclass(frozen=True)
class Selected:
    """The winners' rows on the test split, with how each was chosen."""

    rows: tuple[Row, ...]
    choices: tuple[Choice, ...]

    @property
    def unfinished(self) -> bool:
        """Whether some variant has no winner, or a winner no result at some seed."""
        lost = any(choice.winner is None for choice in self.choices)
        return lost or any(row.status not in ("ok", "skipped") for row in self.rows)


def parse(text: str) -> str:
    """Return the metric in a `--select val:METRIC`.

    Raises:
        UsageError: `text` has another form.
    """
    split, colon, name = (part.strip() for part in text.partition(":"))
    if not colon or not name or not VALIDATION.startswith(split) or len(split) < 3:
        cause = "Selecting on test images biases the test score." if split == TEST and colon else ""
        raise UsageError(f"--select {text!r} isn't val:METRIC", cause=cause, fix="For example: --select val:METRIC")
    return name


def selected(run: Run, text: str, listener: Listener = lambda _: None) -> Selected:
    """Choose by `text`, such as 'val:elbo', and score the winners on the test split where they have no scores yet.

    The metrics are those of the scores on the validation split.

    Raises:
        UsageError: `text` has another form, or the run wasn't scored on validation images.
        StoreError: `run` is no run, or can't be written.
        IntegrityError: a winner has changed since it was trained.
        DataError: the images can't be read.
    """
    choices = choose(run, parse(text))
    return Selected(tuple(score_winners(run, choices, listener)), tuple(choices))


def choose(run: Run, metric: str) -> list[Choice]:
    """Return the choice of each variant and dataset, those of baseline and reference rows too, in the run's order.

    A setting wins by its mean over seeds; the first of equal ones. A setting without a score at one of its variant's
    seeds counts as a trial, and can't win. A single setting needs no score. Rows whose training, likelihood or data
    differ are different choices.

    Raises:
        UsageError: nothing can be chosen by this metric.
    """
    METRICS.entry(metric)
    direction = METRICS.load(metric).direction
    if direction is None:
        raise UsageError(
            f"{metric} has no direction, so there's no best setting by it",
            cause="Neither a high nor a low value is better.",
            fix=f"Choose a metric with a direction; `bench info {metric}` describes this one.",
        )
    shown = run.rows()  # in the run's order, with the failed ones
    rows = [on_validation for row in shown if (on_validation := run.row(row.cell, VALIDATION)) is not None]
    if not any(row.scoring for row in rows):
        raise UsageError(
            f"{run.path} isn't scored on validation images",
            cause="Selecting on test images biases the test score.",
            fix="The same `bench run` with --eval-split validation trains without validation images, and scores on"
            " them.",
        )
    groups: dict[Hashable, list[Scored]] = {}
    for row, values in zip(rows, scores(rows, columns(rows)), strict=True):
        unscored = row.status == "ok" and not row.scoring
        score = NotAvailable("not scored on validation images") if unscored else values[metric]
        groups.setdefault(_group(row), []).append((row, score))
    every = [score for members in groups.values() for _, score in members]
    choices = [_choice(members, metric, direction) for members in groups.values()]
    if not any(isinstance(score, Score) for score in every):
        raise UsageError(
            f"no row of {run.path} has a validation {metric}",
            cause="; ".join(dict.fromkeys(map(str, every)))[:300],
        )
    return choices


def _group(row: Row) -> Hashable:
    """Return what must be equal for two rows to be settings of one choice."""
    return row.dataset, row.variant, row.likelihood, row.reference, canonical([dict(row.training), dict(row.data)])


def _choice(members: Sequence[Scored], metric: str, direction: Direction) -> Choice:
    first = members[0][0]
    labels: dict[str, dict[int, Scored]] = {}
    for row, score in members:
        labels.setdefault(row.label, {}).setdefault(row.seed, (row, score))  # of equal ones, the newest
    seeds = sorted({row.seed for row, _ in members})
    settings = [_setting(label, by_seed, seeds) for label, by_seed in labels.items()]
    sign = 1 if direction == "higher" else -1
    able = [s for s in settings if s.mean is not None] if len(settings) > 1 else settings
    winner = max(able, key=lambda s: sign * (s.mean or 0.0), default=None)
    return Choice(first.variant, first.dataset, metric, len(seeds), tuple(settings), winner)


def _setting(label: str, by_seed: Mapping[int, Scored], seeds: Sequence[int]) -> Setting:
    rows = tuple(row for row, _ in by_seed.values())
    why = [f"seed {seed} isn't there" for seed in seeds if seed not in by_seed]
    why += [f"seed {row.seed}: {score}" for row, score in by_seed.values() if not isinstance(score, Score)]
    if why:
        return Setting(label, rows, None, "; ".join(dict.fromkeys(why)))
    return Setting(label, rows, fmean(score.value for _, score in by_seed.values() if isinstance(score, Score)))


def score_winners(run: Run, choices: Iterable[Choice], listener: Listener = lambda _: None) -> Iterator[Row]:
    """Yield the winners' rows on the test split, scored first by the metrics of their validation scores.

    The score by which a winner was chosen has a note on the number of trials. Errors are those of `selected`.
    """
    request = run.request()
    loaded: dict[str, Data] = {}
    for choice in choices:
        for row in choice.winner.rows if choice.winner else ():
            if row.status != "ok":
                yield row
                continue
            key = canonical([row.dataset, dict(row.training)])
            if key not in loaded:
                loaded.clear()  # one at a time: they may be large
                loaded[key] = data_of(replace(row, scoring={**row.scoring, "split": TEST}), request)
            on_test = _on_test(run, row, request, loaded[key], listener)
            by_name = dict(on_test.scores)
            if isinstance(score := by_name.get(choice.metric), Score):
                by_name[choice.metric] = score.noted(choice.words)
            yield replace(on_test, scores=by_name)


def _on_test(run: Run, row: Row, request: RunRequest, data: Data, listener: Listener) -> Row:
    metrics = _metrics(row)
    cell = _cell(row, data)
    if missing(cell, metrics, run):
        if wrong := run.damage(row.cell):
            raise IntegrityError(f"{row.cell} in {run.path} is damaged: {'; '.join(wrong)}")
        if (lease := Lease.take(run.cells / row.cell / "lease.json")) is None:
            raise StoreError(
                f"another process is at {row.cell} in {run.path}", fix="The same command goes on when it has ended."
            )
        try:
            listener(Preparing(f"scoring {row.label} · {row.dataset} · seed {row.seed} on the test split"))
            threads = int(row.provenance.get("threads") or threads_for(request))
            conduct = Conduct(device_of(request.device), threads, dead=_dead(row))
            perform(cell, metrics, run, listener, conduct)
        finally:
            lease.release()
    scored = run.row(row.cell, TEST)
    assert scored is not None
    test = {"test": data.test.digest, "test_images": len(data.test)}  # a cell's row has those of the validation split
    return replace(scored, data={**scored.data, **test})


def _metrics(row: Row) -> dict[str, Metric]:
    """Return the metrics of a row's scores, as far as they are installed."""
    metrics = {}
    for name in row.scores:
        with suppress(BenchError):
            metrics[name] = METRICS.load(name)
    return in_reading_order(metrics)


def _dead(row: Row) -> dict[str, str]:
    """Return the metrics that ended a process on the validation split, with how: no process risks them again."""
    reasons = {name: score.reason for name, score in row.scores.items() if isinstance(score, NotAvailable)}
    return {name: why.removeprefix(DIED) for name, why in reasons.items() if why.startswith(DIED)}


def _cell(row: Row, data: Data) -> Cell:
    """Return the row's cell, to be scored by the same protocol on the test split."""
    protocol = {name: row.scoring[name] for name in asdict(Protocol()) if name in row.scoring}
    cell = replace(present(row, data), scoring=Protocol(**{**protocol, "split": TEST}))
    if cell.name != row.cell:
        raise IntegrityError(
            f"{row.cell} can't be scored on the test split",
            cause="Its plugin, its data or the suite changed since it was trained.",
            fix="The same `bench run` trains it again; `bench verify --why` shows what changed.",
        )
    return cell
