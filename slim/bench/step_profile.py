"""Where the time of a training step goes, kernel by kernel, next to what bounds each.

While steps are profiled, every kernel that a module outside of `slim.kernels` calls is replaced by one that also reads
the clock, and counts operations and bytes from its arguments.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numba
import numpy as np

from slim.bench import ceilings
from slim.bench.job import Part

STEP = "training step"
Clock = Callable[[], float]


def _product_flops(out: np.ndarray, x: np.ndarray) -> float:
    return 2.0 * out.shape[0] * out.shape[1] * x.shape[1]


def _attention_flops(lse: np.ndarray, attended: np.ndarray) -> float:
    """Two products over the causal half: lse (B, H, T), attended (N, C)."""
    return 2.0 * lse.shape[2] * attended.size


# Floating-point operations of one call, from its arguments. What is not here is bounded by memory.
FLOPS: dict[str, Callable[..., float]] = {
    "matmul": lambda out, x, *_: _product_flops(out, x),
    "matmul_add": lambda out, added, x, *_: _product_flops(out, x),
    "matmul_weight_gradient": lambda dw, dout, x, *_: 2.0 * dw.size * x.shape[0],
    "attention_forward": lambda attended, lse, *_: _attention_flops(lse, attended),
    "attention_backward": lambda dqkv, dout, attended, lse, *_: (
        2.0 * _attention_flops(lse, attended)
    ),
}


@dataclass(slots=True)
class _Tally:
    """What a kernel has taken so far in one step."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


def profile_step(
    step: Callable[[], object], precision: str, steps: int, clock: Clock = time.perf_counter
) -> Iterator[Part]:
    """The kernels of whole updates, the longest first, and what lies between them."""
    step()
    tallies, seconds = [], []
    for _ in range(steps):
        with timed_kernels(clock) as tally:
            started = clock()
            step()
            seconds.append(clock() - started)
        tallies.append(tally)
    ceiling = _Ceilings(precision)
    whole = median(seconds)
    parts = []
    for name, first in tallies[0].items():
        taken = median(tally[name].seconds for tally in tallies)
        if first.flops:
            bound = (first.flops, "GFLOP/s", ceiling.products())
        else:
            bound = (first.bytes, "GB/s", ceiling.copy(first.bytes / first.calls))
        parts.append(Part(STEP, name, first.calls, taken, *bound))
    parts.sort(key=lambda part: -part.seconds)
    yield from parts
    between = max(whole - sum(part.seconds for part in parts), 0.0)
    yield Part(STEP, "Python between kernels", 1, between)


@contextmanager
def timed_kernels(clock: Clock = time.perf_counter) -> Iterator[dict[str, _Tally]]:
    """Inside, every kernel called by name from a module above `slim.kernels` is timed into the record."""
    tally: dict[str, _Tally] = {}
    replaced = []
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith("slim.") or module_name.startswith(
            ("slim.kernels", "slim.bench", "slim.cli")
        ):
            continue
        for name, value in list(vars(module).items()):
            if hasattr(value, "py_func") or (hasattr(value, "signatures") and callable(value)):
                replaced.append((module, name, value))
                setattr(module, name, _timed(name, value, tally, clock))
    try:
        yield tally
    finally:
        for module, name, kernel in replaced:
            setattr(module, name, kernel)


def _timed(
    name: str, kernel: Callable[..., None], tally: dict[str, _Tally], clock: Clock
) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        started = clock()
        kernel(*arguments)
        seconds = clock() - started
        entry = tally.setdefault(name, _Tally())
        entry.calls += 1
        entry.seconds += seconds
        entry.flops += FLOPS[name](*arguments) if name in FLOPS else 0.0
        arrays = {id(a): a for a in arguments if isinstance(a, np.ndarray)}
        entry.bytes += sum(array.nbytes for array in arrays.values())

    return run


class _Ceilings:
    """Limits on all threads, measured when first asked for."""

    def __init__(self, precision: str) -> None:
        self.precision, self.threads = precision, numba.get_num_threads()
        self._products = 0.0
        self._copies: dict[int, float] = {}

    def products(self) -> float:
        """GFLOP/s of the micro-kernel."""
        if not self._products:
            self._products = max(ceilings.matmul_gflops(self.precision, self.threads))
        return self._products

    def copy(self, n_bytes: float) -> float:
        """GB/s of a copy that reads and writes about so many bytes in all, to within a factor of two."""
        size = 1 << max(int(n_bytes / 2).bit_length(), 12)
        if size not in self._copies:
            self._copies[size] = max(ceilings.copy_gb_per_second(size, self.threads))
        return self._copies[size]
