"""Reading text: documents, odd bytes, cuts, and which part is for validation."""

from __future__ import annotations

import gzip
import os
import random
import tempfile
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import records, text_stream
from slim.corpus import Corpus, divide, divided_parts, read_corpus
from slim.errors import DataError, UsageError
from slim.records import Part
from slim.text_stream import SEPARATOR
from slim.tokenizer import train_tokenizer

SHARED = Path(__file__).parent.parent / ".." / "shared" / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


def read(file: Path, contents: bytes, **options: object) -> Corpus:
    file.write_bytes(contents)
    return read_corpus(file, **options)  # type: ignore[arg-type]


def grouped(parts: Iterable[Part]) -> list[bytes]:
    """The text of each document."""
    found: list[list[bytes]] = []
    for part in parts:
        if part.opens:
            found.append([])
        found[-1].append(part.text)
    return [b"".join(texts) for texts in found]


def documents_of(corpus: Corpus) -> list[bytes]:
    found = grouped(corpus.parts())
    assert len(found) == corpus.n_documents and sum(map(len, found)) == corpus.n_bytes
    return found


@dataclass(frozen=True)
class Divided:
    train: list[bytes]
    validation: list[bytes]
    whole: bool


def divided(documents: list[bytes], share: float) -> Divided:
    """A corpus of these documents, divided."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(b"".join(document + b"\n<|endoftext|>\n" for document in documents))
        corpus = read_corpus(path)
        division = divide(corpus, share)
        parts = list(divided_parts(corpus, division))
        sides = [
            grouped(part for held_out, part in parts if held_out == side) for side in (False, True)
        ]
        return Divided(*sides, division.cut is None)


# Documents


@pytest.mark.parametrize(
    ("contents", "documents"),
    [
        (b"a\n<|endoftext|>\nb\n<|endoftext|>\n", [b"a", b"b"]),
        (b"a\r\n<|endoftext|>\r\nb\r\n<|endoftext|>\r\n", [b"a", b"b"]),
        (b"a<|endoftext|>b", [b"a", b"b"]),
        (b"\na\n<|endoftext|>\nb\n", [b"\na", b"b\n"]),
        (b"a\n\n<|endoftext|>\n\nb\n", [b"a\n", b"\nb\n"]),
        (b" a \n<|endoftext|>\n b", [b" a ", b" b"]),
        (b"<|endoftext|>\n<|endoftext|>\n \n<|endoftext|>a", [b"a"]),
        (b"a\n\nb\n\nc\n", [b"a\n\nb\n\nc\n"]),
        (b"a\r<|endoftext|>\rb", [b"a\r", b"\rb"]),
        (b"a <|endoftext|", [b"a <|endoftext|"]),
    ],
)
def test_documents_end_at_the_mark_and_nowhere_else(
    file: Path, contents: bytes, documents: list[bytes]
) -> None:
    corpus = read(file, contents)
    assert documents_of(corpus) == documents
    assert corpus.n_bytes == sum(map(len, documents))


@pytest.mark.parametrize(
    ("split", "documents"),
    [
        ("file", [b"\na\nb\r\n\r\n \t\n\nc\r\nd\n"]),
        ("blank", [b"a\nb", b"c\r\nd"]),
        ("line", [b"a", b"b", b"c", b"d"]),
    ],
)
def test_split_without_marks(file: Path, split: str, documents: list[bytes]) -> None:
    assert documents_of(read(file, b"\na\nb\r\n\r\n \t\n\nc\r\nd\n", split=split)) == documents


def test_marks_outrank_split(file: Path) -> None:
    corpus = read(file, b"a\n\nb\n<|endoftext|>\nc", split="blank")
    assert documents_of(corpus) == [b"a\n\nb", b"c"]
    assert "split at its <|endoftext|> marks, not by blank" in corpus.notes[0].text


def test_several_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two\n<|endoftext|>\nthree")
    assert documents_of(read_corpus([tmp_path / "a", tmp_path / "b"])) == [b"one", b"two", b"three"]


def test_digest_names_the_documents(file: Path) -> None:
    digests = [
        read(file, contents).digest
        for contents in (b"ab<|endoftext|>c", b"a<|endoftext|>bc", b"abc", b"ab", b"ab\n<|endoftext|>\nc")
    ]  # fmt: skip
    assert digests[0] == digests[4] and len(set(digests)) == 4
    assert all(len(digest) == 64 for digest in digests)


@given(st.lists(st.binary(max_size=40).filter(lambda b: not b.isspace()), min_size=1, max_size=8))
def test_documents_come_back_byte_for_byte(tmp_path_factory, documents: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    # "\r" before the mark's "\n" would be taken for one line break.
    documents = [b"A text. " * 30 + part.replace(b"<", b"(").rstrip(b"\r") for part in documents]
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    for line in (b"\n", b"\r\n"):
        contents = b"".join(document + line + SEPARATOR + line for document in documents)
        assert documents_of(read(file, contents)) == documents


# Odd bytes


def test_odd_bytes_are_kept_and_counted(file: Path) -> None:
    contents = b"\xef\xbb\xbfone\r\ntwo\r\n\0\0 caf\xe9 na\xefve \xf0\x9f\x98 " + b"x" * 100
    corpus = read(file, contents)
    assert documents_of(corpus) == [contents]
    notes = {note.text.split(": ", 1)[1]: note.level for note in corpus.notes}
    assert notes == {
        "begins with a byte order mark, which is kept": "info",
        "lines that end in CRLF, as in Windows, are kept so: 2": "info",
        "bytes of value zero, which are kept: 2": "warning",
        "places that are not valid UTF-8, which are kept: 3": "warning",
    }


def test_plain_text_has_no_notes(file: Path) -> None:
    assert read(file, "Füße, 字, \ufffd, 😀\t\x1b[1m\n".encode() * 50_000).notes == ()


def test_invalid_utf8_is_counted_across_chunks(file: Path) -> None:
    for at in range(2**20 - 5, 2**20 + 5):
        text = b"x" * at + "😀".encode() + b"x" * 50 + b"\xe9" + b"x" * 2**20 + b"\xe2\x82"
        (note,) = read(file, text).notes
        assert note.text.endswith(": 2")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "is empty"),
        (b" \n\t\r\n", "holds no text"),
        (b"\n<|endoftext|>\n", "holds no text"),
        (gzip.compress(b"text" * 100), "is gzip-compressed"),
        (b"PK\x03\x04" + bytes(100), "is a zip archive"),
        (b"%PDF-1.7\n%abc", "is a PDF document"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture"),
        (b"\xef\xbb\xbf <!doctype HTML>\n<html>", "is an HTML page"),
        (b"<html lang=en>", "is an HTML page"),
        ("some text".encode("utf-16"), "is UTF-16 text"),
        ("some text".encode("utf-16-le"), "is binary, or text in another encoding"),
        ("Съешь ещё этих мягких французских булок".encode("cp1251"), "another encoding: 87 %"),
        (random.Random(1).randbytes(5000), "is binary"),
        (bytes(1000), "is binary, or text in another encoding: 100 %"),
        (b"\x40" + bytes(7) + b'{"__metadata__":{}}', "is a safetensors file"),
        (b"GGUF\x03\0\0\0" + bytes(50), "is a GGUF model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    ],
)
def test_what_is_not_text(file: Path, contents: bytes, words: str) -> None:
    for max_bytes in (None, 10_000):
        with pytest.raises(DataError) as caught:
            read(file, contents, max_bytes=max_bytes)
        assert str(caught.value).startswith(f"{file}: ") and words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder without a text"),
        (tmp_path / "*.txt", "no file has such a name"),
        (tmp_path / "missing", "no such file"),
        (tmp_path / "pipe", "is a pipe"),
        ("/dev/zero", "is a pipe or a device"),
    ):
        with pytest.raises(DataError, match=words):
            read_corpus(path)


def test_texts_that_look_like_something_else(file: Path) -> None:
    for contents in (
        b"GIF8 is a word here",
        b"PAR1S is a town",
        "GGUF é".encode(),
        b"{}",
        b"12345678{",
    ):
        assert documents_of(read(file, contents)) == [contents]
    latin = "Größe, Füße, Mädchen, Übermut: ein kurzer Text in Latin-1".encode("latin-1")
    assert read(file, latin).notes[0].level == "warning"


def test_options_that_make_no_sense(file: Path) -> None:
    with pytest.raises(UsageError, match="'words'"):
        read(file, b"text", split="words")
    with pytest.raises(UsageError, match="MAX_BYTES must be at least 1, but is 0"):
        read(file, b"text", max_bytes=0)


@given(
    st.binary(max_size=60) | st.text("ab \n\r\té", max_size=30).map(str.encode),
    st.sampled_from(["file", "blank", "line"]),
    st.none() | st.integers(1, 40),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory, contents: bytes, split: str, limit
) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    contents = contents.replace(b"|", SEPARATOR)
    try:
        corpus = read(file, contents, split=split, max_bytes=limit)
    except DataError:
        return
    assert corpus.n_bytes <= min(len(contents), limit or len(contents))
    rest = contents
    for document in documents_of(corpus):
        assert document.strip() and SEPARATOR not in document
        rest = rest[rest.index(document) + len(document) :]


@pytest.mark.parametrize("kind", ["stories", "one document", "records", "transcript"])
def test_a_large_text_is_never_in_memory(
    file: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "CHUNK_BYTES", 2**16)
    monkeypatch.setattr(text_stream, "PIECE_BYTES", 2**17)
    monkeypatch.setattr(records, "PIECE_BYTES", 2**17)
    sentence = b"Once upon a time there was a file. " * 20
    contents = {
        "stories": (sentence + b"\n<|endoftext|>\n") * 9000,
        "one document": sentence * 9000,
        "records": (b'{"text": "' + sentence + b'"}\n') * 9000,
        "transcript": (b"User: " + sentence + b"\nAssistant: yes\n") * 9000,
    }[kind]
    file.write_bytes(contents)
    del contents
    tracemalloc.start()
    try:
        corpus = read_corpus(file)
        n_bytes = sum(len(text) for text in corpus.texts())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_bytes == corpus.n_bytes > 5.8e6 and peak < 1.5e6


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([b"a", b"b c", b"\n", b"\r\n", b" ", b"\t\n", SEPARATOR, "é字".encode()]), max_size=30),
    st.integers(1, 9),
    st.integers(1, 12),
    st.sampled_from(["file", "blank", "line"]),
)  # fmt: skip
def test_chunks_and_pieces_change_nothing(
    tmp_path_factory, texts: list[bytes], chunk: int, piece: int, split: str
) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    contents = b"".join(texts)

    def documents() -> list[bytes]:
        try:
            return documents_of(read(file, contents, split=split))
        except DataError:
            return []

    expected = documents()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stream, "CHUNK_BYTES", chunk)
        assert documents() == expected
        # White space around a long document may stay: it is not known yet whether more follows.
        patch.setattr(text_stream, "PIECE_BYTES", 16 + piece)
        assert [text.split() for text in documents()] == [text.split() for text in expected]


def test_pieces_of_a_long_document_become_the_same_tokens(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_tokenizer([b"the cat's hat, the dog's log " * 50], 300)
    draw = random.Random(3)
    words = [
        "the",
        " cat",
        "'s",
        "  ",
        "\n",
        " ",
        "\n\n",
        "漢字",
        "。",
        "\u3000",
        "é",
        "\xa0",
        "12",
        "...",
        "\t",
    ]
    for _ in range(30):
        text = "".join(draw.choice(words) for _ in range(900)).encode()
        monkeypatch.setattr(text_stream, "PIECE_BYTES", draw.randrange(200, 300))
        monkeypatch.setattr(text_stream, "CHUNK_BYTES", draw.randrange(10, 90))
        parts = list(read(file, b"x" + text + b"x").parts())
        assert len(parts) > 4 and [part.joined for part in parts] == [False] + [True] * (
            len(parts) - 1
        )
        apart = np.concatenate([tokenizer.encode(part.text) for part in parts])
        np.testing.assert_array_equal(apart, tokenizer.encode(b"x" + text + b"x"))


# MAX_BYTES


@pytest.mark.parametrize("mark", [b"\n<|endoftext|>\n", b"<|endoftext|>", b"\r\n<|endoftext|>\r\n"])
def test_max_bytes_keeps_whole_documents(file: Path, mark: bytes) -> None:
    stories = [bytes([65 + index]) * (10 + 3 * index) for index in range(6)]
    contents = b"".join(story + mark for story in stories)
    ends = [contents.index(story) + len(story) for story in stories]
    for limit in range(ends[0], len(contents)):
        corpus = read(file, contents, max_bytes=limit)
        count = len(documents_of(corpus))
        assert documents_of(corpus) == stories[:count]
        assert ends[count - 1] <= limit
        assert count == 6 or limit < ends[count]
        assert f"MAX_BYTES is {limit}" in corpus.notes[0].text
    whole = read(file, contents, max_bytes=len(contents))
    assert documents_of(whole) == stories and "MAX_BYTES" not in str(whole.notes)


def test_max_bytes_at_the_very_end_of_a_document(file: Path) -> None:
    for mark in (b"\n<|endoftext|>\n", b"\r\n<|endoftext|>\r\n", b"<|endoftext|>"):
        contents = b"a" * 10 + mark + b"b" * 10 + mark + b"c" * 10
        at = contents.index(b"b") + 10
        assert len(documents_of(read(file, contents, max_bytes=at))) == 2
        assert len(documents_of(read(file, contents, max_bytes=at - 1))) == 1


def test_max_bytes_with_other_splits(file: Path) -> None:
    assert documents_of(read(file, b"aa\nbb\ncc\n", split="line", max_bytes=5)) == [b"aa", b"bb"]
    assert documents_of(read(file, b"aa\nbb\ncc\n", split="line", max_bytes=4)) == [b"aa"]
    assert documents_of(read(file, b"aa\nbb\ncc\n", split="line", max_bytes=7)) == [b"aa", b"bb"]
    assert documents_of(read(file, b"a\na\n\nb\nb\n\nc", split="blank", max_bytes=7)) == [b"a\na"]
    assert documents_of(read(file, b"a\na\n\nb\nb\n\nc", split="blank", max_bytes=8)) == [b"a\na", b"b\nb"]  # fmt: skip


@pytest.mark.parametrize("tail", [b"", b"\n<|endoftext|>\nmore"])
def test_a_single_document_is_cut_at_a_character(file: Path, tail: bytes) -> None:
    text = "aé字😀" * 20
    for limit in range(4, len(text.encode())):
        (document,) = documents_of(read(file, text.encode() + tail, max_bytes=limit))
        assert text.startswith(document.decode())
        assert limit - 4 < len(document) <= limit


def test_no_part_of_a_mark_is_text(file: Path) -> None:
    for limit in range(10, 26):
        corpus = read(file, b"a" * 10 + b"\n<|endoftext|>\nbbbbbbbbbb", max_bytes=limit)
        assert documents_of(corpus) == [b"a" * 10]


def test_max_bytes_with_borders_far_apart(file: Path) -> None:
    contents = b"a" * 100_000 + b"\n<|endoftext|>\n" + b"b" * 300_000 + b"\n<|endoftext|>\nccc"
    for limit, sizes in ((350_000, [100_000]), (100_000, [100_000]), (99_999, [99_999])):
        assert list(map(len, documents_of(read(file, contents, max_bytes=limit)))) == sizes


def test_max_bytes_over_several_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 10 + SEPARATOR + name.encode() * 10)
    paths = [tmp_path / name for name in "abc"]
    corpus = read_corpus(paths, max_bytes=50)
    assert documents_of(corpus) == [b"a" * 10, b"a" * 10, b"b" * 10]
    assert documents_of(read_corpus(paths, max_bytes=35)) == [b"a" * 10, b"a" * 10]
    assert documents_of(read_corpus(paths, max_bytes=33)) == [b"a" * 10, b"a" * 10]
    assert documents_of(read_corpus(paths, max_bytes=5)) == [b"aaaaa"]


# Validation


def stories(count: int, seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    return [draw.randbytes(draw.randrange(25, 75)).hex().encode() for _ in range(count)]


def test_share_of_the_documents() -> None:
    documents = stories(4000)
    division = divided(documents, 0.05)
    assert 0.035 < len(division.validation) / 4000 < 0.065
    rest = iter(division.train)
    assert sorted(division.train + division.validation) == sorted(documents)
    assert [document for document in documents if document in set(division.train)] == list(rest)


def test_choice_depends_on_the_bytes_alone() -> None:
    documents = stories(400)
    chosen = set(divided(documents, 0.05).validation)
    assert set(divided(documents[::-1], 0.05).validation) == chosen
    assert set(divided(documents[:200], 0.05).validation) <= chosen
    assert chosen <= set(divided(documents, 0.1).validation)


def test_equal_documents_stay_together() -> None:
    documents = stories(100) * 3
    division = divided(documents, 0.05)
    assert division.validation and not set(division.train) & set(division.validation)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5])
def test_both_parts_have_text(share: float) -> None:
    for count in range(1, 40):
        documents = stories(count, seed=count)
        division = divided(documents, share)
        assert division.train and division.validation
        assert sum(map(len, division.train + division.validation)) == sum(map(len, documents))
        most = max(0.2, 1.5 * share)
        assert sum(map(len, division.validation)) <= most * sum(map(len, documents)) + 1


def test_a_giant_document_is_not_given_away() -> None:
    for seed in range(30):
        documents = [*stories(8, seed), b"long " * 1000]
        division = divided(documents, 0.05)
        assert documents[-1] in division.train and len(division.validation) >= 1


def test_a_single_document_is_validated_on_its_end() -> None:
    text = b"".join(b"line %d of a text\n" % index for index in range(1000))
    division = divided([text], 0.05)
    assert division.train[0] + division.validation[0] == text
    assert division.train[0].endswith(b"\n") and division.validation[0].startswith(b"line ")
    assert 0.045 < len(division.validation[0]) / len(text) <= 0.05


def test_where_a_text_without_lines_is_cut() -> None:
    words = divided([b"word " * 1000], 0.05)
    assert words.train[0].endswith(b" ") and words.validation[0].startswith(b"word")
    characters = "字" * 999
    cut = divided([characters.encode()], 0.05)
    assert (cut.train[0].decode() + cut.validation[0].decode()) == characters
    assert len(divided([b"x" * 1000], 0.05).validation[0]) == 50


def test_three_equal_files_give_the_end_of_one() -> None:
    documents = [letter * 999 + b"\n" for letter in (b"a", b"b", b"c")]
    division = divided(documents, 0.05)
    assert b"".join(division.train) + b"".join(division.validation) != b""
    assert sum(map(len, division.validation)) == 50 and len(division.train) == 3


def test_no_validation_when_none_is_asked_for() -> None:
    assert divided([b"text", b"more"], 0.0).validation == []
    tiny = divided([b"t"], 0.05)
    assert tiny.validation == [] and tiny.train == [b"t"]


# Real texts


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_real_corpora() -> None:
    tiny = read_corpus(SHARED / "tinystories-train.txt")
    assert len(documents_of(tiny)) == 11_208 and tiny.notes == ()
    assert not any(story.startswith(b"\n") or SEPARATOR in story for story in documents_of(tiny))
    first = read_corpus(SHARED / "tinystories-train.txt", max_bytes=1_000_000)
    assert documents_of(first) == documents_of(tiny)[: len(documents_of(first))]
    assert 995_000 < first.n_bytes + 15 * len(documents_of(first)) <= 1_000_015
    for name in ("tinyshakespeare", "chinese_hongloumeng", "german_faust_ballads"):
        corpus = read_corpus(SHARED / f"{name}.txt")
        assert documents_of(corpus) == [(SHARED / f"{name}.txt").read_bytes()]
