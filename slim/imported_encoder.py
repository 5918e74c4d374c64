"""From text to ids by the rules of other programs' vocabularies.

    byte-level       a pattern cuts the text into words, each word's bytes are joined by rank (GPT-2, Llama 3, SmolLM)
    sentencepiece    a blank is put before the text, its characters are joined by rank or score, anywhere; a character that
                     is no token becomes its bytes (Llama 2, llama2.c)

A pattern runs over one byte per character, its class, so that letters and numbers are those of `bpe_classes`
wherever it runs; no pattern comes from a file. Radford et al. 2019; Kudo and Richardson 2018, "SentencePiece".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from slim.kernels.bpe_classes import LETTER, NUMBER, SPACE, character_classes
from slim.pair_merging import Join, merged

# The class of a character as a byte: A letter, 1 number, o other, tab white space. What patterns look at stands for itself.
_CLASS_BYTES = {LETTER: "A", NUMBER: "1", SPACE: "\t"}
_THEMSELVES = " \n\r'"
_SUFFIX_LETTERS = "stmdrevl"
_A, _NOT_SPACE = "[Astmdrevl]", r"[^\s]"
_SHORT = "'(?:[stmd]|re|ve|ll)"
PATTERNS = {
    "gpt-2": rf"{_SHORT}| ?{_A}+| ?1+| ?[o']+|\s+(?!{_NOT_SPACE})|\s+",
    # Every number by itself, and a word ends before it.
    "smollm": rf"{_SHORT}| ?{_A}+|1| ?[o']+|\s+(?![^\s1])|\s+",
    "llama-3": rf"{_SHORT}|[^\r\nAstmdrevl1]?{_A}+|1{{1,3}}| ?[o']+[\r\n]*|\s*[\r\n]+|\s+(?!{_NOT_SPACE})|\s+",
}
# U+017F, the long s, is an s where case does not matter.
_FOLDED = {ord(c.upper()): c for c in _SUFFIX_LETTERS} | {0x17F: "s"}
# Digits of Unicode 17, which the step of `tokenizers` that splits off digits knows, and its patterns do not.
_NEWER_DIGITS = (*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7))
_CHARACTER = re.compile(rb"[\x00-\xff][\x80-\xbf]{0,3}", re.DOTALL)
_REMEMBERED = 2**17  # words
_REMEMBERED_BYTES = 64  # longer ones seldom come again
_STEP_BYTES = 2**16  # of text between two reports

BLANK_SIGN = "▁".encode()  # what SentencePiece writes for a blank


class WordCutter:
    """Text into words by one of PATTERNS."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(PATTERNS[pattern].encode("ascii"))
        table = np.full(0x110000, ord("o"), np.uint8)
        classes = character_classes()
        for kind, letter in _CLASS_BYTES.items():
            table[classes == kind] = ord(letter)
        for character in _THEMSELVES + _SUFFIX_LETTERS:
            table[ord(character)] = ord(character)
        if pattern == "llama-3":
            for point, letter in _FOLDED.items():
                table[point] = ord(letter)
        if pattern == "smollm":
            table[list(_NEWER_DIGITS)] = ord("1")
        self._table = table

    def cut(self, text: str) -> Iterator[str]:
        """The words, which laid end to end are the text."""
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        for match in self._pattern.finditer(self._table[points].tobytes()):
            yield text[match.start() : match.end()]


class ByteLevelEncoder:
    """A vocabulary whose symbols are bytes.

    byte_ids   the id of each byte, -1 where it has none: such a byte is left out
    whole      tokens that a word becomes at once, without merges (Llama 3)
    """

    def __init__(
        self, pattern: str, byte_ids: Sequence[int], join: Join, whole: dict[bytes, int]
    ) -> None:
        self._cutter = WordCutter(pattern)
        self._byte_ids, self._join, self._whole = byte_ids, join, whole
        self._seen: dict[str, list[int]] = {}

    def encode(
        self, documents: Sequence[bytes]
    ) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]:
        """All ids (n,) int32, and where each document begins among them, (n_docs + 1,) int64; yields bytes done."""
        return (yield from _encoded(documents, self._ids_of))

    def _ids_of(self, document: bytes) -> Iterator[tuple[int, list[int]]]:
        text = document.decode("utf-8", errors="surrogateescape")
        for word in self._cutter.cut(text):
            ids = self._seen.get(word)
            if ids is None:
                data = word.encode("utf-8", errors="surrogateescape")
                ids = self._ids_of_word(data)
                _remember(self._seen, word, ids, len(data))
            yield len(word), ids

    def _ids_of_word(self, data: bytes) -> list[int]:
        at_once = self._whole.get(data)
        if at_once is not None:
            return [at_once]
        symbols = [self._byte_ids[byte] for byte in data]
        return merged([symbol for symbol in symbols if symbol >= 0], self._join)


class SentencePieceEncoder:
    """A vocabulary whose symbols are characters, with the 256 bytes for all others.

    pieces     the id of every token that text can become   joined   those that a merge makes
    prefix     "blank": one is put before every text; "metaspace": before those that begin with none
    """

    def __init__(
        self,
        pieces: dict[bytes, int],
        byte_ids: Sequence[int],
        joined: Sequence[bytes],
        join: Join,
        prefix: str,
    ) -> None:
        self._pieces, self._byte_ids, self._join, self._prefix = pieces, byte_ids, join, prefix
        self._seen: dict[bytes, list[int]] = {}
        # No merge crosses two neighbouring bytes that no token holds side by side: there the text is cut.
        self._together = np.zeros(2**16, np.bool_)
        all_joined = np.frombuffer(b"".join(joined), np.uint8).astype(np.intp)
        inside = np.ones(max(all_joined.size - 1, 0), np.bool_)
        ends = np.cumsum([len(piece) for piece in joined], dtype=np.intp)[:-1]
        inside[ends - 1] = False
        self._together[(all_joined[:-1] * 256 + all_joined[1:])[inside]] = True

    def encode(
        self, documents: Sequence[bytes]
    ) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]:
        """All ids (n,) int32, and where each document begins among them, (n_docs + 1,) int64; yields bytes done."""
        return (yield from _encoded(documents, self._ids_of))

    def _ids_of(self, document: bytes) -> Iterator[tuple[int, list[int]]]:
        if not document:
            return
        text = document.replace(BLANK_SIGN, b" ")
        if self._prefix == "blank" or (self._prefix == "metaspace" and text[:1] != b" "):
            text = b" " + text
        data = np.frombuffer(text, np.uint8).astype(np.intp)
        apart = ~self._together[data[:-1] * 256 + data[1:]] & (data[1:] & 0xC0 != 0x80)
        start = 0
        for stop in [*(np.flatnonzero(apart) + 1).tolist(), len(text)]:
            word, start = text[start:stop], stop
            ids = self._seen.get(word)
            if ids is None:
                ids = merged(self._symbols(word), self._join)
                _remember(self._seen, word, ids, len(word))
            yield len(word), ids

    def _symbols(self, word: bytes) -> list[int]:
        symbols: list[int] = []
        for match in _CHARACTER.finditer(word):
            character = match[0]
            known = self._pieces.get(character)
            if known is None:
                symbols += [self._byte_ids[byte] for byte in character]
            else:
                symbols.append(known)
        return symbols


def _encoded(
    documents: Sequence[bytes], ids_of: Callable[[bytes], Iterator[tuple[int, list[int]]]]
) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]:
    parts = [np.empty(0, np.int32)]
    offsets = [0]
    behind = 0
    for document in documents:
        ids: list[int] = []
        done, reported = 0, 0
        for length, found in ids_of(document):
            ids += found
            done += length
            if done - reported >= _STEP_BYTES:
                reported = done
                yield behind + min(done, len(document))
        parts.append(np.array(ids, np.int32))
        offsets.append(offsets[-1] + len(ids))
        behind += len(document)
        yield behind
    return np.concatenate(parts), np.array(offsets, np.int64)


def _remember(seen: dict, word: object, ids: list[int], n_bytes: int) -> None:
    if n_bytes <= _REMEMBERED_BYTES:
        if len(seen) >= _REMEMBERED:
            seen.clear()
        seen[word] = ids
