"""A panel times a few rows in AMX's tiles, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from slim.kernels.amx import HAS_AMX, end_tiles, multiply_panel, shape_tiles
from slim.kernels.tile import NR, round_to_bf16

UNITS, STRIDE, BEFORE = 48, 40, 3

pytestmark = pytest.mark.skipif(not HAS_AMX, reason="this machine has no AMX, or it is switched off")


def test_few_rows_are_multiplied_each_as_alone() -> None:
    """Whole panels and the first columns of one; nothing else is written; a row comes out the same among any others."""

    @njit
    def multiply(C, start, rows, columns, A, a_start, B, accumulate):  # type: ignore[no-untyped-def]
        shape_tiles(B, rows)
        multiply_panel(C, start, STRIDE, rows, columns, A, a_start, UNITS, B, 0, UNITS, accumulate)
        end_tiles()

    random = np.random.default_rng(0)
    A = round_to_bf16(random.standard_normal(16 * UNITS * 2))
    B = round_to_bf16(random.standard_normal(UNITS * NR * 2))
    a = wide(A).reshape(16, 2 * UNITS)
    b = wide(B).reshape(UNITS, NR, 2).transpose(0, 2, 1).reshape(2 * UNITS, NR)
    for rows in (1, 5, 16):
        for columns in (1, 7, NR - 1, NR):
            for accumulate in (0, 1):
                C = np.ones(BEFORE + 16 * STRIDE, np.float32)
                multiply(C, BEFORE, rows, columns, A, 0, B, accumulate)
                expected = np.ones_like(C, np.float64)
                block = expected[BEFORE:].reshape(16, STRIDE)[:rows, :columns]
                block[...] = a[:rows] @ b[:, :columns] + accumulate
                np.testing.assert_allclose(C, expected, rtol=1e-5, atol=2e-5)
                last = C[BEFORE:].reshape(16, STRIDE)[rows - 1, :columns]
                alone = np.ones(STRIDE, np.float32)
                multiply(alone, 0, 1, columns, A, (rows - 1) * UNITS, B, accumulate)
                assert last.tobytes() == alone[:columns].tobytes()


def wide(x: np.ndarray) -> np.ndarray:
    """bfloat16 as float64."""
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
