"""The text of a corpus: files read as bytes, cut into documents, some of them set apart for validation.

Where `<|endoftext|>` occurs in a file, documents end there and nowhere else. One line break on either side belongs to
it: "story\\n<|endoftext|>\\nstory\\n<|endoftext|>\\n" is two documents that do not end in a line break. A file without
it is one document, or one per paragraph or line when that is asked for. Bytes are kept as they are: what looks odd is
counted and reported, never mended.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slim.errors import DataError, UsageError
from slim.events import Note
from slim.input_file import HEAD_BYTES, kind_of, open_input, reason

SEPARATOR = b"<|endoftext|>"
SPLITS = ("file", "blank", "line")
# Latin-1 prose has up to 0.1 of such bytes, random bytes 0.55, UTF-16 half, text in another alphabet's code page 0.5.
MAX_ODD_SHARE = 0.2
MAX_VALIDATION_SHARE = 0.2  # of the bytes, unless more is asked for

_CHUNK_BYTES = 2**20
_BLANK_LINES = re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")
_BORDERS = {
    "mark": re.compile(rb"\r?\n?" + re.escape(SEPARATOR)),
    "blank": _BLANK_LINES,
    "line": re.compile(rb"\r?\n"),
}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b") | {127})


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Documents in the order of the files; `digest` names exactly these documents."""

    documents: list[bytes]
    n_bytes: int  # of the documents' text: separators are not counted
    digest: str  # sha256 in hex
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """A corpus divided into text to learn from and text to be measured on."""

    train: list[bytes]
    validation: list[bytes]
    notes: tuple[Note, ...]


def read_corpus(
    paths: str | Path | Sequence[str | Path],
    *,
    split: str = "file",
    max_bytes: int | None = None,
) -> Corpus:
    """Read text files and cut them into documents. DataError names the file and what is wrong with it.

    split: "file", "blank" (lines) or "line": where documents end in files without `<|endoftext|>`
    max_bytes: take the whole documents among the first so many bytes; a first document that is longer is cut at a
        character, and nothing after it is read.
    """
    if split not in SPLITS:
        raise UsageError(f"text is split by {', '.join(SPLITS)}, but not by {split!r}")
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"MAX_BYTES must be at least 1, but is {max_bytes}")
    documents: list[bytes] = []
    notes: list[Note] = []
    left = max_bytes
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    for path in files:
        text, size = _read_text(path, left)
        rule = "mark" if SEPARATOR in text else split
        if rule != split and split != "file":
            notes.append(
                Note(f"{path}: is split at its {SEPARATOR.decode()} marks, not by {split}")
            )
        if left is None or size <= left:
            found = _split(text, rule)
        else:
            used = text[: _cut(text, rule, left)]
            found = _split(used, rule)
            if not found and not documents:
                first = next(iter(_split(text, rule)), b"")
                used = first[: _character_border(first, min(left, len(first)))]
                found = _split(used, "file")
            text = used
            notes.append(_cut_note(path, found, size, max_bytes))
        notes.extend(_inspect(path, text))
        documents += found
        if left is not None:
            left -= size
            if left <= 0:
                break
    if not documents:
        names = ", ".join(map(str, files)) or "nothing"
        raise DataError(f"{names}: holds no text")
    return Corpus(documents, sum(map(len, documents)), _digest(documents), tuple(notes))


def divide(corpus: Corpus, share: float) -> Division:
    """Set about `share` of the documents apart for validation, by the hash of their bytes.

    So the choice does not depend on the order of the documents, and equal documents stay together. Where no document
    is small enough to be given away, the last part of the longest one is: the end of a single text, for example.
    """
    documents = corpus.documents
    if share <= 0.0:
        return Division(list(documents), [], ())
    groups: dict[int, list[int]] = {}
    for index, document in enumerate(documents):
        digest = hashlib.blake2b(document, digest_size=8).digest()
        groups.setdefault(int.from_bytes(digest, "little"), []).append(index)
    most = corpus.n_bytes * max(MAX_VALIDATION_SHARE, min(1.5 * share, 0.75))
    chosen: set[int] = set()
    taken = 0
    for number in sorted(groups):
        if number >= share * 2.0**64 and chosen:
            break
        size = sum(len(documents[index]) for index in groups[number])
        if taken + size <= most:
            chosen.update(groups[number])
            taken += size
    if chosen:
        train = [document for index, document in enumerate(documents) if index not in chosen]
        return Division(train, [documents[index] for index in sorted(chosen)], ())

    longest = max(range(len(documents)), key=lambda index: len(documents[index]))
    document = documents[longest]
    border = _place_to_cut(document, len(document) - max(1, int(len(document) * share)))
    if not 0 < border < len(document):
        return Division(list(documents), [], (Note("the text is too short to be validated on"),))
    train = [*documents[:longest], document[:border], *documents[longest + 1 :]]
    words = "the text" if len(documents) == 1 else "the longest document"
    note = Note(f"the last {100 * (1 - border / len(document)):.2g} % of {words} is for validation")
    return Division(train, [document[border:]], (note,))


def _read_text(path: str | Path, limit: int | None) -> tuple[bytes, int]:
    """Bytes of a file and its size; with a limit, only so many and enough to see whether a document ends there."""
    file, size = open_input(path, DataError)
    with file:
        try:
            kind = kind_of(file.read(HEAD_BYTES) or b"")
            if kind is not None:
                raise DataError(f"{path}: is {kind}, but plain UTF-8 text is needed")
            file.seek(0)
            if limit is None or size <= limit:
                text = file.readall()
                return text, len(text)
            parts, wanted = [], min(size, limit + len(SEPARATOR) + 2)
            while wanted > 0 and (part := file.read(wanted)):
                parts.append(part)
                wanted -= len(part)
            return b"".join(parts), size
        except OSError as problem:
            raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem


def _split(text: bytes, rule: str) -> list[bytes]:
    """Documents of a text by "mark", "blank", "line" or "file"; white space alone is no document."""
    if rule == "mark":
        found = text.split(SEPARATOR)
        for index, document in enumerate(found):  # a regular expression takes 50 times as long
            if index > 0:
                document = document.removeprefix(b"\r\n" if document[:1] == b"\r" else b"\n")
            if index < len(found) - 1:
                document = document.removesuffix(b"\n" if document[-2:] != b"\r\n" else b"\r\n")
            found[index] = document
    elif rule == "blank":
        found = [part.strip(b"\r\n") for part in _BLANK_LINES.split(text)]
    elif rule == "line":
        found = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    else:
        found = [text]
    return [document for document in found if document and not document.isspace()]


def _cut(text: bytes, rule: str, limit: int) -> int:
    """Behind the last document that ends within the first `limit` bytes of a longer text; 0 if none does."""
    start, step = limit, 2**14
    while rule != "file" and start > 0:
        start, step = max(0, start - step), 4 * step
        end = 0
        for border in _BORDERS[rule].finditer(text, start):
            if border.start() <= limit:
                end = border.end()
        if end:
            return end
    return 0


def _place_to_cut(document: bytes, place: int) -> int:
    """The first start of a line from `place` on, else of a word, else of a character, each not far away."""
    reach = place + max(200, (len(document) - place) // 4)
    for border in (b"\n", b" "):
        found = document.find(border, place, reach)
        if found >= 0 and document[found + 1 :].strip():
            return found + 1
    return _character_border(document, place)


def _character_border(text: bytes, place: int) -> int:
    """The last place up to `place` where a UTF-8 character begins; `place` itself in text that is not UTF-8."""
    for border in range(place, max(place - 4, 0), -1):
        if border == len(text) or text[border] & 0xC0 != 0x80:
            return border
    return place


def _inspect(path: str | Path, text: bytes) -> list[Note]:
    """What is odd about a text; DataError when so much is that it cannot be UTF-8 text."""
    invalid = _invalid_places(text)
    odd = invalid
    for start in range(0, len(text), _CHUNK_BYTES):
        chunk = text[start : start + _CHUNK_BYTES]
        odd += len(chunk) - len(chunk.translate(None, _CONTROLS))
    if odd > MAX_ODD_SHARE * len(text):
        raise DataError(
            f"{path}: is binary, or text in another encoding: {100 * odd / len(text):.0f} % of its "
            f"bytes cannot be UTF-8 text (`iconv -f ENCODING -t utf-8` converts text)"
        )
    notes = []
    if text.startswith(codecs.BOM_UTF8):
        notes.append(Note(f"{path}: begins with a byte order mark, which is kept"))
    breaks = text.count(b"\r\n")
    if breaks:
        notes.append(
            Note(f"{path}: lines that end in CRLF, as in Windows, are kept so: {breaks:,}")
        )
    zeros = text.count(0)
    if zeros:
        notes.append(Note(f"{path}: bytes of value zero, which are kept: {zeros:,}", "warning"))
    if invalid:
        notes.append(
            Note(f"{path}: places that are not valid UTF-8, which are kept: {invalid:,}", "warning")
        )
    return notes


def _cut_note(path: str | Path, found: list[bytes], size: int, limit: int | None) -> Note:
    documents = "1 document" if len(found) == 1 else f"{len(found):,} documents"
    return Note(
        f"{path}: {sum(map(len, found)):,} of {size:,} bytes are used, in {documents}: "
        f"MAX_BYTES is {limit:,}"
    )


def _invalid_places(text: bytes) -> int:
    """How many replacement characters a decoder would put in; those that the text itself has do not count."""
    if text.isascii():
        return 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    count = -text.count("\ufffd".encode())
    for start in range(0, len(text), _CHUNK_BYTES):
        chunk = text[start : start + _CHUNK_BYTES]
        count += decoder.decode(chunk, start + _CHUNK_BYTES >= len(text)).count("\ufffd")
    return count


def _digest(documents: list[bytes]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document).to_bytes(8, "little"))
        digest.update(document)
    return digest.hexdigest()
