"""Blocks turned over and packed, arrays on cache lines, and a board that threads take chunks from."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numba import njit
from numba.core import config as numba_config

from buffers import Buffers, rounded
from slim.aligned import CACHE_LINE, HUGE_PAGE, empty, zeros
from slim.kernels.board import (
    CHUNK_MASK,
    CLOSED,
    FINISHED,
    NOTHING_YET,
    SHIFT,
    TICKET,
    look,
    new_board,
    post,
    take,
)
from slim.kernels.matmul import pack, packed_size
from slim.kernels.operand import units
from slim.kernels.tile import HAS_BF16, NR
from slim.kernels.turning import TILE, turn_tile

DTYPES = [np.float32, *([np.uint16] if HAS_BF16 and not numba_config.DISABLE_JIT else [])]
compiled = (lambda function: function) if numba_config.DISABLE_JIT else njit(nogil=True)


@compiled
def turn(to, at, to_row, x, start, x_row):  # type: ignore[no-untyped-def]
    turn_tile(to, at, to_row, x, start, x_row)


def test_a_block_is_turned_over_and_nothing_else_is_touched() -> None:
    b = Buffers()
    x = b.given(np.arange(40 * 23, dtype=np.float32))
    to = b.output(30 * 19)
    turn(to, 5, 19, x, 7, 23)
    b.assert_only_read()
    block = x[7 : 7 + TILE * 23 + TILE][np.add.outer(23 * np.arange(TILE), np.arange(TILE))]
    places = 5 + np.add.outer(19 * np.arange(TILE), np.arange(TILE))
    assert (to[places] == block.T).all()
    untouched = np.ones(to.size, bool)
    untouched[places] = False
    assert np.isnan(to[untouched]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("N", "K"), [(NR, 2 * TILE), (2 * NR, 64), (3 * NR, 96), (2 * NR + 5, 64), (NR, 34), (1, 32)]
)
def test_panels_hold_the_weight_both_ways(N: int, K: int, dtype: type) -> None:
    """By blocks where they fit, number by number where they do not."""
    b = Buffers(dtype)
    weight = b.given(np.random.default_rng(N + K).standard_normal((N, K)).astype(np.float32))
    forward = b.changed(np.full(packed_size(N, K, dtype), 7, dtype))
    backward = b.changed(np.full(packed_size(K, N, dtype), 7, dtype))
    pack(forward, backward, weight)
    b.assert_only_read()
    expected = weight if dtype == np.float32 else rounded(weight)
    for panels, matrix in ((forward, expected.T), (backward, expected)):
        k, columns = matrix.shape
        assert (unpacked(panels, k, columns, dtype) == matrix).all()
    alone = np.full_like(forward, 7)
    pack(alone, np.empty(0, dtype), weight)
    assert (alone == forward).all()


def unpacked(panels: np.ndarray, k: int, columns: int, dtype: type) -> np.ndarray:
    """The (k, columns) matrix in panels (columns / NR, units of k, NR)."""
    per = 1 if dtype == np.float32 else 2
    numbers = panels if per == 1 else (panels.astype(np.uint32) << 16).view(np.float32)
    whole = (
        numbers.reshape(-1, units(k, dtype), NR, per)
        .transpose(1, 3, 0, 2)
        .reshape(-1, panels.size // NR // units(k, dtype) // per * NR)
    )
    assert not whole[k:, :columns].any()
    return whole[:k, :columns]


@pytest.mark.parametrize("make", [empty, zeros])
@pytest.mark.parametrize("shape", [0, 1, 17, (3, 5), (HUGE_PAGE // 4 + 3,), (2, 0, 3)])
def test_arrays_begin_on_a_line(make, shape) -> None:  # type: ignore[no-untyped-def]
    array = make(shape, np.float32)
    line = HUGE_PAGE if array.nbytes >= HUGE_PAGE else CACHE_LINE
    assert array.dtype == np.float32 and array.shape == np.empty(shape).shape
    assert array.size == 0 or array.ctypes.data % line == 0
    assert array.flags.c_contiguous and array.flags.writeable
    if make is zeros:
        assert not array.any()


@compiled
def lead(board, tasks, chunks, done):  # type: ignore[no-untyped-def]
    """Post every task, take chunks of it, wait for those of others; the number of chunks that this thread did."""
    own_total = 0
    for task in range(tasks):
        own = 0
        post(board, FINISHED, 0)
        post(board, TICKET, task << SHIFT)
        while True:
            chunk = take(board, TICKET) & CHUNK_MASK
            if chunk >= chunks:
                break
            done[task, chunk] += task + 1
            own += 1
        while look(board, FINISHED) + own < chunks:
            pass
        own_total += own
    post(board, TICKET, CLOSED)
    return own_total


@compiled
def follow(board, chunks, done):  # type: ignore[no-untyped-def]
    """Take chunks until the board is closed."""
    own = 0
    while True:
        ticket = look(board, TICKET)
        if ticket < 0:
            return own
        if ticket & CHUNK_MASK >= chunks:
            continue
        ticket = take(board, TICKET)
        if ticket < 0:
            return own
        task, chunk = ticket >> SHIFT, ticket & CHUNK_MASK
        if chunk < chunks:
            done[task, chunk] += task + 1
            own += 1
            take(board, FINISHED)


@pytest.mark.skipif(numba_config.DISABLE_JIT, reason="threads take turns at Python's lock")
@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_every_chunk_is_done_once_whoever_comes(helpers: int) -> None:
    tasks, chunks, board = 3_000, 7, new_board()
    post_in_python(board)
    done, counts = np.zeros((tasks, chunks), np.int64), []
    threads = [
        threading.Thread(target=lambda: counts.append(follow(board, chunks, done)))
        for _ in range(helpers)
    ]
    (
        lead(new_board(), 1, chunks, done[:1].copy()),
        follow(closed_board(), chunks, done),
    )  # compiled before
    for thread in threads:
        thread.start()
    counts.append(lead(board, tasks, chunks, done))
    for thread in threads:
        thread.join()
    assert (done == np.arange(1, tasks + 1)[:, None]).all()
    assert sum(counts) == tasks * chunks


def post_in_python(board: np.ndarray) -> None:
    board[TICKET] = NOTHING_YET


def closed_board() -> np.ndarray:
    board = new_board()
    board[TICKET] = CLOSED
    return board
