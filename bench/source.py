"""The source that a plugin's behaviour depends on: its file, and what that imports from its own package.

Imports are read from the text, so that nothing is executed. A digest of these files is part of a cell's identity:
edited code is another variant.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

OURS = Path(__file__).resolve().parent  # the suite's own package


def digest(files: Iterable[Path], text: str = "") -> str:
    """16 hexadecimal digits over the names and contents of files, and a text; where the files lie doesn't count."""
    sha = hashlib.sha256(text.encode())
    for file in files:
        sha.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return sha.hexdigest()[:16]


def closure(file: Path) -> list[Path]:
    """`file`, and all that it imports from its own package (or, for a script, from its own folder), and so on."""
    found: dict[Path, None] = {}
    todo = [file.resolve()]
    top, inside = _home(todo[0])
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = None
            around = [folder / "__init__.py" for folder in path.parents]
            todo += [p for p in (*around, *_imports(path, top)) if p.is_relative_to(inside) and p.is_file()]
    return [file.resolve(), *sorted(found.keys() - {file.resolve()})]


def package(file: Path) -> tuple[Path, str]:
    """The folder from which `file` can be imported, and its dotted name there."""
    home = file.parent
    while (home / "__init__.py").is_file():
        home = home.parent
    parts = file.relative_to(home).with_suffix("").parts
    return home, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _home(file: Path) -> tuple[Path, Path]:
    """Where absolute imports begin, and the folder (or file) outside of which code is somebody else's."""
    top, name = package(file)
    if file.is_relative_to(OURS):  # an installed suite holds its plugins in sub-packages
        return top, file.parent
    if "." in name or file.name == "__init__.py":
        return top, top / name.split(".")[0]
    return top, file if _installed(file) else file.parent


def _installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or str(file.parent) in _standard()


@cache
def _standard() -> frozenset[str]:
    return frozenset({str(Path(ast.__file__).resolve().parent), str(Path(sys.prefix).resolve())})


def _imports(file: Path, top: Path) -> Iterator[Path]:
    """The files that a file's import statements may mean, of those that there are."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(top, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = top if node.level == 0 else file.parents[node.level - 1]
            parts = node.module.split(".") if node.module else []
            yield from _modules(base, parts)
            for alias in node.names:
                yield from _modules(base, [*parts, alias.name])


def _modules(base: Path, parts: list[str]) -> Iterator[Path]:
    """The module of these parts, and the packages that are imported on the way to it."""
    for i in range(1, len(parts) + 1):
        path = base.joinpath(*parts[:i])
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        if (file := next((c for c in candidates if c.is_file()), None)) is None:
            return
        yield file.resolve()
