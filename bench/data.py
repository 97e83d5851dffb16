"""Where data lies, how it gets there, and how a run asks for it.

data_root       --data-root, else BENCH_DATA, else the user's cache directory
parse           'fashion', 'mnist[option=value]', 'folder:PATH': the dataset that the text asks for
fetch, status   bring a dataset's files under the root; say what lies there
load            all of it: a dataset as a run uses it
copies, clear   decoded images that are kept to save time
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
from contextlib import suppress
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
    """Where datasets lie: `given` (`--data-root`), else `BENCH_DATA`, else `data` in the cache directory."""
    given = given or os.environ.get("BENCH_DATA")
    return Path(os.path.expanduser(given)) if given else cache_dir() / "data"


class _Failed(Exception):
    """This address didn't give the file, and why."""


def _allowed(url: str) -> bool:
    """Only https; plain http only to this very machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if not _allowed(newurl) or (req.type == "https" and urlsplit(newurl).scheme != "https"):
            raise URLError(f"redirected to {newurl!r}, which isn't https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


_opener = build_opener(_NoDowngrade)


def _chunks(url: str) -> Iterator[bytes]:
    """The content behind `url`.

    Raises:
        _Failed: for whatever goes wrong on the network's side.
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
    """Put `file` from `url` at `target`, whole and checked, or not at all.

    Raises:
        _Failed: the address doesn't answer, or what it gives isn't the file.
        OSError: the disk won't take it.
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


def _ready(dataset: Dataset, root: Path) -> bool:
    try:
        return dataset.ready(root)
    except OSError as error:
        raise DataError(
            f"can't look into the data folder {str(root)!r}",
            cause=f"{error.strerror or error}.",
            fix="Choose another folder with --data-root or BENCH_DATA.",
        ) from error


def _by_hand(file: File, root: Path) -> str:
    return (
        f"Put the file into {str((root / file.path).parent)!r} by hand, "
        f"or name a folder that has {file.path} with --data-root or BENCH_DATA."
    )


def _fetch(file: File, root: Path, on_progress: Progress | None) -> Path:
    target = root / file.path
    failures = []
    try:
        make_folder(target.parent)
        for url in file.urls:
            try:
                _download(url, file, target, on_progress)
                return target
            except _Failed as failure:
                failures.append(f"{url}: {failure}")
    except OSError as error:
        raise DataError(
            f"can't write {file.path} into {str(target.parent)!r}",
            cause=f"{error.strerror or error}.",
            fix="Choose another folder with --data-root or BENCH_DATA.",
        ) from error
    raise DataError(
        f"{file.path} could not be downloaded",
        cause="\n".join(failures) or "Its source gives it to no program: it has to be fetched in a browser.",
        fix=_by_hand(file, root),
    )


def fetch(dataset: Dataset, root: Path, on_progress: Progress | None = None) -> list[Path]:
    """Download what `dataset` still lacks under `root`, checked by size and sha256 before it gets its name.

    Files that are there already are left alone; a dataset that is ready needs no network.

    Returns:
        The files that were downloaded.

    Raises:
        DataError: an address failed and no mirror helped, or the disk won't take it.
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
class Status:
    """What of a dataset lies under a root. It may be `ready` without every file, in another form."""

    ready: bool
    files: tuple[FileStatus, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together, once they are there."""
        return sum(entry.file.size for entry in self.files)


def status(dataset: Dataset, root: Path) -> Status:
    """What of `dataset` lies under `root`; reads no file and uses no network."""
    return Status(_ready(dataset, root), tuple(_file_status(file, root / file.path) for file in dataset.files))


def _file_status(file: File, path: Path) -> FileStatus:
    try:
        size = path.stat().st_size
    except OSError:
        return FileStatus(file, path, "missing", 0)
    return FileStatus(file, path, "present" if size == file.size else "wrong size", size)


def words(text: str) -> list[str]:
    """Return what of a dataset's text may name a plugin: its name, and the values of its options.

    Raises:
        UsageError: it isn't written as a dataset is.
    """
    name, options, _ = read(asked(text))
    return [name, *options.values()]


_HEAD = re.compile(r"[^:,\[\]]*(\[[^\[\]]*\])?")


def separate(text: str) -> list[str]:
    """The datasets of a list by commas. Of a path, as much is taken as there is a file or folder of that name.

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
    """The class called `name`; where `text` is a bare path, what reads it is told."""
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
            f"{text!r} is a path, and no dataset's name",
            cause="What is to be read there stands before it, with a colon.",
            fix=f"Ask for {' or '.join(f'{known}:{text}' for known in suited)}.",
        ) from None


def parse(text: str, *, image_size: int | None = None) -> Dataset:
    """The dataset that `text` asks for: 'NAME', 'NAME[option=value]', 'NAME:ARGUMENT' or 'distribution:NAME'.

    A name behind it ('folder:PATH as faces') is what the data are called, and changes nothing else.

    Raises:
        UnknownName, UsageError: as `asked_for`.
    """
    cls, arguments = asked_for(text, image_size)
    return cls(**arguments)


def asked_for(text: str, image_size: int | None = None) -> tuple[type[Dataset], dict[str, Any]]:
    """The class that `text` names, and the arguments of its constructor.

    Raises:
        UnknownName: no dataset, or none of its options, is called so.
        UsageError: an option of the wrong type or range, an argument too many or missing.
    """
    name, options, argument = read(asked(text))
    cls = _load(name, text)
    if image_size is not None:
        if "image_size" not in hyperparameters(cls):
            raise UsageError(
                f"the images of {name} have a size of their own: it takes no --image-size",
                fix="Leave out --image-size, or ask for the datasets that need it in a run of their own.",
            )
        if "image_size" in options:
            raise UsageError(f"{text!r} has an image_size already", fix="Leave out one of the two.")
        options["image_size"] = str(image_size)
    values = check(name, cls, options)
    wanted = [p for p in inspect.signature(cls).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    require_fit(text, name, own=bool(wanted))
    if wanted and not argument:
        what = wanted[0].name.upper()
        raise UsageError(f"{name} needs to be told its {what}", fix=f"For example {name}:{what}.")
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
    """The dataset that `text` asks for (see `parse`), as a run uses it; downloads what `root` lacks.

    Raises:
        UsageError: no such dataset or option, or more images asked for than there are.
        DataError: something can't be downloaded, is missing (`download=False`) or damaged, or what it's tested on is
            what it's trained on.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves nothing to train on", fix="Ask for 1 or more.")
    if validation < 0:
        raise UsageError(f"--validation {validation} is less than none", fix="Ask for 0 or more images.")
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


UNTOUCHED = 60.0  #: seconds after which nobody is still at a copy that isn't complete


@dataclass(frozen=True)
class Copy:
    """Decoded images that are kept: where, what `of`, their bytes on disk, and whether somebody is making them."""

    path: Path
    of: str
    size: int
    busy: bool


def copies() -> list[Copy]:
    """What datasets keep of decoded images (`Dataset.cache`), on this machine."""
    home = cache_dir() / "decoded"
    return [_copy(path) for path in sorted(home.iterdir()) if path.is_dir()] if home.is_dir() else []


def _copy(path: Path) -> Copy:
    found = [entry.stat() for entry in path.iterdir()]
    try:
        of = str(json.loads((path / "copy.json").read_text(encoding="utf-8"))["of"])
    except (OSError, ValueError, KeyError, TypeError):
        of = ""
    young = any(time.time() - stat.st_mtime < UNTOUCHED for stat in found)
    return Copy(path, of or "not complete", sum(stat.st_blocks * 512 for stat in found), not of and young)


def clear(copy: Copy) -> None:
    """Remove decoded images: they're made again when they're needed. A run that uses them keeps them till its end.

    Raises:
        DataError: they may not be removed.
    """
    try:
        shutil.rmtree(copy.path)
        copy.path.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{str(copy.path)!r} can't be removed", cause=f"{error.strerror or error}.") from error
