"""Operands of matrix products: float32, or bfloat16 kept as uint16 (the upper half of a float32).

Kernels that produce or read operands are written once: `load` and `store` convert where the array is bfloat16, to the
nearest and of two equally near to the even one, and compile to nothing more where it is float32.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels import INSIDE, INSIDE_SUM
from slim.kernels.tile import HAS_BF16

F32, I16, I32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)


def operand_dtype(precision: str) -> type:
    """The dtype of operand arrays under "fp32", "bf16" or "int8"; what is not in 8 bits is as short as it can be."""
    return np.uint16 if precision == "bf16" or (precision == "int8" and HAS_BF16) else np.float32


def units(n: int, dtype: type) -> int:
    """How many 32-bit units hold n neighbouring numbers of an operand."""
    return n if dtype == np.float32 else (n + 1) // 2


@intrinsic
def _per_unit(typing_context, x):
    count = 1 if x.dtype == types.float32 else 2

    def codegen(context, b, signature, arguments):
        return context.get_constant(types.intp, count)

    return types.intp(x), codegen


def _place(context, b, kind, array, index):
    return b.gep(context.make_array(kind)(context, b, array).data, [index])


@intrinsic
def _load(typing_context, x, i):
    def codegen(context, b, signature, arguments):
        value = b.load(_place(context, b, x, *arguments))
        if x.dtype == types.float32:
            return value
        return b.bitcast(b.shl(b.zext(value, I32), ir.Constant(I32, 16)), F32)

    return types.float32(x, types.intp), codegen


@intrinsic
def _store(typing_context, x, i, value):
    def codegen(context, b, signature, arguments):
        array, index, value = arguments
        if x.dtype != types.float32:
            # A NaN whose last 17 bits are nearly all ones carries over to 0, but no arithmetic makes one: the machine's
            # NaN ends with zeros. To keep those too takes 15 % more of rmsnorm, 25 % of swiglu_backward, 60 % of pack.
            bits = b.bitcast(value, I32)
            odd = b.and_(b.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
            rounded = b.add(b.add(bits, ir.Constant(I32, 0x7FFF)), odd)
            value = b.trunc(b.lshr(rounded, ir.Constant(I32, 16)), I16)
        b.store(value, _place(context, b, x, array, index))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.float32), codegen


def _per_unit_plain(x):
    return 1 if x.dtype == np.float32 else 2


def _load_plain(x, i):
    if x.dtype == np.float32:
        return x[i]
    return (x[i : i + 1].astype(np.uint32) << 16).view(np.float32)[0]


def _store_plain(x, i, value):
    if x.dtype == np.float32:
        x[i] = value
    else:
        bits = int(np.float32(value).view(np.uint32))
        x[i] = (bits + 0x7FFF + (bits >> 16 & 1) >> 16) & 0xFFFF


@intrinsic
def _copy_unit(typing_context, to, at, x, place):
    def codegen(context, b, signature, arguments):
        to_array, at, x_array, place = arguments
        target, source = (
            b.bitcast(context.make_array(kind)(context, b, array).data, I32.as_pointer())
            for kind, array in ((signature.args[0], to_array), (signature.args[2], x_array))
        )
        value = b.load(b.gep(source, [place]))
        value.align = 4
        b.store(value, b.gep(target, [at])).align = 4
        return context.get_dummy_value()

    return types.void(to, types.intp, x, types.intp), codegen


def _copy_unit_plain(to, at, x, place):
    per = _per_unit_plain(x)
    to[at * per : at * per + per] = x[place * per : place * per + per]


if numba_config.DISABLE_JIT:
    per_unit, load, store, copy_unit = _per_unit_plain, _load_plain, _store_plain, _copy_unit_plain
else:
    # x, to: 1-D contiguous, float32 or uint16. Places are not checked; they count numbers, those of copy_unit units.
    per_unit, load, store, copy_unit = _per_unit, _load, _store, _copy_unit


@njit(**INSIDE)
def store_row(to, start, x, x_start, n):
    """to[start : start + n] = x[x_start : x_start + n], float32 made operand."""
    row = x[x_start : x_start + n]
    for j in range(n):
        store(to, start + j, row[j])


@njit(**INSIDE)
def clear_row(x, start, n):
    """x[start : start + n] = 0."""
    row = x[start : start + n]
    for j in range(n):
        row[j] = 0


@njit(**INSIDE_SUM)
def operand_dot(x, x_start, y, y_start, n):
    """Inner product of n numbers of two operands, in float32."""
    a, b = x[x_start : x_start + n], y[y_start : y_start + n]
    total = np.float32(0.0)
    for i in range(n):
        total += load(a, i) * load(b, i)
    return total
