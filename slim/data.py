"""Tokens to learn from: documents packed one after the other, each begun by `<|endoftext|>`, in (B, T) batches.

An epoch cuts the packed ids, taken as a ring, into n // T windows from a random place on and visits them in a random
order: every id is a target about once per epoch, and borders fall elsewhere in the next one. A batch is a function of
the seed and its number alone: there is no generator whose state could be lost.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Protocol

import numpy as np

from slim.conversation import END_TOKEN, ROLE_TOKENS
from slim.corpus import Corpus, divide, divided_parts
from slim.errors import DataError
from slim.events import Note, Progress
from slim.operating_system import drop_pages
from slim.records import Part

SHORTEST_SEQ_LEN = 16
_BATCH_BYTES = 2**23  # text that is encoded at a time
_ROUNDS = 6
_PAGES_KEPT_STEPS = 64  # after so many batches the pages of mapped files are let go


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    start_id: int
    eos_id: int

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def encode_documents(self, documents: Sequence[bytes], /) -> tuple[np.ndarray, np.ndarray]: ...


class Store(Protocol):
    """Where tokens are put: arrays of any integers by name, each in several pieces."""

    def append(self, name: str, piece: np.ndarray) -> None: ...

    def arrays(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut(Sequence[np.ndarray]):
    """Documents that are not learnt from: item i is the ids of one, int32, without the start token before them.

    ids (n,) with that before each   starts (n_docs + 1,): where those are
    n_bytes (n_docs,): text that is measured on   counted (n,) bool: which ids are; None: all of them
    """

    ids: np.ndarray
    starts: np.ndarray
    n_bytes: np.ndarray
    counted: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        return self.ids[self._place(i)].astype(np.int32)

    def counted_of(self, i: int) -> np.ndarray | None:
        """Which ids of a document are measured on, bool; None: all of them."""
        return None if self.counted is None else self.counted[self._place(i)]

    @property
    def masks(self) -> list[np.ndarray | None]:
        """`counted_of` every document."""
        return [self.counted_of(i) for i in range(len(self))]

    @property
    def n_tokens(self) -> int:
        return len(self.ids) - len(self)

    def _place(self, i: int) -> slice:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return slice(int(self.starts[i]) + 1, int(self.starts[i + 1]))


NOTHING_HELD_OUT = HeldOut(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class TokenData:
    """A corpus as ids.

    train (n,) of any integers, each document begun by the start token, after eos where that is another one
    counted (n,) bool: which ids of `train` are to be learnt when they are targets; None: all of them
    """

    train: np.ndarray
    n_train_bytes: int
    validation: HeldOut = NOTHING_HELD_OUT
    counted: np.ndarray | None = None
    has_roles: bool = False  # there are conversations
    mapped: tuple[mmap, ...] = ()  # the files that the arrays lie in

    @property
    def n_validation_tokens(self) -> int:
        return self.validation.n_tokens

    @property
    def bytes_per_token(self) -> float:
        return self.n_train_bytes / max(1, self.train.size)


class InMemory:
    """A Store for a text that is small."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[np.ndarray]] = {}

    def append(self, name: str, piece: np.ndarray) -> None:
        self._pieces.setdefault(name, []).append(piece)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}


def prepare(
    corpus: Corpus,
    tokenizer: Encoder,
    validation_share: float = 0.05,
    store: Store | None = None,
) -> Generator[Progress | Note, None, TokenData]:
    """Encode a corpus: what is to be known and progress as it goes, the data as the generator's return value."""
    store = InMemory() if store is None else store
    _check_roles(corpus, tokenizer)
    division = divide(corpus, validation_share)
    sides = {
        held_out: _Side(name, tokenizer, store, corpus.is_masked, held_out)
        for held_out, name in ((False, TRAIN), (True, HELD_OUT))
    }
    done = 0
    for held_out, part in divided_parts(corpus, division):
        side = sides[held_out]
        side.add(part)
        if side.n_waiting >= _BATCH_BYTES:
            done += side.n_waiting
            side.encode()
            yield Progress("encoding", done, corpus.n_bytes)
    for side in sides.values():
        side.finish()
    yield Progress("encoding", corpus.n_bytes, corpus.n_bytes)
    if division.cut is not None:
        yield _cut_note(corpus, sides[True].n_bytes)
    data = token_data(store.arrays(), corpus, sides[False].n_bytes)
    return data


def encode_corpus(corpus: Corpus, tokenizer: Encoder) -> Generator[Progress, None, HeldOut]:
    """All documents of a corpus, to be measured on; progress as it goes."""
    _check_roles(corpus, tokenizer)
    store = InMemory()
    side = _Side(HELD_OUT, tokenizer, store, corpus.is_masked, True)
    done = 0
    for part in corpus.parts():
        side.add(part)
        if side.n_waiting >= _BATCH_BYTES:
            done += side.n_waiting
            side.encode()
            yield Progress("encoding", done, corpus.n_bytes)
    side.finish()
    yield Progress("encoding", corpus.n_bytes, corpus.n_bytes)
    return token_data(store.arrays(), corpus, 0).validation


TRAIN, HELD_OUT, DOCUMENTS = "train", "held-out", "held-out.documents"
COUNTED = ".counted"


def token_data(
    arrays: dict[str, np.ndarray],
    corpus: Corpus,
    n_train_bytes: int,
    mapped: tuple[mmap, ...] = (),
) -> TokenData:
    """The arrays of a Store, by their names, as data."""
    nothing = np.empty(0, np.int32)
    documents = arrays.get(DOCUMENTS, np.empty(0, np.int64)).reshape(-1, 2)
    ids = arrays.get(HELD_OUT, nothing)
    counted = {
        name: arrays[name + COUNTED] for name in (TRAIN, HELD_OUT) if name + COUNTED in arrays
    }
    return TokenData(
        train=arrays.get(TRAIN, nothing),
        n_train_bytes=n_train_bytes,
        validation=HeldOut(
            ids=ids,
            starts=np.append(documents[:, 0], ids.size),
            n_bytes=documents[:, 1],
            counted=counted.get(HELD_OUT),
        ),
        counted=counted.get(TRAIN),
        has_roles=corpus.has_roles,
        mapped=mapped,
    )


class _Side:
    """The documents that are learnt from, or those that are held out, on their way from text to a store."""

    def __init__(
        self, name: str, tokenizer: Encoder, store: Store, is_masked: bool, is_listed: bool
    ) -> None:
        """is_listed: where each document begins and how much text of it counts is stored too"""
        self.n_bytes = 0
        self.n_waiting = 0  # bytes
        self._name, self._tokenizer, self._store = name, tokenizer, store
        self._is_masked, self._is_listed = is_masked, is_listed
        # The end of a document stands before the next one: the ids are a ring. What is measured has no end.
        start, eos = tokenizer.start_id, tokenizer.eos_id
        self._opening = (start,) if is_listed or start == eos else (eos, start)
        self._parts: list[Part] = []
        self._n_ids = 0
        self._open: list[int] = []  # start and counted bytes of the document that goes on

    def add(self, part: Part) -> None:
        """The next part, to be encoded with the others."""
        self._parts.append(part)
        self.n_waiting += len(part.text)
        self.n_bytes += len(part.text)

    def encode(self) -> None:
        """Encode the parts that wait."""
        parts = self._parts
        if not parts:
            return
        ids, counted, starts = encode_parts(parts, self._tokenizer, self._opening)
        self._store.append(self._name, ids)
        if self._is_masked:
            self._store.append(self._name + COUNTED, counted)
        if self._is_listed:
            self._list(parts, starts)
        self._n_ids += ids.size
        self._parts, self.n_waiting = [], 0

    def finish(self) -> None:
        """Encode the rest."""
        self.encode()
        if self._open:
            self._store.append(DOCUMENTS, np.array(self._open, np.int64))

    def _list(self, parts: Sequence[Part], starts: np.ndarray) -> None:
        listed: list[int] = []
        for part, start in zip(parts, starts.tolist(), strict=True):
            if part.opens:
                listed += self._open
                self._open = [self._n_ids + start, 0]
            self._open[1] += len(part.text) if part.learnt else 0
        if listed:
            self._store.append(DOCUMENTS, np.array(listed, np.int64))


def encode_parts(
    parts: Sequence[Part], tokenizer: Encoder, opening: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (n,) int32 with all special tokens, which of them are learnt (n,) bool, where each part begins (n_parts,).

    opening   the tokens before a document, the first of which is learnt: it ends the one before
    """
    texts, text_starts = tokenizer.encode_documents([part.text for part in parts])
    special = tokenizer.special_tokens
    opens = len(opening) * np.array([part.opens for part in parts], np.int64)
    roles = np.array([-1 if part.role is None else special[part.role] for part in parts], np.int64)
    ends = np.array([part.ends for part in parts], np.int64)
    learnt = np.array([part.learnt for part in parts], np.bool_)
    lengths = np.diff(text_starts)
    before = opens + (roles >= 0)
    totals = lengths + before + ends
    stops = np.cumsum(totals)
    starts = stops - totals
    ids = np.empty(int(stops[-1]), np.int32)
    ids[np.arange(texts.size) + np.repeat(starts + before - text_starts[:-1], lengths)] = texts
    counted = np.repeat(learnt, totals)
    # That a document has come to its end is learnt; whose turn it is, is not for the model to say.
    for place, mark in enumerate(opening):
        ids[starts[opens > 0] + place] = mark
        counted[starts[opens > 0] + place] = place == 0
    places = (starts + opens)[roles >= 0]
    ids[places] = roles[roles >= 0]
    counted[places] = False
    if ends.any():  # a vocabulary from elsewhere need not have that token
        ids[stops[ends > 0] - 1] = special[END_TOKEN]
    return ids, counted, starts


def _check_roles(corpus: Corpus, tokenizer: Encoder) -> None:
    """DataError when a vocabulary that was made elsewhere cannot say who speaks."""
    missing = {*ROLE_TOKENS.values(), END_TOKEN} - set(tokenizer.special_tokens)
    if corpus.has_roles and missing:
        raise DataError(
            f"{corpus.sources[0].file.name}: holds conversations, but the vocabulary of the model has no "
            f"{', '.join(sorted(missing))}: give it plain text, or --plain with a transcript"
        )


def _cut_note(corpus: Corpus, held_out: int) -> Note:
    """What is said when a part of a document is held out, or nothing could be."""
    if held_out == 0:
        return Note("the text is too short to be validated on")
    words = "the text" if corpus.n_documents == 1 else "the longest document"
    return Note(f"the last {100 * held_out / corpus.longest[1]:.2g} % of {words} is for validation")


def choose_seq_len(n_train_tokens: int, max_seq_len: int) -> int:
    """How long sequences can be so that the text has at least two: `max_seq_len`, or less for a short text."""
    shortest = min(SHORTEST_SEQ_LEN, max_seq_len)
    if n_train_tokens < 2 * shortest:
        raise DataError(
            f"the text is too short to train on: without its validation part it has "
            f"{n_train_tokens:,} tokens, but at least {2 * shortest} are needed"
        )
    if n_train_tokens >= 2 * max_seq_len:
        return max_seq_len
    return n_train_tokens // 2 // shortest * shortest


def windows_per_epoch(n_train_tokens: int, T: int) -> int:
    """How many sequences of T targets an epoch has."""
    return n_train_tokens // T


def steps_per_epoch(n_train_tokens: int, B: int, T: int) -> float:
    """How many batches see every window once; not a whole number, as a batch may reach into the next epoch."""
    return windows_per_epoch(n_train_tokens, T) / B


def batch(data: TokenData, seed: int, step: int, B: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Batch number `step`, from 0: tokens (B, T) int32 and targets (B, T) int32, the token after each; -1: ignored.

    Windows are numbered through all epochs, and a batch takes B in a row.
    """
    n = data.train.size
    windows = windows_per_epoch(n, T)
    if windows < 1:
        raise DataError(f"the text has {n:,} tokens, but a sequence has {T:,}")
    starts = np.empty(B, np.int64)
    numbers = np.arange(step * B, (step + 1) * B)
    epochs = numbers // windows
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        chosen = epochs == epoch
        offset, key = _epoch_numbers(seed, epoch)
        starts[chosen] = offset % n + T * shuffled(numbers[chosen] - epoch * windows, windows, key)
    places = (starts[:, None] + np.arange(T + 1)) % n
    ids = data.train[places].astype(np.int32)
    tokens = np.ascontiguousarray(ids[:, :-1])
    targets = np.ascontiguousarray(ids[:, 1:])
    if data.counted is not None:
        targets[~data.counted[places[:, 1:]]] = -1
    if step % _PAGES_KEPT_STEPS == 0:
        for file in data.mapped:
            drop_pages(file)
    return tokens, targets


def shuffled(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where a permutation of range(n), drawn by `key`, sends `places`, without making the whole of it.

    A Feistel network on a table of rows and columns hardly larger than n; what falls outside goes through again.
    Black & Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    rows = math.isqrt(n - 1) + 1 if n > 1 else 1
    columns = -(-n // rows)
    result = places.astype(np.int64)
    outside = np.ones(result.shape, np.bool_)
    while outside.any():
        row, column = np.divmod(result[outside], columns)
        for turn in range(_ROUNDS):
            row = (row + _hashed(column, key + 2 * turn)) % rows
            column = (column + _hashed(row, key + 2 * turn + 1)) % columns
        result[outside] = row * columns + column
        outside = result >= n
    return result


def _hashed(values: np.ndarray, key: int) -> np.ndarray:
    """Splitmix64 of each value under a key, cut to 62 bits, int64. Steele et al. 2014."""
    z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)


def _epoch_numbers(seed: int, epoch: int) -> tuple[int, int]:
    """Two numbers of 64 bits that depend on seed and epoch only: where windows begin, and their order."""
    digest = hashlib.blake2b(f"{seed}/batches/{epoch}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
