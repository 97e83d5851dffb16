"""Plugins that no distribution offers: in a file, './mine.py:Mine', or a class handed over in Python.

An address is resolved only after the user has handed it over in this process (`hand_over`, `take`, `adopt`): in an
option, as an argument, in a configuration of their own. An address that merely stands in a results folder is refused.

A file is read anew whenever it's asked for by its address: an edited file is another entry. From then on it goes by
the name 'Mine@mine.py', wherever it lies. Its own folder can be imported from, and a file within a package keeps its
relative imports.
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
    """An object in a Python file; `stamp` is a digest of the file and what it imports from beside it."""

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


_handed: set[str] = set()  # absolute addresses: the user's own words
_adopted: dict[str, Entry] = {}  # by the names that they go by from then on
_loaded: dict[Path, tuple[str, ModuleType]] = {}  # by file: its stamp when it was executed


def hand_over(texts: Iterable[str]) -> None:
    """Note the addresses among `texts`, which are the user's own words: from now on they may be resolved."""
    _handed.update(_absolute(text) for text in texts if _is_file(text))


def handed_over() -> list[str]:
    """Return what was handed over so far, as absolute addresses, for a process that works for this one."""
    return sorted(_handed)


def entry(name: str) -> Entry | None:
    """Return the entry of what was handed over by this name or address, of a file as it is now; None for other names.

    `name` may come from anywhere, a stranger's results included: nothing on disk is looked at for an address that
    wasn't handed over. What was, goes by the end of its address too, 'mine.py:Mine', since results travel.

    Raises:
        NotHandedOver: `name` is an address, and not the user's.
        UsageError: there is no such file.
    """
    if (known := _adopted.get(name)) is not None:
        return known
    if _is_file(name) and _absolute(name) in _handed:
        return take(name)
    if (found := ADDRESS.fullmatch(name)) is None:
        return None
    if (known := _adopted.get(f"{found['name']}@{Path(found['file']).name}")) is not None:
        return known
    raise NotHandedOver(
        f"code in a file is run only if you hand it over: --plugin {shown(name)}",
        name,
        cause="A results folder never names code to be run, and neither does the run.json in it.",
        fix="If you trust the file, give that option in the same command; in Python plugins=[...].",
    )


def shown(address: str) -> str:
    """Return an address as a message may show it: on one line, not too long, quoted if it holds odd letters."""
    text = address if address.isprintable() and " " not in address else repr(address)
    return text if len(text) <= 300 else f"{text[:300]}..."


def take(text: str) -> Entry | None:
    """Hand over the address `text`: return its entry, of the file as it is now; None where `text` is no address.

    Raises:
        UsageError: there is no such file.
    """
    hand_over([text])
    if (found := ADDRESS.fullmatch(text)) is None:
        if text.rstrip(":").endswith(".py") and (file := Path(text.rstrip(":")).expanduser()).is_file():
            names = source.defined(file)
            raise UsageError(
                f"{text!r} is a file: say what in it",
                cause=f"It defines {', '.join(names) or 'nothing'}.",
                fix=f"For example: {text.rstrip(':')}:{(names or ['Mine'])[0]}",
            )
        return None
    path = Path(found["file"]).expanduser()
    if not path.is_file():
        raise UsageError(
            f"there is no file {found['file']!r}",
            cause="A name with .py: in it is a file's, and what is to be found in it.",
            fix="For example: ./mine.py:Mine",
        )
    path = path.resolve()
    short = f"{found['name']}@{path.name}"
    made = InFile(short, "a file", "", f"{path}:{found['name']}", path, source.digest(source.closure(path)))
    _adopted[short] = made
    _handed.add(made.value)
    return made


def addressed(name: str) -> str:
    """What another process can ask for by `name`: the same, or the address of what was taken from a file."""
    known = _adopted.get(name)
    return known.value if isinstance(known, InFile) else name


def live(name: str) -> bool:
    """Return whether `name` is a class that exists in this process alone."""
    return isinstance(_adopted.get(name), Live)


def sourceless(name: str) -> bool:
    """Return whether `name` is a class of this process that no file defines, itself or a base of it."""
    known = _adopted.get(name)
    return isinstance(known, Live) and any(source.file_of(cls) is None for cls in known.obj.__mro__[:-1])


def adopt(obj: type) -> str:
    """Hand over a class: return the address of its file where it has one, else a name that this process alone knows."""
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
    """The module of a file as it is now, with what it imports from beside it.

    Raises:
        PluginError: another one goes by its name.
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
        raise PluginError(f"{path} can't be imported: {module.__file__} goes by its name, {dotted}")
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
