"""How sure the model was of each token, and the rules that end a text: lost, or going in circles.

Confidence is the model's own probability: the softmax of the raw logits at temperature 1, before
any penalty or filter of the sampler. It says how expected a token was, not whether it is true.
The number for a stretch of text is the typical p, exp(mean log p).

The rule for lost texts looks at the log p that the model expects of its next token, sum p log p: minus
the entropy. Before anything else it was compared with the log p that came, its share below .05 and the
margin: demo/confidence/README.md.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

STATISTIC = "expected_logprob"  # minus the entropy, in nats
WINDOW = 24  # tokens of the windowed mean
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


def measure_many(logits: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ids (n,) int32 under logits (n, V) float32: (n, 4) log p, entropy in nats, margin, log p of the best; ranks (n,)."""
    from slim.kernels.sampling import measure_rows

    measures, ranks = np.empty((ids.size, 4), np.float32), np.empty(ids.size, np.int32)
    measure_rows(measures, ranks, logits, ids, np.empty(logits.shape[1], np.float32))
    return measures, ranks


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


def expected_logprob(entropy: float, vocab_size: int) -> float:
    """The log p that is expected of the next token, from the entropy divided by ln V."""
    return -entropy * math.log(vocab_size)


class LowConfidence:
    """Fires when the windowed mean of the expected log p stays below `threshold` for `patience` steps."""

    def __init__(
        self,
        threshold: float,
        window: int = WINDOW,
        patience: int = PATIENCE,
        min_tokens: int = MIN_TOKENS,
        own_share: float | None = None,
    ) -> None:
        """own_share: the share of the model's own texts that this threshold stops, where it is known"""
        self.threshold = threshold
        self.own_share = own_share
        self._window = window
        self._patience = patience
        self._spared = max(min_tokens, window - 1)
        self._recent: deque[float] = deque(maxlen=window)
        self._seen = 0
        self._below = 0

    def push(self, expected: float) -> bool:
        """Take the expected log p of the next generated token; True where the text should end."""
        self._recent.append(expected)
        self._seen += 1
        if self._seen <= self._spared:
            return False
        mean = math.fsum(self._recent) / self._window
        self._below = self._below + 1 if mean < self.threshold else 0
        return self._below >= self._patience


def dip(
    values: Sequence[float] | np.ndarray,
    window: int = WINDOW,
    patience: int = PATIENCE,
    min_tokens: int = MIN_TOKENS,
) -> float:
    """The deepest that a text sinks: LowConfidence fires exactly when its threshold is above this.

    Infinite for a text too short to be stopped.
    """
    depths = sustained(values, window, patience, min_tokens)
    return float(depths.min()) if depths.size else math.inf


def sustained(
    values: Sequence[float] | np.ndarray,
    window: int = WINDOW,
    patience: int = PATIENCE,
    min_tokens: int = MIN_TOKENS,
) -> np.ndarray:
    """How deep a text is at each token where the rule may fire: the highest of the last `patience` means.

    The first is that of token number `max(min_tokens, window - 1) + patience`, counted from 1.
    """
    spared = max(min_tokens, window - 1)
    if len(values) < spared + patience:
        return np.empty(0)
    means = [
        math.fsum(values[end - window : end]) / window for end in range(spared + 1, len(values) + 1)
    ]
    return np.lib.stride_tricks.sliding_window_view(means, patience).max(axis=1)


class Repetition:
    """Fires when a text ends in one stretch of `ngram` or more tokens, `repeats` times in a row.

    A shorter loop counts by its multiples: one token over and over is an 8-gram over and over.
    """

    def __init__(
        self, ngram: int = NGRAM, repeats: int = REPEATS, longest: int = LONGEST_LOOP
    ) -> None:
        self._ngram, self._repeats, self._longest = ngram, repeats, longest
        # By period: how many of the last tokens in a row equal the token that long before them.
        self._runs: dict[int, int] = {}
        self._places: defaultdict[int, deque[int]] = defaultdict(
            deque
        )  # of each token, oldest first
        self._seen = 0

    def push(self, token_id: int) -> bool:
        """Take the next generated token; True where the text should end."""
        now, before, places = self._seen, self._runs, self._places[token_id]
        self._seen += 1
        while places and places[0] < now - self._longest:
            places.popleft()
        # Only periods at which this very token stood can go on: a handful, where there is no loop.
        self._runs = {now - place: before.get(now - place, 0) + 1 for place in places}
        places.append(now)
        return any(
            run >= (self._repeats - 1) * period and period >= self._ngram
            for period, run in self._runs.items()
        )


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
