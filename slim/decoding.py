"""Token after token from a model: it knows ids and probabilities, and nothing of text.

`generate` lays text and stop rules over it; calibration and chat draw from it directly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slim.confidence import TokenConfidence, measure
from slim.config import GenerateConfig
from slim.sampling import sample, uniform

if TYPE_CHECKING:
    from slim.kv_cache import KVCache
    from slim.model import Model


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """A token as the sampler drew it and as the model saw it."""

    token_id: int
    p_sampled: float  # after penalty, temperature and filters
    confidence: TokenConfidence


def draw_tokens(
    model: Model,
    cache: KVCache,
    prompt_ids: np.ndarray,
    config: GenerateConfig,
    seed: int,
    purpose: str = "generate",
    never_penalized: Collection[int] = (),
    n_alternatives: int = 0,
) -> Iterator[DrawnToken]:
    """Append prompt_ids (n,) int32 to the cache, then draw tokens until the cache is full.

    A token enters the cache when the next one is asked for. Its random number depends on the seed
    and its position only, so a text cut and continued with the same seed comes out the same.
    """
    recent: deque[int] = deque(
        (int(i) for i in prompt_ids if int(i) not in never_penalized), maxlen=config.repeat_window
    )
    logits = model.prefill(cache, prompt_ids)
    while True:
        u = uniform(seed, purpose, cache.length)
        token_id, p_sampled = sample(logits, recent, config, u)
        yield DrawnToken(token_id, p_sampled, measure(logits, token_id, n_alternatives))
        if cache.length >= cache.capacity:
            return
        if token_id not in never_penalized:
            recent.append(token_id)
        logits = model.decode(cache, token_id)
