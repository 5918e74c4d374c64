"""A judge that is not the model: a 5-gram with interpolated modified Kneser-Ney smoothing over token ids.

Chen and Goodman 1999. N-grams are numbers of 12 bits per token, so the vocabulary may have 4,096 ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ORDER, BITS = 5, 12


class FiveGram:
    """Counts of a corpus, documents (n,) ids without eos; each begins and ends with eos."""

    def __init__(self, documents: Sequence[np.ndarray], eos_id: int) -> None:
        self._eos_id = eos_id
        keys = self._keys([np.append(ids, eos_id) for ids in documents])
        self._levels: list[tuple[np.ndarray, ...]] = []
        grams, counts = np.unique(keys[ORDER - 1], return_counts=True)
        for order in range(ORDER, 0, -1):
            self._levels.insert(0, _level(grams, counts))
            shorter = grams & np.uint64((1 << (BITS * (order - 1))) - 1)
            grams, counts = np.unique(shorter, return_counts=True)  # in how many contexts it stands

    def nats(self, documents: Sequence[np.ndarray], vocab_size: int) -> list[np.ndarray]:
        """-log p of each token of each document."""
        p = np.full(sum(ids.size for ids in documents), 1.0 / vocab_size)
        for key, (grams, counts, contexts, totals, rest, discounts) in zip(
            self._keys(documents), self._levels, strict=True
        ):
            place = np.minimum(np.searchsorted(grams, key), grams.size - 1)
            count = np.where(grams[place] == key, counts[place], 0)
            context = key >> np.uint64(BITS)
            at = np.minimum(np.searchsorted(contexts, context), contexts.size - 1)
            own = np.maximum(count - discounts[np.minimum(count, 3)], 0.0) / totals[at]
            p = np.where(contexts[at] == context, own + rest[at] * p, p)
        return np.split(-np.log(p), np.cumsum([ids.size for ids in documents])[:-1])

    def _keys(self, documents: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For 1 to ORDER tokens: those that end at each token, as numbers."""
        start = np.full(ORDER - 1, self._eos_id)
        stream = np.concatenate([np.concatenate((start, ids)) for ids in documents]).astype(
            np.uint64
        )
        real = np.concatenate([np.arange(ids.size + ORDER - 1) >= ORDER - 1 for ids in documents])
        keys, key = [], np.zeros(stream.size, np.uint64)
        for back in range(ORDER):
            key = key | (np.roll(stream, back) << np.uint64(BITS * back))
            keys.append(key[real])
        return keys


def _level(grams: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """N-grams with counts; their contexts with totals and the share that is left to shorter ones; discounts."""
    ones, twos, threes, fours = (max(int((counts == n).sum()), 1) for n in (1, 2, 3, 4))
    y = ones / (ones + 2 * twos)
    discounts = np.array(
        [0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
    )
    discounts = np.clip(discounts, 0.0, [0.0, 1.0, 2.0, 3.0])
    contexts, first = np.unique(grams >> np.uint64(BITS), return_index=True)  # grams are sorted
    totals = np.add.reduceat(counts, first)
    rest = np.add.reduceat(discounts[np.minimum(counts, 3)], first) / totals
    return grams, counts, contexts, totals, rest, discounts


def repeated(ids: np.ndarray, n: int = 4) -> np.ndarray:
    """1 for each token that ends an n-gram which the text had before, else 0."""
    seen: set[tuple[int, ...]] = set()
    out = np.zeros(ids.size)
    tokens = ids.tolist()
    for end in range(n, len(tokens) + 1):
        gram = tuple(tokens[end - n : end])
        out[end - 1] = gram in seen
        seen.add(gram)
    return out
