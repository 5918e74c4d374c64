"""Text that arrives in pieces, broken into lines between words as it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len

_MARK = re.compile(r"(\x1b\[[0-9;]*m)")


class WrappedText:
    """Writes words as soon as they are whole.

    Text must be safe for a terminal already; the marks that colour it, `ESC [ ... m`, take no room. A line may also
    break before a wide character, as Chinese and Japanese do without blanks.

    width    columns of a line, the indent included     write   takes what is to be shown
    """

    def __init__(self, write: Callable[[str], object], width: int, indent: int = 0) -> None:
        self._write = write
        self._room = max(width - indent, 1)
        self._indent = " " * indent
        self._column = 0  # cells of the present line, without the indent
        self._blanks = ""
        self._word = ""  # with its marks
        self._word_cells = 0

    def push(self, text: str) -> None:
        """Show what the next piece completes; the word at its end is held back."""
        for number, part in enumerate(_MARK.split(text)):
            if number % 2:
                self._word += part
                continue
            for character in part:
                self._put(character)

    def close(self) -> None:
        """Show the last word, and end the line if there is one."""
        self.flush()
        if self._column:
            self._write("\n")
        self._column = 0

    def flush(self) -> None:
        """Show the last word, and leave the line open."""
        self._put_word()
        self._blanks = ""

    def _put(self, character: str) -> None:
        if character == "\n":
            self._put_word()
            self._new_line()
        elif character in " \t":
            self._put_word()
            self._blanks += " "
        else:
            cells = cell_len(character)
            if self._word_cells and (cells > 1 or self._word_cells + cells > self._room):
                self._put_word()  # a word that no line can hold
            self._word += character
            self._word_cells += cells

    def _put_word(self) -> None:
        if not self._word:
            return
        if not self._word_cells:  # marks alone
            self._write(self._word)
            self._word = ""
            return
        if self._column and self._column + len(self._blanks) + self._word_cells > self._room:
            self._new_line()
        if self._column == 0:
            self._blanks = self._blanks[: max(self._room - self._word_cells, 0)]
            self._write(self._indent)
        self._write(self._blanks + self._word)
        self._column += len(self._blanks) + self._word_cells
        self._word, self._word_cells, self._blanks = "", 0, ""

    def _new_line(self) -> None:
        self._write("\n")
        self._column, self._blanks = 0, ""
