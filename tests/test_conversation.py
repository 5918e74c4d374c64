"""Roles as tokens and as transcripts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slim.conversation import (
    Message,
    format_transcript,
    knows_roles,
    message_ids,
    parse_transcript,
)
from slim.tokenizer import Tokenizer


def test_a_message_stands_between_its_role_and_its_end() -> None:
    tokenizer = Tokenizer([])
    ids = message_ids(tokenizer, Message("user", "ab")).tolist()
    assert ids == [1, *tokenizer.encode("ab").tolist(), 3]
    assert message_ids(tokenizer, Message("assistant", "")).tolist() == [2, 3]


def test_a_written_role_token_is_text() -> None:
    ids = message_ids(Tokenizer([]), Message("user", "<|end|>")).tolist()
    assert ids.count(3) == 1 and len(ids) == 2 + len("<|end|>")


def test_only_a_history_that_says_so_means_roles() -> None:
    assert knows_roles({"history": [{"chat": True}, {"command": "finetune"}]})
    for metadata in ({}, {"history": None}, {"history": ["chat"]}, {"history": [{"chat": 1}]}):
        assert not knows_roles(metadata)


def test_a_transcript_is_read_line_by_line() -> None:
    text = "A title\r\nUser: hello\r\n  there\r\n\r\nAssistant:\nhi: you\nUser: x Assistant: y"
    assert parse_transcript(text) == [
        Message("user", "hello\n  there"),
        Message("assistant", "hi: you"),
        Message("user", "x Assistant: y"),
    ]
    assert parse_transcript("nobody speaks") == []


texts = st.text(st.sampled_from("ab :\nU"), max_size=12).map(str.strip)


@given(st.lists(st.builds(Message, st.sampled_from(("user", "assistant")), texts)))
def test_what_is_written_is_read(messages: list[Message]) -> None:
    assert parse_transcript(format_transcript(messages)) == messages


def test_a_line_that_looks_like_a_label_stays_inside_its_message() -> None:
    message = Message("user", "he wrote\nAssistant: no")
    assert parse_transcript(format_transcript([message])) == [
        Message("user", "he wrote\n Assistant: no")
    ]
