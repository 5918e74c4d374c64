"""A conversation with a model: turns, and a cache that keeps what the model has read of them.

With a model that was trained on conversations every turn stands between its role token and `<|end|>`. Any other model
continues text: what the user writes and what the model adds to it are one text that grows.

The ids that a reply has to follow are put together anew each time. What the cache holds of their beginning stays, the rest
is cut off, and only what is new is read: so taking back, editing or writing again is a change of turns and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slim.atomic_file import replace_file
from slim.config import GenerateConfig
from slim.conversation import (
    ASSISTANT,
    USER,
    Message,
    end_id,
    format_transcript,
    message_ids,
    parse_transcript,
    role_id,
)
from slim.decoding import draw_tokens
from slim.errors import DataError, UsageError
from slim.events import GenerateFinished, Note, TokenGenerated
from slim.generate import GrowingText, stop_rules
from slim.input_file import kind_of, open_input

if TYPE_CHECKING:
    from slim.kv_cache import KVCache
    from slim.model import Model
    from slim.tokenizer import Tokenizer

CONTINUES = (
    "this model was not trained on conversations: it continues your text rather than answers it"
)
RESERVE = (
    4  # a reply begins with a quarter of the context before it, or with the room that it asks for
)
LONGEST_TRANSCRIPT = 2**24  # bytes

ChatEvent = TokenGenerated | GenerateFinished | Note


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: role is user or assistant; `tokens` without those that mark the role."""

    role: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class ContextUse:
    """Tokens of the context that the conversation takes, and how many there are."""

    used: int
    limit: int


class Chat:
    """A conversation. `reply`, `retry`, `edit` and `load` compute, so they belong into the engine thread.

    roles          whether the model knows the role tokens (`conversation.knows_roles` of its file's metadata)
    calibration    the model file's record, for `stop_confidence="auto"`
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        config: GenerateConfig,
        calibration: dict[str, object] | None = None,
        roles: bool = False,
        n_alternatives: int = 0,
    ) -> None:
        self.roles = roles
        self.n_alternatives = n_alternatives
        self._model = model
        self._tokenizer = tokenizer
        self._calibration = calibration
        self._limit = model.config.max_seq_len
        self._turns: list[Turn] = []
        self._ids: list[list[int]] = []  # of each turn, with what marks its role
        self._left = 0
        self._cache: KVCache | None = None
        self._cached: list[int] = []  # the ids that the cache holds
        self._said: set[str] = set()
        self._config = config
        self._next_seed = _first_seed(config)

    @property
    def config(self) -> GenerateConfig:
        """How replies are drawn; it may be set between two of them."""
        return self._config

    @config.setter
    def config(self, config: GenerateConfig) -> None:
        if config.seed != self._config.seed:
            self._next_seed = _first_seed(config)
        self._config = config

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Everything that was said, the turns that left the context too."""
        return tuple(self._turns)

    @property
    def left(self) -> int:
        """How many of the oldest turns the model no longer sees."""
        return self._left

    @property
    def context_use(self) -> ContextUse:
        """What the turns that the model sees take of its context."""
        return ContextUse(min(self._size(), self._limit), self._limit)

    def reply(
        self, text: str, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[ChatEvent]:
        """Say `text`; the answer, token by token, then a GenerateFinished. Notes say what a person should know.

        A reply that is interrupted, or that nobody reads to its end, is kept as far as it came.
        should_stop   asked once per token; True ends the reply as `interrupted`
        Raises UsageError for a text that does not fit into the context; then nothing was said.
        """
        if self.roles and not text.strip():
            raise UsageError("a message must not be empty")
        ids = self._ids_of(USER, text)
        room = self._limit - 1 - (1 + self.roles)  # the start mark; the answer's role and a token
        if len(ids) > room:
            raise UsageError(
                f"the message has {len(ids):,} tokens but the model reads at most {room:,}: "
                "shorten it"
            )
        self._push(USER, text, ids)
        yield from self._answer(should_stop)

    def retry(self, should_stop: Callable[[], bool] | None = None) -> Iterator[ChatEvent]:
        """Another answer to what the user said last."""
        text = self._turns[self._last_message("write again")].text
        yield from self.edit(text, should_stop)

    def edit(self, text: str, should_stop: Callable[[], bool] | None = None) -> Iterator[ChatEvent]:
        """Let the user's last message have been `text`; the answer to that."""
        start = self._last_message("edit")
        ids = self._ids[start:]
        turns = self.undo()
        try:
            yield from self.reply(text, should_stop)
        finally:
            if len(self._turns) == start:  # no answer came of it
                self._turns += turns
                self._ids += ids

    def undo(self) -> tuple[Turn, ...]:
        """Take back the user's last message and everything after it; the turns that were taken."""
        start = self._last_message("take back")
        taken = tuple(self._turns[start:])
        del self._turns[start:], self._ids[start:]
        self._left = min(self._left, start)
        return taken

    def clear(self) -> None:
        """Begin anew."""
        self._turns, self._ids, self._left = [], [], 0

    def glue(self, text: str) -> str:
        """What stands between the text so far and a piece that is added to it: a blank, where words would touch."""
        before = self._turns[-1].text if self._turns else ""
        ended = bool(self._ids and self._tokenizer.end_ids.intersection(self._ids[-1][-1:]))
        touching = before and not ended and not before[-1].isspace() and text[:1].isalnum()
        return " " if touching else ""

    def weights_changed(self) -> None:
        """Read everything anew before the next reply: what the cache holds was computed with other weights."""
        self._cached = []

    def transcript(self) -> str:
        """Everything that was said, as plain text."""
        return format_transcript(Message(turn.role, turn.text) for turn in self._turns)

    def save(self, path: str | Path) -> int:
        """Write the transcript to a file, whole or not at all; its size in bytes."""
        if not self._turns:
            raise UsageError("there is nothing to save yet")
        return replace_file(path, [self.transcript().encode("utf-8", "replace")])

    def load(self, path: str | Path) -> None:
        """Go on with the conversation of a transcript, instead of the present one."""
        messages = parse_transcript(_read_text(path))
        if not messages:
            raise DataError(
                f"{path}: is no transcript: a line should begin with 'User:' or 'Assistant:'"
            )
        self.clear()
        for message in messages:
            self._push(message.role, message.text, self._ids_of(message.role, message.text))

    # ---- turns and their ids -------------------------------------------------------------------------------------

    def _push(self, role: str, text: str, ids: list[int]) -> None:
        self._turns.append(Turn(role, text, len(ids) - 2 * self.roles))
        self._ids.append(ids)

    def _ids_of(self, role: str, text: str) -> list[int]:
        if self.roles:
            return message_ids(self._tokenizer, Message(role, text)).tolist()
        return self._tokenizer.encode(self.glue(text) + text).tolist()

    def _last_message(self, wish: str) -> int:
        """Which turn is the user's last one."""
        for number in reversed(range(len(self._turns))):
            if self._turns[number].role == USER:
                return number
        raise UsageError(f"there is nothing to {wish} yet")

    def _make_room(self, written: int) -> Iterator[Note]:
        """Let the oldest turns leave until the reply, of which so many tokens are there, has room to go on."""
        wanted = min(max(self._config.max_tokens - written, 1), self._limit // RESERVE)
        before = self._left
        while self._can_leave() and self._size() + self.roles + written + wanted > self._limit:
            self._left += 1
            while self._can_leave() and self._turns[self._left].role != USER:
                self._left += 1
        if self._left > before:
            turns = "turn leaves" if self._left == before + 1 else "turns leave"
            yield Note(
                f"the context is full: the oldest {self._left - before} {turns} it, "
                f"and the model remembers {len(self._turns) - self._left} of {len(self._turns)}"
            )

    def _can_leave(self) -> bool:
        """Whether there is something in the context before the user's last message."""
        return any(self._ids[self._left : self._last_message("answer")])

    def _size(self) -> int:
        """Tokens of the start mark and of the turns that the model sees."""
        return 1 + sum(map(len, self._ids[self._left :]))

    # ---- the reply -----------------------------------------------------------------------------------------------

    def _answer(self, should_stop: Callable[[], bool] | None) -> Iterator[ChatEvent]:
        """The answer to the last turn, which is the user's. It is a turn from its first token on."""
        seed, self._next_seed = self._next_seed, self._next_seed + 1
        low_confidence, repetition, note = stop_rules(self._config, self._calibration)
        text = GrowingText(
            self._tokenizer, self._config, self._limit, low_confidence, repetition, seed,
            ends=self._special_ids() if self.roles else (),
        )  # fmt: skip
        drawn: list[int] = []
        try:
            if note is not None:
                yield from self._once(note)
            if not self.roles:
                yield from self._once(Note(CONTINUES))
            read = 0
            while not text.finish_reason:
                yield from self._make_room(len(drawn))
                read = read or self._size() + self.roles
                yield from self._draw(text, drawn, seed, should_stop)
            finished = text.finished(read)
            self._keep(finished.text, drawn)
            drawn = []
            yield finished
        finally:
            if drawn:  # the reader has left
                self._keep(text.finished(0).text, drawn)
            elif self._turns and self._turns[-1].role == USER:
                del self._turns[-1], self._ids[-1]

    def _draw(
        self,
        text: GrowingText,
        drawn: list[int],
        seed: int,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[TokenGenerated]:
        """Tokens until the text or the room in the context ends."""
        cache = self._cache = self._cache or self._model.new_cache()
        ids = [self._tokenizer.start_id]
        for turn in self._ids[self._left :]:
            ids += turn
        if self.roles:
            ids.append(role_id(self._tokenizer, ASSISTANT))
        start = len(ids)
        ids += drawn
        kept = _common(self._cached, ids[:-1])
        cache.truncate(kept)
        both = np.array(ids, np.int32)
        tokens = draw_tokens(
            *(self._model, cache, both[kept:], self._config, seed, "chat"),
            never_penalized=self._special_ids(),
            n_alternatives=self.n_alternatives,
            earlier_ids=both[:kept],
        )
        try:
            for token in tokens:
                drawn.append(token.token_id)
                interrupted = should_stop is not None and should_stop()
                # While a turn can make room, a full context ends nothing.
                length = 0 if self._can_leave() else cache.length
                yield text.push(token, length, interrupted)
                if text.finish_reason:
                    return
        finally:
            self._cached = (ids[:start] + drawn)[: cache.length]

    def _keep(self, text: str, drawn: Sequence[int]) -> None:
        """Let the reply be a turn: with the ids as they were drawn, unless a stop rule cut some off."""
        special = self._special_ids()
        body = [token_id for token_id in drawn if token_id not in special]
        if self._tokenizer.decode(body) != text:
            body = self._tokenizer.encode(text).tolist()
        if self.roles:
            ids = [role_id(self._tokenizer, ASSISTANT), *body, end_id(self._tokenizer)]
        else:
            # What the user says after the end of a text begins the next one.
            ended = drawn[-1] in self._tokenizer.end_ids
            ids = body + ([drawn[-1]] if ended else [])
        self._turns.append(Turn(ASSISTANT, text, len(body)))
        self._ids.append(ids)

    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.special_tokens.values())

    def _once(self, note: Note) -> Iterator[Note]:
        if note.text not in self._said:
            self._said.add(note.text)
            yield note


def _first_seed(config: GenerateConfig) -> int:
    """Reply i is drawn with this plus i, so that no two of a chat are drawn alike."""
    return secrets.randbelow(2**31) if config.seed is None else config.seed


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids both begin with."""
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count


def _read_text(path: str | Path) -> str:
    """A transcript's text: UTF-8, and not a file of another kind."""
    file, size = open_input(path, DataError)
    with file:
        if size > LONGEST_TRANSCRIPT:
            raise DataError(
                f"{path}: has {size:,} bytes, but a transcript has at most {LONGEST_TRANSCRIPT:,}"
            )
        data = file.readall()
    kind = kind_of(data[:512])
    if kind is not None:
        raise DataError(f"{path}: is {kind}, not a transcript")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
