"""Rows aggregated over seeds, as people read them: pure data that console, Markdown, CSV and LaTeX render."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from bench.contracts.measurement import Note, Score, number
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.tables.columns import Column, Scores, chosen, columns, reading_order, scores
from bench.tables.statistics import LEAST, paired, verdicts
from bench.util.errors import NotAvailable
from bench.util.wording import seeds_in_words

ONE_SEED = "one seed can't say whether a difference is real: --seeds 3 shows the spread, and what ties with the best"
TWO_SEEDS = "two can't say whether a difference is real: --seeds 3 marks what ties with the best"
UNTUNED = "no hyperparameter was tuned: one setting each"
ON_TEST = "several settings scored on test: choosing among them here is choosing on the test split"


@dataclass(frozen=True)
class Cell:
    """A metric of one line: mean and standard deviation over `n` seeds, and its footnotes' numbers."""

    n: int
    mean: float | None = None  #: None: n/a, and a footnote says why
    sd: float | None = None  #: None: fewer than two seeds
    text: str = "n/a"
    sd_text: str = ""
    best: bool = False
    tie: bool = False  #: with the best: no significant difference, paired by seed
    notes: tuple[int, ...] = ()

    @property
    def mark(self) -> str:
        return "best" if self.best else "tie" if self.tie else ""


@dataclass(frozen=True)
class Line:
    """A variant with its hyperparameters on one dataset, over its seeds."""

    label: str
    variant: str
    steps: str  #: '4690+4690' for two stages
    rows: tuple[Row, ...]  #: the seeds that came out ok
    asked: int  #: how many seeds there are, with those that didn't
    cells: Mapping[str, Cell]
    notes: tuple[int, ...]  #: what befell the other seeds
    anchor: bool  #: to hold others against: never marked
    uses_labels: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(row.seed for row in self.rows))

    @property
    def count(self) -> str:
        """Of its seeds: '5', or '4 of 5' where one didn't come out."""
        return str(self.asked) if len(self.rows) == self.asked else f"{len(self.rows)} of {self.asked}"


@dataclass(frozen=True)
class Block:
    """Lines that may be ranked against each other."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Group:
    """One dataset."""

    dataset: str
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]  #: those that have a score in some line
    rare: tuple[Column, ...]  #: those of them that a single one of several lines has: better told in words
    column_notes: Mapping[str, tuple[int, ...]]  #: footnotes that hold for every score of a column
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...]  #: number i is at i - 1; those of rare columns come last
    numbered: int  #: how many footnotes the other columns need
    hidden: tuple[tuple[str, tuple[str, ...]], ...]  #: why columns aren't shown, and which
    unasked: tuple[str, ...]  #: columns that have scores and weren't chosen
    sentences: tuple[str, ...]  #: what metrics say of a variant in words
    remarks: tuple[str, ...]

    @property
    def lines(self) -> list[Line]:
        return [line for block in self.blocks for line in block.lines]

    @property
    def marked(self) -> bool:
        """Whether anything is marked as best."""
        return any(cell.best for line in self.lines for cell in line.cells.values())

    @property
    def tied(self) -> bool:
        """Whether anything is marked as a tie."""
        return any(cell.tie for line in self.lines for cell in line.cells.values())

    @property
    def parts(self) -> list[tuple[Column, ...]]:
        return column_parts([c for c in self.columns if c not in self.rare])

    @property
    def told(self) -> list[str]:
        """The rare columns in words, with their caveats and the reasons why the other lines lack them."""
        made: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[str]] = {}
        for column in self.rare:
            cells = [(line.label, line.cells[column.name]) for line in self.lines]
            label, cell = next((label, cell) for label, cell in cells if cell.n)
            why = tuple(sorted({n for _, c in cells if not c.n for n in c.notes}))
            own = tuple(sorted({*cell.notes, *self.column_notes.get(column.name, ())}))
            value = f"{cell.text} ± {cell.sd_text}" if cell.sd_text else cell.text
            made.setdefault((label, own, why), []).append(f"{column.name} {value} {column.unit}".rstrip())
        return [
            f"only {label}: {', '.join(values)}{self._texts(own)}; n/a elsewhere{self._texts(why)}"
            for (label, own, why), values in made.items()
        ]

    def _texts(self, numbers: Sequence[int]) -> str:
        return f" ({'; '.join(self.footnotes[n - 1] for n in numbers)})" if numbers else ""


def column_parts(columns: Sequence[Column]) -> list[tuple[Column, ...]]:
    """Merits and coordinates: the columns of two tables where one would be too wide."""
    merits = tuple(c for c in columns if c.direction is not None)
    rest = tuple(c for c in columns if c.direction is None)
    return [part for part in (merits, rest) if part] or [()]


@dataclass(frozen=True)
class Summary:
    """All datasets of one or several runs."""

    groups: tuple[Group, ...]


def summary(rows: Iterable[Row], metrics: Sequence[str] | None = None, tuning: Sequence[str] | None = None) -> Summary:
    """Aggregate over seeds. Datasets and lines keep the order of `rows`; the baseline comes last.

    Args:
        metrics: the columns, as `bench.tables.columns.chosen` takes them; None is all.
        tuning: how the rows' settings were chosen; None says that nothing was tuned, or what a choice would be worth,
            where `rows` look like it.

    Raises:
        UnknownName: there is no such metric.
    """
    rows, metrics = list(rows), ("all",) if metrics is None else metrics
    found = reading_order(columns(rows))
    table = list(zip(rows, scores(rows, found), strict=True))
    datasets = dict.fromkeys(row.dataset for row in rows)
    groups = []
    for d in datasets:
        own = [scored for scored in table if scored[0].dataset == d]
        groups.append(_group(d, own, found, metrics, _tuning(rows, d) if tuning is None else tuning))
    return Summary(tuple(groups))


def steps(row: Row) -> str:
    """Of each stage: '4690+4690'."""
    return "+".join(map(str, row.steps))


@dataclass
class _Notes:
    """Footnotes, numbered from 1 in the order in which they are first needed."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, texts: Iterable[str]) -> tuple[int, ...]:
        return tuple(sorted({self.numbers.setdefault(text, len(self.numbers) + 1) for text in texts}))


@dataclass
class _Draft:
    """A line before its footnotes are numbered: rows that came out ok, with their scores, and the others."""

    ok: list[tuple[Row, Scores]] = field(default_factory=list)
    others: list[tuple[Row, Scores]] = field(default_factory=list)

    @property
    def row(self) -> Row:
        return (self.ok or self.others)[0][0]

    def values(self, name: str) -> list[float]:
        return list(self.by_seed(name).values())

    def by_seed(self, name: str) -> dict[int, float]:
        return {row.seed: score.value for row, by_name in self.ok if isinstance(score := by_name[name], Score)}


def _comparable(row: Row) -> Hashable:
    """What must be equal for two ok rows to stand in one block."""
    return (*row.block, canonical([dict(row.training), dict(row.scoring), dict(row.data)]))


def _group(
    dataset: str,
    table: Sequence[tuple[Row, Scores]],
    found: Sequence[Column],
    metrics: Sequence[str],
    tuning: Sequence[str],
) -> Group:
    drafts, repeated = _drafts(table)
    scored = [c for c in found if any(draft.values(c.name) for draft in drafts)]
    shown = chosen(scored, metrics, found)
    places = {c.name: decimals([draft.values(c.name) for draft in drafts]) for c in shown}
    blocks: dict[Hashable, list[_Draft]] = {}
    for draft in sorted(drafts, key=lambda d: (not d.ok, d.row.sanity, d.row.baseline)):
        blocks.setdefault(_comparable(draft.row) if draft.ok else None, []).append(draft)
    rare = [c for c in shown if len(drafts) > 3 and sum(bool(d.values(c.name)) for d in drafts) == 1]
    ranks = {key: {c.name: _rank(members, c, places[c.name]) for c in shown} for key, members in blocks.items()}
    seeds = tuple(sorted({row.seed for row, _ in table}))
    notes, varied = _Notes(), _varied([draft.row for draft in drafts if draft.ok])
    common = {c.name: _common(drafts, c.name) for c in shown}
    usual = [c for c in shown if c not in rare]
    for c in usual:
        notes(common[c.name])
    for key, members in blocks.items():
        _block(members, usual, places, ranks[key], common, notes, varied, seeds)
    numbered = len(notes.numbers)  # that pass gave the table's own footnotes the first numbers
    made = tuple(_block(m, shown, places, ranks[key], common, notes, varied, seeds) for key, m in blocks.items())
    heads = {name: notes(texts) for name, texts in common.items()}
    counts = [len(draft.ok) for draft in drafts if draft.ok]
    remarks = [*_spread(counts), *_unsaid(ranks.values(), max(counts, default=0)), *tuning]
    remarks += _unsummed([row for row, _ in table])
    if repeated:
        remarks.append(f"found more than once, counted once: {', '.join(repeated)}")
    ok = [by_name for draft in drafts for _, by_name in draft.ok]
    asked = [c for c in chosen(found, metrics) if c.usual or c.name in metrics]
    if all(name == "all" or name.startswith(("+", "-")) for name in metrics):  # what broke isn't passed over
        asked += [c for c in found if any(isinstance(r := s[c.name], NotAvailable) and r.retry for s in ok)]
    empty = [c for c in found if c not in scored and c in asked]
    return Group(
        dataset,
        seeds,
        tuple(shown),
        tuple(rare),
        heads,
        made,
        tuple(notes.numbers),
        numbered,
        _hidden(empty, ok),
        () if set(metrics) - {"all"} else tuple(c.name for c in scored if c not in shown),
        tuple(_sentences([d for d in drafts if d.ok], shown if set(metrics) - {"all"} else scored)),
        tuple(remarks),
    )


def _spread(counts: Sequence[int]) -> list[str]:
    """Return what ± is, and what so many seeds can't say, given how many seeds of each line came out."""
    if not (several := [n for n in counts if n > 1]):
        return [ONE_SEED] if counts else []
    least, most = min(several), max(several)
    remark = f"mean ± standard deviation over {most if least == most else f'{least} to {most}'} seeds"
    return [remark if most >= LEAST else f"{remark}; {TWO_SEEDS}"]


def _unsaid(ranks: Iterable[Mapping[str, _Rank]], seeds: int) -> list[str]:
    every = [rank for of_block in ranks for rank in of_block.values()]
    few = dict.fromkeys(name for rank in every for name in rank.few)
    apart = dict.fromkeys(name for rank in every for name in rank.apart)
    said = [f"too few seeds to be compared, fewer than {LEAST}: {', '.join(few)}"] if few else []
    if apart and seeds >= LEAST:
        common = f"can't say whether it ties, with fewer than {LEAST} seeds in common with the best"
        said.append(f"{common}: {', '.join(apart)}")
    return said


def _unsummed(rows: Sequence[Row]) -> list[str]:
    """Return the remark on rows whose files have no checksums, so that an edit would not be noticed."""
    counts = Counter(what for row in rows for what in row.unsummed)
    if not counts:
        return []
    found = " and ".join(f"the {what} of {n} of {len(rows)} cells" for what, n in sorted(counts.items()))
    return [f"{found} have no sums, so a change there wouldn't show: `bench verify` computes scores again"]


def _tuning(rows: Sequence[Row], dataset: str) -> list[str]:
    """Return what there is to say on `dataset` of how settings were chosen, where nobody else says it."""
    own = [row for row in rows if row.dataset == dataset]
    if _untuned(rows):
        known = all(row.training for row in own if row.status == "ok" and not row.anchor)
        return [UNTUNED if known else f"{UNTUNED}, but of samples from a file nobody knows"]
    return [ON_TEST] if _several_on_test(own) else []


def _untuned(rows: Sequence[Row]) -> bool:
    """Whether each variant has a single setting."""
    own = {(row.variant, row.label) for row in rows if not row.anchor and row.training}
    return bool(own) and len({variant for variant, _ in own}) == len(own)


def _several_on_test(rows: Sequence[Row]) -> bool:
    """Whether a variant's test scores are there in several settings, to choose from."""
    scored = {(r.dataset, r.variant, r.label) for r in rows if not r.anchor and r.scoring.get("split") == "test"}
    return len({(dataset, variant) for dataset, variant, _ in scored}) < len(scored)


def _sentences(drafts: Iterable[_Draft], asked: Sequence[Column]) -> list[str]:
    """What metrics say of each line, those of columns that a screen leaves out among them."""
    found = [
        (d.row.label, [text for c in asked if (v := d.values(c.name)) and (text := _said(c, fmean(v)))]) for d in drafts
    ]
    return [f"{label}: {'; '.join(texts)}" for label, texts in found if texts]


def _said(column: Column, mean: float | None) -> str:
    """A metric's own words on a score; '' where it has none."""
    told = getattr(column.metric, "told", None)
    if told is None or mean is None:
        return ""
    try:
        text = told(mean)
    except Exception:  # a plugin's mistake costs its own sentence, not the table
        return ""
    return text if isinstance(text, str) else ""


def _merged(of_seeds: Sequence[Iterable[Note]]) -> Iterator[str]:
    """Yield each caveat of several seeds once, with the range of its values, and for how many seeds it holds."""
    alike: dict[tuple[str, str], list[tuple[int, Note]]] = {}
    for seed, notes in enumerate(of_seeds):
        for note in notes:
            alike.setdefault((note.kind, note.text), []).append((seed, note))
    for members in alike.values():
        n, note = len({seed for seed, _ in members}), members[0][1]
        ranges = {
            name: _range([other.values[name] for _, other in members if name in other.values]) for name in note.values
        }
        some = "" if n == len(of_seeds) else f"{n} of {len(of_seeds)} seeds: "
        yield some + note.filled(ranges)


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _common(drafts: Sequence[_Draft], name: str) -> list[str]:
    """Return the caveats that every score of a column has: they are shown once, at its head."""
    scored = [
        [*map(str, s.notes)] for draft in drafts for _, by_name in draft.ok if isinstance(s := by_name[name], Score)
    ]
    return [text for text in scored[0] if all(text in others for others in scored)] if len(scored) > 1 else []


def _drafts(table: Sequence[tuple[Row, Scores]]) -> tuple[list[_Draft], list[str]]:
    """One draft for each line, in the rows' order, and the cells that came twice (from overlapping runs)."""
    drafts: dict[Hashable, _Draft] = {}
    repeated: dict[str, None] = {}
    for row, by_name in table:
        if row.status != "ok":
            continue
        draft = drafts.setdefault((row.label, row.steps, _comparable(row)), _Draft())
        counted = next((other for other, _ in draft.ok if other.seed == row.seed), None)
        if counted is None:
            draft.ok.append((row, by_name))
        else:
            which = "" if counted.cell == row.cell else f" ({counted.cell}, not {row.cell})"
            repeated[f"{row.label} seed {row.seed}{which}"] = None
    for row, by_name in table:
        if row.status != "ok":
            named = [d for d in drafts.values() if d.ok and d.row.label == row.label]
            alike = [d for d in named if _trained_alike(d.row, row)] or (named if len(named) == 1 else [])
            known = alike[0] if len(alike) == 1 else drafts.setdefault((row.label, None), _Draft())
            known.others.append((row, by_name))
    position = {row.label: i for i, (row, _) in reversed(list(enumerate(table)))}
    return sorted(drafts.values(), key=lambda d: position[d.row.label]), list(repeated)


def _trained_alike(a: Row, b: Row) -> bool:
    """Return whether two rows are of one line, as far as a row that wasn't scored can tell."""
    parts = [[dict(row.training), dict(row.data)] for row in (a, b)]
    return (a.block, a.steps) == (b.block, b.steps) and canonical(parts[0]) == canonical(parts[1])


def _hidden(empty: Sequence[Column], ok: Sequence[Scores]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    why: dict[str, list[str]] = {}
    for column in empty:
        reasons = dict.fromkeys(" ".join(str(by_name[column.name]).split()) for by_name in ok)
        why.setdefault("; ".join(reasons) or "no cell was scored", []).append(column.name)
    return tuple((reason, tuple(names)) for reason, names in why.items())


def _block(
    drafts: Sequence[_Draft],
    shown: Sequence[Column],
    places: Mapping[str, int],
    ranks: Mapping[str, _Rank],
    common: Mapping[str, Sequence[str]],
    notes: _Notes,
    varied: Sequence[tuple[str, str]],
    seeds: Sequence[int],
) -> Block:
    lines = []
    rows = [row for draft in drafts for row, _ in draft.ok]
    heading = _heading(rows, varied, seeds) if rows else "without scores"
    some = not all(row.stacked for row in rows)  # else the heading says it, and the seed of sanity rows
    one = drafts[0].row.sanity and len({row.seed for row in rows}) == 1
    for draft in drafts:
        row, unscored = draft.row, not draft.ok
        others = [] if unscored else draft.others
        said = [f"seed {r.seed} {r.status}: {r.reason}".removesuffix(": ") for r, _ in others]
        said += [] if one else _seeds_said(draft, seeds)
        said += _stacked_said(draft) if some else []
        line_notes = notes(said)
        cells = {c.name: _cell(draft, c.name, places[c.name], ranks[c.name], common[c.name], notes) for c in shown}
        if unscored and not shown:
            line_notes = notes([*said, *(str(why) for _, by_name in draft.others for why in by_name.values())])
        ok, asked = tuple(r for r, _ in draft.ok), len({r.seed for r, _ in (*draft.ok, *draft.others)})
        words = row.label, row.variant, steps(row)
        lines.append(Line(*words, ok, asked, cells, line_notes, row.anchor, row.uses_labels))
    return Block(heading, tuple(lines))


def _seeds_said(draft: _Draft, seeds: Sequence[int]) -> list[str]:
    """Return which seeds a line has, where they aren't those of the table."""
    own = sorted({row.seed for row, _ in (*draft.ok, *draft.others)})
    return [f"only {seeds_in_words(own)}"] if own != list(seeds) else []


def _stacked_said(draft: _Draft) -> list[str]:
    """Return which seeds of a line were trained in one pass, if some were."""
    own = sorted({row.seed for row, _ in draft.ok if row.stacked})
    whose = "seeds" if len(own) == len(draft.ok) else seeds_in_words(own)
    return [f"{whose} stacked"] if own else []


def _cell(draft: _Draft, name: str, places: int, rank: _Rank, common: Sequence[str], notes: _Notes) -> Cell:
    values = draft.values(name)
    found = [by_name[name] for _, by_name in draft.ok or draft.others]
    missing = Counter(str(f) for f in found if not isinstance(f, Score))
    caveats = [[note for note in f.notes if str(note) not in common] if isinstance(f, Score) else [] for f in found]
    gaps = (f"n/a for {n} of {len(found)} seeds: {text}" if values else text for text, n in missing.items())
    numbers = notes((*_merged(caveats), *gaps))
    if not values:
        return Cell(0, notes=numbers)
    mean, sd = fmean(values), stdev(values) if len(values) > 1 else None
    text = printed(mean, places)
    sd_text = "" if sd is None else printed(sd, places)
    best = text == rank.best and any(draft is rival for rival in rank.rivals)
    tie = not best and any(draft is other for other in rank.ties)
    return Cell(len(values), mean, sd, text, sd_text, best, tie, numbers)


@dataclass(frozen=True)
class _Rank:
    """The best printed mean of a column in a block, who may have it, what ties with it, and who is left out."""

    best: str | None = None
    rivals: tuple[_Draft, ...] = ()
    ties: tuple[_Draft, ...] = ()
    few: tuple[str, ...] = ()  #: lines with too few seeds to be compared at all
    apart: tuple[str, ...] = ()  #: lines with too few seeds that are the best's too


def _rank(drafts: Sequence[_Draft], column: Column, places: int) -> _Rank:
    """Nothing where a column has no direction, or a block no two labels to choose between.

    Every line is paired with the best by seed; Holm's correction is over these comparisons. Where some line has
    seeds enough to be compared, those that haven't can't be the best: one seed that came out may be a lucky one.
    """
    scored = [d for d in drafts if d.values(column.name) and not d.row.anchor]
    if column.direction is None or len({d.row.label for d in scored}) < 2:
        return _Rank()
    enough = [d for d in scored if len(d.values(column.name)) >= LEAST]
    rivals = enough or scored
    few = tuple(_named(d, column) for d in scored if not any(d is rival for rival in rivals))
    means = [(d, fmean(d.values(column.name))) for d in rivals]
    if len({d.row.label for d in rivals}) < 2 or len({printed(mean, places) for _, mean in means}) < 2:
        return _Rank(few=few)
    sign = 1 if column.direction == "higher" else -1
    first, best = max(means, key=lambda pair: sign * pair[1])
    of_first = first.by_seed(column.name)
    tested, tests, apart = [], [], []
    for draft in (d for d in rivals if d is not first):
        of_draft = draft.by_seed(column.name)
        both = sorted(of_draft.keys() & of_first.keys())
        if len(both) < LEAST:
            apart.append(draft.row.label)
        else:
            tested.append(draft)
            tests.append((paired([of_first[s] for s in both], [of_draft[s] for s in both]), column.direction))
    ties = tuple(draft for draft, verdict in zip(tested, verdicts(tests), strict=True) if verdict.mark != "-")
    return _Rank(printed(best, places), tuple(rivals), ties, few, tuple(apart))


def _named(draft: _Draft, column: Column) -> str:
    """A line that lacks seeds, or has lost them in this column."""
    return draft.row.label if len(draft.ok) < LEAST else f"{draft.row.label} ({column.name})"


def _varied(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The fields of the protocols and the data in which rows differ: (part, field)."""
    rows = [row for row in rows if row.training and row.scoring]  # of samples from a file nothing is known
    parts = ("training", "scoring", "data")
    fields = [(part, key) for part in parts for row in rows for key in getattr(row, part)]
    return [
        (part, key)
        for part, key in dict.fromkeys(fields)
        if len({canonical(getattr(row, part).get(key)) for row in rows}) > 1
    ]


def _heading(rows: Sequence[Row], varied: Sequence[tuple[str, str]], seeds: Sequence[int]) -> str:
    """Return what the rows of a block have in common: what is part of `_comparable`, and what happens to hold for all.

    Args:
        seeds: those of the table.
    """
    row = rows[0]
    h = row.hyperparameters
    words = ["untuned anchor, never marked"] if row.baseline else []
    if row.sanity:
        words.append("what no model, or a trivial one, comes to; never marked")
        its = {r.seed for r in rows}
        words += [seeds_in_words(sorted(its))] if len(its) == 1 and its != set(seeds) else []
    elif not row.training:
        count = f"{row.scoring['samples']:,} samples" if "samples" in row.scoring else "samples"
        words.append(f"{count} from a file: training protocol unknown")
    else:
        backbone, *own = row.networks.split(", ")
        words += [f"{backbone} backbone" if backbone else "its own network", *own]
    if h.get("latent_dim") is not None and not row.sanity:
        words.append(f"{h['latent_dim']} latent dimensions")
    words += [row.likelihood] if row.likelihood and all(r.likelihood == row.likelihood for r in rows) else []
    words += ["uses labels"] if all(r.uses_labels for r in rows) else []
    words += ["seeds stacked"] if all(r.stacked for r in rows) else []
    words += [f"limited to {row.training['limit']:,} training images"] if row.training.get("limit") else []
    held = f"{row.training['validation']:,} images" if row.training.get("validation") else ""
    if row.scoring.get("split") == "validation":
        words.append(f"scored on {held or 'images'} held out of training: not on the test split")
    elif held:
        words.append(f"{held} held out")
    told = {"limit", "validation", "split"}
    known = [(getattr(row, part), key) for part, key in varied if key not in told and getattr(row, part)]
    words += [f"{key} {_short(values.get(key))}" for values, key in known]
    return " · ".join(words)


def _short(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) > 24 else value
    return "none" if text is None else show(text)


def decimals(lines: Sequence[Sequence[float]]) -> int:
    """Decimals that suit a column, given each line's values: -1 is scientific; means of counts get one."""
    values = [value for line in lines for value in line]
    if all(value == round(value) for value in values):
        return int(any(len(line) > 1 for line in lines))
    largest = max(map(abs, values), default=0.0)
    return next((d for limit, d in ((1e-3, -1), (0.1, 4), (10, 3), (1e3, 2), (1e5, 1)) if largest < limit), 0)


def printed(value: float, places: int) -> str:
    """`value` as it stands in a table, with a real minus sign and no negative zero."""
    text = f"{value:.2e}" if places < 0 else f"{value:.{places}f}"
    if text.startswith("-") and not float(text):
        text = text[1:]
    return text.replace("-", "−", 1) if text.startswith("-") else text
