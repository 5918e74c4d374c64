"""What a run will be, before it is begun: parameters, memory, steps and time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from slim import recipe
from slim.errors import DataError
from slim.input_file import reason
from slim.request import Request
from slim.tui.catalog import describe, read_recent

BYTES_PER_TOKEN = 3.8  # of English text in vocabularies of our sizes
# A run reaches about this many times the speed of NumPy's float32 product, where nothing better is known.
SHARE_OF_PRODUCT = {"fp32": 0.7, "bf16": 2.0}
RECENT_RUNS = 8  # whose speed is looked at
PRODUCT_SIZE = 512


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a run; `seconds` and `steps` are rough, and `measured` says whether an earlier run stands behind them."""

    n_parameters: int
    memory_bytes: int
    available_bytes: int | None
    vocab_size: int
    epochs: float
    steps: int
    seconds: float
    measured: bool


def estimating(request: Request) -> Iterator[Estimate]:
    """One estimate; a job for the engine thread. SlimError where the run could not be begun."""
    from slim.memory import available_bytes
    from slim.model import choose_precision
    from slim.model_file import open_source
    from slim.run import memory_bytes
    from slim.tokenizer import choose_vocab_size

    try:
        n_bytes = os.stat(request.data).st_size
    except (OSError, ValueError) as problem:
        raise DataError(f"{request.data}: cannot be read: {reason(problem)}") from problem
    config = recipe.train_config(request)
    if request.base is not None:
        with open_source(request.base) as source:
            sizes = source.config
    else:
        asked = request.settings.model.get("vocab_size")
        vocab_size = asked if isinstance(asked, int) else choose_vocab_size(n_bytes)
        sizes = recipe.model_config(request, vocab_size, n_bytes)
    recipe.check_seq_len(config, sizes)
    B, T = recipe.batch_shape(config, config.seq_len or min(recipe.SEQ_LEN, sizes.max_seq_len))
    precision = choose_precision(config.precision, sizes)
    n_tokens = n_bytes / BYTES_PER_TOKEN * (1.0 - config.validation_share)
    memory = memory_bytes(sizes, B, T, precision, config.optimizer)
    work = _known_work()
    measured = work > 0
    speed = (work or _product_work(precision)) / sizes.n_parameters
    seconds = n_tokens * request.epochs / speed
    if config.minutes is not None:
        seconds = min(seconds, 60.0 * config.minutes)
    steps = max(1, round(seconds * speed / (B * T * config.accumulate)))
    yield Estimate(
        n_parameters=sizes.n_parameters,
        memory_bytes=memory,
        available_bytes=available_bytes(),
        vocab_size=sizes.vocab_size,
        epochs=seconds * speed / max(n_tokens, 1.0),
        steps=steps,
        seconds=seconds,
        measured=measured,
    )


def _known_work() -> float:
    """The most parameters times tokens per second that a run which was opened lately reached; 0 without one."""
    found = [entry for out in read_recent()[:RECENT_RUNS] if (entry := describe(out)) is not None]
    return max((entry.speed * entry.n_parameters for entry in found), default=0.0)


def _product_work(precision: str) -> float:
    """Parameters times tokens per second that this machine may reach: six operations each, by one product's speed."""
    import numpy as np

    a = np.ones((PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    a @ a
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return SHARE_OF_PRODUCT[precision] * 2 * PRODUCT_SIZE**3 / max(min(times), 1e-6) / 6
