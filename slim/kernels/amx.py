"""The micro-kernel on Intel's AMX: blocks of a bfloat16 product in tile registers, emitted as LLVM.

A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of A (16 rows, 16 units of k) with a tile of B
(16 units of k, 16 columns) and adds the result to a float32 tile of C: 8,192 products in 16 cycles, sixteen times what the
vector instruction for pairs of bfloat16 does there. The panels of a packed operand are what B has to look like, as they are;
A has to lie row by row. Eight registers make a block of 32 x 32: four tiles of C, two of A, two of B.

(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.)
"""

from __future__ import annotations

import os

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels.emit import (
    BFLOAT,
    F32,
    I1,
    I8,
    I16,
    I32,
    I64,
    VOID,
    Places,
    const,
    fetch_line,
    function,
    splat,
)
from slim.kernels.turning import TILE
from slim.operating_system import permit_tile_registers

# A register is TILE rows of as many units of k, or columns.
BLOCK_ROWS = 2 * TILE  # of `multiply_block`, which also has so many columns
OF_ROWS = 3  # registers that `shape_tiles` gives the rows of A and C: two of C, one of A; those behind them are of B
BLOCKS_AHEAD = 3  # of 16 units of a panel that `multiply_panel` fetches: its time is that of reading
ROWS_AT = 48  # where in the 64 bytes that shape the registers their rows are


def _can_use_tiles() -> bool:
    """Whether this CPU has them, nobody has switched them off, and the system lets this process use them."""
    features = binding.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-bf16") and features.get("avx512bf16")):
        return False
    if os.environ.get("SLIM_AMX") == "0" or os.environ.get("SLIM_LANES") == "8":
        return False
    if numba_config.DISABLE_JIT or numba_config.CPU_NAME is not None:
        return False
    return permit_tile_registers()


HAS_AMX = _can_use_tiles()

BYTES = I8.as_pointer()
# Palette 1, and for each of the eight registers the bytes of a row and the rows.
_SHAPES = bytes([1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [TILE] * 8 + [0] * 8)


@intrinsic
def _begin_tiles(typing_context):
    def codegen(context, b, signature, arguments):
        if HAS_AMX:
            shapes = ir.Constant(ir.ArrayType(I8, 64), bytearray(_SHAPES))
            place = cgutils.global_constant(b.module, "slim_amx_shapes", shapes)
            b.call(function(b, "x86.ldtilecfg", VOID, BYTES), [b.bitcast(place, BYTES)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _end_tiles(typing_context):
    def codegen(context, b, signature, arguments):
        if HAS_AMX:
            b.call(function(b, "x86.tilerelease", VOID), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def tile_units(typing_context, C, A, K):
    """How many of K units `multiply_block` takes: none of float32, and of sums that are rounded all or none."""

    def codegen(context, b, signature, arguments):
        C, A, _ = signature.args
        zero = ir.Constant(I64, 0)
        if not HAS_AMX or A.dtype == types.float32:
            return zero
        whole = b.and_(arguments[2], ir.Constant(I64, -TILE))
        if C.dtype == types.float32:
            return whole
        return b.select(b.icmp_signed("==", whole, arguments[2]), whole, zero)

    return types.intp(C, A, types.intp), codegen


def _make_block(tile_rows: int):
    """C (16 * tile_rows, 32) (+)= A B over K units, a multiple of 16; places and strides as in `tile.product`."""
    cells = [(r, v) for r in range(tile_rows) for v in range(2)]

    @intrinsic
    def block(typing_context, C, c_start, ldc, A, a_start, a_row, B, b_start, b_k, K, accumulate):
        i = types.intp

        def codegen(context, b, sig, args):
            _, c_start, ldc, _, a_start, a_row, _, b_start, b_k, K, accumulate = args
            narrow = sig.args[0].dtype != types.float32
            load, store = (function(b, f"x86.{name}", VOID, I8, BYTES, I64) for name in ("tileloadd64", "tilestored64"))
            multiply, clear = function(b, "x86.tdpbf16ps", VOID, I8, I8, I8), function(b, "x86.tilezero", VOID, I8)

            places = Places(context, b, sig, args)

            def at(pointer, *offsets):
                for offset in offsets:
                    pointer = b.gep(pointer, [offset])
                return b.bitcast(pointer, BYTES)

            def tile(n):
                return ir.Constant(I8, n)

            sums = {cell: tile(n) for n, cell in enumerate(cells)}
            rows_of_a, columns_of_b = [tile(4), tile(5)], [tile(6), tile(7)]
            a_base, b_base = places.at(3, a_start, I32), places.at(6, b_start, I32)
            if narrow:  # sums are rounded from a block in the first-level cache
                c_base, width = cgutils.alloca_once(b, ir.ArrayType(F32, 2 * TILE * TILE * tile_rows)), const(2 * TILE)
                c_base = b.bitcast(c_base, F32.as_pointer())
            else:
                c_base, width = places.at(0, c_start, F32), ldc
            c_bytes, a_bytes, b_bytes = (b.mul(stride, const(4)) for stride in (width, a_row, b_k))
            c_place = {(r, v): at(c_base, b.mul(width, const(TILE * r)), const(TILE * v)) for r, v in cells}
            if narrow:
                for cell in cells:
                    b.call(clear, [sums[cell]])
            else:
                with b.if_else(b.icmp_signed("!=", accumulate, const(0))) as (yes, no):
                    with yes:
                        for cell in cells:
                            b.call(load, [sums[cell], c_place[cell], c_bytes])
                    with no:
                        for cell in cells:
                            b.call(clear, [sums[cell]])

            before, caller = b.block, b.function
            loop, done = caller.append_basic_block("k_loop"), caller.append_basic_block("k_done")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(const(0), before)
            b_row = b.gep(b_base, [b.mul(k, b_k)])
            for r in range(tile_rows):
                b.call(load, [rows_of_a[r], at(a_base, k, b.mul(a_row, const(TILE * r))), a_bytes])
            for v in range(2):
                b.call(load, [columns_of_b[v], at(b_row, const(TILE * v)), b_bytes])
            for r, v in cells:
                b.call(multiply, [sums[r, v], rows_of_a[r], columns_of_b[v]])
            k_next = b.add(k, const(TILE))
            k.add_incoming(k_next, loop)
            b.cbranch(b.icmp_signed("<", k_next, K), loop, done)
            b.position_at_end(done)
            for cell in cells:
                b.call(store, [sums[cell], c_place[cell], c_bytes])
            if narrow:
                target = places.at(0, c_start, I16)
                with cgutils.for_range(b, const(TILE * tile_rows)) as row:
                    _round_row(b, b.gep(target, [b.mul(row.index, ldc)]), b.gep(c_base, [b.mul(row.index, width)]))
            return context.get_dummy_value()

        return types.void(C, i, i, A, i, i, B, i, i, i, i), codegen

    return block


@intrinsic
def multiply_few_rows(typing_context, C, c_start, ldc, rows, A, a_start, a_row, B, b_start, b_k, K, accumulate):
    """C (rows, 32) (+)= A B like a block, for less than 16 rows, none beyond which is read or written.

    They are copied to where there is room for a tile, so an element of C does not depend on how many rows there are.
    """
    i = types.intp

    def codegen(context, b, sig, args):
        _, c_start, ldc, rows, _, a_start, a_row, _, b_start, b_k, K, accumulate = args
        narrow = sig.args[0].dtype != types.float32
        load, store = (function(b, f"x86.{name}", VOID, I8, BYTES, I64) for name in ("tileloadd64", "tilestored64"))
        multiply = function(b, "x86.tdpbf16ps", VOID, I8, I8, I8)

        places = Places(context, b, sig, args)

        def room(element, count):
            array = cgutils.alloca_once(b, ir.ArrayType(element, count))
            array.align = 64
            cgutils.memset(b, array, const(4 * count), 0)
            return b.bitcast(array, element.as_pointer())

        def copy(to, source, vector):
            value = b.load(b.bitcast(source, vector.as_pointer()))
            value.align = 4
            b.store(value, b.bitcast(to, vector.as_pointer())).align = 4

        units, sums = ir.VectorType(I32, TILE), ir.VectorType(F32, 2 * TILE)
        a_base, b_base = places.at(4, a_start, I32), places.at(7, b_start, I32)
        c_base = places.at(0, c_start, I16 if narrow else F32)
        a_room, c_room = room(I32, TILE * TILE), room(F32, 2 * TILE * TILE)
        if not narrow:
            with b.if_then(b.icmp_signed("!=", accumulate, const(0))), cgutils.for_range(b, rows) as row:
                copy(
                    b.gep(c_room, [b.mul(row.index, const(2 * TILE))]), b.gep(c_base, [b.mul(row.index, ldc)]), sums
                )
        tiles = [ir.Constant(I8, n) for n in range(8)]
        of_c = [b.bitcast(b.gep(c_room, [const(TILE * v)]), BYTES) for v in range(2)]
        for v in range(2):
            b.call(load, [tiles[v], of_c[v], const(8 * TILE)])
        with cgutils.for_range_slice(b, const(0), K, const(TILE), I64) as (k, _):
            with cgutils.for_range(b, rows) as row:
                place = b.gep(a_base, [b.add(k, b.mul(row.index, a_row))])
                copy(b.gep(a_room, [b.mul(row.index, const(TILE))]), place, units)
            b.call(load, [tiles[4], b.bitcast(a_room, BYTES), const(4 * TILE)])
            for v in range(2):
                place = b.gep(b_base, [b.add(b.mul(k, b_k), const(TILE * v))])
                b.call(load, [tiles[6 + v], b.bitcast(place, BYTES), b.mul(b_k, const(4))])
                b.call(multiply, [tiles[v], tiles[4], tiles[6 + v]])
        for v in range(2):
            b.call(store, [tiles[v], of_c[v], const(8 * TILE)])
        with cgutils.for_range(b, rows) as row:
            to, source = b.gep(c_base, [b.mul(row.index, ldc)]), b.gep(c_room, [b.mul(row.index, const(2 * TILE))])
            if narrow:
                _round_row(b, to, source)
            else:
                copy(to, source, sums)
        return context.get_dummy_value()

    return types.void(C, i, i, i, A, i, i, B, i, i, i, i), codegen


@intrinsic
def _shape_tiles(typing_context, panels, rows):
    def codegen(context, b, signature, arguments):
        if HAS_AMX and signature.args[0].dtype == types.uint16:
            room = cgutils.alloca_once(b, ir.ArrayType(I8, len(_SHAPES)))
            room.align = 64
            b.store(ir.Constant(ir.ArrayType(I8, len(_SHAPES)), bytearray(_SHAPES)), room)
            shapes = b.bitcast(room, BYTES)
            for register in range(OF_ROWS):
                b.store(b.trunc(arguments[1], I8), b.gep(shapes, [const(ROWS_AT + register)]))
            b.call(function(b, "x86.ldtilecfg", VOID, BYTES), [shapes])
        return context.get_dummy_value()

    return types.void(panels, types.intp), codegen


@intrinsic
def multiply_panel(typing_context, C, c_start, ldc, rows, columns, A, a_start, a_row, B, b_start, K, accumulate):
    """C (rows, columns) (+)= A times a panel, K units, a multiple of 16; columns <= 32; rows <= 16, told to `shape_tiles`.

    An element of C does not depend on how many rows there are, and hardly the time, which it takes to read the panel.
    """
    i = types.intp

    def codegen(context, b, sig, args):
        _, c_start, ldc, rows, columns, _, a_start, a_row, _, b_start, K, accumulate = args
        load, store = (function(b, f"x86.{name}", VOID, I8, BYTES, I64) for name in ("tileloadd64", "tilestored64"))
        multiply = function(b, "x86.tdpbf16ps", VOID, I8, I8, I8)
        places = Places(context, b, sig, args)
        a_base, b_base, c_base = places.at(5, a_start, I32), places.at(8, b_start, I32), places.at(0, c_start, F32)
        *sums, a_tile, first, second = (ir.Constant(I8, n) for n in range(OF_ROWS + 2))
        b_tiles = first, second

        # The last columns of a matrix, behind which lies something else, take the way through a place of their own.
        room = cgutils.alloca_once(b, ir.ArrayType(F32, 2 * TILE * TILE))
        room.align = 64
        room = b.bitcast(room, F32.as_pointer())
        part = b.icmp_signed("<", columns, const(2 * TILE))
        target, width = b.select(part, room, c_base), b.select(part, const(2 * TILE), ldc)
        vector, mask = ir.VectorType(F32, 2 * TILE), ir.VectorType(I1, 2 * TILE)
        masked = (vector.as_pointer(), I32, mask)
        masked_load = function(b, f"masked.load.v{2 * TILE}f32.p0", vector, *masked, vector)
        masked_store = function(b, f"masked.store.v{2 * TILE}f32.p0", VOID, vector, *masked)
        lanes, align = ir.Constant(ir.VectorType(I64, 2 * TILE), list(range(2 * TILE))), ir.Constant(I32, 4)
        seen = b.icmp_signed("<", lanes, splat(b, columns, I64, 2 * TILE))

        def row_of(base, row, stride):
            return b.bitcast(b.gep(base, [b.mul(row, stride)]), vector.as_pointer())

        with b.if_then(part), cgutils.for_range(b, rows) as row:
            zero = ir.Constant(vector, [0.0] * (2 * TILE))
            value = b.call(masked_load, [row_of(c_base, row.index, ldc), align, seen, zero])
            b.store(value, row_of(room, row.index, const(2 * TILE))).align = 4
        of_c = [b.bitcast(b.gep(target, [const(TILE * v)]), BYTES) for v in range(2)]
        c_bytes, a_bytes, b_bytes = b.mul(width, const(4)), b.mul(a_row, const(4)), const(8 * TILE)
        with b.if_else(b.icmp_signed("!=", accumulate, const(0))) as (yes, no):
            with yes:
                for v in range(2):
                    b.call(load, [sums[v], of_c[v], c_bytes])
            with no:
                for v in range(2):
                    b.call(function(b, "x86.tilezero", VOID, I8), [sums[v]])
        with cgutils.for_range_slice(b, const(0), K, const(TILE), I64) as (k, _):
            b.call(load, [a_tile, b.bitcast(b.gep(a_base, [k]), BYTES), a_bytes])
            b_place = b.gep(b_base, [b.mul(k, const(2 * TILE))])
            for line in range(2 * TILE):
                place = b.gep(b_place, [const(2 * TILE * TILE * BLOCKS_AHEAD + TILE * line)])
                fetch_line(b, b.bitcast(place, BYTES))
            for v in range(2):
                place = b.gep(b_place, [const(TILE * v)])
                b.call(load, [b_tiles[v], b.bitcast(place, BYTES), b_bytes])
                b.call(multiply, [sums[v], a_tile, b_tiles[v]])
        for v in range(2):
            b.call(store, [sums[v], of_c[v], c_bytes])
        with b.if_then(part), cgutils.for_range(b, rows) as row:
            value = b.load(row_of(room, row.index, const(2 * TILE)))
            value.align = 4
            b.call(masked_store, [value, row_of(c_base, row.index, ldc), align, seen])
        return context.get_dummy_value()

    return types.void(C, i, i, i, i, A, i, i, B, i, i, i), codegen


def _round_row(b, target, source):
    """32 float32 at `source` as bfloat16 at `target`."""
    wide, narrow = ir.VectorType(F32, TILE), ir.VectorType(BFLOAT, TILE)
    rounding = function(b, "x86.avx512bf16.cvtneps2bf16.512", narrow, wide)
    for v in range(2):
        place = [const(TILE * v)]
        value = b.load(b.bitcast(b.gep(source, place), wide.as_pointer()))
        value.align = 4
        b.store(b.call(rounding, [value]), b.bitcast(b.gep(target, place), narrow.as_pointer())).align = 2


multiply_block, multiply_half_block = _make_block(2), _make_block(1)


def _no_tiles():
    pass


def _no_shapes(panels, rows):
    pass


if numba_config.DISABLE_JIT:  # where an intrinsic cannot run
    begin_tiles, end_tiles, shape_tiles = _no_tiles, _no_tiles, _no_shapes
else:
    # begin_tiles() gives this thread's tile registers their shape: first in every iteration of a `prange` that multiplies.
    # end_tiles() gives them back: what is in use has to be saved whenever the thread is interrupted.
    # shape_tiles(panels, rows) is for `multiply_panel` what begin_tiles is for the others; of panels of bfloat16 only.
    begin_tiles, end_tiles, shape_tiles = _begin_tiles, _end_tiles, _shape_tiles
