"""The text below a table, assembled here alone: warnings, the legend of its marks, and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bench.contracts.measurement import Note, Score, number
from bench.contracts.row import Row
from bench.plugins.registry import default, registered_document
from bench.tables.columns import Column, Scores, layout
from bench.tables.statistics import LEAST
from bench.util.errors import NotAvailable
from bench.util.wording import listed, seeds_in_words

UNTUNED = "no hyperparameter was tuned: one setting for each variant"
ON_TEST = "several settings are scored on test images: choosing the best of them here biases its score"
WARNINGS = 3  #: shown below a table; more are counted, and listed by --notes
ALL = "all variants"


@dataclass(frozen=True)
class Scored:
    """The rows of one line with their scores: those that have a result, and the others."""

    label: str
    reference: bool
    ok: Sequence[tuple[Row, Scores]]
    others: Sequence[tuple[Row, Scores]] = ()

    def scores(self, column: str) -> list[Score | NotAvailable]:
        return [by_name[column] for _, by_name in self.ok or self.others]

    def mean(self, column: str) -> float | None:
        values = [s.value for _, by_name in self.ok if isinstance(s := by_name[column], Score)]
        return fmean(values) if values else None


@dataclass(frozen=True)
class Below:
    """What stands below a table: one sentence a line."""

    warnings: tuple[str, ...] = ()  #: what changes how a row must be read
    legend: tuple[str, ...] = ()  #: what the marks and columns mean
    notes: tuple[tuple[str, str], ...] = ()  #: (subject, sentence): columns first, then the table as a whole

    @property
    def short(self) -> list[str]:
        """The warnings and the legend; of many warnings the first, and how many more there are."""
        more = len(self.warnings) - WARNINGS
        if more <= 0:
            return [*self.warnings, *self.legend]
        kept = self.warnings[: WARNINGS - 1]
        return [*kept, f"{more + 1} more warnings: --notes", *self.legend]

    @property
    def full(self) -> list[str]:
        """Everything: warnings, legend and notes."""
        return [*self.warnings, *self.legend, *(f"{subject}: {text}" for subject, text in self.notes)]


@dataclass
class _Grouped:
    """Sentences with the labels that they hold for, in the order in which they are first said."""

    labels: dict[str, list[str]] = field(default_factory=dict)

    def add(self, text: str, label: str) -> None:
        if label not in (known := self.labels.setdefault(text, [])):
            known.append(label)

    def lines(self, every: Iterable[str] = ()) -> Iterator[str]:
        """Yield 'text: labels'; a sentence that holds for `every` label stands alone."""
        whole = set(every)
        for text, labels in self.labels.items():
            yield f"{text}: {ALL if len(whole) > 1 and whole <= set(labels) else ', '.join(labels)}"


def merged(of_seeds: Sequence[Iterable[Note]]) -> Iterator[str]:
    """Yield each note of several seeds once, with the range of its values, and for how many seeds it holds."""
    alike: dict[tuple[str, str], list[tuple[int, Note]]] = {}
    for seed, notes in enumerate(of_seeds):
        for note in notes:
            alike.setdefault((note.kind, note.text), []).append((seed, note))
    for members in alike.values():
        n, first = len({seed for seed, _ in members}), members[0][1]
        values = {name: [note.values[name] for _, note in members if name in note.values] for name in first.values}
        some = "" if n == len(of_seeds) else f"{n} of {len(of_seeds)} seeds: "
        yield some + first.filled({name: _range(of_all) for name, of_all in values.items()})


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


# warnings


def warnings(lines: Sequence[Scored], columns: Sequence[Column]) -> list[str]:
    """Return what changes how a row must be read: failures, misleading scores, metrics that broke, damaged files."""
    grouped, own = _Grouped(), [line.label for line in lines if not line.reference]
    for line in lines:
        for text in [*_failures(line), *_misleading(line, columns)]:
            grouped.add(text, line.label)
    for text, label in _no_better(lines):
        grouped.add(text, label)
    broken = _Grouped()
    for line in lines:
        for column in columns:
            for score in line.scores(column.name) if line.ok else ():
                if isinstance(score, NotAvailable) and score.retry:
                    broken.add(f"{column.name} could not be computed ({_one_line(score)})", line.label)
    rows = [row for line in lines for row, _ in (*line.ok, *line.others)]
    return [*grouped.lines(own), *broken.lines(own), *_several_on_test(rows), *_without_checksums(rows)]


def _failures(line: Scored) -> list[str]:
    reasons = Counter(": ".join(filter(None, (row.status, row.reason))) for row, _ in line.others)
    total = len({row.seed for row, _ in (*line.ok, *line.others)})
    return [text if n == total else f"{n} of {total} seeds {text}" for text, n in reasons.items()]


def _misleading(line: Scored, columns: Sequence[Column]) -> list[str]:
    found = [_notes(by_name, columns) for _, by_name in line.ok if not line.reference]
    return list(dict.fromkeys(merged([[note for note in notes if note.warns] for notes in found])))


def _notes(by_name: Scores, columns: Sequence[Column]) -> list[Note]:
    scored = (by_name[column.name] for column in columns)
    return [note for score in scored if isinstance(score, Score) for note in score.notes]


def _no_better(lines: Sequence[Scored]) -> list[tuple[str, str]]:
    """Return the lines whose headline score is no better than that of the mean image, which no model is needed for."""
    headline, trivial = default("headline"), default("sanity-mean")
    reference = next((line for line in lines if line.reference and line.ok and line.ok[0][0].variant == trivial), None)
    if headline is None or reference is None or headline not in reference.ok[0][1]:
        return []
    floor = reference.mean(headline)
    text = f"{headline} no better than the mean image's"
    means = [(line.label, line.mean(headline)) for line in lines if not line.reference]
    return [(text, label) for label, mean in means if mean is not None and floor is not None and mean <= floor]


def _several_on_test(rows: Iterable[Row]) -> list[str]:
    scored = {(r.variant, r.label) for r in rows if not r.anchor and r.scoring.get("split") == "test"}
    return [ON_TEST] if len({variant for variant, _ in scored}) < len(scored) else []


def _without_checksums(rows: Sequence[Row]) -> list[str]:
    counts = Counter(what for row in rows for what in row.unsummed)
    return [
        f"the {what} of {n} of {len(rows)} cells have no checksums: `bench verify` computes their scores again"
        for what, n in sorted(counts.items())
    ]


# legend


def legend(marks: set[str], seeds: int, *, several_blocks: bool, missing: bool) -> list[str]:
    """Return what the marks of a table mean, and what its number of seeds can show."""
    scope = " of its block" if several_blocks else ""
    words = [f"* best{scope}"] if "best" in marks else []
    words += ["~ ties with it"] if "tie" in marks else []
    words += [f"± sd over {seeds} seeds"] if seeds > 1 else []
    words += ["– n/a (see notes)"] if missing else []
    few = {1: "one seed: differences may be chance (--seeds 3)", 2: "two seeds show no significance (--seeds 3 does)"}
    return [text for text in (" · ".join(words), few.get(seeds, "")) if text]


def overall_best(best: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the line that names the best of all blocks in each column."""
    words = [f"{column} {', '.join(labels)}" for column, labels in best.items() if labels]
    return [f"best overall, not like for like: {' · '.join(words)}"] if words else []


def instead(shown: Iterable[Column]) -> list[str]:
    """Return the declared sentence of each column that is shown in place of another one."""
    return [text for column in shown if (text := layout().instead.get(column.name)) and _is_alternative(column.name)]


def _is_alternative(name: str) -> bool:
    return any(name in alternatives[1:] for alternatives in layout().default)


# notes


def column_notes(lines: Sequence[Scored], columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield the caveats of a table's scores, and why scores are missing: (column, sentence with its labels)."""
    for column in columns:
        grouped, labels = _Grouped(), []
        for line in lines:
            scores = line.scores(column.name)
            if any(isinstance(score, Score) for score in scores):
                labels.append(line.label)
            for text in merged([score.notes if isinstance(score, Score) else () for score in scores]):
                grouped.add(text, line.label)
            missing = Counter(_one_line(score) for score in scores if not isinstance(score, Score))
            for reason, n in missing.items():
                some = "" if n == len(scores) else f" for {n} of {len(scores)} seeds"
                grouped.add(f"n/a{some} ({reason})", line.label)
        for text, of in grouped.labels.items():
            yield column.name, text if set(of) >= set(labels) and len(of) > 1 else f"{text}: {', '.join(of)}"


def _one_line(reason: NotAvailable) -> str:
    return " ".join(str(reason).split())


def sentences(lines: Iterable[Scored], columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield what metrics say in words of each line's mean: (label, sentence)."""
    for line in lines:
        for column in columns if line.ok and not line.reference else ():
            if (mean := line.mean(column.name)) is not None and (text := _in_words(column, mean)):
                yield line.label, text


def _in_words(column: Column, mean: float) -> str:
    told = getattr(column.metric, "told", None)
    try:
        text = told(mean) if told is not None else ""
    except Exception:  # a plugin's mistake costs its own sentence, not the table
        return ""
    return text if isinstance(text, str) else ""


def seeds_notes(
    lines: Sequence[Scored], few: Mapping[str, Sequence[str]], apart: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return which lines have other seeds than the table, and which have too few to be compared."""
    every = sorted({row.seed for line in lines for row, _ in (*line.ok, *line.others)})
    said = []
    for line in lines:
        own = sorted({row.seed for row, _ in (*line.ok, *line.others)})
        if own != every and not line.reference:
            said.append(f"{line.label} has only {seeds_in_words(own)}")
    said += [f"fewer than {LEAST} seeds, so not compared: {listed(labels)} ({c})" for c, labels in few.items()]
    common = f"fewer than {LEAST} seeds in common with the best, so not tested"
    return said + [f"{common}: {listed(labels)} ({column})" for column, labels in apart.items()]


def chosen_settings(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return how the default settings of variants were chosen, where results were looked at: (label, sentence)."""
    known = registered_document("settings") or {}
    labels = dict.fromkeys((row.label, row.variant) for row in rows)
    return [(label, str(known[variant])) for label, variant in labels if variant in known]


def untuned(rows: Sequence[Row]) -> list[str]:
    """Return the sentence that no hyperparameter was tuned, where each variant has a single setting."""
    own = {(row.variant, row.label) for row in rows if not row.anchor and row.training}
    return [UNTUNED] if own and len({variant for variant, _ in own}) == len(own) else []
