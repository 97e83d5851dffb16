"""Results on disk: a run is a folder, a cell a folder in it, and each result appears whole, by one rename.

results/<name>/run.json                     the request
results/<name>/names.json                   present names of data, where they have changed
results/<name>/cells/<slug>-<hash>/done/           cell.json, weights, history, evidence, images, log, SHA256SUMS
                                  /scores/<hash>.json
                                  /failed/<n>/     cell.json, log
                                  /different/<n>/  a second result of the cell, with other weights
                                  /damaged/<n>     what was not as it was written
                                  /work/           checkpoints, log and events of unfinished attempts
                                  /lease.json      the process that is training it
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
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
from bench.contracts.row import Row, damaged, row_of, score_document, scored_of
from bench.util import inside
from bench.util.durable import (
    CHANGED,
    SUMS,
    appear,
    content,
    damage,
    own_sum_fits,
    parsed,
    read_json,
    read_json_if_any,
    sha256,
    sums,
    sweep,
    sync,
    write_json,
    writing,
)
from bench.util.errors import Damaged, NotAvailable, StoreError, UsageError
from bench.util.process import make_folder
from bench.util.text import plain
from bench.util.wording import natural

NAMES = "names.json"
WEIGHTS = "weights.safetensors"
EVIDENCE = "evidence.safetensors"


class Run:
    """A run's folder; its cells lie in `cells`, unless they were copied elsewhere.

    Methods that read raise StoreError where a file of the run can't be read or is of a newer version, and Damaged,
    which is one, where something else than the file or folder that was written lies in its place.
    """

    def __init__(self, path: Path | str, cells: Path | None = None) -> None:
        self.path = Path(path)
        self.cells = cells or self.path / "cells"
        self._names: dict[str, str] | None = None

    # the run

    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def require(self) -> None:
        """Raise unless this is a run's folder.

        Raises:
            StoreError: it is none.
        """
        if not self.exists():
            if os.path.lexists(self.path / "run.json"):
                raise inside.no_file(self.path / "run.json")
            table = self.path / "table.json"
            fix = f"It holds the rows of a table: {table}" if table.is_file() else "`ls results` shows your runs."
            raise StoreError(f"{self.path} isn't a run", cause="It has no run.json.", fix=fix)

    def create(self, request: RunRequest) -> None:
        """Make the folder, prove that it can be written, and write the request, joined with an earlier one.

        Raises:
            StoreError: the folder can't be written, or holds something else.
        """
        try:
            if self.path.is_dir() and not self.exists() and any(self.path.iterdir()):
                raise StoreError(
                    f"{self.path} holds something else than a run",
                    cause="It isn't empty, and has no run.json.",
                    fix="Choose another folder with --out.",
                )
            make_folder(self._folder)
            if self.exists():
                request = _join(self.request(), request)
            write_json(self.path / "run.json", request.lasting().to_json())
        except OSError as error:
            raise StoreError(
                f"{self.path} can't be written",
                cause=f"{error.strerror or error}.",
                fix="Choose another folder with --out.",
            ) from None

    def request(self) -> RunRequest:
        """Return the last request, joined with the earlier ones."""
        path = self.path / "run.json"
        try:
            return RunRequest.from_json(read_json(path))
        except UsageError as error:
            raise Damaged(path, f"holds no request: {error.line}") from None

    def names(self) -> list[str]:
        """Return the names of all cells' folders."""
        return sorted(os.listdir(self._folder)) if self.cells.is_dir() else []

    def by_identity(self) -> dict[str, list[str]]:
        """Return the names of all cells' folders by the hash at their end; cells of renamed data share one."""
        cells: dict[str, list[str]] = {}
        for name in self.names():
            cells.setdefault(name.rpartition("-")[2], []).append(name)
        return cells

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the request: datasets, variants, seeds, the baseline last."""
        self.require()
        (rows,) = alike(filter(None, map(self.row, self.names())))
        return in_order(rows, self.request())

    def called(self) -> dict[str, str]:
        """Return the present names of data by `data_digests`, for cells that were made under another name.

        Raises:
            StoreError: the file that holds them is damaged.
        """
        if self._names is None:
            path = self.path / NAMES
            try:
                data = content(path)
                if data is not None and not own_sum_fits(data):
                    raise Damaged(path, CHANGED)
                names = {} if data is None else parsed(path, data).get("names", {})
                if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                    raise Damaged(path, "isn't a list of names")
            except Damaged as error:
                raise Damaged(path, error.why, "Delete it: data have their old names then.") from None
            self._names = names
        return self._names

    def call(self, names: Mapping[str, str], before: Collection[str] = ()) -> None:
        """Write new names of data.

        Args:
            names: the new names, by `data_digests`.
            before: old names, under which the request is to ask for nothing any more.

        Raises:
            StoreError: the folder can't be written.
        """
        if not (names or before):
            return
        joined, request = {**self.called(), **names}, self.request()
        datasets = tuple(text for text in request.datasets if called(text) not in before)
        with writing(self.path):
            if joined != self.called():
                write_json(self.path / NAMES, {"names": joined}, summed=True)
            if datasets != request.datasets:
                write_json(self.path / "run.json", replace(request, datasets=datasets).to_json())
        self._names = joined

    # a cell's row

    def row(self, cell: str, split: str | None = None) -> Row | None:
        """Return a cell's row; None where there is neither a result nor a failure.

        Where files of the cell aren't what was written, the row is `damaged`, has no score, and names a file.

        Args:
            split: the split, 'test' or 'validation', whose scores the row shows. By default that of the request, if
                the cell has such scores, else that of the scores written last.

        Raises:
            StoreError: a file can't be read, or is of a newer version.
        """
        row = self._row(cell, "done")
        if row is None:
            return self._failure(cell)
        if row.status == "damaged":
            return row
        filed = self._filed(cell)
        if flaw := next((scores.flaw for scores in filed.values() if scores.flaw), ""):
            return replace(row, status="damaged", reason=flaw)
        if os.path.exists(f"{self.cells}/{cell}/different"):
            row = replace(row, reason="not deterministic: another attempt gave other weights (kept in different/)")
        shown = self._shown(list(filed.values()), split)
        if shown is None:
            return row
        return replace(
            row,
            scoring=shown.scoring,
            scores=shown.scores,
            seconds=shown.seconds,
            costs={**row.costs, "score_seconds": sum(shown.seconds.values())},
            unsummed=row.unsummed if shown.summed else (*row.unsummed, "scores"),
        )

    def is_done(self, cell: str) -> bool:
        """Return whether a cell has a result, damaged or not."""
        try:
            os.lstat(self.cells / cell / "done")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(f"{self.path} can't be read", cause=f"{error.strerror or error}.") from None
        return True

    def is_sound(self, cell: str) -> bool:
        """Return whether a cell has a result with an undamaged row; scores and weights are not checked."""
        return self.is_done(cell) and not self.flaw(cell)

    def has_ended(self, cell: str) -> bool:
        """Return whether a cell failed in a way that another attempt would repeat."""
        failure = self._failure(cell)
        return failure is not None and failure.status not in ("skipped", "interrupted", "timeout", "damaged")

    # a cell's results

    def write_done(
        self,
        row: Row,
        weights: Mapping[str, Tensor],
        history: list[dict[str, float]],
        evidence: Mapping[str, Tensor],
        pictures: Mapping[str, Image],
        log: str,
    ) -> None:
        """Write a trained cell, all of it at once. `pictures` are by file name, without the suffix.

        If there is a result already, it stays; this one is dropped if its weights are equal, else put in `different/`.
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
                _number(home / "different", lambda target: os.rename(folder, target))

        with writing(self.path):
            appear(home / "done", fill, late)

    def adopt(self, cell: str, done: Path) -> bool:
        """Copy another run's result by the rule of `write_done`; return False if ours has other weights."""
        home = self.cells / cell
        with writing(self.path):
            if not self.is_done(cell) and appear(home / "done", _copy(done)):
                return True
            weights = sha256(done / WEIGHTS)
            if weights == sha256(home / "done" / WEIGHTS):
                return True
            if weights not in {sha256(path / WEIGHTS) for path in self.others(cell)}:
                _number(home / "different", lambda target: _make(target, _copy(done)))
            return False

    def write_failed(self, row: Row, log: str) -> None:
        """Write why a cell has no result; a skipped cell is written once."""
        last = self._failure(row.cell)
        if last is not None and row.status == last.status == "skipped":
            return

        def fill(folder: Path) -> None:
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        with writing(self.path):
            _number(self.cells / row.cell / "failed", lambda target: _make(target, fill))

    def adopt_failure(self, cell: str, failed: Path) -> bool:
        """Copy another run's failure; return False if the cell has the same one already."""
        new = _digests(failed)
        with writing(self.path):
            if any(_digests(path) == new for path in self.failures(cell)):
                return False
            _number(self.cells / cell / "failed", lambda target: _make(target, _copy(failed)))
            return True

    def done(self, cell: str) -> Path:
        """Return the folder of a cell's result."""
        path = self._home(cell) / "done"
        inside.is_folder(path)
        return path

    def failures(self, cell: str) -> list[Path]:
        """Return the folders of a cell's failures, the last one last."""
        return _numbered(self._home(cell) / "failed")

    def others(self, cell: str) -> list[Path]:
        """Return the folders of a cell's results that have other weights than the first one."""
        return _numbered(self._home(cell) / "different")

    def work(self, cell: str) -> Path:
        """Return the folder of a cell's checkpoints and logs while it is trained."""
        return self.cells / cell / "work"

    def evidence(self, cell: str) -> dict[str, Tensor]:
        """Return the evidence of a done cell by name; empty where the file is missing or damaged."""
        try:
            return load_file(inside.file(self.done(cell) / EVIDENCE))
        except (OSError, SafetensorError, Damaged):
            return {}

    # a cell's scores

    def scorings(self, cell: str) -> dict[Path, dict[str, Any]]:
        """Return a cell's scoring protocols by the undamaged files of its scores, the newest last."""
        return {path: dict(scores.scoring) for path, scores in self._filed(cell).items() if not scores.flaw}

    def read_scores(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, Score | NotAvailable]:
        """Return the scores under a scoring protocol; empty where their file is missing or damaged."""
        return dict(self._filed_by(cell, scoring).scores)

    def seconds(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, float]:
        """Return the seconds that each of these scores took."""
        return dict(self._filed_by(cell, scoring).seconds)

    def write_scores(
        self,
        cell: str,
        scoring: Mapping[str, Any],
        scores: Mapping[str, Score | NotAvailable],
        seconds: Mapping[str, float],
    ) -> None:
        """Add scores to those that a done cell has under this scoring protocol."""
        with writing(self.path):
            self.quarantine_scores(cell)
            before = self._filed_by(cell, scoring)
            document = {name: score_document(s) for name, s in {**before.scores, **scores}.items()}
            path = self._scores_file(cell, scoring)
            make_folder(path.parent)
            filed = {"scoring": dict(scoring), "scores": document, "seconds": {**before.seconds, **seconds}}
            write_json(path, filed, summed=True)

    # damage

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
            return flaw  # the first schema never had sums
        return damage(done) or flaw

    def flawed_scores(self, cell: str) -> dict[Path, str]:
        """Return the damaged files of a cell's scores, and in words how each differs from what was written."""
        return {path: scores.flaw for path, scores in self._filed(cell).items() if scores.flaw}

    def quarantine(self, cell: str) -> None:
        """Move a damaged result and its scores to the cell's damaged/."""
        home = self.cells / cell
        with suppress(FileNotFoundError):  # another run was first
            _number(home / "damaged", lambda target: os.rename(home / "done", target))
        self._put_aside(cell, home / "scores")

    def quarantine_scores(self, cell: str) -> None:
        """Move damaged files of scores to the cell's damaged/."""
        for path in self.flawed_scores(cell):
            self._put_aside(cell, path)

    def _put_aside(self, cell: str, path: Path) -> None:
        """Move what lies at `path`, links included, into a folder of its own in the cell's damaged/."""

        def move(target: Path) -> None:
            target.mkdir()
            try:
                os.rename(path, target / path.name)
            except FileNotFoundError:  # another run was first
                target.rmdir()

        if os.path.lexists(path):
            _number(self.cells / cell / "damaged", move)

    def refuse_links(self, cell: str) -> None:
        """Raise where a link would lead out of the cell's folder what is written or removed in it.

        `done` and `scores` may be links: they are put aside before anything is written there.

        Raises:
            Damaged: naming the link.
        """
        home = self._home(cell)
        for entry in inside.entries(home) if home.is_dir() else ():
            if entry.is_symlink() and entry.name not in ("done", "scores"):
                raise inside.no_file(entry.path, "file or folder of the run's own")

    # removal

    def forget(self, cell: str) -> None:
        """Remove a cell's result, so that the cell is trained again."""
        home = self.cells / cell
        for name in ("done", "scores", "different"):
            if (home / name).exists():
                gone = home / "work" / f"{name}-{uuid4().hex}"
                make_folder(gone.parent)
                os.rename(home / name, gone)
        self.tidy(cell)

    def tidy(self, cell: str) -> None:
        """Remove what attempts left behind."""
        shutil.rmtree(self.work(cell), ignore_errors=True)
        self.sweep(cell)

    def sweep(self, cell: str) -> None:
        """Remove what a dead process was writing in a cell's folder, except its checkpoints and logs."""
        for part in (".", "scores", "failed", "different", "damaged"):
            sweep(self._folder / cell / part)

    # on disk

    @cached_property
    def _folder(self) -> Path:
        """`cells`, known to be no link out of the run's folder.

        Raises:
            Damaged: it is one.
        """
        if self.cells == self.path / "cells":
            try:
                inside.is_folder(self.cells)
            except Damaged as error:
                fix = "Move the run's whole folder there, and link to that: a run's own folder may be a link."
                raise Damaged(self.cells, error.why, fix) from None
        return self.cells

    def _home(self, cell: str) -> Path:
        """Return a cell's folder."""
        home = self._folder / cell
        if os.path.islink(home):
            raise inside.no_file(home, "folder")
        return home

    def _row(self, cell: str, part: str) -> Row | None:
        """Return the row, without scores, in 'done' or 'failed/<n>' of a cell; None where there is no such part.

        The row is `damaged` where its file isn't what was written.
        """
        names = self.called()
        document: dict[str, Any] = {}
        unsummed: list[str] = []
        try:
            folder = self._home(cell) / part
            if not inside.is_folder(folder):
                return None
            path = folder / "cell.json"
            data, known = content(path), sums(folder)
            if data is None:
                raise Damaged(path, "is missing")
            if known is None:
                unsummed = ["files"]
            elif known.get("cell.json") != hashlib.sha256(data).hexdigest():
                with suppress(Damaged):
                    document = parsed(path, data)
                raise Damaged(path, CHANGED)
            document = parsed(path, data) | {"cell": plain(cell), "unsummed": unsummed}
            if names:
                document["dataset"] = names.get(data_digests(document.get("data")), document.get("dataset"))
            return row_of(document, {})
        except Damaged as error:
            reason = self._reason(error)
        except ValueError as error:
            reason = f"{self._reason(Damaged(path, 'says no row'))}: {error}"
        return damaged(document | {"unsummed": unsummed}, cell, reason)

    def _failure(self, cell: str) -> Row | None:
        """Return the row of a cell's last failure."""
        try:
            failures = self.failures(cell)
        except Damaged as error:
            return damaged({}, cell, self._reason(error))
        row = self._row(cell, f"failed/{failures[-1].name}") if failures else None
        if row is not None and row.status == "ok":
            reason = f"cells/{cell}/failed/{failures[-1].name}/cell.json says that it came out ok"
            return replace(row, status="damaged", reason=reason)
        return row

    def _reason(self, error: Damaged) -> str:
        """Return a row's reason: the file as it lies in the run, and what is wrong with it."""
        return f"cells{str(error.path).removeprefix(str(self._folder))} {error.why}"

    def _scores_file(self, cell: str, scoring: Mapping[str, Any]) -> Path:
        return self.cells / cell / "scores" / f"{digest(dict(scoring))[:12]}.json"

    def _filed(self, cell: str) -> dict[Path, _Filed]:
        """Return the content of a cell's files of scores, the one written last at the end."""
        try:
            folder = self._home(cell) / "scores"
            if not inside.is_folder(folder):
                return {}
        except Damaged as error:
            return {error.path: _Filed(flaw=self._reason(error))}
        paths = [folder / name for name in os.listdir(folder) if name.endswith(".json")]
        if len(paths) > 1:
            paths.sort(key=lambda path: (path.lstat().st_mtime_ns, path.name))
        filed = {path: self._read_scores_file(path) for path in paths}
        return {path: scores for path, scores in filed.items() if scores is not None}

    def _filed_by(self, cell: str, scoring: Mapping[str, Any]) -> _Filed:
        """Return the scores under a scoring protocol; none where their file is missing or damaged."""
        scores = self._filed(cell).get(self._scores_file(cell, scoring))
        return _Filed() if scores is None or scores.flaw else scores

    def _read_scores_file(self, path: Path) -> _Filed | None:
        """Return the content of a file of scores; None where there is no such file."""
        try:
            if (data := content(path)) is None:
                return None
            document = parsed(path, data)
            if (summed := document.get("schema", 0) > 2 or "sum" in document) and not own_sum_fits(data):
                raise Damaged(path, CHANGED)
            return _Filed(**scored_of(document), summed=summed)
        except Damaged as error:
            return _Filed(flaw=self._reason(error))
        except ValueError as error:
            return _Filed(flaw=f"{self._reason(Damaged(path, 'holds no scores'))}: {error}")

    def _shown(self, filed: Sequence[_Filed], split: str | None) -> _Filed | None:
        """Return which of a cell's files of scores its row shows; None if there is none, or none on `split`."""
        if split is None and len(filed) < 2:
            return next(iter(filed), None)
        wanted = split or (read_json_if_any(self.path / "run.json") or {}).get("eval_split") or "test"
        fitting = (scores for scores in reversed(filed) if scores.scoring.get("split", "test") == wanted)
        return next(fitting, filed[-1] if split is None else None)


@dataclass(frozen=True)
class _Filed:
    """The content of a file of scores; `flaw` says in words how the file differs from what was written."""

    scoring: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Score | NotAvailable] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    summed: bool = True
    flaw: str = ""


def data_digests(data: Any) -> str:
    """Return the digests of the images in a row's `data` as one text; '' where one is missing."""
    digests = [data.get("train"), data.get("test")] if isinstance(data, Mapping) else [None]
    return "" if None in digests else "-".join(map(str, digests))


def in_order(rows: Iterable[Row], request: RunRequest) -> list[Row]:
    """Return rows by dataset, variant and seed as a request names them; the baseline last, equals by age."""
    variants = [text.split("[")[0] for text in request.variants]
    datasets = list(map(called, request.datasets))

    def place(row: Row) -> tuple[Any, ...]:
        dataset = datasets.index(row.dataset) if row.dataset in datasets else len(datasets)
        variant = variants.index(row.variant) if row.variant in variants else len(variants)
        return dataset, row.dataset, row.sanity, row.baseline, variant, row.variant, natural(row.label), row.seed

    newest_first = sorted(rows, key=lambda row: str(row.provenance.get("ended", "")), reverse=True)
    return sorted(newest_first, key=place)


def _join(before: RunRequest, now: RunRequest) -> RunRequest:
    """Return a request with the variants, datasets and seeds of the one before too, if all else is equal."""
    lists = ("variants", "datasets", "seeds")
    apart = (*lists, *HOW, "metrics")
    same = all(getattr(before, f.name) == getattr(now, f.name) for f in fields(now) if f.name not in apart)
    if not same or (not before.variants) != (not now.variants):
        return now
    joined: dict[str, Any] = {
        name: tuple(dict.fromkeys((*getattr(before, name), *getattr(now, name)))) for name in lists
    }
    return replace(now, **joined)


def _numbered(folder: Path) -> list[Path]:
    """Return what lies in a folder under a number, in ascending order."""
    paths = [Path(entry) for entry in inside.entries(folder) if entry.name.isdecimal()]
    return sorted(paths, key=lambda path: int(path.name))


def _number(folder: Path, place: Callable[[Path], object]) -> None:
    """Call `place` with a path in `folder` whose name is the next free number."""
    make_folder(folder)
    number = 1 + max((int(path.name) for path in _numbered(folder)), default=0)
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


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    if not appear(target, fill):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _copy(source: Path) -> Callable[[Path], None]:
    """Return a function that fills a folder with the files of `source`, which must be undamaged."""

    def fill(folder: Path) -> None:
        for entry in inside.entries(source):
            inside.copy(Path(entry), folder / entry.name)
        if (folder / SUMS).exists():
            if wrong := damage(folder):
                raise Damaged(source, f"is damaged: {'; '.join(wrong)}")
            (folder / SUMS).unlink()  # the copy's own will be the same

    return fill


def _digests(folder: Path) -> dict[str, str]:
    return {entry.name: sha256(Path(entry)) for entry in inside.entries(folder) if entry.name != SUMS}


def _csv(history: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _cell_document(row: Row) -> dict[str, Any]:
    later = ("scores", "scoring", "seconds", "cell", "unsummed")
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in later}
