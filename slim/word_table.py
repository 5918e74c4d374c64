"""The table of different words in a text, and the room that it needs: what the kernel of bpe_words works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numba
import numpy as np

from slim.kernels import bpe_words
from slim.kernels.bpe_classes import character_classes

BATCH_BYTES = 2**24  # text that is laid end to end for the kernel
SHORT_BYTES = 2**15  # less text than that is not worth a second worker
_SEEN_WORDS = 2**16  # that a worker goes through in one call
_FIRST_WORDS, _FIRST_BYTES = 2**14, 2**18
# Where hashes begin: Python draws another number in every process. No result depends on it.
_SEED = hash("words") & 0xFFFFFFFF


def workers_for(n_bytes: int) -> int:
    """How many workers so much text is worth."""
    return numba.get_num_threads() if n_bytes >= SHORT_BYTES else 1


class WordTable:
    """The words that each of W workers has seen. The arrays are those of bpe_words.count_words."""

    def __init__(self, n_workers: int, n_words: int = _FIRST_WORDS, n_bytes: int = _FIRST_BYTES) -> None:
        self.n_workers = n_workers
        self.slots = np.zeros((n_workers, 1 << (2 * n_words - 1).bit_length()), np.int32)
        self.words = np.empty((n_workers, n_words, bpe_words.N_WORD_COLUMNS), np.int64)
        self.texts = np.empty((n_workers, n_bytes), np.uint8)
        self.used = np.zeros((n_workers, bpe_words.N_USED_COLUMNS), np.int64)
        self.seen = np.empty((n_workers, _SEEN_WORDS), np.int32)
        self.progress = np.empty((n_workers, bpe_words.N_PROGRESS_COLUMNS), np.int64)

    @property
    def n_words(self) -> np.ndarray:
        """How many words each worker has seen, (W,)."""
        return self.used[:, bpe_words.N_WORDS]

    @property
    def n_bytes(self) -> np.ndarray:
        """How many bytes these words have together, (W,)."""
        return self.used[:, bpe_words.N_BYTES]

    def count(self, data: np.ndarray, doc_starts: np.ndarray) -> Iterator[int]:
        """Go through a text; yields how many of its bytes are done whenever `seen` and `progress` have news.

        data (n,) uint8, from np.frombuffer   doc_starts (n_docs,) int64, ascending, the first 0
        """
        progress = self.progress
        progress[:] = 0
        progress[:, bpe_words.POSITION] = -1
        while True:
            arrays = (self.slots, self.words, self.texts, self.used)
            bpe_words.count_words(self.seen, progress, *arrays, data, doc_starts, CLASSES, _SEED)
            positions, stops = progress[:, bpe_words.POSITION], progress[:, bpe_words.STOP]
            yield int(positions.sum() - stops[:-1].sum())
            room_left = progress[:, bpe_words.WRITTEN] < self.seen.shape[1]
            if ((positions == stops) & room_left).all():
                return
            if self.used[:, bpe_words.NEEDED].any():
                self._grow()

    def gathered(self) -> tuple[np.ndarray, np.ndarray]:
        """The words of all workers, each once: `words` (K, 5) int64 and `texts` (A,) uint8."""
        if self.n_workers == 1:
            return self.words[0, : self.n_words[0]].copy(), self.texts[0]
        whole = WordTable(1, int(self.n_words.sum()), int(self.n_bytes.sum()))
        bpe_words.gather_words(
            *(whole.slots[0], whole.words[0], whole.texts[0], whole.used[0]),
            *(self.words, self.texts, self.used, _SEED),
        )
        return whole.gathered()

    def _grow(self) -> None:
        """Room for twice as many words, and for those that did not fit."""
        needed = int(self.used[:, bpe_words.NEEDED].max())
        self.slots = np.zeros((self.n_workers, 2 * self.slots.shape[1]), np.int32)
        self.words = _wider(self.words, 2 * self.words.shape[1])
        self.texts = _wider(self.texts, 2 * self.texts.shape[1] + needed)
        self.used[:, [bpe_words.N_INDEXED, bpe_words.NEEDED]] = 0


def batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The documents in groups that are large enough for the kernel and small enough for memory."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        if batch and size + len(document) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch


def laid_end_to_end(documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes of a batch, (n,) uint8, and where each document begins, (n_docs,) int64."""
    text = documents[0] if len(documents) == 1 else b"".join(documents)
    doc_starts = np.zeros(len(documents), np.int64)
    np.cumsum([len(document) for document in documents[:-1]], out=doc_starts[1:])
    return np.frombuffer(text, np.uint8), doc_starts


def _wider(array: np.ndarray, columns: int) -> np.ndarray:
    """A copy with more `columns`, the second axis."""
    grown = np.empty((len(array), columns, *array.shape[2:]), array.dtype)
    grown[:, : array.shape[1]] = array
    return grown


CLASSES = character_classes()
