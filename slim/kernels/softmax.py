"""The softmax of attention over rows of a block of scores, and its gradient, emitted as vector code.

Rows are short and of every length, so what a compiler makes of a loop over them spends most of its time on what is left
over. Here a row is taken in whole strips of NR, and what lies behind its last visible key is nothing: neither the largest,
nor part of the sum, and written as zero. Loops in plain Python take 1.6 times as long for the whole of attention.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels import elementary
from slim.kernels.emit import F32, I16, I32, I64, Places, function, splat
from slim.kernels.tile import LANES, NARROW, NR, VECTOR, VECTORS, round_to_bf16

INTEGERS = ir.VectorType(I32, LANES)
LOWEST = np.float32(-1e30)


class _Vectors(Places):
    """A builder's view of float32 vectors: places in an array, masks of a row's visible part, and the exponential."""

    def constant(self, value) -> ir.Constant:
        return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)

    def splat(self, scalar, element=F32):
        return splat(self.b, scalar, element, LANES)

    def pointer(self, argument: int, place, element, vector):
        return self.b.bitcast(self.at(argument, place, element), vector.as_pointer())

    def load(self, argument: int, place):
        value = self.b.load(self.pointer(argument, place, F32, VECTOR))
        value.align = 4
        return value

    def narrow(self, value):
        function = self.function("x86.avx512bf16.cvtneps2bf16.512", NARROW, VECTOR)
        return self.b.bitcast(self.b.call(function, [value]), ir.VectorType(I16, LANES))

    def store_operand(self, argument: int, place, value) -> None:
        """A vector of numbers, at the number `place`."""
        if self.signature.args[argument].dtype == types.float32:
            self.b.store(value, self.pointer(argument, place, F32, VECTOR)).align = 4
        else:
            narrow = self.narrow(value)
            self.b.store(narrow, self.pointer(argument, place, I16, narrow.type)).align = 2

    def store_pairs(self, argument: int, place, first, second) -> None:
        """LANES units of a number of each vector, at the unit `place`."""
        wide = ir.VectorType(I16, 2 * LANES)
        order = [lane for j in range(LANES) for lane in (j, LANES + j)]
        mask = ir.Constant(ir.VectorType(I32, 2 * LANES), order)
        pairs = self.b.shuffle_vector(self.narrow(first), self.narrow(second), mask)
        self.b.store(pairs, self.pointer(argument, place, I32, wide)).align = 4

    def function(self, name, result, *arguments):
        return function(self.b, name, result, *arguments)

    def fma(self, x, y, z):
        return self.b.call(self.function(f"fma.v{LANES}f32", VECTOR, VECTOR, VECTOR, VECTOR), [x, y, z])

    def visible(self, i, seen):
        """Which lanes of vector number i lie in the first `seen` numbers of the row."""
        lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        left = self.b.sub(seen, self.b.mul(i, ir.Constant(I64, LANES)))
        return self.b.icmp_signed("<", lanes, self.splat(left, I64))

    def exp(self, x):
        """e^x, as `elementary.exp` has it."""
        b, c = self.b, self.constant
        lowest, highest = c(elementary.EXP_LOWEST), c(elementary.EXP_HIGHEST)
        x = b.select(b.fcmp_ordered("<", x, lowest), lowest, x)  # a NaN stays one
        x = b.select(b.fcmp_ordered(">", x, highest), highest, x)
        n = b.fsub(self.fma(x, c(elementary.LOG2_E), c(elementary.ROUND)), c(elementary.ROUND))
        r = self.fma(n, c(-elementary.LN2_HIGH), x)
        r = self.fma(n, c(-elementary.LN2_LOW), r)
        p = c(elementary.C6)
        for coefficient in (elementary.C5, elementary.C4, elementary.C3, elementary.C2):
            p = self.fma(p, r, c(coefficient))
        p = self.fma(b.fmul(p, r), r, b.fadd(r, c(1.0)))
        exponent = b.add(b.fptosi(n, INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
        power = b.shl(exponent, ir.Constant(INTEGERS, [23] * LANES))
        return b.fmul(p, b.bitcast(power, VECTOR))

    def loop(self, seen, carried, body):
        """body(i, place, values) -> values for each vector of the strips that hold `seen` >= 1 numbers; the last values."""
        b = self.b
        strips = b.udiv(b.add(seen, ir.Constant(I64, NR - 1)), ir.Constant(I64, NR))
        count = b.mul(strips, ir.Constant(I64, VECTORS))
        before, function = b.block, b.function
        head, done = function.append_basic_block("strip"), function.append_basic_block("strips_done")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(ir.Constant(I64, 0), before)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried):
            phi.add_incoming(value, before)
        new = body(i, b.mul(i, ir.Constant(I64, LANES)), phis)
        following = b.add(i, ir.Constant(I64, 1))
        i.add_incoming(following, head)
        for phi, value in zip(phis, new):
            phi.add_incoming(value, head)
        b.cbranch(b.icmp_signed("<", following, count), head, done)
        b.position_at_end(done)
        return new


@intrinsic
def _row_largest(typing_context, x, start, seen):
    def codegen(context, b, signature, arguments):
        v = _Vectors(context, b, signature, arguments)
        _, start, seen = arguments
        lowest = v.constant(LOWEST)

        def body(i, at, values):
            value = b.select(v.visible(i, seen), v.load(0, b.add(start, at)), lowest)
            return [b.select(b.fcmp_ordered(">", value, values[0]), value, values[0])]

        (largest,) = v.loop(seen, [lowest], body)
        reduce = v.function(f"vector.reduce.fmax.v{LANES}f32", F32, VECTOR)
        return b.call(reduce, [largest], fastmath=("nnan",))

    return types.float32(x, types.intp, types.intp), codegen


@intrinsic
def _softmax_row(typing_context, to, at, x, start, seen, scale, shift):
    def codegen(context, b, signature, arguments):
        v = _Vectors(context, b, signature, arguments)
        _, at, _, start, seen, scale, shift = arguments
        scale, shift, zero = v.splat(scale), v.splat(b.fneg(shift)), v.constant(0.0)

        def body(i, place, values):
            e = v.exp(v.fma(v.load(2, b.add(start, place)), scale, shift))
            e = b.select(v.visible(i, seen), e, zero)
            v.store_operand(0, b.add(at, place), e)
            return [b.fadd(values[0], e)]

        (total,) = v.loop(seen, [zero], body)
        reduce = v.function(f"vector.reduce.fadd.v{LANES}f32", F32, F32, VECTOR)
        return b.call(reduce, [ir.Constant(F32, 0.0), total], fastmath=("reassoc",))

    i, f = types.intp, types.float32
    return f(to, i, x, i, i, f, f), codegen


@intrinsic
def _softmax_gradient_rows(
    typing_context, to, p_at, ds_at, ds_row, width, x, p, dp, stride, seen, seen_second,
    scale, shift, shift_second, delta, delta_second,
):  # fmt: skip
    def codegen(context, b, signature, arguments):
        v = _Vectors(context, b, signature, arguments)
        _, p_at, ds_at, ds_row, width, _, p, dp, stride, *_ = arguments
        seen, scale = arguments[9:11], v.splat(arguments[11])
        shift, delta = [v.splat(b.fneg(s)) for s in arguments[12:14]], [v.splat(d) for d in arguments[14:16]]
        zero, paired = v.constant(0.0), signature.args[0].dtype != types.float32

        def body(i, place, values):
            rows = []
            for r in range(2):
                here = b.add(place, stride) if r else place
                e = v.exp(v.fma(v.load(5, b.add(p, here)), scale, shift[r]))
                e = b.select(v.visible(i, seen[r]), e, zero)
                ds = b.fmul(b.fmul(e, b.fsub(v.load(5, b.add(dp, here)), delta[r])), scale)
                rows.append((e, b.select(v.visible(i, seen[r]), ds, zero)))
            for r, (e, ds) in enumerate(rows):
                below = b.add(place, width) if r else place
                v.store_operand(0, b.add(ds_row, below), ds)
                if not paired:
                    v.store_operand(0, b.add(p_at, below), e)
            if paired:
                v.store_pairs(0, b.add(p_at, place), rows[0][0], rows[1][0])
                v.store_pairs(0, b.add(ds_at, place), rows[0][1], rows[1][1])
            return []

        longest = b.select(b.icmp_signed(">", seen[0], seen[1]), *seen)
        v.loop(longest, [], body)
        return context.get_dummy_value()

    i, f = types.intp, types.float32
    return types.void(to, i, i, i, i, x, i, i, i, i, i, f, f, f, f, f), codegen


# The same in NumPy, for NUMBA_DISABLE_JIT=1.


def _row_largest_plain(x, start, seen):
    return x[start : start + seen].max()


def _write(to, at, values):
    to[at : at + values.size] = values if to.dtype == np.float32 else round_to_bf16(values)


def _strip(x, start, seen, longest):
    """The numbers of whole strips, and which of them are visible."""
    width = -(-longest // NR) * NR
    return x[start : start + width], np.arange(width) < seen


def _softmax_row_plain(to, at, x, start, seen, scale, shift):
    s, visible = _strip(x, start, seen, seen)
    with np.errstate(all="ignore"):
        e = np.where(visible, np.exp(s * scale - shift), 0).astype(np.float32)
    _write(to, at, e)
    return e.sum()


def _softmax_gradient_rows_plain(
    to, p_at, ds_at, ds_row, width, x, p, dp, stride, seen, seen_second, scale, shift, shift_second, delta, delta_second
):  # fmt: skip
    rows = []
    for r, (n, s, d) in enumerate(((seen, shift, delta), (seen_second, shift_second, delta_second))):
        score, visible = _strip(x, p + r * stride, n, max(seen, seen_second))
        upstream, _ = _strip(x, dp + r * stride, n, max(seen, seen_second))
        with np.errstate(all="ignore"):
            e = np.where(visible, np.exp(score * scale - s), 0).astype(np.float32)
            ds = np.where(visible, e * (upstream - d) * scale, 0).astype(np.float32)
        _write(to, ds_row + r * width, ds)
        rows.append((e, ds))
    for place, values in ((p_at, [e for e, _ in rows]), (ds_at, [ds for _, ds in rows])):
        if to.dtype == np.float32:
            for r, row in enumerate(values):
                _write(to, place + r * width, row)
        else:
            _write(to, 2 * place, np.stack(values, axis=1).reshape(-1))


if numba_config.DISABLE_JIT:
    row_largest, softmax_row = _row_largest_plain, _softmax_row_plain
    softmax_gradient_rows = _softmax_gradient_rows_plain
else:
    # row_largest(x, start, seen): the largest of x[start : start + seen]
    row_largest = _row_largest
    # softmax_row(to, at, x, start, seen, scale, shift): to[at:] = e^(scale * x - shift), and its sum
    softmax_row = _softmax_row
    # softmax_gradient_rows: of two rows of scores, `stride` apart at `p`, and of their upstream gradients at `dp`,
    #     P = e^(scale * s - shift) and dS = P * (dp - delta) * scale
    # dS goes to ds_row, in two rows `width` apart; P to p_at and dS to ds_at as pairs along the rows, in units. With
    # float32 there are no pairs: P goes to p_at in rows, and ds_at is not used.
    softmax_gradient_rows = _softmax_gradient_rows
