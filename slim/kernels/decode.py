"""The next token of one or several texts through the whole model: the decode step.

A single text, or a few, read every weight once and do little else, and a core alone cannot read as fast as the memory behind
its own caches could give: threads share the columns of every product, the heads, and of several texts what else there is by a
board (see board.py). Of more texts, all as long, each thread takes its share through the whole model, which needs no board.
The weights are the panels of the forward pass, read once for ROWS of the texts, or with AMX for 16 of them. A text comes out
the same whichever way it is computed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.amx import HAS_AMX, end_tiles, multiply_panel, shape_tiles, tile_units
from slim.kernels.attention import PADDING
from slim.kernels.board import (
    CHUNK_MASK,
    CLOSED,
    FINISHED,
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
from slim.kernels.emit import LINE_BYTES
from slim.kernels.int8 import FOOTER, PER_UNIT, multiply8, quantize_rows, units8
from slim.kernels.operand import per_unit, store, store_row
from slim.kernels.softmax import row_largest, softmax_row
from slim.kernels.tile import NR, ROWS, ROWS_PANELS, WIDE, tile_row_masked, tile_rows, tile_wide_row
from slim.kernels.turning import TILE

ONE = np.float32(1.0)
NAUGHT, ADDED = np.intp(0), np.intp(1)  # for arguments: Numba compiles a function once more for a literal

# Tasks of a layer, as the board knows them, numbered on through all layers; behind them come the final norm and the head. In
# the `layers` table these are the columns that say where a norm begins in `parameters`, or a product's panels in `panels`.
ATTENTION_NORM, QKV, TURN, ATTENTION, ATTENTION_OUT, FFN_NORM, GATE_UP, SWIGLU, DOWN = range(9)
PER_LAYER = 9
PRODUCTS = sum(1 << task for task in (QKV, ATTENTION_OUT, GATE_UP, DOWN))
# Functions that own nothing: arrays are borrowed from `decode_rows`, and nobody counts references to them.
BORROWING = {**INSIDE, "_nrt": False}
INLINED = {**BORROWING, "forceinline": True}  # copying so many arguments would take 4 % of a token
CHUNK = WIDE * NR  # columns of a product that a thread takes from the board at a time
LINES_AHEAD = 8  # that are fetched between two looks at the board
# Texts that all threads decode together, where AMX multiplies them and elsewhere. That makes 1.4 times the tokens of 8 texts
# with it, 0.94 times without it, 0.85 times in 8 bits; 1.35 times of 4.
SHARED_ROWS_OF_TILES, SHARED_ROWS = TILE, 4
TURNED_TOGETHER = 4  # texts of which also norms, RoPE and SwiGLU are shared: of fewer they are done before anybody has come
SHARED_FROM = 48  # tokens in the cache: below, attention is done before anybody has come to help
PATIENCE = 20_000  # looks at a board, about a millisecond, before a thread that could help goes home


def decode_work_sizes(dim: int, qkv_columns: int, hidden_dim: int, capacity: int) -> tuple[int, int, int]:
    """Numbers of float32, of operand and of byte scratch that a row of `decode_rows` needs."""
    padded, widest = -(-capacity // PADDING) * PADDING, max(dim, hidden_dim)
    floats, operands = dim + qkv_columns + 2 * hidden_dim + padded + NR, widest + dim + padded
    return floats, operands + operands % 2, units8(widest) * PER_UNIT


def most_together(panels: np.ndarray) -> int:
    """How many texts at most all threads should decode together by a board, with these panels of weights."""
    return SHARED_ROWS_OF_TILES if HAS_AMX and panels.dtype == np.uint16 else SHARED_ROWS


@njit(**BORROWING)
def _multiply_tiles(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, whole, accumulate):
    """`_columns` in AMX's tiles, the first `whole` of K units, and what is left in vectors; places and strides in units."""
    for r in range(first, stop, TILE):
        rows = min(TILE, stop - r)
        if stop - first > TILE:
            shape_tiles(panels, rows)
        to, at = y_start + r * y_row, x_start + r * x_row
        for n in range(begin, end, NR):
            multiply_panel(
                y, to + n, y_row, rows, min(NR, end - n), x, at, x_row, panels, start + n * K, whole, accumulate
            )
            if whole < K:
                for i in range(rows):
                    tile_row_masked(
                        y, to + i * y_row + n, 0, min(NR, end - n), x, at + i * x_row + whole, 0, 1, panels,
                        start + n * K + whole * NR, NR, 0, K - whole, ADDED,
                    )  # fmt: skip


@njit(**BORROWING)
def _multiply_units(y, y_start, y_row, x, x_start, x_row, first, stop, panels, start, begin, end, K, accumulate):
    """`_columns` with panels of operands."""
    per = per_unit(panels)
    K, row, at_panels = K // per, x_row // per, start // per
    whole = tile_units(y, x, K) if HAS_AMX else NAUGHT
    if whole > 0:
        _multiply_tiles(
            y, y_start, y_row, x, x_start // per, row, first, stop, panels, at_panels, begin, end, K, whole, accumulate
        )
        return
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


@njit(**BORROWING)
def _is_product(number):
    """Whether the task `number` is a product with weights."""
    return PRODUCTS >> number % PER_LAYER & 1 == 1


@njit(**BORROWING)
def _product(layers, number, head, C, F, V, qkv_columns, y_qkv, y_gate_up, x_attended):
    """Of the task `number`, a product: where its result, its row and its panels begin, N, K, and whether it adds."""
    layer, which = number // PER_LAYER, number % PER_LAYER
    if layer == layers.shape[0]:  # the head
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


@njit(**BORROWING)
def _read_ahead(number, chunk, done, panels, layers, head, C, F, V, qkv_columns):
    """Fetch some more of a chunk of the first product from the task `number` on, of which `done` bytes are fetched.

    How many are then. Who waits would leave the memory idle, and it is the memory that a token waits for.
    """
    while not _is_product(number):
        number += 1
    if number > PER_LAYER * layers.shape[0] + QKV:
        return done
    _, _, start, N, K, _ = _product(layers, number, head, C, F, V, qkv_columns, NAUGHT, NAUGHT, NAUGHT)
    per_column = _column_bytes(panels, K)
    if chunk * CHUNK >= N or done >= CHUNK * per_column:
        return done
    at = start * panels.itemsize + chunk * CHUNK * per_column + done
    for line in range(LINES_AHEAD):
        fetch(panels, at + line * LINE_BYTES)
    return done + LINES_AHEAD * LINE_BYTES


@njit(**BORROWING)
def _norm(y, y_start, x, x_start, weights, w_start, C, eps):
    """y = x * rstd * weight as an operand, one row (see rmsnorm.py)."""
    row, weight = x[x_start : x_start + C], weights[w_start : w_start + C]
    scale = ONE / np.sqrt(dot(x, x_start, x, x_start, C) / np.float32(C) + eps)
    for c in range(C):
        store(y, y_start + c, row[c] * scale * weight[c])


@njit(**BORROWING)
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


@njit(**BORROWING)
def _keep(keys, values, work, at, position, C, G, D, padded, per):
    """The key and value of each head, behind the query in `work`, into the panels of the cache."""
    k_at = position // NR * NR * D + position % NR * per
    v_at = position // per * NR * per + position % per
    for g in range(G):
        key, value = keys[g], values[g]
        k_row, v_row = work[at + C + g * D : at + C + (g + 1) * D], work[at + C + (G + g) * D : at + C + (G + g + 1) * D]
        for unit in range(D // per):
            for i in range(per):
                store(key, k_at + unit * NR * per + i, k_row[unit * per + i])
        for d in range(0, D, NR):
            for i in range(min(NR, D - d)):
                store(value, v_at + d * padded + i * per, v_row[d + i])


@njit(**BORROWING)
def _turn_row(keys, values, work, at, rounded, to, cos, sin, position, H, G, D):
    """The query, key and value at `at` in `work`, turned, to where attention looks for them: `rounded` and the cache."""
    C, per, padded = H * D, per_unit(rounded), keys.shape[1] // D
    _rotate(work, at, cos, sin, position, H + G, D // 2)
    _keep(keys, values, work, at, position, C, G, D, padded, per)
    store_row(rounded, to, work, at, C)


@njit(**BORROWING)
def _swiglu(y, y_start, x, x_start, F):
    """y = silu(gate) * up as an operand, one row, where x holds F of each side by side (see swiglu.py)."""
    gate, up = x[x_start : x_start + F], x[x_start + F : x_start + 2 * F]
    for f in range(F):
        store(y, y_start + f, gate[f] / (ONE + exp(-gate[f])) * up[f])


@njit(**BORROWING)
def _attend(query, attended, weights, scores, w, o, key, value, position, D):
    """What the query at `query` in o finds in the cache of its head up to `position`, at `attended` in o.

    weights, scores: where in o and in w there is room for so many   key, value (n,)
    """
    per = per_unit(o)
    D_units, padded = D // per, key.size // D
    scale = ONE / np.sqrt(np.float32(D))
    for k0 in range(0, position + 1, WIDE * NR):
        tile_wide_row(
            w, scores + k0, 0, WIDE * NR, o, query // per, 0, 1, key, k0 * D_units, NR, NR * D_units, D_units, 0
        )
    largest = row_largest(w, scores, position + 1) * scale
    share = ONE / softmax_row(o, weights, w, scores, position + 1, scale, largest)
    for d in range(0, D, NR):
        tile_row_masked(
            w, scores, 0, min(NR, D - d), o, weights // per, 0, 1, value, d * padded // per, NR, 0,
            (position + per) // per, 0,
        )  # fmt: skip
        found = w[scores : scores + min(NR, D - d)]
        for j in range(found.size):
            store(o, attended + d + j, found[j] * share)


@njit(**BORROWING)
def _chunks(layers, number, head, rows, H, C, F, V, qkv_columns):
    """Of how many chunks the task `number` of so many texts is: of CHUNK columns, of the heads of a text, of texts."""
    if _is_product(number):
        _, _, _, N, _, _ = _product(layers, number, head, C, F, V, qkv_columns, NAUGHT, NAUGHT, NAUGHT)
        return (N + CHUNK - 1) // CHUNK
    return rows * H if number % PER_LAYER == ATTENTION else rows


@njit(**INLINED)
def _chunk_of_product(
    number, begin, end, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
):  # fmt: skip
    """Chunks begin to end of the columns of a product for rows first to stop."""
    C, qkv_columns = H * D, (H + 2 * G) * D
    y_start, x_start, start, N, K, accumulate = _product(
        layers, number, head, C, F, V, qkv_columns, C, C + qkv_columns, max(C, F)
    )
    begin, end = begin * CHUNK, min(end * CHUNK, N)
    if number // PER_LAYER == layers.shape[0]:
        _columns(y, NAUGHT, V, o, x_start, o_width, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8)
    else:
        _columns(
            w, y_start, width, o, x_start, o_width, first, stop, panels, start, begin, end, K, accumulate, rows8, scales8
        )  # fmt: skip


@njit(**INLINED)
def _of_text(
    worker, number, r, h, keys, values, w, width, o, o_width, rows8, scales8, tokens, position, parameters, embedding,
    final_norm, panels, layers, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """The task `number`, which is no product, for row r; of attention for its head h, with the worker's row as scratch."""
    C, qkv_columns = H * D, (H + 2 * G) * D
    layer, which = number // PER_LAYER, number % PER_LAYER
    # Where things lie in a row of w: x, ... (behind them the scores of a head); and in a row of o: what a matrix is
    # multiplied with, what attention puts out (behind it the weights of a head).
    qkv, gate_up, attended = C, C + qkv_columns, max(C, F)
    x, operand, K = r * width, r * o_width, C
    if which == ATTENTION:
        g = h // (H // G)
        _attend(
            operand + h * D, operand + attended + h * D, worker * o_width + attended + C, worker * width + gate_up + 2 * F,
            w, o, keys[layer, r, g], values[layer, r, g], position, D,
        )  # fmt: skip
    elif which == TURN:
        _turn_row(keys[layer, r], values[layer, r], w, x + qkv, o, operand, cos, sin, position, H, G, D)
    else:
        if which == SWIGLU:
            _swiglu(o, operand, w, x + gate_up, F)
            K = F
        else:
            if number == 0:
                for c in range(C):
                    w[x + c] = parameters[embedding + tokens[r] * C + c]
            norm = final_norm if layer == layers.shape[0] else layers[layer, which]
            _norm(o, operand, w, x, parameters, norm, C, eps)
        _prepare(rows8, scales8, o, NAUGHT, o_width, r, r + 1, K, panels)


@njit(**INLINED)
def _multiply(
    board, number, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
):  # fmt: skip
    """The product `number` for rows first to stop, with whoever helps by the board; without one if its size is 0."""
    C, qkv_columns = H * D, (H + 2 * G) * D
    if number % PER_LAYER == ATTENTION_OUT:
        _prepare(rows8, scales8, o, max(C, F), o_width, first, stop, C, panels)
    chunks = _chunks(layers, number, head, stop - first, H, C, F, V, qkv_columns)
    begin, end, own = NAUGHT, chunks, NAUGHT
    if board.size > 0:
        post(board, FINISHED, 0)
        post(board, TICKET, number << SHIFT)
        begin = take(board, TICKET) & CHUNK_MASK
        end = begin + 1
    while begin < chunks:
        _chunk_of_product(
            number, begin, end, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
        )  # fmt: skip
        if board.size == 0:
            return
        own += 1
        begin = take(board, TICKET) & CHUNK_MASK
        end = begin + 1
    ahead = NAUGHT
    while look(board, FINISHED) + own < chunks:
        ahead = _read_ahead(number + 1, NAUGHT, ahead, panels, layers, head, C, F, V, qkv_columns)
        pause()


@njit(**INLINED)
def _for_texts(
    board, number, first, stop, keys, values, w, width, o, o_width, rows8, scales8, tokens, position, parameters, embedding,
    final_norm, panels, layers, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """The task `number`, which is no product, for rows first to stop, as `_multiply` where it is worth to call for help."""
    heads = H if number % PER_LAYER == ATTENTION else 1
    chunks, chunk, own = (stop - first) * heads, NAUGHT, NAUGHT
    shared = board.size > 0 and ((stop - first) * position >= SHARED_FROM if heads > 1 else stop - first >= TURNED_TOGETHER)
    if shared:
        post(board, FINISHED, 0)
        post(board, TICKET, number << SHIFT)
        chunk = take(board, TICKET) & CHUNK_MASK
    while chunk < chunks:
        _of_text(
            first, number, first + chunk // heads, chunk % heads, keys, values, w, width, o, o_width, rows8, scales8, tokens,
            position, parameters, embedding, final_norm, panels, layers, cos, sin, H, G, D, F, eps,
        )  # fmt: skip
        own += 1
        chunk = take(board, TICKET) & CHUNK_MASK if shared else own
    while shared and look(board, FINISHED) + own < chunks:
        pause()


@njit(**BORROWING)
def _help(
    worker, board, R, y, V, keys, values, w, width, o, o_width, rows8, scales8, tokens, position, parameters, embedding,
    final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """Take chunks from the board until it is closed, or nothing has come for long."""
    C, qkv_columns = H * D, (H + 2 * G) * D
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
        if _is_product(number):
            _chunk_of_product(
                number, chunk, chunk + 1, NAUGHT, R, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G,
                D, F,
            )  # fmt: skip
        else:
            heads = H if number % PER_LAYER == ATTENTION else 1
            _of_text(
                worker, number, chunk // heads, chunk % heads, keys, values, w, width, o, o_width, rows8, scales8, tokens,
                position, parameters, embedding, final_norm, panels, layers, cos, sin, H, G, D, F, eps,
            )  # fmt: skip
        take(board, FINISHED)
        idle = 0


@njit(**INLINED)
def _decode(
    board, first, stop, y, V, keys, values, w, width, o, o_width, rows8, scales8, tokens, position, parameters, embedding,
    final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
):  # fmt: skip
    """Rows first to stop of `decode_rows`; attention puts scores and weights of all of them behind the first."""
    for number in range(PER_LAYER * layers.shape[0] + QKV + 1):
        if _is_product(number):
            _multiply(
                board, number, first, stop, y, V, w, width, o, o_width, rows8, scales8, panels, layers, head, H, G, D, F
            )  # fmt: skip
        else:
            _for_texts(
                board, number, first, stop, keys, values, w, width, o, o_width, rows8, scales8, tokens, position, parameters,
                embedding, final_norm, panels, layers, cos, sin, H, G, D, F, eps,
            )  # fmt: skip


@njit(**PARALLEL)
def decode_rows(
    logits, keys, values, work, rounded, quantized, scales, tokens, position, parameters, embedding, final_norm, panels,
    layers, head, cos, sin, H, G, D, F, eps, board, workers,
):  # fmt: skip
    """logits (R, V) =   keys, values (L, R, G, ...) written at `position`

    work, rounded, quantized (R, or workers if more, decode_work_sizes(...)) and scales, as many: scratch
    tokens (R,) int32   parameters (n,): the flat array, with the embedding table from `embedding`, the final norm from
    `final_norm` on   panels (m,): forward panels; `layers` (L, PER_LAYER) int64 says where each layer's begin, `head` where
    the head's do   cos, sin (S, D/2)   keys, values and rounded are operands, panels too, or int8 (see int8.py)
    board: by which all but the first of the workers help; of size 0: each of them takes its share of the texts
    """
    R = logits.shape[0]
    together = board.size > 0
    share = R if together else (R + workers - 1) // workers
    V, width, o_width = logits.shape[1], work.shape[1], rounded.shape[1]
    y, w, o, rows8 = logits.reshape(-1), work.reshape(-1), rounded.reshape(-1), quantized.reshape(-1)
    if together:
        post(board, TICKET, NOTHING_YET)
    for worker in prange(workers):
        first, stop = worker * share, min(R, (worker + 1) * share)
        shape_tiles(panels, min(share if together else max(stop - first, 1), TILE))  # of no rows there is no shape
        if first < stop:
            _decode(
                board, first, stop, y, V, keys, values, w, width, o, o_width, rows8, scales, tokens, position, parameters,
                embedding, final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
            )  # fmt: skip
            if together:
                post(board, TICKET, CLOSED)
        elif together:
            _help(
                np.intp(worker), board, R, y, V, keys, values, w, width, o, o_width, rows8, scales, tokens, position,
                parameters, embedding, final_norm, panels, layers, head, cos, sin, H, G, D, F, eps,
            )  # fmt: skip
        end_tiles()
