"""Any text under a model: the same records as for generated text, so that the same displays show it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from slim.confidence import Measure
from slim.decoding import DrawnToken
from slim.errors import NO_NUMBER, DataError, ModelFileError
from slim.events import TextScored, TokenGenerated
from slim.generate import token_event
from slim.scoring import Text, logits_of

if TYPE_CHECKING:
    from slim.model import Model
    from slim.tokenizer import Tokenizer


def score(
    model: Model, tokenizer: Tokenizer, text: str | bytes, n_alternatives: int = 0
) -> Iterator[TokenGenerated | TextScored]:
    """How expected each token of `text` was: a TokenGenerated each, with the model's p as `p_sampled`, and a TextScored.

    The texts of the tokens joined are the text; past the context the window slides by half a context.
    Raises DataError for no text, ModelFileError for logits that are no numbers.
    """
    ids = tokenizer.encode(text)
    if ids.size == 0:
        raise DataError("there is no text to score")
    decoder = tokenizer.stream()
    logprobs: list[float] = []
    for chunk in logits_of(model, [Text(ids)], tokenizer.start_id):  # of one document they come in order
        measure = Measure(model.config.vocab_size, rows=chunk.targets.size)
        targets = np.ascontiguousarray(chunk.targets)
        for token_id, seen in zip(
            targets.tolist(), measure.of(chunk.logits, targets, n_alternatives), strict=True
        ):
            if not math.isfinite(seen.logprob):
                raise ModelFileError(NO_NUMBER)
            index = len(logprobs)
            logprobs.append(seen.logprob)
            piece = decoder.push(token_id)
            if index + 1 == ids.size:
                piece += decoder.flush()
            yield token_event(tokenizer, index, DrawnToken(token_id, seen.p, seen), piece)
    nats = -math.fsum(logprobs)
    n_bytes = len(text.encode() if isinstance(text, str) else text)
    yield TextScored(
        tokens=ids.size,
        bytes=n_bytes,
        typical_p=math.exp(-nats / ids.size),
        perplexity=math.exp(min(nats / ids.size, 690.0)),
        bits_per_byte=nats / math.log(2.0) / n_bytes,
    )
