"""Learning a byte-pair vocabulary from counted words: join the most frequent pair until there are tokens enough.

Of pairs that occur equally often the one with the smaller left id goes first, then the one with the smaller right id, so
a vocabulary is a function of the corpus alone. Pairs are counted where they stand, overlaps included ("aaa" has two of
(a, a)), and joined from left to right, as the `tokenizers` library does.

A word is kept once, with how often it occurs. Every place in it knows its neighbours and the other places with the same
pair, so a merge touches only what it changes: Sennrich et al. 2016 with linked lists in place of indices.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from slim.kernels import INSIDE, SERIAL
from slim.kernels.bpe_heap import heap_pop, heap_push, heap_replace
from slim.kernels.bpe_words import COUNT, LENGTH, START

# Columns of `places`, a row for each byte of each word: the symbol there, its neighbours, its word, the pair that begins
# there, and the places before and after it in the list of that pair.
SYMBOL, NEXT, PREVIOUS, WORD, PAIR, AFTER, BEFORE = 0, 1, 2, 3, 4, 5, 6
N_PLACE_COLUMNS = 7
KEY, WEIGHT, HEAD = 0, 1, 2  # columns of `pairs`: both ids, how often it occurs, the first place in its list
# Entries of `state`
N_PAIRS, N_HEAP, N_MERGES, N_SLOTTED, STATUS = 0, 1, 2, 3, 4
N_STATE = 5
LOADING, LEARNING, GROW, DONE = 0, 1, 2, 3
ID_BITS = 20  # a key is left << 20 | right: ids stay below a million


@njit(**INSIDE)
def pair_slot(key, pairs, slots):
    """The slot that holds the pair, or the empty one where it belongs   slots (S,) int32: pair number + 1"""
    h = (key & 0xFFFFF) * 2654435761 + (key >> ID_BITS) * 2246822519
    slot = (h ^ (h >> 15)) & (len(slots) - 1)
    while slots[slot] > 0 and pairs[slots[slot] - 1, KEY] != key:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@njit(**INSIDE)
def enter_place(i, places, pairs, slots, state, words):
    """Count the pair that begins at place `i` and put the place into its list."""
    after = places[i, NEXT]
    key = np.int64(places[i, SYMBOL]) << ID_BITS | np.int64(places[after, SYMBOL])
    slot = pair_slot(key, pairs, slots)
    pair = np.int64(slots[slot]) - 1
    if pair < 0:
        pair = state[N_PAIRS]
        state[N_PAIRS] = state[N_SLOTTED] = pair + 1
        slots[slot] = pair + 1
        pairs[pair, KEY], pairs[pair, WEIGHT], pairs[pair, HEAD] = key, 0, -1
    pairs[pair, WEIGHT] += words[places[i, WORD], COUNT]
    head = pairs[pair, HEAD]
    places[i, PAIR], places[i, AFTER], places[i, BEFORE] = pair, head, -1
    if head >= 0:
        places[head, BEFORE] = i
    pairs[pair, HEAD] = i


@njit(**INSIDE)
def leave_place(i, places, pairs, words):
    """Take place `i` out of the list of its pair."""
    pair, after, before = places[i, PAIR], places[i, AFTER], places[i, BEFORE]
    pairs[pair, WEIGHT] -= words[places[i, WORD], COUNT]
    if before >= 0:
        places[before, AFTER] = after
    else:
        pairs[pair, HEAD] = after
    if after >= 0:
        places[after, BEFORE] = before


@njit(**INSIDE)
def load_places(places, pairs, slots, heap, state, words, texts, byte_ids):
    """Lay out all words byte by byte and count their pairs: there are at most 65,536."""
    i = 0
    for k in range(len(words)):
        n, start = words[k, LENGTH], words[k, START]
        for b in range(n):
            places[i + b, SYMBOL] = byte_ids[texts[start + b]]
            places[i + b, NEXT] = i + b + 1 if b + 1 < n else -1
            places[i + b, PREVIOUS] = i + b - 1 if b > 0 else -1
            places[i + b, WORD] = k
        for b in range(n - 1):
            enter_place(i + b, places, pairs, slots, state, words)
        i += n
    for pair in range(state[N_PAIRS]):
        state[N_HEAP] = heap_push(heap, state[N_HEAP], -pairs[pair, WEIGHT], pairs[pair, KEY])


@njit(**INSIDE)
def join_pair(pair, new, places, pairs, slots, state, words):
    """Put symbol `new` in every place of a pair, and count the pairs that arise."""
    left, right = pairs[pair, KEY] >> ID_BITS, pairs[pair, KEY] & 0xFFFFF
    while pairs[pair, HEAD] >= 0:
        i = pairs[pair, HEAD]
        if left == right:  # "aaaa" is joined from its left end, whichever of its places comes first in the list
            while places[i, PREVIOUS] >= 0 and places[places[i, PREVIOUS], SYMBOL] == left:
                i = np.int64(places[i, PREVIOUS])
        while True:
            j = places[i, NEXT]
            before, after = places[i, PREVIOUS], places[j, NEXT]
            leave_place(i, places, pairs, words)
            if before >= 0:
                leave_place(before, places, pairs, words)
            if after >= 0:
                leave_place(j, places, pairs, words)
                places[after, PREVIOUS] = i
            places[i, SYMBOL] = new
            places[i, NEXT] = after
            if before >= 0:
                enter_place(before, places, pairs, slots, state, words)
            if after >= 0:
                enter_place(i, places, pairs, slots, state, words)
            # A run of equal symbols is finished at once: finding its left end again each time would be quadratic.
            if left != right or after < 0 or places[after, SYMBOL] != left:
                break
            j = places[after, NEXT]
            if j < 0 or places[j, SYMBOL] != right:
                break
            i = np.int64(after)


@njit(**SERIAL)
def learn_merges(
    merges, lengths, state, places, pairs, slots, heap, words, texts, byte_ids,
    wanted, rarest, longest, budget,
):  # fmt: skip
    """merges (>= wanted, 2) +=   lengths (V,) +=: bytes of each token   words (K, 5) int64   texts (A,) uint8

    Up to `budget` merges a call, until there are `wanted` or no pair occurs `rarest` times and makes a token of at most
    `longest` bytes: STATUS is then DONE; GROW asks for larger pairs, slots (empty, with N_SLOTTED 0) and heap.
    state (5,) int64   places (all bytes of words, 7) int32   pairs (P >= 2^17, 3) int64   slots (2 P,) int32   heap (P, 2)
    """
    first_id = len(lengths) - wanted
    if state[STATUS] == LOADING:
        load_places(places, pairs, slots, heap, state, words, texts, byte_ids)
    state[STATUS] = LEARNING
    while state[N_SLOTTED] < state[N_PAIRS]:
        slots[pair_slot(pairs[state[N_SLOTTED], KEY], pairs, slots)] = state[N_SLOTTED] + 1
        state[N_SLOTTED] += 1
    target = min(wanted, state[N_MERGES] + budget)
    while state[N_MERGES] < target and state[N_HEAP] > 0:
        new = first_id + state[N_MERGES]
        # A new token can stand before and after every token there is.
        if state[N_PAIRS] + 2 * (new + 1) > len(pairs):
            state[STATUS] = GROW
            return
        count, key = -heap[0, 0], heap[0, 1]
        pair = np.int64(slots[pair_slot(key, pairs, slots)]) - 1
        weight = pairs[pair, WEIGHT]
        if weight < rarest:
            state[N_HEAP] = heap_pop(heap, state[N_HEAP])
            continue
        if weight < count:  # other merges have taken some since it was put here
            heap_replace(heap, state[N_HEAP], -weight, key)
            continue
        state[N_HEAP] = heap_pop(heap, state[N_HEAP])
        left, right = key >> ID_BITS, key & 0xFFFFF
        merges[state[N_MERGES], 0], merges[state[N_MERGES], 1] = left, right
        lengths[new] = lengths[left] + lengths[right]
        state[N_MERGES] += 1
        first_pair = state[N_PAIRS]
        join_pair(pair, new, places, pairs, slots, state, words)
        for pair in range(first_pair, state[N_PAIRS]):
            key = pairs[pair, KEY]
            bytes_joined = lengths[key >> ID_BITS] + lengths[key & 0xFFFFF]
            if pairs[pair, WEIGHT] >= rarest and bytes_joined <= longest:
                state[N_HEAP] = heap_push(heap, state[N_HEAP], -pairs[pair, WEIGHT], key)
    if state[N_MERGES] == wanted or state[N_HEAP] == 0:
        state[STATUS] = DONE
