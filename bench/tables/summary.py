"""Rows aggregated over seeds, as people read them: plain data that terminal, notebook, report and files render."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from bench.contracts.measurement import Score
from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show
from bench.tables import below
from bench.tables.below import Below, Scored
from bench.tables.columns import Column, Scores, chosen, columns, cost_columns, layout, reading_order, scores
from bench.tables.numbers import certain, decimals, duration, printed
from bench.tables.ranking import Mark, Ranking, overall, rank
from bench.util.errors import NotAvailable, UsageError
from bench.util.wording import ranged

NOT_RANKED = "for reference (not ranked)"
NO_RESULT = "no result"
RANKED = "ranked"
MISSING = "–"
MOST = 4  #: columns whose best of all blocks is said in a line


@dataclass(frozen=True)
class Value:
    """A column's value in one line: mean and standard deviation over `n` seeds."""

    n: int = 0
    mean: float | None = None  #: None: no seed has a score
    sd: float | None = None  #: None: fewer than two seeds
    text: str = MISSING
    sd_text: str = ""
    mark: Mark = ""  #: best of its block, or no significant difference from the best
    reason: str = ""  #: why no seed has a score


@dataclass(frozen=True)
class VariantLine:
    """A variant with its hyperparameters on one dataset, over its seeds."""

    label: str
    variant: str
    steps: str  #: '4690+4690' for two stages
    rows: tuple[Row, ...]  #: of the seeds that have a result
    seeds_requested: int  #: with those that have none
    values: Mapping[str, Value]  #: by column
    reference: bool  #: the baseline or a reference row: not ranked
    uses_labels: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(row.seed for row in self.rows))


@dataclass(frozen=True)
class Block:
    """Lines that are ranked against each other, or lines that are not ranked."""

    heading: str
    lines: tuple[VariantLine, ...]


@dataclass(frozen=True)
class DatasetTable:
    """All lines of one dataset."""

    dataset: str
    caption: str  #: dataset, seeds, steps and images, as far as the lines have them in common
    columns: tuple[Column, ...]  #: those chosen that have a score
    blocks: tuple[Block, ...]
    below: Below
    explicit: bool  #: the reader named the columns: none of them may be left out

    @property
    def lines(self) -> list[VariantLine]:
        return [line for block in self.blocks for line in block.lines]


def summary(
    rows: Iterable[Row], names: Sequence[str] = (), tuning: Sequence[str] | None = None, sort: str = ""
) -> list[DatasetTable]:
    """Return a table for each dataset: rows aggregated over seeds, ranked in blocks of comparable lines.

    Datasets and lines keep the order of `rows`; reference lines come last.

    Args:
        names: the columns, as `bench.tables.columns.chosen` takes them; none is the declared default.
        tuning: how the rows' settings were chosen, in words; None: what the rows themselves show of it.
        sort: a column by which the lines of each block are ordered, the best first.

    Raises:
        UnknownName: there is no such column.
        UsageError: `sort` names a column that is not chosen.
    """
    rows = list(rows)
    known = [*reading_order(columns(rows)), *cost_columns()]
    every = list(zip(rows, scores(rows, known), strict=True))
    return [
        _table(dataset, [pair for pair in every if pair[0].dataset == dataset], known, names, tuning, sort)
        for dataset in dict.fromkeys(row.dataset for row in rows)
    ]


@dataclass
class _Draft:
    """The rows of one line with their scores: those that have a result, and the others."""

    ok: list[tuple[Row, Scores]] = field(default_factory=list)
    others: list[tuple[Row, Scores]] = field(default_factory=list)

    @property
    def row(self) -> Row:
        return (self.ok or self.others)[0][0]

    @property
    def rows(self) -> list[Row]:
        return [row for row, _ in self.ok]

    def by_seed(self, column: str) -> dict[int, float]:
        return {row.seed: s.value for row, by_name in self.ok if isinstance(s := by_name[column], Score)}

    def values(self, column: str) -> list[float]:
        return list(self.by_seed(column).values())


_Blocks = dict[tuple[str, Hashable], list[_Draft]]


def _table(
    dataset: str,
    every: Sequence[tuple[Row, Scores]],
    known: Sequence[Column],
    names: Sequence[str],
    tuning: Sequence[str] | None,
    sort: str,
) -> DatasetTable:
    drafts, repeated = _drafts(every)

    def scored(column: Column) -> bool:
        return any(draft.values(column.name) for draft in drafts)

    wanted = chosen(known, names, scored)
    shown = [column for column in wanted if scored(column)]
    places = {c.name: _places(drafts, c) for c in shown}
    blocks = _blocks(_sorted(drafts, wanted, sort))
    rankings = {key: {c.name: _ranking(members, drafts, c) for c in shown} for key, members in blocks.items()}
    headings = _headings(blocks)
    made = tuple(
        Block(headings[key], tuple(_line(draft, i, shown, places, rankings[key]) for i, draft in enumerate(members)))
        for key, members in blocks.items()
    )
    explicit = bool(names) and not all(name.startswith(("+", "-")) for name in names)
    text = _below(drafts, made, shown, wanted, known, blocks, rankings, places, repeated, tuning, explicit)
    return DatasetTable(dataset, _caption(dataset, drafts), tuple(shown), made, text, explicit)


def _drafts(every: Sequence[tuple[Row, Scores]]) -> tuple[list[_Draft], list[str]]:
    """Return a draft for each line, in the rows' order, and the cells found twice (in overlapping runs)."""
    drafts: dict[Hashable, _Draft] = {}
    repeated: dict[str, None] = {}
    for row, by_name in every:
        if row.status != "ok":
            continue
        draft = drafts.setdefault((row.label, row.steps, _comparable(row)), _Draft())
        counted = next((other for other, _ in draft.ok if other.seed == row.seed), None)
        if counted is None:
            draft.ok.append((row, by_name))
        else:
            which = "" if counted.cell == row.cell else f" ({counted.cell}, not {row.cell})"
            repeated[f"{row.label} seed {row.seed}{which}"] = None
    for row, by_name in every:
        if row.status != "ok":
            named = [d for d in drafts.values() if d.ok and d.row.label == row.label]
            alike = [d for d in named if _trained_alike(d.row, row)] or (named if len(named) == 1 else [])
            draft = alike[0] if len(alike) == 1 else drafts.setdefault((row.label, None), _Draft())
            draft.others.append((row, by_name))
    position = {row.label: i for i, (row, _) in reversed(list(enumerate(every)))}
    return sorted(drafts.values(), key=lambda d: position[d.row.label]), list(repeated)


def _trained_alike(a: Row, b: Row) -> bool:
    """Return whether two rows are of one line, as far as a row without scores can tell."""
    parts = [[dict(row.training), dict(row.data)] for row in (a, b)]
    return (a.block, a.steps) == (b.block, b.steps) and canonical(parts[0]) == canonical(parts[1])


def _comparable(row: Row) -> Hashable:
    """Return what two rows must have in common to be ranked in one block."""
    return (*row.block, _protocols(row))


def _protocols(row: Row) -> str:
    return canonical([dict(row.training), dict(row.scoring), dict(row.data)])


def _sorted(drafts: Sequence[_Draft], wanted: Sequence[Column], sort: str) -> list[_Draft]:
    if not sort:
        return list(drafts)
    column = next((c for c in wanted if c.name == sort), None)
    if column is None:
        names = ", ".join(c.name for c in wanted)
        raise UsageError(f"the table has no column {sort!r} to sort by", cause=f"It shows {names}.")
    sign = -1 if column.direction == "higher" else 1
    means = {id(d): sign * fmean(values) for d in drafts if (values := d.values(sort))}
    return sorted(drafts, key=lambda d: means.get(id(d), float("inf")))


def _blocks(drafts: Iterable[_Draft]) -> _Blocks:
    """Return the lines by block: comparable ones first, then reference lines, then those without a result.

    The key of a block tells its kind first: NOT_RANKED, NO_RESULT, or RANKED.
    """
    blocks: _Blocks = {}
    for draft in sorted(drafts, key=lambda d: (not d.ok, d.row.sanity, d.row.baseline)):
        kind = NO_RESULT if not draft.ok else NOT_RANKED if draft.row.reference else RANKED
        alike = {NO_RESULT: None, NOT_RANKED: _protocols(draft.row), RANKED: _comparable(draft.row)}[kind]
        blocks.setdefault((kind, alike), []).append(draft)
    return blocks


def _places(drafts: Sequence[_Draft], column: Column) -> int:
    lines = [draft.values(column.name) for draft in drafts]
    return certain(decimals(lines), [stdev(values) for values in lines if len(values) > 1])


def _ranking(drafts: Sequence[_Draft], every: Sequence[_Draft], column: Column) -> Ranking:
    places = decimals([draft.values(column.name) for draft in every])
    lines = {i: d.by_seed(column.name) for i, d in enumerate(drafts) if d.values(column.name) and not d.row.reference}
    return rank(lines, {i: d.row.label for i, d in enumerate(drafts)}, column.direction, places)


def _line(
    draft: _Draft,
    position: int,
    shown: Sequence[Column],
    places: Mapping[str, int],
    rankings: Mapping[str, Ranking],
) -> VariantLine:
    row = draft.row
    values = {c.name: _value(draft, c, places[c.name], rankings[c.name].marks.get(position, "")) for c in shown}
    requested = len({r.seed for r, _ in (*draft.ok, *draft.others)})
    return VariantLine(
        row.label, row.variant, row.steps_text, tuple(draft.rows), requested, values, row.reference, row.uses_labels
    )


def _value(draft: _Draft, column: Column, places: int, mark: Mark) -> Value:
    values = draft.values(column.name)
    if not values:
        missing = (by_name[column.name] for _, by_name in draft.ok or draft.others)
        reasons = dict.fromkeys(below.one_line(score) for score in missing if isinstance(score, NotAvailable))
        return Value(reason="; ".join(reasons))
    mean, sd = fmean(values), stdev(values) if len(values) > 1 else None
    if column.cost:
        return Value(len(values), mean, sd, duration(mean))
    return Value(len(values), mean, sd, printed(mean, places), "" if sd is None else printed(sd, places), mark)


# the words above and beside a table


def _caption(dataset: str, drafts: Sequence[_Draft]) -> str:
    """Return what all lines have in common; steps of a few exceptions in parentheses."""
    rows = [row for draft in drafts for row in draft.rows]
    seeds = sorted({row.seed for draft in drafts for row, _ in (*draft.ok, *draft.others)})
    words = [dataset, f"seed{'' if len(seeds) == 1 else 's'} {ranged(seeds)}"]
    trained = [(d.row.label, _thousands(d.row)) for d in drafts if d.ok and any(d.row.steps)]
    if trained:
        counts = Counter(text for _, text in trained)
        common = max(counts, key=lambda text: (counts[text], text))
        others = [f"{label} {text}" for label, text in trained if text != common]
        apart = f" ({', '.join(others) if len(others) <= 3 else f'{len(others)} variants differ'})" if others else ""
        words.append(f"{common} steps{apart}")
    words += _common(_limited(row) for row in rows if row.training)
    words += _common(map(_scored, rows))
    return " · ".join(words)


def _thousands(row: Row) -> str:
    return "+".join(f"{n:,}" for n in row.steps)


def _limited(row: Row) -> str:
    return f"first {limit:,} training images" if (limit := row.training.get("limit")) else ""


def _scored(row: Row) -> str:
    split = {"test": "test images", "validation": "validation images"}.get(str(row.scoring.get("split")), "images")
    return f"{row.scored_images:,} {split}" if row.scored_images else ""


def _common(texts: Iterable[str]) -> list[str]:
    """Return the text that holds for all rows; none if they differ."""
    different = set(texts)
    return [text for text in different if text and len(different) == 1]


def _headings(blocks: _Blocks) -> dict[Hashable, str]:
    """Return a heading for each block: backbone and latent size, and whatever else the blocks differ in."""
    firsts = {key: members[0].row for key, members in blocks.items() if key[0] != NO_RESULT}
    varied = _varied(list(firsts.values()))
    likelihoods = {row.likelihood for (kind, _), row in firsts.items() if kind == RANKED}
    headings: dict[Hashable, str] = {key: key[0] for key in blocks}
    for key, row in firsts.items():
        words = [NOT_RANKED] if key[0] == NOT_RANKED else _common_to_block(row, blocks[key], len(likelihoods) > 1)
        parts = [(getattr(row, part), name) for part, name in varied if getattr(row, part)]
        words += [f"{name} {_short(values.get(name))}" for values, name in parts]
        headings[key] = " · ".join(words)
    return headings


def _common_to_block(row: Row, members: Sequence[_Draft], likelihoods_differ: bool) -> list[str]:
    words = [row.networks or "own networks"] if row.training else [_from_file(row)]
    if (size := row.hyperparameters.get("latent_dim")) is not None:
        words.append(f"{size} latent")
    words += [row.likelihood] if likelihoods_differ and row.likelihood else []
    words += ["uses labels"] if row.uses_labels else []
    return words + (["seeds trained together"] if all(r.stacked for draft in members for r in draft.rows) else [])


def _from_file(row: Row) -> str:
    count = f"{row.scoring['samples']:,} samples" if "samples" in row.scoring else "samples"
    return f"{count} from a file, training unknown"


def _varied(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the fields of protocols and data in which rows differ: (part, field)."""
    rows = [row for row in rows if row.training and row.scoring]  # nothing is known of samples from a file
    parts = ("training", "scoring", "data")
    fields = [(part, key) for part in parts for key in sorted({key for row in rows for key in getattr(row, part)})]
    return [(part, key) for part, key in fields if len({canonical(getattr(row, part).get(key)) for row in rows}) > 1]


def _short(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) > 24 else value
    return "none" if text is None else show(text)


# the text below


def _below(
    drafts: Sequence[_Draft],
    made: Sequence[Block],
    shown: Sequence[Column],
    wanted: Sequence[Column],
    known: Sequence[Column],
    blocks: _Blocks,
    rankings: Mapping[tuple[str, Hashable], Mapping[str, Ranking]],
    places: Mapping[str, int],
    repeated: Sequence[str],
    tuning: Sequence[str] | None,
    explicit: bool,
) -> Below:
    lines = [Scored(d.row.label, d.row.reference, d.ok, d.others) for d in drafts]
    rows = [row for draft in drafts for row in draft.rows]
    ranked = {key: members for key, members in blocks.items() if key[0] == RANKED}
    values = [(line, line.values[c.name]) for block in made for line in block.lines for c in shown]
    best = _overall(ranked, shown, places) if len(ranked) > 1 else {}
    legend = below.overall_best(best) if len(best) <= MOST else []
    legend += below.legend(
        {value.mark for _, value in values},
        _seed_counts(made, shown),
        several_blocks=len(ranked) > 1,
        missing=any(value.mean is None for _, value in values),
    )
    legend += [] if explicit else below.instead(shown)
    empty = [column for column in known if column not in shown and (column in wanted or _first_choice(column, shown))]
    warned = below.warnings(lines, known)
    warned += [f"found more than once, counted once: {', '.join(repeated)}"] if repeated else []
    notes = [*below.column_notes(lines, [*shown, *empty]), *below.sentences(lines, known)]
    notes += below.chosen_settings(rows)
    few, apart = _unranked(ranked, rankings, "few"), _unranked(ranked, rankings, "apart")
    about = [*below.seeds_notes(lines, few, apart), *(below.untuned(rows) if tuning is None else tuning)]
    return Below(tuple(warned), tuple(legend), (*notes, *(("table", text) for text in about)))


def _first_choice(column: Column, shown: Sequence[Column]) -> bool:
    """Return whether a default column is not shown because an alternative is."""
    names = {c.name for c in shown}
    return any(column.name == first and names & set(others) for first, *others in layout().default)


def _seed_counts(blocks: Iterable[Block], shown: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the label and the number of seeds with a score, of each line that is not for reference."""
    lines = (line for block in blocks for line in block.lines if not line.reference)
    counts = [(line.label, max((line.values[c.name].n for c in shown), default=0)) for line in lines]
    return [(label, n) for label, n in counts if n]


def _overall(ranked: _Blocks, shown: Sequence[Column], places: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the best labels of all blocks by column; none if blocks differ in scoring, data or likelihood."""
    drafts = [draft for members in ranked.values() for draft in members]
    likelihoods = {d.row.likelihood for d in drafts if d.row.likelihood}
    if len({canonical([dict(d.row.scoring), dict(d.row.data)]) for d in drafts}) > 1 or len(likelihoods) > 1:
        return {}
    best = {}
    for c in shown:
        lines = [(d.row.label, values) for d in drafts if (values := d.by_seed(c.name))]
        if c.direction is not None and len({label for label, _ in lines}) > 1:
            best[c.name] = overall(lines, c.direction, places[c.name])
    return best


def _unranked(
    ranked: _Blocks, rankings: Mapping[tuple[str, Hashable], Mapping[str, Ranking]], which: str
) -> dict[str, list[str]]:
    """Return by column the lines that have too few seeds to be compared, or to be tested against the best."""
    found: dict[str, list[str]] = {}
    for key, members in ranked.items():
        for column, ranking in rankings[key].items():
            labels = [members[i].row.label for i in getattr(ranking, which)]
            if labels:
                found.setdefault(column, []).extend(labels)
    return found
