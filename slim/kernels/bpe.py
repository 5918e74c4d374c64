"""Byte-pair encoding of words: of all pairs in a word the one that was learnt first is joined first, until none is left.

A word that has been seen before has its ids already. The others are merged through a heap of (rank, place) over a linked
list: n log n for a word of n bytes. Sennrich et al. 2016, "Neural machine translation of rare words with subword units";
bytes instead of characters after Radford et al. 2019.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from slim.kernels import INSIDE, SERIAL
from slim.kernels.bpe_heap import heap_pop, heap_push
from slim.kernels.bpe_train import learn_merges
from slim.kernels.bpe_words import LENGTH, N_IDS, START, WRITTEN, count_words, gather_words

SYMBOL, NEXT, PREVIOUS = 0, 1, 2  # columns of `links`: one row for each byte of a word


@njit(**INSIDE)
def offer(links, heap, size, i, rows, joins):
    """Put the pair that begins at place `i` into the heap if it can be joined; the new size of the heap

    rows (V + 1,): where the merges of each left id begin in joins (M, 2), which has right id and rank. A binary search,
    because what a stranger's vocabulary holds could make every probe of a hash table collide.
    """
    if i < 0 or links[i, NEXT] < 0:
        return size
    left, right = links[i, SYMBOL], links[links[i, NEXT], SYMBOL]
    low, end = np.int64(rows[left]), np.int64(rows[left + 1])
    high = end
    while low < high:
        middle = (low + high) >> 1
        if joins[middle, 0] < right:
            low = middle + 1
        else:
            high = middle
    if low < end and joins[low, 0] == right:
        return heap_push(heap, size, joins[low, 1], i)
    return size


@njit(**INSIDE)
def encode_word(ids, start, texts, n, byte_ids, merges, rows, joins, links, heap):
    """ids[start:] = the ids of the word texts[start : start + n]; how many   links (>= n, 3) int32   heap (>= 3 n, 2)"""
    first_merge_id = len(rows) - 1 - len(merges)
    for i in range(n):
        links[i, SYMBOL] = byte_ids[texts[start + i]]
        links[i, NEXT] = i + 1 if i + 1 < n else -1
        links[i, PREVIOUS] = i - 1
    size = 0
    for i in range(n - 1):
        size = offer(links, heap, size, i, rows, joins)
    while size > 0:
        rank, i = heap[0, 0], heap[0, 1]
        size = heap_pop(heap, size)
        j = links[i, NEXT]
        # What a merge has overtaken is still in the heap: its symbols are no longer there.
        if links[i, SYMBOL] != merges[rank, 0] or j < 0 or links[j, SYMBOL] != merges[rank, 1]:
            continue
        after = links[j, NEXT]
        links[i, SYMBOL] = first_merge_id + rank
        links[i, NEXT] = after
        links[j, SYMBOL] = -1
        if after >= 0:
            links[after, PREVIOUS] = i
        for place in (i, np.int64(links[i, PREVIOUS])):
            size = offer(links, heap, size, place, rows, joins)
    count = 0
    i = 0
    while i >= 0:
        ids[start + count] = links[i, SYMBOL]
        count += 1
        i = np.int64(links[i, NEXT])
    return count


@njit(**SERIAL)
def write_ids(
    out, totals, firsts, seen, progress, words, texts, ids,
    byte_ids, merges, rows, joins, links, heap,
):  # fmt: skip
    """out (W, room) int32 =   totals (W, 2) int64 +=   firsts (n_docs, 2) int64 =   of what count_words left

    The ids of the words in `seen`, for each worker, with their number in totals[w, 0]; totals[w, 1] is that of all calls.
    Document d begins with id number firsts[d, 1] of worker firsts[d, 0].
    ids (W, A) int32: those of a word stand where its bytes stand in texts (W, A); words that have none get them here
    byte_ids (256,)   merges (M, 2)   rows (V + 1,), joins (M, 2): see `offer`   links (n, 3), heap (3 n, 2): work space
    for a word of n bytes
    """
    for w in range(len(progress)):
        written = 0
        for j in range(progress[w, WRITTEN]):
            k = np.int64(seen[w, j])
            if k < 0:
                firsts[-1 - k, 0], firsts[-1 - k, 1] = w, totals[w, 1] + written
                continue
            start = words[w, k, START]
            if words[w, k, N_IDS] == 0:
                n = words[w, k, LENGTH]
                words[w, k, N_IDS] = encode_word(
                    ids[w], start, texts[w], n, byte_ids, merges, rows, joins, links, heap
                )
            for i in range(start, start + words[w, k, N_IDS]):
                out[w, written] = ids[w, i]
                written += 1
        totals[w, 0] = written
        totals[w, 1] += written


i32, i64, u8 = types.int32, types.int64, types.uint8
_TEXT = types.Array(u8, 1, "C", readonly=True)  # what np.frombuffer makes of bytes

# Every kernel here with the types it is called with: what a warm-up compiles.
SIGNATURES = [
    (
        count_words,
        (
            *(i32[:, ::1], i64[:, ::1], i32[:, ::1], i64[:, :, ::1], u8[:, ::1], i64[:, ::1]),
            *(_TEXT, i64[::1], u8[::1], i64),
        ),
    ),
    (
        gather_words,
        (
            *(i32[::1], i64[:, ::1], u8[::1], i64[::1]),
            *(i64[:, :, ::1], u8[:, ::1], i64[:, ::1], i64),
        ),
    ),
    (
        learn_merges,
        (
            *(i32[:, ::1], i32[::1], i64[::1], i32[:, ::1], i64[:, ::1], i32[::1], i64[:, ::1]),
            *(i64[:, ::1], u8[::1], i32[::1], i64, i64, i64, i64),
        ),
    ),
    (
        write_ids,
        (
            *(i32[:, ::1], i64[:, ::1], i64[:, ::1], i32[:, ::1], i64[:, ::1]),
            *(i64[:, :, ::1], u8[:, ::1], i32[:, ::1]),
            *(i32[::1], i32[:, ::1], i32[::1], i32[:, ::1], i32[:, ::1], i64[:, ::1]),
        ),
    ),
]
