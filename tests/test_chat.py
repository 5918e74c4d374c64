"""Conversations: what the model is given to read, how little of it is read again, and what becomes of the turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slim.chat import CONTINUES, Chat
from slim.config import GenerateConfig, ModelConfig
from slim.errors import DataError, UsageError
from slim.events import GenerateFinished, Note, TokenGenerated
from slim.model import Model
from slim.parameters import Parameters
from slim.tokenizer import Tokenizer

TOKENIZER = Tokenizer([])
EOS, USER, ASSISTANT, END = range(4)
PLAIN = {"temperature": 0.0, "repeat_penalty": 1.0, "seed": 0}
GREEDY = GenerateConfig(**PLAIN, max_tokens=20)


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text).tolist()


class Parrot:
    """Answers from a list, each reply ended by END or EOS; remembers all that it was given to read."""

    def __init__(self, *replies: str, limit: int = 200, end: int = END) -> None:
        self.config = SimpleNamespace(max_seq_len=limit, vocab_size=TOKENIZER.vocab_size)
        self.replies = list(replies)
        self.end = end
        self.read: list[list[int]] = []  # the context before each reply or re-reading
        self.prefilled: list[int] = []
        self._reply: list[int] = []

    def new_cache(self) -> SimpleNamespace:
        cache = SimpleNamespace(length=0, capacity=self.config.max_seq_len, rows=1, ids=[])

        def truncate(length: int) -> None:
            assert length <= cache.length
            del cache.ids[length:]
            cache.length = length

        cache.truncate = truncate
        return cache

    def prefill(self, cache: SimpleNamespace, ids: np.ndarray) -> np.ndarray:
        self.prefilled.append(len(ids))
        self._append(cache, ids.tolist())
        self.read.append(list(cache.ids))
        if not self._reply:
            self._reply = [*ids_of(self.replies.pop(0)), self.end]
        return self._logits()

    def decode_rows(self, cache: SimpleNamespace, tokens: np.ndarray) -> np.ndarray:
        self._append(cache, tokens.tolist())
        return self._logits()[None]

    def _append(self, cache: SimpleNamespace, ids: list[int]) -> None:
        assert cache.length == len(cache.ids)
        cache.ids += ids
        cache.length += len(ids)
        assert cache.length <= cache.capacity, "the cache overflows"

    def _logits(self) -> np.ndarray:
        logits = np.zeros(self.config.vocab_size, np.float32)
        logits[self._reply.pop(0)] = 9.0
        return logits


def chat_with(model: object, roles: bool = True, config: GenerateConfig = GREEDY) -> Chat:
    return Chat(model, TOKENIZER, config, roles=roles)  # type: ignore[arg-type]


def finish(events: list) -> GenerateFinished:
    assert isinstance(events[-1], GenerateFinished)
    streamed = "".join(event.text for event in events if isinstance(event, TokenGenerated))
    assert streamed[: events[-1].kept_characters] == events[-1].text
    return events[-1]


def notes(events: list) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def said(chat: Chat) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in chat.turns]


def test_turns_stand_between_role_tokens_and_only_new_ones_are_read() -> None:
    model = Parrot("hi", "bye")
    chat = chat_with(model)
    done = finish(list(chat.reply("hello")))
    assert (done.text, done.finish_reason, done.tokens) == ("hi", "eos", 3)
    assert model.read[0] == [EOS, USER, *ids_of("hello"), END, ASSISTANT]
    assert done.prompt_tokens == len(model.read[0])
    finish(list(chat.reply("go")))
    assert model.read[1] == [
        *model.read[0],
        *ids_of("hi"),
        END,
        USER,
        *ids_of("go"),
        END,
        ASSISTANT,
    ]
    assert model.prefilled == [9, 6]
    assert said(chat) == [
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "go"),
        ("assistant", "bye"),
    ]
    assert [turn.tokens for turn in chat.turns] == [5, 2, 2, 3]
    assert (chat.context_use.used, chat.context_use.limit) == (1 + 7 + 4 + 4 + 5, 200)


def test_a_base_model_continues_the_text_and_says_so_once() -> None:
    model = Parrot(" there", " was", "", end=EOS)
    chat = chat_with(model, roles=False, config=GenerateConfig(**PLAIN, max_tokens=6))
    first = list(chat.reply("Once"))
    assert notes(first) == [CONTINUES] and finish(first).text == " there"
    second = list(chat.reply("and"))
    assert notes(second) == []
    # A reply cut by its length is the same text; words that would touch get a blank.
    assert model.read[1] == [EOS, *ids_of("Once there and")]


def test_after_the_end_of_a_text_a_base_model_begins_another() -> None:
    model = Parrot(" x.", "y", end=EOS)
    chat = chat_with(model, roles=False)
    list(chat.reply("A"))
    list(chat.reply("B"))
    assert model.read[1] == [EOS, *ids_of("A x."), EOS, *ids_of("B")]


def test_retry_reads_one_token_and_draws_with_another_seed() -> None:
    model = Parrot("one", "two")
    chat = chat_with(model)
    first = finish(list(chat.reply("hello")))
    second = finish(list(chat.retry()))
    assert said(chat) == [("user", "hello"), ("assistant", "two")]
    assert model.prefilled == [9, 1] and model.read[0] == model.read[1]
    assert (first.seed, second.seed) == (0, 1)


def test_undo_and_edit_read_on_from_where_the_texts_part() -> None:
    model = Parrot("one", "two", "three")
    chat = chat_with(model)
    list(chat.reply("abc"))
    list(chat.reply("def"))
    list(chat.edit("dxf"))
    assert said(chat)[2:] == [("user", "dxf"), ("assistant", "three")]
    assert model.prefilled[2] == len("xf") + 2  # END and ASSISTANT
    assert [turn.text for turn in chat.undo()] == ["dxf", "three"]
    chat.undo()
    assert chat.turns == () and chat.context_use.used == 1
    for wish in (chat.undo, lambda: list(chat.retry()), lambda: list(chat.edit("x"))):
        with pytest.raises(UsageError, match="there is nothing to"):
            wish()


def test_the_cache_gives_what_a_fresh_reading_gives() -> None:
    """Real kernels: a conversation with detours ends like one that never had them."""
    size = ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=48,
        max_seq_len=96,
    )
    model = Model(size, Parameters(size).initialise(3))
    config = GenerateConfig(seed=5, max_tokens=8)
    chat = chat_with(model, config=config)
    for step in (chat.reply("hello"), chat.reply("what?"), chat.retry(), chat.edit("where?")):
        finish(list(step))
    fresh = chat_with(model, config=config)
    fresh._turns, fresh._ids = list(chat._turns[:-2]), list(chat._ids[:-2])
    fresh._next_seed = chat._next_seed - 1
    left, right = chat.turns[-1], finish(list(fresh.reply("where?")))
    assert left.text == right.text
    assert [turn.tokens for turn in chat.turns] == [turn.tokens for turn in fresh.turns]


@pytest.mark.parametrize("roles", [True, False])
def test_an_interrupted_reply_is_kept(roles: bool) -> None:
    chat = chat_with(Parrot("abcdef", "more", end=END if roles else EOS), roles=roles)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    done = finish(list(chat.reply("x", should_stop)))
    assert (done.text, done.finish_reason) == ("abc", "interrupted")
    assert said(chat) == [("user", "x"), ("assistant", "abc")]
    chat = chat_with(Parrot("abcdef", "more", end=END if roles else EOS), roles=roles)
    events = chat.reply("x")
    while not isinstance(event := next(events), TokenGenerated) or event.index < 1:
        pass
    events.close()
    assert said(chat) == [("user", "x"), ("assistant", "ab")]
    chat._model._reply = []  # type: ignore[attr-defined]
    finish(list(chat.reply("y")))
    assert len(chat.turns) == 4


def test_a_reader_that_leaves_before_the_first_token_has_said_nothing() -> None:
    chat = chat_with(Parrot("abc", "def", end=EOS), roles=False)
    list(chat.reply("x"))
    before = chat.turns
    chat._said.clear()
    events = chat.reply("y")
    assert isinstance(next(events), Note)
    events.close()
    assert chat.turns == before
    chat._said.clear()
    events = chat.retry()
    next(events)
    events.close()
    assert chat.turns == before


def test_the_oldest_turns_leave_a_full_context_with_a_note() -> None:
    model = Parrot("aaaa", "bbbb", "cccc", limit=40)
    chat = chat_with(model, config=GenerateConfig(**PLAIN, max_tokens=10))
    list(chat.reply("11111111"))
    assert notes(list(chat.reply("22222222"))) == []
    third = list(chat.reply("33333333"))
    assert (
        len(notes(third)) == 1
        and "the context is full: the oldest 2 turns leave it" in notes(third)[0]
    )
    assert chat.left == 2 and len(chat.turns) == 6
    expected = [EOS, USER, *ids_of("22222222"), END, ASSISTANT, *ids_of("bbbb"), END]
    assert model.read[-1] == [*expected, USER, *ids_of("33333333"), END, ASSISTANT]
    chat.clear()
    assert chat.left == 0 and chat.turns == ()


def test_a_long_reply_pushes_old_turns_out_and_goes_on() -> None:
    model = Parrot("aaaa", "b" * 26, limit=40)
    chat = chat_with(model, config=GenerateConfig(**PLAIN, max_tokens=30))
    list(chat.reply("1111"))
    events = list(chat.reply("2222"))
    assert finish(events).text == "b" * 26 and finish(events).finish_reason == "eos"
    assert len(notes(events)) == 1 and chat.left == 2
    # It was read again without the oldest turns, with what the reply had come to.
    head = [EOS, USER, *ids_of("2222"), END, ASSISTANT]
    assert model.read[-1][: len(head)] == head
    assert set(model.read[-1][len(head) :]) == set(ids_of("b"))


def test_a_reply_ends_where_nothing_can_leave() -> None:
    chat = chat_with(Parrot("b" * 50, limit=20), config=GenerateConfig(**PLAIN, max_tokens=90))
    done = finish(list(chat.reply("1234")))
    # 8 are read, 12 fit, and the last prediction needs no room.
    assert (done.finish_reason, done.tokens) == ("context", 13)
    model = Parrot("", "b" * 50, limit=20)
    chat = chat_with(model, roles=False, config=GenerateConfig(**PLAIN, max_tokens=1))
    list(chat.reply(""))  # turns of no tokens can make no room
    assert chat.context_use.used == 1
    chat.config = GenerateConfig(**PLAIN, max_tokens=90)
    assert finish(list(chat.reply("1234"))).finish_reason == "context"


def test_a_message_that_does_not_fit_changes_nothing() -> None:
    chat = chat_with(Parrot("one", limit=20))
    list(chat.reply("hello"))
    before = chat.turns
    message = "has 18 tokens but the model reads at most 17: shorten it"
    for attempt in (chat.reply, chat.edit):
        with pytest.raises(UsageError, match=message):
            list(attempt("1234567890123456"))
        assert chat.turns == before
    with pytest.raises(UsageError, match="must not be empty"):
        list(chat.reply("  "))


def test_a_reply_that_a_rule_cuts_is_remembered_as_it_was_kept() -> None:
    model = Parrot("one STOP two", "x")
    chat = chat_with(model, config=GenerateConfig(**PLAIN, stop=("STOP",)))
    done = finish(list(chat.reply("a")))
    assert (done.text, done.finish_reason) == ("one ", "stop_string")
    model._reply = []
    list(chat.reply("b"))
    tail = [ASSISTANT, *ids_of("one "), END, USER, *ids_of("b"), END, ASSISTANT]
    assert model.read[-1][-len(tail) :] == tail


def test_replies_of_a_seed_are_the_same_again_and_settings_keep_it() -> None:
    def seeds(change: Callable[[Chat], None]) -> list[int]:
        chat = chat_with(Parrot("a", "b"))
        first = finish(list(chat.reply("x"))).seed
        change(chat)
        return [first, finish(list(chat.reply("y"))).seed]

    def colder(chat: Chat) -> None:
        chat.config = GenerateConfig(temperature=0.5, seed=0)

    def reseeded(chat: Chat) -> None:
        chat.config = GenerateConfig(temperature=0.5, seed=70)

    assert seeds(lambda chat: None) == seeds(colder) == [0, 1]
    assert seeds(reseeded) == [0, 70]


def test_the_penalty_sees_what_the_cache_holds() -> None:
    """Token a was said in the first turn: the second reply avoids it though it is not read again."""

    class Undecided(Parrot):
        def _logits(self) -> np.ndarray:
            logits = np.zeros(self.config.vocab_size, np.float32)
            logits[ids_of("a")[0]], logits[ids_of("b")[0]] = 2.0, 1.9
            return logits

    model = Undecided("", "")
    chat = chat_with(
        model, config=GenerateConfig(temperature=0.0, repeat_penalty=1.2, max_tokens=1)
    )
    assert finish(list(chat.reply("q"))).text == "a"
    model._reply = []
    assert finish(list(chat.reply("r"))).text == "b"


def test_a_conversation_is_saved_and_goes_on(tmp_path: Path) -> None:
    chat = chat_with(Parrot("hi\nthere"))
    with pytest.raises(UsageError, match="nothing to save"):
        chat.save(tmp_path / "empty.txt")
    list(chat.reply("hello"))
    path = tmp_path / "talk.txt"
    assert chat.save(path) == path.stat().st_size
    assert path.read_text(encoding="utf-8") == "User: hello\nAssistant: hi\nthere\n"
    model = Parrot("yes")
    other = chat_with(model)
    other.load(path)
    assert said(other) == said(chat)
    list(other.reply("again"))
    assert model.read[0][: len(chat._ids[0]) + 1] == [EOS, *chat._ids[0]]
    assert other.turns[:2] == chat.turns


def test_what_is_no_transcript_is_refused_and_the_conversation_stays(tmp_path: Path) -> None:
    chat = chat_with(Parrot("hi"))
    list(chat.reply("hello"))
    before = chat.turns
    for name, data, words in (
        ("poem.txt", b"no one speaks", "should begin with 'User:' or 'Assistant:'"),
        ("zip", b"PK\x03\x04" + bytes(50), "is a zip archive"),
        ("empty", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            chat.load(tmp_path / name)
    with pytest.raises(DataError, match="cannot be opened"):
        chat.load(tmp_path / "missing")
    assert chat.turns == before
