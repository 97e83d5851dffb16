"""`bench verify --why`: what a cell is named after, how it was scored, and whether a run would reuse it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from bench.contracts.protocol import ENGINE, RunRequest, Scoring, canonical, differences
from bench.contracts.row import Row
from bench.results.store import Run
from bench.running.grid import Cell, plugin_of, unversioned
from bench.running.identity import data_of, fits, plain, present, recorded
from bench.running.job import scoring_key
from bench.util import inside
from bench.util.durable import read_json_if_any
from bench.util.errors import BenchError, NotAvailable, StoreError
from bench.util.lease import held
from bench.util.text import plain as plain_text
from bench.util.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

SHORT = 16  # characters of a digest that are shown


@dataclass(frozen=True)
class Part:
    """One part of a cell's identity: as it was recorded, and as it would be now."""

    name: str
    then: Any
    now: Any  #: None where it can't be compared
    state: Literal["same", "differs", "not recorded", "not compared"]

    @property
    def difference(self) -> str:
        """How the two values differ; '' if they are equal or one of them is unknown."""
        if self.state == "not recorded" and self.now is not None:
            return f"not recorded, now {_value(self.now)}"
        if self.state != "differs":
            return ""
        if not isinstance(self.then, Mapping):
            return f"differs (then {_value(self.then)}, now {_value(self.now)})"
        each = differences(self.then, self.now)
        return "; ".join(f"{key} differs (then {_value(a)}, now {_value(b)})" for key, (a, b) in each.items())


@dataclass(frozen=True)
class ScoreFile:
    """One way in which a cell was scored; `differs` names the settings that are others now, None if unknown."""

    file: str
    scoring: Mapping[str, Any]
    scored: tuple[str, ...]
    not_available: tuple[str, ...]
    differs: tuple[str, ...] | None


@dataclass(frozen=True)
class Explanation:
    """The state of a cell."""

    run: str
    cell: str
    status: str  #: of its row; 'no result' where there is none
    reason: str
    about: str  #: when and on what machine it was made
    fits: bool | None  #: whether its folder is named after its identity; None: the row doesn't say enough
    parts: tuple[Part, ...]
    ways: tuple[ScoreFile, ...]
    failures: int
    others: int  #: results of the same cell with other weights
    checkpoint: int | None  #: step of the last checkpoint
    lease: Mapping[str, Any] | None  #: host and number of the process that is training it
    reused: bool | None  #: whether a run would use it as it is; None if unknown
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(store: Run, cell: str, data_root: str | None = None) -> Explanation:
    """Explain one cell. Downloads nothing: what depends on a dataset that isn't here is not compared.

    Raises:
        StoreError: there is no such cell, or it can't be read.
    """
    home = store.cells / cell
    if not home.is_dir() and not home.is_symlink():
        raise StoreError(f"no cell lies at {home}")
    row = store.row(cell)
    parts, now, obstacle = _compare(row, store.request() if store.exists() else RunRequest(), data_root)
    reused, verdict = _verdict(store, cell, row, parts, now, obstacle)
    checkpoint = _checkpoint(store, cell)
    if checkpoint is not None and not reused:
        verdict += f"; a run of the same identity goes on from step {checkpoint:,}"
    return Explanation(
        run=plain_text(str(store.path)),
        cell=plain_text(cell),
        status=row.status if row else "no result",
        reason=row.reason if row else "",
        about=_about(row) if row else "",
        fits=fits(row) if row else None,
        parts=parts,
        ways=tuple(_score_files(store, cell, now)),
        failures=len(store.failures(cell)),
        others=len(store.others(cell)),
        checkpoint=checkpoint,
        lease=_holder(store, cell),
        reused=reused,
        verdict=verdict,
    )


def _compare(row: Row | None, request: RunRequest, root: str | None) -> tuple[tuple[Part, ...], Cell | None, str]:
    """Return the parts of a row's identity, the cell that it would be now, and what keeps that from being known."""
    if row is None or not row.plugin:
        return (), None, ""
    now: dict[str, Any] = {"engine": ENGINE}
    c, obstacle = None, ""
    try:
        now |= {"variant": row.variant, "plugin": unversioned(plugin_of(row.variant))}
        c = present(row, data_of(row, request, root))
        now = plain(c.identity)
    except (BenchError, KeyError, TypeError) as error:
        obstacle = error.brief if isinstance(error, BenchError) else f"its row lacks {error}"
    return tuple(_part(name, then, now.get(name)) for name, then in recorded(row).items()), c, obstacle


def _part(name: str, then: Any, now: Any) -> Part:
    if then in ("", None):
        return Part(name, None, now, "not recorded")
    if now is None:
        return Part(name, then, None, "not compared")
    return Part(name, then, now, "same" if then == now else "differs")


def _verdict(
    store: Run, cell: str, row: Row | None, parts: tuple[Part, ...], now: Cell | None, obstacle: str
) -> tuple[bool | None, str]:
    """Return whether a run would reuse the cell (None if unknown), and a sentence that says why."""
    if row is None:
        return False, "there is no result to use"
    if row.status == "damaged":
        return False, "a run moves it to damaged/ and trains it anew"
    if not row.plugin:
        return False, "a run tries it again: its variant could not be loaded, so its identity was never settled"
    why = [f"{part.name} {part.difference}" for part in parts if part.state == "differs"]
    if not why and now is not None and now.name != cell:
        why = [f"{part.name} {part.difference}" for part in parts if part.difference] or [f"it is {now.name} now"]
    if why:
        verb = "train it anew" if row.status == "ok" else "try it again"
        return False, f"a run would {verb}, in a folder of its own: {', '.join(why)}"
    if now is None:
        return None, f"unknown whether a run would use it: {obstacle}"
    if row.status == "ok":
        return True, "a run uses it as it is, and computes the scores that it lacks"
    if store.has_ended(cell):
        return True, "a run keeps the failure as it is; --retry-failed tries it again"
    return False, "a run tries it again"


def _score_files(store: Run, cell: str, now: Cell | None) -> list[ScoreFile]:
    files = []
    for path, scoring in store.scorings(cell).items():
        scores = store.read_scores(cell, scoring)
        missing = tuple(name for name, score in scores.items() if isinstance(score, NotAvailable))
        differs = tuple(differences(scoring, scoring_key(now))) if now else None
        if now is None:  # which images would be scored is unknown, so only the settings are compared
            settings = {name: value for name, value in scoring.items() if name in asdict(Scoring())}
            differs = tuple(differences(settings, Scoring().document())) or None
        files.append(ScoreFile(path.stem, scoring, tuple(n for n in scores if n not in missing), missing, differs))
    return files


def _checkpoint(store: Run, cell: str) -> int | None:
    """Return the step of a cell's last checkpoint."""
    steps: list[int] = []
    with suppress(StoreError):
        entries = inside.entries(store.work(cell) / "checkpoints")
        steps = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    return max(steps, default=None)


def _about(row: Row) -> str:
    p = row.provenance
    threads = f", {counted(p['threads'], 'thread')}" if "threads" in p else ""
    facts = [f"{'+'.join(f'{s:,}' for s in row.steps)} steps" if row.steps and row.status == "ok" else ""]
    facts += [f"on {p['device']}{threads}" if "device" in p else "", f"torch {p['torch']}" if "torch" in p else ""]
    return "; ".join(filter(None, [*facts, str(p.get("ended", ""))]))


def _holder(store: Run, cell: str) -> dict[str, Any] | None:
    """Return host and number of the living process that has the cell's lease; None where there is none."""
    path = store.cells / cell / "lease.json"
    if not held(path):
        return None
    owner: Mapping[str, Any] = {}
    with suppress(StoreError):
        owner = read_json_if_any(path) or {}
    return {key: owner[key] for key in ("host", "pid") if key in owner}


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print one cell on one screen."""
    console.print(Text.assemble((explanation.cell, "bold"), f"  in {explanation.run}"), soft_wrap=True)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("state", Text("\n".join(_state(explanation))))
    if explanation.parts:
        named = "its row doesn't say enough to check the folder's name"
        if explanation.fits is not None:
            named = "its folder is named after it" if explanation.fits else "its folder is NOT named after it"
        grid.add_row("identity", Text(named))
    for part in explanation.parts:
        grid.add_row(f"  {part.name}", Text(_line(part)))
    for way in explanation.ways:
        grid.add_row("scored", Text(_scored(way)))
    if not explanation.ways:
        grid.add_row("scored", "not yet")
    grid.add_row("reuse", Text(explanation.verdict))
    console.print(grid)


def _state(explanation: Explanation) -> list[str]:
    lines = [f"{explanation.status}: {explanation.reason}" if explanation.reason else explanation.status]
    lines += [explanation.about] if explanation.about else []
    if explanation.lease is not None:
        lines.append(
            f"process {explanation.lease.get('pid', '?')} on {explanation.lease.get('host', '?')} is training it"
        )
    if explanation.checkpoint is not None:
        lines.append(f"checkpoint at step {explanation.checkpoint:,}")
    if explanation.failures:
        lines.append(f"{counted(explanation.failures, 'failure')} in failed/, with logs")
    if explanation.others:
        lines.append(f"{counted(explanation.others, 'other result')} in different/")
    return lines


def _line(part: Part) -> str:
    if part.state == "not recorded":
        return part.difference or "not recorded"
    text = _settings(part.then) if isinstance(part.then, Mapping) else str(part.then)
    return f"{text}\n{part.difference}" if part.difference else text + ("  (not compared)" if part.now is None else "")


def _scored(way: ScoreFile) -> str:
    lines = [f"{way.file}: {_settings(way.scoring)}", f"has {', '.join(way.scored) or 'no number'}"]
    lines += [f"n/a: {', '.join(way.not_available)}"] if way.not_available else []
    if way.differs is not None:
        lines.append(f"a run scores otherwise now: {', '.join(way.differs)}" if way.differs else "as a run scores now")
    return "\n".join(lines)


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"
