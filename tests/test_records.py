"""Records and transcripts: what is read, what is learnt, and what is refused by its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slim import records
from slim.conversation import LABELS, format_transcript, parse_transcript
from slim.corpus import Corpus, divide, divided_parts, read_corpus
from slim.errors import DataError
from slim.records import Part, is_transcript, transcript_parts
from slim.text_files import find_files
from slim.text_stream import Piece


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "talk.jsonl"


def read(file: Path, *lines: object, **options: object) -> Corpus:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8", newline="")
    return read_corpus(file, **options)  # type: ignore[arg-type]


def turns(corpus: Corpus) -> list[tuple[str, str, bool]]:
    """Role, text and whether it is learnt of every part; each ends with <|end|> where it has a role."""
    parts = list(corpus.parts())
    assert all(part.ends == (part.role is not None) for part in parts)
    return [(part.role or "", part.text.decode(), part.learnt) for part in parts]


def talk(*contents: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {
        "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    }


# Records


def test_the_three_kinds_of_records(file: Path) -> None:
    corpus = read(
        file,
        {"text": "A story.\n", "title": "not read"},
        "",
        {"prompt": "2 + 2 =", "completion": " 4"},
        talk("Hi ", "Hello.", "Bye", " Bye. "),
    )
    assert turns(corpus) == [
        ("", "A story.\n", True),
        ("", "2 + 2 =", False),
        ("", " 4", True),
        ("<|user|>", "Hi", False),
        ("<|assistant|>", "Hello.", True),
        ("<|user|>", "Bye", False),
        ("<|assistant|>", "Bye.", True),
    ]
    assert [part.opens for part in corpus.parts()] == [True, True, False, True, False, False, False]
    assert corpus.n_documents == 3 and corpus.has_roles and corpus.is_masked
    assert corpus.n_bytes == sum(len(part.text) for part in corpus.parts())
    assert corpus.notes == ()


def test_what_the_system_says_goes_to_the_user(file: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}],
        },
        {"role": "assistant", "content": "Hello."},
    ]
    assert turns(read(file, {"messages": messages}))[0] == ("<|user|>", "Be kind.\n\nHi!", False)


def test_records_that_hold_nothing_are_left_out(file: Path) -> None:
    corpus = read(
        file,
        {"text": " \n"},
        {"messages": []},
        {"messages": [{"role": "user", "content": "alone"}]},
        {"prompt": "p", "completion": ""},
        {"prompt": "", "completion": "c"},
    )
    assert turns(corpus) == [("", "c", True)]


def test_special_tokens_in_a_text_are_text(file: Path) -> None:
    assert turns(read(file, talk("<|end|>", "<|endoftext|>")))[1] == (
        "<|assistant|>",
        "<|endoftext|>",
        True,
    )


def test_half_a_surrogate_pair_becomes_three_bytes(file: Path) -> None:
    (part,) = read(file, '{"text": "a\\ud800b"}').parts()
    assert part.text == b"a\xed\xa0\x80b"


def test_a_mark_of_the_byte_order_and_windows_lines(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert turns(read_corpus(file)) == [("", "a", True), ("", "b", True)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "is no record"),
        ("null", "is no record"),
        ('{"a": NaN}', "needs text, or prompt and completion, or messages, but has 'a'"),
        ("{}", "but has nothing"),
        ('{"text": "a", "text": "b"}', "has a name twice"),
        ('{"text": 7}', "has a text that is a number"),
        ('{"text": null}', "has a text that is null"),
        ('{"prompt": "a"}', "needs text"),
        ('{"prompt": ["a"], "completion": "b"}', "has a prompt that is a list"),
        ('{"messages": "hi"}', "has messages that are no list"),
        ('{"messages": ["hi"]}', "has a message without a role"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "of the role 'tool', but roles are user"),
        ('{"messages": [{"role": "user"}]}', "has a content of a message that is null"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "a piece that is no text"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"text": "\x1b[31m"}', "is not valid JSON"),
    ],
)  # fmt: skip
def test_a_bad_record_is_refused_by_its_line(file: Path, line: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(file, {"text": "good"}, "", line)
    assert str(caught.value).startswith(f"{file}: line 3 ") and words in str(caught.value)


def test_bytes_that_are_no_text(file: Path) -> None:
    file.write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 1 is not valid UTF-8"):
        read_corpus(file)


def test_a_record_without_an_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST_RECORD", 1000)
    with pytest.raises(DataError, match="line 2 has more than 1,000 bytes"):
        read(file, {"text": "a"}, {"text": "b" * 2000})


def test_no_answers_at_all(file: Path) -> None:
    with pytest.raises(DataError, match="holds no answer of an assistant"):
        read(file, talk("Hi", ""))


def test_a_json_list_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}]')
    with pytest.raises(DataError, match=r"is one JSON list.*jq"):
        read_corpus(tmp_path / "a.json")


def test_max_bytes_counts_lines(file: Path) -> None:
    line = len(json.dumps({"text": "abc"})) + 1
    for limit in range(line - 1, 3 * line):
        corpus = read(file, *[{"text": "abc"}] * 3, max_bytes=limit)
        assert corpus.n_documents == (limit + 1) // line
    with pytest.raises(DataError, match="its first record does not fit into 5 bytes"):
        read_corpus(file, max_bytes=5)


# Transcripts


TALK = "User: Hi\nAssistant: Hello.\nHow are you?\n\nUser:  Fine. \nAssistant: Good.\n"


def test_a_transcript_is_a_conversation(tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    file.write_text(TALK + "<|endoftext|>\nnobody's\nUser: Bye\r\nAssistant: Bye.", newline="")
    corpus = read_corpus(file)
    assert turns(corpus) == [
        ("<|user|>", "Hi", False),
        ("<|assistant|>", "Hello.\nHow are you?", True),
        ("<|user|>", "Fine.", False),
        ("<|assistant|>", "Good.", True),
        ("<|user|>", "Bye", False),
        ("<|assistant|>", "Bye.", True),
    ]
    assert corpus.n_documents == 2 and "is a transcript" in corpus.notes[0].text
    plain = read_corpus(file, plain=True)
    assert (
        not plain.has_roles
        and not plain.is_masked
        and next(plain.parts()).text.startswith(b"User: ")
    )
    assert plain.digest != corpus.digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TALK, True),
        ("\ufeff\n\n" + TALK, True),
        ("Assistant: What can I do?\nUser: Sing.", True),
        ("User: only one side\nUser: of it", False),
        ("First Citizen:\nBefore we proceed\n\nUser: x\nAssistant: y", False),
        ("Once upon a time.\nUser: x\nAssistant: y", False),
        ("User: said the Assistant: no", False),
        ("", False),
    ],
)
def test_what_is_taken_for_a_transcript(text: str, expected: bool) -> None:
    assert is_transcript(text.encode()) == expected


def test_transcripts_are_read_as_chat_writes_them() -> None:
    """The same turns as slim.conversation, which reads them whole."""
    text = TALK * 3 + " User: moved by a blank\nAssistant:\nUser:\n\nAssistant: a:b"
    messages = parse_transcript(text)
    parts = list(transcript_parts([Piece(text.encode(), True)]))
    assert [part.text.decode() for part in parts] == [message.text for message in messages]
    assert format_transcript(messages).startswith(LABELS["user"])


def test_pieces_of_a_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TALK * 4).encode()
    expected = list(transcript_parts([Piece(text, True)]))
    for size in (1, 2, 3, 7, 50):
        pieces = [Piece(text[i : i + size], i == 0) for i in range(0, len(text), size)]
        assert list(transcript_parts(pieces)) == expected
    # A turn that is too long for memory comes in parts, of which the last has the end.
    monkeypatch.setattr(records, "PIECE_BYTES", 20)
    long = b"User: x\nAssistant: " + b"word word word\n" * 20 + b"User: y\nAssistant: z"
    parts = list(transcript_parts([Piece(long[i : i + 9], i == 0) for i in range(0, len(long), 9)]))
    answer = [part for part in parts if part.learnt][:-1]
    assert len(answer) > 3 and answer[0].role == "<|assistant|>" and not answer[0].joined
    assert all(part.joined and part.role is None for part in answer[1:])
    assert [part.ends for part in answer] == [False] * (len(answer) - 1) + [True]
    assert b" ".join(part.text for part in answer).split() == [b"word"] * 60


def test_the_last_turns_of_a_single_conversation_are_held_out(tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    file.write_text("".join(f"User: question {i}\nAssistant: answer {i}\n" for i in range(100)))
    corpus = read_corpus(file)
    parts = list(divided_parts(corpus, divide(corpus, 0.05)))
    held_out = [part for is_held, part in parts if is_held]
    assert len(parts) == 200 and 8 <= len(held_out) <= 12
    assert (
        held_out[0].opens and held_out[0].role == "<|user|>" and held_out[-1].text == b"answer 99"
    )
    assert [part.opens for part in held_out[1:]] == [False] * (len(held_out) - 1)


# Files


def test_a_folder_and_a_pattern(tmp_path: Path, file: Path) -> None:
    folder = tmp_path / "texts"
    for name in (
        "b.txt",
        "a/z.md",
        "c.jsonl",
        ".hidden.txt",
        ".git/x.txt",
        "out.bin.run/metrics.jsonl",
        "x.png",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "r"}' if name.endswith(".jsonl") else name)
    (folder / "out.bin.run/lock").touch()
    (folder / "empty.txt").touch()
    files, notes = find_files(folder)
    names = [os.path.relpath(one.path, folder) for one in files]
    assert names == ["a/z.md", "b.txt", "c.jsonl"]
    assert notes[0].text.endswith("other files in it, which are not read: 1 (x.png)")
    corpus = read_corpus(folder)
    assert [part.text for part in corpus.parts()] == [b"a/z.md", b"b.txt", b"r"]
    files, _ = find_files(str(folder / "**" / "*.txt"))
    assert [os.path.basename(one.path) for one in files] == ["b.txt"]
    with pytest.raises(DataError, match="no file has such a name"):
        find_files(str(folder / "*.csv"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="is a folder without a text"):
        find_files(tmp_path / "nothing")
    odd = folder / "[odd].txt"
    odd.write_text("a name, not a pattern")
    assert [one.path for one in find_files(odd)[0]] == [str(odd)]


def test_parts_are_what_they_say() -> None:
    assert Part(b"x") == Part(b"x", opens=False, joined=False, role=None, ends=False, learnt=True)
