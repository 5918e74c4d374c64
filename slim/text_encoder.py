"""From text to ids at the speed of the kernels: documents in batches, each shared among the threads."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from slim.kernels import bpe, bpe_words
from slim.word_table import WordTable, batches, laid_end_to_end, workers_for

# Words are remembered from one text to the next, unless they have become too many.
_REMEMBERED_WORDS, _REMEMBERED_BYTES = 2**17, 2**22


class TextEncoder:
    """The merges of one vocabulary, ready for the kernel, and the words that it has seen."""

    def __init__(self, byte_ids: np.ndarray, merges: np.ndarray, vocab_size: int) -> None:
        """byte_ids (256,) int32   merges (M, 2) int32 by rank; the last M ids are theirs"""
        order = np.lexsort((merges[:, 1], merges[:, 0]))
        rows = np.searchsorted(merges[order, 0], np.arange(vocab_size + 1)).astype(np.int32)
        joins = np.stack([merges[order, 1], order.astype(np.int32)], axis=1)
        self._vocabulary = (byte_ids, merges, rows, joins)
        self._seen: dict[int, _SeenWords] = {}

    def encode(
        self, documents: Sequence[bytes]
    ) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]:
        """All ids (n,) int32, and where each document begins among them, (n_docs + 1,) int64; yields bytes done."""
        parts = [np.empty(0, np.int32)]
        offsets = [np.empty(0, np.int64)]
        n_ids = n_bytes = 0
        for batch in batches(documents):
            data, doc_starts = laid_end_to_end(batch)
            ids, starts = yield from self._encode_batch(data, doc_starts, n_bytes)
            parts.append(ids)
            offsets.append(starts + n_ids)
            n_ids += ids.size
            n_bytes += data.size
        return np.concatenate(parts), np.concatenate([*offsets, [n_ids]])

    def _encode_batch(
        self, data: np.ndarray, doc_starts: np.ndarray, n_done: int
    ) -> Generator[int, None, tuple[np.ndarray, np.ndarray]]:
        """The ids of one batch and where its documents begin; see WordTable.count."""
        seen = self._seen_words(workers_for(data.size))
        totals = np.zeros((seen.table.n_workers, 2), np.int64)
        firsts = np.empty((doc_starts.size, 2), np.int64)
        written: list[list[np.ndarray]] = [[] for _ in totals]
        for done in seen.table.count(data, doc_starts):
            out = seen.write_ids(totals, firsts, self._vocabulary)
            for w, n in enumerate(totals[:, 0].tolist()):
                written[w].append(out[w, :n].copy())
            yield n_done + done
        # Worker after worker, and for each what it wrote call after call.
        ids = np.concatenate([part for parts in written for part in parts])
        before = np.cumsum(totals[:, 1]) - totals[:, 1]
        return ids, before[firsts[:, 0]] + firsts[:, 1]

    def _seen_words(self, n_workers: int) -> _SeenWords:
        seen = self._seen.get(n_workers)
        if seen is None or seen.are_too_many():
            self._seen = {n: kept for n, kept in self._seen.items() if n == 1 != n_workers}
            seen = self._seen[n_workers] = _SeenWords(n_workers)
        return seen


class _SeenWords:
    """The words of W workers with their ids, and work space for those that have none yet."""

    def __init__(self, n_workers: int) -> None:
        self.table = WordTable(n_workers)
        self._ids = np.empty((n_workers, 0), np.int32)
        self._out = np.empty((n_workers, 0), np.int32)
        self._links = np.empty((0, 3), np.int32)
        self._heap = np.empty((0, 2), np.int64)
        self._encoded = np.zeros(n_workers, np.int64)  # words that have ids

    def are_too_many(self) -> bool:
        many = self.table.n_words.max() > _REMEMBERED_WORDS
        return bool(many or self.table.n_bytes.max() > _REMEMBERED_BYTES)

    def write_ids(
        self, totals: np.ndarray, firsts: np.ndarray, vocabulary: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """The ids of what the table has just seen, (W, room) int32, valid until the next call; see bpe.write_ids."""
        self._make_room()
        table = self.table
        bpe.write_ids(
            *(self._out, totals, firsts, table.seen, table.progress),
            *(table.words, table.texts, self._ids, *vocabulary, self._links, self._heap),
        )
        return self._out

    def _make_room(self) -> None:
        """Room for as many ids as there are bytes, in the table and in what it has just seen."""
        table = self.table
        n_workers, n_bytes = table.texts.shape
        if self._ids.shape[1] < n_bytes:
            grown = np.empty((n_workers, n_bytes), np.int32)
            grown[:, : self._ids.shape[1]] = self._ids
            self._ids = grown
        longest = 0
        for w, (first, last) in enumerate(zip(self._encoded, table.n_words, strict=True)):
            new = table.words[w, first:last, bpe_words.LENGTH]
            longest = max(longest, int(new.max(initial=0)))
        self._encoded = table.n_words.copy()
        done = table.progress[:, bpe_words.POSITION] - table.progress[:, bpe_words.BEGUN]
        most = int(done.max())
        if self._out.shape[1] < most:
            self._out = np.empty((n_workers, 1 << most.bit_length()), np.int32)
        if len(self._links) < longest:
            self._links = np.empty((1 << longest.bit_length(), 3), np.int32)
            self._heap = np.empty((3 * len(self._links), 2), np.int64)
