"""A series in buckets: flat memory, spikes and gaps that stay, the same columns as from all values."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from slim.tui.loss_series import LossSeries


def filled(values: list[float], capacity: int = 64) -> LossSeries:
    series = LossSeries(capacity)
    for step, value in enumerate(values):
        series.add(step, value)
    return series


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 1000, 4097])
def test_columns_are_those_of_all_values(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 1, count)
    series = filled(values.tolist())
    stride = series.stride
    width = 8
    last = math.ceil(count / (stride * width)) * stride * width
    if last / width < stride:
        pytest.skip("fewer buckets than columns")
    columns = series.columns(0, last, width)
    for i in range(width):
        part = values[i * last // width : (i + 1) * last // width]
        if part.size == 0:
            assert math.isnan(columns.low[i]) and math.isnan(columns.mean[i])
            continue
        assert columns.low[i] == part.min()
        assert columns.high[i] == part.max()
        if last / width > stride or stride == 1:
            assert columns.mean[i] == pytest.approx(part.mean())


def test_a_spike_stays_however_long_the_run() -> None:
    series = filled([2.0] * 500 + [99.0] + [2.0] * 20_000)
    assert series.columns(0, 20_501, 30).high[0] == 99.0
    assert series.at(500) is not None and series.at(500)[1] == 99.0


def test_a_gap_stays_one() -> None:
    series = filled([1.0] * 20 + [math.nan, math.inf] * 10 + [1.0] * 20)
    columns = series.columns(0, 60, 60)
    assert np.isnan(columns.mean[20:40]).all()
    assert not np.isnan(columns.mean[:20]).any() and not np.isnan(columns.mean[40:]).any()
    assert series.at(25) is None


def test_what_is_closer_than_a_bucket_is_a_line_between_them() -> None:
    columns = filled([0.0, 10.0]).columns(0, 2, 20)
    assert np.all(np.diff(columns.mean) >= 0) and 0 < columns.mean[10] < 10


def test_going_back_forgets_what_is_made_again() -> None:
    series = filled([5.0] * 50)
    series.add(10, 1.0)
    assert series.last_step == 10 and len(series) == 11
    assert series.at(9) == (5.0, 5.0, 5.0) and series.at(30) is None
    assert filled([5.0] * 1000).columns(0, 10, 0).low.size == 0


def test_nothing_and_nonsense_are_empty() -> None:
    series = LossSeries()
    series.add(-1, 2.0)
    assert np.isnan(series.columns(0, 10, 5).mean).all()
    assert series.at(0) is None and series.at(-5) is None and len(series) == 0


def test_memory_is_flat_over_100_000_steps() -> None:
    series = LossSeries()
    for step in range(1, 5_000):
        series.add(step, 1.0)
    tracemalloc.start()
    for step in range(5_000, 100_000):
        series.add(step, 1.0)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000
    assert len(series) == 99_999
