"""The micro-kernel: a block of a matrix product whose sums stay in vector registers, emitted as LLVM.

    C[rows, columns] (+)= sum over k of A[row, k] * B[k, column]

Each step of k loads one row of B as vectors and multiplies it with one broadcast element of A per row of the tile
(Goto and van de Geijn 2008). A may have any strides, so the same code multiplies by A or by its transpose; rows of B
are contiguous and `NR` wide. The sum runs over k in order, so an element of C does not depend on the shape of the tile.

An operand is float32, or bfloat16 kept as uint16. What the code calls a *unit* has 32 bits either way: one float32, or
two bfloat16 that are neighbours along k, which AVX-512 BF16 multiplies and adds in float32 at twice the speed. All
places, strides and counts of A and B are in units, so nothing else differs. C is float32, or bfloat16 when overwritten.
"""

from __future__ import annotations

import os

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels import INSIDE
from slim.kernels.amx import (
    BLOCK_ROWS,
    HAS_AMX,
    multiply_block,
    multiply_few_rows,
    multiply_half_block,
    tile_units,
)
from slim.kernels.emit import BFLOAT, F32, I1, I16, I32, I64, Places, const, function, splat
from slim.kernels.turning import TILE


def _choose_lanes() -> int:
    """16 floats a vector with AVX-512, else 8 (AVX2; two registers each on NEON). SLIM_LANES=8 forces 8."""
    forced = os.environ.get("SLIM_LANES")
    if forced in ("8", "16"):
        return int(forced)
    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8


LANES = _choose_lanes()
# The instruction that multiplies pairs of bfloat16.
HAS_BF16 = LANES == 16 and bool(binding.get_host_cpu_features().get("avx512bf16"))
# AMD's cores (only they have SSE4a) take it at twice the speed of float32, Intel's at half of it: those have AMX for that.
BF16_IS_FASTER = HAS_BF16 and (HAS_AMX or bool(binding.get_host_cpu_features().get("sse4a")))
# Registers bound the tile: 8 x 2 sums of 32 with AVX-512, 6 x 2 of 16 with AVX2.
MR, VECTORS = (8, 2) if LANES == 16 else (6, 2)
NR = VECTORS * LANES
# Several rows against several panels, where each panel is read once: what the registers hold.
ROWS, ROWS_PANELS = (4, 2) if LANES == 16 else (4, 1)
ROW_STEP = BLOCK_ROWS if HAS_AMX else MR  # rows that `product` takes at a time
WIDE = 4  # panels side by side in the single-row tile: enough independent sums to hide the latency of an FMA


VECTOR = ir.VectorType(F32, LANES)
PAIRS = ir.VectorType(BFLOAT, 2 * LANES)
NARROW = ir.VectorType(BFLOAT, LANES)  # a vector rounded to bfloat16
MASK = ir.VectorType(I1, LANES)


def _make_tile(rows: int, panels: int, masked: bool):
    """An intrinsic for `rows` rows and `panels` panels of NR columns, which lie `b_panel` units apart.

    masked: only the first `columns` are read and written; else there are panels * NR of them.
    """
    cells = [(r, p, v) for r in range(rows) for p in range(panels) for v in range(VECTORS)]

    @intrinsic
    def tile(typing_context, C, c_start, ldc, columns, A, a_start, a_row, a_k, B, b_start, b_k, b_panel, K, accumulate):
        i = types.intp
        signature = types.void(C, i, i, i, A, i, i, i, B, i, i, i, i, i)

        def codegen(context, b, sig, args):
            _, c_start, ldc, columns, _, a_start, a_row, a_k = args[:8]
            _, b_start, b_k, b_panel, K, accumulate = args[8:]
            paired = sig.args[4].dtype != types.float32
            narrow = sig.args[0].dtype != types.float32
            unit = I32 if paired else F32
            stored, c_element = (NARROW, I16) if narrow else (VECTOR, F32)
            align = ir.Constant(I32, 2 if narrow else 4)

            places = Places(context, b, sig, args)
            a_base, b_base = places.at(4, a_start, unit), places.at(8, b_start, unit)
            c_base = places.at(0, c_start, c_element)
            if paired:
                dot = function(b, "x86.avx512bf16.dpbf16ps.512", VECTOR, VECTOR, PAIRS, PAIRS)
            else:
                fma = function(b, f"fma.v{LANES}f32", VECTOR, VECTOR, VECTOR, VECTOR)
            kind = "bf16" if narrow else "f32"
            masked_load = function(
                b, f"masked.load.v{LANES}{kind}.p0", stored, stored.as_pointer(), I32, MASK, stored
            )
            masked_store = function(
                b, f"masked.store.v{LANES}{kind}.p0", ir.VoidType(), stored, stored.as_pointer(), I32, MASK
            )
            masks = {}
            if masked:  # columns beyond `columns` belong to somebody else, or to nobody
                lane_numbers = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
                for p in range(panels):
                    for v in range(VECTORS):
                        left = b.sub(columns, const((p * VECTORS + v) * LANES))
                        masks[p, v] = b.icmp_signed("<", lane_numbers, splat(b, left, I64, LANES))
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            c_row = [b.gep(c_base, [b.mul(ldc, const(r))]) for r in range(rows)]

            def cell_pointer(r, p, v):
                return b.bitcast(b.gep(c_row[r], [const((p * VECTORS + v) * LANES)]), stored.as_pointer())

            def load_cell(r, p, v):
                if masked:
                    return b.call(masked_load, [cell_pointer(r, p, v), align, masks[p, v], zero])
                value = b.load(cell_pointer(r, p, v))
                value.align = 4
                return value

            def store_cell(value, r, p, v):
                if narrow:
                    value = b.call(function(b, "x86.avx512bf16.cvtneps2bf16.512", NARROW, VECTOR), [value])
                if masked:
                    b.call(masked_store, [value, cell_pointer(r, p, v), align, masks[p, v]])
                else:
                    b.store(value, cell_pointer(r, p, v)).align = 2 if narrow else 4

            if narrow:  # sums of rounded numbers would not be sums: such a C is overwritten
                start = [zero] * len(cells)
            else:
                with b.if_else(b.icmp_signed("!=", accumulate, const(0))) as (yes, no):
                    with yes:
                        loaded = [load_cell(*cell) for cell in cells]
                        yes_block = b.block
                    with no:
                        no_block = b.block
                start = []
                for value in loaded:
                    phi = b.phi(VECTOR)
                    phi.add_incoming(value, yes_block)
                    phi.add_incoming(zero, no_block)
                    start.append(phi)

            before, caller = b.block, b.function
            loop, done = caller.append_basic_block("k_loop"), caller.append_basic_block("k_done")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(const(0), before)
            sums = [b.phi(VECTOR) for _ in cells]
            for phi, value in zip(sums, start):
                phi.add_incoming(value, before)
            b_row = b.gep(b_base, [b.mul(k, b_k)])
            b_vectors = {}
            operand = PAIRS if paired else VECTOR
            for p in range(panels):
                panel_row = b.gep(b_row, [b.mul(b_panel, const(p))]) if p else b_row
                for v in range(VECTORS):
                    load = b.load(b.bitcast(b.gep(panel_row, [const(v * LANES)]), operand.as_pointer()))
                    load.align = 4
                    b_vectors[p, v] = load
            a_column = b.gep(a_base, [b.mul(k, a_k)])
            new = []
            for r in range(rows):
                scalar = b.load(b.gep(a_column, [b.mul(a_row, const(r))]))
                scalar.align = 4
                a_vector = splat(b, scalar, unit, LANES)
                if paired:
                    a_vector = b.bitcast(a_vector, PAIRS)
                for p in range(panels):
                    for v in range(VECTORS):
                        total = sums[cells.index((r, p, v))]
                        if paired:
                            new.append(b.call(dot, [total, a_vector, b_vectors[p, v]]))
                        else:
                            new.append(b.call(fma, [a_vector, b_vectors[p, v], total]))
            k_next = b.add(k, const(1))
            k.add_incoming(k_next, loop)
            for phi, value in zip(sums, new):
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", k_next, K), loop, done)
            b.position_at_end(done)
            for cell, value in zip(cells, new):
                store_cell(value, *cell)
            return context.get_dummy_value()

        return signature, codegen

    return tile


@intrinsic
def _copy_row(typing_context, to, at, x, first, second):
    """NR units of a panel from two rows of an operand, in a few vector instructions where a loop takes one a number."""
    i = types.intp

    def codegen(context, b, sig, args):
        to_array, at, x_array, first, second = args
        paired = sig.args[2].dtype != types.float32
        row = ir.VectorType(I16 if paired else F32, NR)
        unit = I32 if paired else F32

        def load(start):
            data = context.make_array(sig.args[2])(context, b, x_array).data
            value = b.load(b.bitcast(b.gep(data, [start]), row.as_pointer()))
            value.align = 2 if paired else 4
            return value

        value = load(first)
        if paired:
            order = [place for j in range(NR) for place in (j, NR + j)]
            value = b.shuffle_vector(value, load(second), ir.Constant(ir.VectorType(I32, 2 * NR), order))
        data = b.bitcast(context.make_array(sig.args[0])(context, b, to_array).data, unit.as_pointer())
        target = b.bitcast(b.gep(data, [at]), ir.VectorType(I16, 2 * NR).as_pointer() if paired else row.as_pointer())
        b.store(value, target).align = 4
        return context.get_dummy_value()

    return types.void(to, i, x, i, i), codegen


def _copy_row_plain(to, at, x, first, second):
    if x.dtype == np.float32:
        to[at : at + NR] = x[first : first + NR]
    else:
        to[2 * at : 2 * (at + NR) : 2] = x[first : first + NR]
        to[2 * at + 1 : 2 * (at + NR) : 2] = x[second : second + NR]


def _make_plain_tile(rows: int, panels: int, masked: bool):
    """The same block in NumPy, for NUMBA_DISABLE_JIT=1, where an intrinsic cannot run."""

    def tile(C, c_start, ldc, columns, A, a_start, a_row, a_k, B, b_start, b_k, b_panel, K, accumulate):
        a_units, b_units, ks = _units(A), _units(B), np.arange(K)
        narrow = C.dtype == np.uint16
        for r in range(rows):
            a = a_units[a_start + r * a_row + ks * a_k]
            for j in range(min(columns, panels * NR) if masked else panels * NR):
                b = b_units[b_start + (j // NR) * b_panel + j % NR + ks * b_k]
                at = c_start + r * ldc + j
                total = np.float32((a * b).sum())
                if narrow:
                    C[at] = round_to_bf16(total)
                else:
                    C[at] = total + C[at] if accumulate else total

    return tile


def _units(operand: np.ndarray) -> np.ndarray:
    """An operand's units: (n, 1) of float32, or (n, 2) of bfloat16 made float32."""
    if operand.dtype == np.float32:
        return operand[:, None]
    return (operand[: operand.size // 2 * 2].astype(np.uint32) << 16).view(np.float32).reshape(-1, 2)


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 as bfloat16 in uint16, to the nearest, of two equally near the even one; any NaN stays one."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = np.where(np.isnan(x), bits | 0x400000, bits + 0x7FFF + ((bits >> 16) & 1))
    return (rounded >> 16).astype(np.uint16)


_make = _make_plain_tile if numba_config.DISABLE_JIT else _make_tile
copy_row = _copy_row_plain if numba_config.DISABLE_JIT else _copy_row
tile_block, tile_block_masked = _make(MR, 1, False), _make(MR, 1, True)
tile_row_masked = _make(1, 1, True)
tile_wide_row = _make(1, WIDE, False)
tile_rows = _make(ROWS, ROWS_PANELS, False)
tile_rest = _make(ROWS, 1, True)


@njit(**INSIDE)
def _product_of_vectors(C, c_start, ldc, rows, columns, A, a_start, a_row, a_k, B, b_start, b_k, K, accumulate):
    """`product` by the vectors of this module alone."""
    full = rows - rows % MR
    if columns == NR:
        for r in range(0, full, MR):
            tile_block(
                C, c_start + r * ldc, ldc, NR, A, a_start + r * a_row, a_row, a_k, B, b_start, b_k, 0, K, accumulate
            )
    else:
        for r in range(0, full, MR):
            tile_block_masked(
                C, c_start + r * ldc, ldc, columns, A, a_start + r * a_row, a_row, a_k,
                B, b_start, b_k, 0, K, accumulate,
            )  # fmt: skip
    if MR % ROWS != 0:  # 16 rows are 6 + 6 + 4: four single ones would take as long as all others
        while rows - full >= ROWS:
            tile_rest(
                C, c_start + full * ldc, ldc, columns, A, a_start + full * a_row, a_row, a_k,
                B, b_start, b_k, 0, K, accumulate,
            )  # fmt: skip
            full += ROWS
    for r in range(full, rows):
        tile_row_masked(
            C, c_start + r * ldc, ldc, columns, A, a_start + r * a_row, a_row, a_k, B, b_start, b_k, 0, K, accumulate
        )


@njit(**INSIDE)
def product(C, c_start, ldc, rows, columns, A, a_start, a_row, a_k, B, b_start, b_k, K, accumulate):
    """C[rows, columns] (+)= A @ B for columns <= NR, K >= 1 units; all arrays 1-D, every row of B readable NR wide.

    With AMX the caller has called `begin_tiles`: whole panels of whole units go to its tiles if A lies row by row.
    """
    whole = tile_units(C, A, K) if HAS_AMX and a_k == 1 and columns == NR else 0
    if whole > 0:
        done = 0
        while rows - done >= BLOCK_ROWS:
            multiply_block(
                C, c_start + done * ldc, ldc, A, a_start + done * a_row, a_row, B, b_start, b_k, whole, accumulate
            )
            done += BLOCK_ROWS
        if rows - done >= TILE:
            multiply_half_block(
                C, c_start + done * ldc, ldc, A, a_start + done * a_row, a_row, B, b_start, b_k, whole, accumulate
            )
            done += TILE
        if done < rows:
            multiply_few_rows(
                C, c_start + done * ldc, ldc, rows - done, A, a_start + done * a_row, a_row, B, b_start, b_k, whole,
                accumulate,
            )  # fmt: skip
        accumulate = 1
    if whole < K:
        _product_of_vectors(
            C, c_start, ldc, rows, columns, A, a_start + whole, a_row, a_k, B, b_start + whole * b_k, b_k, K - whole,
            accumulate,
        )  # fmt: skip
