"""Genuine text under a model: the logits before every token, and how sure the model was of it.

The windows are those of `evaluate`: a document begins with `<|endoftext|>`, and past the context it slides by half of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slim.confidence import measure_many
from slim.errors import NO_NUMBER, ModelFileError
from slim.evaluate import BATCH_TOKENS, batches_of, padded_length, windows_of

if TYPE_CHECKING:
    from slim.model import Model, Workspace


class Text(NamedTuple):
    """A document: ids (n,) int32 without eos, and which of them are judged, (n,) bool or None for all."""

    ids: np.ndarray
    counted: np.ndarray | None = None

    @property
    def judged(self) -> int:
        """How many tokens."""
        return self.ids.size if self.counted is None else int(np.count_nonzero(self.counted))

    def part(self, first: int, last: int) -> Text:
        """Its ids from `first` to before `last`."""
        counted = None if self.counted is None else self.counted[first:last]
        return Text(self.ids[first:last], counted)


def texts_of(
    documents: Sequence[np.ndarray], counted: Sequence[np.ndarray | None] | None = None
) -> list[Text]:
    """Documents with their masks; None: all of every one is judged."""
    masks = [None] * len(documents) if counted is None else counted
    return [Text(ids, mask) for ids, mask in zip(documents, masks, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some tokens of some documents: logits (n, V) float32, valid until the next chunk, and which tokens they are about."""

    logits: np.ndarray
    targets: np.ndarray  # (n,) int32: what came
    documents: np.ndarray  # (n,): the number of the document
    positions: np.ndarray  # (n,): 0 for the first token of a document


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the model thought of tokens (n,), in the order of the documents."""

    documents: np.ndarray
    positions: np.ndarray
    ids: np.ndarray
    logprob: np.ndarray
    expected: np.ndarray  # the log p that was expected of the token: minus the entropy in nats
    margin: np.ndarray
    best: np.ndarray  # p of the most probable token
    rank: np.ndarray

    def by_document(self, values: np.ndarray) -> list[np.ndarray]:
        """(n,) values, a piece for each document that has tokens."""
        borders = np.flatnonzero(np.diff(self.documents)) + 1
        return np.split(values, borders) if values.size else []


def logits_of(model: Model, texts: Sequence[Text], start_id: int) -> Iterator[Chunk]:
    """The logits before each token that is judged, those of documents of like length together."""
    context = model.config.max_seq_len
    windows = [
        window
        for number, text in enumerate(texts)
        for window in windows_of(text.ids, context, start_id, number)
    ]
    windows.sort(key=lambda window: window.ids.size)
    workspace: Workspace | None = None
    for batch in batches_of(windows, context):
        T = padded_length(batch[-1], context)
        B = max(1, BATCH_TOKENS // T)
        if workspace is None or (workspace.B, workspace.T) != (B, T):
            workspace = model.workspace(B, T, train=False)
        tokens, targets = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
        numbers, positions = np.full((B, T), -1), np.zeros((B, T), np.int64)
        for row, window in enumerate(batch):
            n = window.ids.size - 1
            scored = slice(n - window.scored, n)
            tokens[row, :n] = window.ids[:-1]
            targets[row, :n] = window.ids[1:]
            numbers[row, scored] = window.document
            mask = window.part_of(texts[window.document].counted)
            if mask is not None:
                numbers[row, scored][~mask] = -1
            positions[row, scored] = window.first + np.arange(window.scored)
        of_rows = targets.reshape(-1), numbers.reshape(-1), positions.reshape(-1)
        for rows, logits in model.logits_in_chunks(workspace, tokens):
            kept = np.flatnonzero(of_rows[1][rows] >= 0)
            if kept.size:
                here = rows.start + kept
                some = logits if kept.size == len(logits) else logits[kept]
                yield Chunk(some, *(values[here] for values in of_rows))


class Scorer:
    """Collects the scores of chunks; ModelFileError for logits that are no numbers."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.tokens = 0

    def add(self, chunk: Chunk, temperature: float = 1.0) -> None:
        """Measure one more chunk, with its logits divided by a temperature."""
        logits = (
            chunk.logits if temperature == 1.0 else chunk.logits * np.float32(1.0 / temperature)
        )
        measures, ranks = measure_many(logits, chunk.targets)
        if not np.isfinite(measures).all():
            raise ModelFileError(NO_NUMBER)
        ids, documents, positions = chunk.targets.copy(), chunk.documents, chunk.positions
        self._parts.append((documents, positions, ids, ranks, *measures.T))
        self.tokens += ids.size

    def scores(self) -> Scores:
        """Of everything so far, in the order of the documents."""
        if not self._parts:
            return Scores(*np.empty((8, 0)))
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        documents, positions, ids, rank, logprob, entropy, margin, best = (
            c[order] for c in columns
        )
        logprob, entropy, margin, best = (
            c.astype(np.float64) for c in (logprob, entropy, margin, best)
        )
        return Scores(documents, positions, ids, logprob, -entropy, margin, np.exp(best), rank)


def score_documents(model: Model, documents: Sequence[np.ndarray], start_id: int) -> Scores:
    """All tokens of documents at once."""
    scorer = Scorer()
    for chunk in logits_of(model, texts_of(documents), start_id):
        scorer.add(chunk)
    return scorer.scores()
