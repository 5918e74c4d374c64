"""Arrays that begin on a cache line, and large ones on a huge page.

NumPy's begin 16 bytes behind a line, so that every vector of 64 bytes lies on two. Where a load of two lines takes two turns
that halves the speed of a kernel, and a tile of Intel's AMX loads three times as slowly. NumPy asks Linux for huge pages
where it takes 4 MiB or more; with the room to begin on one, all arrays from 2 MiB on have some.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

CACHE_LINE, HUGE_PAGE = 64, 2 << 20  # bytes


def empty(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Like `np.empty`."""
    return _aligned(np.empty, shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Like `np.zeros`: pages that nobody has touched take no memory yet."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(make: Callable[..., np.ndarray], shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    n_bytes = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    line = HUGE_PAGE if n_bytes >= HUGE_PAGE else CACHE_LINE
    memory = make(n_bytes + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + n_bytes].view(dtype).reshape(shape)
