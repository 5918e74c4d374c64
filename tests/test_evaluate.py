"""Validation: every token of the text is predicted once, from as much before it as the protocol gives."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from slim.config import ModelConfig
from slim.errors import DataError
from slim.evaluate import BATCH_TOKENS, Evaluation, evaluate, windows_of
from slim.events import Progress
from slim.model import Model
from slim.parameters import Parameters

TINY = ModelConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_seq_len=24)
EOS = 0


@pytest.fixture(scope="module")
def model() -> Model:
    parameters = Parameters(TINY).initialise(3)
    parameters.flat[: parameters.n_decayed] *= 10  # far from uniform, so that every context tells
    return Model(TINY, parameters)


def documents(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(4, 50, n).astype(np.int32) for n in lengths]


def run(
    model: Model, texts: list[np.ndarray], n_bytes: int = 100
) -> tuple[list[Progress], Evaluation]:
    events, steps = [], evaluate(model, texts, n_bytes, EOS)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


def one_by_one(model: Model, texts: list[np.ndarray]) -> float:
    """The protocol in its plainest form: a window per token."""
    context = model.config.max_seq_len
    total = 0.0
    for text in texts:
        whole = np.concatenate(([EOS], text)).astype(np.int32)
        for place in range(1, whole.size):
            # Past the context, windows end at context + k * half: where does the one that scores `place` end?
            half, end = context // 2, context + 1
            while end <= place:
                end += half
            start = max(0, min(end, whole.size) - context - 1)
            read = whole[start:place]
            logits = model.logits(model.workspace(1, read.size, False), read[None])[0, -1].astype(
                np.float64
            )
            total += (
                math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[whole[place]]
            )
    return total


def test_the_sum_is_that_of_every_token_by_itself(model: Model) -> None:
    texts = documents(1, 5, 23, 24, 25, 36, 37, 80)
    _, result = run(model, texts, n_bytes=500)
    assert result.tokens == sum(text.size for text in texts)
    assert result.nats == pytest.approx(one_by_one(model, texts), rel=1e-5)
    assert result.nats_per_token == result.nats / result.tokens
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / 500)
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 26, 35, 36, 37, 200])
@pytest.mark.parametrize("context", [24, 7, 1])
def test_windows_score_each_token_once(length: int, context: int) -> None:
    text = np.arange(1, length + 1, dtype=np.int32)
    windows = list(windows_of(text, context, EOS))
    assert all(window.ids.size - 1 <= context for window in windows)
    scored = np.concatenate([window.ids[-window.scored :] for window in windows])
    assert scored.tolist() == text.tolist()
    assert windows[0].ids[0] == EOS
    for window in windows[1:]:
        assert window.ids.size - window.scored >= min(context - max(context // 2, 1), length) + 1


def test_other_documents_do_not_matter(model: Model) -> None:
    """A document's loss does not depend on what is computed beside it."""
    texts = documents(30, 3, 12)
    alone = sum(run(model, [text])[1].nats for text in texts)
    assert run(model, texts)[1].nats == pytest.approx(alone, rel=1e-6)
    assert run(model, texts[::-1])[1].nats == pytest.approx(alone, rel=1e-6)


def test_progress_counts_tokens(model: Model) -> None:
    texts = documents(*[50] * (3 * BATCH_TOKENS // 50))
    events, result = run(model, texts)
    assert len(events) > 3 and {event.total for event in events} == {result.tokens}
    assert all(a.done < b.done for a, b in pairwise(events)) and events[-1].done == result.tokens


def test_nothing_to_evaluate(model: Model) -> None:
    for texts in ([], [np.empty(0, np.int32)]):
        with pytest.raises(DataError, match="no text to evaluate"):
            run(model, texts)


def test_only_what_counts_is_measured(tiny_model: Path) -> None:
    """With a mask the loss is the sum over the ids that count, however the windows fall."""
    from slim.model_file import load_model

    model, tokenizer, _ = load_model(tiny_model)
    rng = np.random.default_rng(2)
    documents = [rng.integers(4, 260, size).astype(np.int32) for size in (5, 64, 150, 300)]
    masks = [rng.random(ids.size) < 0.3 for ids in documents]
    masks[0] = np.zeros(5, np.bool_)

    def loss(counted):  # type: ignore[no-untyped-def]
        steps = evaluate(model, documents, 1000, tokenizer.eos_id, counted)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value

    some, others, whole = loss(masks), loss([~mask for mask in masks]), loss(None)
    assert some.tokens == sum(mask.sum() for mask in masks)
    assert some.tokens + others.tokens == whole.tokens == sum(ids.size for ids in documents)
    assert some.nats + others.nats == pytest.approx(whole.nats, rel=1e-5)
    assert some.nats_per_token != pytest.approx(whole.nats_per_token, rel=1e-4)
