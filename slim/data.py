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
from typing import Protocol

import numpy as np

from slim.corpus import Corpus, divide
from slim.errors import DataError
from slim.events import Note, Progress

SHORTEST_SEQ_LEN = 16
_PROGRESS_BYTES = 2**19  # documents encoded between two Progress events
_ROUNDS = 6


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    eos_id: int

    def encode(self, text: str | bytes, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class TokenData:
    """A corpus as ids.

    train (n,) int32, each document begun by eos   validation: documents (m,) int32 without it
    counted (n,) bool: which ids of `train` are to be learnt when they are targets; None: all of them
    """

    train: np.ndarray
    n_train_bytes: int
    validation: tuple[np.ndarray, ...] = ()
    validation_bytes: tuple[int, ...] = ()
    counted: np.ndarray | None = None

    @property
    def n_validation_tokens(self) -> int:
        return sum(ids.size for ids in self.validation)

    @property
    def bytes_per_token(self) -> float:
        return self.n_train_bytes / max(1, self.train.size)


def prepare(
    corpus: Corpus, tokenizer: Encoder, validation_share: float = 0.05
) -> Generator[Progress | Note, None, TokenData]:
    """Encode a corpus: what is to be known and progress as it goes, the data as the generator's return value."""
    division = divide(corpus, validation_share)
    yield from division.notes
    train = yield from encode_documents(division.train, tokenizer, corpus.n_bytes)
    n_train_bytes = sum(map(len, division.train))
    validation = yield from encode_documents(
        division.validation, tokenizer, corpus.n_bytes, n_train_bytes
    )
    return TokenData(
        train=pack(train, tokenizer.eos_id),
        n_train_bytes=n_train_bytes,
        validation=tuple(validation),
        validation_bytes=tuple(map(len, division.validation)),
    )


def encode_documents(
    documents: Sequence[bytes], tokenizer: Encoder, total: int | None = None, done: int = 0
) -> Generator[Progress, None, list[np.ndarray]]:
    """The ids of every document, int32, without eos. Progress counts bytes: `done` of `total` lie behind already."""
    if total is None:
        total = sum(map(len, documents))
    encoded, reported = [], done
    for document in documents:
        encoded.append(tokenizer.encode(document))
        done += len(document)
        if done - reported >= _PROGRESS_BYTES or done == total:
            yield Progress("encoding", done, total)
            reported = done
    return encoded


def pack(documents: Sequence[np.ndarray], eos_id: int) -> np.ndarray:
    """One (n,) int32 array of all ids, eos before each document."""
    packed = np.empty(sum(ids.size + 1 for ids in documents), np.int32)
    end = 0
    for ids in documents:
        start, end = end, end + ids.size + 1
        packed[start] = eos_id
        packed[start + 1 : end] = ids
    return packed


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
    ids = data.train[places]
    tokens = np.ascontiguousarray(ids[:, :-1])
    targets = np.ascontiguousarray(ids[:, 1:])
    if data.counted is not None:
        targets[~data.counted[places[:, 1:]]] = -1
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
