"""Blocks of 16 x 16 units turned over in vector registers, where a loop takes one unit at a time."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels.emit import BFLOAT, F32, I16, I32, Places, const, function

TILE = 16  # rows and columns of a block: what the tiles of AMX hold, and a vector of AVX-512
ROW = ir.VectorType(I32, TILE)


class _Rows(Places):
    """Vectors in the rows of arrays that are so many elements wide."""

    def _row(self, which, first, width, row, element, vector):
        place = self.b.add(first, self.b.mul(width, const(row)))
        return self.b.bitcast(self.at(which, place, element), vector.as_pointer())

    def load(self, which, first, width, row, element, vector):
        value = self.b.load(self._row(which, first, width, row, element, vector))
        value.align = 2
        return value

    def store(self, value, which, first, width, row, element):
        self.b.store(value, self._row(which, first, width, row, element, value.type)).align = 2


def turned(b, rows):
    """16 vectors of 16 units as the columns of what they were the rows of."""
    rows = list(rows)
    # Blocks of 8, 4, 2 and 1 change places across the diagonal.
    for size in (8, 4, 2, 1):
        upper = [c if c & size == 0 else TILE + c - size for c in range(TILE)]
        lower = [c + size if c & size == 0 else TILE + c for c in range(TILE)]
        for r in range(TILE):
            if r & size == 0:
                pair = rows[r], rows[r + size]
                rows[r], rows[r + size] = (b.shuffle_vector(*pair, ir.Constant(ROW, order)) for order in (upper, lower))
    return rows


@intrinsic
def _turn_tile(typing_context, to, at, to_row, x, start, x_row):
    i = types.intp

    def codegen(context, b, signature, arguments):
        places = _Rows(context, b, signature, arguments)
        _, at, to_row, _, start, x_row = arguments
        rows = turned(b, [places.load(3, start, x_row, r, I32, ROW) for r in range(TILE)])
        for r in range(TILE):
            places.store(rows[r], 0, at, to_row, r, I32)
        return context.get_dummy_value()

    return types.void(to, i, i, x, i, i), codegen


@intrinsic
def _pack_tile(typing_context, forward, at, backward, back_at, panel_row, weight, start, K):
    i = types.intp

    def codegen(context, b, signature, arguments):
        places = _Rows(context, b, signature, arguments)
        _, at, _, back_at, panel_row, _, start, K = arguments
        paired = signature.args[0].dtype != types.float32
        floats = ir.VectorType(F32, TILE)
        if paired:
            narrow = ir.VectorType(BFLOAT, TILE)
            rounding = function(b, "x86.avx512bf16.cvtneps2bf16.512", narrow, floats)
            rows = []
            for r in range(TILE):
                halves = []
                for first in (start, b.add(start, const(TILE))):
                    value = b.call(rounding, [places.load(5, first, K, r, F32, floats)])
                    halves.append(b.bitcast(value, ir.VectorType(I16, TILE)))
                order = ir.Constant(ir.VectorType(I32, 2 * TILE), list(range(2 * TILE)))
                rows.append(b.shuffle_vector(*halves, order))
        else:
            rows = [places.load(5, start, K, r, I32, ROW) for r in range(TILE)]
        with b.if_then(b.icmp_signed(">=", back_at, const(0))):
            if paired:
                order = [place for j in range(2 * TILE) for place in (j, 2 * TILE + j)]
                order = ir.Constant(ir.VectorType(I32, 4 * TILE), order)
                for r in range(0, TILE, 2):
                    pairs = b.shuffle_vector(rows[r], rows[r + 1], order)
                    places.store(pairs, 2, back_at, panel_row, r // 2, I32)
            else:
                for r in range(TILE):
                    places.store(rows[r], 2, back_at, panel_row, r, I32)
        columns = turned(b, [b.bitcast(row, ROW) for row in rows])
        for r in range(TILE):
            places.store(columns[r], 0, at, panel_row, r, I32)
        return context.get_dummy_value()

    return types.void(forward, i, backward, i, i, weight, i, i), codegen


def _turn_tile_plain(to, at, to_row, x, start, x_row):
    to, x = (array.view(np.uint32) for array in (to, x))
    for r in range(TILE):
        to[at + r + to_row * np.arange(TILE)] = x[start + r * x_row : start + r * x_row + TILE]


def _pack_tile_plain(forward, at, backward, back_at, panel_row, weight, start, K):
    rows = [weight[start + r * K : start + r * K + TILE] for r in range(TILE)]  # interpreted, operands are float32
    for r in range(TILE):
        forward[at + r + panel_row * np.arange(TILE)] = rows[r]
        if back_at >= 0:
            backward[back_at + r * panel_row : back_at + r * panel_row + TILE] = rows[r]


if numba_config.DISABLE_JIT:  # where an intrinsic cannot run
    turn_tile, pack_tile = _turn_tile_plain, _pack_tile_plain
else:
    # turn_tile: to[at:] (16, 16) = x[start:] (16, 16) turned over, in units; rows are `to_row` and `x_row` units apart
    turn_tile = _turn_tile
    # pack_tile: weight[start:] (16, 16 units), rows of K numbers, rounded to what the panels hold and, with rows of
    # `panel_row` units, turned over into forward[at:], and as it is (pairs: rows with their neighbours) into
    # backward[back_at:] if back_at >= 0
    pack_tile = _pack_tile
