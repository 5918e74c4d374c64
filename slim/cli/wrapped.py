"""Text that arrives in pieces, broken into lines between words as it is shown."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len


class WrappedText:
    """Writes words as soon as they are whole. Text must be safe for a terminal already.

    width    columns of a line, the indent included     write   takes what is to be shown
    """

    def __init__(self, write: Callable[[str], object], width: int, indent: int = 0) -> None:
        self._write = write
        self._room = max(width - indent, 1)
        self._indent = " " * indent
        self._column = 0  # cells of the present line, without the indent
        self._blanks = ""
        self._word = ""

    def push(self, text: str) -> None:
        """Show what the next piece completes; the word at its end is held back."""
        for character in text:
            if character == "\n":
                self._put_word()
                self._write("\n")
                self._column, self._blanks = 0, ""
            elif character in " \t":
                self._put_word()
                self._blanks += " "
            else:
                if self._word and cell_len(self._word + character) > self._room:
                    self._put_word()  # a word that no line can hold
                self._word += character

    def close(self) -> None:
        """Show the last word, and end the line if there is one."""
        self._put_word()
        if self._column:
            self._write("\n")
        self._column, self._blanks = 0, ""

    def _put_word(self) -> None:
        if not self._word:
            return
        size = cell_len(self._word)
        if self._column and self._column + len(self._blanks) + size > self._room:
            self._write("\n")
            self._column, self._blanks = 0, ""
        if self._column == 0:
            self._blanks = self._blanks[: max(self._room - size, 0)]
            self._write(self._indent)
        self._write(self._blanks + self._word)
        self._column += len(self._blanks) + size
        self._word = self._blanks = ""
