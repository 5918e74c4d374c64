"""The next token of one or several texts through the whole model: the decode step.

A single text does a hundred microseconds of work, mostly reading weights once, so starting threads would cost more than it
gives: `decode_row` stays on one. Of several texts, all as long, each thread takes its share through the whole model, which
needs no barrier, and reads the weights once for ROWS of them. They are the panels of the forward pass, several side by side.
A text comes out the same whichever way it is computed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from slim.kernels import PARALLEL, SERIAL
from slim.kernels.attention import PADDING
from slim.kernels.elementary import dot, exp
from slim.kernels.int8 import PER_UNIT, multiply8, units8
from slim.kernels.operand import per_unit, store, store_row
from slim.kernels.softmax import row_largest, softmax_row
from slim.kernels.tile import NR, ROWS, ROWS_PANELS, WIDE, tile_row_masked, tile_rows, tile_wide_row

ONE = np.float32(1.0)

# Columns of the `layers` table: where a layer's panels begin in `panels`, its norms in `parameters`.
QKV, ATTENTION_OUT, GATE_UP, DOWN, ATTENTION_NORM, FFN_NORM = range(6)


def decode_work_sizes(dim: int, qkv_columns: int, hidden_dim: int, capacity: int) -> tuple[int, int, int]:
    """Numbers of float32, of operand and of byte scratch that a row of `decode_rows` needs."""
    padded, widest = -(-capacity // PADDING) * PADDING, max(dim, hidden_dim)
    floats, operands = dim + qkv_columns + 2 * hidden_dim + padded + NR, widest + dim + padded
    return floats, operands + operands % 2, units8(widest) * PER_UNIT


@njit(**{**SERIAL, "cache": False})
def _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate):
    """`_multiply` with panels of operands."""
    per = per_unit(panels)
    K, row, begin = K // per, x_row // per, start // per
    grouped = first
    while stop - grouped >= ROWS:
        group = ROWS_PANELS * NR
        full = N // group * group
        to, at = y_start + grouped * y_row, x_start // per + grouped * row
        for n in range(0, full, group):
            tile_rows(y, to + n, y_row, group, x, at, row, 1, panels, begin + n * K, NR, K * NR, K, accumulate)
        for r in range(ROWS):
            for n in range(full, N, NR):
                tile_row_masked(
                    y, to + r * y_row + n, 0, min(NR, N - n), x, at + r * row, 0, 1, panels, begin + n * K, NR, 0, K,
                    accumulate,
                )  # fmt: skip
        grouped += ROWS
    for r in range(grouped, stop):
        group = WIDE * NR
        full = N // group * group
        to, at = y_start + r * y_row, x_start // per + r * row
        for n in range(0, full, group):
            tile_wide_row(y, to + n, 0, group, x, at, 0, 1, panels, begin + n * K, NR, K * NR, K, accumulate)
        for n in range(full, N, NR):
            tile_row_masked(
                y, to + n, 0, min(NR, N - n), x, at, 0, 1, panels, begin + n * K, NR, 0, K, accumulate
            )


def _multiply(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales):
    """Rows first to stop of y, y_row apart, (+)= x W^T with W (N, K) in panels from number `start` on, operands or int8.

    x_start and x_row are numbers too   quantized, scales: scratch (see int8.py)
    """
    if panels.dtype == np.int8:
        multiply8(
            y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales
        )
    else:
        _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate)


@overload(_multiply)
def _multiply_of_kind(
    y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales
):  # fmt: skip
    """The same choice at compile time."""
    if panels.dtype == types.int8:
        return lambda y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales: (
            multiply8(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales)
        )
    return lambda y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate, quantized, scales: (
        _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, N, K, accumulate)
    )


@njit(**{**SERIAL, "cache": False})
def _norm(y, y_start, x, x_start, weights, w_start, C, eps):
    """y = x * rstd * weight as an operand, one row (see rmsnorm.py)."""
    row, weight = x[x_start : x_start + C], weights[w_start : w_start + C]
    scale = ONE / np.sqrt(dot(x, x_start, x, x_start, C) / np.float32(C) + eps)
    for c in range(C):
        store(y, y_start + c, row[c] * scale * weight[c])


@njit(**{**SERIAL, "cache": False})
def _rotate(work, at, cos, sin, position, heads, half):
    """RoPE of `heads` heads from `at` on (see rope.py)."""
    c, s = cos[position], sin[position]
    for h in range(heads):
        a, b = at + 2 * h * half, at + (2 * h + 1) * half
        first, second = work[a : a + half], work[b : b + half]
        for i in range(half):
            x, y = first[i], second[i]
            first[i] = x * c[i] - y * s[i]
            second[i] = y * c[i] + x * s[i]


@njit(**{**SERIAL, "cache": False})
def _keep(keys, values, work, at, position, C, G, D, padded, per):
    """The key and value of each head, behind the query in `work`, into the panels of the cache."""
    k_at = position // NR * NR * D + position % NR * per
    v_at = position // per * NR * per + position % per
    for g in range(G):
        key, value = keys[g], values[g]
        for d in range(D):
            store(key, k_at + d // per * NR * per + d % per, work[at + C + g * D + d])
            store(value, v_at + d // NR * NR * padded + d % NR * per, work[at + C + (G + g) * D + d])


@njit(**{**SERIAL, "cache": False})
def _attend(rounded, at, weights, attended, work, scores, keys, values, position, H, G, D, padded, per):
    """What the query at `at` of `rounded` (C,) finds in the cache up to `position`, to `attended` of `rounded`."""
    D_units = D // per
    scale = ONE / np.sqrt(np.float32(D))
    for h in range(H):
        g = h // (H // G)
        key, value = keys[g], values[g]
        for k0 in range(0, position + 1, WIDE * NR):
            tile_wide_row(
                work, scores + k0, 0, WIDE * NR, rounded, at // per + h * D_units, 0, 1, key, k0 * D_units, NR,
                NR * D_units, D_units, 0,
            )  # fmt: skip
        largest = row_largest(work, scores, position + 1) * scale
        share = ONE / softmax_row(rounded, weights, work, scores, position + 1, scale, largest)
        for d in range(0, D, NR):
            tile_row_masked(
                work, scores, 0, min(NR, D - d), rounded, weights // per, 0, 1, value, d * padded // per, NR, 0,
                (position + per) // per, 0,
            )  # fmt: skip
            found = work[scores : scores + min(NR, D - d)]
            for j in range(found.size):
                store(rounded, attended + h * D + d + j, found[j] * share)


@njit(**{**SERIAL, "cache": False})
def _decode(
    first, stop, logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding,
    final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """Rows first to stop of `decode_rows`."""
    L, C, V = layers.shape[0], H * D, logits.shape[1]
    per = per_unit(rounded)
    half, padded = D // 2, keys.shape[3] // D
    qkv_columns = C + 2 * G * D
    # Where things lie in a row of `work` ...
    x = 0
    qkv = C
    gate_up = qkv + qkv_columns
    scores = gate_up + 2 * F
    # ... and of `rounded`: what a matrix is multiplied with, what attention puts out, and the weights of a head.
    attended = max(C, F)
    weights = attended + C
    width, rounded_width = work.shape[1], rounded.shape[1]
    w, o, y, quantized = work.reshape(-1), rounded.reshape(-1), logits.reshape(-1), quantized.reshape(-1)
    for r in range(first, stop):
        for c in range(C):
            w[r * width + x + c] = parameters[embedding + tokens[r] * C + c]
    for layer in range(L):
        for r in range(first, stop):
            _norm(o, r * rounded_width, w, r * width + x, parameters, layers[layer, ATTENTION_NORM], C, eps)
        _multiply(
            w, qkv, width, o, 0, rounded_width, first, stop, panels, layers[layer, QKV], qkv_columns, C, 0, quantized, scales
        )
        for r in range(first, stop):
            row, operand = r * width, r * rounded_width
            _rotate(w, row + qkv, cos, sin, position, H + G, half)
            _keep(keys[layer, r], values[layer, r], w, row + qkv, position, C, G, D, padded, per)
            store_row(o, operand, w, row + qkv, C)
            _attend(
                o, operand, operand + weights, operand + attended, w, row + scores, keys[layer, r], values[layer, r],
                position, H, G, D, padded, per,
            )  # fmt: skip
        _multiply(
            w, x, width, o, attended, rounded_width, first, stop, panels, layers[layer, ATTENTION_OUT], C, C, 1, quantized,
            scales,
        )  # fmt: skip
        for r in range(first, stop):
            _norm(o, r * rounded_width, w, r * width + x, parameters, layers[layer, FFN_NORM], C, eps)
        _multiply(
            w, gate_up, width, o, 0, rounded_width, first, stop, panels, layers[layer, GATE_UP], 2 * F, C, 0, quantized,
            scales,
        )  # fmt: skip
        for r in range(first, stop):
            at = r * width + gate_up
            gate, up = w[at : at + F], w[at + F : at + 2 * F]
            for f in range(F):
                store(o, r * rounded_width + f, gate[f] / (ONE + exp(-gate[f])) * up[f])
        _multiply(w, x, width, o, 0, rounded_width, first, stop, panels, layers[layer, DOWN], C, F, 1, quantized, scales)
    for r in range(first, stop):
        _norm(o, r * rounded_width, w, r * width + x, parameters, final_norm, C, eps)
    _multiply(y, 0, V, o, 0, rounded_width, first, stop, panels, head, V, C, 0, quantized, scales)


@njit(**SERIAL)
def decode_row(
    logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding, final_norm, panels,
    layers, head, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """`decode_rows` for one text, on the calling thread."""
    _decode(
        0, 1, logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding, final_norm,
        panels, layers, head, cos, sin, H, G, D, F, eps,
    )  # fmt: skip


@njit(**PARALLEL)
def decode_rows(
    logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding, final_norm, panels,
    layers, head, cos, sin, H, G, D, F, eps, workers,
):  # fmt: skip
    """logits (R, V) =   keys, values (L, R, G, ...) written at `position`

    work, rounded, quantized (R, decode_work_sizes(...)) and scales (R,): scratch
    tokens (R,) int32   parameters (n,): the flat array, with the embedding table from `embedding`, the final norm from
    `final_norm` on   panels (m,): forward panels; `layers` (L, 6) int64 says where each layer's begin, `head` where the
    head's do   cos, sin (S, D/2)   keys, values and rounded are operands, panels too, or int8 (see int8.py)
    """
    R = logits.shape[0]
    share = (R + workers - 1) // workers
    for worker in prange(workers):
        first, stop = worker * share, min(R, (worker + 1) * share)
        if first < stop:
            _decode(
                first, stop, logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters,
                embedding, final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
            )  # fmt: skip
