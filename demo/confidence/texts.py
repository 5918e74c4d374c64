"""What the study looks at: texts that the model writes, and genuine ones that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slim.config import GenerateConfig
from slim.decoding import draw_together
from slim.model import Model
from slim.scoring import score_documents

PROMPT, LENGTH, ROWS = 8, 256, 64
NAMES = ("ids", "logprob", "entropy", "margin")


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Of each text: its ids, and for each of them log p, minus the entropy in nats, and the margin."""

    ids: list[np.ndarray]
    logprob: list[np.ndarray]
    expected: list[np.ndarray]
    margin: list[np.ndarray]

    def statistic(self, name: str) -> list[np.ndarray]:
        """A series for each text that is low where the model is unsure."""
        if name == "expected log p":
            return self.expected
        if name == "log p":
            return self.logprob
        if name == "p":
            return [np.exp(one) for one in self.logprob]
        if name == "share of p below .05":
            return [-(one < np.log(0.05)).astype(float) for one in self.logprob]
        return self.margin

    def part(self, which: slice) -> Texts:
        """Some of the texts."""
        return Texts(self.ids[which], self.logprob[which], self.expected[which], self.margin[which])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each."""
        return np.array([one.size for one in self.ids])


def prompts_of(documents: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    """The first PROMPT tokens of documents, drawn anew, (count, PROMPT)."""
    long_enough = [ids for ids in documents if ids.size > PROMPT]
    picked = np.random.default_rng(seed).integers(0, len(long_enough), count)
    return np.stack([long_enough[i][:PROMPT] for i in picked]).astype(np.int32)


def write(
    model: Model,
    eos_id: int,
    prompts: np.ndarray,
    seed: int,
    cache: Path,
    sampler: GenerateConfig | None = None,
    length: int = LENGTH,
) -> Texts:
    """A text for each prompt (n, m), to its end or to `length` tokens; kept in `cache`."""
    if not cache.exists():
        found = {name: np.zeros((len(prompts), length)) for name in NAMES}
        for first in range(0, len(prompts), ROWS):
            rows = prompts[first : first + ROWS]
            starts = np.concatenate((np.full((len(rows), 1), eos_id), rows), axis=1).astype(
                np.int32
            )
            seeds = range(seed + first, seed + first + len(rows))
            capacity = min(model.config.max_seq_len, starts.shape[1] + length)
            steps = draw_together(
                model, capacity, starts, sampler or GenerateConfig(), seeds, "study", {eos_id}
            )
            for at, drawn in zip(range(length), steps, strict=False):
                for row, one in enumerate(drawn, start=first):
                    seen = one.confidence
                    values = (one.token_id, seen.logprob, seen.entropy, seen.margin)
                    for name, value in zip(NAMES, values, strict=True):
                        found[name][row, at] = value
        np.savez(cache, **found)
    with np.load(cache) as kept:
        found = {name: kept[name] for name in NAMES}
    ends = [np.flatnonzero(row == eos_id) for row in found["ids"]]
    sizes = [int(end[0]) if end.size else length for end in ends]
    columns = {
        name: [row[:n].copy() for row, n in zip(found[name], sizes, strict=True)] for name in NAMES
    }
    scale = np.log(model.config.vocab_size)
    expected = [-scale * one for one in columns["entropy"]]
    ids = [one.astype(np.int32) for one in columns["ids"]]
    return Texts(ids, columns["logprob"], expected, columns["margin"])


def read(model: Model, eos_id: int, documents: Sequence[np.ndarray]) -> Texts:
    """Genuine documents."""
    scores = score_documents(model, documents, eos_id)
    columns = (scores.ids, scores.logprob, scores.expected, scores.margin)
    return Texts(*(scores.by_document(column) for column in columns))
