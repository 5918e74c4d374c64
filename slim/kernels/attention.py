"""Causal multi-head and grouped-query attention, tiled with an online softmax (Dao 2023), on the micro-kernel.

    S = scale Q K^T,  P = softmax(S) over keys not after the query,  out = P V,  scale = 1 / sqrt(D)

Only blocks of S on and below the diagonal are computed and none is kept: the backward pass rebuilds P from the log of
its normaliser, lse = log sum e^S. One task is one (sequence, key/value head): it owns that head's dK and dV and the
outputs of the query heads that share it.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL, SERIAL
from slim.kernels.elementary import dot, exp, exp_row, fill_row, row_max, row_sum, scale_row
from slim.kernels.tile import NR, product

BLOCK = 128  # queries and keys of one block of S, a multiple of NR; 64 is 10 % slower, 32 is 20 %
ZERO = np.float32(0.0)
ONE = np.float32(1.0)
LOWEST = np.float32(-1e30)


def attention_scratch_size(S: int, D: int) -> int:
    """Floats of scratch that each worker needs for S keys of head size D, forward or backward."""
    padded_keys, padded_dim = -(-S // BLOCK) * BLOCK, -(-D // NR) * NR
    return padded_keys * (2 * D + 3 * padded_dim) + BLOCK * (2 * BLOCK + 3 * padded_dim + 4)


@njit(**{**SERIAL, "cache": False})
def _copy_rows(to, start, padded_dim, source, first_row, rows, column, D, scale):
    """to[start:] (rows, padded_dim) = scale * source[first_row : first_row + rows, column : column + D], zero padded."""
    for t in range(rows):
        row = to[start + t * padded_dim : start + (t + 1) * padded_dim]
        part = source[first_row + t, column : column + D]
        for d in range(D):
            row[d] = part[d] * scale
        for d in range(D, padded_dim):
            row[d] = ZERO


@njit(**{**SERIAL, "cache": False})
def _copy_panels(to, start, source, first_row, rows, column, D):
    """to[start:] (rows / NR, D, NR) = the same rows transposed panel by panel, zero padded."""
    for p in range((rows + NR - 1) // NR):
        base = start + p * D * NR
        for j in range(NR):
            t = p * NR + j
            if t < rows:
                for d in range(D):
                    to[base + d * NR + j] = source[first_row + t, column + d]
            else:
                for d in range(D):
                    to[base + d * NR + j] = ZERO


@njit(**{**SERIAL, "cache": False})
def _softmax_gradient(x, p_start, ds_start, n, normaliser, delta):
    """p = e^(s - normaliser) and ds = p * (dp - delta), in place of s and dp."""
    p, ds = x[p_start : p_start + n], x[ds_start : ds_start + n]
    for j in range(n):
        p[j] = exp(p[j] - normaliser)
    for j in range(n):
        ds[j] = p[j] * (ds[j] - delta)


@njit(**PARALLEL)
def attention_forward(out, lse, queries, keys, k_column, values, v_column, B, T, S, H, G, D, start, scratch):
    """out (B*T, H*D) =   lse (B, H, T) =   queries (B*T, >= H*D)   keys, values (>= B*S, columns)

    Head g of the keys begins at column k_column + g * D, of the values at v_column + g * D. Query t stands at position
    start + t and sees keys 0 .. start + t. scratch (workers, attention_scratch_size(S, D)).
    """
    scale = ONE / np.sqrt(np.float32(D))
    padded_dim, padded_keys = (D + NR - 1) // NR * NR, (S + BLOCK - 1) // BLOCK * BLOCK
    workers = scratch.shape[0]
    out_columns = out.shape[1]
    out_flat = out.reshape(-1)
    for worker in prange(workers):
        local = scratch[worker]
        k_panels = 0
        v_rows = k_panels + padded_keys * D
        q_block = v_rows + padded_keys * padded_dim
        o_block = q_block + BLOCK * padded_dim
        s_block = o_block + BLOCK * padded_dim
        row_largest = s_block + BLOCK * BLOCK
        row_total = row_largest + BLOCK
        for task in range(worker, B * G, workers):
            b, g = task // G, task % G
            _copy_panels(local, k_panels, keys, b * S, S, k_column + g * D, D)
            _copy_rows(local, v_rows, padded_dim, values, b * S, S, v_column + g * D, D, ONE)
            for h in range(g * (H // G), (g + 1) * (H // G)):
                for q0 in range(0, T, BLOCK):
                    rows = min(BLOCK, T - q0)
                    _copy_rows(local, q_block, padded_dim, queries, b * T + q0, rows, h * D, D, scale)
                    fill_row(local, row_largest, rows, LOWEST)
                    fill_row(local, row_total, rows, ZERO)
                    fill_row(local, o_block, rows * padded_dim, ZERO)
                    for k0 in range(0, start + q0 + rows, BLOCK):
                        columns = min(BLOCK, S - k0)
                        for p in range((columns + NR - 1) // NR):
                            product(
                                local, s_block + p * NR, BLOCK, rows, NR,
                                local, q_block, padded_dim, 1,
                                local, k_panels + (k0 // NR + p) * D * NR, NR, D, 0,
                            )  # fmt: skip
                        for i in range(rows):
                            seen = min(columns, start + q0 + i - k0 + 1)
                            s = s_block + i * BLOCK
                            if seen <= 0:
                                fill_row(local, s, columns, ZERO)
                            else:
                                before = local[row_largest + i]
                                largest = max(before, row_max(local, s, seen))
                                exp_row(local, s, seen, largest)
                                fill_row(local, s + seen, columns - seen, ZERO)
                                shrink = exp(before - largest)
                                local[row_largest + i] = largest
                                local[row_total + i] = local[row_total + i] * shrink + row_sum(local, s, seen)
                                scale_row(local, o_block + i * padded_dim, padded_dim, shrink)
                        for d0 in range(0, padded_dim, NR):
                            product(
                                local, o_block + d0, padded_dim, rows, NR,
                                local, s_block, BLOCK, 1,
                                local, v_rows + k0 * padded_dim + d0, padded_dim, columns, 1,
                            )  # fmt: skip
                    for i in range(rows):
                        total = local[row_total + i]
                        lse[b, h, q0 + i] = local[row_largest + i] + np.log(total)
                        inverse = ONE / total
                        to = (b * T + q0 + i) * out_columns + h * D
                        for d in range(D):
                            out_flat[to + d] = local[o_block + i * padded_dim + d] * inverse


@njit(**PARALLEL)
def attention_backward(dqkv, dout, out, lse, qkv, B, T, H, D, scratch):
    """dqkv (B*T, (H+2G)*D) =   dout, out (B*T, H*D)   lse (B, H, T)   qkv like dqkv: queries, keys, values side by side

        dV = P^T dO,  dP = dO V^T,  dS = P * (dP - rowsum(dO * O)),  dQ = scale dS K,  dK = scale dS^T Q

    scratch (workers, attention_scratch_size(T, D)).
    """
    G = (qkv.shape[1] // D - H) // 2
    scale = ONE / np.sqrt(np.float32(D))
    padded_dim, padded_keys = (D + NR - 1) // NR * NR, (T + BLOCK - 1) // BLOCK * BLOCK
    workers = scratch.shape[0]
    k_column, v_column = H * D, (H + G) * D
    for worker in prange(workers):
        local = scratch[worker]
        k_panels = 0
        v_panels = k_panels + padded_keys * D
        k_rows = v_panels + padded_keys * D
        dk_rows = k_rows + padded_keys * padded_dim
        dv_rows = dk_rows + padded_keys * padded_dim
        q_block = dv_rows + padded_keys * padded_dim
        do_block = q_block + BLOCK * padded_dim
        dq_block = do_block + BLOCK * padded_dim
        p_block = dq_block + BLOCK * padded_dim
        ds_block = p_block + BLOCK * BLOCK
        row_delta = ds_block + BLOCK * BLOCK
        row_lse = row_delta + BLOCK
        for task in range(worker, B * G, workers):
            b, g = task // G, task % G
            _copy_panels(local, k_panels, qkv, b * T, T, k_column + g * D, D)
            _copy_panels(local, v_panels, qkv, b * T, T, v_column + g * D, D)
            _copy_rows(local, k_rows, padded_dim, qkv, b * T, T, k_column + g * D, D, ONE)
            fill_row(local, dk_rows, 2 * padded_keys * padded_dim, ZERO)
            for h in range(g * (H // G), (g + 1) * (H // G)):
                for q0 in range(0, T, BLOCK):
                    rows = min(BLOCK, T - q0)
                    _copy_rows(local, q_block, padded_dim, qkv, b * T + q0, rows, h * D, D, scale)
                    # out is only needed for delta: it stands where dq will be summed.
                    _copy_rows(local, dq_block, padded_dim, out, b * T + q0, rows, h * D, D, ONE)
                    _copy_rows(local, do_block, padded_dim, dout, b * T + q0, rows, h * D, D, ONE)
                    for i in range(rows):
                        at = i * padded_dim
                        local[row_delta + i] = dot(local, dq_block + at, local, do_block + at, padded_dim)
                        local[row_lse + i] = lse[b, h, q0 + i]
                    fill_row(local, dq_block, rows * padded_dim, ZERO)
                    for k0 in range(0, q0 + rows, BLOCK):
                        columns = min(BLOCK, T - k0)
                        for p in range((columns + NR - 1) // NR):
                            panel = (k0 // NR + p) * D * NR
                            product(
                                local, p_block + p * NR, BLOCK, rows, NR,
                                local, q_block, padded_dim, 1,
                                local, k_panels + panel, NR, D, 0,
                            )  # fmt: skip
                            product(
                                local, ds_block + p * NR, BLOCK, rows, NR,
                                local, do_block, padded_dim, 1,
                                local, v_panels + panel, NR, D, 0,
                            )  # fmt: skip
                        for i in range(rows):
                            seen = max(min(columns, q0 + i - k0 + 1), 0)
                            at = i * BLOCK
                            normaliser, delta = local[row_lse + i], local[row_delta + i]
                            _softmax_gradient(local, p_block + at, ds_block + at, seen, normaliser, delta)
                            fill_row(local, p_block + at + seen, columns - seen, ZERO)
                            fill_row(local, ds_block + at + seen, columns - seen, ZERO)
                        for d0 in range(0, padded_dim, NR):
                            keys_at = k0 * padded_dim + d0
                            product(
                                local, dv_rows + keys_at, padded_dim, columns, NR,
                                local, p_block, 1, BLOCK,
                                local, do_block + d0, padded_dim, rows, 1,
                            )  # fmt: skip
                            product(
                                local, dk_rows + keys_at, padded_dim, columns, NR,
                                local, ds_block, 1, BLOCK,
                                local, q_block + d0, padded_dim, rows, 1,
                            )  # fmt: skip
                            product(
                                local, dq_block + d0, padded_dim, rows, NR,
                                local, ds_block, BLOCK, 1,
                                local, k_rows + keys_at, padded_dim, columns, 1,
                            )  # fmt: skip
                    for i in range(rows):
                        for d in range(D):
                            dqkv[b * T + q0 + i, h * D + d] = local[dq_block + i * padded_dim + d] * scale
            for t in range(T):
                for d in range(D):
                    dqkv[b * T + t, k_column + g * D + d] = local[dk_rows + t * padded_dim + d]
                    dqkv[b * T + t, v_column + g * D + d] = local[dv_rows + t * padded_dim + d]
