"""Logits to a token id: repetition penalty, temperature, top-k, top-p and min-p, then one draw.

The order is Hugging Face's: penalty and temperature act on the logits, then each filter looks at
the probabilities that are left, renormalised. A draw needs no generator state: its random number is
a function of (seed, purpose, index), so a branched or resumed text continues exactly.
Nucleus: Holtzman et al. 2019, arXiv 1904.09751; penalty: Keskar et al. 2019, arXiv 1909.05858;
min-p: arXiv 2407.01082.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from slim.config import GenerateConfig
from slim.errors import NO_NUMBER, ModelFileError
from slim.kernels.sampling import sample_rows

COLDEST = 1e-30  # a temperature below this is this: 1 / temperature has to be a float32


def uniform(seed: int, purpose: str, index: int) -> float:
    """A number in [0, 1) that depends on these three only, the same on every machine."""
    words = f"{seed}/{purpose}/{index}".encode()
    bits = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


class Sampler:
    """Draws a token for each of `rows` texts. All scratch is made once."""

    def __init__(self, config: GenerateConfig, vocab_size: int, rows: int = 1) -> None:
        number = np.float32
        self._settings = (
            number(config.temperature and max(config.temperature, COLDEST)),
            config.top_k,
            *map(number, (config.top_p, config.min_p, config.repeat_penalty)),
        )
        self._window = config.repeat_window
        self._recent = np.full((rows, config.repeat_window), -1, np.int32)
        self._turn = [0] * rows  # where in a row of `_recent` the next id goes
        self._scores, self._p = np.empty((2, vocab_size), np.float32)
        self._ids, self._shares = np.empty(rows, np.int32), np.empty(rows, np.float32)

    def remember(self, row: int, token_id: int) -> None:
        """Let the repetition penalty of a text look at a token, and forget one `repeat_window` before it."""
        if self._window:
            self._recent[row, self._turn[row]] = token_id
            self._turn[row] = (self._turn[row] + 1) % self._window

    def draw(self, logits: np.ndarray, u: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (R,) int32 under logits (R, V) float32, each decided by its number u in [0, 1), and the
        probabilities (R,) that they had; valid until the next call.

        Equal logits are told apart by their ids. Raises ModelFileError for logits that are no numbers.
        """
        decided = np.array(u, np.float32)
        sample_rows(
            self._ids, self._shares, logits, self._recent, self._scores, self._p, decided,
            *self._settings,
        )  # fmt: skip
        if self._ids.min() < 0:
            raise ModelFileError(NO_NUMBER)
        return self._ids, self._shares
