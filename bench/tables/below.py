"""The text below a table, assembled here alone: warnings, the legend of its marks, and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bench.contracts.measurement import Note, Score, number
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.plugins.registry import default, document
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
        """Yield 'labels: text'; one phrase stands for the labels if they are those of `every` line."""
        whole = set(every)
        for text, labels in self.labels.items():
            yield f"{ALL if len(whole) > 1 and whole <= set(labels) else ', '.join(labels)}: {text}"


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
    for text, label in _no_better(lines, columns):
        grouped.add(text, label)
    broken = _Grouped()
    for line in lines:
        for column in columns:
            for score in line.scores(column.name) if line.ok else ():
                if isinstance(score, NotAvailable) and score.retry:
                    broken.add(f"{column.name} could not be computed ({one_line(score)})", line.label)
    rows = [row for line in lines for row, _ in (*line.ok, *line.others)]
    return [*grouped.lines(own), *broken.lines(own), *_several_on_test(rows), *_without_checksums(rows)]


def _failures(line: Scored) -> list[str]:
    """Return why seeds have no result; the seeds are named if others have one, or another reason."""
    seeds: dict[str, set[int]] = {}
    for row, _ in line.others:
        seeds.setdefault(": ".join(filter(None, (row.status, row.reason))), set()).add(row.seed)
    every = {row.seed for row, _ in (*line.ok, *line.others)}
    return [text if of == every else f"{seeds_in_words(sorted(of))} {text}" for text, of in seeds.items()]


def _misleading(line: Scored, columns: Sequence[Column]) -> list[str]:
    found = [_notes(by_name, columns) for _, by_name in line.ok if not line.reference]
    return list(dict.fromkeys(merged([[note for note in notes if note.warns] for notes in found])))


def _notes(by_name: Scores, columns: Sequence[Column]) -> list[Note]:
    scored = (by_name[column.name] for column in columns)
    return [note for score in scored if isinstance(score, Score) for note in score.notes]


def _no_better(lines: Sequence[Scored], columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield (sentence, label) of lines whose headline score is no better than that of the mean image on the same data.

    No model is needed for the mean image.
    """
    trivial = default("sanity-mean")
    headline = next((c for c in columns if c.name == default("headline") and c.direction is not None), None)
    references = [line for line in lines if line.reference and line.ok and line.ok[0][0].variant == trivial]
    if headline is None:
        return
    sign = 1 if headline.direction == "higher" else -1
    for line in lines:
        mean = None if line.reference else line.mean(headline.name)
        alike = [ref.mean(headline.name) for ref in references if line.ok and _same_images(ref, line)]
        if mean is not None and any(floor is not None and sign * mean <= sign * floor for floor in alike):
            yield f"{headline.name} no better than the mean image's", line.label


def _same_images(a: Scored, b: Scored) -> bool:
    """Return whether two lines' scores are likelihoods of the same kind, of the same images."""
    parts = [canonical([dict(r.scoring), dict(r.data), r.likelihood]) for r in (a.ok[0][0], b.ok[0][0])]
    return parts[0] == parts[1]


def _several_on_test(rows: Iterable[Row]) -> list[str]:
    scored = {(r.variant, r.label) for r in rows if not r.reference and r.scoring.get("split") == "test"}
    return [ON_TEST] if len({variant for variant, _ in scored}) < len(scored) else []


def _without_checksums(rows: Sequence[Row]) -> list[str]:
    counts = Counter(what for row in rows for what in row.unsummed)
    files = " and ".join(f"the {what} of {n} of {len(rows)} cells" for what, n in sorted(counts.items()))
    return [f"{files} have no checksums: `bench verify` computes the scores again"] if files else []


# legend


def legend(marks: set[str], seeds: Sequence[tuple[str, int]], *, several_blocks: bool, missing: bool) -> list[str]:
    """Return what the marks of a table mean, and what its numbers of seeds can show.

    Args:
        seeds: the label and the number of seeds with a score, of each line that is not for reference.
    """
    most = max((n for _, n in seeds), default=0)
    scope = " of its block" if several_blocks else ""
    words = [f"* best{scope}"] if "best" in marks else []
    words += ["~ ties with it"] if "tie" in marks else []
    words += [f"± sd over {most} seeds{_fewer(seeds, most)}"] if most > 1 else []
    words += ["– n/a (see notes)"] if missing else []
    few = {
        1: "one seed: differences may be chance (--seeds 3)",
        2: "two seeds cannot show significance (--seeds 3 can)",
    }
    return [text for text in (" · ".join(words), few.get(most, "")) if text]


def _fewer(seeds: Sequence[tuple[str, int]], most: int) -> str:
    """Return the lines that have fewer seeds, in parentheses: a few by name."""
    fewer = sorted({f"{label} {n}" for label, n in seeds if n < most})
    return f" ({', '.join(fewer) if len(fewer) <= 3 else f'{len(fewer)} lines fewer'})" if fewer else ""


def overall_best(best: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the line that names the best of all blocks in each column."""
    words = [f"{column} {', '.join(labels)}" for column, labels in best.items() if labels]
    return [f"best of all blocks (networks or budgets differ): {' · '.join(words)}"] if words else []


def instead(shown: Iterable[Column]) -> list[str]:
    """Return the declared sentence of each column that is shown in place of another one."""
    names, sentences = {column.name for column in shown}, layout().instead
    missing = [others for first, *others in layout().default if first not in names]
    return [sentences[name] for others in missing for name in others if name in names and name in sentences]


# notes


def column_notes(lines: Sequence[Scored], columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield the caveats of a table's scores, and why scores are missing: (column, sentence with its labels)."""
    lines = [line for line in lines if line.ok]  # why the others have no result is a warning
    for column in columns:
        caveats, missing = _Grouped(), _Grouped()
        scored = {line.label for line in lines if line.mean(column.name) is not None}
        for line in lines:
            scores = line.scores(column.name)
            for text in merged([score.notes if isinstance(score, Score) else () for score in scores]):
                caveats.add(text, line.label)
            reasons = Counter(one_line(score) for score in scores if not isinstance(score, Score))
            for reason, n in reasons.items():
                some = "" if n == len(scores) else f" for {n} of {len(scores)} seeds"
                missing.add(f"n/a{some} ({reason})", line.label)
        for grouped, every in ((caveats, scored), (missing, {line.label for line in lines})):
            for text, of in grouped.labels.items():
                yield column.name, text if len(of) > 1 and set(of) >= every else f"{text}: {', '.join(of)}"


def one_line(reason: NotAvailable) -> str:
    """Return why there is no score, without line breaks."""
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
    """Return which lines have other seeds than the table, or too few to be compared, or seeds trained together.

    Args:
        few: labels with fewer seeds than a test needs, by column.
        apart: labels with too few seeds that the best has too, by column.
    """
    every = sorted({row.seed for line in lines for row, _ in (*line.ok, *line.others)})
    said = []
    for line in lines:
        own = sorted({row.seed for row, _ in (*line.ok, *line.others)})
        if own != every and not line.reference:
            said.append(f"{line.label} has only {seeds_in_words(own)}")
    said += _by_labels(f"fewer than {LEAST} seeds, so not compared", few)
    said += _by_labels(f"fewer than {LEAST} seeds in common with the best, so not tested", apart)
    return said + _trained_together([line for line in lines if line.ok])


def _by_labels(text: str, by_column: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each list of labels, with its columns."""
    columns: dict[str, list[str]] = {}
    for column, labels in by_column.items():
        columns.setdefault(listed(labels), []).append(column)
    return [f"{text}: {labels} ({', '.join(names)})" for labels, names in columns.items()]


def _trained_together(lines: Sequence[Scored]) -> list[str]:
    """Return which lines have seeds that were trained in one pass, unless all rows were: headings say that."""
    stacked = [(line, sorted({row.seed for row, _ in line.ok if row.stacked})) for line in lines]
    own = [(line.label, seeds, len(seeds) == len(line.ok)) for line, seeds in stacked if seeds]
    if len(own) == len(lines) and all(whole for *_, whole in own):
        return []
    texts = [label if whole else f"{label} ({seeds_in_words(seeds)})" for label, seeds, whole in own]
    return [f"seeds trained together: {', '.join(texts)}"] if texts else []


def chosen_settings(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return how the default settings of variants were chosen, where results were looked at: (label, sentence)."""
    address = default("settings")
    known = {} if address is None else document(address)
    labels = dict.fromkeys((row.label, row.variant) for row in rows)
    return [(label, str(known[variant])) for label, variant in labels if variant in known]


def untuned(rows: Sequence[Row]) -> list[str]:
    """Return the sentence that no hyperparameter was tuned, where each variant has a single setting.

    Nothing is known of samples from a file, which have no training.
    """
    own = {(row.variant, row.label) for row in rows if not row.reference}
    known = all(row.training for row in rows if not row.reference)
    return [UNTUNED] if own and known and len({variant for variant, _ in own}) == len(own) else []
