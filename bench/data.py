"""Datasets on disk: finding, downloading and loading them.

data_root       the folder of datasets: --data-root, else BENCH_DATA, else in the user's cache directory
parse           the dataset that a text names: 'fashion', 'mnist[option=value]', 'folder:PATH'
fetch, status   download a dataset's files into that folder; report which are there
load            a dataset as a run uses it
copies, clear   list and remove decoded images that are kept to save time
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from bench.contracts.dataset import DATASETS, Data, Dataset, File, Progress, prepare
from bench.contracts.disjoint import require_disjoint
from bench.contracts.naming import asked, called, is_there, read, require_fit
from bench.contracts.scale import oddity
from bench.plugins.hyperparameters import check, hyperparameters
from bench.plugins.hyperparameters import split as split_at_commas
from bench.util.durable import replacing
from bench.util.errors import BenchError, DataError, UnknownName, UsageError
from bench.util.places import cache_dir
from bench.util.process import make_folder

TIMEOUT = 30.0  #: seconds without an answer before the next address is tried
_HERE = {"127.0.0.1", "localhost"}


def data_root(given: str | None = None) -> Path:
    """Return the folder of datasets: `given` (`--data-root`), else `BENCH_DATA`, else `data` in the cache directory."""
    given = given or os.environ.get("BENCH_DATA")
    return Path(os.path.expanduser(given)) if given else cache_dir() / "data"


class _Failed(Exception):
    """The reason why an address gave no file, or a wrong one."""


def _allowed(url: str) -> bool:
    """Return whether a download may use `url`: https, or plain http to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, except from https to anything else."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if not _allowed(newurl) or (req.type == "https" and urlsplit(newurl).scheme != "https"):
            raise URLError(f"redirected to {newurl!r}, which isn't https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


_opener = build_opener(_NoDowngrade)


def _chunks(url: str) -> Iterator[bytes]:
    """Yield the content of `url`.

    Raises:
        _Failed: for any error of the network.
    """
    if not _allowed(url):
        raise _Failed("not https")
    try:
        with _opener.open(Request(url, headers={"User-Agent": "vaebench"}), timeout=TIMEOUT) as response:
            while chunk := response.read(1 << 18):
                yield chunk
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if type(error) is URLError else error
        raise _Failed(str(reason) or type(error).__name__) from error


def _download(url: str, file: File, target: Path, on_progress: Progress | None) -> None:
    """Download `file` from `url` to `target`, whole and checked, or not at all.

    Raises:
        _Failed: the address doesn't answer, or gives another file.
        OSError: the disk can't be written.
    """
    sha, got = hashlib.sha256(), 0
    with replacing(target) as out:
        for chunk in _chunks(url):
            got += len(chunk)
            if got > file.size:
                raise _Failed(f"wrong size: more than the expected {file.size:,} bytes")
            sha.update(chunk)
            out.write(chunk)
            if on_progress is not None:
                on_progress(f"downloading {file.path}", got, file.size)
        if got != file.size:
            raise _Failed(f"wrong size: {got:,} bytes instead of {file.size:,}")
        if sha.hexdigest() != file.sha256:
            raise _Failed(f"wrong checksum: sha256 {sha.hexdigest()[:12]}..., not {file.sha256[:12]}...")


@contextmanager
def _folder_errors(what: str) -> Iterator[None]:
    """Turn an error of the disk into one that says `what` failed and how to choose another folder."""
    try:
        yield
    except OSError as error:
        raise DataError(
            what, cause=f"{error.strerror or error}.", fix="Choose another folder with --data-root or BENCH_DATA."
        ) from error


def _ready(dataset: Dataset, root: Path) -> bool:
    with _folder_errors(f"can't look into the data folder {str(root)!r}"):
        return dataset.ready(root)


def _by_hand(file: File, root: Path) -> str:
    return (
        f"Put the file into {str((root / file.path).parent)!r} by hand, "
        f"or name a folder that has {file.path} with --data-root or BENCH_DATA."
    )


def _fetch(file: File, root: Path, on_progress: Progress | None) -> Path:
    target = root / file.path
    failures = []
    with _folder_errors(f"can't write {file.path} into {str(target.parent)!r}"):
        make_folder(target.parent)
        for url in file.urls:
            try:
                _download(url, file, target, on_progress)
                return target
            except _Failed as failure:
                failures.append(f"{url}: {failure}")
    raise DataError(
        f"{file.path} could not be downloaded",
        cause="\n".join(failures) or "Its source allows no download by programs, only by a browser.",
        fix=_by_hand(file, root),
    )


def fetch(dataset: Dataset, root: Path, on_progress: Progress | None = None) -> list[Path]:
    """Download the files of `dataset` that are missing under `root`, each checked by size and sha256.

    Existing files are left alone; a dataset that is ready needs no network.

    Returns:
        The files that were downloaded.

    Raises:
        DataError: no address gave a file, or the disk can't be written.
    """
    if _ready(dataset, root):
        return []
    return [_fetch(file, root, on_progress) for file in dataset.files if not (root / file.path).exists()]


@dataclass(frozen=True)
class FileStatus:
    """One file of a dataset as it lies on disk; `size` in bytes, 0 where it is missing."""

    file: File
    path: Path
    state: Literal["present", "missing", "wrong size"]
    size: int


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset under a root. It may be `ready` without all of them, in another form."""

    ready: bool
    files: tuple[FileStatus, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together, once they are there."""
        return sum(entry.file.size for entry in self.files)


def status(dataset: Dataset, root: Path) -> DatasetFiles:
    """Return which files of `dataset` lie under `root`; reads no file and uses no network."""
    return DatasetFiles(_ready(dataset, root), tuple(_file_status(file, root / file.path) for file in dataset.files))


def _file_status(file: File, path: Path) -> FileStatus:
    try:
        size = path.stat().st_size
    except OSError:
        return FileStatus(file, path, "missing", 0)
    return FileStatus(file, path, "present" if size == file.size else "wrong size", size)


def words(text: str) -> list[str]:
    """Return the words of a dataset's text that may name plugins: its name, and the values of its options.

    Raises:
        UsageError: the text has no form of a dataset.
    """
    name, options, _ = read(asked(text))
    return [name, *options.values()]


_HEAD = re.compile(r"[^:,\[\]]*(\[[^\[\]]*\])?")


def separate(text: str) -> list[str]:
    """Split a list of datasets at its commas. A path may contain commas itself: the longest that exists is taken.

    Raises:
        UsageError: brackets that don't match.
    """
    head = _HEAD.match(text)
    end = head.end() if head is not None else 0
    if text[end : end + 1] not in (":", ",", ""):
        return split_at_commas(text)
    commas = [i for i in range(end, len(text)) if text[i] == ","] + [len(text)]
    paths = (i for i in reversed(commas) if text[end : end + 1] == ":" and is_there(asked(text[:i])[end + 1 :]))
    at = next(paths, commas[0])
    return [part for part in (text[:at].strip(), *(separate(text[at + 1 :]) if at < len(text) else ())) if part]


def _load(name: str, text: str) -> type[Dataset]:
    """Return the class called `name`; where `text` is a bare path, the error names the datasets that can read it."""
    try:
        return DATASETS.load(name)
    except UnknownName:
        path = os.path.expanduser(text)
        bare = name == text and (os.sep in text or text.startswith(("~", ".")))
        if not (is_there(path) or bare):
            raise
        suited = []
        for known in DATASETS:
            with suppress(BenchError):
                suited += [known] if DATASETS.load(known).suits(Path(path)) else []
        if not suited:
            raise
        raise UsageError(
            f"{text!r} is a path, not the name of a dataset",
            cause="A path needs the name of the dataset that reads it, and a colon, in front.",
            fix=f"Write {' or '.join(f'{known}:{text}' for known in suited)}.",
        ) from None


def parse(text: str, *, image_size: int | None = None) -> Dataset:
    """Return the dataset that `text` names: 'NAME', 'NAME[option=value]', 'NAME:ARGUMENT' or 'distribution:NAME'.

    A name behind it, as in 'folder:PATH as faces', changes only the name of the data.

    Raises:
        UnknownName, UsageError: as `asked_for`.
    """
    cls, arguments = asked_for(text, image_size)
    return cls(**arguments)


def asked_for(text: str, image_size: int | None = None) -> tuple[type[Dataset], dict[str, Any]]:
    """Return the class that `text` names, and the arguments of its constructor.

    Raises:
        UnknownName: there is no such dataset or option.
        UsageError: an option of the wrong type or range, an argument too many or missing.
    """
    name, options, argument = read(asked(text))
    cls = _load(name, text)
    if image_size is not None:
        if "image_size" not in hyperparameters(cls):
            raise UsageError(
                f"the images of {name} have a fixed size: it takes no --image-size",
                fix="Leave out --image-size, or run the datasets that need it separately.",
            )
        if "image_size" in options:
            raise UsageError(f"{text!r} has an image_size already", fix="Leave out one of the two.")
        options["image_size"] = str(image_size)
    values = check(name, cls, options)
    wanted = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    require_fit(text, name, own=bool(wanted))
    if wanted and not argument:
        what = wanted[0].name.upper()
        raise UsageError(f"{name} needs a {what} behind a colon", fix=f"For example {name}:{what}.")
    if argument is not None and not wanted:
        raise UsageError(f"{name} takes nothing behind a colon, not {argument!r}", fix=f"Write {name} alone.")
    return cls, {**({wanted[0].name: argument} if wanted else {}), **values}


def load(
    text: str,
    root: Path,
    *,
    limit: int | None = None,
    validation: int = 0,
    split: str = "test",
    image_size: int | None = None,
    download: bool = True,
    on_progress: Progress | None = None,
) -> Data:
    """Return the dataset that `text` names (see `parse`), as a run uses it; download files that `root` lacks.

    Raises:
        UsageError: no such dataset or option, or more images asked for than there are.
        DataError: a file can't be downloaded, is missing (`download=False`) or damaged, or test images are among the
            training images.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no training images", fix="Use 1 or more.")
    if validation < 0:
        raise UsageError(f"--validation {validation} is negative", fix="Use 0 or more images.")
    dataset = parse(text, image_size=image_size)
    if not _ready(dataset, root):
        if not download:
            missing = next((f for f in dataset.files if not (root / f.path).exists()), None)
            raise DataError(
                f"{text!r} isn't under {str(root)!r}" + (f": {missing.path} is missing" if missing else ""),
                cause="Downloads are off.",
                fix=_by_hand(missing, root) if missing else "",
            )
        fetch(dataset, root, on_progress)
    dataset.on_progress = on_progress
    splits = dataset.load(root)
    require_disjoint(text, splits)
    data = prepare(called(text), dataset, splits, limit=limit, validation=validation, split=split)
    odd = [(part, oddity(images)) for part, images in (("train", splits.train), ("test", splits.test))]
    return replace(data, notes=(*data.notes, *(f"{data.name}, {part}: {words}" for part, words in odd if words)))


UNTOUCHED = 60.0  #: seconds without a change after which an incomplete copy counts as abandoned


@dataclass(frozen=True)
class Copy:
    """Decoded images on disk: folder, the data that they are `of`, bytes, and whether a process is writing them."""

    path: Path
    of: str
    size: int
    busy: bool


def copies() -> list[Copy]:
    """Return the decoded images that datasets keep on this machine (`Dataset.cache`)."""
    home = cache_dir() / "decoded"
    return [_copy(path) for path in sorted(home.iterdir()) if path.is_dir()] if home.is_dir() else []


def _copy(path: Path) -> Copy:
    files = [entry.stat() for entry in path.iterdir()]
    try:
        of = str(json.loads((path / "copy.json").read_text(encoding="utf-8"))["of"])
    except (OSError, ValueError, KeyError, TypeError):
        of = ""
    young = any(time.time() - stat.st_mtime < UNTOUCHED for stat in files)
    return Copy(path, of or "not complete", sum(stat.st_blocks * 512 for stat in files), not of and young)


def clear(copy: Copy) -> None:
    """Remove decoded images, which are made again when needed. A run that uses them now keeps them until its end.

    Raises:
        DataError: they can't be removed.
    """
    try:
        shutil.rmtree(copy.path)
        copy.path.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{str(copy.path)!r} can't be removed", cause=f"{error.strerror or error}.") from error
