"""Names of datasets: in 'folder:PATH as faces' the dataset is folder:PATH, and faces is its name in tables.

Users' own images have other paths on other machines, so rows of the same images can have different names: `alike`
gives them one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from bench.contracts.dataset import DATASETS
from bench.contracts.row import Row
from bench.plugins.hyperparameters import selector
from bench.plugins.unpublished import ADDRESS
from bench.util.errors import UsageError

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
_GIVEN = re.compile(rf"(?P<asked>.*\S)\s+as\s+(?P<name>{_NAME})\s*", re.DOTALL)


def _split(text: str) -> tuple[str, str]:
    """Split 'folder:PATH as NAME' into dataset and NAME ('' without one); a path that exists is not split."""
    match = _GIVEN.fullmatch(text)
    if match is None or is_there(text.partition(":")[2]):
        return text, ""
    return match["asked"], match["name"]


def is_there(path: str) -> bool:
    """Return whether `path` exists, with ~ for the user's home; False if the text cannot be a path."""
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # no path has a null byte
        return False


def asked(text: str) -> str:
    """Return the dataset in `text`, without the name that `text` gives it."""
    return _split(text)[0]


def called(text: str) -> str:
    """Return the name that tables show: 'faces' for 'folder:PATH as faces', else `text` itself."""
    return _split(text)[1] or text


def require_fit(text: str, name: str, *, own: bool) -> None:
    """Raise UsageError if the name that `text` gives is not allowed.

    Args:
        name: the dataset in `text`.
        own: whether it takes a path or the like; other datasets are the same everywhere and keep their names.
    """
    given = _split(text)[1]
    if given and not own:
        raise UsageError(f"{name} keeps its name: it can't be called {given!r}", fix=f"Write {asked(text)} alone.")
    if given and given in DATASETS:
        raise UsageError(f"{given!r} is an installed dataset's name", fix="Give the images another name.")


@cache
def own(name: str) -> bool:
    """Return whether a row's dataset is a user's own images, named by their path or by a given name.

    False with options other than the size: a row does not record what else the options changed.
    """
    if re.fullmatch(_NAME, name):
        return name not in DATASETS
    try:
        _, options, place = read(name)
    except UsageError:
        return False
    return place is not None and not options.keys() - {"image_size"}


_PART = re.compile(rf"(?P<who>({ADDRESS.pattern}|[^:\[\]]*)(\[[^\[\]]*\])?)(:(?P<rest>.*))?", re.DOTALL)


def read(text: str) -> tuple[str, dict[str, str], str | None]:
    """Split 'folder[image_size=32]:PATH' into name, options and PATH; PATH is None without a colon."""
    head = _PART.fullmatch(text)
    if head is None:
        raise UsageError(f"{text!r} isn't a dataset", fix="Write NAME, NAME:PATH or NAME[key=value,...]:PATH.")
    name, options = selector(head["who"])
    rest: str | None = head["rest"]
    distributions = {entry.distribution for entry in DATASETS.entries}
    if rest is not None and name in distributions and name not in DATASETS:
        short, options, rest = read(rest)
        name = f"{name}:{short}"
    return name, options, rest


def texts(name: str, datasets: Sequence[str]) -> list[str]:
    """Return the texts in `datasets` that give the name `name`, the last one first; else `name` itself."""
    return [text for text in reversed(datasets) if called(text) == name] or [name]


def images(row: Row) -> tuple[str, str] | None:
    """Return the digests of the images that a row was trained and scored on; None if it has none."""
    train, test = row.data.get("train"), row.scoring.get("test") or row.data.get("test")
    return (train, test) if isinstance(train, str) and isinstance(test, str) else None


def alike(*tables: Iterable[Row]) -> list[list[Row]]:
    """Return the tables with one name for the same user's own images: a given name, else the first."""
    lists = [list(table) for table in tables]
    names: dict[tuple[str, str], dict[str, None]] = {}
    for row in (row for table in lists for row in table):
        if (of := images(row)) is not None and own(row.dataset):
            names.setdefault(of, {})[row.dataset] = None
    several = {of: min(every, key=lambda name: ":" in name) for of, every in names.items() if len(every) > 1}
    if not several:
        return lists

    def renamed(row: Row) -> Row:
        of = images(row)
        name = several.get(of) if of is not None and own(row.dataset) else None
        return row if name in (None, row.dataset) else replace(row, dataset=name or row.dataset)

    return [list(map(renamed, table)) for table in lists]
