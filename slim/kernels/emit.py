"""What every emitted kernel is written with: LLVM's types, and the one that llvmlite lacks."""

from __future__ import annotations

from llvmlite import ir


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
