"""Digests of a plugin's source: its file, and the files that this one imports from its own package.

Imports are read from the text, so nothing is executed. The digest is part of a cell's identity: edited code is another
variant, an edited comment is not.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

OURS = Path(__file__).resolve().parents[1]  # the suite's own package


def digest(files: Iterable[Path], text: str = "") -> str:
    """Return 16 hexadecimal digits over the names of Python files, the code in them, and a text.

    Comments, docstrings, layout, help texts in `Annotated` and the folder of a file do not count.
    """
    sha = hashlib.sha256(text.encode())
    for file in files:
        sha.update(file.name.encode() + b"\0" + _code(file.read_bytes()) + b"\0")
    return sha.hexdigest()[:16]


def _code(content: bytes) -> bytes:
    """Return the syntax tree of `content` as text, the same under each Python version; `content` if it has none."""
    try:
        return repr(_skeleton(ast.parse(content))).encode()
    except (SyntaxError, ValueError, RecursionError):
        return content


def _skeleton(node: Any) -> Any:
    """Return nested lists of what a syntax tree says: no positions, no docstrings, no field that is empty."""
    if isinstance(node, list):
        return [_skeleton(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    values = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        values["body"] = [item for item in node.body if not _is_text(item)]
    elif isinstance(node, ast.Subscript) and getattr(node.value, "id", getattr(node.value, "attr", "")) == "Annotated":
        first, *rest = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        values["slice"] = [first, *(item for item in rest if not _is_text(item))]
    values = {name: value for name, value in values.items() if name not in ("ctx", "kind", "type_comment")}
    return [type(node).__name__, *([name, _skeleton(v)] for name, v in values.items() if v is not None and v != [])]


def _is_text(node: ast.AST) -> bool:
    """Return whether a node is a plain string, alone: as a statement, it does nothing."""
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def closure(file: Path) -> list[Path]:
    """Return `file` and all files that it imports, also indirectly, from its package or, for a script, its folder."""
    files: dict[Path, None] = {}
    todo = [file.resolve()]
    top, inside = _home(todo[0])
    while todo:
        path = todo.pop()
        if path not in files:
            files[path] = None
            around = [folder / "__init__.py" for folder in path.parents]
            todo += [p for p in (*around, *_imports(path, top)) if p.is_relative_to(inside) and p.is_file()]
    return [file.resolve(), *sorted(files.keys() - {file.resolve()})]


def file_of(cls: type) -> Path | None:
    """Return the Python file that defines a class; None where there is none, as in a notebook.

    In an interactive session `__main__` has none either: the session may have redefined what its file says.
    """
    if cls.__module__ == "__main__" and hasattr(sys, "ps1"):
        return None
    try:
        file = Path(inspect.getsourcefile(cls) or "")
    except (OSError, TypeError):
        return None
    return file if file.is_file() else None


def package(file: Path) -> tuple[Path, str]:
    """Return the folder from which `file` can be imported, and its dotted name there."""
    home = file.parent
    while (home / "__init__.py").is_file():
        home = home.parent
    parts = file.relative_to(home).with_suffix("").parts
    return home, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined(file: Path) -> list[str]:
    """Return the names of the classes and functions at the top of a file; none if it can't be read as Python."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return []
    return [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def _home(file: Path) -> tuple[Path, Path]:
    """Return the folder where absolute imports begin, and the folder (or file) that the plugin's own code lies in."""
    top, name = package(file)
    if file.is_relative_to(OURS):  # an installed suite holds its plugins in sub-packages
        return top, file.parent
    if "." in name or file.name == "__init__.py":
        return top, top / name.split(".")[0]
    return top, file if installed(file) else file.parent


def installed(file: Path) -> bool:
    """Return whether a file belongs to the standard library, or to a distribution that isn't installed for editing."""
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or str(file.parent) in _standard()


@cache
def _standard() -> frozenset[str]:
    return frozenset({str(Path(ast.__file__).resolve().parent), str(Path(sys.prefix).resolve())})


def _imports(file: Path, top: Path) -> Iterator[Path]:
    """Yield the existing files that a file's import statements may mean."""
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
    """Yield the files of a dotted module and of the packages that contain it, as far as they exist."""
    for i in range(1, len(parts) + 1):
        path = base.joinpath(*parts[:i])
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        if (file := next((c for c in candidates if c.is_file()), None)) is None:
            return
        yield file.resolve()
