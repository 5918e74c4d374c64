"""Cutting bytes into words by the GPT-2 pattern, as a hand-written automaton over UTF-8. Radford et al. 2019.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

A byte that is no part of well-formed UTF-8 counts as a character of class OTHER, so any bytes have one cut, and the
words laid end to end are those bytes. All indices are int64 and every byte is widened when it is read: the same source
gives the same numbers in plain Python, where uint8 arithmetic would overflow.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from slim.kernels import INSIDE
from slim.kernels.bpe_classes import OTHER, SPACE

APOSTROPHE, BLANK = 39, 32
D, E, L, M, R, S, T, V = 100, 101, 108, 109, 114, 115, 116, 118


@njit(**INSIDE)
def class_at(data, i, stop, classes):
    """Class and length in bytes of the character at data[i]   data (n,) uint8, read below `stop`   classes: bpe_classes"""
    first = np.int64(data[i])
    if first < 0x80:
        return np.int64(classes[first]), 1
    if first < 0xC2 or first > 0xF4:
        return OTHER, 1
    if first < 0xE0:
        size, point, smallest = 2, first & 0x1F, 0x80
    elif first < 0xF0:
        size, point, smallest = 3, first & 0x0F, 0x800
    else:
        size, point, smallest = 4, first & 0x07, 0x10000
    if i + size > stop:
        return OTHER, 1
    for k in range(1, size):
        byte = np.int64(data[i + k])
        if byte & 0xC0 != 0x80:
            return OTHER, 1
        point = point << 6 | byte & 0x3F
    if point < smallest or point > 0x10FFFF or 0xD800 <= point < 0xE000:
        return OTHER, 1
    return np.int64(classes[point]), size


@njit(**INSIDE)
def word_end(data, i, stop, classes):
    """Where the word that begins at data[i] ends, i < stop; `stop` is the end of its document."""
    first = np.int64(data[i])
    if first == APOSTROPHE and i + 1 < stop:
        second = np.int64(data[i + 1])
        if second in (S, T, M, D):
            return i + 2
        if i + 2 < stop:
            third = np.int64(data[i + 2])
            if (third == E and second in (R, V)) or (third == L and second == L):
                return i + 3
    kind, size = class_at(data, i, stop, classes)
    end = i + size
    if first == BLANK and end < stop:
        after, size = class_at(data, end, stop, classes)
        if after != SPACE:
            kind = after
            end += size
    last = i  # where the last character of the word begins
    while end < stop:
        after, size = class_at(data, end, stop, classes)
        if after != kind:
            # White space leaves its last character to the word that follows, if it has another.
            return last if kind == SPACE and last > i else end
        last = end
        end += size
    return end


@njit(**INSIDE)
def next_document(doc_starts, place):
    """The first document that begins at `place` or after it   doc_starts (n_docs,) int64, ascending"""
    low, high = 0, len(doc_starts)
    while low < high:
        middle = (low + high) >> 1
        if doc_starts[middle] < place:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**INSIDE)
def first_cut(data, target, doc_starts, classes):
    """The first place at or after `target` where a word must begin, whatever comes before: for workers to meet.

    That is the start of a document, or a change of class after anything but white space (which looks ahead) and the
    apostrophe (which may begin a contraction).
    """
    n = len(data)
    if target <= 0:
        return 0
    if target >= n:
        return n
    d = next_document(doc_starts, target)
    stop = n if d == len(doc_starts) else doc_starts[d]
    i = target
    while i < stop and data[i] & 0xC0 == 0x80:  # no character is entered in its middle
        i += 1
    before = SPACE
    while i < stop:
        kind, size = class_at(data, i, stop, classes)
        if before != SPACE and kind != before:
            return i
        before = SPACE if data[i] == APOSTROPHE else kind
        i += size
    return stop
