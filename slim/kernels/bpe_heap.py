"""A binary heap of pairs of whole numbers, smallest first, in rows of an array: what to merge next."""

from __future__ import annotations

from numba import njit

from slim.kernels import INSIDE


@njit(**INSIDE)
def heap_push(heap, size, first, second):
    """Put (first, second) into the heap of `size` rows; the new size   heap (capacity, 2) int64"""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if first > heap[parent, 0] or (first == heap[parent, 0] and second >= heap[parent, 1]):
            break
        heap[i, 0] = heap[parent, 0]
        heap[i, 1] = heap[parent, 1]
        i = parent
    heap[i, 0] = first
    heap[i, 1] = second
    return size + 1


@njit(**INSIDE)
def heap_replace(heap, size, first, second):
    """Take the smallest row out and put (first, second) in; to shrink the heap, give its last row and a size less one."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            heap[other, 0] < heap[child, 0]
            or (heap[other, 0] == heap[child, 0] and heap[other, 1] < heap[child, 1])
        ):
            child = other
        if first < heap[child, 0] or (first == heap[child, 0] and second <= heap[child, 1]):
            break
        heap[i, 0] = heap[child, 0]
        heap[i, 1] = heap[child, 1]
        i = child
    heap[i, 0] = first
    heap[i, 1] = second


@njit(**INSIDE)
def heap_pop(heap, size):
    """Take the smallest row out; the new size. What it was stands in heap[0] before."""
    size -= 1
    if size > 0:
        heap_replace(heap, size, heap[size, 0], heap[size, 1])
    return size
