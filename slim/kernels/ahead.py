"""Asking for memory ahead of its use, where the processor does not by itself.

It follows rows that lie one behind the other, but not from one page of 4 KiB to the next, and not to the next row of a block
that is a part of a wide matrix. Where each row of a block is a page of its own it waits for memory at every row: to ask for
the next block while one is multiplied makes some products a half faster.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from slim.kernels.emit import I8, I64, LINE_BYTES, Places, const, fetch_line


def _make_ask(write: bool):
    @intrinsic
    def ask(typing_context, x, start, row, rows, count):
        i = types.intp

        def codegen(context, b, sig, args):
            _, start, row, rows, count = args
            size = sig.args[0].dtype.bitwidth // 8
            base = Places(context, b, sig, args).at(0, const(0), I8)
            with cgutils.for_range(b, rows) as loop:
                first = b.add(start, b.mul(loop.index, row))
                with cgutils.for_range_slice(b, const(0), count, const(LINE_BYTES // size), I64) as (j, _):
                    fetch_line(b, b.gep(base, [b.mul(b.add(first, j), const(size))]), write)
            return context.get_dummy_value()

        return types.void(x, i, i, i, i), codegen

    return ask


def _ask_nothing(x, start, row, rows, count):
    pass


if numba_config.DISABLE_JIT:
    expect_to_read = expect_to_write = _ask_nothing
else:
    # expect_to_read(x, start, row, rows, count): so many rows of `count` numbers of x, `row` numbers apart from `start` on;
    # x: 1-D. Where there is no such memory nothing happens, so nobody has to look where an array ends.
    expect_to_read, expect_to_write = _make_ask(False), _make_ask(True)
