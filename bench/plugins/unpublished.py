"""Plugins that no distribution has: code in a file, './mine.py:Mine', or a class handed over in Python.

The code at an address runs only after the user has handed the address over in this process (`hand_over`, `take`,
`adopt`): by an option, an argument, or a configuration of their own. An address in a results folder is refused.

A file is read again whenever its address is taken: an edited file is another entry. Its name is 'Mine@mine.py' then,
wherever it lies. It can import from its own folder, and a file within a package keeps its relative imports.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from bench.plugins import source
from bench.plugins.entry import Entry
from bench.util.errors import NotHandedOver, PluginError, UsageError

ADDRESS = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)
"""FILE.py:NAME"""


@dataclass(frozen=True)
class InFile(Entry):
    """An object in a Python file; `stamp` is a digest of the file and of what it imports from its own folder."""

    path: Path = field(default=Path(), compare=False)
    stamp: str = ""

    installed = False

    def __str__(self) -> str:
        return f"{self.name!r} in {self.path.parent}"

    def load(self) -> Any:
        module, attribute = _module(self.path, self.stamp), self.value.rpartition(":")[2]
        try:
            return getattr(module, attribute)
        except AttributeError:
            own = [n for n, o in vars(module).items() if getattr(o, "__module__", "") == module.__name__]
            raise PluginError(
                f"{self.path.name} defines no {attribute!r}",
                cause=f"It defines {', '.join(own[:20]) or 'nothing'}.",
            ) from None


@dataclass(frozen=True)
class Live(Entry):
    """A class that exists in this process alone, such as one from a notebook; `stamp` differs at each handing over."""

    obj: Any = None
    stamp: str = ""

    installed = False

    def __str__(self) -> str:
        return f"{self.name!r} of {self.distribution}"

    def load(self) -> Any:
        return self.obj


_handed: set[str] = set()  # absolute addresses that the user has handed over
_adopted: dict[str, Entry] = {}  # by name, such as 'Mine@mine.py'
_loaded: dict[Path, tuple[str, ModuleType]] = {}  # by file: its stamp when it was executed, and its module


def hand_over(texts: Iterable[str]) -> None:
    """Allow the code at the addresses among `texts`, which the user has typed, to run in this process."""
    _handed.update(_absolute(text) for text in texts if _is_file(text))


def handed_over() -> list[str]:
    """Return the absolute addresses that were handed over so far, for a process that works for this one."""
    return sorted(_handed)


def entry(name: str) -> Entry | None:
    """Return the entry of the handed-over code with this name or address; None for other names.

    `name` may come from a stranger's results: no file is looked at for an address that wasn't handed over. Code that
    was is address by the end of its address too, 'mine.py:Mine', since results move between machines.

    Raises:
        NotHandedOver: `name` is an address that the user hasn't handed over.
        UsageError: there is no such file.
    """
    if (known := _adopted.get(name)) is not None:
        return known
    if _is_file(name) and _absolute(name) in _handed:
        return take(name)
    if (address := ADDRESS.fullmatch(name)) is None:
        return None
    if (known := _adopted.get(f"{address['name']}@{Path(address['file']).name}")) is not None:
        return known
    raise NotHandedOver(
        f"code in a file runs only if you hand it over: --plugin {shown(name)}",
        name,
        cause="Results name the file. Code that a results folder or its run.json names is never run by itself.",
        fix="If you trust the file, repeat the command with that option; in Python, use plugins=[...].",
    )


def shown(address: str) -> str:
    """Return an address for a message: on one line, shortened, and quoted if it holds unusual characters."""
    text = address if address.isprintable() and " " not in address else repr(address)
    return text if len(text) <= 300 else f"{text[:300]}..."


def take(text: str) -> Entry | None:
    """Hand over the address `text`, and return the entry of the file as it is now; None where `text` is no address.

    Raises:
        UsageError: there is no such file.
    """
    hand_over([text])
    if (address := ADDRESS.fullmatch(text)) is None:
        if text.rstrip(":").endswith(".py") and (file := Path(text.rstrip(":")).expanduser()).is_file():
            names = source.defined(file)
            raise UsageError(
                f"{text!r} is a file, and a plugin is an object in one",
                cause=f"It defines {', '.join(names) or 'nothing'}.",
                fix=f"For example: {text.rstrip(':')}:{(names or ['Mine'])[0]}",
            )
        return None
    path = Path(address["file"]).expanduser()
    if not path.is_file():
        raise UsageError(
            f"there is no file {address['file']!r}",
            cause="A name with '.py:' is read as FILE.py:NAME.",
            fix="For example: ./mine.py:Mine",
        )
    path = path.resolve()
    short = f"{address['name']}@{path.name}"
    taken = InFile(short, "a file", "", f"{path}:{address['name']}", path, source.digest(source.closure(path)))
    _adopted[short] = taken
    _handed.add(taken.value)
    return taken


def addressed(name: str) -> str:
    """Return the name by which another process finds the plugin `name`: an address, if its code lies in a file."""
    known = _adopted.get(name)
    return known.value if isinstance(known, InFile) else name


def live(name: str) -> bool:
    """Return whether `name` is a class that exists in this process alone."""
    return isinstance(_adopted.get(name), Live)


def sourceless(name: str) -> bool:
    """Return whether `name` is a class of this process that has no source file, or a base without one."""
    known = _adopted.get(name)
    return isinstance(known, Live) and any(source.file_of(cls) is None for cls in known.obj.__mro__[:-1])


def adopt(obj: type) -> str:
    """Hand over a class; return the address of its file, or a name in this process where the file can't be imported."""
    module = sys.modules.get(obj.__module__)
    file = getattr(module, "__file__", None)
    alone = obj.__module__ == "__main__" or "." in obj.__qualname__
    if not alone and file and file.endswith(".py") and not source.installed(Path(file)):
        here = os.path.relpath(file)
        address = f"{file if here.startswith(os.pardir) else os.path.join(os.curdir, here)}:{obj.__name__}"
        hand_over([address])
        return address
    name = f"{obj.__name__}@{obj.__module__}"
    _adopted[name] = Live(name, "this process", "", f"{obj.__module__}:{obj.__qualname__}", obj, uuid4().hex)
    return name


def _is_file(text: str) -> bool:
    return ADDRESS.fullmatch(text) is not None or text.rstrip(":").endswith(".py")


def _absolute(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text.rstrip(":")))


def _module(path: Path, stamp: str) -> ModuleType:
    """Import a file as it is now, and what it imports from its own folder; return its module.

    Raises:
        PluginError: another module has its name.
    """
    if path in _loaded and _loaded[path][0] == stamp:
        return _loaded[path][1]
    home, dotted = source.package(path)
    names = {source.package(file)[1] for file in source.closure(path) if source.package(file)[0] == home}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}  # of other folders, or older
    importlib.invalidate_caches()
    sys.path.insert(0, str(home))
    try:
        module = importlib.import_module(dotted) if "." in dotted else _execute(path, f"bench_{stamp}_{path.stem}")
    finally:
        sys.path.remove(str(home))
        for name, old in before.items():
            if name not in sys.modules or not _lies_in(home, old):
                sys.modules[name] = old
    if str(home) not in sys.path:
        sys.path.append(str(home))  # for what is imported later
    if Path(module.__file__ or "").resolve() != path:
        raise PluginError(f"{path} can't be imported: {module.__file__} has its module name, {dotted}")
    _loaded[path] = (stamp, module)
    return module


def _lies_in(home: Path, module: ModuleType) -> bool:
    return Path(getattr(module, "__file__", None) or "").is_relative_to(home)


def _execute(path: Path, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
