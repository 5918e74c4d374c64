"""Who says what: the roles of a conversation, as tokens and as a plain transcript.

    tokens       <|user|> text <|end|> <|assistant|> text <|end|> ..., after the <|endoftext|> that begins every document
    transcript   User: text
                 Assistant: text

A text never becomes a special token: only `message_ids` puts them there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slim.tokenizer import Tokenizer

USER, ASSISTANT = "user", "assistant"
ROLE_TOKENS = {USER: "<|user|>", ASSISTANT: "<|assistant|>"}
END_TOKEN = "<|end|>"
LABELS = {USER: "User:", ASSISTANT: "Assistant:"}


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said: role is user or assistant."""

    role: str
    text: str


def knows_roles(metadata: Mapping[str, object]) -> bool:
    """Whether a model file was trained on conversations: a run of its history says `"chat": true`."""
    history = metadata.get("history")
    runs = history if isinstance(history, list) else []
    return any(isinstance(run, dict) and run.get("chat") is True for run in runs)


def message_ids(tokenizer: Tokenizer, message: Message) -> np.ndarray:
    """A message with its role and its end, (n,) int32."""
    body = tokenizer.encode(message.text)
    return np.concatenate(([role_id(tokenizer, message.role)], body, [end_id(tokenizer)])).astype(
        np.int32
    )


def role_id(tokenizer: Tokenizer, role: str) -> int:
    """The special token that begins a message of this role."""
    return tokenizer.special_tokens[ROLE_TOKENS[role]]


def end_id(tokenizer: Tokenizer) -> int:
    """The special token that ends a message."""
    return tokenizer.special_tokens[END_TOKEN]


def parse_transcript(text: str) -> list[Message]:
    """The messages of a transcript: a line that begins with a label begins a message, the lines after it go on.

    What stands before the first label is nobody's and is left out. White space around a message does not count.
    """
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        role = _role_of(line)
        if role is not None:
            found.append((role, [line[len(LABELS[role]) :]]))
        elif found:
            found[-1][1].append(line)
    return [Message(role, "\n".join(lines).strip()) for role, lines in found]


def format_transcript(messages: Iterable[Message]) -> str:
    """A transcript that `parse_transcript` reads; a line of a message that looks like a label is moved by a blank."""
    parts = []
    for message in messages:
        first, *others = message.text.strip().split("\n")
        lines = [f"{LABELS[message.role]} {first}" if first else LABELS[message.role]]
        lines += [f" {line}" if _role_of(line) is not None else line for line in others]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _role_of(line: str) -> str | None:
    return next((role for role, label in LABELS.items() if line.startswith(label)), None)
