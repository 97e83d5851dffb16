"""Files and folders that appear whole, by one rename, or not at all: written beside their place, fsynced, renamed.

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
from bench.util.text import inert, may_harm

SCHEMA = 3  # what changed with each: docs/durability.md
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
        Damaged: it isn't what was written.
        StoreError: it's missing or unreadable, or of a newer schema.
    """
    try:
        content = inside.content(path)
    except OSError as error:
        raise unreadable(path, error) from None
    return parsed(path, content)


def read_json_if_any(path: Path | str) -> dict[str, Any] | None:
    """The same, and None where there is no such file: one call of the system fewer than to ask before.

    Raises:
        Damaged, StoreError: as above.
    """
    try:
        content = inside.content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    return parsed(path, content)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


_begin = json.JSONDecoder(parse_constant=_no_number).raw_decode
_BLANK = " \t\n\r"


def parsed(path: Path | str, content: bytes) -> dict[str, Any]:
    """Return the document in the file at `path`, given its content.

    Raises:
        Damaged, StoreError: as `read_json`.
    """
    try:
        text = content.decode()
        begun = text.lstrip(_BLANK)
        found, end = _begin(begun)  # `json.loads` does more by each call than a small document takes
        if begun[end:].strip(_BLANK):
            found = json.loads(text)  # which says what is wrong
        if may_harm(text):
            found = inert(found)
    except RecursionError:
        raise Damaged(path, "is nested too deeply", repair(path)) from None
    except ValueError as error:
        raise Damaged(path, f"can't be read: {type(error).__name__}: {error}", repair(path)) from None
    if not isinstance(found, dict):
        raise Damaged(path, "isn't a document of this suite", repair(path))
    schema = found.get("schema", 0)
    if type(schema) is not int:
        raise Damaged(path, "has a schema that is no number", repair(path))
    if schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, and this version reads up to {SCHEMA}",
            fix="Upgrade vaebench.",
        )
    return found


def repair(path: Path | str) -> str:
    """The way out where a document of a run is damaged, by where it lies."""
    where = Path(path)
    if where.name == "run.json":
        return "Write {} into it: the same `bench run` fills it again."
    if where.parent.name in ("done", "scores"):
        return "The same `bench run` puts it aside and makes it anew."
    return ""


def unreadable(path: Path | str, error: OSError) -> StoreError:
    """That the file at `path` can't be read, and why."""
    return StoreError(f"{path} can't be read", cause=f"{type(error).__name__}: {error.strerror or error}")


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


def write_json(path: Path, document: Mapping[str, Any], *, summed: bool = False) -> None:
    """Replace a JSON document of the present schema; strict JSON, so no NaN.

    Args:
        summed: with a sum of its own, for a document that doesn't lie in a folder with sums.
    """
    head = {"schema": SCHEMA, **({"sum": ""} if summed else {})}
    text = json.dumps({**head, **document}, indent=1, allow_nan=False, default=_plain) + "\n"
    if summed:
        text = text.replace('"sum": ""', f'"sum": "{hashlib.sha256(text.encode()).hexdigest()}"', 1)
    write_text(path, text)


_SUM = re.compile(rb'"sum": "([0-9a-f]{64})"')


def own_sum_fits(content: bytes) -> bool:
    """Return whether a document's own checksum fits its content, with the checksum itself left empty."""
    found = _SUM.search(content, 0, 256)
    if found is None:
        return False
    rest = hashlib.sha256(content[: found.start(1)])
    rest.update(content[found.end(1) :])
    return rest.hexdigest().encode() == found[1]


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
    with inside.reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(folder: Path | str) -> dict[str, str]:
    """The digests of a folder's files when it appeared, by name.

    Raises:
        Damaged, OSError, ValueError: they can't be read.
    """
    lines = inside.content(f"{folder}/{SUMS}").decode().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def damage(folder: Path) -> list[str]:
    """What of a folder isn't as it was when it appeared, a line each; [] where all is whole."""
    try:
        there = {entry.name for entry in inside.entries(folder)} - {SUMS}
    except Damaged as error:
        return [f"{folder.name} {error.why}"]
    try:
        known = sums(folder)
    except (OSError, ValueError, Damaged) as error:
        return [f"{SUMS} can't be read: {type(error).__name__}"]
    found = []
    for name in sorted({*known, *there}):
        if name not in there:
            found.append(f"{name} is missing")
        elif name not in known:
            found.append(f"{name} doesn't belong here")
        else:
            found += [f"{name} {why}"] if (why := _changed(folder / name, known[name])) else []
    return found


def _changed(path: Path, digest: str) -> str:
    """Return in words how a file differs from its checksum; '' where it does not."""
    try:
        return "has changed" if sha256(path) != digest else ""
    except Damaged as error:
        return error.why
