"""Choosing hyperparameters on validation images, and scoring the chosen alone on the test split.

`--select val:METRIC` picks, for each variant and dataset, the setting with the best mean over seeds. The winners'
trained weights are scored on the test split, which no other setting is: nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
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
    """The metric in a `--select val:METRIC`.

    Raises:
        UsageError: it's something else.
    """
    split, colon, name = (part.strip() for part in text.partition(":"))
    if not colon or not name or not VALIDATION.startswith(split) or len(split) < 3:
        tests = split == TEST and bool(colon)
        cause = "What is chosen on the test split looks better there than it is." if tests else ""
        raise UsageError(f"--select {text!r} isn't val:METRIC", cause=cause, fix="For example: --select val:METRIC")
    return name


def selected(run: Run, text: str, listener: Listener = lambda _: None) -> Selected:
    """Choose by `text`, as in 'val:METRIC', and see that the winners have all their scores on the test split.

    Repeated, it scores what is missing. Metrics are those that the validation split was scored by.

    Raises:
        UsageError: `text` names nothing to choose by, or the run wasn't scored on validation images.
        StoreError: `run` is none, or can't be written.
        IntegrityError: a winner isn't what it was when it was trained.
        DataError: the images aren't there.
    """
    choices = choose(run, parse(text))
    return Selected(tuple(score_winners(run, choices, listener)), tuple(choices))


def choose(run: Run, metric: str) -> list[Choice]:
    """The choice of each variant and dataset, anchors among them, in the run's order.

    A setting wins by its mean over seeds; of equal ones, the first. One without a score at some seed of its variant
    is a trial that can't win. A single setting needs no score: nothing is chosen. Rows whose training, likelihood or
    data differ are different choices.

    Raises:
        UsageError, PluginError, StoreError
    """
    METRICS.entry(metric)
    direction = METRICS.load(metric).direction
    if direction is None:
        raise UsageError(
            f"{metric} has no direction, so there's no best setting by it",
            cause="It's a coordinate, not a merit.",
            fix=f"`bench info {metric}` says what it is.",
        )
    shown = run.rows()  # in the run's order, and all that failed
    rows = [on_validation for row in shown if (on_validation := run.row(row.cell, VALIDATION)) is not None]
    if not any(row.scoring for row in rows):
        raise UsageError(
            f"{run.path} isn't scored on validation images",
            cause="Settings that are chosen on the test split look better there than they are.",
            fix="The same `bench run` with --eval-split validation trains without those images, and scores on them.",
        )
    by_name = scores(rows, columns(rows))
    found: dict[Hashable, list[tuple[Row, Score | NotAvailable]]] = {}
    for row, values in zip(rows, by_name, strict=True):
        if row.status == "ok" and not row.scoring:
            values = {metric: NotAvailable("not scored on validation images")}
        found.setdefault(_group(row), []).append((row, values[metric]))
    made = [_choice(members, metric, direction) for members in found.values()]
    if not any(isinstance(score, Score) for members in found.values() for _, score in members):
        raise UsageError(
            f"no row of {run.path} has a validation {metric}",
            cause="; ".join(dict.fromkeys(str(score) for members in found.values() for _, score in members))[:300],
        )
    return made


def _group(row: Row) -> Hashable:
    """What must be equal for two rows to be settings of one choice."""
    return row.dataset, row.variant, row.likelihood, row.anchor, canonical([dict(row.training), dict(row.data)])


def _choice(members: Sequence[tuple[Row, Score | NotAvailable]], metric: str, direction: Direction) -> Choice:
    first = members[0][0]
    labels: dict[str, dict[int, tuple[Row, Score | NotAvailable]]] = {}
    for row, score in members:
        labels.setdefault(row.label, {}).setdefault(row.seed, (row, score))  # of equal ones, the newest
    seeds = sorted({row.seed for row, _ in members})
    settings = [_setting(label, by_seed, seeds) for label, by_seed in labels.items()]
    sign = 1 if direction == "higher" else -1
    able = [s for s in settings if s.mean is not None] if len(settings) > 1 else settings
    winner = max(able, key=lambda s: sign * (s.mean or 0.0), default=None)
    return Choice(first.variant, first.dataset, metric, len(seeds), tuple(settings), winner)


def _setting(label: str, by_seed: Mapping[int, tuple[Row, Score | NotAvailable]], seeds: Sequence[int]) -> Setting:
    rows = tuple(row for row, _ in by_seed.values())
    why = [f"seed {seed} isn't there" for seed in seeds if seed not in by_seed]
    why += [f"seed {row.seed}: {score}" for row, score in by_seed.values() if not isinstance(score, Score)]
    if why:
        return Setting(label, rows, None, "; ".join(dict.fromkeys(why)))
    values = [score.value for _, score in by_seed.values() if isinstance(score, Score)]
    return Setting(label, rows, fmean(values))


def score_winners(run: Run, choices: Iterable[Choice], listener: Listener = lambda _: None) -> Iterator[Row]:
    """The winners' rows on the test split; what they lack of the metrics of their validation scores is made now.

    A winner's score in the metric that it was chosen by notes the number of trials.

    Raises:
        StoreError, IntegrityError, UsageError, DataError
    """
    request = run.request()
    known: dict[str, Data] = {}
    for choice in choices:
        for row in choice.winner.rows if choice.winner else ():
            if row.status != "ok":
                yield row
                continue
            made = _on_test(run, row, request, known, listener)
            noted = dict(made.scores)
            if isinstance(score := noted.get(choice.metric), Score):
                noted[choice.metric] = score.noted(choice.words)
            yield replace(made, scores=noted)


def _on_test(run: Run, row: Row, request: RunRequest, known: dict[str, Data], listener: Listener) -> Row:
    metrics = _metrics(row)
    key = canonical([row.dataset, dict(row.training)])
    if key not in known:
        known.clear()  # one at a time: they may be large
        known[key] = data_of(replace(row, scoring={**row.scoring, "split": TEST}), request)
    cell = _cell(row, known[key])
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
    test = known[key].test  # the cell notes the images that it was made to be scored on
    return replace(scored, data={**scored.data, "test": test.digest, "test_images": len(test)})


def _metrics(row: Row) -> dict[str, Metric]:
    """What a row was scored by, as far as it's installed."""
    found = {}
    for name in row.scores:
        try:
            found[name] = METRICS.load(name)
        except BenchError:
            continue
    return in_reading_order(found)


def _dead(row: Row) -> dict[str, str]:
    """The metrics that brought a process down on the validation split, and how: this one they won't."""
    missing = {name: score.reason for name, score in row.scores.items() if isinstance(score, NotAvailable)}
    return {name: why.removeprefix(DIED) for name, why in missing.items() if why.startswith(DIED)}


def _cell(row: Row, data: Data) -> Cell:
    """The row's cell, to be scored as it was, on the test split.

    Raises:
        IntegrityError: the row's code or data have changed since it was trained.
    """
    protocol = {name: row.scoring[name] for name in asdict(Protocol()) if name in row.scoring}
    cell = replace(present(row, data), scoring=Protocol(**{**protocol, "split": TEST}))
    if cell.name != row.cell:
        raise IntegrityError(
            f"{row.cell} can't be scored on the test split",
            cause="Its plugin, its data or the suite changed since it was trained.",
            fix="The same `bench run` makes it anew; `bench verify --why` shows what changed.",
        )
    return cell
