"""Token embedding: a row of the table for every id, and its gradient."""

from __future__ import annotations

from numba import njit, prange

from slim.kernels import PARALLEL

COLUMN_BLOCK = 32  # columns of the table that one task owns in the backward pass


@njit(**PARALLEL)
def embedding_forward(out, tokens, table):
    """out (N, C) =   tokens (N,) int32   table (V, C)"""
    N, C = out.shape
    for n in prange(N):
        row = tokens[n]
        for c in range(C):
            out[n, c] = table[row, c]


@njit(**PARALLEL)
def embedding_backward(dtable, dout, tokens):
    """dtable (V, C) +=   dout (N, C)   tokens (N,) int32

    A token may occur many times, so a task owns columns, not rows, and takes the tokens in order.
    """
    N, C = dout.shape
    for block in prange((C + COLUMN_BLOCK - 1) // COLUMN_BLOCK):
        first, last = block * COLUMN_BLOCK, min((block + 1) * COLUMN_BLOCK, C)
        for n in range(N):
            row = tokens[n]
            for c in range(first, last):
                dtable[row, c] += dout[n, c]
