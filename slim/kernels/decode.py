"""One token through the whole model on one thread: the decode step.

A single row does a few hundred microseconds of work, mostly reading weights once, so starting threads would cost more
than it gives. The weights are read as the panels of the forward pass, several panels side by side.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from slim.kernels import SERIAL
from slim.kernels.attention import PADDING
from slim.kernels.elementary import dot, exp
from slim.kernels.operand import per_unit, store, store_row
from slim.kernels.softmax import row_largest, softmax_row
from slim.kernels.tile import NR, WIDE, tile_row_masked, tile_wide_row

ONE = np.float32(1.0)

# Columns of the `layers` table: where a layer's panels begin in `panels`, its norms in `parameters`.
QKV, ATTENTION_OUT, GATE_UP, DOWN, ATTENTION_NORM, FFN_NORM = range(6)


def decode_work_sizes(dim: int, qkv_columns: int, hidden_dim: int, capacity: int) -> tuple[int, int]:
    """Numbers of float32 and of operand scratch that `decode_token` needs."""
    padded = -(-capacity // PADDING) * PADDING
    return dim + qkv_columns + 2 * hidden_dim + padded + NR, max(dim, hidden_dim) + dim + padded


@njit(**{**SERIAL, "cache": False})
def _matvec(y, y_start, x, x_start, panels, start, N, K, accumulate):
    """y[y_start:][:N] (+)= W x with W (N, K) packed as panels from `start` units on, x from `x_start`; K units."""
    group = WIDE * NR
    full = N // group * group
    for n in range(0, full, group):
        tile_wide_row(
            y, y_start + n, 0, group, x, x_start, 0, 1, panels, start + n * K, NR, K * NR, K, accumulate
        )
    for n in range(full, N, NR):
        tile_row_masked(
            y, y_start + n, 0, min(NR, N - n), x, x_start, 0, 1, panels, start + n * K, NR, 0, K, accumulate
        )


@njit(**{**SERIAL, "cache": False})
def _norm(y, x, x_start, weights, w_start, C, eps):
    """y = x * rstd * weight as an operand, one row (see rmsnorm.py)."""
    row, weight = x[x_start : x_start + C], weights[w_start : w_start + C]
    scale = ONE / np.sqrt(dot(x, x_start, x, x_start, C) / np.float32(C) + eps)
    for c in range(C):
        store(y, c, row[c] * scale * weight[c])


@njit(**SERIAL)
def decode_token(
    logits, keys, values, work, rounded, token, position, parameters, embedding, final_norm, panels, layers, head,
    cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """logits (V,) =   keys, values (L, 1, G, ...) written at `position`   work, rounded (decode_work_sizes(...))

    parameters (n,): the flat array, with the embedding table from `embedding` and the final norm from `final_norm` on
    panels (m,): forward panels; `layers` (L, 6) int64 says where each layer's begin, `head` where the head's do
    cos, sin (S, D/2)   keys, values, panels and rounded are operands
    """
    L, C, V = layers.shape[0], H * D, logits.shape[0]
    per = per_unit(panels)
    half, padded = D // 2, keys.shape[3] // D
    C_units, F_units, D_units = C // per, F // per, D // per
    qkv_columns = C + 2 * G * D
    x = 0
    qkv = C
    gate_up = qkv + qkv_columns
    scores = gate_up + 2 * F
    # In `rounded`: what a matrix is multiplied with, what attention puts out, and the weights of a head.
    attended = max(C, F)
    weights = attended + C
    scale = ONE / np.sqrt(np.float32(D))
    for c in range(C):
        work[x + c] = parameters[embedding + token * C + c]
    for layer in range(L):
        _norm(rounded, work, x, parameters, layers[layer, ATTENTION_NORM], C, eps)
        _matvec(work, qkv, rounded, 0, panels, layers[layer, QKV] // per, qkv_columns, C_units, 0)
        for h in range(H + G):
            a, b = qkv + h * D, qkv + h * D + half
            for i in range(half):
                c, s = cos[position, i], sin[position, i]
                first, second = work[a + i], work[b + i]
                work[a + i] = first * c - second * s
                work[b + i] = second * c + first * s
        for g in range(G):
            key, value = keys[layer, 0, g], values[layer, 0, g]
            k_at = position // NR * NR * D + position % NR * per
            v_at = position // per * NR * per + position % per
            for d in range(D):
                store(key, k_at + d // per * NR * per + d % per, work[qkv + C + g * D + d])
                store(value, v_at + d // NR * NR * padded + d % NR * per, work[qkv + C + (G + g) * D + d])
        store_row(rounded, 0, work, qkv, C)
        for h in range(H):
            g = h // (H // G)
            key, value = keys[layer, 0, g], values[layer, 0, g]
            for k0 in range(0, position + 1, WIDE * NR):
                tile_wide_row(
                    work, scores + k0, 0, WIDE * NR, rounded, h * D_units, 0, 1, key, k0 * D_units, NR, NR * D_units,
                    D_units, 0,
                )  # fmt: skip
            largest = row_largest(work, scores, position + 1) * scale
            total = softmax_row(rounded, weights, work, scores, position + 1, scale, largest)
            for d in range(0, D, NR):
                tile_row_masked(
                    work, scores, 0, min(NR, D - d), rounded, weights // per, 0, 1, value, d * padded // per, NR, 0,
                    (position + per) // per, 0,
                )  # fmt: skip
                for j in range(min(NR, D - d)):
                    store(rounded, attended + h * D + d + j, work[scores + j] / total)
        _matvec(work, x, rounded, attended // per, panels, layers[layer, ATTENTION_OUT] // per, C, C_units, 1)
        _norm(rounded, work, x, parameters, layers[layer, FFN_NORM], C, eps)
        _matvec(work, gate_up, rounded, 0, panels, layers[layer, GATE_UP] // per, 2 * F, C_units, 0)
        gate, up = work[gate_up : gate_up + F], work[gate_up + F : gate_up + 2 * F]
        for f in range(F):
            store(rounded, f, gate[f] / (ONE + exp(-gate[f])) * up[f])
        _matvec(work, x, rounded, 0, panels, layers[layer, DOWN] // per, C, F_units, 1)
    _norm(rounded, work, x, parameters, final_norm, C, eps)
    _matvec(logits, 0, rounded, 0, panels, head // per, V, C_units, 0)
