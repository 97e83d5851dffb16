"""Text from strangers, made harmless where it comes in: without characters that control a terminal or hide text.

Labels, reasons, notes and names come from results folders, plugins and exceptions. They are made `plain` when a row,
a score, an event, an error or a document of a results folder is made of them, so no renderer needs to. Markup of a
format is escaped by the renderer of that format.
"""

from __future__ import annotations

import re
from json import dumps
from typing import Any

_SPACES = re.compile(r"\r\n|[\t\n\r]")
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: C0 without white space, and C1
    "\u061c\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u200b\u2028\u2029\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # no width, or line ends
    "\ud800-\udfff\ufffe\uffff"  # no characters at all
)
_HARMFUL = re.compile(f"[{_UNSEEN}]")
_NUMBERS = frozenset({int, float, bool, type(None)})


def plain(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with each control or invisible character replaced by its number, such as \x1b.

    Line ends and tabs become spaces; with `lines`, they stay. All other characters of all scripts stay as they are.
    """
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n") if lines else _SPACES.sub(" ", text)
    return _HARMFUL.sub(_numbered, text)


def _numbered(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def is_plain(value: Any) -> bool:
    """Return whether `plain` would change no text in a value made of lists and dictionaries."""
    items = [value]
    for item in items:  # which grows meanwhile: a call for each would take several times as long
        if type(item) in _NUMBERS:
            continue
        if isinstance(item, str):
            if not item.isprintable() and plain(item) != item:
                return False
        elif isinstance(item, dict):
            items += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            items += item
    return True


def inert(value: Any) -> Any:
    """Return a value with all text in its lists and dictionaries made `plain`; the same object if nothing changes."""
    return value if is_plain(value) else _inert(value)


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {_inert(key): _inert(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_inert, value))
    return [_inert(item) for item in value] if isinstance(value, list) else value


def json_text(text: str) -> str:
    """Return an equal JSON text in which control and invisible characters in strings are escaped, as in \\u001b.

    Line ends between values stay.
    """
    return _HARMFUL.sub(lambda match: dumps(match[0])[1:-1], text)


def settle(made: Any, *, but: str = "") -> None:
    """Make the text in a new frozen dataclass `plain`, except a path in the field `but`."""
    values = {name: value for name, value in vars(made).items() if name != but}
    if not is_plain(values):
        for name, value in values.items():
            object.__setattr__(made, name, _inert(value))


_MARKUP = re.compile(
    r"[\\`*<>|~$]"
    r"|&(?=#|\w+;)"  # an entity
    r"|\](?=[(\[])|^\["  # a link, an image, or where one leads
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|^[#+-](?=\s|$)"  # a heading or a list
)
_NUMBERED = re.compile(r"^(\d+)(?=[.)](?:\s|$))")


def escape_markdown(text: str) -> str:
    """Return `text` on one line, escaped for Markdown: no tag, link, code, table cell, heading or list."""
    return _NUMBERED.sub(r"\1\\", _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(text.split())))
