"""Names of datasets: the path that was asked for or a name that the user gave, and one name for the same images.

called, asked    'folder:PATH as faces' is called faces, and asks for folder:PATH
own              whether a name stands for somebody's own images, which lie elsewhere on another machine
images           what the images of a row are, whatever they're called
alike            tables in which the same images have the same name
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from bench.contracts.row import Row
from bench.plugins.hyperparameters import selector
from bench.plugins.unpublished import ADDRESS
from bench.util.errors import UsageError

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
_GIVEN = re.compile(rf"(?P<asked>.*\S)\s+as\s+(?P<name>{_NAME})\s*", re.DOTALL)


def _split(text: str) -> tuple[str, str]:
    """Split 'folder:PATH as NAME' into dataset and NAME ('' without one). A path that exists is taken as it stands."""
    found = _GIVEN.fullmatch(text)
    if found is None or is_there(text.partition(":")[2]):
        return text, ""
    return found["asked"], found["name"]


def is_there(path: str) -> bool:
    """Return whether something lies at `path`, whose ~ is the user's home; False for what can be no path."""
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # no path has a null byte
        return False


def asked(text: str) -> str:
    """Return the dataset that `text` asks for, without the name that `text` gives it."""
    return _split(text)[0]


def called(text: str) -> str:
    """Return the name of the data that `text` asks for: 'faces' for 'folder:PATH as faces', else `text` itself."""
    return _split(text)[1] or text


def require_fit(text: str, name: str, *, own: bool) -> None:
    """Go on only where data may be called as `text` wants.

    Args:
        name: the dataset that it asks for.
        own: whether that takes a path or the like: others are the same everywhere, and keep their names.

    Raises:
        UsageError: they may not.
    """
    from bench.contracts.dataset import DATASETS

    given = _split(text)[1]
    if given and not own:
        raise UsageError(f"{name} keeps its name: it can't be called {given!r}", fix=f"Write {asked(text)} alone.")
    if given and given in DATASETS:
        raise UsageError(f"{given!r} is an installed dataset's name", fix="Give the images another name.")


@cache
def own(name: str) -> bool:
    """Return whether a row's dataset is a user's own images: asked for by their path, or by a name that was given.

    Those that are asked for with options besides the size are apart: what else there is in them isn't in a row.
    """
    from bench.contracts.dataset import DATASETS

    if re.fullmatch(_NAME, name):
        return name not in DATASETS
    try:
        _, options, place = read(name)
    except UsageError:
        return False
    return place is not None and not options.keys() - {"image_size"}


_PART = re.compile(rf"(?P<who>({ADDRESS.pattern}|[^:\[\]]*)(\[[^\[\]]*\])?)(:(?P<rest>.*))?", re.DOTALL)


def read(text: str) -> tuple[str, dict[str, str], str | None]:
    """'folder[image_size=32]:PATH' as name, options and PATH, which is taken as it stands."""
    from bench.contracts.dataset import DATASETS

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
    """Return the texts that ask for the data called `name`: those of `datasets`, the last one first; else `name`."""
    return [text for text in reversed(datasets) if called(text) == name] or [name]


def images(row: Row) -> tuple[str, str] | None:
    """The digests of what a row was trained and scored on; None where it doesn't say."""
    train, test = row.data.get("train"), row.scoring.get("test") or row.data.get("test")
    return (train, test) if isinstance(train, str) and isinstance(test, str) else None


def alike(*tables: Iterable[Row]) -> list[list[Row]]:
    """The same tables with one name for the same images of somebody's own: one that was given, else the first."""
    lists = [list(table) for table in tables]
    names: dict[tuple[str, str], dict[str, None]] = {}
    for row in (row for table in lists for row in table):
        if (of := images(row)) is not None and own(row.dataset):
            names.setdefault(of, {})[row.dataset] = None
    several = {of: min(found, key=lambda name: ":" in name) for of, found in names.items() if len(found) > 1}
    if not several:
        return lists

    def renamed(row: Row) -> Row:
        of = images(row)
        name = several.get(of) if of is not None and own(row.dataset) else None
        return row if name in (None, row.dataset) else replace(row, dataset=name or row.dataset)

    return [list(map(renamed, table)) for table in lists]
