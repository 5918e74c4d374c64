"""Pieces of text that grow at the end, broken into lines of a given width: no terminal and no Textual here.

A line is broken at its last blank, or where there is none inside of a word; blanks that do not fit any more hang over
the edge and take no room. Where a line ends depends on its own words and the one that did not fit, so when text is added
nothing but the last line is broken again, and how the text came in pieces does not matter.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.cells import get_character_cell_size

from slim.events import TokenGenerated
from slim.safe_text import safe_text
from slim.shades import percent

TAB = "    "
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
WIDER = (
    "\ufe0f"  # asks for a picture of two cells, which terminals draw in one or in two: never shown
)
_WORDS = re.compile(r"[\n\t ]|[^\n\t ]+")
_CHARACTERS = re.compile(r".", re.DOTALL)


@dataclass(slots=True)
class Piece:
    """A token, or text that nobody drew: kind is text (a prompt), heading, or note, which is shown but never copied."""

    text: str
    kind: str = "text"
    token: TokenGenerated | None = None
    chosen: bool = False  # a token that a person put there


@dataclass(slots=True)
class Run:
    """What one piece shows in one line."""

    piece: int
    shown: str
    source: str  # the same in the text: a tab where blanks are shown, nothing for a number
    cells: int


@dataclass(slots=True)
class Line:
    """A line as it is shown, from character `offset` of piece number `piece` on."""

    piece: int
    offset: int
    runs: list[Run] = field(default_factory=list)
    ended: bool = False  # by a line break of the text
    typical: float | None = (
        None  # exp of the mean log p of the tokens that begin in it; None: there are none
    )

    @property
    def shown(self) -> str:
        """All characters of the line."""
        return "".join(run.shown for run in self.runs)

    def run_at(self, cell: int) -> Run | None:
        """What stands in a column; None right of the text."""
        for run in self.runs:
            if cell < run.cells:
                return run
            cell -= run.cells
        return None

    def source_between(self, start: int, end: int) -> str:
        """The text behind the shown characters from `start` to before `end`."""
        out, at = [], 0
        for run in self.runs:
            first, last = max(start - at, 0), min(end - at, len(run.shown))
            if run.shown == run.source:
                out.append(run.source[first : max(last, first)])
            elif first < last or (not run.shown and start <= at <= end):
                out.append(run.source)
            at += len(run.shown)
        return "".join(out)


class TokenFlow:
    """The pieces and the lines that they make."""

    def __init__(self, width: int = 80) -> None:
        self.pieces: list[Piece] = []
        self.lines: list[Line] = []
        self._width = max(width, 2)
        self._numbers = ""

    @property
    def text(self) -> str:
        """All that is copied or saved."""
        return "".join(piece.text for piece in self.pieces if piece.kind != "note")

    @property
    def tokens(self) -> Iterator[TokenGenerated]:
        """The tokens in order."""
        return (piece.token for piece in self.pieces if piece.token is not None)

    def append(self, pieces: Iterable[Piece]) -> int:
        """Add pieces; the number of the first line that changed."""
        for piece in pieces:
            piece.text = safe_text(piece.text)
            self.pieces.append(piece)
        return self._break_from_last()

    def cut(self, count: int) -> int:
        """Keep the first `count` pieces; the number of the first line that changed."""
        del self.pieces[count:]
        while self.lines and self.lines[-1].piece >= count:
            self.lines.pop()
        if len(self.lines) > 1:
            self.lines.pop()  # the word that did not fit there may be shorter now
        return self._break_from_last()

    def replace_first(self, count: int, piece: Piece) -> None:
        """One piece in place of the first `count`; all lines are broken again."""
        self.pieces[:count] = [piece]
        self.lines = []
        self._break(0, 0)

    def layout(self, width: int, numbers: str = "") -> bool:
        """Break everything again where the width or the numbers behind tokens ("" none, "small", "ascii") are others."""
        width = max(width, 2)
        if (width, numbers) == (self._width, self._numbers):
            return False
        self._width, self._numbers = width, numbers
        self.lines = []
        self._break(0, 0)
        return True

    def line_of(self, piece: int) -> int:
        """The line in which a piece begins."""
        after = bisect.bisect_right(
            self.lines, (piece, 0), key=lambda line: (line.piece, line.offset)
        )
        return max(after - 1, 0)

    def source_between(self, start: tuple[int, int], end: tuple[int, int]) -> str:
        """The text from one (line, character) to before another."""
        out = []
        for y in range(max(start[0], 0), min(end[0], len(self.lines) - 1) + 1):
            line = self.lines[y]
            first = max(start[1], 0) if y == start[0] else 0
            last = end[1] if y == end[0] else len(line.shown)
            out.append(line.source_between(first, last))
            if line.ended and y < end[0]:
                out.append("\n")
        return "".join(out)

    def _break_from_last(self) -> int:
        """Break the last line again, and all that follows it."""
        if not self.lines:
            self._break(0, 0)
            return 0
        last = self.lines.pop()
        changed = len(self.lines)
        self._break(last.piece, last.offset)
        return changed

    def _break(self, piece: int, offset: int) -> None:
        """Lines from character `offset` of a piece to the end."""
        line, cells = Line(piece, offset), 0
        units: list[tuple[Run, int]] = []  # of the line, each with its place in its piece
        after_blank = (
            0  # how many of them stand before the place where the line may be broken; 0: nowhere
        )
        for run, at in self._units(piece, offset):
            if run.shown == "\n":
                line.ended = bool(run.source)
                following = Line(run.piece, at + 1)
                self._close(line, units, following)
                line, cells, units, after_blank = following, 0, [], 0
                continue
            blank = run.shown in (" ", TAB)
            while not blank and cells + run.cells > self._width:
                room = self._width - cells
                if after_blank:
                    units, rest = units[:after_blank], units[after_blank:]
                elif run.shown == run.source and run.shown.isascii() and room > 0:
                    units.append((Run(run.piece, run.shown[:room], run.source[:room], room), at))
                    tail, at, rest = run.shown[room:], at + room, []
                    run = Run(run.piece, tail, tail, len(tail))
                elif units:
                    rest = []
                else:
                    break  # wider than a line
                first, place = rest[0] if rest else (run, at)
                following = Line(first.piece, place)
                self._close(line, units, following)
                line, units, after_blank = following, rest, 0
                cells = sum(unit.cells for unit, _ in rest)
            units.append((run, at))
            cells += run.cells
            if blank:
                after_blank = len(units)
        self._close(line, units, Line(len(self.pieces), 0))

    def _units(self, piece: int, offset: int) -> Iterator[tuple[Run, int]]:
        """The text in words, blanks and line breaks, characters where their widths differ; each with its place.

        The number of a token stands behind its text, before its line breaks.
        """
        for number in range(piece, len(self.pieces)):
            text = self.pieces[number].text
            copied = self.pieces[number].kind != "note"
            mark = self._mark(self.pieces[number])
            body = len(text.rstrip("\n"))
            if offset > body:
                mark = ""  # it was shown in the line before
            for match in (_WORDS if text.isascii() else _CHARACTERS).finditer(text, offset):
                shown, at = match[0], match.start()
                if mark and at >= body:
                    yield Run(number, mark, "", len(mark)), at
                    mark = ""
                source = shown if copied else ""
                if shown == "\t":
                    yield Run(number, TAB, source, len(TAB)), at
                elif shown == WIDER:
                    yield Run(number, "", source, 0), at
                elif shown.isascii():
                    yield Run(number, shown, source, len(shown)), at
                else:
                    yield Run(number, shown, source, get_character_cell_size(shown)), at
            if mark and text:
                yield Run(number, mark, "", len(mark)), len(text)
            offset = 0

    def _mark(self, piece: Piece) -> str:
        if not self._numbers or piece.token is None:
            return ""
        digits = percent(piece.token.p)
        return f"({digits})" if self._numbers == "ascii" else digits.translate(SUPERSCRIPTS)

    def _close(self, line: Line, units: list[tuple[Run, int]], following: Line) -> None:
        """Join neighbours, measure the tokens that begin in the line, and keep it."""
        for unit, _ in units:
            last = line.runs[-1] if line.runs else None
            # A character without a width belongs to the one before it, whoever wrote it.
            joins = last is not None and (last.piece == unit.piece or not unit.cells)
            if (
                joins
                and last is not None
                and last.shown == last.source
                and unit.shown == unit.source
            ):
                last.shown += unit.shown
                last.source += unit.source
                last.cells += unit.cells
            else:
                line.runs.append(Run(unit.piece, unit.shown, unit.source, unit.cells))
        begun = self.pieces[
            line.piece + (line.offset > 0) : following.piece + (following.offset > 0)
        ]
        logprobs = [piece.token.logprob for piece in begun if piece.token is not None]
        line.typical = math.exp(math.fsum(logprobs) / len(logprobs)) if logprobs else None
        self.lines.append(line)
