"""How well a model predicts documents: nats per token and bits per byte.

Each document begins with `<|endoftext|>`, from which its first token is predicted, as in training. Past the context the
window slides by half a context, so every later token is predicted from at least that much. Bytes are those of the text.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slim.errors import DataError
from slim.events import Progress

if TYPE_CHECKING:
    from slim.model import Model, Workspace

BATCH_TOKENS = 2048  # computed at a time
STEP = 32  # window lengths are rounded up to multiples: few shapes, little padding


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The loss over some documents."""

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2.0) / self.bytes

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700.0))


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Ids (n + 1,) of which all but the last are read; the last `scored` of the n predictions count."""

    ids: np.ndarray
    scored: int
    document: int = 0  # its number ...
    first: int = 0  # ... and where in it the scored part begins

    def part_of(self, mask: np.ndarray | None) -> np.ndarray | None:
        """Of a mask (n,) over the document what belongs to the scored part; None stays None."""
        return None if mask is None else mask[self.first : self.first + self.scored]


def evaluate(
    model: Model,
    documents: Sequence[np.ndarray],
    n_bytes: int,
    start_id: int,
    counted: Sequence[np.ndarray | None] | None = None,
) -> Generator[Progress, None, Evaluation]:
    """The loss of a model over documents, ids (n,) int32 without the start token, whose texts have n_bytes together.

    counted: for each document (n,) bool, which of its ids are measured, whose text then are the n_bytes; None: all
    Progress in tokens as it goes, the result as the generator's return value. DataError when there is nothing to score.
    """
    windows = [
        window
        for number, ids in enumerate(documents)
        for window in windows_of(ids, model.config.max_seq_len, start_id, number)
    ]

    def mask_of(window: Window) -> np.ndarray | None:
        return None if counted is None else window.part_of(counted[window.document])

    total = 0
    for window in windows:
        mask = mask_of(window)
        total += window.scored if mask is None else int(np.count_nonzero(mask))
    if total == 0 or n_bytes == 0:
        raise DataError("there is no text to evaluate on")
    windows.sort(key=lambda window: window.ids.size)
    nats, done = 0.0, 0
    workspace: Workspace | None = None
    for batch in batches_of(windows, model.config.max_seq_len):
        T = padded_length(batch[-1], model.config.max_seq_len)
        B = max(1, BATCH_TOKENS // T)
        if workspace is None or (workspace.B, workspace.T) != (B, T):
            workspace = model.workspace(B, T, train=False)
        tokens, targets = np.zeros((B, T), np.int32), np.full((B, T), -1, np.int32)
        for row, window in enumerate(batch):
            n = window.ids.size - 1
            tokens[row, :n] = window.ids[:-1]
            scored = targets[row, n - window.scored : n]
            scored[:] = window.ids[n + 1 - window.scored :]
            mask = mask_of(window)
            if mask is not None:
                scored[~mask] = -1
            done += int(np.count_nonzero(scored >= 0))
        nats += float(model.token_losses(workspace, tokens, targets).sum(dtype=np.float64))
        yield Progress("evaluating", done, total)
    return Evaluation(nats, total, n_bytes)


def windows_of(ids: np.ndarray, context: int, start_id: int, document: int = 0) -> Iterator[Window]:
    """Pieces of a document that fit the context, each token scored once."""
    if ids.size == 0:
        return
    whole = np.concatenate(([start_id], ids)).astype(np.int32)
    end = min(whole.size, context + 1)
    yield Window(whole[:end], end - 1, document)
    half = max(context // 2, 1)
    while end < whole.size:
        before, end = end, min(end + half, whole.size)
        yield Window(whole[max(end - context - 1, 0) : end], end - before, document, before - 1)


def padded_length(window: Window, context: int) -> int:
    """Tokens that a row takes whose longest window is this."""
    return min(-(-(window.ids.size - 1) // STEP) * STEP, context)


def batches_of(windows: Sequence[Window], context: int) -> Iterator[list[Window]]:
    """Neighbours in length, as many as BATCH_TOKENS hold when all are as long as the longest."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * padded_length(window, context) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
