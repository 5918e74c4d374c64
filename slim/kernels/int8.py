"""Weights in 8 bits for decoding: half the bytes of bfloat16 to read, which is what a single text waits for.

    y[n] = s_x * s_w[n] * sum over k of q_x[k] * q_w[n, k],     q = round(number / s),  s = largest magnitude / 127

Each row of a matrix has a scale of its own, and so has the row that it is multiplied with, found anew each time. Four
neighbours along k are a *unit* of 32 bits. The instruction multiplies unsigned with signed bytes, so 128 is added to q_x, and
128 times the sum of q_w is taken off again. A panel is (units of k, NR) like those of tile.py, followed by a row of NR
scales (float32) and one of NR sums (int32), so it is read as one piece.
"""

from __future__ import annotations

import numpy as np
from llvmlite import binding, ir
from numba import njit, prange, types
from numba.core import config as numba_config
from numba.extending import intrinsic, register_jitable

from slim.kernels import INSIDE, PARALLEL
from slim.kernels.elementary import bits_of, float_of
from slim.kernels.emit import F32, I1, I32, I64, Places, const, function, splat
from slim.kernels.operand import load
from slim.kernels.tile import LANES, NR, ROWS, ROWS_PANELS, VECTOR, VECTORS, WIDE

_FEATURES = binding.get_host_cpu_features()
# The instruction that multiplies bytes by fours and adds: without it 8 bits would be slower than 32.
# With 8 lanes forced (see __init__.py) the compiler is told of an older CPU.
HAS_INT8 = numba_config.CPU_NAME is None and bool(_FEATURES.get("avx512vnni" if LANES == 16 else "avxvnni"))
PER_UNIT = 4
FOOTER = 2  # rows of a panel behind those of k: scales and sums
LARGEST = np.float32(127.0)
TINY = np.float32(1e-30)  # a row of zeros has this scale
INTEGERS = ir.VectorType(I32, LANES)
BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)


def _units8(n: int) -> int:
    """How many units hold n numbers."""
    return -(-n // PER_UNIT)


units8 = register_jitable(_units8)


def packed_size8(columns: int, k: int) -> int:
    """Bytes of the panels of a (columns, k) matrix; the tiles take several panels at a time, read or not."""
    return -(-columns // (WIDE * NR)) * WIDE * NR * (units8(k) + FOOTER) * PER_UNIT


def _make_tile(rows: int, panels: int):
    """An intrinsic for `rows` rows of bytes and `panels` panels; the first `columns` are written.

    C (+)= of float32; A holds the bytes of a row from unit a_start on; `scales` the s_x of the rows, scale_row apart.
    """
    cells = [(r, p, v) for r in range(rows) for p in range(panels) for v in range(VECTORS)]

    @intrinsic
    def tile(
        typing_context, C, c_start, c_row, columns, A, a_start, a_row, scales, scale_start, scale_row, B, b_start, K,
        accumulate,
    ):  # fmt: skip
        i = types.intp
        signature = types.void(C, i, i, i, A, i, i, scales, i, i, B, i, i, i)

        def codegen(context, b, sig, args):
            _, c_start, c_row, columns, _, a_start, a_row = args[:7]
            _, scale_start, scale_row, _, b_start, K, accumulate = args[7:]

            places = Places(context, b, sig, args)

            def load_vector(pointer, kind):
                value = b.load(b.bitcast(pointer, kind.as_pointer()))
                value.align = 4
                return value

            c_base, a_base = places.at(0, c_start, F32), places.at(4, a_start, I32)
            s_base, b_base = places.at(7, scale_start, F32), places.at(10, b_start, I32)
            dot = function(b, f"x86.avx512.vpdpbusd.{32 * LANES}", INTEGERS, INTEGERS, BYTES, BYTES)
            panel = b.mul(b.add(K, const(FOOTER)), const(NR))
            panel_base = [b.gep(b_base, [b.mul(panel, const(p))]) for p in range(panels)]

            before, caller = b.block, b.function
            loop, done = caller.append_basic_block("k_loop"), caller.append_basic_block("k_done")
            b.branch(loop)
            b.position_at_end(loop)
            k = b.phi(I64)
            k.add_incoming(const(0), before)
            sums = [b.phi(INTEGERS) for _ in cells]
            for phi in sums:
                phi.add_incoming(ir.Constant(INTEGERS, [0] * LANES), before)
            along = b.mul(k, const(NR))
            b_vectors = {
                (p, v): load_vector(b.gep(panel_base[p], [b.add(along, const(v * LANES))]), BYTES)
                for p in range(panels) for v in range(VECTORS)
            }  # fmt: skip
            new = []
            for r in range(rows):
                unit = b.load(b.gep(a_base, [b.add(b.mul(a_row, const(r)), k)]))
                unit.align = 4
                a_vector = b.bitcast(splat(b, unit, I32, LANES), BYTES)
                for p in range(panels):
                    for v in range(VECTORS):
                        new.append(b.call(dot, [sums[cells.index((r, p, v))], a_vector, b_vectors[p, v]]))
            k_next = b.add(k, const(1))
            k.add_incoming(k_next, loop)
            for phi, value in zip(sums, new):
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", k_next, K), loop, done)

            b.position_at_end(done)
            mask_type = ir.VectorType(ir.IntType(1), LANES)
            masked = (VECTOR.as_pointer(), I32, mask_type)
            masked_load = function(b, f"masked.load.v{LANES}f32.p0", VECTOR, *masked, VECTOR)
            masked_store = function(b, f"masked.store.v{LANES}f32.p0", ir.VoidType(), VECTOR, *masked)
            lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
            zero, align = ir.Constant(VECTOR, [0.0] * LANES), ir.Constant(I32, 4)
            adds = splat(b, b.icmp_signed("!=", accumulate, const(0)), I1, LANES)
            row_scale = []
            for r in range(rows):
                scale = b.load(b.gep(s_base, [b.mul(scale_row, const(r))]))
                scale.align = 4
                row_scale.append(splat(b, scale, F32, LANES))
            for p in range(panels):
                footer = b.gep(panel_base[p], [b.mul(K, const(NR))])
                for v in range(VECTORS):
                    column_scale = load_vector(b.gep(footer, [const(v * LANES)]), VECTOR)
                    column_sum = load_vector(b.gep(footer, [const(NR + v * LANES)]), INTEGERS)
                    left = b.sub(columns, const((p * VECTORS + v) * LANES))
                    mask = b.icmp_signed("<", lanes, splat(b, left, I64, LANES))
                    for r in range(rows):
                        place = b.add(b.mul(c_row, const(r)), const((p * VECTORS + v) * LANES))
                        pointer = b.bitcast(b.gep(c_base, [place]), VECTOR.as_pointer())
                        whole = b.sitofp(b.sub(new[cells.index((r, p, v))], column_sum), VECTOR)
                        value = b.fmul(whole, b.fmul(row_scale[r], column_scale))
                        old = b.call(masked_load, [pointer, align, b.and_(mask, adds), zero])
                        b.call(masked_store, [b.fadd(old, value), pointer, align, mask])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _make_plain_tile(rows: int, panels: int):
    """The same block in NumPy, for NUMBA_DISABLE_JIT=1."""

    def tile(C, c_start, c_row, columns, A, a_start, a_row, scales, scale_start, scale_row, B, b_start, K, accumulate):
        a_bytes, b_bytes = A.view(np.uint8), B.view(np.int8)
        for r in range(rows):
            start = (a_start + r * a_row) * PER_UNIT
            a = a_bytes[start : start + K * PER_UNIT].astype(np.int32).reshape(K, PER_UNIT)
            for j in range(min(columns, panels * NR)):
                unit = b_start + j // NR * NR * (K + FOOTER) + j % NR + np.arange(K + FOOTER) * NR
                column = b_bytes.reshape(-1, PER_UNIT)[unit]
                scale = column[K].view(np.float32)[0]
                sums = column[K + 1].view(np.int32)[0]
                total = np.float32(int((a * column[:K]).sum()) - int(sums))
                at = c_start + r * c_row + j
                value = total * np.float32(scales[scale_start + r * scale_row] * scale)
                C[at] = C[at] + value if accumulate else value

    return tile


_make = _make_plain_tile if numba_config.DISABLE_JIT else _make_tile
_tile_wide_row, _tile_rows = _make(1, WIDE), _make(ROWS, ROWS_PANELS)


@njit(**INSIDE)
def _quantize(to, start, x, x_start, n, padded):
    """to[start : start + padded] = n numbers of an operand as bytes, 128 for 0; their scale."""
    magnitude = np.int32(0)
    for i in range(n):  # of integers, so that the loop is vector code
        magnitude = max(magnitude, np.int32(bits_of(load(x, x_start + i)) & np.int32(0x7FFFFFFF)))
    largest = max(float_of(magnitude), TINY)
    by = LARGEST / largest
    row = to[start : start + padded]
    for i in range(n):
        row[i] = np.uint8(np.int32(load(x, x_start + i) * by + np.float32(128.5)))
    for i in range(n, padded):
        row[i] = np.uint8(128)
    return largest / LARGEST


@njit(**INSIDE)
def quantize_rows(quantized, scales, x, x_start, x_row, first, stop, K):
    """quantized (R * width,) uint8 =, scales (R,) =   rows first to stop of x, an operand, x_row apart, K numbers each"""
    width, padded = quantized.size // scales.size, units8(K) * PER_UNIT
    for r in range(first, stop):
        scales[r] = _quantize(quantized, r * width, x, x_start + r * x_row, K, padded)


@njit(**INSIDE)
def multiply8(y, y_start, y_row, first, stop, panels, start, begin, end, K, accumulate, quantized, scales):
    """Rows first to stop of y, y_row apart, columns begin to end of them, (+)= x W^T

    W (N, K) in panels from byte `start` on; begin: a multiple of WIDE * NR; x as quantize_rows left it
    """
    units = (K + PER_UNIT - 1) // PER_UNIT
    row_units, at = quantized.size // scales.size // PER_UNIT, start // PER_UNIT
    grouped = first
    while stop - grouped >= ROWS:
        for n in range(begin, end, ROWS_PANELS * NR):
            _tile_rows(
                y, y_start + grouped * y_row + n, y_row, end - n, quantized, grouped * row_units, row_units, scales, grouped,
                1, panels, at + n * (units + FOOTER), units, accumulate,
            )  # fmt: skip
        grouped += ROWS
    for r in range(grouped, stop):
        for n in range(begin, end, WIDE * NR):
            _tile_wide_row(
                y, y_start + r * y_row + n, 0, end - n, quantized, r * row_units, 0, scales, r, 0, panels,
                at + n * (units + FOOTER), units, accumulate,
            )  # fmt: skip


@njit(**PARALLEL)
def pack8(panels, start, weight):
    """panels (n,) int8 = from byte `start` on, the panels of weight (N, K) float32, with their scales and sums"""
    N, K = weight.shape
    units = (K + PER_UNIT - 1) // PER_UNIT
    size = NR * (units + FOOTER) * PER_UNIT
    for p in prange((N + NR - 1) // NR):
        panel = panels[start + p * size : start + (p + 1) * size]
        scales = panel[NR * units * PER_UNIT :].view(np.float32)
        sums = panel[NR * (units + 1) * PER_UNIT :].view(np.int32)
        for j in range(NR):
            n, total = p * NR + j, np.int32(0)
            largest = TINY
            if n < N:
                for k in range(K):
                    largest = max(largest, abs(weight[n, k]))
            by = LARGEST / largest
            for k in range(units * PER_UNIT):
                q = np.int32(np.floor(weight[n, k] * by + np.float32(0.5))) if n < N and k < K else np.int32(0)
                panel[(k // PER_UNIT * NR + j) * PER_UNIT + k % PER_UNIT] = np.int8(q)
                total += q
            scales[j] = largest / LARGEST
            sums[j] = np.int32(128) * total
