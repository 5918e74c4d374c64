"""The three matrix products of a linear layer y = x W^T, on the micro-kernel.

    forward           y  = x W^T      W packed with `pack(..., transposed=True)`
    input gradient    dx = dy W       W packed with `pack(..., transposed=False)`
    weight gradient   dW += dy^T x    sums over tokens, nothing packed beforehand

Packed weights are panels (columns / NR, K, NR): what one column of tiles reads lies in one piece. They are packed once
per step, which costs about 2 % of it.
"""

from __future__ import annotations

from numba import njit, prange

from slim.kernels import PARALLEL
from slim.kernels.tile import MR, NR, product

ROW_BLOCK = MR * 8  # rows of x that one task takes through all panels: they stay in the L2 cache
TOKEN_CHUNK = 128  # tokens summed at a time in a weight gradient: 256 is 10 % slower, 64 equal
WEIGHT_BLOCK = MR * 16  # rows of dW that one task owns at most


def packed_size(columns: int, k: int) -> int:
    """Floats that the panels of a (k, columns) matrix take; the last panel is padded with zeros."""
    return -(-columns // NR) * NR * k


def gradient_scratch_size(k: int) -> int:
    """Floats of scratch that each worker of `matmul_weight_gradient` needs for an x of at most k columns."""
    return TOKEN_CHUNK * (-(-k // NR) * NR + WEIGHT_BLOCK)


@njit(**PARALLEL)
def pack(panels, weight, transposed):
    """Copy a weight into panels. weight (N, K)   panels =

    transposed: panels of W^T, (N / NR, K, NR), for y = x W^T; else of W, (K / NR, N, NR), for dx = dy W.
    """
    N, K = weight.shape
    if transposed:
        for p in prange((N + NR - 1) // NR):
            width = min(NR, N - p * NR)
            base = p * K * NR
            if width < NR:
                for i in range(K * NR):
                    panels[base + i] = 0.0
            for k0 in range(0, K, 16):  # by cache lines: 16 elements of a row at a time
                k1 = min(k0 + 16, K)
                for j in range(width):
                    for k in range(k0, k1):
                        panels[base + k * NR + j] = weight[p * NR + j, k]
    else:
        for p in prange((K + NR - 1) // NR):
            width = min(NR, K - p * NR)
            base = p * N * NR
            for n in range(N):
                to, part = panels[base + n * NR : base + n * NR + NR], weight[n, p * NR : p * NR + width]
                for j in range(width):
                    to[j] = part[j]
                for j in range(width, NR):
                    to[j] = 0.0


@njit(**PARALLEL)
def matmul(out, x, panels, accumulate):
    """out (M, N) = or +=   x (M, K)   panels of a (K, N) matrix; accumulate adds to what is in out."""
    M, N = out.shape
    K = x.shape[1]
    C, A = out.reshape(-1), x.reshape(-1)
    for block in prange((M + ROW_BLOCK - 1) // ROW_BLOCK):
        row = block * ROW_BLOCK
        rows = min(ROW_BLOCK, M - row)
        for p in range((N + NR - 1) // NR):
            columns = min(NR, N - p * NR)
            product(C, row * N + p * NR, N, rows, columns, A, row * K, K, 1, panels, p * K * NR, NR, K, accumulate)


@njit(**PARALLEL)
def matmul_weight_gradient(dweight, dout, x, scratch):
    """dweight (N, K) +=   dout (M, N)   x (M, K)   scratch (workers, gradient_scratch_size(K))

    A worker owns blocks of rows of dweight. It takes the tokens in chunks, copies x as panels and its columns of dout
    as tiles of MR (both are read many times), and adds their product.
    """
    N, K = dweight.shape
    M = x.shape[0]
    C = dweight.reshape(-1)
    workers = scratch.shape[0]
    share = (N + workers - 1) // workers
    block_rows = min(WEIGHT_BLOCK, (share + MR - 1) // MR * MR)
    blocks = (N + block_rows - 1) // block_rows
    panels = (K + NR - 1) // NR
    for worker in prange(workers):
        local = scratch[worker]
        a_start = panels * NR * TOKEN_CHUNK
        for m0 in range(0, M, TOKEN_CHUNK):
            tokens = min(TOKEN_CHUNK, M - m0)
            for m in range(tokens):
                row_of_x = x[m0 + m]
                for p in range(K // NR):
                    to = local[p * TOKEN_CHUNK * NR + m * NR : p * TOKEN_CHUNK * NR + m * NR + NR]
                    part = row_of_x[p * NR : p * NR + NR]
                    for j in range(NR):
                        to[j] = part[j]
                for k in range(K // NR * NR, K):
                    local[(panels - 1) * TOKEN_CHUNK * NR + m * NR + k % NR] = x[m0 + m, k]
            for block in range(worker, blocks, workers):
                row = block * block_rows
                rows = min(block_rows, N - row)
                full = rows - rows % MR
                for m in range(tokens):
                    columns_of_dout = dout[m0 + m, row : row + rows]
                    for r in range(0, full, MR):
                        tile = a_start + r * TOKEN_CHUNK + m * MR
                        to, part = local[tile : tile + MR], columns_of_dout[r : r + MR]
                        for j in range(MR):
                            to[j] = part[j]
                    for j in range(rows - full):
                        local[a_start + full * TOKEN_CHUNK + m * MR + j] = dout[m0 + m, row + full + j]
                for p in range(panels):
                    for r in range(0, rows, MR):
                        product(
                            C, (row + r) * K + p * NR, K, min(MR, rows - r), min(NR, K - p * NR),
                            local, a_start + r * TOKEN_CHUNK, 1, MR,
                            local, p * TOKEN_CHUNK * NR, NR, tokens, 1,
                        )  # fmt: skip
