"""What every emitted kernel is written with: LLVM's types, the one that llvmlite lacks, and places in arrays."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils


class _BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite does not know: it only has to print its name."""

    def __str__(self) -> str:
        return "bfloat"

    _to_string = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


BFLOAT = _BFloat()
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, VOID = ir.FloatType(), ir.VoidType()


def const(n: int) -> ir.Constant:
    """A 64-bit integer, as places and strides are."""
    return ir.Constant(I64, n)


def function(b, name, result, *arguments):
    """An intrinsic function of LLVM's, declared where it is used."""
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(result, arguments), f"llvm.{name}")


def splat(b, scalar, element, lanes):
    """A vector of so many times the same."""
    undefined = ir.Constant(ir.VectorType(element, lanes), ir.Undefined)
    one = b.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


LINE_BYTES = 64  # of the caches: what is fetched at a time


def fetch_line(b, place, write=False, cache=1):
    """Ask for the cache line at a pointer to bytes without waiting for it: to be written or read, in that level's cache."""
    kinds = (I8.as_pointer(), I32, I32, I32)
    flags = [ir.Constant(I32, flag) for flag in (int(write), 4 - cache, 1)]  # LLVM counts caches from afar; 1: data
    b.call(function(b, "prefetch.p0i8", VOID, *kinds), [place, *flags])


class Places:
    """The arrays among the arguments of an intrinsic, seen as elements of any type."""

    def __init__(self, context, b, signature, arguments) -> None:
        self.context, self.b, self.signature, self.arguments = context, b, signature, arguments

    def at(self, which, start, element):
        """Where element number `start` of argument number `which` is."""
        array = self.context.make_array(self.signature.args[which])(self.context, self.b, self.arguments[which])
        return self.b.gep(self.b.bitcast(array.data, element.as_pointer()), [start])
