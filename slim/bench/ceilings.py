"""What this machine can do at most: the micro-kernel alone, a copy, and reading.

The micro-kernel multiplies a block of rows with one panel, again and again, both in the first-level cache: nothing
that is built from it can be faster. Nothing that copies or reads arrays of a size can be faster than a loop that does
only that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from slim.aligned import empty, zeros
from slim.kernels import FAST_SUM, PARALLEL
from slim.kernels.amx import HAS_AMX, begin_tiles, end_tiles
from slim.kernels.parts import BLOCK, SIDE, multiply_parts
from slim.kernels.tile import HAS_BF16, MR, NR, product

K_UNITS = 128  # of the panel: 16 kB, and as much for the rows
ROWS = MR * 4
PARTS_BLOCKS = 3  # of float32 in parts, on both sides: 18 kB each
_SECONDS = 0.05  # of one timing
_REPEATS = 5
_PARALLEL: dict[str, Any] = PARALLEL


@njit(**_PARALLEL)
def _multiply(C: np.ndarray, A: np.ndarray, B: np.ndarray, repeats: int) -> None:
    """C (workers, ROWS * NR) =   A (workers, ROWS * K)   B (workers, K * NR), `repeats` times over"""
    for worker in prange(C.shape[0]):
        c, a, b = C[worker], A[worker], B[worker]
        begin_tiles()
        for _ in range(repeats):
            product(c, 0, NR, ROWS, NR, a, 0, K_UNITS, 1, b, 0, NR, K_UNITS, 0)
        end_tiles()


@njit(**_PARALLEL)
def _multiply_in_parts(C: np.ndarray, parts: np.ndarray, repeats: int) -> None:
    """C (workers, SIDE * SIDE) =   a row and a column of PARTS_BLOCKS blocks, both in parts (workers, n), `repeats` times"""
    for worker in prange(C.shape[0]):
        c, x = C[worker], parts[worker]
        begin_tiles()
        for _ in range(repeats):
            multiply_parts(c, 0, SIDE, x, 0, x, PARTS_BLOCKS * BLOCK, PARTS_BLOCKS, 0)
        end_tiles()


@njit(**_PARALLEL)
def _copy(to: np.ndarray, x: np.ndarray) -> None:
    """to (workers, n) =   x (workers, n)"""
    for worker in prange(to.shape[0]):
        a, b = to[worker], x[worker]
        for i in range(len(a)):
            a[i] = b[i]


@njit(**{**_PARALLEL, "fastmath": FAST_SUM})
def _read(sums: np.ndarray, x: np.ndarray) -> None:
    """sums (workers,) =   x (workers, n)"""
    for worker in prange(x.shape[0]):
        row, total = x[worker], np.float32(0.0)
        for i in range(len(row)):
            total += row[i]
        sums[worker] = total


def matmul_gflops(precision: str, workers: int) -> list[float]:
    """GFLOP/s of the micro-kernel on `workers` threads: several timings."""
    if precision == "fp32" and HAS_AMX:
        return _gflops_in_parts(workers)
    dtype, per = (np.uint16, 2) if precision == "bf16" else (np.float32, 1)
    shapes = ((workers, ROWS * K_UNITS * per), (workers, K_UNITS * NR * per))
    # In bfloat16, 0x3F80 is 1.
    A, B = (zeros(shape, dtype) for shape in shapes)
    A[:] = B[:] = 0x3F80 if per == 2 else 1
    C = empty((workers, ROWS * NR), np.float32)
    flops = 2.0 * workers * ROWS * NR * K_UNITS * per
    return [n * flops / t / 1e9 for n, t in _timings(lambda n: _multiply(C, A, B, n))]


def _gflops_in_parts(workers: int) -> list[float]:
    C, parts = empty((workers, SIDE * SIDE), np.float32), zeros((workers, 2 * PARTS_BLOCKS * BLOCK), np.float32)
    flops = 2.0 * workers * SIDE**3 * PARTS_BLOCKS
    return [n * flops / t / 1e9 for n, t in _timings(lambda n: _multiply_in_parts(C, parts, n))]


def copy_gb_per_second(n_bytes: int, workers: int) -> list[float]:
    """GB/s, reading and writing together, of copying an array of so many bytes."""
    x = np.ones((workers, max(n_bytes // 4 // workers, 1)), np.float32)
    to = np.zeros_like(x)
    return [n * 2 * x.nbytes / t / 1e9 for n, t in _timings(lambda n: _again(_copy, n, to, x))]


def read_gb_per_second(n_bytes: int, workers: int) -> list[float]:
    """GB/s of reading an array of so many bytes, which stays in whichever cache holds it."""
    x = np.ones((workers, max(n_bytes // 4 // workers, 1)), np.float32)
    sums = np.empty(workers, np.float32)
    return [n * x.nbytes / t / 1e9 for n, t in _timings(lambda n: _again(_read, n, sums, x))]


def measurable_precisions() -> tuple[str, ...]:
    """The operands that this machine has a fast product for."""
    return ("fp32", "bf16") if HAS_BF16 else ("fp32",)


def _again(kernel: Callable[..., None], times: int, *arguments: np.ndarray) -> None:
    for _ in range(times):
        kernel(*arguments)


def _timings(
    run: Callable[[int], None], clock: Callable[[], float] = time.perf_counter
) -> list[tuple[int, float]]:
    """(repetitions, seconds) of several runs that each last about _SECONDS."""
    run(1)  # compiled, pages touched
    count, elapsed = 1, 0.0
    while elapsed < _SECONDS / 4:
        count *= 2
        started = clock()
        run(count)
        elapsed = clock() - started
    count = max(1, round(count * _SECONDS / elapsed))
    results = []
    for _ in range(_REPEATS):
        started = clock()
        run(count)
        results.append((count, clock() - started))
    return results
