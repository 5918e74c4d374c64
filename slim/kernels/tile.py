"""The micro-kernel: a block of a matrix product whose sums stay in vector registers, emitted as LLVM.

    C[rows, columns] (+)= sum over k of A[row, k] * B[k, column]

Each step of k loads one row of B as vectors and multiplies it with one broadcast element of A per row of the tile
(Goto and van de Geijn 2008). A may have any strides, so the same code multiplies by A or by its transpose; rows of B
are contiguous and `NR` wide. The sum runs over k in order, so an element of C does not depend on the shape of the tile.
"""

from __future__ import annotations

import os

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels import SERIAL


def _choose_lanes() -> int:
    """16 floats a vector with AVX-512, else 8 (AVX2; two registers each on NEON). SLIM_LANES=8 forces 8."""
    forced = os.environ.get("SLIM_LANES")
    if forced in ("8", "16"):
        return int(forced)
    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8


LANES = _choose_lanes()
# Registers bound the tile: 8 x 2 sums of 32 with AVX-512, 6 x 2 of 16 with AVX2.
MR, VECTORS = (8, 2) if LANES == 16 else (6, 2)
NR = VECTORS * LANES
WIDE = 4  # panels side by side in the single-row tile: enough independent sums to hide the latency of an FMA


def _make_tile(rows: int, panels: int):
    """An intrinsic for `rows` rows and `panels` panels of NR columns, which lie `b_panel` elements apart."""
    cells = [(r, p, v) for r in range(rows) for p in range(panels) for v in range(VECTORS)]

    @intrinsic
    def tile(typing_context, C, c_start, ldc, columns, A, a_start, a_row, a_k, B, b_start, b_k, b_panel, K, accumulate):
        i = types.intp
        signature = types.void(C, i, i, i, A, i, i, i, B, i, i, i, i, i)

        def codegen(context, b, sig, args):
            c_array, c_start, ldc, columns, a_array, a_start, a_row, a_k = args[:8]
            b_array, b_start, b_k, b_panel, K, accumulate = args[8:]
            F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
            vector, mask_type = ir.VectorType(F32, LANES), ir.VectorType(ir.IntType(1), LANES)
            pointer_type = vector.as_pointer()

            def const(n):
                return ir.Constant(I64, n)

            def base(which, value, start):
                data = context.make_array(sig.args[which])(context, b, value).data
                return b.gep(data, [start])

            def splat(scalar, element):
                undefined = ir.Constant(ir.VectorType(element, LANES), ir.Undefined)
                one = b.insert_element(undefined, scalar, ir.Constant(I32, 0))
                zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
                return b.shuffle_vector(one, undefined, zeros)

            a_base, b_base = base(4, a_array, a_start), base(8, b_array, b_start)
            c_base = base(0, c_array, c_start)
            fma = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
            )
            masked_load = cgutils.get_or_insert_function(
                b.module,
                ir.FunctionType(vector, [pointer_type, I32, mask_type, vector]),
                f"llvm.masked.load.v{LANES}f32.p0",
            )
            masked_store = cgutils.get_or_insert_function(
                b.module,
                ir.FunctionType(ir.VoidType(), [vector, pointer_type, I32, mask_type]),
                f"llvm.masked.store.v{LANES}f32.p0",
            )
            # Columns beyond `columns` belong to somebody else (or to nobody): neither read nor written.
            lane_numbers = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
            masks = {}
            for p in range(panels):
                for v in range(VECTORS):
                    left = b.sub(columns, const((p * VECTORS + v) * LANES))
                    masks[p, v] = b.icmp_signed("<", lane_numbers, splat(left, I64))
            zero = ir.Constant(vector, [0.0] * LANES)
            align = ir.Constant(I32, 4)
            c_row = [b.gep(c_base, [b.mul(ldc, const(r))]) for r in range(rows)]

            def cell_pointer(r, p, v):
                return b.bitcast(b.gep(c_row[r], [const((p * VECTORS + v) * LANES)]), pointer_type)

            with b.if_else(b.icmp_signed("!=", accumulate, const(0))) as (yes, no):
                with yes:
                    loaded = [
                        b.call(masked_load, [cell_pointer(r, p, v), align, masks[p, v], zero]) for r, p, v in cells
                    ]
                    yes_block = b.block
                with no:
                    no_block = b.block
            start = []
            for value in loaded:
                phi = b.phi(vector)
                phi.add_incoming(value, yes_block)
                phi.add_incoming(zero, no_block)
                start.append(phi)

            before, function = b.block, b.function
            loop, done = function.append_basic_block("k_loop"), function.append_basic_block("k_done")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(const(0), before)
            sums = [b.phi(vector) for _ in cells]
            for phi, value in zip(sums, start):
                phi.add_incoming(value, before)
            b_row = b.gep(b_base, [b.mul(k, b_k)])
            b_vectors = {}
            for p in range(panels):
                panel_row = b.gep(b_row, [b.mul(b_panel, const(p))]) if p else b_row
                for v in range(VECTORS):
                    load = b.load(b.bitcast(b.gep(panel_row, [const(v * LANES)]), pointer_type))
                    load.align = 4
                    b_vectors[p, v] = load
            a_column = b.gep(a_base, [b.mul(k, a_k)])
            new = []
            for r in range(rows):
                scalar = b.load(b.gep(a_column, [b.mul(a_row, const(r))]))
                a_vector = splat(scalar, F32)
                for p in range(panels):
                    for v in range(VECTORS):
                        total = sums[cells.index((r, p, v))]
                        new.append(b.call(fma, [a_vector, b_vectors[p, v], total]))
            k_next = b.add(k, const(1))
            k.add_incoming(k_next, loop)
            for phi, value in zip(sums, new):
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", k_next, K), loop, done)
            b.position_at_end(done)
            for (r, p, v), value in zip(cells, new):
                b.call(masked_store, [value, cell_pointer(r, p, v), align, masks[p, v]])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _make_plain_tile(rows: int, panels: int):
    """The same block in NumPy, for NUMBA_DISABLE_JIT=1, where an intrinsic cannot run."""

    def tile(C, c_start, ldc, columns, A, a_start, a_row, a_k, B, b_start, b_k, b_panel, K, accumulate):
        ks = np.arange(K)
        for r in range(rows):
            a = A[a_start + r * a_row + ks * a_k]
            for j in range(min(columns, panels * NR)):
                b = B[b_start + (j // NR) * b_panel + j % NR + ks * b_k]
                at = c_start + r * ldc + j
                C[at] = (C[at] if accumulate else np.float32(0.0)) + np.dot(a, b)

    return tile


_make = _make_plain_tile if numba_config.DISABLE_JIT else _make_tile
tile_block = _make(MR, 1)
tile_row = _make(1, 1)
tile_wide_row = _make(1, WIDE)


@njit(**{**SERIAL, "cache": False})
def product(C, c_start, ldc, rows, columns, A, a_start, a_row, a_k, B, b_start, b_k, K, accumulate):
    """C[rows, columns] (+)= A @ B for columns <= NR, K >= 1; all arrays 1-D, every row of B readable NR wide."""
    full = rows - rows % MR
    for r in range(0, full, MR):
        tile_block(
            C, c_start + r * ldc, ldc, columns, A, a_start + r * a_row, a_row, a_k, B, b_start, b_k, 0, K, accumulate
        )
    for r in range(full, rows):
        tile_row(
            C, c_start + r * ldc, ldc, columns, A, a_start + r * a_row, a_row, a_k, B, b_start, b_k, 0, K, accumulate
        )
