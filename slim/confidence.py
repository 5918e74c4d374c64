"""How sure the model was of each token, and the rules that end a text: lost, or going in circles.

Confidence is the model's own probability: the softmax of the raw logits at temperature 1, before
any penalty or filter of the sampler. It says how expected a token was, not whether it is true.
The number for a stretch of text is the typical p, exp(mean log p).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

STATISTIC = "mean_logprob"
WINDOW = 16  # tokens of the windowed mean
PATIENCE = 3  # steps that it has to stay below the threshold
MIN_TOKENS = 24  # tokens that the rule leaves alone
NGRAM = 8  # the shortest loop that counts, in tokens
REPEATS = 3
LONGEST_LOOP = 256  # tokens; a longer one takes 768 tokens to show itself

SENTENCE_ENDS = ".!?…。！？\n"
CLOSERS = "\"'”’»)]」』"  # may follow a sentence's last mark and belong to it
BINS = (0.80, 0.50, 0.20, 0.05)  # lower edges of the four upper bins of p


@dataclass(frozen=True, slots=True)
class TokenConfidence:
    """What the model thought of one token, from the raw logits at temperature 1."""

    p: float
    logprob: float
    entropy: float  # of the whole distribution, divided by ln V: 0 certain, 1 uniform
    rank: int  # 0: no token was more probable
    margin: float  # p of the most probable token minus p of the second
    alternatives: tuple[tuple[int, float], ...] = ()  # the most probable (id, p), best first


class Measure:
    """Tells the confidence of a token in each of several texts. All scratch is made once."""

    def __init__(self, vocab_size: int, rows: int = 1) -> None:
        from slim.kernels.sampling import measure_rows  # the rules and bins below need no Numba

        self._measure_rows = measure_rows
        self._largest_entropy = math.log(vocab_size)
        self._measures = np.empty((rows, 4), np.float32)
        self._ranks = np.empty(rows, np.int32)
        self._scratch = np.empty(vocab_size, np.float32)

    def of(
        self, logits: np.ndarray, ids: np.ndarray, n_alternatives: int = 0
    ) -> list[TokenConfidence]:
        """Of ids (R,) int32 under logits (R, V) float32."""
        self._measure_rows(self._measures, self._ranks, logits, ids, self._scratch)
        rows = zip(self._measures.tolist(), self._ranks.tolist(), logits, strict=True)
        return [
            TokenConfidence(
                p=math.exp(logprob),
                logprob=logprob,
                entropy=min(1.0, entropy / self._largest_entropy) if len(row) > 1 else 0.0,
                rank=rank,
                margin=margin,
                alternatives=_alternatives(row, n_alternatives, best),
            )
            for (logprob, entropy, margin, best), rank, row in rows
        ]


def measure(logits: np.ndarray, token_id: int, n_alternatives: int = 0) -> TokenConfidence:
    """The confidence of `token_id` under logits (V,) float32."""
    (one,) = Measure(logits.size).of(logits[None], np.array([token_id], np.int32), n_alternatives)
    return one


def _alternatives(logits: np.ndarray, count: int, best: float) -> tuple[tuple[int, float], ...]:
    """The most probable ids and their p, from the log p of the best: computed as the kernel does."""
    if count < 1:
        return ()
    ids = _most_probable(logits, count)
    logprobs = (logits[ids] - logits[ids[0]]) + np.float32(best)
    return tuple((int(i), math.exp(value)) for i, value in zip(ids, logprobs.tolist(), strict=True))


def _most_probable(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest logits, best first, of equals the lower id first."""
    count = min(count, logits.size)
    cut = np.partition(logits, logits.size - count)[logits.size - count]
    near = np.flatnonzero(logits >= cut)
    return near[np.lexsort((near, -logits[near]))][:count]


def typical_p(logprobs: Iterable[float]) -> float:
    """exp(mean log p), 0 for no tokens."""
    values = list(logprobs)
    return math.exp(math.fsum(values) / len(values)) if values else 0.0


def bin_of(p: float) -> int:
    """Which of the five fixed bins: 0 for p >= .80, then .50, .20, .05, and 4 for less."""
    return sum(p < edge for edge in BINS)


class LowConfidence:
    """Fires when the windowed mean log p stays below `threshold` for `patience` steps."""

    def __init__(
        self,
        threshold: float,
        window: int = WINDOW,
        patience: int = PATIENCE,
        min_tokens: int = MIN_TOKENS,
    ) -> None:
        self.threshold = threshold
        self.window = window
        self._patience = patience
        self._spared = max(min_tokens, window - 1)
        self._recent: deque[float] = deque(maxlen=window)
        self._seen = 0
        self._below = 0

    def push(self, logprob: float) -> bool:
        """Take the log p of the next generated token; True where the text should end."""
        self._recent.append(logprob)
        self._seen += 1
        if self._seen <= self._spared:
            return False
        mean = math.fsum(self._recent) / self.window
        self._below = self._below + 1 if mean < self.threshold else 0
        return self._below >= self._patience


def dip(
    logprobs: Sequence[float],
    window: int = WINDOW,
    patience: int = PATIENCE,
    min_tokens: int = MIN_TOKENS,
) -> float:
    """The deepest that a text sinks: LowConfidence fires exactly when its threshold is above this.

    Infinite for a text too short to be stopped.
    """
    spared = max(min_tokens, window - 1)
    means = [
        math.fsum(logprobs[end - window : end]) / window
        for end in range(spared + 1, len(logprobs) + 1)
    ]
    stays = [max(means[i : i + patience]) for i in range(len(means) - patience + 1)]
    return min(stays, default=math.inf)


class Repetition:
    """Fires when a text ends in one stretch of `ngram` or more tokens, `repeats` times in a row.

    A shorter loop counts by its multiples: one token over and over is an 8-gram over and over.
    """

    def __init__(
        self, ngram: int = NGRAM, repeats: int = REPEATS, longest: int = LONGEST_LOOP
    ) -> None:
        self._periods = np.arange(ngram, longest + 1)
        self._needed = (repeats - 1) * self._periods
        # _runs[i]: how many of the last tokens in a row equal the token _periods[i] before them.
        self._runs = np.zeros(self._periods.size, np.int64)
        self._history = np.full(longest, -1, np.int64)  # a ring
        self._seen = 0

    def push(self, token_id: int) -> bool:
        """Take the next generated token; True where the text should end."""
        same = self._history[(self._seen - self._periods) % self._history.size] == token_id
        self._runs += 1
        self._runs *= same
        self._history[self._seen % self._history.size] = token_id
        self._seen += 1
        return bool((self._runs >= self._needed).any())


def last_sentence_end(text: str, start: int) -> int | None:
    """Length of `text` up to its last sentence end at or after `start`; None if there is none."""
    for end in range(len(text), max(start, 1) - 1, -1):
        following = text[end : end + 1]
        mark = text[:end].rstrip(CLOSERS)[-1:]
        if not mark or mark not in SENTENCE_ENDS or (following and following in CLOSERS):
            continue
        # A mark inside a number or a name ends nothing: space or the end has to follow.
        if mark in "\n。！？" or not following or following.isspace():
            return end
    return None
