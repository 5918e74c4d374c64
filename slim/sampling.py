"""Logits to a token id: repetition penalty, temperature, top-k, top-p and min-p, then one draw.

The order is Hugging Face's: penalty and temperature act on the logits, then each filter looks at
the probabilities that are left, renormalised. A draw needs no generator state: its random number is
a function of (seed, purpose, index), so a branched or resumed text continues exactly.
Nucleus: Holtzman et al. 2019, arXiv 1904.09751; penalty: Keskar et al. 2019, arXiv 1909.05858;
min-p: arXiv 2407.01082.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from slim.config import GenerateConfig
from slim.errors import ModelFileError


def uniform(seed: int, purpose: str, index: int) -> float:
    """A number in [0, 1) that depends on these three only, the same on every machine."""
    words = f"{seed}/{purpose}/{index}".encode()
    bits = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


def sample(
    logits: np.ndarray, recent: Sequence[int], config: GenerateConfig, u: float
) -> tuple[int, float]:
    """Draw a token with the random number `u`: its id, and the probability the sampler gave it.

    logits (V,) float32, not changed   recent: the ids that the repetition penalty looks at
    Equal logits are told apart by their ids: the outcome never depends on a sorting algorithm.
    """
    scores = penalize(logits, recent, config.repeat_penalty)
    best = int(scores.argmax())  # the first of equals
    if not np.isfinite(scores[best]):
        raise ModelFileError(
            f"the model computed {scores[best]} where a number should be: its weights are damaged"
        )
    if config.temperature == 0.0:
        return best, 1.0
    with np.errstate(over="ignore"):  # exponents of -inf are right at a tiny temperature
        p = scores - scores[best]
        p /= max(config.temperature, 1e-30)
    np.exp(p, out=p)
    ids: np.ndarray | None = None  # None: every id still takes part
    for kept in _filters(config):
        chosen = kept(p)
        p = p[chosen]
        ids = chosen if ids is None else ids[chosen]
    cumulative = p.cumsum(dtype=np.float64)
    total = cumulative[-1]
    # u < 1, but u * total may round up to total: then it is the first that reaches the total.
    drawn = int(cumulative.searchsorted(u * total, side="right"))
    if drawn == p.size:
        drawn = int(cumulative.searchsorted(total, side="left"))
    return drawn if ids is None else int(ids[drawn]), float(p[drawn] / total)


def _filters(config: GenerateConfig) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The filters that are switched on, in their order."""
    if config.top_k > 0:
        yield lambda p: top_k(p, config.top_k)
    if config.top_p < 1.0:
        yield lambda p: top_p(p, config.top_p)
    if config.min_p > 0.0:
        yield lambda p: min_p(p, config.min_p)


def penalize(logits: np.ndarray, recent: Sequence[int], penalty: float) -> np.ndarray:
    """Logits with those of `recent` divided by `penalty` if positive and multiplied if not."""
    if penalty == 1.0 or not len(recent):
        return logits
    ids = np.fromiter(set(recent), dtype=np.int64)
    chosen = logits[ids]
    scores = logits.copy()
    scores[ids] = np.where(chosen > 0.0, chosen / penalty, chosen * penalty)
    return scores


def top_k(p: np.ndarray, k: int) -> np.ndarray:
    """Positions, ascending, of the k largest of p (n,); of equals the first ones."""
    if k >= p.size:
        return np.arange(p.size)
    return _largest(p, np.partition(p, p.size - k)[p.size - k], k)


def top_p(p: np.ndarray, share: float) -> np.ndarray:
    """Positions, ascending, of the fewest largest of p (n,) that hold `share` of its sum."""
    total = p.sum(dtype=np.float64)
    # What is below (1 - share) / n of the sum holds less than 1 - share of it all together, so the
    # nucleus lies above: some hundred values are sorted and not the whole vocabulary.
    near = np.flatnonzero(p >= (1.0 - share) * total / p.size)
    candidates = p[near]
    ordered = np.sort(candidates)[::-1]
    count = int(ordered.cumsum(dtype=np.float64).searchsorted(share * total, side="left")) + 1
    count = min(count, ordered.size)
    return near[_largest(candidates, ordered[count - 1], count)]


def min_p(p: np.ndarray, ratio: float) -> np.ndarray:
    """Positions, ascending, of the values of p (n,) that are at least `ratio` times its largest."""
    return np.flatnonzero(p >= ratio * p.max())


def _largest(p: np.ndarray, cut: float, count: int) -> np.ndarray:
    """Positions, ascending, of the `count` largest of p, the smallest of which is `cut`."""
    kept = np.flatnonzero(p >= cut)
    surplus = kept.size - count
    if surplus > 0:
        kept = np.delete(kept, np.flatnonzero(p[kept] == cut)[-surplus:])
    return kept
