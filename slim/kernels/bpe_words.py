"""The different words of a text, each once: a hash table that says which of them stands where, and how often it occurs.

Building a vocabulary counts words, and encoding need not look into a word that it has seen before: both begin here.

The kernel can be stopped and resumed: a call goes on until its room is used up, which bounds memory and lets a command
show progress; when the table is full it is made larger outside, and the next call continues.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import INSIDE, PARALLEL, SERIAL
from slim.kernels.pretokenize import first_cut, next_document, word_end

# Columns of `words`: where its bytes begin in `texts`, how many, their hash, how often it occurs, and how many ids it has
# (0: not encoded yet).
START, LENGTH, HASH, COUNT, N_IDS = 0, 1, 2, 3, 4
N_WORD_COLUMNS = 5
# Columns of `used`: words and bytes kept, words that `slots` knows, and the length of a word for which there was no room.
N_WORDS, N_BYTES, N_INDEXED, NEEDED = 0, 1, 2, 3
N_USED_COLUMNS = 4
# Columns of `progress`: where a worker is in the text, -1 at first, where this call began, and where it ends; the next
# document; how much of `seen` it has written.
POSITION, BEGUN, STOP, DOCUMENT, WRITTEN = 0, 1, 2, 3, 4
N_PROGRESS_COLUMNS = 5


@njit(**INSIDE)
def add_word(slots, words, texts, used, data, start, stop, count, seed):
    """Count the word data[start:stop] `count` times; its number, or -1 when it is new and there is no room for it.

    slots (S,) int32: word number + 1, S a power of two   words (K, 5) int64, K < S   texts (A,) uint8   used (4,) int64
    seed: where the hash begins. Strangers do not know it, so nobody can write a text whose words all collide.
    """
    h = seed
    for i in range(start, stop):  # FNV-1a: Fowler, Noll and Vo
        h = ((h ^ np.int64(data[i])) * 16777619) & 0xFFFFFFFF
    h ^= h >> 15
    length = stop - start
    last_slot = len(slots) - 1
    slot = h & last_slot
    while slots[slot] > 0:
        k = np.int64(slots[slot]) - 1
        if words[k, HASH] == h and words[k, LENGTH] == length:
            at = words[k, START]
            i = 0
            while i < length and texts[at + i] == data[start + i]:
                i += 1
            if i == length:
                words[k, COUNT] += count
                return k
        slot = (slot + 1) & last_slot
    k, at = used[N_WORDS], used[N_BYTES]
    if k == len(words) or at + length > len(texts):
        used[NEEDED] = length
        return -1
    for i in range(length):
        texts[at + i] = data[start + i]
    words[k, START], words[k, LENGTH], words[k, HASH] = at, length, h
    words[k, COUNT], words[k, N_IDS] = count, 0
    slots[slot] = k + 1
    used[N_WORDS], used[N_INDEXED], used[N_BYTES] = k + 1, k + 1, at + length
    return k


@njit(**INSIDE)
def index_words(slots, words, used):
    """Enter words that are kept into slots that were made anew."""
    for k in range(used[N_INDEXED], used[N_WORDS]):
        slot = words[k, HASH] & (len(slots) - 1)
        while slots[slot] > 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = k + 1
    used[N_INDEXED] = used[N_WORDS]


@njit(**INSIDE)
def count_part(w, n_workers, seen, progress, slots, words, texts, used, data, doc_starts, classes, seed):
    """The share of worker `w` of `count_words`, whose arrays are here without their first axis."""
    n, n_docs = len(data), len(doc_starts)
    i = progress[POSITION]
    if i < 0:
        i = np.int64(first_cut(data, n * w // n_workers, doc_starts, classes))
        progress[STOP] = first_cut(data, n * (w + 1) // n_workers, doc_starts, classes)
        progress[DOCUMENT] = next_document(doc_starts, i)
    progress[BEGUN] = i
    end = progress[STOP]
    index_words(slots, words, used)
    d = progress[DOCUMENT]
    written = 0
    while written < len(seen):
        if d < n_docs and doc_starts[d] == i and (i < end or w == n_workers - 1):
            number = -1 - d
            d += 1
        elif i < end:
            stop = word_end(data, i, n if d == n_docs else doc_starts[d], classes)
            number = add_word(slots, words, texts, used, data, i, stop, 1, seed)
            if number < 0:
                break
            i = stop
        else:
            break
        seen[written] = number
        written += 1
    progress[POSITION], progress[DOCUMENT], progress[WRITTEN] = i, d, written


@njit(**PARALLEL)
def count_words(seen, progress, slots, words, texts, used, data, doc_starts, classes, seed):
    """seen (W, room) int32 =   words (W, K, 5) int64 +=   data (n,) uint8   doc_starts (n_docs,) int64   classes (0x110000,)

    Each of W workers goes through its share of `data`, as far as `room` allows, and writes to `seen` the number of each
    word, and -1 - d where document d begins. It is done when its POSITION, at first -1, is STOP and room is left. When NEEDED
    is not 0 its table is to be made larger first: slots empty, N_INDEXED and NEEDED 0.
    progress (W, 5) int64   slots (W, S) int32   texts (W, A) uint8   used (W, 4) int64
    """
    n_workers = len(progress)
    for w in prange(n_workers):
        count_part(
            np.int64(w), n_workers, seen[w], progress[w], slots[w], words[w], texts[w], used[w],
            data, doc_starts, classes, seed,
        )  # fmt: skip


@njit(**SERIAL)
def gather_words(slots, words, texts, used, part_words, part_texts, part_used, seed):
    """words (K, 5) +=   part_words (W, K', 5): the words of all workers in one table, which must have the room."""
    for w in range(len(part_words)):
        for k in range(part_used[w, N_WORDS]):
            start = part_words[w, k, START]
            stop = start + part_words[w, k, LENGTH]
            count = part_words[w, k, COUNT]
            add_word(slots, words, texts, used, part_texts[w], start, stop, count, seed)
