"""Muon: momentum, of which the nearest orthogonal matrix is the step (Jordan et al. 2024).

    m = momentum m + (1 - momentum) g,   u = momentum m + (1 - momentum) g       (Nesterov)
    X = u / |u|;  several times  X = (a + b XX' + c (XX')^2) X                   (Newton and Schulz)
    w = (1 - rate decay) w - rate rms sqrt(max(rows, columns)) X

The polynomials bring all singular values near 1 and leave the vectors, so no direction is learnt faster than another.
An orthogonal matrix has entries of root mean square 1 / sqrt(max(rows, columns)); the last factor makes that `rms`.

The caller chooses a scale for X between the steps at which c = 1, so a step is (A (A + t) + u) X with A = XX': three products
and two diagonals. A thread takes a whole matrix, the smaller side of which lies along the rows of X, so nobody waits
for anybody between products, and the number of threads touches nothing that is computed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.amx import begin_tiles, end_tiles
from slim.kernels.elementary import dot
from slim.kernels.matmul import copy_panels, turn_panels
from slim.kernels.operand import clear_row, load, per_unit, store
from slim.kernels.tile import NR, product
from slim.kernels.turning import TILE, turn_tile

SIDE = 2 * TILE  # sides of X are padded with zeros to a multiple: whole panels of whole tiles
ZERO, ONE = np.float32(0.0), np.float32(1.0)


def _padded(n):
    return (n + SIDE - 1) // SIDE * SIDE


def muon_scratch_size(rows: int, columns: int) -> int:
    """Numbers of scratch that a worker needs for a matrix: X, panels, A and B."""
    short, long = sorted((_padded(rows), _padded(columns)))
    return 2 * short * (long + short)


_padded_inside = njit(**INSIDE)(_padded)


@njit(**INSIDE)
def _multiply(x, to, rows, panels, M, N, K, symmetric):
    """x[to:] (M, N) =   x[rows:] (M, K)   x[panels:] (N / NR, units of K, NR); places in numbers

    symmetric: of what is below the diagonal, only that in the blocks on it.
    """
    per = per_unit(x)
    for row in range(0, M, SIDE):
        for column in range(row if symmetric else 0, N, NR):
            product(
                x, to + row * N + column, N, SIDE, NR, x, (rows + row * K) // per, K // per, 1,
                x, (panels + column * K) // per, NR, K // per, 0,
            )  # fmt: skip


@njit(**INSIDE)
def _mirror(x, start, n, panel):
    """x[start:] (n, n): below the diagonal =   what is above it   x[panel:] scratch"""
    per = per_unit(x)
    units = SIDE // per
    for row in range(0, n, SIDE):
        for column in range(row + SIDE, n, SIDE):
            copy_panels(x, panel // per, units, x[start:], n, row, SIDE, column, SIDE)
            for j in range(0, SIDE, TILE):
                for k in range(0, units, TILE):
                    to = (start + (column + j) * n + row) // per + k
                    turn_tile(x, to, n // per, x, panel // per + (j // NR * units + k) * NR + j % NR, NR)


@njit(**INSIDE)
def _orthogonalise(x, short, long, coefficients):
    """x[:short * long] (short, long) -> nearly orthogonal rows, times a scale   x: operands, the rest is scratch

    coefficients (steps, 2): t and u of every step
    """
    per = per_unit(x)
    panels = short * long
    a = 2 * panels
    b = a + short * short
    for step in range(coefficients.shape[0]):
        t, u = coefficients[step, 0], coefficients[step, 1]
        k_units = long // per
        for row in range(0, short, TILE):  # X' as panels
            for k in range(0, k_units, TILE):
                to = panels // per + (row // NR * k_units + k) * NR + row % NR
                turn_tile(x, to, NR, x, row * k_units + k, k_units)
        _multiply(x, a, 0, panels, short, short, long, True)
        _mirror(x, a, short, panels)
        copy_panels(x, panels // per, short // per, x[a:], short, 0, short, 0, short)
        for i in range(short):
            at = panels + (i // NR * (short // per) + i // per) * NR * per + i % NR * per + i % per
            store(x, at, load(x, at) + t)
        _multiply(x, b, a, panels, short, short, short, True)
        _mirror(x, b, short, panels)
        for i in range(short):
            at = b + i * short + i
            store(x, at, load(x, at) + u)
        copy_panels(x, panels // per, short // per, x, long, 0, short, 0, long)
        _multiply(x, 0, b, panels, short, long, short, False)


@njit(**INSIDE)
def _turn(x, rows, columns):
    """x[:rows * columns] (rows, columns) -> its transpose, both multiples of SIDE; as many numbers behind are scratch"""
    per = per_unit(x)
    panels = rows * columns // per
    copy_panels(x, panels, rows // per, x, columns, 0, rows, 0, columns)
    turn_panels(x, 0, x, panels, columns // NR, rows // per)


@njit(**PARALLEL)
def muon(
    parameters, m, gradients, matrices, coefficients, scratch, first_scale, gradient_scale, learning_rate, momentum,
    decay, rms,
):  # fmt: skip
    """parameters, m (n,) updated   gradients (n,) -> zeros   matrices (count, 3): place, rows, columns

    coefficients (steps, 2)   scratch (workers, the most of muon_scratch_size)   first_scale: |X| before the first step
    """
    workers = scratch.shape[0]
    for worker in prange(workers):
        begin_tiles()
        x = scratch[worker]
        for number in range(worker, matrices.shape[0], workers):
            start, rows, columns = matrices[number, 0], matrices[number, 1], matrices[number, 2]
            stop = start + rows * columns
            w, first, g = parameters[start:stop], m[start:stop], gradients[start:stop]
            for i in range(len(g)):
                new = (ONE - momentum) * g[i] * gradient_scale
                first[i] = momentum * first[i] + new
                g[i] = momentum * first[i] + new
            norm = np.sqrt(dot(g, 0, g, 0, len(g)))
            scale = first_scale / norm if norm != ZERO else ZERO  # and NaN stays NaN

            height, width = _padded_inside(rows), _padded_inside(columns)
            if rows < height or columns < width:
                clear_row(x, 0, height * width)
            for r in range(rows):
                row = g[r * columns : (r + 1) * columns]
                for j in range(columns):
                    store(x, r * width + j, row[j] * scale)
            if height > width:
                _turn(x, height, width)
            _orthogonalise(x, min(height, width), max(height, width), coefficients)
            if height > width:
                _turn(x, width, height)

            keep = ONE - learning_rate * decay
            far = learning_rate * rms * np.sqrt(np.float32(max(rows, columns)))
            for r in range(rows):
                row = w[r * columns : (r + 1) * columns]
                for j in range(columns):
                    row[j] = keep * row[j] - far * load(x, r * width + j)
            clear_row(g, 0, len(g))
        end_tiles()
