"""Float32 as three bfloat16: nothing of a number is lost, and products are as exact as float32's own."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from buffers import Buffers
from slim.kernels.amx import HAS_AMX
from slim.kernels.matmul import matmul, pack, packed_size, product_scratch_size
from slim.kernels.parts import BLOCK, SIDE, split_rows, split_steps, split_turned
from slim.kernels.turning import TILE

pytestmark = pytest.mark.skipif(not HAS_AMX, reason="only where float32 is multiplied on AMX")
SPREAD = 80  # powers of two between the largest and the smallest numbers of a block


@njit(nogil=True)
def rows_to_parts(to, at, x, start, x_row):  # type: ignore[no-untyped-def]
    split_rows(to, at, x, start, x_row)


@njit(nogil=True)
def steps_to_parts(to, at, x, start, x_row):  # type: ignore[no-untyped-def]
    split_steps(to, at, x, start, x_row)


@njit(nogil=True)
def turned_to_parts(to, at, x, start, x_row):  # type: ignore[no-untyped-def]
    split_turned(to, at, x, start, x_row)


def numbers_of(parts: np.ndarray) -> np.ndarray:
    """(3, 2, TILE, TILE, 2) float64 of a block: part, tile, row, unit, and which of the two in it."""
    bits = parts.view(np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64).reshape(3, 2, TILE, TILE, 2)


@pytest.mark.parametrize("split", ["rows", "steps", "turned"])
def test_a_block_is_the_sum_of_its_parts(split: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SIDE * 41 + 3) * 2.0 ** rng.integers(-SPREAD // 2, SPREAD // 2, SIDE * 41 + 3)
    b = Buffers()
    given, to = b.given(x.astype(np.float32)), b.output(BLOCK + 9)
    {"rows": rows_to_parts, "steps": steps_to_parts, "turned": turned_to_parts}[split](to, 5, given, 3, 41)
    b.assert_only_read()
    assert np.isnan(to[:5]).all()
    assert np.isnan(to[5 + BLOCK :]).all()
    block = given[3:].reshape(SIDE, 41)[:, :SIDE].astype(np.float64)
    parts = numbers_of(to[5 : 5 + BLOCK].copy())
    # A unit holds steps j and j + TILE of k; tiles of A are halves of its rows, tiles of B of its columns.
    by_row = parts.sum(axis=0).transpose(0, 1, 3, 2).reshape(SIDE, SIDE)
    by_step = parts.sum(axis=0).transpose(3, 1, 0, 2).reshape(SIDE, SIDE)
    assert np.array_equal({"rows": by_row, "steps": by_step, "turned": by_row.T}[split], block)
    sizes = np.abs(parts).max(axis=(1, 2, 3, 4))
    assert sizes[0] > 100 * sizes[1] > 10_000 * sizes[2] > 0


def product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    b = Buffers()
    panels = b.output(packed_size(*weight.shape, np.float32))
    pack(panels, np.empty(0, np.float32), weight)
    out = b.output(len(x), len(weight))
    matmul(out, x, panels, b.output(2, product_scratch_size(np.float32)))
    return out


@pytest.mark.parametrize("K", [1, 32, 256, 1000])
def test_products_are_as_exact_as_those_of_float32(K: int) -> None:
    """No more than two roundings of a product, then fewer than one a step; the mean error is that of sums step by step."""
    rng = np.random.default_rng(K)
    x, weight = (rng.standard_normal((n, K)).astype(np.float32) for n in (70, 90))
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    size = np.abs(x.astype(np.float64)) @ np.abs(weight.T.astype(np.float64))
    error = np.abs(product(x, weight) - exact) / size
    assert error.max() < 2.0**-24 * (2 + K / 8)
    plain = np.zeros_like(exact, np.float32)
    for k in range(K):
        plain += x[:, k, None] * weight[None, :, k]
    assert error.mean() < 1.1 * (np.abs(plain - exact) / size).mean() + 2.0**-27


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_its_row_alone(bad: float) -> None:
    rng = np.random.default_rng(1)
    x, weight = (rng.standard_normal((40, 70)).astype(np.float32) for _ in range(2))
    x[17, 33] = bad
    out = product(x, weight)
    assert not np.isfinite(out[17]).any()
    assert np.isfinite(np.delete(out, 17, axis=0)).all()


def test_an_element_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(2)
    x, weight = (rng.standard_normal((n, 100)).astype(np.float32) for n in (300, 45))
    whole = product(x, weight)
    for rows in (1, 31, 32, 33, 257):
        assert product(x[:rows].copy(), weight).tobytes() == whole[:rows].tobytes()
