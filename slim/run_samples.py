"""What the samples of a run begin with, and how they are written.

A run on texts lets the model go on with the first words of a held-out one. A run on conversations asks it what a user
asks in a held-out one, between the role tokens, as `slim chat` would; the sample is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from slim import recipe
from slim.chat import Chat
from slim.config import GenerateConfig
from slim.conversation import ASSISTANT, LABELS, USER, Message, end_id, format_transcript, role_id
from slim.events import GenerateFinished, Note, TokenGenerated
from slim.generate import generate

if TYPE_CHECKING:
    from slim.data import TokenData
    from slim.model import Model
    from slim.tokenizer import Tokenizer

PROMPT_TOKENS = 64  # of a document, among which the words of a prompt are looked for
MOST_DOCUMENTS = 256  # held-out ones that are looked through for a question
LOOKED_THROUGH = 2**16  # tokens of the training text, where no conversation is held out


def sample_prompts(
    data: TokenData, tokenizer: Tokenizer, wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """What to ask or to begin with: what the settings want, else something from a held-out document."""
    if wanted:
        return tuple(wanted)
    question = first_question(data, tokenizer) if data.has_roles else None
    return (first_words(data, tokenizer),) if question is None else (question,)


def shown_prompt(prompt: str, roles: bool) -> str:
    """What stands before a sample for whoever reads it: of a conversation, the transcript so far."""
    if not roles:
        return prompt
    return format_transcript([Message(USER, prompt)]) + f"{LABELS[ASSISTANT]} "


def write_sample(
    model: Model, tokenizer: Tokenizer, prompt: str, config: GenerateConfig, roles: bool
) -> Iterator[TokenGenerated | GenerateFinished | Note] | None:
    """The events of a sample, with `roles` of an answer; None where the prompt leaves no room in the context."""
    room = model.config.max_seq_len - 1 - tokenizer.encode(prompt).size - 3 * roles
    if room < 1:
        return None
    config = replace(config, max_tokens=min(config.max_tokens, room))
    if roles:
        return Chat(model, tokenizer, config, roles=True).reply(prompt)
    return generate(model, tokenizer, prompt, config)


def first_words(data: TokenData, tokenizer: Tokenizer) -> str:
    """Some words that a held-out document begins with, else a known one."""
    ids = data.validation[0] if len(data.validation) else data.train[1:]
    words = tokenizer.decode(ids[:PROMPT_TOKENS]).split()
    return " ".join(words[: recipe.PROMPT_WORDS])


def first_question(data: TokenData, tokenizer: Tokenizer) -> str | None:
    """What a user says first in a held-out conversation: the shortest, or the first that is short."""
    shortest: np.ndarray | None = None
    documents = (data.validation[i] for i in range(min(len(data.validation), MOST_DOCUMENTS)))
    for ids in chain(documents, [data.train[:LOOKED_THROUGH]]):
        question = _question_in(ids, tokenizer)
        if question is None:
            continue
        if shortest is None or question.size < shortest.size:
            shortest = question
        if shortest.size <= PROMPT_TOKENS:
            break
    return None if shortest is None else tokenizer.decode(shortest)


def _question_in(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray | None:
    """The ids of the first thing that a user says in a text, unless it is empty."""
    begins = np.flatnonzero(ids == role_id(tokenizer, USER))
    if not begins.size:
        return None
    rest = ids[begins[0] + 1 :]
    ends = np.flatnonzero(rest == end_id(tokenizer))
    question = rest[: ends[0] if ends.size else 0].astype(np.int32)
    return question if tokenizer.decode(question).strip() else None
