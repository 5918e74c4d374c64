"""Token after token from a model: it knows ids and probabilities, and nothing of text.

`generate` lays text and stop rules over it; calibration and chat draw from it directly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slim.confidence import Measure, TokenConfidence
from slim.config import GenerateConfig
from slim.sampling import Sampler, uniform

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
    earlier_ids: np.ndarray | None = None,
) -> Iterator[DrawnToken]:
    """Append prompt_ids (n,) int32 to the cache, then draw tokens until the cache is full.

    earlier_ids (m,) int32: those that the cache holds already, where the penalty is to see them too

    A token enters the cache when the next one is asked for. Its random number depends on the seed
    and its position only, so a text cut and continued with the same seed comes out the same.
    """
    logits = model.prefill(cache, prompt_ids)[None]
    arguments = (config, [seed], purpose, never_penalized, n_alternatives)
    seen = prompt_ids if earlier_ids is None else np.concatenate((earlier_ids, prompt_ids))
    for (drawn,) in _draw(model, cache, seen, logits, *arguments):
        yield drawn


def draw_together(
    model: Model,
    capacity: int,
    prompt_ids: np.ndarray,
    config: GenerateConfig,
    seeds: Sequence[int],
    purpose: str = "generate",
    never_penalized: Collection[int] = (),
    n_alternatives: int = 0,
) -> Iterator[list[DrawnToken]]:
    """Several texts, a token of each at a time, up to `capacity` tokens in all.

    prompt_ids   (n,) int32: what all begin with, or (R, n): what each begins with
    Text i is what `draw_tokens` would draw with seeds[i]; reading the weights once for all of them
    makes a token several times cheaper. A text that has ended goes on being drawn: nobody looks.
    """
    one = model.new_cache(capacity)
    cache = model.new_cache(capacity, rows=len(seeds))
    if prompt_ids.ndim == 1:
        together = np.repeat(model.prefill(one, prompt_ids)[None], len(seeds), axis=0)
        cache.fill_from(one)
    else:
        together = np.empty((len(seeds), model.config.vocab_size), np.float32)
        for row, ids in enumerate(prompt_ids):
            one.truncate(0)
            together[row] = model.prefill(one, ids)
            cache.fill_row_from(row, one)
    del one
    arguments = (config, seeds, purpose, never_penalized, n_alternatives)
    yield from _draw(model, cache, prompt_ids, together, *arguments)


def _draw(
    model: Model,
    cache: KVCache,
    prompt_ids: np.ndarray,
    logits: np.ndarray,
    config: GenerateConfig,
    seeds: Sequence[int],
    purpose: str,
    never_penalized: Collection[int],
    n_alternatives: int,
) -> Iterator[list[DrawnToken]]:
    """Draw a token for each row of the cache from logits (R, V), append them, and so on."""
    rows, V = logits.shape
    sampler, confidence = Sampler(config, V, rows), Measure(V, rows)
    for row, ids in enumerate(np.broadcast_to(prompt_ids, (rows, prompt_ids.shape[-1])).tolist()):
        for token_id in ids:
            if token_id not in never_penalized:
                sampler.remember(row, token_id)
    while True:
        u = [uniform(seed, purpose, cache.length) for seed in seeds]
        ids, shares = sampler.draw(logits, u)
        measured = confidence.of(logits, ids, n_alternatives)
        tokens = ids.tolist()
        yield [DrawnToken(*one) for one in zip(tokens, shares.tolist(), measured, strict=True)]
        if cache.length >= cache.capacity:
            return
        for row, token_id in enumerate(tokens):
            if token_id not in never_penalized:
                sampler.remember(row, token_id)
        logits = model.decode_rows(cache, ids)
