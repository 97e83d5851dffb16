"""Files and folders that appear whole or not at all: written beside their place, fsynced, and renamed.

A process may be killed at any instant, and the disk may be full: what a reader finds is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from safetensors import SafetensorError

from bench.util import inside
from bench.util.errors import Damaged, StoreError
from bench.util.lease import has_ended, signature
from bench.util.process import make_folder, steady
from bench.util.text import inert

SCHEMA = 3  # docs/durability.md lists the changes of each
SUMS = "SHA256SUMS"
TEMPORARY = ".tmp-"
CHANGED = "has changed since it was written"


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an error of the disk, while something in `place` is written, into one that tells users what to do.

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
            cause="The disk is full, a quota or limit is reached, or you may not write to the folder.",
            fix="Free some space and repeat the command, which continues from there; or choose another --out.",
        ) from None


# reading


def content(path: Path | str) -> bytes | None:
    """Return the content of a file in a run; None where there is no such file.

    Raises:
        Damaged: something else than a file lies there, or the file is too large.
        StoreError: it can't be read.
    """
    try:
        return inside.content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        cause = f"{type(error).__name__}: {error.strerror or error}"
        raise StoreError(f"{path} can't be read", cause=cause) from None


def read_json(path: Path | str) -> dict[str, Any]:
    """Return a document of this suite, of this schema or an older one.

    Raises:
        Damaged: the file is not what was written.
        StoreError: it is missing, can't be read, or is of a newer schema.
    """
    document = read_json_if_any(path)
    if document is None:
        raise StoreError(f"{path} can't be read", cause="There is no such file.")
    return document


def read_json_if_any(path: Path | str) -> dict[str, Any] | None:
    """Return a document as `read_json` does; None where there is no such file."""
    data = content(path)
    return None if data is None else parsed(path, data)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def parsed(path: Path | str, content: bytes) -> dict[str, Any]:
    """Return the document that the file at `path` holds, given its content.

    Raises:
        Damaged, StoreError: as `read_json`.
    """
    try:
        text = content.decode()
        document = _decode(text)
    except RecursionError:
        raise Damaged(path, "is nested too deeply") from None
    except ValueError as error:
        raise Damaged(path, f"can't be read: {type(error).__name__}: {error}") from None
    schema = document.get("schema", 0) if isinstance(document, dict) else None
    if type(schema) is not int:
        raise Damaged(path, "isn't a document of this suite")
    if schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, and this version reads up to {SCHEMA}",
            cause="A newer version of the suite wrote it.",
            fix="Upgrade vaebench.",
        )
    escaped = not text.isascii() or "\\" in text or "\x7f" in text  # else no text in it can do harm
    return dict(inert(document) if escaped else document)


# writing


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file to write in; at the end it replaces `path` in one step, fsynced. An error removes it.

    Raises:
        OSError
    """
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_file(path: Path, content: bytes | str) -> None:
    """Replace a file in one step, fsynced; text as UTF-8."""
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path, document: Mapping[str, Any], *, summed: bool = False) -> None:
    """Replace a JSON document of the present schema; strict JSON, so no NaN.

    Args:
        summed: with a checksum of its own, for a document outside of a folder with checksums.
    """
    head = {"schema": SCHEMA, **({"sum": ""} if summed else {})}
    text = json.dumps({**head, **document}, indent=1, allow_nan=False, default=_listed) + "\n"
    if summed:
        text = text.replace('"sum": ""', f'"sum": "{hashlib.sha256(text.encode()).hexdigest()}"', 1)
    write_file(path, text)


def _listed(value: Any) -> Any:
    if isinstance(value, tuple | set):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a results file")


_SUM = re.compile(rb'"sum": "([0-9a-f]{64})"')


def own_sum_fits(content: bytes) -> bool:
    """Return whether a document's own checksum fits its content, with the checksum itself left empty."""
    match = _SUM.search(content, 0, 256)
    if match is None:
        return False
    rest = content[: match.start(1)] + content[match.end(1) :]
    return hashlib.sha256(rest).hexdigest().encode() == match[1]


def appear(target: Path, fill: Callable[[Path], None], late: Callable[[Path], None] = lambda _: None) -> bool:
    """Make a folder appear under `target` with the files that `fill` writes into it, and SHA256SUMS of these.

    Returns:
        False if another process's folder came first; that one stays, and `late` is called with ours before it is
        removed.
    """
    make_folder(target.parent)
    temporary = _temporary(target)
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


def sync(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# what dead processes were writing


def _temporary(target: Path) -> Path:
    """Return the name under which to write `target` first, after removing what dead processes left beside it.

    The name holds the signature of this process, which tells its temporaries from those of dead processes.
    """
    steady()
    sweep(target.parent)
    return target.with_name(f"{TEMPORARY}{signature()}-{uuid4().hex}")


def sweep(folder: Path | str) -> None:
    """Remove from a folder, not from folders in it, what processes were writing there when they ended."""
    try:
        temporaries = [Path(folder, name) for name in os.listdir(folder) if name.startswith(TEMPORARY)]
    except OSError:
        return
    for path in filter(is_abandoned, temporaries):
        with suppress(OSError):
            remove(path)


def is_abandoned(temporary: Path) -> bool:
    """Return whether the process that was writing a temporary has ended."""
    return has_ended(temporary.name.removeprefix(TEMPORARY).rpartition("-")[0], temporary)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing happens where there is none.

    Raises:
        OSError
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# checksums


def sha256(path: Path) -> str:
    """Return the digest of a file's content."""
    with inside.reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(folder: Path | str) -> dict[str, str] | None:
    """Return the digests of a folder's files when it appeared, by name; None where it has no SHA256SUMS.

    Raises:
        Damaged, StoreError: they can't be read.
    """
    data = content(f"{folder}/{SUMS}")
    try:
        lines = None if data is None else data.decode().splitlines()
    except ValueError:
        raise Damaged(f"{folder}/{SUMS}", CHANGED) from None
    return None if lines is None else {name: sum for sum, _, name in (line.partition("  ") for line in lines)}


def damage(folder: Path) -> list[str]:
    """Return a line for each file of a folder that isn't as it was when the folder appeared."""
    try:
        there = {entry.name for entry in inside.entries(folder)} - {SUMS}
        known = sums(folder)
    except Damaged as error:
        return [f"{error.path.name} {error.why}"]
    except StoreError as error:
        return [f"{SUMS} can't be read: {error.cause}"]
    if known is None:
        return [f"{SUMS} is missing"]
    lines = []
    for name in sorted({*known, *there}):
        if name not in there:
            lines.append(f"{name} is missing")
        elif name not in known:
            lines.append(f"{name} doesn't belong here")
        else:
            try:
                lines += [f"{name} has changed"] if sha256(folder / name) != known[name] else []
            except Damaged as error:
                lines.append(f"{name} {error.why}")
    return lines
