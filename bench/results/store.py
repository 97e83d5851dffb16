"""Results on disk: a run is a folder, a cell a folder in it, and each result appears whole, by one rename.

results/<name>/run.json                     the request
results/<name>/names.json                   what data are called now, if that has changed
results/<name>/cells/<slug>-<hash>/done/           cell.json, weights, history, evidence, images, log, SHA256SUMS
                                  /scores/<hash>.json
                                  /failed/<n>/     cell.json, log
                                  /different/<n>/  a result that should have been equal and wasn't
                                  /work/           checkpoints, log and events of attempts under way
                                  /lease.json      who is at it
"""

from __future__ import annotations

import csv
import errno
import gc
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.contracts.measurement import Score
from bench.contracts.naming import alike, called
from bench.contracts.protocol import HOW, RunRequest, digest
from bench.contracts.row import Row, damaged, row_of, score_document, scored_of, with_values
from bench.util import inside
from bench.util.durable import (
    SUMS,
    appear,
    damage,
    own_sum_fits,
    parsed,
    read_json,
    read_json_if_any,
    repair,
    sha256,
    sums,
    sweep,
    sync,
    unreadable,
    write_json,
    writing,
)
from bench.util.errors import Damaged, NotAvailable, StoreError, UsageError
from bench.util.process import make_folder
from bench.util.text import plain

NAMES = "names.json"
WEIGHTS = "weights.safetensors"
EVIDENCE = "evidence.safetensors"
CHANGED = "has changed since it was written"


class Run:
    """A run's folder; its cells lie in `cells`, unless they were copied elsewhere."""

    def __init__(self, path: Path | str, cells: Path | None = None) -> None:
        self.path = Path(path)
        self.cells = cells or self.path / "cells"
        self._names: dict[str, str] | None = None

    @cached_property
    def _cells(self) -> str:
        """`cells` as text, known to be no link out of the run's folder.

        Raises:
            Damaged: it is one.
        """
        if self.cells == self.path / "cells":
            try:
                inside.is_folder(self.cells)
            except Damaged as error:
                fix = "Move the run's whole folder there, and link to that: a run's own folder may be a link."
                raise Damaged(self.cells, error.why, fix) from None
        return str(self.cells)

    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def require(self) -> None:
        """Go on only where this is a run's folder.

        Raises:
            StoreError: it isn't.
        """
        if not self.exists():
            if os.path.lexists(self.path / "run.json"):
                raise inside.no_file(self.path / "run.json")
            kept = self.path / "table.json"
            fix = f"Rows of a table lie in it: {kept}" if kept.is_file() else "`ls results` shows yours."
            raise StoreError(f"{self.path} isn't a run", cause="It has no run.json.", fix=fix)

    def create(self, request: RunRequest) -> None:
        """Make the folder, prove that it can be written, and note the request (joined with an earlier one's).

        Raises:
            StoreError: it can't be written, or isn't a run's.
        """
        try:
            if self.path.is_dir() and not self.exists() and any(self.path.iterdir()):
                raise StoreError(
                    f"{self.path} holds something else than a run",
                    cause="It isn't empty, and has no run.json.",
                    fix="Choose another folder with --out.",
                )
            make_folder(Path(self._cells))
            if self.exists():
                request = _join(self.request(), request)
            write_json(self.path / "run.json", request.lasting().to_json())
        except OSError as error:
            raise StoreError(
                f"{self.path} can't be written",
                cause=f"{error.strerror or error}.",
                fix="Choose another folder with --out.",
            ) from None

    # one cell

    def is_done(self, cell: str) -> bool:
        """Return whether a cell has a result, whole or not."""
        try:
            os.lstat(self.cells / cell / "done")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(f"{self.path} can't be read", cause=f"{error.strerror or error}.") from None
        return True

    def is_sound(self, cell: str) -> bool:
        """Return whether a cell has a result with an unchanged row; scores and weights are not checked."""
        return self.is_done(cell) and not self.flaw(cell)

    def has_ended(self, cell: str) -> bool:
        """Whether it failed in a way that another try would repeat."""
        failure = self._failure(cell)
        return failure is not None and failure.status not in ("skipped", "interrupted", "timeout", "damaged")

    def write_done(
        self,
        row: Row,
        weights: Mapping[str, Tensor],
        history: list[dict[str, float]],
        evidence: Mapping[str, Tensor],
        pictures: Mapping[str, Image],
        log: str,
    ) -> None:
        """Keep a trained cell, all of it at once. `pictures` are by file name, without the suffix.

        Who comes first wins. A second result is dropped if its weights are equal, and kept under `different/` if not.
        """
        home = self.cells / row.cell

        def fill(folder: Path) -> None:
            save_file({k: v.contiguous() for k, v in weights.items()}, folder / WEIGHTS)
            save_file({k: v.contiguous() for k, v in evidence.items()}, folder / EVIDENCE)
            for name, picture in pictures.items():
                picture.save(folder / f"{name}.png", format="png")
            (folder / "history.csv").write_text(_csv(history), encoding="utf-8")
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        def late(folder: Path) -> None:
            if sha256(folder / WEIGHTS) != sha256(home / "done" / WEIGHTS):
                _numbered(home / "different", lambda target: os.rename(folder, target))

        with writing(self.path):
            appear(home / "done", fill, late)

    def adopt(self, cell: str, done: Path) -> bool:
        """Keep a copy of another run's result by the same rule; False: ours has other weights.

        Raises:
            StoreError: it isn't whole.
        """
        home = self.cells / cell
        with writing(self.path):
            if not self.is_done(cell) and appear(home / "done", _copy(done)):
                return True
            weights = sha256(done / WEIGHTS)
            if weights == sha256(home / "done" / WEIGHTS):
                return True
            if weights not in {sha256(path / WEIGHTS) for path in self.others(cell)}:
                _numbered(home / "different", lambda target: _place(target, _copy(done)))
            return False

    def adopt_failure(self, cell: str, failed: Path) -> bool:
        """Keep a copy of another run's failure; False: we have it already.

        Raises:
            StoreError: it isn't whole.
        """
        home = self.cells / cell / "failed"
        content = _contents(failed)
        with writing(self.path):
            if any(_contents(path) == content for path in self.failures(cell)):
                return False
            _numbered(home, lambda target: _place(target, _copy(failed)))
            return True

    def write_failed(self, row: Row, log: str) -> None:
        """Keep why a cell has no result; a skip is noted once."""
        last = self._failure(row.cell)
        if last is not None and row.status == last.status == "skipped":
            return

        def fill(folder: Path) -> None:
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        with writing(self.path):
            _numbered(self.cells / row.cell / "failed", lambda target: _place(target, fill))

    def failures(self, cell: str) -> list[Path]:
        """The folders of a cell's failures, the last one last.

        Raises:
            Damaged: a link lies in their place.
        """
        return _numbers(Path(self._home(cell), "failed"))

    def others(self, cell: str) -> list[Path]:
        """The folders of results that should have been equal to the cell's own and weren't.

        Raises:
            Damaged: a link lies in their place.
        """
        return _numbers(Path(self._home(cell), "different"))

    def flaw(self, cell: str) -> str:
        """Return in words how a done cell's row differs from what was written; '' where it does not."""
        row = self._row(cell, "done")
        return row.reason if row is not None and row.status == "damaged" else ""

    def damage(self, cell: str) -> list[str]:
        """Return a line for each file of a done cell, scores apart, that differs from what was written."""
        row, done = self._row(cell, "done"), self.cells / cell / "done"
        if row is None:
            return []
        flaw = [row.reason] if row.status == "damaged" else []
        if "files" in row.unsummed and (flaw or read_json(done / "cell.json").get("schema", 0) < 2):
            return flaw  # of the first schema: it never had sums
        return damage(done) or flaw

    def flawed_scores(self, cell: str) -> dict[Path, str]:
        """The files of scores that aren't what was written, and what of each isn't."""
        return {Path(path): scored.flaw for path, scored in self._scorings(cell).items() if scored.flaw}

    def quarantine(self, cell: str) -> None:
        """Put a damaged result aside, with its scores."""
        home = self.cells / cell
        with suppress(FileNotFoundError):  # another run was first
            _numbered(home / "damaged", lambda target: os.rename(home / "done", target))
        self._put_aside(cell, home / "scores")

    def quarantine_scores(self, cell: str) -> None:
        """Put the files of scores aside that aren't what was written."""
        for path in self.flawed_scores(cell):
            self._put_aside(cell, path)

    def _put_aside(self, cell: str, path: Path) -> None:
        """Move what lies at `path`, be it a link, into a folder of its own in the cell's damaged/."""

        def place(target: Path) -> None:
            target.mkdir()
            try:
                os.rename(path, target / path.name)
            except FileNotFoundError:  # another run was first
                target.rmdir()

        if os.path.lexists(path):
            _numbered(self.cells / cell / "damaged", place)

    def refuse_links(self, cell: str) -> None:
        """Raise where a link would lead elsewhere what is written into a cell's folder, or removed from it.

        `done` and `scores` may be links: they're put aside before anything is written there.

        Raises:
            Damaged: naming it.
        """
        home = Path(self._home(cell))
        for entry in inside.entries(home) if home.is_dir() else ():
            if entry.is_symlink() and entry.name not in ("done", "scores"):
                raise inside.no_file(entry.path, "file or folder of the run's own")

    def done(self, cell: str) -> Path:
        """The folder of a cell's result, which lies in the run.

        Raises:
            Damaged: it's a link.
        """
        path = Path(self._home(cell), "done")
        inside.is_folder(path)
        return path

    def work(self, cell: str) -> Path:
        """Where attempts at a cell keep what they need, until it's done."""
        return self.cells / cell / "work"

    def evidence(self, cell: str) -> dict[str, Tensor]:
        """What a done cell keeps by name; nothing where the file is missing or damaged."""
        try:
            return load_file(inside.file(self.done(cell) / EVIDENCE))
        except (OSError, SafetensorError, Damaged):
            return {}

    def forget(self, cell: str) -> None:
        """Remove a cell's result, so that it'll be made anew."""
        home = self.cells / cell
        for name in ("done", "scores", "different"):
            if (home / name).exists():
                gone = home / "work" / f"{name}-{uuid4().hex}"
                make_folder(gone.parent)
                os.rename(home / name, gone)
        self.tidy(cell)

    def tidy(self, cell: str) -> None:
        """Remove what attempts left behind."""
        shutil.rmtree(self.cells / cell / "work", ignore_errors=True)
        self.sweep(cell)

    def sweep(self, cell: str) -> None:
        """Remove what a dead process was writing in a cell's folder: not its checkpoints, nor its logs."""
        home = f"{self._cells}/{cell}"
        for folder in (home, *(f"{home}/{name}" for name in ("scores", "failed", "different", "damaged"))):
            sweep(folder)

    def scorings(self, cell: str) -> dict[Path, dict[str, Any]]:
        """The ways in which a cell is scored by the files that hold the scores, the one written last at the end.

        Files that aren't what was written are left out.
        """
        return {Path(path): dict(scored.scoring) for path, scored in self._scorings(cell).items() if not scored.flaw}

    def read_scores(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, Score | NotAvailable]:
        """Return the scores that are filed under this way of scoring; none where the file has changed since."""
        return dict(self._filed(cell, scoring).scores)

    def seconds(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, float]:
        """Return the seconds that each of these scores took."""
        return dict(self._filed(cell, scoring).seconds)

    def write_scores(
        self,
        cell: str,
        scoring: Mapping[str, Any],
        scores: Mapping[str, Score | NotAvailable],
        seconds: Mapping[str, float],
    ) -> None:
        """Keep the scores of a done cell, one file for each way of scoring, besides those that are there."""
        with writing(self.path):
            self.quarantine_scores(cell)
            before = self._filed(cell, scoring)
            document = {name: score_document(s) for name, s in {**before.scores, **scores}.items()}
            path = self._scores(cell, scoring)
            make_folder(path.parent)
            filed = {"scoring": dict(scoring), "scores": document, "seconds": {**before.seconds, **seconds}}
            write_json(path, filed, summed=True)

    def row(self, cell: str, split: str | None = None) -> Row | None:
        """The cell's row as it stands on disk; None where there is nothing yet.

        One whose files aren't what was written is `damaged`, with no score, and its reason names the file.

        Args:
            split: show no scores but those on this split, 'test' or 'validation'. By default those that the run was
                asked for, if there are such, else those that were written last.

        Raises:
            StoreError: a file can't be read, or is of a newer version.
        """
        row = self._row(cell, "done")
        if row is None:
            return self._failure(cell)
        if row.status == "damaged":
            return row
        scorings = self._scorings(cell)
        if flaw := next((scored.flaw for scored in scorings.values() if scored.flaw), ""):
            return replace(row, status="damaged", reason=flaw)
        more: dict[str, Any] = {}
        if os.access(f"{self._cells}/{cell}/different", os.F_OK):
            more["reason"] = "not deterministic: another attempt gave other weights (kept in different/)"
        if (scored := self._shown(list(scorings.values()), split)) is not None:
            more |= {"scoring": scored.scoring, "scores": scored.scores, "seconds": scored.seconds}
            more["costs"] = {**row.costs, "score_seconds": sum(scored.seconds.values())}
            if not scored.summed:
                more["unsummed"] = (*row.unsummed, "scores")
        return with_values(row, more)

    def names(self) -> list[str]:
        """The folders of all cells."""
        return sorted(os.listdir(self._cells)) if self.cells.is_dir() else []

    def rows(self) -> list[Row]:
        """All rows, in the order of the request: datasets, variants, seeds, the baseline last.

        Raises:
            StoreError: this is no run's folder, its request is damaged, or a file can't be read.
        """
        self.require()
        with _uncollected():
            (rows,) = alike(filter(None, map(self.row, self.names())))
            return in_order(rows, self.request())

    def by_identity(self) -> dict[str, list[str]]:
        """The folders of all cells by the digest at the end of their names: several of the same images, named apart."""
        found: dict[str, list[str]] = {}
        for name in self.names():
            found.setdefault(name.rpartition("-")[2], []).append(name)
        return found

    def called(self) -> dict[str, str]:
        """Return the present names of data by their digests, where cells were made under another name.

        Raises:
            StoreError: the file that says so is damaged.
        """
        if self._names is None:
            path = self.path / NAMES
            try:
                content = _content(str(path))
                if content is not None and not own_sum_fits(content):
                    raise Damaged(path, CHANGED)
                found = parsed(path, content).get("names", {}) if content is not None else {}
                if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
                    raise Damaged(path, "isn't a list of names")
            except Damaged as error:
                raise Damaged(path, error.why, "Delete it: data have their old names then.") from None
            self._names = found
        return self._names

    def call(self, names: Mapping[str, str], before: Collection[str] = ()) -> None:
        """Note what data are called from now on, by `noted` of their rows; nothing asks for what they were `before`.

        Raises:
            StoreError: the folder can't be written.
        """
        if not (names or before):
            return
        joined, request = {**self.called(), **names}, self.request()
        kept = tuple(text for text in request.datasets if called(text) not in before)
        with writing(self.path):
            if joined != self.called():
                write_json(self.path / NAMES, {"names": joined}, summed=True)
            if kept != request.datasets:
                write_json(self.path / "run.json", replace(request, datasets=kept).to_json())
        self._names = joined

    def request(self) -> RunRequest:
        """Return the last request, joined with the earlier ones.

        Raises:
            StoreError: its file can't be read, or isn't what was written.
        """
        path = self.path / "run.json"
        try:
            return RunRequest.from_json(read_json(path))
        except UsageError as error:
            raise Damaged(path, f"holds no request: {error.line}", repair(path)) from None

    # on disk

    def _renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        """A row's document, with what its data are called now."""
        if names := self.called():
            document["dataset"] = names.get(noted(document.get("data")), document.get("dataset"))
        return document

    def _home(self, cell: str) -> str:
        """A cell's folder as text: a run may have 20,000 of them, so no more is made and asked than needed.

        Raises:
            Damaged: it's a link.
        """
        home = f"{self._cells}/{cell}"
        if os.path.islink(home):
            raise inside.no_file(home, "folder")
        return home

    def _row(self, cell: str, part: str) -> Row | None:
        """The row, without scores, in 'done' or 'failed/<n>' of a cell's folder; None where there is no such part.

        `damaged` where it isn't what was written.

        Raises:
            StoreError: the run's list of names is damaged. That's no fault of the cell, which stays where it is.
        """
        self.called()
        document: dict[str, Any] = {}
        about: dict[str, Any] = {"cell": plain(cell), "unsummed": ()}
        try:
            folder = f"{self._home(cell)}/{part}"
            path = f"{folder}/cell.json"
            if not inside.is_folder(folder):
                return None
            content = _content(str(path))
            if content is None:
                raise Damaged(path, "is missing")
            if (known := _sums(folder)) is None:
                about["unsummed"] = ("files",)
            elif known.get("cell.json") != hashlib.sha256(content).hexdigest():
                with suppress(Damaged):
                    document = parsed(path, content)
                raise Damaged(path, CHANGED)
            document = self._renamed(parsed(path, content))
            return with_values(row_of(document, {}), about)
        except Damaged as error:
            reason = self._told(error)
        except ValueError as error:
            reason = f"{self._told(Damaged(path, 'says no row'))}: {error}"
        return with_values(damaged(document, cell, reason), about)

    def _failure(self, cell: str) -> Row | None:
        """The row of a cell's last failure."""
        try:
            found = self.failures(cell)
        except Damaged as error:
            return damaged({}, cell, self._told(error))
        row = self._row(cell, f"failed/{found[-1].name}") if found else None
        if row is not None and row.status == "ok":
            reason = f"cells/{cell}/failed/{found[-1].name}/cell.json says that it came out ok"
            return with_values(row, {"status": "damaged", "reason": reason})
        return row

    def _told(self, error: Damaged) -> str:
        """A reason for a row: the file as it lies in the run, and what is wrong with it."""
        return f"cells{str(error.path).removeprefix(self._cells)} {error.why}"

    def _scorings(self, cell: str) -> dict[str, _Scored]:
        """Return the content of a cell's files of scores, the one written last at the end."""
        try:
            folder = f"{self._home(cell)}/scores"
            if not inside.is_folder(folder):
                return {}
        except Damaged as error:
            return {str(error.path): _Scored(flaw=self._told(error))}
        names = [name for name in os.listdir(folder) if name.endswith(".json")]
        if len(names) > 1:
            names.sort(key=lambda name: (os.lstat(f"{folder}/{name}").st_mtime_ns, name))
        found = {f"{folder}/{name}": self._scored(f"{folder}/{name}") for name in names}
        return {path: scored for path, scored in found.items() if scored is not None}

    def _scored(self, path: str) -> _Scored | None:
        """Return the content of one of these files; None where there is no such file."""
        try:
            if (content := _content(path)) is None:
                return None
            document = parsed(path, content)
            if (summed := document.get("schema", 0) > 2 or "sum" in document) and not own_sum_fits(content):
                raise Damaged(path, CHANGED)
            return _Scored(**scored_of(document), summed=summed)
        except Damaged as error:
            return _Scored(flaw=self._told(error))
        except ValueError as error:
            return _Scored(flaw=f"{self._told(Damaged(path, 'holds no scores'))}: {error}")

    def _filed(self, cell: str, scoring: Mapping[str, Any]) -> _Scored:
        """Return the scores of this way of scoring; none where the file is missing or has changed."""
        found = self._scorings(cell).get(str(self._scores(cell, scoring)))
        return _Scored() if found is None or found.flaw else found

    def _shown(self, scorings: Sequence[_Scored], split: str | None) -> _Scored | None:
        """Of the ways in which a cell is scored the one that its row shows; None: in none, or not on `split`."""
        if split is None and len(scorings) < 2:
            return next(iter(scorings), None)
        asked = split or (read_json_if_any(f"{self.path}/run.json") or {}).get("eval_split") or "test"
        fitting = (scored for scored in reversed(scorings) if scored.scoring.get("split", "test") == asked)
        return next(fitting, scorings[-1] if split is None else None)

    def _scores(self, cell: str, scoring: Mapping[str, Any]) -> Path:
        return self.cells / cell / "scores" / f"{digest(dict(scoring))[:12]}.json"


@dataclass(frozen=True)
class _Scored:
    """The content of a file of scores. `flaw` tells how the file differs from what was written, without the rest."""

    scoring: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Score | NotAvailable] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    summed: bool = True
    flaw: str = ""


def _content(path: str) -> bytes | None:
    """A file's content; None where there is none."""
    try:
        return inside.content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from None


def _sums(folder: str) -> dict[str, str] | None:
    """The sums in a folder; None where there are none."""
    path = f"{folder}/{SUMS}"
    try:
        return sums(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError:
        raise Damaged(path, CHANGED) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage in cycles: it looks through all that has been read again and again, for none."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def noted(data: Any) -> str:
    """The digests of the images that a row notes, as one text; '' where it doesn't."""
    digests = [data.get("train"), data.get("test")] if isinstance(data, Mapping) else [None]
    return "" if None in digests else "-".join(map(str, digests))


def in_order(rows: Iterable[Row], request: RunRequest) -> list[Row]:
    """Rows by dataset, variant and seed as a request names them, the baseline last; of equal labels, the newest."""
    names = [text.split("[")[0] for text in request.variants]
    datasets = list(map(called, request.datasets))
    found = sorted(rows, key=lambda row: str(row.provenance.get("ended", "")), reverse=True)

    def place(row: Row) -> tuple[Any, ...]:
        dataset = datasets.index(row.dataset) if row.dataset in datasets else len(datasets)
        variant = names.index(row.variant) if row.variant in names else len(names)
        return dataset, row.dataset, row.sanity, row.baseline, variant, row.variant, _natural(row.label), row.seed

    return sorted(found, key=place)


def _numbers(folder: Path) -> list[Path]:
    found = [Path(entry) for entry in inside.entries(folder) if entry.name.isdecimal()]
    return sorted(found, key=lambda p: int(p.name))


def _numbered(folder: Path, place: Callable[[Path], object]) -> None:
    """Put something under the next free number."""
    make_folder(folder)
    number = 1 + max((int(p.name) for p in _numbers(folder)), default=0)
    while True:
        try:
            place(folder / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            number += 1
        else:
            sync(folder)
            return


def _place(target: Path, fill: Callable[[Path], None]) -> None:
    if not appear(target, fill):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _copy(source: Path) -> Callable[[Path], None]:
    """What fills a folder with the files of another one, which must be whole."""

    def fill(folder: Path) -> None:
        for entry in inside.entries(source):
            inside.copy(Path(entry), folder / entry.name)
        if (folder / SUMS).exists():
            if wrong := damage(folder):
                raise Damaged(source, f"is damaged: {'; '.join(wrong)}")
            (folder / SUMS).unlink()  # the copy's own will be the same

    return fill


def _contents(folder: Path) -> dict[str, str]:
    return {entry.name: sha256(Path(entry)) for entry in inside.entries(folder) if entry.name != SUMS}


def _join(before: RunRequest, now: RunRequest) -> RunRequest:
    lists = ("variants", "datasets", "seeds")
    apart = (*lists, *HOW, "metrics")
    same = all(getattr(before, f.name) == getattr(now, f.name) for f in fields(now) if f.name not in apart)
    if not same or (not before.variants) != (not now.variants):
        return now
    joined: dict[str, Any] = {
        name: tuple(dict.fromkeys((*getattr(before, name), *getattr(now, name)))) for name in lists
    }
    return replace(now, **joined)


@cache
def _natural(text: str) -> tuple[tuple[int, float, str], ...]:
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return tuple((1, float(p), "") if i % 2 else (0, 0.0, p) for i, p in enumerate(parts))


def _csv(history: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


_LATER = ("scores", "scoring", "seconds", "cell", "unsummed")


def _cell_document(row: Row) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in _LATER}
