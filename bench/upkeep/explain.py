"""A cell, explained: what its identity is made of, how it was scored, whether a run would use it as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
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

if TYPE_CHECKING:
    from rich.console import Console

SHORT = 16  # letters of a digest that are shown


@dataclass(frozen=True)
class Part:
    """One part of an identity, as it was and as it would be now."""

    name: str
    then: Any
    now: Any  #: None where it isn't compared
    state: Literal["same", "differs", "not recorded", "not compared"]

    @property
    def difference(self) -> str:
        """What differs, '' if nothing does or if that isn't known."""
        if self.state == "not recorded" and self.now is not None:
            return f"not recorded, now {_value(self.now)}"
        if self.state != "differs":
            return ""
        if not isinstance(self.then, Mapping):
            return f"differs (then {_value(self.then)}, now {_value(self.now)})"
        each = differences(self.then, self.now)
        return "; ".join(f"{key} differs (then {_value(a)}, now {_value(b)})" for key, (a, b) in each.items())


@dataclass(frozen=True)
class Way:
    """One way in which a cell is scored; `differs`: in what from today's, None where that isn't known."""

    file: str
    scoring: Mapping[str, Any]
    scored: tuple[str, ...]
    not_available: tuple[str, ...]
    differs: tuple[str, ...] | None


@dataclass(frozen=True)
class Explanation:
    """All there is to say about a cell."""

    run: str
    cell: str
    status: str  #: of its row; 'nothing yet' where there is none
    reason: str
    about: str  #: when it was made, and on what
    fits: bool | None  #: whether its folder is named after its identity; None: its row doesn't say enough
    parts: tuple[Part, ...]
    ways: tuple[Way, ...]
    failures: int
    others: int  #: results that should have been equal
    checkpoint: int | None  #: at which step
    lease: Mapping[str, Any] | None  #: the living process that is at it
    reused: bool | None  #: whether a run would use it as it is
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(store: Run, cell: str, data_root: str | None = None) -> Explanation:
    """Explain one cell. Downloads nothing: without its dataset, what depends on that isn't compared.

    Raises:
        StoreError: there is no such cell, or it can't be read.
    """
    home = store.cells / cell
    if not home.is_dir() and not home.is_symlink():
        raise StoreError(f"no cell lies at {home}")
    row = store.row(cell)
    parts, now, obstacle = _compare(row, store.request() if store.exists() else RunRequest(), data_root)
    names = [entry.name for entry in _folder(store.work(cell) / "checkpoints")]
    checkpoint = max((int(name) for name in names if name.isdecimal()), default=None)
    reused, verdict = _verdict(store, cell, row, parts, now, obstacle)
    if checkpoint is not None and not reused:
        verdict += f"; a run of the same identity goes on from step {checkpoint:,}"
    return Explanation(
        run=plain_text(str(store.path)),
        cell=plain_text(cell),
        status=row.status if row else "nothing yet",
        reason=row.reason if row else "",
        about=_about(row) if row else "",
        fits=fits(row) if row else None,
        parts=parts,
        ways=tuple(_ways(store, cell, now)),
        failures=len(store.failures(cell)),
        others=len(store.others(cell)),
        checkpoint=checkpoint,
        lease=_holder(store, cell),
        reused=reused,
        verdict=verdict,
    )


def _compare(row: Row | None, request: RunRequest, root: str | None) -> tuple[tuple[Part, ...], Cell | None, str]:
    """The parts of an identity, the cell that it would be now, and what keeps us from knowing that."""
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
    if row is None:
        return False, "there is no result to use"
    if row.status == "damaged":
        return False, "a run puts it aside, and makes it anew"
    if not row.plugin:
        return False, "a run tries it anew: its variant didn't work, so its identity was never settled"
    anew = "train it anew" if row.status == "ok" else "try it anew"
    why = [f"{part.name} {part.difference}" for part in parts if part.state == "differs"]
    if not why and now is not None and now.name != cell:
        why = [f"{part.name} {part.difference}" for part in parts if part.difference] or [f"it is {now.name} now"]
    if why:
        return False, f"a run would {anew}, in a folder of its own: {', '.join(why)}"
    if now is None:
        return None, f"whether a run would use it can't be told: {obstacle}"
    if row.status == "ok":
        return True, "a run uses it as it is, and computes the scores that it lacks"
    if store.has_ended(cell):
        return True, "a run keeps the failure as it is; --retry-failed tries it again"
    return False, "a run tries it again"


def _ways(store: Run, cell: str, now: Cell | None) -> list[Way]:
    found = []
    for path, scoring in store.scorings(cell).items():
        scores = store.read_scores(cell, scoring)
        missing = tuple(name for name, score in scores.items() if isinstance(score, NotAvailable))
        differs = tuple(differences(scoring, scoring_key(now))) if now else None
        if now is None:
            today = Scoring().document()
            known = {name: value for name, value in scoring.items() if name in asdict(Scoring())}
            differs = tuple(differences(known, today)) or None
        found.append(Way(path.stem, scoring, tuple(n for n in scores if n not in missing), missing, differs))
    return found


def _about(row: Row) -> str:
    p = row.provenance
    threads = f", {p['threads']} thread{'' if p['threads'] == 1 else 's'}" if "threads" in p else ""
    facts = [f"{'+'.join(f'{s:,}' for s in row.steps)} steps" if row.steps and row.status == "ok" else ""]
    facts += [f"on {p['device']}{threads}" if "device" in p else "", f"torch {p['torch']}" if "torch" in p else ""]
    return "; ".join(filter(None, [*facts, str(p.get("ended", ""))]))


def _holder(store: Run, cell: str) -> dict[str, Any] | None:
    path = store.cells / cell / "lease.json"
    if not held(path):
        return None
    owner: Mapping[str, Any] = {}
    with suppress(StoreError):
        owner = read_json_if_any(path) or {}
    return {key: owner[key] for key in ("host", "pid") if key in owner}


def _folder(path: Path) -> list[os.DirEntry[str]]:
    with suppress(StoreError):
        return inside.entries(path)
    return []


def _settings(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def print_explanation(found: Explanation, console: Console) -> None:
    """One cell on one screen."""
    console.print(Text.assemble((found.cell, "bold"), f"  in {found.run}"), soft_wrap=True)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("state", Text("\n".join(_state(found))))
    if found.parts:
        named = "its row doesn't say enough to check the folder's name"
        if found.fits is not None:
            named = "its folder is named after it" if found.fits else "its folder is NOT named after it"
        grid.add_row("identity", Text(named))
    for part in found.parts:
        grid.add_row(f"  {part.name}", Text(_line(part)))
    for way in found.ways:
        grid.add_row("scored", Text(_scored(way)))
    if not found.ways:
        grid.add_row("scored", "not yet")
    grid.add_row("reuse", Text(found.verdict))
    console.print(grid)


def _state(found: Explanation) -> list[str]:
    lines = [f"{found.status}: {found.reason}" if found.reason else found.status]
    lines += [found.about] if found.about else []
    if found.lease is not None:
        lines.append(f"process {found.lease.get('pid', '?')} on {found.lease.get('host', '?')} is at it")
    if found.checkpoint is not None:
        lines.append(f"checkpoint at step {found.checkpoint:,}")
    if found.failures:
        lines.append(f"{found.failures} failure{'' if found.failures == 1 else 's'} kept, with logs")
    if found.others:
        lines.append(f"{found.others} other result{'' if found.others == 1 else 's'} in different/")
    return lines


def _line(part: Part) -> str:
    if part.state == "not recorded":
        return part.difference or "not recorded"
    text = _settings(part.then) if isinstance(part.then, Mapping) else str(part.then)
    return f"{text}\n{part.difference}" if part.difference else text + ("  (not compared)" if part.now is None else "")


def _scored(way: Way) -> str:
    lines = [f"{way.file}: {_settings(way.scoring)}", f"has {', '.join(way.scored) or 'no number'}"]
    lines += [f"n/a {', '.join(way.not_available)}"] if way.not_available else []
    if way.differs is not None:
        lines.append(f"not today's way: {', '.join(way.differs)}" if way.differs else "today's way")
    return "\n".join(lines)
