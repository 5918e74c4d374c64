"""A board of numbered tasks, cut into chunks, that threads take one by one: a parallel region with steps inside it.

To start threads for each product of a decoded token would cost more than it gives. Here they start once for a token. The one
that leads posts a task, takes chunks of it like the others, and goes on when all are done. The others only help: the leader
never waits for a chunk that nobody has taken, so it does not matter when they come, or whether they come at all.

A board is an int64 array. The ticket at TICKET holds the number of the task and the next chunk of it; FINISHED counts the
chunks that helpers have done. They lie on cache lines of their own.
"""

from __future__ import annotations

import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels.emit import I8, I64, VOID, fetch_line, function

BOARD_SIZE = 32
TICKET, FINISHED = 0, 16
SECOND_CACHE = 2  # that a fetched line goes to
SHIFT = 20  # bits of a ticket that hold the chunk
CHUNK_MASK = (1 << SHIFT) - 1
NOTHING_YET = CHUNK_MASK  # a ticket of which no chunk is left
CLOSED = -(1 << 62)  # the ticket of a board on which no task will follow


def _place(context, b, kind, array, index):
    return b.gep(context.make_array(kind)(context, b, array).data, [index])


@intrinsic
def _take(typing_context, board, place):
    def codegen(context, b, signature, arguments):
        pointer = _place(context, b, board, *arguments)
        return b.atomic_rmw("add", pointer, ir.Constant(I64, 1), "seq_cst")

    return types.int64(board, types.intp), codegen


@intrinsic
def _look(typing_context, board, place):
    def codegen(context, b, signature, arguments):
        return b.load_atomic(_place(context, b, board, *arguments), "acquire", 8)

    return types.int64(board, types.intp), codegen


@intrinsic
def _post(typing_context, board, place, value):
    def codegen(context, b, signature, arguments):
        array, index, value = arguments
        b.store_atomic(value, _place(context, b, board, array, index), "release", 8)
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), codegen


@intrinsic
def _pause(typing_context):
    """Tell the core that this is a loop that waits."""

    def codegen(context, b, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            b.call(function(b, "x86.sse2.pause", VOID), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _fetch(typing_context, x, byte):
    """Ask for the cache line with a byte of an array, without waiting for it."""

    def codegen(context, b, signature, arguments):
        array, byte = arguments
        data = b.bitcast(context.make_array(x)(context, b, array).data, I8.as_pointer())
        fetch_line(b, b.gep(data, [byte]), cache=SECOND_CACHE)
        return context.get_dummy_value()

    return types.void(x, types.intp), codegen


def _take_plain(board, place):
    board[place] += 1
    return int(board[place]) - 1


def _look_plain(board, place):
    return int(board[place])


def _post_plain(board, place, value):
    board[place] = value


def _pause_plain():
    pass


def _fetch_plain(x, byte):
    pass


def new_board() -> np.ndarray:
    """A board, to be used again and again by one region at a time."""
    return np.zeros(BOARD_SIZE, np.int64)


if numba_config.DISABLE_JIT:  # where all run one after the other
    take, look, post, pause, fetch = _take_plain, _look_plain, _post_plain, _pause_plain, _fetch_plain
else:
    # take(board, place): the number there, which then is one more. look and post read and write it.
    take, look, post, pause, fetch = _take, _look, _post, _pause, _fetch
