"""float32 in fewer bits: bfloat16 and float16, rounded to the nearest, ties to even."""

from __future__ import annotations

import numpy as np

from slim.errors import UsageError


def to_bf16(array: np.ndarray) -> np.ndarray:
    """Finite float32 as the bits of bfloat16, uint16. UsageError where a number is too large for it."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise UsageError("some weights are too large for bf16: use --dtype f32")
    return rounded


def to_f16(array: np.ndarray) -> np.ndarray:
    """Finite float32 as float16. UsageError where a number is too large for it."""
    if array.size and float(np.abs(array).max()) >= 65520.0:
        raise UsageError(
            "some weights are too large for f16 (above 65,504): use --dtype bf16 or f32"
        )
    return array.astype(np.float16)
