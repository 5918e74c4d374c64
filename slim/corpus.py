"""The text of a corpus: files read as bytes, as a stream of documents of which some are set apart for validation.

A corpus is read three times: to look at it, to build a vocabulary, and to encode it. So it may be larger than memory.
Bytes are kept as they are: what looks odd is counted and reported, never mended.
"""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slim.conversation import ROLE_TOKENS, USER
from slim.errors import DataError, UsageError
from slim.events import Note, Progress
from slim.input_file import HEAD_BYTES, kind_of, open_input, reason
from slim.records import HEAD_BYTES as TRANSCRIPT_BYTES
from slim.records import Part, is_transcript, plain_parts, record_parts, transcript_parts
from slim.settings import SPLITS
from slim.text_files import TextFile, find_files
from slim.text_stream import (
    SEPARATOR,
    Inspect,
    character_end,
    has_mark,
    place_to_cut,
    read_chunks,
    split_documents,
    usable_end,
)
from slim.wording import counted

# Latin-1 prose has up to 0.1 of such bytes, random bytes 0.55, UTF-16 half, text in another alphabet's code page 0.5.
MAX_ODD_SHARE = 0.2
MAX_VALIDATION_SHARE = 0.2  # of the bytes, unless more is asked for

_PROGRESS_BYTES = 2**24
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b") | {127})
_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a corpus and how it is read."""

    file: TextFile
    form: str  # text | transcript | records
    rule: str  # mark | blank | line: where documents end
    end: int  # bytes that are used

    def parts(self, inspect: Inspect | None = None) -> Iterator[Part]:
        """Its documents; `inspect` gets to see all bytes that are read."""
        chunks = read_chunks(self.file.path, self.end, inspect)
        if self.form == "records":
            return record_parts(self.file.name, chunks)
        pieces = split_documents(chunks, self.rule)
        return transcript_parts(pieces) if self.form == "transcript" else plain_parts(pieces)


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Documents in the order of the files; `digest` names exactly these documents.

    hashes, sizes (n_documents,) uint32: the first 32 bits of a hash of each, and its bytes of text, at most 2^32 - 1
    """

    sources: tuple[Source, ...]
    n_bytes: int  # of the documents' text: neither separators nor what JSON needs are counted
    n_documents: int
    digest: str  # sha256 in hex
    notes: tuple[Note, ...]
    has_roles: bool  # there are conversations
    is_masked: bool  # some of it is only read, not learnt
    hashes: np.ndarray
    sizes: np.ndarray
    longest: tuple[int, int]  # number and bytes of the longest document

    def parts(self) -> Iterator[Part]:
        """All documents, read from the files."""
        for source in self.sources:
            yield from source.parts()

    def texts(self) -> Iterator[bytes]:
        """All text in stretches: what a vocabulary is built from."""
        return (part.text for part in self.parts() if part.text)


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Which documents are to be learnt from and which to be measured on.

    held_out (n_documents,) bool
    cut: number, bytes and place of a document whose end, from a line or turn after that place on, is held out; or None
    """

    held_out: np.ndarray
    cut: tuple[int, int, int] | None = None


def read_corpus(
    names: str | Path | Sequence[str | Path],
    *,
    split: str = "file",
    max_bytes: int | None = None,
    plain: bool = False,
) -> Corpus:
    """`survey` of the files that are meant by `names`, without its progress."""
    steps = survey(*find_files(names), split=split, max_bytes=max_bytes, plain=plain)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            corpus: Corpus = stop.value
            return corpus


def survey(
    files: Sequence[TextFile],
    notes: Sequence[Note] = (),
    *,
    split: str = "file",
    max_bytes: int | None = None,
    plain: bool = False,
) -> Generator[Progress, None, Corpus]:
    """Read text files once: what is in them, in numbers. DataError names the file and what is wrong with it.

    split: "file", "blank" (lines) or "line": where documents end in files without `<|endoftext|>`
    max_bytes: take the whole documents among the first so many bytes; a first document that is longer is cut at a
        character, and nothing after it is read.
    plain: take a transcript for text like any other
    """
    if split not in SPLITS:
        raise UsageError(f"text is split by {', '.join(SPLITS)}, but not by {split!r}")
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"MAX_BYTES must be at least 1, but is {max_bytes}")
    register = _Register()
    told, sources = list(notes), []
    left = max_bytes
    total = sum(file.size for file in files)
    total = total if max_bytes is None else min(total, max_bytes)
    files_done = reported = 0
    for file in files:
        form, rule = _form_of(file, split, plain, left)
        if rule == "mark" and split != "file" and form != "records":
            told.append(
                Note(f"{file.name}: is split at its {SEPARATOR.decode()} marks, not by {split}")
            )
        if form == "transcript":
            told.append(
                Note(
                    f"{file.name}: is a transcript: what follows User: is read, what follows Assistant: is "
                    f"learnt (--plain takes it for text like any other)"
                )
            )
        end = file.size
        if left is not None and file.size > left:
            end = usable_end(file.path, file.size, rule, left)
            none_before = register.n_documents == 0
            if none_before and (
                end == 0 or next(Source(file, form, rule, end).parts(), None) is None
            ):
                if form == "records":
                    raise DataError(
                        f"{file.name}: its first record does not fit into {left:,} bytes"
                    )
                end = character_end(file.path, left)
        source = Source(file, form, rule, end)
        before, oddities = register.totals(), _Oddities()
        for part in source.parts(oddities.look):
            register.add(part)
            read = files_done + oddities.n_bytes
            if read - reported >= _PROGRESS_BYTES:
                reported = read
                yield Progress("reading text", min(read, total), total)
        register.finish_document()
        oddities.check(file.name)
        files_done += oddities.n_bytes
        if left is not None and file.size > left:
            told.append(_cut_note(file, before, register.totals(), max_bytes))
        if form != "records":
            told += oddities.notes(file.name)
        sources.append(source)
        if left is not None:
            left -= file.size
            if left <= 0:
                break
    if register.n_documents == 0:
        names = ", ".join(file.name for file in files) or "nothing"
        raise DataError(f"{names}: holds no text")
    if register.n_learnt == 0:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{names}: holds no answer of an assistant, so there is nothing to learn")
    yield Progress("reading text", total, total)
    return register.corpus(tuple(sources), tuple(told))


def divide(corpus: Corpus, share: float) -> Division:
    """Set about `share` of the documents apart for validation, by the hash of their bytes.

    So the choice does not depend on the order of the documents, and equal documents stay together. Where no document
    is small enough to be given away, the last part of the longest one is: the end of a single text, for example.
    """
    held_out = np.zeros(corpus.n_documents, np.bool_)
    if share <= 0.0:
        return Division(held_out)
    most = corpus.n_bytes * max(MAX_VALIDATION_SHARE, min(1.5 * share, 0.75))
    low = np.flatnonzero(corpus.hashes < share * 2.0**32)
    if 0 < corpus.sizes[low].sum(dtype=np.int64) <= most:
        held_out[low] = True
        return Division(held_out)
    order = np.argsort(corpus.hashes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(corpus.hashes[order])) + 1)
    taken = 0
    for group in groups:
        if corpus.hashes[group[0]] >= share * 2.0**32 and taken > 0:
            break
        size = int(corpus.sizes[group].sum(dtype=np.int64))
        if taken + size <= most:
            held_out[group] = True
            taken += size
    if taken > 0:
        return Division(held_out)
    number, size = corpus.longest
    return Division(held_out, (number, size, size - max(1, int(size * share))))


def divided_parts(corpus: Corpus, division: Division) -> Iterator[tuple[bool, Part]]:
    """All documents, each part with whether it is held out. DataError when the files are no longer what they were."""
    number, n_bytes = -1, 0
    cut_number, length, place = (-1, 0, 0) if division.cut is None else division.cut
    held_out, position, is_cut, is_plain = False, 0, False, True
    for part in corpus.parts():
        if part.opens:
            number += 1
            position, is_cut = 0, False
            if number == corpus.n_documents:
                break
            held_out = bool(division.held_out[number])
            is_plain = part.role is None and part.learnt
        n_bytes += len(part.text)
        start, position = position, position + len(part.text)
        if number == cut_number and not is_cut and position > place:
            if is_plain:
                border = place_to_cut(part.text, max(0, place - start), length - start)
                if 0 < border < len(part.text):
                    yield False, part._replace(text=part.text[:border])
                    part, held_out, is_cut = Part(part.text[border:], opens=True), True, True
            elif part.role == ROLE_TOKENS[USER] and start >= place and not part.opens:
                part, held_out, is_cut = part._replace(opens=True), True, True
        yield held_out, part
    if number + 1 != corpus.n_documents or n_bytes != corpus.n_bytes:
        names = ", ".join(source.file.name for source in corpus.sources[:3])
        raise DataError(f"{names}: has changed while it was read")


class _Register:
    """The numbers of a corpus, document by document."""

    def __init__(self) -> None:
        self.n_bytes = self.n_documents = self.n_learnt = 0
        self._longest = (0, 0)
        self._has_roles = self._is_masked = False
        self._hashes, self._sizes = array("I"), array("I")
        self._digest = hashlib.sha256()
        self._hash: hashlib.blake2b | None = None  # of the document that goes on
        self._size = 0
        self._stretch = 0  # bytes since something other than text stood there

    def add(self, part: Part) -> None:
        """The next part of a document."""
        text = part.text
        if part.opens:
            self.finish_document()
            self._hash = hashlib.blake2b(text, digest_size=8)
        elif self._hash is not None:
            self._hash.update(text)
        if not part.joined:
            self._digest.update(b"%d\0%d%d%s\0" % (
                self._stretch, part.opens, part.learnt, (part.role or "").encode()
            ))  # fmt: skip
            self._stretch = 0
        self._digest.update(text)
        self._stretch += len(text)
        self._size += len(text)
        self.n_bytes += len(text)
        if part.learnt:
            self.n_learnt += len(text)
        else:
            self._is_masked = True
        if part.role is not None:
            self._has_roles = True

    def finish_document(self) -> None:
        """The document, if there is one, has come to its end."""
        if self._hash is None:
            return
        if self._size > self._longest[1]:
            self._longest = self.n_documents, self._size
        self._hashes.append(int.from_bytes(self._hash.digest()[-4:], "little"))
        self._sizes.append(min(self._size, _MOST))
        self.n_documents += 1
        self._hash, self._size = None, 0

    def totals(self) -> tuple[int, int]:
        """Documents and bytes so far."""
        return self.n_documents, self.n_bytes

    def corpus(self, sources: tuple[Source, ...], notes: tuple[Note, ...]) -> Corpus:
        """The corpus that has been read."""
        self._digest.update(b"%d" % self._stretch)
        return Corpus(
            *(sources, self.n_bytes, self.n_documents, self._digest.hexdigest(), notes),
            *(self._has_roles, self._is_masked),
            *(np.array(self._hashes, np.uint32), np.array(self._sizes, np.uint32)),
            self._longest,
        )


def check_text(name: str, text: bytes) -> None:
    """DataError for bytes that are no UTF-8 text, which a corpus would not take either."""
    oddities = _Oddities()
    oddities.look(text)
    oddities.check(name)


class _Oddities:
    """What is odd about a text, counted chunk by chunk."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._begins_with_bom = False
        self._breaks = self._zeros = self._controls = self._invalid = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = b""

    def look(self, chunk: bytes) -> None:
        """The next bytes of the text."""
        if self.n_bytes == 0:
            self._begins_with_bom = chunk.startswith(codecs.BOM_UTF8)
        self.n_bytes += len(chunk)
        self._breaks += chunk.count(b"\r\n") + (self._tail[-1:] == b"\r" and chunk[:1] == b"\n")
        self._zeros += chunk.count(0)
        self._controls += len(chunk) - len(chunk.translate(None, _CONTROLS))
        if not (chunk.isascii() and self._tail.isascii()):
            # A decoder puts U+FFFD for what is not valid; those that the text itself has do not count.
            mark = "\ufffd".encode()
            self._invalid -= (self._tail + chunk).count(mark)
            self._invalid += self._decoder.decode(chunk).count("\ufffd")
        self._tail = chunk[-2:] if len(chunk) > 1 else (self._tail + chunk)[-2:]

    def check(self, name: str) -> None:
        """At the end of the text: DataError when so much is odd that it cannot be UTF-8 text."""
        self._invalid += self._decoder.decode(b"", final=True).count("\ufffd")
        odd = self._invalid + self._controls
        if odd > MAX_ODD_SHARE * self.n_bytes:
            raise DataError(
                f"{name}: is binary, or text in another encoding: {100 * odd / self.n_bytes:.0f} % of its "
                f"bytes cannot be UTF-8 text (`iconv -f ENCODING -t utf-8` converts text)"
            )

    def notes(self, name: str) -> list[Note]:
        """What should be known of the text."""
        found = []
        if self._begins_with_bom:
            found.append(Note(f"{name}: begins with a byte order mark, which is kept"))
        if self._breaks:
            count = f"{self._breaks:,}"
            found.append(
                Note(f"{name}: lines that end in CRLF, as in Windows, are kept so: {count}")
            )
        if self._zeros:
            count = f"{self._zeros:,}"
            found.append(Note(f"{name}: bytes of value zero, which are kept: {count}", "warning"))
        if self._invalid:
            count = f"{self._invalid:,}"
            found.append(
                Note(f"{name}: places that are not valid UTF-8, which are kept: {count}", "warning")
            )
        return found


def _form_of(file: TextFile, split: str, plain: bool, limit: int | None) -> tuple[str, str]:
    """How a file is read, and where its documents end. DataError when it is no text."""
    head = text_head(file)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if file.name.lower().endswith(".json") and start[:1] == b"[":
        raise DataError(
            f"{file.name}: is one JSON list, but one record per line is needed (`jq -c '.[]'` converts it)"
        )
    if file.holds_records or _begins_with_record(start):
        return "records", "line"
    if split != "file":
        end = file.size if limit is None else min(file.size, limit + len(SEPARATOR) + 2)
        marked = has_mark(file.path, end)
    transcript = not plain and is_transcript(head)
    return "transcript" if transcript else "text", "mark" if split == "file" or marked else split


def _begins_with_record(start: bytes) -> bool:
    """Whether a text without a telling name begins with a JSON record of the kinds that are read."""
    if start[:1] != b"{":
        return False
    line = start.partition(b"\n")[0]
    return any(
        line[1:].lstrip().startswith(name) for name in (b'"text"', b'"prompt"', b'"messages"')
    )


def text_head(file: TextFile) -> bytes:
    """How a file begins. DataError when that is known to be no text."""
    opened, _ = open_input(file.path, DataError)
    with opened:
        try:
            head = opened.read(TRANSCRIPT_BYTES) or b""
        except OSError as problem:
            raise DataError(f"{file.name}: cannot be read: {reason(problem)}") from problem
    kind = kind_of(head[:HEAD_BYTES])
    if kind is not None:
        raise DataError(f"{file.name}: is {kind}, but plain UTF-8 text is needed")
    return head


def _cut_note(
    file: TextFile, before: tuple[int, int], after: tuple[int, int], limit: int | None
) -> Note:
    documents = counted(after[0] - before[0], "document")
    return Note(
        f"{file.name}: {after[1] - before[1]:,} of {file.size:,} bytes are used, in {documents}: "
        f"MAX_BYTES is {limit:,}"
    )
