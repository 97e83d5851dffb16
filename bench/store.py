"""Results on disk: a run is a folder, a cell a folder in it, and each result appears whole, by one rename.

results/<name>/run.json                     the request
results/<name>/cells/<slug>-<hash>/done/    cell.json, weights, history, evidence, images, log
                                  /scores/<hash>.json
                                  /failed/<n>/    cell.json, log
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor

from bench.errors import NotAvailable, StoreError
from bench.metric import Score
from bench.protocol import RunRequest, digest
from bench.row import Row

SCHEMA = 1


def read_json(path: Path) -> dict[str, Any]:
    """A document of this suite.

    Raises:
        StoreError: unreadable, damaged, or of a newer schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} can't be read", cause=f"{type(error).__name__}: {error}") from None
    if not isinstance(document, dict):
        raise StoreError(f"{path} isn't a document of this suite")
    if document.get("schema", 0) > SCHEMA:
        raise StoreError(
            f"{path} has schema {document['schema']}, and this version reads up to {SCHEMA}",
            fix="Upgrade vaebench.",
        )
    return document


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, fsynced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_text(path, json.dumps({"schema": SCHEMA, **document}, indent=1, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | set):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a results file")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Run:
    """A run's folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.cells = self.path / "cells"

    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

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
                request = _join(RunRequest.from_json(read_json(self.path / "run.json")), request)
            write_json(self.path / "run.json", request.to_json())
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

    def write_done(
        self,
        row: Row,
        weights: Mapping[str, Tensor],
        history: list[dict[str, float]],
        evidence: Mapping[str, Tensor],
        pictures: Mapping[str, Image],
        log: str,
    ) -> None:
        """Keep a trained cell, all of it at once. `pictures` are by file name, without the suffix."""

        def fill(folder: Path) -> None:
            save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
            save_file({k: v.contiguous() for k, v in evidence.items()}, folder / "evidence.safetensors")
            for name, picture in pictures.items():
                picture.save(folder / f"{name}.png", format="png")
            (folder / "history.csv").write_text(_csv(history), encoding="utf-8")
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        self._appear(row.cell, "done", fill)

    def write_failed(self, row: Row, log: str) -> None:
        """Keep why a cell has no result; a skip is noted once."""
        last = self._last_failure(row.cell)
        if last is not None and row.status == "skipped" and read_json(last)["status"] == "skipped":
            return
        number = 1 + max((int(p.name) for p in self._failures(row.cell)), default=0)

        def fill(folder: Path) -> None:
            (folder / "log.txt").write_text(log, encoding="utf-8")
            write_json(folder / "cell.json", _cell_document(row))

        self._appear(row.cell, f"failed/{number}", fill)

    def read_scores(self, cell: str, scoring: Mapping[str, Any]) -> dict[str, Score | NotAvailable]:
        """What is already scored in this way."""
        path = self._scores(cell, scoring)
        return _scores_from(read_json(path)) if path.is_file() else {}

    def write_scores(
        self,
        cell: str,
        scoring: Mapping[str, Any],
        scores: Mapping[str, Score | NotAvailable],
        seconds: Mapping[str, float],
    ) -> None:
        """Keep the scores of a done cell, one file for each way of scoring."""
        path = self._scores(cell, scoring)
        path.parent.mkdir(exist_ok=True)
        if path.is_file():
            seconds = {**read_json(path).get("seconds", {}), **seconds}
        document = {
            name: _reason_document(s) if isinstance(s, NotAvailable) else _score_document(s)
            for name, s in scores.items()
        }
        write_json(path, {"scoring": dict(scoring), "scores": document, "seconds": dict(seconds)})

    def row(self, cell: str) -> Row | None:
        """The cell's row as it stands on disk; None where there is nothing yet."""
        if self.is_done(cell):
            row = _row_from(read_json(self.cells / cell / "done" / "cell.json"), cell)
            files = sorted((self.cells / cell / "scores").glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name))
            if not files:
                return row
            document = read_json(files[-1])
            costs = {**row.costs, "score_seconds": sum(document.get("seconds", {}).values())}
            return replace(row, scoring=document["scoring"], scores=_scores_from(document), costs=costs)
        failure = self._last_failure(cell)
        return None if failure is None else _row_from(read_json(failure), cell)

    def rows(self) -> list[Row]:
        """All rows, in the order of the request: datasets, variants, seeds, the baseline last.

        Raises:
            StoreError: this is no run's folder, or a file in it is damaged.
        """
        if not self.exists():
            raise StoreError(f"{self.path} isn't a run", cause="It has no run.json.", fix="`ls results` shows yours.")
        request = RunRequest.from_json(read_json(self.path / "run.json"))
        names = [text.split("[")[0] for text in request.variants]
        folders = sorted(p.name for p in self.cells.iterdir() if p.is_dir()) if self.cells.is_dir() else []
        rows = [row for row in map(self.row, folders) if row is not None]
        rows.sort(key=lambda row: str(row.provenance.get("ended", "")), reverse=True)  # of equal labels, the newest

        def place(row: Row) -> tuple[Any, ...]:
            dataset = request.datasets.index(row.dataset) if row.dataset in request.datasets else len(request.datasets)
            variant = names.index(row.variant) if row.variant in names else len(names)
            return dataset, row.dataset, row.baseline, variant, row.variant, _natural(row.label), row.seed

        return sorted(rows, key=place)

    # on disk

    def _scores(self, cell: str, scoring: Mapping[str, Any]) -> Path:
        return self.cells / cell / "scores" / f"{digest(dict(scoring))[:12]}.json"

    def _failures(self, cell: str) -> list[Path]:
        folder = self.cells / cell / "failed"
        return [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []

    def _last_failure(self, cell: str) -> Path | None:
        found = sorted(self._failures(cell), key=lambda p: int(p.name))
        return found[-1] / "cell.json" if found else None

    def _appear(self, cell: str, name: str, fill: Callable[[Path], None]) -> None:
        """Fill a folder under `work/` and let it appear under `name` by one rename, fsynced."""
        home = self.cells / cell
        work, target = home / "work" / f"{name.replace('/', '-')}.{os.getpid()}", home / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        fill(work)
        for path in work.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _sync(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.rename(work, target)
        _sync(target.parent)
        shutil.rmtree(home / "work", ignore_errors=True)


def _join(before: RunRequest, now: RunRequest) -> RunRequest:
    lists = ("variants", "datasets", "seeds")
    apart = (*lists, "metrics", "jobs", "device", "data_root")
    same = all(getattr(before, f.name) == getattr(now, f.name) for f in fields(now) if f.name not in apart)
    if not same or (not before.variants) != (not now.variants):
        return now
    joined: dict[str, Any] = {
        name: tuple(dict.fromkeys((*getattr(before, name), *getattr(now, name)))) for name in lists
    }
    return replace(now, **joined)


def _natural(text: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(p), "") if i % 2 else (0, 0.0, p) for i, p in enumerate(parts)]


def _csv(history: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


_LATER = ("scores", "scoring", "cell")


def _cell_document(row: Row) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in _LATER}


def _row_from(document: Mapping[str, Any], cell: str) -> Row:
    known = {f.name for f in fields(Row)}
    values = {k: v for k, v in document.items() if k in known}
    values["steps"] = tuple(values.get("steps", ()))
    return Row(**values, cell=cell)


def _reason_document(missing: NotAvailable) -> dict[str, Any]:
    return {"reason": missing.reason, **({"retry": True} if missing.retry else {})}


def _score_document(score: Score) -> dict[str, Any]:
    document: dict[str, Any] = {"value": score.value, "n": score.n}
    if score.se is not None:
        document["se"] = score.se
    return document | ({"note": score.note} if score.note else {})


def _scores_from(document: Mapping[str, Any]) -> dict[str, Score | NotAvailable]:
    return {
        name: NotAvailable(s["reason"], retry=s.get("retry", False))
        if "reason" in s
        else Score(s["value"], s["n"], s.get("se"), s.get("note", ""))
        for name, s in document["scores"].items()
    }
