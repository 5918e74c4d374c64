"""RMSNorm (Zhang and Sennrich 2019): out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), row by row."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.ahead import expect_to_read
from slim.kernels.elementary import dot
from slim.kernels.operand import store

ROW_CHUNK = 64  # rows whose weight gradient is summed into one partial row
AHEAD = 4  # rows that are asked for while one is computed: about a page
ZERO = np.float32(0.0)
ONE = np.float32(1.0)


def partial_rows(n_rows: int) -> int:
    """Rows of the `partial` buffer that `rmsnorm_backward` needs for n_rows rows."""
    return -(-n_rows // ROW_CHUNK)


@njit(**PARALLEL)
def rmsnorm_forward(out, rstd, x, weight, eps):
    """out (N, C) = operand   rstd (N,) =   x (N, C)   weight (C,)   eps float32"""
    N, C = x.shape
    flat = x.reshape(-1)
    for n in prange(N):
        expect_to_read(flat, (n + AHEAD) * C, 0, 1, C)
        scale = ONE / np.sqrt(dot(flat, n * C, flat, n * C, C) / np.float32(C) + eps)
        rstd[n] = scale
        row, to = x[n], out[n]
        for c in range(C):
            store(to, c, row[c] * scale * weight[c])


@njit(**PARALLEL)
def rmsnorm_backward(dx, dx_operand, dweight, partial, dout, x, rstd, weight):
    """dx (N, C) +=   dx_operand (N, C) = the sum, as an operand (or dx itself)   dweight (C,) +=
    partial (partial_rows(N), C) =   dout, x (N, C)   rstd (N,)   weight (C,)

    Inverts out = x * rstd * weight, where rstd depends on x too:
        dx = rstd * (g - x * rstd^2 * mean(g * x)),  g = dout * weight
    """
    N, C = x.shape
    flat, dout_flat, dx_flat = x.reshape(-1), dout.reshape(-1), dx.reshape(-1)
    chunks = (N + ROW_CHUNK - 1) // ROW_CHUNK
    for chunk in prange(chunks):
        part = partial[chunk]
        # The partial row first holds g of one row at a time, for the dot product; dweight's share is summed after.
        for n in range(chunk * ROW_CHUNK, min((chunk + 1) * ROW_CHUNK, N)):
            for needed in (flat, dout_flat, dx_flat):
                expect_to_read(needed, (n + AHEAD) * C, 0, 1, C)
            row, d, to, rounded = x[n], dout[n], dx[n], dx_operand[n]
            for c in range(C):
                part[c] = d[c] * weight[c]
            scale = rstd[n]
            mean = dot(part, 0, flat, n * C, C) / np.float32(C)
            factor = scale * scale * scale * mean
            for c in range(C):
                total = to[c] + (part[c] * scale - row[c] * factor)
                to[c] = total
                store(rounded, c, total)
        for c in range(C):
            part[c] = ZERO
        for n in range(chunk * ROW_CHUNK, min((chunk + 1) * ROW_CHUNK, N)):
            row, d, scale = x[n], dout[n], rstd[n]
            for c in range(C):
                part[c] += d[c] * row[c] * scale
    for chunk in range(chunks):
        for c in range(C):
            dweight[c] += partial[chunk, c]
