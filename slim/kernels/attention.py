"""Causal multi-head and grouped-query attention, tiled with an online softmax (Dao 2023), on the micro-kernel.

    S = scale Q K^T,  P = softmax(S) over keys not after the query,  out = P V,  scale = 1 / sqrt(D)

Only what lies on and below the diagonal is computed, in strips of NR, and no block of S is kept: the backward pass
rebuilds P from the log of its normaliser, lse = log sum e^S. One task is one (sequence, key/value head): it owns that
head's dK and dV and the outputs of the query heads that share it. Q, K, V and what is multiplied with them are operands
(float32 or bfloat16, see operand.py); S, the softmax and all sums are float32.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.ahead import expect_to_read, expect_to_write
from slim.kernels.amx import HAS_AMX, begin_tiles, end_tiles
from slim.kernels.elementary import exp, fill_row, scale_row
from slim.kernels.matmul import copy_panels, turn_panels
from slim.kernels.operand import clear_row, copy_unit, operand_dot, per_unit, store_row
from slim.kernels.softmax import row_largest, softmax_gradient_rows, softmax_row
from slim.kernels.tile import NR, ROW_STEP, WIDE, product
from slim.kernels.turning import TILE, turn_tile

BLOCK = 128  # queries and keys of one block of S, a multiple of NR
PADDING = max(BLOCK, WIDE * NR)  # keys are kept in such groups: room to read a few more than there are
ZERO = np.float32(0.0)
ONE = np.float32(1.0)


def panel_sizes(S: int, D: int) -> tuple[int, int]:
    """Numbers that the panels of S keys and of S values of head size D take."""
    padded = -(-S // PADDING) * PADDING
    return padded * D, padded * (-(-D // NR) * NR)


def attention_scratch_sizes(T: int, D: int) -> tuple[int, int]:
    """Numbers of float32 and of operand scratch that each worker needs for T tokens of head size D, either way."""
    padded_keys, padded_dim = -(-T // BLOCK) * BLOCK, -(-D // NR) * NR
    sums = 2 * padded_keys * padded_dim + BLOCK * (2 * BLOCK + padded_dim + 2)
    operands = padded_keys * (D + padded_dim) + BLOCK * (3 * BLOCK + 3 * padded_dim)
    return sums, operands


@njit(**INSIDE)
def _transpose_panels(to, start, skip, x, width, row, rows, column, D):
    """to[start:] (rows / NR, units of D, NR) = x[row : row + rows, column : column + D] turned over; x flat.

    The first row becomes column `skip` of the panels.
    """
    per = per_unit(x)
    d_units = D // per
    whole = rows // TILE * TILE if skip % TILE == 0 and d_units % TILE == 0 else 0
    for t in range(0, whole, TILE):
        place = skip + t
        at = start + place // NR * NR * d_units + place % NR
        for d in range(0, d_units, TILE):
            turn_tile(to, at + d * NR, NR, x, ((row + t) * width + column) // per + d, width // per)
    for t in range(whole, rows):
        place = skip + t
        at = start + place // NR * NR * d_units + place % NR
        place = ((row + t) * width + column) // per
        for d in range(d_units):
            copy_unit(to, at + d * NR, x, place + d)


@njit(**INSIDE)
def _scores(S, start, a, a_place, a_width, rows, b, b_place, columns, d_units, ahead):
    """S[start:] (rows, BLOCK) = A B^T where row i needs columns up to ahead + i: strips beyond are left undefined."""
    for p in range((columns + NR - 1) // NR):
        first = min(max(p * NR - ahead, 0), rows) // ROW_STEP * ROW_STEP
        product(
            S, start + first * BLOCK + p * NR, BLOCK, rows - first, NR,
            a, a_place + first * a_width, a_width, 1,
            b, b_place + p * d_units * NR, NR, d_units, 0,
        )  # fmt: skip


@njit(**INSIDE)
def _mix_keys(C, start, weights, w_start, rows, columns, x, x_start, panel_units, D, ahead, accumulate):
    """C[start:] (rows, padded D) (+)= weights (rows, BLOCK) X, with X (columns, D) as panels; row i: up to ahead + i."""
    per = per_unit(x)
    padded_dim = (D + NR - 1) // NR * NR
    for r in range(0, rows, NR):
        count = min(NR, rows - r)
        k_units = (min(columns, ahead + r + count) + per - 1) // per
        if k_units > 0:
            for d in range(0, D, NR):
                product(
                    C, start + r * padded_dim + d, padded_dim, count, min(NR, D - d),
                    weights, (w_start + r * BLOCK) // per, BLOCK // per, 1,
                    x, x_start + d * panel_units, NR, k_units, accumulate,
                )  # fmt: skip


@njit(**INSIDE)
def _mix_queries(C, start, ldc, x, x_start, weights, w_start, rows, columns, D, ahead):
    """C[start:] (D, columns) += X^T weights, with X (rows, D) by _copy_queries and weights (units of rows, BLOCK)

    Column j has weights from row j - ahead on. Whole strips of NR columns are written.
    """
    per = per_unit(x)
    block_units = BLOCK // per
    a_row, a_k = (block_units, 1) if HAS_AMX and per == 2 else (1, NR)
    for c in range(0, columns, NR):
        first = max(c - ahead, 0) // per
        k_units = (rows + per - 1) // per - first
        if k_units > 0:
            for d in range(0, D, NR):
                product(
                    C, start + d * ldc + c, ldc, min(NR, D - d), NR,
                    x, x_start + d * block_units + first * a_k, a_row, a_k,
                    weights, w_start + first * BLOCK + c, BLOCK, k_units, 1,
                )  # fmt: skip


@njit(**INSIDE)
def _copy_queries(to, start, panels, x, width, row, rows, column, D):
    """to[start:] = x[row : row + rows, column : column + D] turned over, in units of rows; `panels`: room for a copy"""
    per = per_unit(x)
    if HAS_AMX and per == 2:
        copy_panels(to, panels, BLOCK // per, x, width, row, rows, column, D)
        turn_panels(to, start, to, panels, (D + NR - 1) // NR, BLOCK // per)
    else:
        copy_panels(to, start, BLOCK // per, x, width, row, rows, column, D)


@njit(**INSIDE)
def _store_turned(to, start, width, sums, at, ldc, room, keys, D):
    """to[start:] (keys, D), rows `width` apart, = sums[at:] (D, ldc) turned over; `room`: place in sums for BLOCK of them"""
    padded_dim = (D + NR - 1) // NR * NR
    for k0 in range(0, keys, BLOCK):
        for k in range(0, BLOCK, TILE):
            for d in range(0, padded_dim, TILE):
                turn_tile(sums, room + k * padded_dim + d, padded_dim, sums, at + d * ldc + k0 + k, ldc)
        for k in range(min(BLOCK, keys - k0)):
            store_row(to, start + (k0 + k) * width, sums, room + k * padded_dim, D)


@njit(**PARALLEL)
def pack_keys_values(keys, values, qkv, T, H, D, start):
    """keys (B, G, ...) =   values (B, G, ...) =, at positions start to start + T   qkv (B*T, (H+2G)*D)

    Keys are panels (S / NR, units of D, NR), which a query is multiplied with; values are panels
    (D / NR, units of S, NR), which the weights are multiplied with. S is padded to a multiple of PADDING.
    """
    B, G = keys.shape[0], keys.shape[1]
    per = per_unit(qkv)
    flat, width = qkv.reshape(-1), qkv.shape[1]
    panel = keys.shape[2] // D * NR  # numbers of a panel of values
    for task in prange(B * G):
        b, g = task // G, task % G
        _transpose_panels(keys[b, g], 0, start, flat, width, b * T, T, (H + g) * D, D)
        to, column = values[b, g], (H + G + g) * D
        if start == 0:
            copy_panels(to, 0, panel // NR // per, flat, width, 0 + b * T, T, column, D)
        else:
            for t in range(T):
                position, place = start + t, (b * T + t) * width + column
                at = position // per * NR * per + position % per
                for d in range(D):
                    to[at + d // NR * panel + d % NR * per] = flat[place + d]


@njit(**PARALLEL)
def attention_forward(out, lse, queries, keys, values, T, H, D, start, sums, operands):
    """out (B*T, H*D) =   lse (B, H, T) =   queries (B*T, >= H*D)   keys, values (B, G, ...) by pack_keys_values

    All but lse are operands. Query t stands at position start + t and sees the keys 0 .. start + t.
    sums, operands (workers, attention_scratch_sizes(T, D)).
    """
    B, G = keys.shape[0], keys.shape[1]
    S = start + T
    scale = ONE / np.sqrt(np.float32(D))
    per = per_unit(queries)
    padded_dim = (D + NR - 1) // NR * NR
    d_units, key_units = D // per, keys.shape[2] // D // per
    workers = sums.shape[0]
    q_width, out_width = queries.shape[1], out.shape[1]
    q_flat, out_flat = queries.reshape(-1), out.reshape(-1)
    for worker in prange(workers):
        begin_tiles()
        local, packed = sums[worker], operands[worker]
        weights = 0
        o_block = 0
        s_block = o_block + BLOCK * padded_dim
        row_largest_at = s_block + BLOCK * BLOCK
        row_total = row_largest_at + BLOCK
        for task in range(worker, B * G, workers):
            b, g = task // G, task % G
            width = H // G * D  # of the heads that share the keys, in rows as wide as all
            expect_to_read(q_flat, b * T * q_width + g * width, q_width, T, width)
            expect_to_write(out_flat, b * T * out_width + g * width, out_width, T, width)
            k_panels, v_panels = keys[b, g], values[b, g]
            for h in range(g * (H // G), (g + 1) * (H // G)):
                for q0 in range(0, T, BLOCK):
                    rows = min(BLOCK, T - q0)
                    q_place = ((b * T + q0) * q_width + h * D) // per
                    for k0 in range(0, start + q0 + rows, BLOCK):
                        columns, ahead = min(BLOCK, S - k0), start + q0 - k0
                        _scores(
                            local, s_block, q_flat, q_place, q_width // per, rows,
                            k_panels, k0 * d_units, columns, d_units, ahead,
                        )  # fmt: skip
                        for i in range(rows):
                            seen = max(min(columns, ahead + i + 1), 0)
                            s, p = s_block + i * BLOCK, weights + i * BLOCK
                            behind = p  # of what softmax_row writes, in whole strips
                            if seen > 0:
                                behind += (seen + NR - 1) // NR * NR
                                largest = row_largest(local, s, seen) * scale
                                if k0 > 0:
                                    before = local[row_largest_at + i]
                                    largest = max(before, largest)
                                    shrink = exp(before - largest)
                                    local[row_total + i] *= shrink
                                    scale_row(local, o_block + i * padded_dim, padded_dim, shrink)
                                else:
                                    local[row_total + i] = ZERO
                                local[row_largest_at + i] = largest
                                local[row_total + i] += softmax_row(packed, p, local, s, seen, scale, largest)
                            clear_row(packed, behind, p + BLOCK - behind)
                        _mix_keys(
                            local, o_block, packed, weights, rows, columns,
                            v_panels, k0 // per * NR, key_units, D, ahead, k0,
                        )  # fmt: skip
                    for i in range(rows):
                        total = local[row_total + i]
                        lse[b, h, q0 + i] = local[row_largest_at + i] + np.log(total)
                        scale_row(local, o_block + i * padded_dim, D, ONE / total)
                        store_row(out_flat, (b * T + q0 + i) * out_width + h * D, local, o_block + i * padded_dim, D)
        end_tiles()


@njit(**PARALLEL)
def attention_backward(dqkv, dout, out, lse, qkv, keys, T, H, D, sums, operands):
    """dqkv (B*T, (H+2G)*D) =   dout, out (B*T, H*D)   lse (B, H, T)   qkv like dqkv: queries, keys, values side by side
    keys (B, G, ...) by pack_keys_values; all but lse are operands

        dV = P^T dO,  dP = dO V^T,  dS = P * (dP - rowsum(dO * O)),  dQ = scale dS K,  dK = scale dS^T Q

    sums, operands (workers, attention_scratch_sizes(T, D)).
    """
    B, G = keys.shape[0], keys.shape[1]
    width, out_width = qkv.shape[1], out.shape[1]
    scale = ONE / np.sqrt(np.float32(D))
    per = per_unit(qkv)
    padded_dim, padded_keys = (D + NR - 1) // NR * NR, (T + BLOCK - 1) // BLOCK * BLOCK
    d_units, key_units, block_units = D // per, padded_keys // per, BLOCK // per
    workers = sums.shape[0]
    k_column, v_column = H * D, (H + G) * D
    flat, out_flat, dout_flat, dqkv_flat = qkv.reshape(-1), out.reshape(-1), dout.reshape(-1), dqkv.reshape(-1)
    for worker in prange(workers):
        # places in `operands`: all in units but `ds_rows`, what is read along keys, in numbers
        begin_tiles()
        local, packed = sums[worker], operands[worker]
        v_panels = 0
        k_rows = v_panels + padded_keys * d_units
        q_rows = k_rows + key_units * padded_dim
        do_rows = q_rows + block_units * padded_dim
        copies = do_rows + block_units * padded_dim
        p_pairs = copies + block_units * padded_dim
        ds_pairs = p_pairs + block_units * BLOCK
        ds_rows = ds_pairs if per == 1 else (ds_pairs + block_units * BLOCK) * per
        dk_sums = 0  # (padded_dim, padded_keys), like dv_sums
        dv_sums = dk_sums + padded_keys * padded_dim
        dq_sums = dv_sums + padded_keys * padded_dim
        p_block = dq_sums + BLOCK * padded_dim
        ds_block = p_block + BLOCK * BLOCK
        row_delta = ds_block + BLOCK * BLOCK
        for task in range(worker, B * G, workers):
            b, g = task // G, task % G
            k_panels = keys[b, g]
            _transpose_panels(packed, v_panels, 0, flat, width, b * T, T, v_column + g * D, D)
            copy_panels(packed, k_rows, key_units, flat, width, b * T, T, k_column + g * D, D)
            fill_row(local, dk_sums, 2 * padded_keys * padded_dim, ZERO)
            for h in range(g * (H // G), (g + 1) * (H // G)):
                for q0 in range(0, T, BLOCK):
                    rows = min(BLOCK, T - q0)
                    _copy_queries(packed, q_rows, copies, flat, width, b * T + q0, rows, h * D, D)
                    _copy_queries(packed, do_rows, copies, dout_flat, out_width, b * T + q0, rows, h * D, D)
                    for i in range(rows):
                        place = (b * T + q0 + i) * out_width + h * D
                        local[row_delta + i] = operand_dot(out_flat, place, dout_flat, place, D)
                    for k0 in range(0, q0 + rows, BLOCK):
                        columns, ahead = min(BLOCK, T - k0), q0 - k0
                        _scores(
                            local, p_block, flat, ((b * T + q0) * width + h * D) // per, width // per, rows,
                            k_panels, k0 * d_units, columns, d_units, ahead,
                        )  # fmt: skip
                        _scores(
                            local, ds_block, dout_flat, ((b * T + q0) * out_width + h * D) // per, out_width // per, rows,
                            packed, v_panels + k0 * d_units, columns, d_units, ahead,
                        )  # fmt: skip
                        for i in range(0, rows, 2):
                            # Of an odd last query the second of the pair sees nothing: it is written as zeros.
                            second = min(i + 1, rows - 1)
                            seen, seen_second = min(columns, ahead + i + 1), min(columns, ahead + i + 2) * (second - i)
                            p, ds, pairs = p_block + i * BLOCK, ds_block + i * BLOCK, i // per * BLOCK
                            softmax_gradient_rows(
                                packed, p_pairs + pairs, ds_pairs + pairs, ds_rows + i * BLOCK, BLOCK,
                                local, p, ds, BLOCK, seen, seen_second, scale,
                                lse[b, h, q0 + i], lse[b, h, q0 + second],
                                local[row_delta + i], local[row_delta + second],
                            )  # fmt: skip
                        _mix_queries(
                            local, dv_sums + k0, padded_keys, packed, do_rows, packed, p_pairs, rows, columns, D, ahead
                        )
                        _mix_queries(
                            local, dk_sums + k0, padded_keys, packed, q_rows, packed, ds_pairs, rows, columns, D, ahead
                        )
                        _mix_keys(
                            local, dq_sums, packed, ds_rows, rows, columns,
                            packed, k_rows + k0 // per * NR, key_units, D, ahead, k0,
                        )  # fmt: skip
                    for i in range(rows):
                        place = (b * T + q0 + i) * width + h * D
                        store_row(dqkv_flat, place, local, dq_sums + i * padded_dim, D)
            place = b * T * width + g * D
            _store_turned(dqkv_flat, place + k_column, width, local, dk_sums, padded_keys, dq_sums, T, D)
            _store_turned(dqkv_flat, place + v_column, width, local, dv_sums, padded_keys, dq_sums, T, D)
        end_tiles()
