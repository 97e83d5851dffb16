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
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.durable import SUMS, appear, damage, read_json, read_json_if_any, sha256, sync, write_json, writing
from bench.errors import NotAvailable, StoreError
from bench.measurement import Score
from bench.naming import alike, called
from bench.protocol import HOW, RunRequest, digest
from bench.row import Row

NAMES = "names.json"
WEIGHTS = "weights.safetensors"
EVIDENCE = "evidence.safetensors"


class Run:
    """A run's folder; its cells lie in `cells`, unless they were copied elsewhere."""

    def __init__(self, path: Path | str, cells: Path | None = None) -> None:
        self.path = Path(path)
        self.cells = cells or self.path / "cells"
        self._cells = str(self.cells)
        self._names: dict[str, str] | None = None

    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def require(self) -> None:
        """Go on only where this is a run's folder.

        Raises:
            StoreError: it isn't.
        """
        if not self.exists():
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
            self.cells.mkdir(parents=True, exist_ok=True)
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
        try:
            return (self.cells / cell / "done" / "cell.json").is_file()
        except OSError as error:
            raise StoreError(f"{self.path} can't be read", cause=f"{error.strerror or error}.") from None

    def has_ended(self, cell: str) -> bool:
        """Whether it failed in a way that another try would repeat."""
        failure = self._last_failure(cell)
        return failure is not None and read_json(failure).get("status") not in ("skipped", "interrupted", "timeout")

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
        last = self._last_failure(row.cell)
        if last is not None and row.status == "skipped" and read_json(last)["status"] == "skipped":
            return

        def fill(folder: Path) -> None:
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        with writing(self.path):
            _numbered(self.cells / row.cell / "failed", lambda target: _place(target, fill))

    def failures(self, cell: str) -> list[Path]:
        """The folders of a cell's failures, the last one last."""
        return _numbers(self.cells / cell / "failed")

    def others(self, cell: str) -> list[Path]:
        """The folders of results that should have been equal to the cell's own and weren't."""
        return _numbers(self.cells / cell / "different")

    def damage(self, cell: str) -> list[str]:
        """What of a done cell isn't as it was made, a line each."""
        done = self.cells / cell / "done"
        old = read_json(done / "cell.json").get("schema", 0) < 2  # they have no sums
        return [] if old and not (done / SUMS).exists() else damage(done)

    def quarantine(self, cell: str) -> None:
        """Put a damaged result aside, with its scores."""
        home = self.cells / cell
        _numbered(home / "damaged", lambda target: os.rename(home / "done", target))
        shutil.rmtree(home / "scores", ignore_errors=True)

    def work(self, cell: str) -> Path:
        """Where attempts at a cell keep what they need, until it's done."""
        return self.cells / cell / "work"

    def evidence(self, cell: str) -> dict[str, Tensor]:
        """What a done cell keeps by name; nothing where the file is missing or damaged."""
        try:
            return load_file(self.cells / cell / "done" / EVIDENCE)
        except (OSError, SafetensorError):
            return {}

    def forget(self, cell: str) -> None:
        """Remove a cell's result, so that it'll be made anew."""
        home = self.cells / cell
        for name in ("done", "scores", "different"):
            if (home / name).exists():
                gone = home / "work" / f"{name}-{uuid4().hex}"
                gone.parent.mkdir(exist_ok=True)
                os.rename(home / name, gone)
        self.tidy(cell)

    def tidy(self, cell: str) -> None:
        """Remove what attempts left behind."""
        shutil.rmtree(self.cells / cell / "work", ignore_errors=True)

    def scorings(self, cell: str) -> dict[Path, dict[str, Any]]:
        """The ways in which a cell is scored by the files that hold the scores, the one written last at the end."""
        files = sorted((self.cells / cell / "scores").glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p))
        return {path: dict(read_json(path)["scoring"]) for path in files}

    def read_scores(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, Score | NotAvailable]:
        """What is already scored in this way."""
        path = self._scores(cell, scoring)
        return dict(_Scores(read_json(path)["scores"])) if path.is_file() else {}

    def write_scores(
        self,
        cell: str,
        scoring: Mapping[str, Any],
        scores: Mapping[str, Score | NotAvailable],
        seconds: Mapping[str, float],
    ) -> None:
        """Keep the scores of a done cell, one file for each way of scoring, besides those that are there."""
        path = self._scores(cell, scoring)
        before = read_json(path) if path.is_file() else {}
        seconds = {**before.get("seconds", {}), **seconds}
        document = dict(before.get("scores", {})) | {
            name: _reason_document(s) if isinstance(s, NotAvailable) else _score_document(s)
            for name, s in scores.items()
        }
        with writing(self.path):
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"scoring": dict(scoring), "scores": document, "seconds": dict(seconds)})

    def row(self, cell: str, split: str | None = None) -> Row | None:
        """The cell's row as it stands on disk; None where there is nothing yet.

        Args:
            split: show no scores but those on this split, 'test' or 'validation'. By default those that the run was
                asked for, if there are such, else those that were written last.
        """
        home = f"{self._cells}/{cell}"  # text, and no more calls than needed: a run may have 20,000 cells
        document = read_json_if_any(f"{home}/done/cell.json")
        if document is None:
            failure = self._last_failure(cell)
            return None if failure is None else _row_from(self._renamed(read_json(failure)), cell)
        self._renamed(document)
        if os.access(f"{home}/different", os.F_OK):
            document["reason"] = "not deterministic: another attempt gave other weights (kept in different/)"
        if (scored := self._shown(f"{home}/scores", split)) is not None:
            document["scoring"], document["scores"] = scored["scoring"], _Scores(scored["scores"])
            document["seconds"] = scored.get("seconds", {})
            document["costs"]["score_seconds"] = sum(document["seconds"].values())
        return _row_from(document, cell)

    def names(self) -> list[str]:
        """The folders of all cells."""
        return sorted(os.listdir(self.cells)) if self.cells.is_dir() else []

    def rows(self) -> list[Row]:
        """All rows, in the order of the request: datasets, variants, seeds, the baseline last.

        Raises:
            StoreError: this is no run's folder, or a file in it is damaged.
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
        """What data are called now, by their digests, where that isn't what they were called when cells were made.

        Raises:
            StoreError: the file that says so is damaged.
        """
        if self._names is None:
            path = self.path / NAMES
            found = (read_json_if_any(path) or {}).get("names", {})
            if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
                raise StoreError(f"{path} isn't a list of names", fix="Delete it: data have their old names then.")
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
                write_json(self.path / NAMES, {"names": joined})
            if kept != request.datasets:
                write_json(self.path / "run.json", replace(request, datasets=kept).to_json())
        self._names = joined

    def request(self) -> RunRequest:
        """What was asked for last, joined with what was before."""
        return RunRequest.from_json(read_json(self.path / "run.json"))

    # on disk

    def _renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        """A row's document, with what its data are called now."""
        if names := self.called():
            document["dataset"] = names.get(noted(document.get("data")), document.get("dataset"))
        return document

    def _shown(self, folder: str, split: str | None) -> dict[str, Any] | None:
        """Of the ways in which a cell is scored the one that its row shows; None: in none, or not on `split`."""
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".json")]
        except FileNotFoundError:
            return None
        if len(names) > 1:
            names.sort(key=lambda name: (os.stat(f"{folder}/{name}").st_mtime_ns, name), reverse=True)
        found = [read_json(f"{folder}/{name}") for name in names]
        if split is None and len(found) < 2:
            return next(iter(found), None)
        asked = split or (read_json_if_any(f"{self.path}/run.json") or {}).get("eval_split") or "test"
        fitting = (document for document in found if document["scoring"].get("split", "test") == asked)
        return next(fitting, found[0] if split is None else None)

    def _scores(self, cell: str, scoring: Mapping[str, Any]) -> Path:
        return self.cells / cell / "scores" / f"{digest(dict(scoring))[:12]}.json"

    def _last_failure(self, cell: str) -> Path | None:
        found = self.failures(cell)
        return found[-1] / "cell.json" if found else None


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
    found = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name))


def _numbered(folder: Path, place: Callable[[Path], object]) -> None:
    """Put something under the next free number."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0)
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
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
        if (folder / SUMS).exists():
            if wrong := damage(folder):
                raise StoreError(f"{source} is damaged: {'; '.join(wrong)}")
            (folder / SUMS).unlink()  # the copy's own will be the same

    return fill


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != SUMS}


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


_LATER = ("scores", "scoring", "seconds", "cell")


def _cell_document(row: Row) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in _LATER}


_FIELDS = frozenset(f.name for f in fields(Row))


def _row_from(document: dict[str, Any], cell: str) -> Row:
    """The row of a document that was read just now."""
    document.pop("schema", None)
    if not document.keys() <= _FIELDS:  # of a newer version, or an older one
        document = {k: v for k, v in document.items() if k in _FIELDS}
    document["steps"] = tuple(document.get("steps", ()))
    document["stacked"] = tuple(document.get("stacked", ()))
    document["cell"] = cell
    if len(document) < len(_FIELDS):
        return Row(**document)
    row = object.__new__(Row)
    vars(row).update(document)  # as its constructor would, but at once: that of a frozen class makes a call a field
    return row


class _Scores(Mapping[str, "Score | NotAvailable"]):
    """Stored scores, each made when it's asked for."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __getitem__(self, name: str) -> Score | NotAvailable:
        return _score_from(self.document[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.document)

    def __len__(self) -> int:
        return len(self.document)


def _reason_document(missing: NotAvailable) -> dict[str, Any]:
    return {"reason": missing.reason, **({"retry": True} if missing.retry else {})}


def _score_document(score: Score) -> dict[str, Any]:
    document: dict[str, Any] = {"value": score.value, "n": score.n}
    if score.se is not None:
        document["se"] = score.se
    return document | ({"note": score.note} if score.note else {})


def _score_from(s: Mapping[str, Any]) -> Score | NotAvailable:
    if "reason" in s:
        return NotAvailable(s["reason"], retry=s.get("retry", False))
    return Score(s["value"], s["n"], s.get("se"), s.get("note", ""))
