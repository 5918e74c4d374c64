"""What a run will be, before it is begun: parameters, memory, steps and time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slim import recipe
from slim.corpus import text_head
from slim.request import Request
from slim.text_files import find_files
from slim.tui.catalog import Entry, describe, read_recent

BYTES_PER_TOKEN = 3.8  # of English text in vocabularies of our sizes
# A run reaches about this many times the speed of NumPy's float32 product on as many cores, where nothing better is
# known. On an Intel Xeon with AMX `tiny` to `large` reach 0.7 to 0.9 and 1.7 to 3.3.
SHARE_OF_PRODUCT = {"fp32": 0.8, "bf16": 2.2}
# How far from the truth a speed may be, by an earlier run and without one: other programs, other sizes, other texts.
DOUBT_OF_RUN, DOUBT_OF_PRODUCT = 1.3, 1.6
RECENT_RUNS = 8  # whose speed is looked at
PRODUCT_SIZE = 64  # so small that NumPy computes it in one thread
PRODUCTS, ROUNDS = 100, 9
KERNEL_SECONDS = 2.0  # of a core, for one signature: 33 to 45 s for the 37 of both precisions on two cores


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run takes at a certain speed."""

    seconds: float
    steps: int
    epochs: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a run, as it goes if the machine is `fast` or `slow`; `measured`: by the speed of an earlier run.

    compile_seconds   before it; `--minutes` counts them, but a third of the minutes is trained all the same
    """

    n_parameters: int
    memory_bytes: int
    available_bytes: int | None
    vocab_size: int
    fast: Budget
    slow: Budget
    measured: bool
    compile_seconds: float


def estimating(request: Request) -> Iterator[Estimate]:
    """One estimate; a job for the engine thread. SlimError where the run could not be begun."""
    from slim.memory import available_bytes
    from slim.model import choose_precision
    from slim.model_file import open_source
    from slim.run import memory_bytes
    from slim.tokenizer import choose_vocab_size

    files, _ = find_files(request.data)
    for file in files:
        text_head(file)
    n_bytes = sum(file.size for file in files)
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
    work = known_work(_recent_entries(), sizes.n_parameters, precision)
    doubt = DOUBT_OF_RUN if work else DOUBT_OF_PRODUCT
    usual = (work or _product_work(precision)) / sizes.n_parameters
    compiling = _compile_seconds(precision, config.optimizer)

    def at(speed: float) -> Budget:
        seconds = n_tokens * request.epochs / speed
        if config.minutes is not None:
            together = 60.0 * config.minutes
            seconds = min(seconds, max(together - compiling, recipe.LEAST_SHARE * together))
        steps = max(1, round(seconds * speed / (B * T * config.accumulate)))
        return Budget(seconds, steps, seconds * speed / max(n_tokens, 1.0))

    yield Estimate(
        n_parameters=sizes.n_parameters,
        memory_bytes=memory,
        available_bytes=available_bytes(),
        vocab_size=sizes.vocab_size,
        fast=at(usual * doubt),
        slow=at(usual / doubt),
        measured=work > 0,
        compile_seconds=compiling,
    )


def _compile_seconds(precision: str, optimizer: str) -> float:
    """Until what such a run needs and is not in the cache is compiled, on all cores."""
    from slim.compiling import MOST_PROCESSES, is_cached
    from slim.compute import usable_cores
    from slim.kernels.table import kernels_of

    table = kernels_of(precision, training=True, optimizer=optimizer)
    missing = sum(not is_cached(kernel, signature) for kernel, signature in table)
    return KERNEL_SECONDS * missing / min(usable_cores(), MOST_PROCESSES)


def _recent_entries() -> Iterator[Entry]:
    found = (describe(out) for out in read_recent()[:RECENT_RUNS])
    return (entry for entry in found if entry is not None)


def known_work(entries: Iterable[Entry], n_parameters: int, precision: str) -> float:
    """Parameters times tokens per second of the run that is most like one of this size; 0 without one."""
    runs = [
        entry for entry in entries
        if entry.speed > 0 and entry.n_parameters and entry.precision == precision
    ]  # fmt: skip
    if not runs:
        return 0.0
    likest = min(runs, key=lambda entry: abs(math.log(entry.n_parameters / n_parameters)))
    return likest.speed * likest.n_parameters


def _product_work(precision: str) -> float:
    """Parameters times tokens per second that this machine may reach: six operations each, by one product's speed.

    In processor time, which other programs hardly change.
    """
    import numpy as np

    from slim.compute import usable_cores

    a = np.ones((PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    out = a @ a
    times = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(PRODUCTS):
            np.matmul(a, a, out=out)
        times.append(time.thread_time() - began)
    operations = 2 * PRODUCT_SIZE**3 * PRODUCTS * usable_cores()
    return SHARE_OF_PRODUCT[precision] * operations / max(statistics.median(times), 1e-6) / 6
