"""Matrix products in 8 bits against the same integers in NumPy, and how far rounding moves a whole model."""

from __future__ import annotations

import numpy as np
import pytest

from buffers import Buffers, as_float
from slim.config import ModelConfig
from slim.kernels.int8 import HAS_INT8, multiply8, pack8, packed_size8, quantize_rows, units8
from slim.kernels.tile import HAS_BF16, NR, WIDE
from slim.model import Model
from slim.parameters import Parameters

pytestmark = pytest.mark.skipif(not HAS_INT8, reason="this CPU does not multiply bytes")
F = np.float32


def quantized(rows: np.ndarray, half_up: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127 and the scale of each row, in float32 as the kernels compute them."""
    largest = np.maximum(np.abs(rows).max(axis=1), F(1e-30))
    scaled = rows * (F(127.0) / largest)[:, None]
    whole = np.trunc(scaled + F(128.5)) - 128 if half_up else np.floor(scaled + F(0.5))
    return whole.astype(np.int64), largest / F(127.0)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize(
    ("R", "N", "K"), [(1, 1, 2), (1, 33, 10), (2, 128, 4), (3, 130, 34), (4, 64, 256), (9, 200, 66)]
)
def test_product_is_that_of_the_rounded_numbers(
    R: int, N: int, K: int, accumulate: int, dtype: type
) -> None:
    if dtype is np.uint16 and not HAS_BF16:
        pytest.skip("no bfloat16 here")
    rng = np.random.default_rng(R * N + K)
    b = Buffers(dtype)
    weight = b.given(rng.standard_normal((N, K)).astype(F))
    weight_rows, weight_scales = quantized(weight, half_up=False)
    x = b.operand(rng.standard_normal((R, K)).astype(F))
    x_rows, x_scales = quantized(as_float(x), half_up=True)
    panels = b.changed(np.zeros(8 + packed_size8(N, K), np.int8))
    pack8(panels, 8, weight)
    width = units8(K) * 4 + 8
    scratch, scales = b.changed(np.full((R, width), 7, np.uint8)), b.output(R)
    y = b.ones(R, N + 3)
    rows = scratch.reshape(-1)
    quantize_rows(rows, scales, x.reshape(-1), 0, K, 0, R, K)
    half = WIDE * NR  # columns may be done in any order
    for begin in range((N - 1) // half * half, -1, -half):
        end = min(begin + half, N)
        multiply8(
            y.reshape(-1), 0, N + 3, 0, R, panels, 8, begin, end, K, accumulate, rows, scales
        )  # fmt: skip
    b.assert_only_read()
    expected = (x_rows @ weight_rows.T) * x_scales[:, None].astype(float) * weight_scales
    np.testing.assert_allclose(y[:, :N], expected + accumulate, rtol=1e-6, atol=2e-6)
    assert (y[:, N:] == 1.0).all()


def test_a_matrix_of_zeros_is_zero() -> None:
    panels = np.full(packed_size8(5, 8), 3, np.int8)
    pack8(panels, 0, np.zeros((5, 8), F))
    y, x = np.full(5, np.nan, F), np.zeros(8, F)
    row, scales = np.zeros(8, np.uint8), np.zeros(1, F)
    quantize_rows(row, scales, x, 0, 8, 0, 1, 8)
    multiply8(y, 0, 5, 0, 1, panels, 0, 0, 5, 8, 0, row, scales)
    assert y.tolist() == [0.0] * 5


@pytest.mark.parametrize("rows", [1, 6])
def test_a_whole_model_in_8_bits_says_nearly_the_same(rows: int) -> None:
    """Logits within 3 % of their spread: 8 bits in each of the products of three layers."""
    sizes = ModelConfig(
        vocab_size=301, dim=64, n_layers=3, n_heads=4, n_kv_heads=2, hidden_dim=96, max_seq_len=40
    )
    parameters = Parameters(sizes).initialise(0)
    exact, short = Model(sizes, parameters, "fp32"), Model(sizes, parameters, "int8")
    tokens = np.random.default_rng(0).integers(0, 301, (rows, 20), np.int32)
    caches = exact.new_cache(30, rows), short.new_cache(30, rows)
    for step in range(20):
        column = np.ascontiguousarray(tokens[:, step])
        expected = exact.decode_rows(caches[0], column)
        found = short.decode_rows(caches[1], column)
        error = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
        assert 0.0 < error < 0.03
