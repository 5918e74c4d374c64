"""The three matrix products of a linear layer y = x W^T, on the micro-kernel.

    forward           y  = x W^T      W packed, forward
    input gradient    dx = dy W       W packed, backward
    weight gradient   dW += dy^T x    sums over tokens, nothing packed beforehand

Packed weights are panels (columns / NR, units of k, NR): what one column of tiles reads lies in one piece. They are
packed once per step, which costs about 2 % of it. x, dy and panels are operands: float32 or bfloat16, all of one kind.
With AMX float32 is multiplied in parts (see parts.py), which are made as blocks of both sides are needed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.ahead import expect_to_write
from slim.kernels.amx import HAS_AMX, begin_tiles, end_tiles
from slim.kernels.operand import clear_row, per_unit, store, units
from slim.kernels.parts import (
    BLOCK,
    ROOM,
    SIDE,
    product_of_parts,
    rows_in_parts,
    steps_in_parts,
    turned_in_parts,
)
from slim.kernels.tile import LANES, MR, NR, copy_row, product
from slim.kernels.turning import TILE, pack_tile, turn_tile

ROW_BLOCK = MR * 8  # rows of x that one task takes through all panels: they stay in the L2 cache
K_BLOCK = 512  # units of k that a panel is read for at a time
TOKEN_UNITS = 128 if LANES == 16 else 256  # units of tokens summed at a time in a weight gradient
ROW_PANELS = 8  # of its rows that are copied at a time
PARTS_ROWS, PARTS_STEPS = 256, 512  # of x that are made parts at a time: a panel is made them again for each such block
PARTS_TOKENS = 128  # summed at a time in a weight gradient
ZERO = np.float32(0.0)
NAUGHT, ALREADY = np.intp(0), np.intp(1)  # for arguments: Numba compiles a function once more for a literal


def packed_size(columns: int, k: int, dtype: type) -> int:
    """Numbers that the panels of a (k, columns) matrix take; the last panel is padded with zeros."""
    return -(-columns // NR) * NR * units(k, dtype) * (1 if dtype == np.float32 else 2)


def _shares(N, K, workers):
    """Rows and columns of a weight gradient (N, K) that one worker owns: a part of the longer side, in whole panels."""
    if N >= K:
        return ((N + NR - 1) // NR + workers - 1) // workers * NR, K
    return N, ((K + NR - 1) // NR + workers - 1) // workers * NR


def _in_parts(dtype: type) -> bool:
    return HAS_AMX and dtype == np.float32


def product_scratch_size(dtype: type) -> int:
    """Numbers of scratch that each worker needs for a product of operands."""
    return ROOM + (PARTS_ROWS // SIDE + 1) * (PARTS_STEPS // SIDE) * BLOCK if _in_parts(dtype) else 0


def gradient_scratch_size(N: int, K: int, workers: int, dtype: type) -> int:
    """Numbers of scratch that each worker needs for the gradient of a weight (N, K)."""
    rows, columns = _shares(N, K, workers)
    if _in_parts(dtype):
        return ROOM + PARTS_TOKENS // SIDE * BLOCK * (min(ROW_PANELS, -(-rows // SIDE)) + -(-columns // SIDE))
    per = 1 if dtype == np.float32 else 2
    copies_of_rows = 2 if HAS_AMX and per == 2 else 1
    row_panels = min(ROW_PANELS, -(-rows // NR))
    return TOKEN_UNITS * per * NR * (copies_of_rows * row_panels + -(-columns // NR))


_shares_inside = njit(**INSIDE)(_shares)


@njit(**PARALLEL)
def pack(forward, backward, weight):
    """Copy a weight (N, K) float32 into panels.

    forward = panels of W^T, (N / NR, units of K, NR), for y = x W^T
    backward = panels of W, (K / NR, units of N, NR), for dx = dy W; none where it is empty
    A task takes NR rows: they are read once, and are one panel of the first and a part of each panel of the second.
    """
    N, K = weight.shape
    per = per_unit(forward)
    k_units, n_units = (K + per - 1) // per, (N + per - 1) // per
    flat = weight.reshape(-1)
    for p in prange((N + NR - 1) // NR):
        rows = min(NR, N - p * NR)
        if rows == NR and K % (TILE * per) == 0:
            for k in range(0, K, TILE * per):
                for j in range(0, NR, TILE):
                    row, back_at = p * NR + j, -1
                    if len(backward) > 0:
                        back_at = (k // NR * n_units + row // per) * NR + k % NR
                    pack_tile(forward, (p * k_units + k // per) * NR + j, backward, back_at, NR, flat, row * K + k, K)
            continue
        panel = forward[p * k_units * NR * per : (p + 1) * k_units * NR * per]
        if rows < NR or K % per:
            clear_row(panel, 0, k_units * NR * per)
        for j in range(rows):
            row = weight[p * NR + j]
            at = j * per
            for k in range(0, K - per + 1, per):
                store(panel, at, row[k])
                if per == 2:
                    store(panel, at + 1, row[k + 1])
                at += NR * per
            if K % per:
                store(panel, at, row[K - 1])
        if len(backward) > 0:
            for q in range((K + NR - 1) // NR):
                columns = min(NR, K - q * NR)
                start = (q * n_units + p * NR // per) * NR * per
                part = backward[start : start + (rows + per - 1) // per * NR * per]
                if columns < NR or rows % per:
                    clear_row(part, 0, len(part))
                for j in range(rows):
                    row, to = weight[p * NR + j, q * NR : q * NR + columns], part[j // per * NR * per :]
                    for k in range(columns):
                        store(to, k * per + j % per, row[k])


@njit(**INSIDE)
def _multiply_units(C, N, A, K, row, rows, panels, accumulate, scratch):
    """`_multiply_rows` by the micro-kernel."""
    units_of_k = K // per_unit(A)
    step = units_of_k if per_unit(C) == 2 else K_BLOCK
    panels_of_n = (N + NR - 1) // NR
    for m in range(row, row + rows, ROW_BLOCK):
        here = min(ROW_BLOCK, row + rows - m)
        for k in range(0, units_of_k, step):
            for p in range(panels_of_n):
                columns = min(NR, N - p * NR)
                if k == 0:
                    expect_to_write(C, m * N + (p + 1) * NR, N, here, NR)
                product(
                    C, m * N + p * NR, N, here, columns, A, m * units_of_k + k, units_of_k, 1,
                    panels, (p * units_of_k + k) * NR, NR, min(step, units_of_k - k), accumulate + k,
                )  # fmt: skip


@njit(**INSIDE)
def _multiply_parts(C, N, A, K, row, rows, panels, accumulate, scratch):
    """`_multiply_rows` in parts."""
    panel = ROOM
    block_of_rows = panel + PARTS_STEPS // SIDE * BLOCK
    for m in range(row, row + rows, PARTS_ROWS):
        stop = min(m + PARTS_ROWS, row + rows)
        for k in range(0, K, PARTS_STEPS):
            steps = min(PARTS_STEPS, K - k)
            in_parts = (steps + SIDE - 1) // SIDE * BLOCK
            for r in range(m, stop, SIDE):
                at = block_of_rows + (r - m) // SIDE * in_parts
                rows_in_parts(scratch, at, A, r * K + k, K, min(SIDE, stop - r), steps, NAUGHT)
            for column in range(0, N, NR):
                steps_in_parts(scratch, panel, panels, column * K + k * NR, NR, NR, steps, NAUGHT)
                for r in range(m, stop, SIDE):
                    if k == 0:
                        expect_to_write(C, (r + SIDE) * N + column, N, SIDE, NR)
                    product_of_parts(
                        C, r * N + column, N, min(SIDE, stop - r), min(NR, N - column),
                        scratch, block_of_rows + (r - m) // SIDE * in_parts, panel, steps, accumulate + k, NAUGHT,
                    )  # fmt: skip


def _multiply_rows(C, N, A, K, row, rows, panels, accumulate, scratch):
    """C (M, N) from `row` on, `rows` of them, (+)=   A (M, K)   panels of a (K, N) matrix; all flat"""
    _multiply_units(C, N, A, K, row, rows, panels, accumulate, scratch)


@overload(_multiply_rows)
def _multiply_rows_of_kind(C, N, A, K, row, rows, panels, accumulate, scratch):
    """Which of the two, at compile time."""
    if HAS_AMX and A.dtype == types.float32:
        return lambda C, N, A, K, row, rows, panels, accumulate, scratch: (
            _multiply_parts(C, N, A, K, row, rows, panels, accumulate, scratch)
        )
    return lambda C, N, A, K, row, rows, panels, accumulate, scratch: (
        _multiply_units(C, N, A, K, row, rows, panels, accumulate, scratch)
    )


@njit(**INSIDE)
def _share_of_rows(M, worker, workers):
    """The first row of a worker and the one behind its last, in whole blocks."""
    share = (M + workers * SIDE - 1) // (workers * SIDE) * SIDE
    return min(worker * share, M), min((worker + 1) * share, M)


@njit(**PARALLEL)
def matmul(out, x, panels, scratch):
    """out (M, N) =   x (M, K)   panels of a (K, N) matrix; out is float32 or bfloat16

    scratch (workers, product_scratch_size(...)), also of the other products
    """
    M, N = out.shape
    C, A = out.reshape(-1), x.reshape(-1)
    for worker in prange(scratch.shape[0]):
        begin_tiles()
        row, stop = _share_of_rows(M, worker, scratch.shape[0])
        _multiply_rows(C, N, A, x.shape[1], row, stop - row, panels, NAUGHT, scratch[worker])
        end_tiles()


@njit(**PARALLEL)
def matmul_add(out, added, x, panels, scratch):
    """out (M, N) =   added (M, N) + the product   x (M, K)   panels of a (K, N) matrix; out may be `added`"""
    M, N = out.shape
    C, A = out.reshape(-1), x.reshape(-1)
    for worker in prange(scratch.shape[0]):
        begin_tiles()
        row, stop = _share_of_rows(M, worker, scratch.shape[0])
        for block in range(row, stop, PARTS_ROWS):
            rows = min(PARTS_ROWS, stop - block)
            for m in range(block, block + rows):
                to, part = out[m], added[m]
                for n in range(N):
                    to[n] = part[n]
            _multiply_rows(C, N, A, x.shape[1], block, rows, panels, ALREADY, scratch[worker])
        end_tiles()


@njit(**INSIDE)
def copy_panels(to, start, panel_units, x, width, row, rows, column, columns):
    """to[start:] = x[row : row + rows, column : column + columns] as panels (columns / NR, panel_units, NR) of units

    x: flat, of rows `width` wide. The rows are the steps of k; an odd one at the end is paired with zeros.
    """
    per = per_unit(x)
    for m in range(0, rows, per):
        first = (row + m) * width + column
        second = first + width
        whole = columns // NR * NR if m + per <= rows else 0
        for j in range(0, whole, NR):
            copy_row(to, start + j * panel_units + m // per * NR, x, first + j, second + j)
        for j in range(whole, columns):
            at = (start + j // NR * NR * panel_units + m // per * NR + j % NR) * per
            to[at] = x[first + j]
            if per == 2:
                to[at + 1] = x[second + j] if m + 1 < rows else 0


@njit(**INSIDE)
def turn_panels(to, at, x, start, panels, panel_units):
    """to[at:] (panels * NR, panel_units) =   x[start:] (panels, panel_units, NR), in units: rows as AMX multiplies them

    panel_units: a multiple of TILE; `to` and x are of one kind, and may be one array.
    """
    for p in range(panels):
        for u in range(0, panel_units, TILE):
            for j in range(0, NR, TILE):
                turn_tile(
                    to, at + (p * NR + j) * panel_units + u, panel_units, x, start + (p * panel_units + u) * NR + j, NR
                )


@njit(**INSIDE)
def _gradient_in_units(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch):
    """`_gradient` by the micro-kernel; AMX multiplies with the panels of dout turned over."""
    per = per_unit(x)
    turned = HAS_AMX and per == 2
    a_start = (columns + NR - 1) // NR * NR * TOKEN_UNITS
    turned_start = a_start + min(ROW_PANELS, (rows + NR - 1) // NR) * NR * TOKEN_UNITS
    for m in range(0, M, TOKEN_UNITS * per):
        tokens = min(TOKEN_UNITS * per, M - m)
        k_units = (tokens + per - 1) // per
        copy_panels(scratch, 0, TOKEN_UNITS, x, K, m, tokens, column, columns)
        for group in range(0, rows, ROW_PANELS * NR):
            group_rows = min(ROW_PANELS * NR, rows - group)
            copy_panels(scratch, a_start, TOKEN_UNITS, dout, dout_row, m, tokens, row + group, group_rows)
            a, a_row, a_k = a_start, 1, NR
            if turned:
                turn_panels(scratch, turned_start, scratch, a_start, (group_rows + NR - 1) // NR, TOKEN_UNITS)
                a, a_row, a_k = turned_start, TOKEN_UNITS, 1
            for p in range(0, columns, NR):
                for r in range(0, group_rows, NR):
                    product(
                        C, (row + group + r) * K + column + p, K, min(NR, group_rows - r), min(NR, columns - p),
                        scratch, a + r * TOKEN_UNITS, a_row, a_k,
                        scratch, p * TOKEN_UNITS, NR, k_units, 1,
                    )  # fmt: skip


@njit(**INSIDE)
def _gradient_in_parts(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch):
    """`_gradient` in parts."""
    panels = ROOM
    for m in range(0, M, PARTS_TOKENS):
        tokens = min(PARTS_TOKENS, M - m)
        in_parts = (tokens + SIDE - 1) // SIDE * BLOCK
        block_of_rows = panels + (columns + SIDE - 1) // SIDE * in_parts
        for p in range(0, columns, SIDE):
            steps_in_parts(
                scratch, panels + p // SIDE * in_parts, x, m * K + column + p, K, min(SIDE, columns - p), tokens, NAUGHT
            )
        for group in range(0, rows, ROW_PANELS * SIDE):
            group_rows = min(ROW_PANELS * SIDE, rows - group)
            for r in range(0, group_rows, SIDE):
                turned_in_parts(
                    scratch, block_of_rows + r // SIDE * in_parts, dout, m * dout_row + row + group + r, dout_row,
                    min(SIDE, group_rows - r), tokens, NAUGHT,
                )  # fmt: skip
            for p in range(0, columns, SIDE):
                for r in range(0, group_rows, SIDE):
                    product_of_parts(
                        C, (row + group + r) * K + column + p, K, min(SIDE, group_rows - r), min(SIDE, columns - p),
                        scratch, block_of_rows + r // SIDE * in_parts, panels + p // SIDE * in_parts, tokens, ALREADY,
                        NAUGHT,
                    )  # fmt: skip


def _gradient(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch):
    """C (., K)[row : row + rows, column : column + columns] +=   dout (M, dout_row)   x (M, K); all flat

    It takes the tokens in chunks and copies what it needs of x and, for a group of rows at a time, of dout, for both are
    read many times.
    """
    _gradient_in_units(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch)


@overload(_gradient)
def _gradient_of_kind(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch):
    """Which of the two, at compile time."""
    if HAS_AMX and x.dtype == types.float32:
        return lambda C, K, row, rows, column, columns, dout, dout_row, x, M, scratch: (
            _gradient_in_parts(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch)
        )
    return lambda C, K, row, rows, column, columns, dout, dout_row, x, M, scratch: (
        _gradient_in_units(C, K, row, rows, column, columns, dout, dout_row, x, M, scratch)
    )


@njit(**PARALLEL)
def matmul_weight_gradient(dweight, dout, x, scratch):
    """dweight (N, K) +=   dout (M, >= N)   x (M, K)   scratch (workers, gradient_scratch_size(N, K, ...))

    A worker owns a share of the rows of dweight, or of its columns if there are more of them.
    """
    N, K = dweight.shape
    C, dout_flat, x_flat = dweight.reshape(-1), dout.reshape(-1), x.reshape(-1)
    workers = scratch.shape[0]
    row_share, column_share = _shares_inside(N, K, workers)
    for worker in prange(workers):
        begin_tiles()
        row, column = (worker * row_share, 0) if N >= K else (0, worker * column_share)
        rows, columns = min(row_share, N - row), min(column_share, K - column)
        if rows > 0 and columns > 0:
            _gradient(C, K, row, rows, column, columns, dout_flat, dout.shape[1], x_flat, x.shape[0], scratch[worker])
        end_tiles()
