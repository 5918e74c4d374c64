"""The arrays that a test hands to a kernel, each filled so that a broken write contract shows.

Outputs hold NaN before the call, accumulators ones, and what is only read is compared with a copy after it. The memory
can be made to end, or to begin, at a page that nobody may touch: then one number too far ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable

import numpy as np

from slim.kernels.tile import round_to_bf16

Array = np.ndarray
PROT_NONE = 0
NAN_OPERAND = {np.float32: np.float32(np.nan), np.uint16: np.uint16(0x7FC0)}


def plain_memory(n_bytes: int) -> Array:
    """Bytes from NumPy."""
    return np.empty(n_bytes, np.uint8)


def memory_before_wall(n_bytes: int) -> Array:
    """Bytes whose end is the end of what may be read."""
    return _walled(n_bytes, at_end=True)


def memory_behind_wall(n_bytes: int) -> Array:
    """Bytes before which nothing may be read."""
    return _walled(n_bytes, at_end=False)


def _walled(n_bytes: int, at_end: bool) -> Array:
    page = mmap.PAGESIZE
    inside = -(-max(n_bytes, 1) // page) * page
    region = mmap.mmap(-1, inside + page)
    whole = np.frombuffer(region, np.uint8)
    wall = whole.ctypes.data + (inside if at_end else 0)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(wall, page, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
    start = inside - n_bytes if at_end else page
    return whole[start : start + n_bytes]


MEMORY: dict[str, Callable[[int], Array]] = {
    "plain": plain_memory,
    "before wall": memory_before_wall,
    "behind wall": memory_behind_wall,
}
# A subprocess of the suite runs all tests of the ops with walls (see test_modes.py).
allocate = MEMORY[os.environ.get("SLIM_TEST_MEMORY", "plain")]


def as_float(x: Array) -> Array:
    """A float32 or bfloat16 array as numbers."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x


def rounded(x: Array) -> Array:
    """float32 numbers to the nearest bfloat16, as float32."""
    return as_float(round_to_bf16(x))


class Buffers:
    """Arrays for one run of an op, whose operands are float32 or bfloat16 (uint16), with `workers` rows of scratch."""

    def __init__(self, dtype: type = np.float32, workers: int = 2) -> None:
        self.dtype = dtype
        self.workers = workers
        self._given: list[tuple[Array, Array]] = []

    def _new(self, shape: tuple[int, ...], dtype: type) -> Array:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return allocate(n_bytes).view(dtype).reshape(shape)

    def changed(self, values: Array) -> Array:
        """A copy that the kernel may write."""
        array = self._new(values.shape, values.dtype.type)
        array[...] = values
        return array

    def given(self, values: Array) -> Array:
        """A copy that the kernel may only read."""
        array = self.changed(values)
        self._given.append((array, array.copy()))
        return array

    def operand(self, values: Array) -> Array:
        """A copy as an operand, that the kernel may only read."""
        return self.given(values if self.dtype is np.float32 else round_to_bf16(values))

    def output(self, *shape: int) -> Array:
        """float32 for results or scratch: nothing but NaN."""
        array = self._new(shape, np.float32)
        array.fill(np.nan)
        return array

    def operand_output(self, *shape: int) -> Array:
        """The same as an operand."""
        array = self._new(shape, self.dtype)
        array.fill(NAN_OPERAND[self.dtype])
        return array

    def ones(self, *shape: int) -> Array:
        """An accumulator that is not empty."""
        array = self._new(shape, np.float32)
        array.fill(1.0)
        return array

    def assert_only_read(self) -> None:
        """What was given is still what it was."""
        for array, before in self._given:
            assert array.tobytes() == before.tobytes(), (
                "an argument that may only be read was written"
            )
