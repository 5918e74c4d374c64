"""What all kernels are made of: the exponential over its whole range, sums of every length, bfloat16, softmax rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numba import njit
from numba.core import config as numba_config

from buffers import Array, as_float
from slim.kernels import elementary, operand, softmax
from slim.kernels.tile import HAS_BF16, NR, round_to_bf16

JIT = not numba_config.DISABLE_JIT
LENGTHS = (*range(1, 20), 31, 32, 33, 63, 65, 127, 130, 1000)


@njit
def exp_of_softmax(to, x):
    """to = e^x, by the vectors of the attention kernels."""
    softmax.softmax_row(to, 0, x, 0, len(x), np.float32(1.0), np.float32(0.0))


def exp_of_rows(to: Array, x: Array) -> None:
    to[:] = x
    elementary.exp_row(to, 0, len(x), np.float32(0.0))


def bit_patterns(lowest: float, highest: float, every: int) -> Iterator[Array]:
    """float32 numbers between two, every so many that there are, in pieces of whole strips."""
    for sign, end in ((0, highest), (1 << 31, lowest)):
        last = int(np.float32(abs(end)).view(np.uint32))
        piece = NR * (1 << 15 if JIT else 64) * every
        for first in range(0, last + 1, piece):
            patterns = np.arange(first, min(first + piece, last + 1), every, np.int64)
            x = (patterns | sign).astype(np.uint32).view(np.float32)
            yield np.pad(x, (0, -len(x) % NR))


def worst_exp_error(exp: Callable[[Array, Array], None], every: int) -> float:
    worst = 0.0
    for x in bit_patterns(-87.0, 88.0, every):
        found = np.full_like(x, np.nan)
        exp(found, x)
        exact = np.exp(x.astype(np.float64))
        worst = max(worst, float((np.abs(found - exact) / exact).max()))
    return worst


both_exponentials = pytest.mark.parametrize("exp", [exp_of_rows, exp_of_softmax])


@both_exponentials
def test_exp_over_its_range(exp: Callable[[Array, Array], None]) -> None:
    assert worst_exp_error(exp, 1009 if JIT else 9_000_011) < 2e-7


@pytest.mark.soak
@both_exponentials
def test_exp_of_every_number(exp: Callable[[Array, Array], None]) -> None:
    assert worst_exp_error(exp, 1) < 2e-7


@both_exponentials
def test_exp_beyond_its_range(exp: Callable[[Array, Array], None]) -> None:
    """Nearly 0 below, a large finite number above, and a NaN stays one: it must reach whoever looks for it."""
    x = np.zeros(NR, np.float32)
    x[:7] = [-87.5, -1e4, -np.inf, 88.5, 1e4, np.inf, np.nan]
    found = np.full_like(x, np.nan)
    with np.errstate(all="ignore"):
        exp(found, x)
    assert (found[:3] >= 0).all() and (found[:3] < 1.7e-38).all()
    assert (found[3:6] > 1.6e38).all()
    assert np.isnan(found[6])
    assert (found[7:] == 1).all()


@pytest.mark.parametrize("n", LENGTHS)
def test_reductions_of_every_length(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n + 9), np.float32)
    a, b = x[3 : 3 + n].astype(np.float64), y[5 : 5 + n].astype(np.float64)
    assert elementary.row_sum(x, 3, n) == pytest.approx(a.sum(), abs=1e-6 * np.abs(a).sum())
    assert elementary.dot(x, 3, y, 5, n) == pytest.approx(a @ b, abs=1e-6 * np.abs(a * b).sum())
    assert elementary.row_max(x, 3, n) == a.max()


@pytest.mark.parametrize("n", LENGTHS)
def test_rows_are_changed_in_their_extent_only(n: int) -> None:
    rng = np.random.default_rng(n)
    y = rng.standard_normal(n + 9, np.float32)
    expected = y.copy()
    expected[4 : 4 + n] *= np.float32(3)
    elementary.scale_row(y, 4, n, np.float32(3))
    np.testing.assert_array_equal(y, expected)
    expected[2 : 2 + n] = 7
    elementary.fill_row(y, 2, n, np.float32(7))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_nan_is_in_every_sum(n: int) -> None:
    x = np.ones(8, np.float32)
    x[n] = np.nan
    assert np.isnan(elementary.row_sum(x, 0, 8))
    assert np.isnan(elementary.dot(x, 0, np.zeros(8, np.float32), 0, 8))


# ---- bfloat16 -------------------------------------------------------------------------------------------------


def nearest_bf16(x: Array) -> Array:
    """Nearest number of 8 significant bits, of two equally near the even one: by float64 arithmetic, not by bits."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


@njit
def store_and_load(to, back, x):
    for i in range(len(x)):
        operand.store(to, i, x[i])
        back[i] = operand.load(to, i)


def test_rounding_to_bf16() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0x00800000, 0x7F000000, 20_000 if JIT else 500, np.uint32)
    bits[::3] = (bits[::3] & 0xFFFF0000) | 0x8000  # halfway between two
    bits[1::7] |= 0x80000000
    x = bits.view(np.float32)
    to, back = np.zeros(len(x), np.uint16), np.full_like(x, np.nan)
    store_and_load(to, back, x)
    np.testing.assert_array_equal(back, nearest_bf16(x))
    np.testing.assert_array_equal(as_float(round_to_bf16(x)), nearest_bf16(x))


def test_every_bf16_comes_back_as_it_was() -> None:
    every = np.arange(0, 0x10000, 1 if JIT else 97, dtype=np.uint32).astype(np.uint16)
    numbers = every[~np.isnan(as_float(every))]
    to, back = np.zeros_like(numbers), np.zeros(len(numbers), np.float32)
    store_and_load(to, back, as_float(numbers))
    np.testing.assert_array_equal(to, numbers)
    np.testing.assert_array_equal(back, as_float(numbers))


def test_nan_and_infinity_survive_rounding() -> None:
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 3.4e38, 0.0, -0.0], np.float32)
    to, back = np.zeros(len(x), np.uint16), np.zeros_like(x)
    store_and_load(to, back, x)
    assert np.isnan(back[:2]).all()
    np.testing.assert_array_equal(back[2:], [np.inf, -np.inf, np.inf, 0.0, -0.0])
    np.testing.assert_array_equal(np.signbit(back[5:]), [False, True])


def test_no_nan_is_rounded_to_a_number() -> None:
    """Like a number 0x7FFFFFFF would become -0, and 0x7F800001 infinity."""
    bits = np.array([0x7FFFFFFF, 0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0xFF800001], np.uint32)
    rounded = round_to_bf16(bits.view(np.float32))
    assert np.isnan(as_float(rounded)).all()
    np.testing.assert_array_equal(rounded >> 15, bits >> 31)


# ---- softmax --------------------------------------------------------------------------------------------------


@njit
def softmax_of(to, x, seen, scale):
    largest = softmax.row_largest(x, 0, seen) * scale
    return largest, softmax.softmax_row(to, 0, x, 0, seen, scale, largest)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16] if HAS_BF16 or not JIT else [np.float32])
@pytest.mark.parametrize("seen", [1, 2, NR - 1, NR, NR + 1, 3 * NR - 5])
def test_softmax_sees_nothing_behind_the_last_visible_key(seen: int, dtype: type) -> None:
    strip = -(-seen // NR) * NR
    rng = np.random.default_rng(seen)
    x = 5 * rng.standard_normal(strip + NR, np.float32)
    x[seen:] = np.resize([np.nan, np.inf, 1e30], strip + NR - seen)
    to = np.full(strip + NR, 77, dtype)
    with np.errstate(all="ignore"):
        largest, total = softmax_of(to, x, seen, np.float32(0.25))
    scores = 0.25 * x[:seen].astype(np.float64)
    exact = np.exp(scores - scores.max())
    tolerance = 1e-6 if dtype is np.float32 else 2.0**-8
    assert largest == pytest.approx(scores.max(), rel=1e-6)
    assert total == pytest.approx(exact.sum(), rel=1e-6)
    np.testing.assert_allclose(as_float(to[:seen]), exact, rtol=tolerance, atol=1e-6)
    assert not to[seen:strip].any(), "whole strips are written"
    assert (to[strip:] == 77).all(), "and nothing behind them"


@pytest.mark.parametrize("place", [0, 1, NR, NR + 3])
def test_a_nan_among_the_scores_is_in_the_sum(place: int) -> None:
    x = np.zeros(2 * NR, np.float32)
    x[place] = np.nan
    _, total = softmax_of(np.zeros_like(x), x, NR + 4, np.float32(1.0))
    assert np.isnan(total)
