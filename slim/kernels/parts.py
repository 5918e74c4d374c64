"""Products of float32 on AMX, which multiplies bfloat16: every number is a sum of three of those.

    x = x0 + x1 + x2    x0 = x rounded to 8 bits, x1 = 8 bits of what is left, x2 = the rest: exactly the 24 bits of x
    a b = a0 b0 + a0 b1 + a1 b0 + a1 b1 + a0 b2 + a2 b0    what is left out is below 2^-24 of it, and of either sign

Six products of tiles take a third of the time that the vector instruction for float32 takes for one; with what it takes to
make the parts, products are 1.4 to 1.8 times as fast. Products of 8 bits are exact in float32 and sums are rounded to it
once for 32 steps of k and part, so the error is smaller than that of float32 itself. What differs: an infinite number
becomes NaN (inf - inf), and numbers below 1e-33 lose their last bits, for below 1e-38 AMX takes a number for 0.
(Henry, Tang and Heinecke 2019.)

An operand in parts is a row of blocks of 32 x 32 numbers, each three parts of two tiles, one behind the other. A unit holds
two steps of k that are 16 apart, which both sides agree on and which vectors can do. Blocks at the edge of a matrix are
filled with zeros, so an element of a product does not depend on what else is multiplied with it.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from slim.kernels import INSIDE
from slim.kernels.amx import BYTES
from slim.kernels.elementary import fill_row
from slim.kernels.emit import F32, I8, I32, I64, VOID, Places, const, function
from slim.kernels.turning import TILE, turned

ZERO = np.float32(0.0)
SIDE = 2 * TILE  # of a block
TILE_UNITS = TILE * TILE
PART = 2 * TILE_UNITS  # units of a part of a block: two tiles
BLOCK = 3 * PART  # units of a block
ROOM = SIDE * SIDE  # numbers of a block that is not in parts

# The larger of the products come last, when the sums of the smaller are there; from one to the next one operand changes.
ORDER = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))

FLOATS, UNITS = ir.VectorType(F32, TILE), ir.VectorType(I32, TILE)


UPPER = ir.Constant(UNITS, [0xFFFF0000] * TILE)


def _parts(b, x):
    """The three parts of a vector of float32, as vectors of units whose lower halves are 0."""
    half = ir.Constant(UNITS, [0x8000] * TILE)
    first = b.and_(b.add(b.bitcast(x, UNITS), half), UPPER)
    rest = b.fsub(x, b.bitcast(first, FLOATS))
    second = b.and_(b.bitcast(rest, UNITS), UPPER)  # what is left has either sign: to cut is no worse than to round
    return first, second, b.bitcast(b.fsub(rest, b.bitcast(second, FLOATS)), UNITS)


class _Block(Places):
    """A block of `to` (argument 0) from `at` (argument 1) on, made of rows of x (2), `x_row` (4) apart, from `start` (3)."""

    def load(self, row, column):
        _, _, _, start, x_row = self.arguments
        place = self.b.add(start, self.b.mul(x_row, row))
        value = self.b.load(self.b.bitcast(self.b.gep(self.at(2, place, F32), [const(column)]), FLOATS.as_pointer()))
        value.align = 4
        return value

    def store(self, first, second, tile, row):
        """A row of a tile of each part: numbers of `first` with those of `second` that are 16 steps of k behind them."""
        b = self.b
        for part, (x, y) in enumerate(zip(_parts(b, first), _parts(b, second), strict=True)):
            units = b.or_(b.lshr(x, ir.Constant(UNITS, [16] * TILE)), y)
            place = self.at(0, self.arguments[1], I32)
            place = b.gep(place, [const(part * PART + tile * TILE_UNITS)])
            place = b.gep(place, [b.mul(row, const(TILE))])
            b.store(units, b.bitcast(place, UNITS.as_pointer())).align = 4


def _make_split(write):
    @intrinsic
    def split(typing_context, to, at, x, start, x_row):
        i = types.intp

        def codegen(context, b, sig, args):
            write(b, _Block(context, b, sig, args))
            return context.get_dummy_value()

        return types.void(to, i, x, i, i), codegen

    return split


def _split_rows(b, block):
    """Rows of x are rows of A."""
    for tile in range(2):
        with cgutils.for_range(b, const(TILE)) as loop:
            row = b.add(loop.index, const(tile * TILE))
            block.store(block.load(row, 0), block.load(row, TILE), tile, loop.index)


def _split_steps(b, block):
    """Rows of x are steps of k of B."""
    with cgutils.for_range(b, const(TILE)) as loop:
        for tile in range(2):
            first, second = (block.load(b.add(loop.index, const(n)), tile * TILE) for n in (0, TILE))
            block.store(first, second, tile, loop.index)


def _split_turned(b, block):
    """Rows of x are steps of k of A."""
    for tile in range(2):
        halves = []
        for first in (0, TILE):
            rows = [b.bitcast(block.load(const(first + r), tile * TILE), UNITS) for r in range(TILE)]
            halves.append([b.bitcast(row, FLOATS) for row in turned(b, rows)])
        for r, (first, second) in enumerate(zip(*halves, strict=True)):
            block.store(first, second, tile, const(r))


split_rows, split_steps, split_turned = _make_split(_split_rows), _make_split(_split_steps), _make_split(_split_turned)


@intrinsic
def multiply_parts(typing_context, C, c_start, ldc, A, a_start, B, b_start, blocks, accumulate):
    """C (32, 32) (+)= A B over `blocks` blocks of 32 steps of k."""
    i = types.intp

    def codegen(context, b, sig, args):
        _, c_start, ldc, _, a_start, _, b_start, blocks, accumulate = args
        load, store = (function(b, f"x86.{name}", VOID, I8, BYTES, I64) for name in ("tileloadd64", "tilestored64"))
        multiply, clear = function(b, "x86.tdpbf16ps", VOID, I8, I8, I8), function(b, "x86.tilezero", VOID, I8)
        cells = [(r, v) for r in range(2) for v in range(2)]
        tiles = [ir.Constant(I8, n) for n in range(8)]
        places = Places(context, b, sig, args)
        c_base = places.at(0, c_start, F32)
        c_bytes = b.mul(ldc, const(4))

        def cell(r, v):
            return b.bitcast(b.gep(b.gep(c_base, [b.mul(ldc, const(TILE * r))]), [const(TILE * v)]), BYTES)

        with b.if_else(b.icmp_signed("!=", accumulate, const(0))) as (yes, no):
            with yes:
                for n, (r, v) in enumerate(cells):
                    b.call(load, [tiles[n], cell(r, v), c_bytes])
            with no:
                for n in range(4):
                    b.call(clear, [tiles[n]])
        bases = [places.at(3, a_start, I32), places.at(5, b_start, I32)]
        with cgutils.for_range(b, blocks) as loop:
            step = b.mul(loop.index, const(BLOCK))
            here = [b.gep(base, [step]) for base in bases]
            loaded = [None, None]
            for pair in ORDER:
                for side in range(2):
                    if loaded[side] != pair[side]:
                        for n in range(2):
                            place = b.gep(here[side], [const(pair[side] * PART + n * TILE_UNITS)])
                            b.call(load, [tiles[4 + 2 * side + n], b.bitcast(place, BYTES), const(4 * TILE)])
                loaded = list(pair)
                for n, (r, v) in enumerate(cells):
                    b.call(multiply, [tiles[n], tiles[4 + r], tiles[6 + v]])
        for n, (r, v) in enumerate(cells):
            b.call(store, [tiles[n], cell(r, v), c_bytes])
        return context.get_dummy_value()

    return types.void(C, i, i, A, i, B, i, i, i), codegen


@njit(**INSIDE)
def _copy_block(to, at, to_row, x, start, x_row, rows, columns):
    for r in range(rows):
        target, source = to[at + r * to_row :], x[start + r * x_row :]
        for j in range(columns):
            target[j] = source[j]


@njit(**INSIDE)
def _whole_block(room, room_at, x, start, x_row, rows, columns):
    """Where in `room` a block is whose rows and columns beyond those of x are 0."""
    fill_row(room, room_at, ROOM, ZERO)
    _copy_block(room, room_at, SIDE, x, start, x_row, rows, columns)


def _make_in_parts(split, steps_are_rows):
    @njit(**INSIDE)
    def in_parts(to, at, x, start, x_row, lines, steps, room):
        for k in range(0, steps, SIDE):
            here = min(SIDE, steps - k)
            rows, columns = (here, lines) if steps_are_rows else (lines, here)
            place = start + k * x_row if steps_are_rows else start + k
            if rows == SIDE and columns == SIDE:
                split(to, at + k // SIDE * BLOCK, x, place, x_row)
            else:
                _whole_block(to, room, x, place, x_row, rows, columns)
                split(to, at + k // SIDE * BLOCK, to, room, SIDE)

    return in_parts


# rows_in_parts(to, at, x, start, x_row, lines, steps, room): to[at:], ceil(steps / 32) blocks, =   up to 32 rows of A, which
# are rows of x from x[start:] on, `x_row` apart   to[room:] scratch, of ROOM
# turned_in_parts: of A, whose rows are columns of x   steps_in_parts: at most 32 columns of B, which are columns of x
rows_in_parts = _make_in_parts(split_rows, False)
turned_in_parts = _make_in_parts(split_turned, True)
steps_in_parts = _make_in_parts(split_steps, True)


@njit(**INSIDE)
def product_of_parts(C, c_start, ldc, rows, columns, parts, a_start, b_start, steps, accumulate, room):
    """C[rows, columns] (+)= A @ B, at most 32 of each, over `steps` of k: both lie in `parts`; parts[room:] scratch"""
    blocks = (steps + SIDE - 1) // SIDE
    if rows == SIDE and columns == SIDE:
        multiply_parts(C, c_start, ldc, parts, a_start, parts, b_start, blocks, accumulate)
    else:
        if accumulate != 0:
            _whole_block(parts, room, C, c_start, ldc, rows, columns)
        multiply_parts(parts, room, SIDE, parts, a_start, parts, b_start, blocks, accumulate)
        _copy_block(C, c_start, ldc, parts, room, SIDE, rows, columns)
