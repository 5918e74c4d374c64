"""ASCII where the locale has no more: what Textual itself draws around our screens, cell by cell."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_GROUPS = {
    "-": "▔▁▀▄━─═",
    "|": "│┃▏▕▎▊▋▌▐▍▉",
    "+": "╭╮╰╯┌┐└┘├┤┬┴┼",
    "#": "█▇▆▅▃▂",
    "v": "▼",
    "^": "▲",
    ">": "▶",
    "*": "●•",
    "~": "…",
    "/ ": "🔎",  # two cells wide
}
_TABLE = str.maketrans({one: plain for plain, drawn in _GROUPS.items() for one in drawn})


class AsciiLines(LineFilter):
    """Frames, ellipses and signs as ASCII; letters of any script stay."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same lines, of as many cells."""
        return [
            segment if segment.text.isascii() else Segment(segment.text.translate(_TABLE), segment.style, segment.control)
            for segment in segments
        ]
