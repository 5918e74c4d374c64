"""Exponential and named reductions in float32, written so that LLVM turns loops over them into vector code.

libm's `expf` is a scalar call: 5 to 10 times slower inside a loop than the polynomial here.

    exp(x) = 2^n * exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2          (Cody and Waite 1980)
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels import INSIDE, INSIDE_SUM

LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts: the first has few enough bits that n * LN2_HIGH is exact.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
# Adding and subtracting 1.5 * 2^23 rounds to the nearest integer; `reassoc` would delete it.
ROUND = np.float32(12582912.0)
EXP_LOWEST = np.float32(-87.0)
EXP_HIGHEST = np.float32(88.0)
# e^r = 1 + r + r^2 (C2 + C3 r + ...) for |r| <= ln(2) / 2: minimax, 3e-9 relative before rounding.
C2, C3, C4 = np.float32(0.49999994), np.float32(0.16666521), np.float32(0.041668274)
C5, C6 = np.float32(0.008368686), np.float32(0.0013820136)
ONE = np.float32(1.0)
ZERO = np.float32(0.0)


@intrinsic
def _power_of_two_bits(typing_context, exponent):
    """2^n for a whole float32 n in [-126, 127], by placing n + 127 into the exponent bits."""

    def codegen(context, builder, signature, arguments):
        integer = ir.IntType(32)
        n = builder.fptosi(arguments[0], integer)
        bits = builder.shl(builder.add(n, ir.Constant(integer, 127)), ir.Constant(integer, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), codegen


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float32 that has these bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _bits_of_float(typing_context, x):
    """The bits of a float32."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def _bits_of_plain(x):
    return np.float32(x).view(np.int32)


def _float_of_plain(bits):
    return np.int32(bits).view(np.float32)


def _power_of_two_plain(exponent):
    return np.float32(2.0) ** np.float32(exponent)


if numba_config.DISABLE_JIT:
    _power_of_two, float_of, bits_of = _power_of_two_plain, _float_of_plain, _bits_of_plain
else:
    # float_of(bits), bits_of(x): a float32 and its bits as an int32
    _power_of_two, float_of, bits_of = _power_of_two_bits, _float_of_bits, _bits_of_float


@njit(**INSIDE)
def exp(x):
    """e^x for float32 x within 2e-7 relative; x below -87 gives e^-87 (1e-38), above 88 e^88."""
    x = min(max(x, EXP_LOWEST), EXP_HIGHEST)
    n = (x * LOG2_E + ROUND) - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = C6
    p = p * r + C5
    p = p * r + C4
    p = p * r + C3
    p = p * r + C2
    p = (p * r) * r + (r + ONE)
    return p * _power_of_two(n)


# The functions below cut a slice first: an index that starts at 0 is known not to be negative, and only then is the
# loop turned into vector code (Numba wraps a negative index around). That makes them 5 to 10 times faster.


@njit(**INSIDE_SUM)
def row_sum(x, start, n):
    """Sum of x[start : start + n]."""
    row = x[start : start + n]
    total = ZERO
    for i in range(n):
        total += row[i]
    return total


@njit(**INSIDE_SUM)
def dot(x, x_start, y, y_start, n):
    """Inner product of n elements of x and y."""
    a, b = x[x_start : x_start + n], y[y_start : y_start + n]
    total = ZERO
    for i in range(n):
        total += a[i] * b[i]
    return total


@njit(**INSIDE)
def _ordered(bits):
    """Bits of a float32 as an integer that is ordered as the numbers are, and the other way round."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(**INSIDE)
def row_max(x, start, n):
    """Largest of x[start : start + n], n >= 1. A NaN may be passed over: whoever sums the row afterwards sees it.

    Of integers: a loop over floats would have to look at NaN, and takes 15 times as long.
    """
    bits = x[start : start + n].view(np.int32)
    largest = np.int32(-0x80000000)
    for i in range(n):
        largest = max(largest, np.int32(_ordered(bits[i])))
    return float_of(np.int32(_ordered(largest)))


@njit(**INSIDE)
def exp_row(x, start, n, shift):
    """x[start : start + n] = e^(x - shift), in place."""
    row = x[start : start + n]
    for i in range(n):
        row[i] = exp(row[i] - shift)


@njit(**INSIDE)
def scale_row(x, start, n, factor):
    """x[start : start + n] *= factor."""
    row = x[start : start + n]
    for i in range(n):
        row[i] *= factor


@njit(**INSIDE)
def fill_row(x, start, n, value):
    """x[start : start + n] = value."""
    row = x[start : start + n]
    for i in range(n):
        row[i] = value
