"""The model's usual self-doubt: how deep its own texts sink, as thresholds that stop some of them.

Genuine text is less probable than sampled text, so a threshold taken from genuine text never fires
on samples; this one is taken from samples at the default sampler.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slim.confidence import MIN_TOKENS, PATIENCE, STATISTIC, WINDOW, dip
from slim.config import GenerateConfig
from slim.decoding import draw_tokens
from slim.events import Progress

if TYPE_CHECKING:
    from slim.model import Model
    from slim.tokenizer import Tokenizer

SHARES = (0.01, 0.02, 0.05, 0.10, 0.20, 0.30, 0.50)
DEFAULT_SHARE = 0.20
SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the model file keeps of a calibration, as JSON under "calibration"."""

    statistic: str
    window: int
    patience: int
    min_tokens: int
    share: float  # of the samples that `threshold` stops
    threshold: float
    samples: int
    tokens: int
    sampler: dict[str, object]
    thresholds: dict[str, float]  # by share, written as "0.2"

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def calibrate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[np.ndarray] = (),
    sampler: GenerateConfig | None = None,
    samples: int = SAMPLES,
    seconds: float = math.inf,
    share: float = DEFAULT_SHARE,
    seed: int = 0,
) -> Iterator[Progress | Calibration]:
    """Let the model write `samples` texts, fewer when `seconds` run out.

    Yields Progress after each text and the Calibration last.
    prompts   ids (n,) that the texts begin with, in turn, without the start mark; none: no prompt
    sampler   the default sampler unless given; its `max_tokens` is where a text ends at the latest
    """
    sampler = GenerateConfig() if sampler is None else sampler
    limit = model.config.max_seq_len
    start = np.array([tokenizer.eos_id], np.int32)
    starts = [np.concatenate((start, prompt[: limit // 2])).astype(np.int32) for prompt in prompts]
    cache = model.new_cache(limit)
    deadline = time.monotonic() + seconds
    dips: list[float] = []
    tokens = 0
    for number in range(samples):
        ids = starts[number % len(starts)] if starts else start
        cache.truncate(0)
        logprobs: list[float] = []
        for drawn in draw_tokens(
            model, cache, ids, sampler, seed + number, "calibrate", {tokenizer.eos_id}
        ):
            logprobs.append(drawn.confidence.logprob)
            if drawn.token_id == tokenizer.eos_id or len(logprobs) >= sampler.max_tokens:
                break
        dips.append(dip(logprobs))
        tokens += len(logprobs)
        yield Progress("calibrating confidence", number + 1, samples)
        if time.monotonic() > deadline:
            break
    yield Calibration(
        statistic=STATISTIC,
        window=WINDOW,
        patience=PATIENCE,
        min_tokens=MIN_TOKENS,
        share=share,
        threshold=threshold_for(dips, share),
        samples=len(dips),
        tokens=tokens,
        sampler={
            name: getattr(sampler, name)
            for name in (
                *("temperature", "top_k", "top_p", "min_p"),
                *("repeat_penalty", "repeat_window", "max_tokens"),
            )
        },
        thresholds={f"{one:g}": threshold_for(dips, one) for one in SHARES},
    )


def threshold_for(dips: Sequence[float], share: float) -> float:
    """The threshold that stops `share` of the texts with these dips, to the nearest text.

    0, which stops every text that is long enough, where too few are.
    """
    ordered = sorted(dips)
    stopped = round(share * len(ordered))
    if stopped >= len(ordered):
        return 0.0
    return min(ordered[stopped], 0.0)
