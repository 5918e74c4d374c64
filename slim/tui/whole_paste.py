"""Lets a pasted text be one text, whatever is in it.

Textual looks for keys in what was pasted, too: after an escape character up to 32 characters of it are typed, one after the
other, wherever the focus is, and a line break among them sends what is half there. So inside of a paste a sign stands for
each escape character.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from textual._xterm_parser import XTermParser
from textual.message import Message

ESCAPE, SIGN = "\x1b", "\u241b"
BEGIN, END = "\x1b[200~", "\x1b[201~"  # around a paste, sent by terminals that were asked to


class PasteParser(XTermParser):
    """Textual's reader of keys, which never sees an escape character of a pasted text."""

    def __init__(self, debug: bool = False) -> None:
        super().__init__(debug)
        self._inside = False
        self._rest = ""  # what may be the first part of the next mark: inside it is held back, outside it was given

    def feed(self, data: str) -> Iterable[Message]:
        """What the terminal sent; nothing is its end."""
        cleaned = self._cleaned(data)
        return super().feed(cleaned) if cleaned or not data else ()

    def _cleaned(self, data: str) -> str:
        out = ""
        while data:
            mark = END if self._inside else BEGIN
            seen = self._rest + data
            before, found, after = seen.partition(mark)
            rest = "" if found else _beginning_of(mark, seen)
            if self._inside:
                body = before[: len(before) - len(rest)]
                out += body.replace(ESCAPE, SIGN) + found
            else:
                out += data[: len(data) - len(after)] if found else data
            self._rest = rest
            self._inside = self._inside != bool(found)
            data = after
        return out


def _beginning_of(mark: str, text: str) -> str:
    """The end of a text with which the mark may begin."""
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((mark[:size] for size in sizes if text.endswith(mark[:size])), "")


def use_whole_pastes() -> None:
    """For all drivers that are started from here on."""
    try:
        from textual.drivers import linux_driver
    except ImportError:  # Windows, where a paste comes as keys
        return
    module: Any = linux_driver
    if getattr(module, "XTermParser", None) is XTermParser:
        module.XTermParser = PasteParser
