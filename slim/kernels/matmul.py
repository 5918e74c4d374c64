"""The three matrix products of a linear layer y = x W^T, on the micro-kernel.

    forward           y  = x W^T      W packed, forward
    input gradient    dx = dy W       W packed, backward
    weight gradient   dW += dy^T x    sums over tokens, nothing packed beforehand

Packed weights are panels (columns / NR, units of k, NR): what one column of tiles reads lies in one piece. They are
packed once per step, which costs about 2 % of it. x, dy and panels are operands: float32 or bfloat16, all of one kind.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.amx import HAS_AMX, begin_tiles, end_tiles
from slim.kernels.operand import clear_row, per_unit, store, units
from slim.kernels.tile import MR, NR, copy_row, product
from slim.kernels.turning import TILE, pack_tile, turn_tile

ROW_BLOCK = MR * 8  # rows of x that one task takes through all panels: they stay in the L2 cache
K_BLOCK = 512  # units of k that a panel is read for at a time
TOKEN_UNITS = 128  # units of tokens summed at a time in a weight gradient
ROW_PANELS = 8  # of its rows that are copied at a time
ZERO = np.float32(0.0)


def packed_size(columns: int, k: int, dtype: type) -> int:
    """Numbers that the panels of a (k, columns) matrix take; the last panel is padded with zeros."""
    return -(-columns // NR) * NR * units(k, dtype) * (1 if dtype == np.float32 else 2)


def _shares(N, K, workers):
    """Rows and columns of a weight gradient (N, K) that one worker owns: a part of the longer side, in whole panels."""
    if N >= K:
        return ((N + NR - 1) // NR + workers - 1) // workers * NR, K
    return N, ((K + NR - 1) // NR + workers - 1) // workers * NR


def gradient_scratch_size(N: int, K: int, workers: int, dtype: type) -> int:
    """Numbers of scratch that each worker needs for the gradient of a weight (N, K)."""
    rows, columns = _shares(N, K, workers)
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


@njit(**PARALLEL)
def matmul(out, x, panels):
    """out (M, N) =   x (M, K)   panels of a (K, N) matrix; out is float32 or bfloat16"""
    M, N = out.shape
    per = per_unit(x)
    K = x.shape[1] // per
    C, A = out.reshape(-1), x.reshape(-1)
    for block in prange((M + ROW_BLOCK - 1) // ROW_BLOCK):
        begin_tiles()
        row = block * ROW_BLOCK
        rows = min(ROW_BLOCK, M - row)
        k_block = K if per_unit(out) == 2 else K_BLOCK
        for k in range(0, K, k_block):
            for p in range((N + NR - 1) // NR):
                columns = min(NR, N - p * NR)
                product(
                    C, row * N + p * NR, N, rows, columns, A, row * K + k, K, 1,
                    panels, (p * K + k) * NR, NR, min(k_block, K - k), k,
                )  # fmt: skip
        end_tiles()


@njit(**PARALLEL)
def matmul_add(out, added, x, panels):
    """out (M, N) =   added (M, N) + the product   x (M, K)   panels of a (K, N) matrix; out may be `added`"""
    M, N = out.shape
    K = x.shape[1] // per_unit(x)
    C, A = out.reshape(-1), x.reshape(-1)
    for block in prange((M + ROW_BLOCK - 1) // ROW_BLOCK):
        begin_tiles()
        row = block * ROW_BLOCK
        rows = min(ROW_BLOCK, M - row)
        for m in range(row, row + rows):
            to, part = out[m], added[m]
            for n in range(N):
                to[n] = part[n]
        for p in range((N + NR - 1) // NR):
            columns = min(NR, N - p * NR)
            product(C, row * N + p * NR, N, rows, columns, A, row * K, K, 1, panels, p * K * NR, NR, K, 1)
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


@njit(**PARALLEL)
def matmul_weight_gradient(dweight, dout, x, scratch):
    """dweight (N, K) +=   dout (M, >= N)   x (M, K)   scratch (workers, gradient_scratch_size(N, K, ...))

    A worker owns a share of the rows of dweight, or of its columns if there are more of them. It takes the tokens in
    chunks and copies what it needs of x and, for a group of rows at a time, of dout as panels, for both are read many times;
    AMX multiplies with the panels of dout turned over.
    """
    N, K = dweight.shape
    M = x.shape[0]
    C, dout_flat, x_flat = dweight.reshape(-1), dout.reshape(-1), x.reshape(-1)
    per = per_unit(x)
    workers = scratch.shape[0]
    row_share, column_share = _shares_inside(N, K, workers)
    turned = HAS_AMX and per == 2
    for worker in prange(workers):
        begin_tiles()
        local = scratch[worker]
        row, column = (worker * row_share, 0) if N >= K else (0, worker * column_share)
        rows, columns = min(row_share, N - row), min(column_share, K - column)
        a_start = (columns + NR - 1) // NR * NR * TOKEN_UNITS
        turned_start = a_start + min(ROW_PANELS, (rows + NR - 1) // NR) * NR * TOKEN_UNITS
        for m in range(0, M if rows > 0 and columns > 0 else 0, TOKEN_UNITS * per):
            tokens = min(TOKEN_UNITS * per, M - m)
            k_units = (tokens + per - 1) // per
            copy_panels(local, 0, TOKEN_UNITS, x_flat, K, m, tokens, column, columns)
            for group in range(0, rows, ROW_PANELS * NR):
                group_rows = min(ROW_PANELS * NR, rows - group)
                copy_panels(local, a_start, TOKEN_UNITS, dout_flat, dout.shape[1], m, tokens, row + group, group_rows)
                a, a_row, a_k = a_start, 1, NR
                if turned:
                    turn_panels(local, turned_start, local, a_start, (group_rows + NR - 1) // NR, TOKEN_UNITS)
                    a, a_row, a_k = turned_start, TOKEN_UNITS, 1
                for p in range(0, columns, NR):
                    for r in range(0, group_rows, NR):
                        product(
                            C, (row + group + r) * K + column + p, K, min(NR, group_rows - r), min(NR, columns - p),
                            local, a + r * TOKEN_UNITS, a_row, a_k,
                            local, p * TOKEN_UNITS, NR, k_units, 1,
                        )  # fmt: skip
        end_tiles()
