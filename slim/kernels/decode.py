"""The next token of one or several texts through the whole model: the decode step.

A single text, or a few, read every weight once and do little else, and a core alone cannot read as fast as the memory behind
its own caches could give: threads share the columns of every product and the heads by a board (see board.py), and one of them
does the rest. Of more texts, all as long, each thread takes its share through the whole model, which needs no board, and
reads the weights once for ROWS of them. They are the panels of the forward pass, several side by side. A text comes out the
same whichever way it is computed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.attention import PADDING
from slim.kernels.board import (
    CHUNK_MASK,
    CLOSED,
    FINISHED,
    LINE_BYTES,
    NOTHING_YET,
    SHIFT,
    TICKET,
    fetch,
    look,
    pause,
    post,
    take,
)
from slim.kernels.elementary import dot, exp
from slim.kernels.int8 import FOOTER, PER_UNIT, multiply8, quantize_rows, units8
from slim.kernels.operand import per_unit, store, store_row
from slim.kernels.softmax import row_largest, softmax_row
from slim.kernels.tile import NR, ROWS, ROWS_PANELS, WIDE, tile_row_masked, tile_rows, tile_wide_row

ONE = np.float32(1.0)
NAUGHT = np.intp(0)  # for arguments: Numba compiles a function once more for a literal 0

# Tasks of a layer, as the board knows them, numbered on through all layers; the last is the head's product. In the `layers`
# table these are the columns that say where the panels of a product begin in `panels`, then the norms in `parameters`.
QKV, ATTENTION, ATTENTION_OUT, GATE_UP, DOWN, ATTENTION_NORM, FFN_NORM = range(7)
PER_LAYER = 5
CHUNK = WIDE * NR  # columns of a product that a thread takes from the board at a time
LINES_AHEAD = 8  # that are fetched between two looks at the board
SHARED_ROWS = 4  # texts that all threads decode together: of 4 that makes 1.35 times, of 8 it would make 0.9 times the tokens
SHARED_FROM = 48  # tokens in the cache: below, attention is done before anybody has come to help
PATIENCE = 20_000  # looks at a board, about a millisecond, before a thread that could help goes home


def decode_work_sizes(dim: int, qkv_columns: int, hidden_dim: int, capacity: int) -> tuple[int, int, int]:
    """Numbers of float32, of operand and of byte scratch that a row of `decode_rows` needs."""
    padded, widest = -(-capacity // PADDING) * PADDING, max(dim, hidden_dim)
    floats, operands = dim + qkv_columns + 2 * hidden_dim + padded + NR, widest + dim + padded
    return floats, operands + operands % 2, units8(widest) * PER_UNIT


@njit(**INSIDE)
def _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate):
    """`_columns` with panels of operands."""
    per = per_unit(panels)
    K, row, at_panels = K // per, x_row // per, start // per
    grouped = first
    while stop - grouped >= ROWS:
        group = ROWS_PANELS * NR
        full = begin + (end - begin) // group * group
        to, at = y_start + grouped * y_row, x_start // per + grouped * row
        for n in range(begin, full, group):
            tile_rows(y, to + n, y_row, group, x, at, row, 1, panels, at_panels + n * K, NR, K * NR, K, accumulate)
        for r in range(ROWS):
            for n in range(full, end, NR):
                tile_row_masked(
                    y, to + r * y_row + n, 0, min(NR, end - n), x, at + r * row, 0, 1, panels, at_panels + n * K, NR, 0, K,
                    accumulate,
                )  # fmt: skip
        grouped += ROWS
    for r in range(grouped, stop):
        group = WIDE * NR
        full = begin + (end - begin) // group * group
        to, at = y_start + r * y_row, x_start // per + r * row
        for n in range(begin, full, group):
            tile_wide_row(y, to + n, 0, group, x, at, 0, 1, panels, at_panels + n * K, NR, K * NR, K, accumulate)
        for n in range(full, end, NR):
            tile_row_masked(
                y, to + n, 0, min(NR, end - n), x, at, 0, 1, panels, at_panels + n * K, NR, 0, K, accumulate
            )


def _columns(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8):
    """Rows first to stop of y, y_row apart, columns begin to end of them, (+)= x W^T

    W (N, K) in panels of operands or of bytes from number `start` on; begin: a multiple of WIDE * NR.
    x_start and x_row are numbers too   rows8, scales8: what _prepare has made of x
    """
    if panels.dtype == np.int8:
        multiply8(y, y_start, y_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8)
    else:
        _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate)


@overload(_columns)
def _columns_of_kind(
    y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8
):  # fmt: skip
    """The same choice at compile time."""

    def of_bytes(
        y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8
    ):  # fmt: skip
        multiply8(y, y_start, y_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8)

    def of_units(
        y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8
    ):  # fmt: skip
        _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate)

    return of_bytes if panels.dtype == types.int8 else of_units


def _prepare(rows8, scales8, x, x_start, x_row, first, stop, K, panels):
    """Round rows of x to bytes, where the panels hold bytes."""
    if panels.dtype == np.int8:
        quantize_rows(rows8, scales8, x, x_start, x_row, first, stop, K)


@overload(_prepare)
def _prepare_for_kind(rows8, scales8, x, x_start, x_row, first, stop, K, panels):
    """The same choice at compile time."""
    if panels.dtype == types.int8:
        return lambda rows8, scales8, x, x_start, x_row, first, stop, K, panels: (
            quantize_rows(rows8, scales8, x, x_start, x_row, first, stop, K)
        )
    return lambda rows8, scales8, x, x_start, x_row, first, stop, K, panels: None


@njit(**INSIDE)
def _product(layers, number, head, C, F, V, qkv_columns, y_qkv, y_gate_up, x_attended):
    """Of the task `number`, a product: where its result, its row and its panels begin, N, K, and whether it adds."""
    layer, which = number // PER_LAYER, number % PER_LAYER
    if layer == layers.shape[0]:
        return 0, 0, head, V, C, 0
    start = layers[layer, which]
    if which == QKV:
        return y_qkv, 0, start, qkv_columns, C, 0
    if which == ATTENTION_OUT:
        return 0, x_attended, start, C, C, 1
    if which == GATE_UP:
        return y_gate_up, 0, start, 2 * F, C, 0
    return 0, 0, start, C, F, 1


def _column_bytes(panels, K):
    """Bytes of panels (n,) that belong to a column of a product."""
    return (units8(K) + FOOTER) * PER_UNIT if panels.dtype == np.int8 else panels.itemsize * K


@overload(_column_bytes)
def _column_bytes_of_kind(panels, K):
    """The same choice at compile time."""
    if panels.dtype == types.int8:
        return lambda panels, K: (units8(K) + FOOTER) * PER_UNIT
    return lambda panels, K: panels.itemsize * K


@njit(**INSIDE)
def _read_ahead(number, chunk, done, panels, layers, head, C, F, V, qkv_columns):
    """Fetch some more of a chunk of the first product from the task `number` on, of which `done` bytes are fetched.

    How many are then. Who waits would leave the memory idle, and it is the memory that a token waits for.
    """
    last = PER_LAYER * layers.shape[0]
    number += number % PER_LAYER == ATTENTION
    if number > last:
        return done
    _, _, start, N, K, _ = _product(layers, number, head, C, F, V, qkv_columns, NAUGHT, NAUGHT, NAUGHT)
    per_column = _column_bytes(panels, K)
    if chunk * CHUNK >= N or done >= CHUNK * per_column:
        return done
    at = start * panels.itemsize + chunk * CHUNK * per_column + done
    for line in range(LINES_AHEAD):
        fetch(panels, at + line * LINE_BYTES)
    return done + LINES_AHEAD * LINE_BYTES


@njit(**INSIDE)
def _chunks(layers, number, head, R, H, C, F, V, qkv_columns):
    """Of how many chunks the task `number` of R texts is: of CHUNK columns, or of the heads of a text."""
    if number % PER_LAYER == ATTENTION:
        return R * H
    _, _, _, N, _, _ = _product(layers, number, head, C, F, V, qkv_columns, NAUGHT, NAUGHT, NAUGHT)
    return (N + CHUNK - 1) // CHUNK


@njit(**INSIDE)
def _multiply(
    board, number, y, y_row, x, x_row, first, stop, panels, layers, head, C, F, V, qkv_columns, y_qkv, y_gate_up, x_attended,
    rows8, scales8,
):  # fmt: skip
    """The product `number` for rows first to stop, with whoever helps by the board; without one if its size is 0."""
    y_start, x_start, start, N, K, accumulate = _product(
        layers, number, head, C, F, V, qkv_columns, y_qkv, y_gate_up, x_attended
    )
    _prepare(rows8, scales8, x, x_start, x_row, first, stop, K, panels)
    if board.size == 0:
        _columns(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, 0, N, K, accumulate, rows8, scales8)
        return
    chunks, own = (N + CHUNK - 1) // CHUNK, 0
    post(board, FINISHED, 0)
    post(board, TICKET, number << SHIFT)
    while True:
        chunk = take(board, TICKET) & CHUNK_MASK
        if chunk >= chunks:
            break
        begin = chunk * CHUNK
        end = min(begin + CHUNK, N)
        _columns(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8)
        own += 1
    ahead = NAUGHT
    while look(board, FINISHED) + own < chunks:
        ahead = _read_ahead(number + 1, NAUGHT, ahead, panels, layers, head, C, F, V, qkv_columns)
        pause()


@njit(**INSIDE)
def _norm(y, y_start, x, x_start, weights, w_start, C, eps):
    """y = x * rstd * weight as an operand, one row (see rmsnorm.py)."""
    row, weight = x[x_start : x_start + C], weights[w_start : w_start + C]
    scale = ONE / np.sqrt(dot(x, x_start, x, x_start, C) / np.float32(C) + eps)
    for c in range(C):
        store(y, y_start + c, row[c] * scale * weight[c])


@njit(**INSIDE)
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


@njit(**INSIDE)
def _keep(keys, values, work, at, position, C, G, D, padded, per):
    """The key and value of each head, behind the query in `work`, into the panels of the cache."""
    k_at = position // NR * NR * D + position % NR * per
    v_at = position // per * NR * per + position % per
    for g in range(G):
        key, value = keys[g], values[g]
        for d in range(D):
            store(key, k_at + d // per * NR * per + d % per, work[at + C + g * D + d])
            store(value, v_at + d // NR * NR * padded + d % NR * per, work[at + C + (G + g) * D + d])


@njit(**INSIDE)
def _attend(r, worker, h, work, rounded, keys, values, position, H, G, D, F):
    """What head h of the query of row r finds in the cache up to `position`.

    work, rounded: as in _decode; scores and weights go to the worker's row   keys, values (G, ...)
    """
    per = per_unit(rounded)
    C, D_units, padded = H * D, D // per, keys.shape[1] // D
    w, o = work.reshape(-1), rounded.reshape(-1)
    query = r * rounded.shape[1]
    attended = query + max(C, F)
    weights = worker * rounded.shape[1] + max(C, F) + C
    scores = worker * work.shape[1] + C + (H + 2 * G) * D + 2 * F
    scale = ONE / np.sqrt(np.float32(D))
    g = h // (H // G)
    key, value = keys[g], values[g]
    for k0 in range(0, position + 1, WIDE * NR):
        tile_wide_row(
            w, scores + k0, 0, WIDE * NR, o, query // per + h * D_units, 0, 1, key, k0 * D_units, NR, NR * D_units,
            D_units, 0,
        )  # fmt: skip
    largest = row_largest(w, scores, position + 1) * scale
    share = ONE / softmax_row(o, weights, w, scores, position + 1, scale, largest)
    for d in range(0, D, NR):
        tile_row_masked(
            w, scores, 0, min(NR, D - d), o, weights // per, 0, 1, value, d * padded // per, NR, 0,
            (position + per) // per, 0,
        )  # fmt: skip
        found = w[scores : scores + min(NR, D - d)]
        for j in range(found.size):
            store(o, attended + h * D + d + j, found[j] * share)


@njit(**INSIDE)
def _attend_all(board, number, first, stop, work, rounded, keys, values, position, H, G, D, F):
    """Every head of rows first to stop, as the task `number` with whoever helps by the board where that is worth it.

    keys, values (R, G, ...)
    """
    if board.size == 0 or (stop - first) * position < SHARED_FROM:
        for r in range(first, stop):
            for h in range(H):
                _attend(r, first, h, work, rounded, keys[r], values[r], position, H, G, D, F)
        return
    own = 0
    post(board, FINISHED, 0)
    post(board, TICKET, number << SHIFT)
    while True:
        chunk = take(board, TICKET) & CHUNK_MASK
        if chunk >= stop * H:
            break
        r = chunk // H
        _attend(r, first, chunk % H, work, rounded, keys[r], values[r], position, H, G, D, F)
        own += 1
    while look(board, FINISHED) + own < stop * H:
        pause()


@njit(**INSIDE)
def _help(
    worker, board, logits, keys, values, work, rounded, position, panels, layers, head, H, G, D, F, rows8, scales8
):  # fmt: skip
    """Take chunks from the board until it is closed, or nothing has come for long."""
    R, V = logits.shape
    C, qkv_columns = H * D, (H + 2 * G) * D
    y, w, x = logits.reshape(-1), work.reshape(-1), rounded.reshape(-1)
    idle, waits_for, ahead = 0, NAUGHT, NAUGHT
    while idle < PATIENCE:
        ticket = look(board, TICKET)
        if ticket < 0:
            return
        number = ticket >> SHIFT
        if (ticket & CHUNK_MASK) >= _chunks(layers, number, head, R, H, C, F, V, qkv_columns):
            if waits_for <= number:
                waits_for, ahead = number + 1, NAUGHT
            ahead = _read_ahead(waits_for, worker, ahead, panels, layers, head, C, F, V, qkv_columns)
            pause()
            idle += 1
            continue
        ticket = take(board, TICKET)  # perhaps of a later task than the one that was seen
        if ticket < 0:
            return
        number, chunk = ticket >> SHIFT, ticket & CHUNK_MASK
        if chunk >= _chunks(layers, number, head, R, H, C, F, V, qkv_columns):
            continue
        if number % PER_LAYER == ATTENTION:
            layer, r = number // PER_LAYER, chunk // H
            _attend(r, worker, chunk % H, work, rounded, keys[layer, r], values[layer, r], position, H, G, D, F)
        else:
            y_start, x_start, start, N, K, accumulate = _product(
                layers, number, head, C, F, V, qkv_columns, C, C + qkv_columns, max(C, F)
            )
            to, row = (y, V) if number == PER_LAYER * layers.shape[0] else (w, work.shape[1])
            begin = chunk * CHUNK
            end = min(begin + CHUNK, N)
            _columns(
                to, y_start, row, x, x_start, rounded.shape[1], NAUGHT, R, panels, start, begin, end, K, accumulate, rows8,
                scales8,
            )  # fmt: skip
        take(board, FINISHED)
        idle = 0


@njit(**INSIDE)
def _decode(
    board, first, stop, logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding,
    final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """Rows first to stop of `decode_rows`; attention puts scores and weights of all of them behind the first."""
    L, C, V = layers.shape[0], H * D, logits.shape[1]
    per = per_unit(rounded)
    half, padded = D // 2, keys.shape[3] // D
    qkv_columns = C + 2 * G * D
    # Where things lie in a row of `work` ...
    x = 0
    qkv = C
    gate_up = qkv + qkv_columns
    # ... (behind it the scores of a head) and of `rounded`: what a matrix is multiplied with, what attention puts out (behind
    # it the weights of a head).
    attended = max(C, F)
    width, rounded_width = work.shape[1], rounded.shape[1]
    w, o, y, quantized = work.reshape(-1), rounded.reshape(-1), logits.reshape(-1), quantized.reshape(-1)
    for r in range(first, stop):
        for c in range(C):
            w[r * width + x + c] = parameters[embedding + tokens[r] * C + c]
    for layer in range(L):
        for r in range(first, stop):
            _norm(o, r * rounded_width, w, r * width + x, parameters, layers[layer, ATTENTION_NORM], C, eps)
        _multiply(
            board, layer * PER_LAYER + QKV, w, width, o, rounded_width, first, stop, panels, layers, head, C, F, V,
            qkv_columns, qkv, gate_up, attended, quantized, scales,
        )  # fmt: skip
        for r in range(first, stop):
            row, operand = r * width, r * rounded_width
            _rotate(w, row + qkv, cos, sin, position, H + G, half)
            _keep(keys[layer, r], values[layer, r], w, row + qkv, position, C, G, D, padded, per)
            store_row(o, operand, w, row + qkv, C)
        _attend_all(
            board, layer * PER_LAYER + ATTENTION, first, stop, work, rounded, keys[layer], values[layer], position, H, G,
            D, F,
        )  # fmt: skip
        _multiply(
            board, layer * PER_LAYER + ATTENTION_OUT, w, width, o, rounded_width, first, stop, panels, layers, head, C, F, V,
            qkv_columns, qkv, gate_up, attended, quantized, scales,
        )  # fmt: skip
        for r in range(first, stop):
            _norm(o, r * rounded_width, w, r * width + x, parameters, layers[layer, FFN_NORM], C, eps)
        _multiply(
            board, layer * PER_LAYER + GATE_UP, w, width, o, rounded_width, first, stop, panels, layers, head, C, F, V,
            qkv_columns, qkv, gate_up, attended, quantized, scales,
        )  # fmt: skip
        for r in range(first, stop):
            at = r * width + gate_up
            gate, up = w[at : at + F], w[at + F : at + 2 * F]
            for f in range(F):
                store(o, r * rounded_width + f, gate[f] / (ONE + exp(-gate[f])) * up[f])
        _multiply(
            board, layer * PER_LAYER + DOWN, w, width, o, rounded_width, first, stop, panels, layers, head, C, F, V,
            qkv_columns, qkv, gate_up, attended, quantized, scales,
        )  # fmt: skip
    for r in range(first, stop):
        _norm(o, r * rounded_width, w, r * width + x, parameters, final_norm, C, eps)
    _multiply(
        board, L * PER_LAYER, y, V, o, rounded_width, first, stop, panels, layers, head, C, F, V, qkv_columns, qkv, gate_up,
        attended, quantized, scales,
    )  # fmt: skip


@njit(**PARALLEL)
def decode_rows(
    logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding, final_norm, panels,
    layers, head, cos, sin, H, G, D, F, eps, board, workers,
):  # fmt: skip
    """logits (R, V) =   keys, values (L, R, G, ...) written at `position`

    work, rounded, quantized (R, or workers if more, decode_work_sizes(...)) and scales, as many: scratch
    tokens (R,) int32   parameters (n,): the flat array, with the embedding table from `embedding`, the final norm from
    `final_norm` on   panels (m,): forward panels; `layers` (L, 7) int64 says where each layer's begin, `head` where the
    head's do   cos, sin (S, D/2)   keys, values and rounded are operands, panels too, or int8 (see int8.py)
    board: by which all but the first of the workers help with up to SHARED_ROWS texts
    """
    R = logits.shape[0]
    together = workers > 1 and R <= SHARED_ROWS
    share = R if together else (R + workers - 1) // workers
    shared = board if together else board[:0]
    post(board, TICKET, NOTHING_YET)
    for worker in prange(workers):
        first, stop = worker * share, min(R, (worker + 1) * share)
        if first < stop:
            _decode(
                shared, first, stop, logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters,
                embedding, final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
            )  # fmt: skip
            if shared.size > 0:
                post(board, TICKET, CLOSED)
        elif together:
            _help(
                np.intp(worker), board, logits, keys, values, work, rounded, position, panels, layers, head, H, G, D, F,
                quantized.reshape(-1), scales,
            )  # fmt: skip
