"""A series of any length in flat memory: buckets of neighbouring steps with least, greatest and mean value.

A bucket covers `stride` steps. When a step lies beyond the last bucket, neighbours are merged and the stride doubles.
A spike stays in the greatest value of its bucket, however often it is merged; a bucket without any number is a gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CAPACITY = 4096


@dataclass(frozen=True, slots=True)
class Columns:
    """A series as a chart shows it, NaN where there is nothing: arrays of one value per column."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray


class LossSeries:
    """Values at steps 0, 1, 2 ... ; memory does not depend on their number."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        assert capacity % 2 == 0
        self.stride = 1
        self.last_step = -1
        self._low = np.full(capacity, np.inf)
        self._high = np.full(capacity, -np.inf)
        self._sum = np.zeros(capacity)
        self._count = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        """How many values it has taken in."""
        return int(self._count.sum())

    def add(self, step: int, value: float) -> None:
        """Put in one value; one that is not finite only says that the step was made."""
        if step < 0:
            return
        if step <= self.last_step:
            self.cut(step)
        self.last_step = step
        while step // self.stride >= self._low.size:
            self._halve()
        if not math.isfinite(value):
            return
        i = step // self.stride
        if value < self._low[i]:
            self._low[i] = value
        if value > self._high[i]:
            self._high[i] = value
        self._sum[i] += value
        self._count[i] += 1

    def cut(self, step: int) -> None:
        """Forget everything from the bucket of `step` on: the run went back and makes it again."""
        i = step // self.stride
        self._low[i:], self._high[i:] = np.inf, -np.inf
        self._sum[i:], self._count[i:] = 0.0, 0
        self.last_step = step - 1

    def at(self, step: int) -> tuple[float, float, float] | None:
        """Least, greatest and mean value of the bucket of a step, None for a gap."""
        i = step // self.stride
        if not 0 <= i < self._low.size or self._count[i] == 0:
            return None
        return float(self._low[i]), float(self._high[i]), float(self._sum[i] / self._count[i])

    def columns(self, first: float, last: float, width: int) -> Columns:
        """The steps from `first` to `last` in `width` columns."""
        n = self.last_step // self.stride + 1
        if n <= 0 or width < 1 or last <= first:
            empty = np.full(max(width, 0), np.nan)
            return Columns(empty, empty, empty)
        edges = np.linspace(first, last, width + 1) / self.stride
        begin = np.floor(edges[:-1]).astype(np.int64)
        end = np.maximum(np.ceil(edges[1:]).astype(np.int64), begin + 1)
        inside = (end > 0) & (begin < n)
        begin, end = np.clip(begin, 0, n - 1), np.clip(end, 1, n)
        pairs = np.stack([begin, np.maximum(end, begin + 1)], axis=1).ravel()
        # reduceat reduces between every two indices: the odd ones are thrown away.
        padded = [np.append(part[:n], rest) for part, rest in self._parts()]
        low = np.minimum.reduceat(padded[0], pairs)[::2]
        high = np.maximum.reduceat(padded[1], pairs)[::2]
        total = np.add.reduceat(padded[2], pairs)[::2]
        count = np.add.reduceat(padded[3], pairs)[::2]
        found = inside & (count > 0)
        with np.errstate(invalid="ignore"):
            mean = np.where(found, total / np.maximum(count, 1), np.nan)
        if (last - first) / width < self.stride:  # fewer buckets than columns: a line, not stairs
            mean = self._between(first, last, width, n, mean)
        return Columns(np.where(found, low, np.nan), np.where(found, high, np.nan), mean)

    def _between(
        self, first: float, last: float, width: int, n: int, mean: np.ndarray
    ) -> np.ndarray:
        """Means interpolated between the middles of the buckets; gaps stay gaps."""
        known = np.flatnonzero(self._count[:n])
        if known.size < 2:
            return mean
        middles = (known + 0.5) * self.stride
        half = (last - first) / width / 2
        centres = np.linspace(first + half, last - half, width)
        values = np.interp(centres, middles, self._sum[known] / self._count[known])
        return np.where(np.isnan(mean), np.nan, values)

    def _parts(self) -> tuple[tuple[np.ndarray, float], ...]:
        return (self._low, np.inf), (self._high, -np.inf), (self._sum, 0.0), (self._count, 0)

    def _halve(self) -> None:
        self.stride *= 2
        half = self._low.size // 2
        for (part, rest), merge in zip(
            self._parts(), (np.minimum, np.maximum, np.add, np.add), strict=True
        ):
            part[:half] = merge(part[0::2], part[1::2])
            part[half:] = rest
