"""Files and folders that appear whole, by one rename, or not at all: written beside their place, fsynced, renamed.

A process may be killed at any instant, and the disk may be full: what a reader finds is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from safetensors import SafetensorError

from bench.errors import StoreError
from bench.lease import has_ended, signature
from bench.process import make_folder, steady

SCHEMA = 2  # what changed with each: docs/durability.md
SUMS = "SHA256SUMS"
TEMPORARY = ".tmp-"


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in the user's words what keeps `place` from being written.

    Raises:
        StoreError: in place of an OSError.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "I/O error" not in str(error):
            raise
        why = (error.strerror if isinstance(error, OSError) else None) or str(error).rpartition("I/O error: ")[2]
        try:
            free = f" ({shutil.disk_usage(place).free / 2**20:,.0f} MiB free there)"
        except OSError:
            free = ""
        raise StoreError(
            f"{place} can't be written: {why}{free}",
            cause="The disk is full, a quota or limit is reached, or the folder isn't yours to write.",
            fix="Make room, then the same command goes on from where it was; or choose another folder with --out.",
        ) from None


def read_json(path: Path | str) -> dict[str, Any]:
    """A document of this suite, of this schema or an older one.

    Raises:
        StoreError: unreadable, damaged, or of a newer schema.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return _document(path, content)


def read_json_if_any(path: Path | str) -> dict[str, Any] | None:
    """The same, and None where there is no such file: one call of the system fewer than to ask before.

    Raises:
        StoreError: as above.
    """
    try:
        content = _content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return _document(path, content)


_begin = json.JSONDecoder().raw_decode
_BLANK = " \t\n\r"


def _document(path: Path | str, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
        begun = text.lstrip(_BLANK)
        document, end = _begin(begun)  # `json.loads` does more by each call than a small document takes
        if begun[end:].strip(_BLANK):
            document = json.loads(text)  # which says what is wrong
    except ValueError as error:
        raise _unreadable(path, error) from None
    if not isinstance(document, dict):
        raise StoreError(f"{path} isn't a document of this suite", fix=_repair(path))
    schema = document.get("schema", 0)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, and this version reads up to {SCHEMA}",
            fix="Upgrade vaebench.",
        )
    return document


def _repair(path: Path | str) -> str:
    """The way out where a document of a run is damaged, by where it lies."""
    home = Path(path).parent
    if home.name == "scores":
        return "Delete the file: the same `bench run` scores the cell again."
    if home.name == "done":
        return f"Delete {home.parent}: the same `bench run` makes the cell anew."
    return ""


def _unreadable(path: Path | str, error: Exception) -> StoreError:
    why = (isinstance(error, OSError) and error.strerror) or error  # an OSError's own text repeats the path
    return StoreError(
        f"{path} can't be read",
        cause=f"{type(error).__name__}: {why}",
        fix="" if isinstance(error, OSError) else _repair(path),
    )


def _content(path: Path | str) -> bytes:
    """A file's content by three calls of the system: `open` costs three times as much, and a run may have 40,000."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, 65536)
        if len(content) < 65536:
            return content
        parts = [content]
        while parts[-1]:
            parts.append(os.read(descriptor, 65536))
    finally:
        os.close(descriptor)
    return b"".join(parts)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file to write in; at the end it takes the place of `path` in one step, fsynced. An error removes it.

    Raises:
        OSError
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is told
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step, fsynced."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, fsynced; as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def _beside(target: Path) -> Path:
    """Return the name under which `target` is to be written first, after removing what dead processes left there.

    The name has the process in it that writes: so the temporaries of another one, which is at work in the same folder,
    are told from those of a dead one.
    """
    steady()
    sweep(target.parent)
    return target.with_name(f"{TEMPORARY}{signature()}-{uuid4().hex}")


def sweep(folder: Path | str) -> None:
    """Remove from a folder, not from those below it, what processes were writing there when they ended."""
    try:
        found = [name for name in os.listdir(folder) if name.startswith(TEMPORARY)]
    except OSError:
        return
    for path in (Path(folder, name) for name in found):
        if is_abandoned(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def is_abandoned(temporary: Path) -> bool:
    """Return whether nobody is at work on a temporary any more."""
    return has_ended(temporary.name.removeprefix(TEMPORARY).rpartition("-")[0], temporary)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON document of the present schema; strict JSON, so no NaN."""
    write_text(path, json.dumps({"schema": SCHEMA, **document}, indent=1, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | set):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a results file")


def sync(folder: Path) -> None:
    """Make what was renamed in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def appear(target: Path, fill: Callable[[Path], None], late: Callable[[Path], None] = lambda _: None) -> bool:
    """Let a folder appear under `target` with what `fill` writes into it and the SHA256SUMS of that.

    False: somebody else's folder came first, and stays as it is; `late` sees ours before it's removed.
    """
    make_folder(target.parent)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        fill(temporary)
        names = sorted(path.name for path in temporary.iterdir())
        sums = "".join(f"{sha256(temporary / name)}  {name}\n" for name in names)
        (temporary / SUMS).write_text(sums, encoding="utf-8")
        mode = stat.S_IMODE((temporary / SUMS).stat().st_mode)  # safetensors' own files are for their owner alone
        for name in (*names, SUMS):
            (temporary / name).chmod(mode)
            with open(temporary / name, "rb") as file:
                os.fsync(file.fileno())
        sync(temporary)
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            late(temporary)
            return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(target.parent)
    return True


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path) -> list[str]:
    """What of a folder isn't as it was when it appeared, a line each; [] where all is whole."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, ValueError) as error:
        return [f"{SUMS} can't be read: {type(error).__name__}"]
    found = []
    there = {path.name for path in folder.iterdir()} - {SUMS}
    for name in sorted({*sums, *there}):
        if name not in there:
            found.append(f"{name} is missing")
        elif name not in sums:
            found.append(f"{name} doesn't belong here")
        elif sha256(folder / name) != sums[name]:
            found.append(f"{name} has changed")
    return found
