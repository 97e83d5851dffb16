"""The cost of rows, averaged over seeds: seconds of training, of evidence and of each metric, parameters and memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from bench.contracts.protocol import canonical
from bench.contracts.row import Row
from bench.util.text import escape_markdown

SHARED = (
    "evidence: drawn from every trained model before the first metric; further evidence that several metrics share is "
    "counted at the first of them"
)
TOTALS = "training, evidence and metrics in seconds; share: scoring (evidence and metrics) relative to training"
LEAST = 0.05  #: seconds below which a metric has no line of its own
MEMORY = "peak memory: of the process; on a GPU, of the device"


@dataclass(frozen=True)
class Cost:
    """The cost of a label on a dataset: means over its finished seeds, None where no row has it."""

    dataset: str
    label: str
    machine: str  #: with the number of threads: seconds of different machines are not averaged
    seeds: int
    trained: bool  #: False for a model that takes no steps
    parameters: float | None
    train_seconds: float | None
    evidence_seconds: float | None
    peak_mib: float | None
    metrics: Mapping[str, float]  #: seconds of each

    @property
    def score_seconds(self) -> float:
        """Seconds of evidence and of all metrics."""
        return sum(self.metrics.values()) + (self.evidence_seconds or 0.0)

    @property
    def share(self) -> float | None:
        """The time of scoring relative to that of training; None without training."""
        return self.score_seconds / self.train_seconds if self.trained and self.train_seconds else None

    def to_json(self) -> dict[str, Any]:
        names = ("dataset", "label", "machine", "seeds", "parameters", "train_seconds", "evidence_seconds", "peak_mib")
        document = {name: getattr(self, name) for name in names}
        return {**document, "score_seconds": self.score_seconds, "share": self.share, "metrics": dict(self.metrics)}


def costs(rows: Iterable[Row]) -> list[Cost]:
    """Return the costs of finished rows for each label, dataset, machine and training protocol, in the rows' order."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        if row.status == "ok":
            key = (row.dataset, row.label, _machine(row), row.steps, canonical(dict(row.training)))
            groups.setdefault(key, []).append(row)
    return [_cost(members) for members in groups.values()]


def _machine(row: Row) -> str:
    p = row.provenance
    threads = f"{p['threads']} thread{'' if p['threads'] == 1 else 's'}" if p.get("threads") else ""
    return ", ".join(filter(None, [str(p.get("device_name") or p.get("device") or ""), threads]))


def _cost(rows: Sequence[Row]) -> Cost:
    def mean(name: str) -> float | None:
        values = [row.costs[name] for row in rows if row.costs.get(name) is not None]
        return fmean(values) if values else None

    names = dict.fromkeys(name for row in rows for name in row.seconds)
    metrics = {name: fmean([row.seconds[name] for row in rows if name in row.seconds]) for name in names}
    return Cost(
        rows[0].dataset,
        rows[0].label,
        _machine(rows[0]),
        len(rows),
        any(sum(row.steps) for row in rows),
        mean("parameters"),
        mean("train_seconds"),
        mean("evidence_seconds"),
        mean("peak_mib"),
        metrics,
    )


def seconds(value: float) -> str:
    """Return seconds with three digits, or two decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


_HEADS = ("", "seeds", "parameters", "training", "evidence", "metrics", "share", "peak MiB")


def _line(cost: Cost) -> list[str]:
    def text(value: float | None, form: Any) -> str:
        return "n/a" if value is None else str(form(value))

    return [
        cost.label,
        str(cost.seeds),
        text(cost.parameters, lambda v: f"{v:,.0f}"),
        text(cost.train_seconds, seconds),
        text(cost.evidence_seconds, seconds),
        seconds(sum(cost.metrics.values())),
        text(cost.share, lambda v: f"{v:.0%}"),
        text(cost.peak_mib, lambda v: f"{v:,.0f}"),
    ]


@dataclass(frozen=True)
class _Grid:
    """Two tables of one dataset and machine: totals, and each metric's seconds."""

    title: str
    totals: Sequence[Sequence[str]]
    metrics: Sequence[Sequence[str]]  #: a line for each metric, the slowest first; a column for each label
    labels: Sequence[str]
    rest: str  #: the sentence on metrics without a line of their own


def _grids(every: Iterable[Cost]) -> list[_Grid]:
    groups: dict[tuple[str, str], list[Cost]] = {}
    for cost in every:
        groups.setdefault((cost.dataset, cost.machine), []).append(cost)
    grids = []
    for (dataset, machine), members in groups.items():
        names = dict.fromkeys(name for cost in members for name in cost.metrics)
        most = {name: max(cost.metrics.get(name, 0.0) for cost in members) for name in names}
        slowest = sorted((name for name in names if most[name] >= LEAST), key=lambda name: -most[name])
        few = len(names) - len(slowest)
        rest = f"and {few} more metric{'' if few == 1 else 's'}, below {LEAST} s each" if few else ""
        lines = [[n, *(seconds(c.metrics[n]) if n in c.metrics else "" for c in members)] for n in slowest]
        title = " · ".join(filter(None, [dataset, machine]))
        grids.append(_Grid(title, [_line(cost) for cost in members], lines, [cost.label for cost in members], rest))
    return grids


def printed(rows: Iterable[Row], width: int = 100) -> list[Table | Text]:
    """Return what `bench table --costs` prints in a terminal of `width` columns."""
    out: list[Table | Text] = []
    for grid in _grids(costs(rows)):
        out.append(Text(f"{grid.title} · means over seeds", "bold"))
        out += [_table(_HEADS, grid.totals), Text("")]
        names = max((len(line[0]) for line in grid.metrics), default=0)
        for start, end in _parts([len(label) for label in grid.labels], width - names):
            heads = ("seconds of", *grid.labels[start:end])
            out += [_table(heads, [[line[0], *line[1 + start : 1 + end]] for line in grid.metrics])]
            out += [*([Text(grid.rest, "dim")] if grid.rest else []), Text("")]
    return [*out, *(Text(line, "dim") for line in (TOTALS, SHARED, MEMORY))]


def _parts(widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Return ranges of columns that fit into `room`, each with at least one."""
    parts, start, used = [], 0, 0
    for i, width in enumerate(widths):
        if i > start and used + width + 2 > room:
            parts.append((start, i))
            start, used = i, 0
        used += width + 2
    return [*parts, (start, len(widths))]


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if i else "left", no_wrap=not i)
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def markdown(rows: Iterable[Row]) -> str:
    """Return the same as Markdown."""
    out = []
    for grid in _grids(costs(rows)):
        out += [f"### {escape_markdown(grid.title)}", ""]
        for heads, lines in ((_HEADS, grid.totals), (("seconds of", *grid.labels), grid.metrics)):
            out += [_pipes(heads), _pipes([":--", *["--:"] * (len(heads) - 1)]), *map(_pipes, lines), ""]
        out += [grid.rest, ""] if grid.rest else []
    return "\n".join([*out, f"{TOTALS}  ", f"{SHARED}  ", MEMORY, ""])


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"
