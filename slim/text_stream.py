"""A text file as a stream of documents, of which only a few megabytes are in memory at a time.

Where `<|endoftext|>` occurs in a file, documents end there and nowhere else. One line break on either side belongs to
it: "story\\n<|endoftext|>\\nstory\\n<|endoftext|>\\n" is two documents that do not end in a line break. A file without
it is one document, or one per paragraph or line when that is asked for. White space alone is no document. Bytes are
kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from slim.errors import DataError
from slim.input_file import open_input, reason

SEPARATOR = b"<|endoftext|>"
CHUNK_BYTES = 2**22  # read at a time
PIECE_BYTES = 2**23  # a longer document comes in several pieces

_HELD_BYTES = len(SEPARATOR) + 3  # in which a mark with its line breaks may have begun
_WORD_BYTES = 2**16  # within which a place between two words is looked for
_BLANK_LINES = re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")
_BORDERS = {
    "mark": re.compile(rb"\r?\n?" + re.escape(SEPARATOR)),
    "blank": _BLANK_LINES,
    "line": re.compile(rb"\r?\n"),
}
# A character that is no white space, and white space after it: there a word ends, whatever stands around it.
_WORD_END = re.compile(
    rb"(?:[!-~]|[\xc3-\xdf][\x80-\xbf]|\xe3\x80[\x81-\xbf]|\xe3[\x81-\xbf][\x80-\xbf]|[\xe4-\xed][\x80-\xbf]{2})"
    rb"(?=[ \t\r\n])"
)


class Piece(NamedTuple):
    """A document, or a part of a long one: the parts laid end to end are the document."""

    text: bytes
    opens: bool  # a document begins here


Inspect = Callable[[bytes], object]


def read_chunks(path: str, end: int, inspect: Inspect | None = None) -> Iterator[bytes]:
    """The first `end` bytes of a file, some at a time. DataError when it cannot be read, or has become shorter."""
    file, _ = open_input(path, DataError)
    with file:
        left = end
        while left > 0:
            try:
                chunk = file.read(min(CHUNK_BYTES, left))
            except OSError as problem:
                raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem
            if not chunk:
                raise DataError(f"{path}: has become shorter while it was read")
            left -= len(chunk)
            if inspect is not None:
                inspect(chunk)
            yield chunk


def split_documents(chunks: Iterator[bytes], rule: str) -> Iterator[Piece]:
    """The documents of a text by "mark", "blank" or "line"."""
    split = {"mark": _split_marks, "blank": _split_blank, "line": _split_lines}[rule]
    rest, after_border = b"", False
    opens = True  # what comes next begins a document
    for chunk in chunks:
        found, rest = split(rest + chunk, after_border and opens)
        for document in found:
            if not opens or (document and not document.isspace()):
                if document:
                    yield Piece(document, opens)
                opens = True
            after_border = True
        while len(rest) > PIECE_BYTES + _HELD_BYTES:
            if rule == "mark" and after_border and opens:
                rest = _without_break(rest)
            cut = place_between_words(rest, PIECE_BYTES)
            yield Piece(rest[:cut], opens)
            rest, opens = rest[cut:], False
    if rule == "mark" and after_border and opens:
        rest = _without_break(rest)
    elif rule == "blank":
        rest = rest.rstrip(b"\r\n") if not opens else rest.strip(b"\r\n")
    elif rule == "line":
        rest = rest.removesuffix(b"\r")
    if rest and not (opens and rest.isspace()):
        yield Piece(rest, opens)


def has_mark(path: str, end: int) -> bool:
    """Whether `<|endoftext|>` occurs among the first `end` bytes of a file."""
    tail = b""
    for chunk in read_chunks(path, end):
        if SEPARATOR in tail + chunk:
            return True
        tail = (tail + chunk)[-len(SEPARATOR) + 1 :]
    return False


def usable_end(path: str, size: int, rule: str, limit: int) -> int:
    """Behind the last document that ends within the first `limit` bytes of a longer file; 0 if none does."""
    last = min(size, limit + len(SEPARATOR) + 2)
    start, step = limit, 2**14
    while start > 0:
        # What was searched before is not again, but for a mark that reaches into it.
        before, start, step = start, max(0, start - step), min(4 * step, CHUNK_BYTES)
        text = _read_range(path, start, min(last, before + 2**14))
        end = 0
        for border in _BORDERS[rule].finditer(text):
            if start + border.start() <= limit:
                end = start + border.end()
        if end:
            return min(end, size)
    return 0


def character_end(path: str, limit: int) -> int:
    """The last place up to `limit` in a file where a UTF-8 character ends."""
    start = max(0, limit - 4)
    return start + character_border(_read_range(path, start, limit + 1), limit - start)


def character_border(text: bytes, place: int) -> int:
    """The last place up to `place` where a UTF-8 character begins; `place` itself in text that is not UTF-8."""
    for border in range(place, max(place - 4, 0), -1):
        if border == len(text) or text[border] & 0xC0 != 0x80:
            return border
    return place


def place_between_words(text: bytes, place: int) -> int:
    """The last place up to `place` where a word ends and white space follows, else where a character begins.

    Encoded apart, what lies before and behind such a place becomes the same tokens as together.
    """
    start, found = max(0, place - _WORD_BYTES), 0
    for match in _WORD_END.finditer(text, start, place + 1):
        found = match.end()
    return found or character_border(text, place)


def place_to_cut(document: bytes, place: int, length: int) -> int:
    """The first start of a line from `place` on, else of a word, else of a character, each not far away.

    length: of the whole document, of which `document` is a piece
    """
    reach = place + max(200, (length - place) // 4)
    for border in (b"\n", b" "):
        found = document.find(border, place, reach)
        if found >= 0 and document[found + 1 :].strip():
            return found + 1
    return character_border(document, place)


def _read_range(path: str, start: int, stop: int) -> bytes:
    file, _ = open_input(path, DataError)
    with file:
        try:
            file.seek(start)
            parts = []
            while start < stop and (part := file.read(stop - start)):
                parts.append(part)
                start += len(part)
            return b"".join(parts)
        except OSError as problem:
            raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem


def _split_marks(text: bytes, after_mark: bool) -> tuple[list[bytes], bytes]:
    """Documents that end in a text, and its rest, which still has the line break after a mark."""
    *found, rest = text.split(SEPARATOR)
    for index, document in enumerate(found):  # a regular expression takes 50 times as long
        if index > 0 or after_mark:
            document = _without_break(document)
        found[index] = document.removesuffix(b"\r\n" if document[-2:] == b"\r\n" else b"\n")
    return found, rest


def _without_break(text: bytes) -> bytes:
    """A text without the line break that it begins with."""
    return text.removeprefix(b"\r\n" if text[:1] == b"\r" else b"\n")


def _split_blank(text: bytes, _: bool) -> tuple[list[bytes], bytes]:
    """Paragraphs that end in a text. White space at its end may be the beginning of more."""
    end = len(text.rstrip(b" \t\r\n"))
    *found, rest = _BLANK_LINES.split(text[:end])
    return [part.strip(b"\r\n") for part in found], rest + text[end:]


def _split_lines(text: bytes, _: bool) -> tuple[list[bytes], bytes]:
    """Lines that end in a text."""
    *found, rest = text.split(b"\n")
    return [line.removesuffix(b"\r") for line in found], rest
