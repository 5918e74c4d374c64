"""Joining neighbours by rank: of all pairs the lowest first, of equal ones the leftmost, until none is left.

Through a heap over a linked list: n log n for n symbols. bpe.py does the same in Numba for our own vocabularies; this takes
any rule and loads nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Join = Callable[[int, int], tuple[int, int] | None]


def merged(symbols: list[int], join: Join) -> list[int]:
    """The ids after all merges; `join` gives the rank of a pair and what it becomes, None for none."""
    last = len(symbols) - 1
    after = list(range(1, len(symbols) + 1))
    before = list(range(-1, last))
    heap: list[tuple[int, int, int, int, int]] = []

    def offer(place: int) -> None:
        if place < 0 or after[place] > last:
            return
        left, right = symbols[place], symbols[after[place]]
        found = join(left, right)
        if found is not None:
            heapq.heappush(heap, (found[0], place, left, right, found[1]))

    for place in range(last):
        offer(place)
    while heap:
        _, place, left, right, made = heapq.heappop(heap)
        gone = after[place]
        # What a merge has overtaken is still in the heap: its symbols are no longer there.
        if symbols[place] != left or gone > last or symbols[gone] != right:
            continue
        symbols[place], symbols[gone] = made, -1
        after[place] = after[gone]
        if after[gone] <= last:
            before[after[gone]] = place
        offer(place)
        offer(before[place])
    return [symbol for symbol in symbols if symbol >= 0]
