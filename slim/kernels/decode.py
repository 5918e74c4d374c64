"""One token through the whole model on one thread: the decode step.

A single row does a few hundred microseconds of work, mostly reading weights once, so starting threads would cost more
than it gives. The weights are read as the panels of the forward pass, several panels side by side.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from slim.kernels import SERIAL
from slim.kernels.elementary import add_scaled, dot, exp, exp_row, fill_row, row_max, row_sum
from slim.kernels.tile import NR, WIDE, tile_row_masked as tile_row, tile_wide_row

ZERO = np.float32(0.0)
ONE = np.float32(1.0)

# Columns of the `layers` table: where a layer's panels begin in `panels`, its norms in `parameters`.
QKV, ATTENTION_OUT, GATE_UP, DOWN, ATTENTION_NORM, FFN_NORM = range(6)


def decode_work_size(dim: int, qkv_columns: int, hidden_dim: int, capacity: int) -> int:
    """Floats of scratch that `decode_token` needs."""
    return 3 * dim + qkv_columns + 3 * hidden_dim + capacity


@njit(**{**SERIAL, "cache": False})
def _matvec(y, y_start, x, x_start, panels, start, N, K, accumulate):
    """y[y_start:][:N] (+)= W x[x_start:][:K] with W (N, K) packed as panels."""
    group = WIDE * NR
    full = N // group * group
    for n in range(0, full, group):
        tile_wide_row(
            y, y_start + n, 0, group, x, x_start, 0, 1, panels, start + n * K, NR, K * NR, K, accumulate
        )
    for n in range(full, N, NR):
        tile_row(
            y, y_start + n, 0, min(NR, N - n), x, x_start, 0, 1, panels, start + n * K, NR, 0, K, accumulate
        )


@njit(**{**SERIAL, "cache": False})
def _norm(y, y_start, x, x_start, weights, w_start, C, eps):
    """y = x * rstd * weight, one row (see rmsnorm.py)."""
    scale = ONE / np.sqrt(dot(x, x_start, x, x_start, C) / np.float32(C) + eps)
    for c in range(C):
        y[y_start + c] = x[x_start + c] * scale * weights[w_start + c]


@njit(**SERIAL)
def decode_token(
    logits, keys, values, work, token, position, parameters, embedding, final_norm, panels, layers, head, cos, sin,
    H, G, D, F, eps,
):  # fmt: skip
    """logits (V,) =   keys, values (L, S, G*D) written at `position`   work (decode_work_size(...),)

    parameters (n,): the flat array, with the embedding table from `embedding` and the final norm from `final_norm` on
    panels (m,): forward panels; `layers` (L, 6) int64 says where each layer's begin, `head` where the head's do
    cos, sin (S, D/2)
    """
    L, C, V = layers.shape[0], H * D, logits.shape[0]
    half, kv_columns, capacity = D // 2, G * D, keys.shape[1]
    qkv_columns = C + 2 * kv_columns
    x, normed, attended = 0, C, 2 * C
    qkv = 3 * C
    gate_up = qkv + qkv_columns
    hidden = gate_up + 2 * F
    scores = hidden + F
    scale = ONE / np.sqrt(np.float32(D))
    k_flat, v_flat = keys.reshape(-1), values.reshape(-1)
    for c in range(C):
        work[x + c] = parameters[embedding + token * C + c]
    for layer in range(L):
        _norm(work, normed, work, x, parameters, layers[layer, ATTENTION_NORM], C, eps)
        _matvec(work, qkv, work, normed, panels, layers[layer, QKV], qkv_columns, C, 0)
        for h in range(H + G):
            a, b = qkv + h * D, qkv + h * D + half
            for i in range(half):
                c, s = cos[position, i], sin[position, i]
                first, second = work[a + i], work[b + i]
                work[a + i] = first * c - second * s
                work[b + i] = second * c + first * s
        row = (layer * capacity + position) * kv_columns
        for i in range(kv_columns):
            k_flat[row + i] = work[qkv + C + i]
            v_flat[row + i] = work[qkv + C + kv_columns + i]
        for h in range(H):
            head_start = layer * capacity * kv_columns + h // (H // G) * D
            for t in range(position + 1):
                work[scores + t] = dot(work, qkv + h * D, k_flat, head_start + t * kv_columns, D) * scale
            largest = row_max(work, scores, position + 1)
            exp_row(work, scores, position + 1, largest)
            inverse = ONE / row_sum(work, scores, position + 1)
            fill_row(work, attended + h * D, D, ZERO)
            for t in range(position + 1):
                p = work[scores + t] * inverse
                add_scaled(work, attended + h * D, v_flat, head_start + t * kv_columns, D, p)
        _matvec(work, x, work, attended, panels, layers[layer, ATTENTION_OUT], C, C, 1)
        _norm(work, normed, work, x, parameters, layers[layer, FFN_NORM], C, eps)
        _matvec(work, gate_up, work, normed, panels, layers[layer, GATE_UP], 2 * F, C, 0)
        for f in range(F):
            gate = work[gate_up + f]
            work[hidden + f] = gate / (ONE + exp(-gate)) * work[gate_up + F + f]
        _matvec(work, x, work, hidden, panels, layers[layer, DOWN], C, F, 1)
    _norm(work, normed, work, x, parameters, final_norm, C, eps)
    _matvec(logits, 0, work, normed, panels, head, V, C, 0)
