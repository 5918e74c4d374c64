"""Is what a contestant computes right? Asked before anything is timed.

The reference is our float32. A vector x is compared by |x - reference| / |reference|. Rounding to bfloat16 is wrong by
up to u = 2^-9 of a number, by u / sqrt(3) on average, and independent errors add up as their squares: with R roundings
between input and output, sqrt(R / 3) u are expected. Three times that is the bound. A layer rounds the two operands of
6 products on the way forward, and of twice as many on the way back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slim.bench.contest import BenchError, Entry
from slim.bench.job import GenerationJob, Ready, TokenizerJob, TrainingJob

BF16_ROUNDING = 2.0**-9
LOGIT_BOUNDS = {
    "fp32": 1e-5,
    "F32": 1e-2,  # llama.cpp keeps keys and values in float16
    "int8": 0.08,
    "Q8_0": 0.08,  # weights and activations in 8 bits
    "Q4_0": 0.6,  # 4 bits
}
FP32_GRADIENT_BOUND = 1e-4
LOSS_BOUNDS = {"fp32": 1e-5, "bf16": 2e-3}


def gradient_bound(mode: str, n_layers: int) -> float:
    """How far gradients may lie from float32's."""
    if "bf16" not in mode:
        return FP32_GRADIENT_BOUND
    return 3.0 * math.sqrt(2 * 18 * n_layers / 3.0) * BF16_ROUNDING


def logit_bound(mode: str, n_layers: int) -> float:
    """How far logits may lie from float32's."""
    if mode.lower() == "bf16":
        return 3.0 * math.sqrt(2 * 6 * n_layers / 3.0) * BF16_ROUNDING
    return LOGIT_BOUNDS[mode]


def distance(x: np.ndarray, reference: np.ndarray) -> float:
    """|x - reference| / |reference|; infinite for shapes that differ and numbers that are not finite."""
    if x.shape != reference.shape:
        return math.inf
    difference = np.linalg.norm((x - reference).astype(np.float64))
    result = float(difference / np.linalg.norm(reference.astype(np.float64)))
    return result if math.isfinite(result) else math.inf


@dataclass(slots=True)
class Referee:
    """Compares what contestants have computed; the first one, in float32, sets the reference."""

    loss: float | None = None
    numbers: np.ndarray | None = None

    def __call__(self, entry: Entry, ready: Ready) -> None:
        """BenchError when it is not what it should be."""
        job = entry.job
        if isinstance(job, TokenizerJob):
            self._same(entry, np.fromfile(job.results, np.int32))
        elif isinstance(job, TrainingJob):
            numbers = np.fromfile(job.results, np.float32)
            self._near(entry, numbers, gradient_bound(job.mode, job.model.n_layers), "gradients")
            self._loss(entry, ready.loss, "bf16" if "bf16" in job.mode else "fp32")
        elif isinstance(job, GenerationJob):
            numbers = np.fromfile(job.results, np.float32)
            self._near(entry, numbers, logit_bound(job.mode, job.model.n_layers), "logits")

    def _same(self, entry: Entry, ids: np.ndarray) -> None:
        if self.numbers is None:
            self.numbers = ids
        elif not np.array_equal(ids, self.numbers):
            raise BenchError(f"{entry.name} encodes the text to other ids than SLiM")

    def _near(self, entry: Entry, numbers: np.ndarray, bound: float, what: str) -> None:
        if self.numbers is None:
            self.numbers = numbers
        off = distance(numbers, self.numbers)
        if off > bound:
            raise BenchError(
                f"the {what} of {entry.name} differ from those of SLiM in fp32 by {off:.2g} "
                f"of their length, but at most {bound:.2g} is right"
            )

    def _loss(self, entry: Entry, loss: float | None, precision: str) -> None:
        if loss is None or not math.isfinite(loss):
            raise BenchError(f"{entry.name} computes a loss of {loss}")
        if self.loss is None:
            self.loss = loss
        bound = LOSS_BOUNDS[precision] * abs(self.loss)
        if abs(loss - self.loss) > bound:
            raise BenchError(
                f"{entry.name} computes a loss of {loss:.6f}, but SLiM in fp32 {self.loss:.6f}"
            )
