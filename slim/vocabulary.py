"""Building a vocabulary: the merges that a corpus teaches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

import numpy as np

from slim.kernels import bpe_train
from slim.word_table import WordTable, batches, laid_end_to_end, workers_for

# A pair seen once teaches nothing. Longer tokens are lines of dashes: a word of 64 bytes is rare in any language.
RAREST_PAIR = 2
LONGEST_TOKEN_BYTES = 64
# More text changes a vocabulary of some thousand tokens no more, but random bytes would take 28 times their size.
SAMPLE_BYTES = 2**25

_PIECE_BYTES = 2**20  # of which every n-th is read when there is more
_STEP_MERGES = 64  # merges between two reports
_PAIRS = 2**17


def learn_vocabulary(
    documents: Iterable[bytes], n_bytes: int, wanted: int, byte_ids: np.ndarray
) -> Generator[float, None, np.ndarray]:
    """The merges (M, 2) int32 by rank, at most `wanted`; yields the share of the work that is done.

    n_bytes: of all documents
    byte_ids (256,) int32: the id of each byte; the first merge makes the id after the largest of them.
    """
    table = yield from _count_words(documents, n_bytes)
    words, texts = table.gathered()
    del table
    first_id = int(byte_ids.max()) + 1
    merges = np.empty((wanted, 2), np.int32)
    lengths = np.ones(first_id + wanted, np.int32)
    state = np.zeros(bpe_train.N_STATE, np.int64)
    n_places = int(words[:, bpe_train.LENGTH].sum())
    places = np.empty((n_places, bpe_train.N_PLACE_COLUMNS), np.int32)
    pairs, heap = np.empty((_PAIRS, 3), np.int64), np.empty((_PAIRS, 2), np.int64)
    slots = np.zeros(2 * _PAIRS, np.int32)
    while state[bpe_train.STATUS] != bpe_train.DONE:
        bpe_train.learn_merges(
            *(merges, lengths, state, places, pairs, slots, heap, words, texts, byte_ids),
            *(wanted, RAREST_PAIR, LONGEST_TOKEN_BYTES, _STEP_MERGES),
        )
        if state[bpe_train.STATUS] == bpe_train.GROW:
            pairs, heap = _twice_as_long(pairs), _twice_as_long(heap)
            slots, state[bpe_train.N_SLOTTED] = np.zeros(2 * slots.size, np.int32), 0
        yield 0.5 + 0.5 * int(state[bpe_train.N_MERGES]) / max(1, wanted)
    return merges[: state[bpe_train.N_MERGES]].copy()


def sample_stride(n_bytes: int) -> int:
    """Of so much text every how many-th piece is read; 1: all of it."""
    return max(1, -(-n_bytes // SAMPLE_BYTES))


def _count_words(documents: Iterable[bytes], n_bytes: int) -> Generator[float, None, WordTable]:
    """All words with their counts; yields up to 0.5 of the work."""
    stride = sample_stride(n_bytes)
    table = WordTable(workers_for(n_bytes))
    counted = 0
    for batch in batches(documents if stride == 1 else _sample(documents, stride)):
        data, doc_starts = laid_end_to_end(batch)
        for done in table.count(data, doc_starts):
            yield 0.5 * min(1.0, (counted + done) * stride / max(1, n_bytes))
        counted += data.size
    return table


def _sample(documents: Iterable[bytes], stride: int) -> Iterator[bytes]:
    """Every stride-th piece of a corpus: a document, or a megabyte of a longer one."""
    number = 0
    for document in documents:
        for start in range(0, len(document), _PIECE_BYTES):
            if number % stride == 0:
                yield document[start : start + _PIECE_BYTES]
            number += 1


def _twice_as_long(array: np.ndarray) -> np.ndarray:
    """A copy with room for twice as many rows."""
    grown = np.empty((2 * len(array), array.shape[1]), array.dtype)
    grown[: len(array)] = array
    return grown
