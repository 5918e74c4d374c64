"""How expected each piece of text was, as marks in a terminal or in plain text.

Five absolute bins: p >= .80, .50, .20, .05 and below. Weight and underline carry the meaning and one
hue helps, so that it reads on dark and light themes, with 16 colours and under NO_COLOR.
"""

from __future__ import annotations

from collections.abc import Mapping

from slim.confidence import BINS, bin_of
from slim.shades import LEGEND, STOP_LEGEND

ESCAPE = "\x1b["
# Steel blue and grey of middle luminance: at least 3:1 on black and on white.
COLOURS = ("1", "", "38;5;67", "4;38;5;67", "4;38;5;244")
ATTRIBUTES = ("1", "", "2", "4", "2;4")
BRACKETS = ("", "", "()", "[]", "{}")


def colours_work(environment: Mapping[str, str]) -> bool:
    """Whether the terminal that the environment describes shows 256 colours."""
    if environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb":
        return False
    return "256" in environment["TERM"] or bool(environment.get("COLORTERM"))


class Shading:
    """Marks one text, piece after piece: style is color (p shades), plain (p brackets) or off."""

    def __init__(self, style: str, colours: bool) -> None:
        self._style = style
        self._codes = COLOURS if colours else ATTRIBUTES
        self._open = 0  # plain: the bin whose bracket is open

    def mark(self, text: str, p: float) -> str:
        """`text`, which is already safe for a terminal, with its marks."""
        if self._style == "off" or not text:
            return text
        level = bin_of(p)
        if self._style == "plain":
            return self._bracketed(text, level)
        code = self._codes[level]
        return f"{ESCAPE}{code}m{text}{ESCAPE}0m" if code else text

    def close(self) -> str:
        """What ends the last piece's marks."""
        out, self._open = BRACKETS[self._open][1:], 0
        return out

    def legend(self, stops: bool = False) -> str:
        """The sentence that a person needs, and what the marks mean; `stops`: the text may end by itself."""
        if self._style == "off":
            return ""
        names = ("p >= .80", ".50", ".20", ".05", "less")
        values = (*BINS, 0.0)
        marks = [self.mark(*pair) + self.close() for pair in zip(names, values, strict=True)]
        return f"{LEGEND}{STOP_LEGEND if stops else ''}\nmodel p: {'  '.join(marks)}"

    def _bracketed(self, text: str, level: int) -> str:
        if level == self._open:
            return text
        closing = self.close()
        self._open = level
        opening = BRACKETS[level][:1]
        # The space before a word stays outside of its brackets.
        space = text[: len(text) - len(text.lstrip())] if opening else ""
        return closing + space + opening + text[len(space) :]
