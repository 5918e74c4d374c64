"""The byte-level BPE against the `tokenizers` library, against a trainer in plain Python, and against hostile text."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.errors import ConfigError, ModelFileError
from slim.tokenizer import (
    FIRST_MERGE_ID,
    SPECIAL_TOKENS,
    Tokenizer,
    choose_vocab_size,
    train_tokenizer,
)

STORIES = Path(__file__).parents[1] / "demo" / "stories.txt"
DOCUMENTS = [part.strip(b"\n") for part in STORIES.read_bytes().split(b"<|endoftext|>")][:400]

ALPHABETS = (
    "abc ABC'st re ve ll d m 's't",
    " \t\n\r\x0b\x0c\x85\xa0\u2003\u3000",
    "0123456789٣४Ⅷ½²",
    "äößéñÅ\u0301\u0308e\u200d\u200b\ufeff",
    "漢字かなカナ한글العربية",
    "😀👩\u200d👩\u200d👧🏽🇩🇪",
    "\x00\x01\x1b\x7f\u202e<|endoftext|><|user|>",
    ".,;:!?-—…\"'’“”()[]{}",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(DOCUMENTS, 1024)


@pytest.fixture(scope="module")
def oracle(tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
    tokenizers = pytest.importorskip("tokenizers")
    loaded = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    loaded.encode_special_tokens = True  # a special token in a text is text
    return loaded


def hostile(count: int, seed: int) -> list[str]:
    """Strings that mix alphabets, runs, contractions and random code points."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(0, 12)):
            kind = draw.random()
            if kind < 0.7:
                alphabet = draw.choice(ALPHABETS)
                parts.append("".join(draw.choice(alphabet) for _ in range(draw.randint(1, 8))))
            elif kind < 0.8:
                parts.append(draw.choice(" \nx'1") * draw.randint(1, 40))
            elif kind < 0.9:
                parts.append(draw.choice(("'s", "'re", "'LL", "'", "it's", " 't", "\r\n")))
            else:
                point = draw.choice(
                    (draw.randrange(0x80), draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))
                )
                parts.append(chr(point))
        texts.append("".join(parts))
    return texts


def test_encodings_equal_the_library_on_hostile_strings(tokenizer: Tokenizer, oracle) -> None:  # type: ignore[no-untyped-def]
    for text in hostile(10_000, seed=1):
        assert tokenizer.encode(text).tolist() == oracle.encode(text).ids, repr(text)


def test_every_code_point_is_cut_as_the_library_cuts_it(tokenizer: Tokenizer, oracle) -> None:  # type: ignore[no-untyped-def]
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    step = 4096
    for start in range(0, len(points), step):
        text = "".join(f"a{chr(c)}1" for c in points[start : start + step])
        assert tokenizer.encode(text).tolist() == oracle.encode(text).ids, hex(points[start])


def test_real_text_equals_the_library(tokenizer: Tokenizer, oracle) -> None:  # type: ignore[no-untyped-def]
    for document in DOCUMENTS[:100]:
        assert tokenizer.encode(document).tolist() == oracle.encode(document.decode()).ids


many = pytest.mark.parametrize("count", [300, pytest.param(4000, marks=pytest.mark.soak)])


@many
def test_any_bytes_come_back(tokenizer: Tokenizer, count: int) -> None:
    @settings(max_examples=count, deadline=None, database=None)
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        assert tokenizer.decode_bytes(tokenizer.encode(data)) == data

    check()


@many
def test_any_text_is_cut_as_the_library_cuts_it_and_streams_as_it_is(
    tokenizer: Tokenizer, oracle, count: int
) -> None:  # type: ignore[no-untyped-def]
    @settings(max_examples=count, deadline=None, database=None)
    @given(st.text(max_size=120))
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids.tolist() == oracle.encode(text).ids
        stream = tokenizer.stream()
        streamed = "".join(stream.push(i) for i in ids.tolist()) + stream.flush()
        assert streamed == tokenizer.decode(ids) == text

    check()


def test_bytes_that_are_not_text_are_kept() -> None:
    tokenizer = train_tokenizer(DOCUMENTS[:20], 400)
    everything = bytes(range(256)) * 3 + b"\xff\xfe\xc0\xaf\xed\xa0\x80\xf5"
    assert tokenizer.decode_bytes(tokenizer.encode(everything)) == everything
    hidden = everything.decode("utf-8", errors="surrogateescape")
    assert tokenizer.decode_bytes(tokenizer.encode(hidden)) == everything


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    for name in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a{name}b{name}")
        assert ids.min() >= len(SPECIAL_TOKENS)
        assert tokenizer.decode(ids) == f"a{name}b{name}"


def test_a_million_equal_characters_take_no_longer_than_they_should(tokenizer: Tokenizer) -> None:
    for text in ("x" * 10**6, " " * 10**6, "ab" * 500_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def plain_merges(documents: list[bytes], wanted: int) -> list[tuple[int, int]]:
    """BPE as it is defined, word by word: the most frequent pair, of equals the one with the lower ids."""
    base = train_tokenizer([b"."], FIRST_MERGE_ID)
    words: Counter[tuple[int, ...]] = Counter()
    for document in documents:
        for word in document.decode().replace("\n", " \n ").split(" "):
            if word and word != "\n":
                words[tuple(base.encode(word).tolist())] += 1
    merges: list[tuple[int, int]] = []
    while len(merges) < wanted:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        new = FIRST_MERGE_ID + len(merges)
        merges.append(best)
        joined: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            out: list[int] = []
            for symbol in word:
                if out and (out[-1], symbol) == best:
                    out[-1] = new
                else:
                    out.append(symbol)
            joined[tuple(out)] += count
        words = joined
    return merges


def test_training_equals_the_definition() -> None:
    # One word a line, so that the plain trainer needs no pre-tokenizer.
    draw = random.Random(3)
    words = ["".join(draw.choice("abcde") for _ in range(draw.randint(1, 7))) for _ in range(60)]
    documents = ["\n".join(draw.choices(words, k=400)).encode() for _ in range(3)]
    expected = plain_merges(documents, 60)
    got = train_tokenizer(documents, FIRST_MERGE_ID + len(expected))
    tokens = [got.token_bytes(i) for i in range(FIRST_MERGE_ID, got.vocab_size)]
    base = train_tokenizer([b"."], FIRST_MERGE_ID)
    spelled = [base.token_bytes(i) for i in range(FIRST_MERGE_ID)]
    for left, right in expected:
        spelled.append(spelled[left] + spelled[right])
    letters = [token for token in tokens if b"\n" not in token]
    assert letters == spelled[FIRST_MERGE_ID : FIRST_MERGE_ID + len(letters)] and len(letters) > 50


def test_training_does_not_depend_on_threads_or_process() -> None:
    code = (
        "import numba, hashlib; from slim.tokenizer import train_tokenizer\n"
        "numba.set_num_threads({})\n"
        "text = open({!r}, 'rb').read()[:300_000].split(b'<|endoftext|>')\n"
        "print(hashlib.sha256(train_tokenizer(text, 900).to_json().encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code.format(threads, str(STORIES))],
            capture_output=True, text=True, check=True, timeout=300, cwd=Path(__file__).parents[1],
        ).stdout
        for threads in (1, 2)
    }  # fmt: skip
    assert len(digests) == 1


def test_documents_are_encoded_as_each_alone(tokenizer: Tokenizer) -> None:
    documents = [b"", b"It's", b" a", b"\n\n", *DOCUMENTS[:30], b"", "ä".encode()[:1]]
    ids, starts = tokenizer.encode_documents(documents)
    assert starts.tolist()[-1] == ids.size and len(starts) == len(documents) + 1
    for document, first, last in zip(documents, starts[:-1], starts[1:], strict=True):
        assert np.array_equal(ids[first:last], tokenizer.encode(document))


def test_the_file_gives_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json() and again.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["model"].pop("merges"),
        lambda r: r["model"]["merges"].append("nothing at all"),
        lambda r: r["model"]["merges"].append(r["model"]["merges"][0]),
        lambda r: r["model"]["merges"].__setitem__(0, 7),
        lambda r: r["model"]["vocab"].__setitem__("Ġthe", 3),
        lambda r: r["added_tokens"].pop(),
        lambda r: r.__setitem__("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
        lambda r: r.__setitem__("normalizer", {"type": "NFC"}),
        lambda r: r.__setitem__("surprise", 1),
    ],
)
def test_other_records_are_refused(tokenizer: Tokenizer, change) -> None:  # type: ignore[no-untyped-def]
    record = json.loads(tokenizer.to_json())
    change(record)
    with pytest.raises(ModelFileError):
        Tokenizer.from_json(json.dumps(record))


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '{"model": NaN}', '{"a": 1, "a": 2}', "[" * 10_000]
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError):
        Tokenizer.from_json(text)


def changed(value: object, draw: random.Random) -> object:
    """A JSON value with one thing in it changed, removed or doubled, at any depth."""
    strange = (None, True, -1, 0, 7, 2**63, 1.5, "", "x", "Ġ", "\ud800", "a b", [], {}, ["a", "b"])
    if draw.random() < 0.08 or not isinstance(value, (dict, list)) or not value:
        return draw.choice(strange)
    if isinstance(value, list):
        place = draw.randrange(len(value))
        kind = draw.random()
        if kind < 0.2:
            return value[:place] + value[place + 1 :]
        if kind < 0.4:
            return [*value, draw.choice(value)]
        other = draw.randrange(len(value))
        swapped = list(value)
        if kind < 0.6:
            swapped[place], swapped[other] = swapped[other], swapped[place]
        else:
            swapped[place] = changed(value[place], draw)
        return swapped
    name = draw.choice(list(value))
    if draw.random() < 0.2:
        return {key: one for key, one in value.items() if key != name}
    if draw.random() < 0.2:
        return {(key + "x" if key == name else key): one for key, one in value.items()}
    return {**value, name: changed(value[name], draw)}


@pytest.mark.parametrize("count", [400, pytest.param(50_000, marks=pytest.mark.soak)])
def test_changed_records_are_refused_or_are_whole_tokenizers(count: int) -> None:
    draw = random.Random(4)
    record = json.loads(train_tokenizer(DOCUMENTS[:20], 300).to_json())
    refused: list[str] = []
    for _ in range(count):
        text = json.dumps(changed(record, draw))
        if draw.random() < 0.1:
            place = draw.randrange(len(text))
            text = text[:place] + draw.choice('[]{}",:0\\') + text[place + draw.randrange(2) :]
        try:
            found = Tokenizer.from_json(text)
        except ModelFileError as caught:
            refused.append(str(caught))
        else:
            assert json.loads(found.to_json()) == json.loads(text), "nothing in it is ignored"
            assert found.decode_bytes(found.encode("The fox é")) == "The fox é".encode()
    assert all(words.isprintable() and len(words) < 500 for words in refused)
    assert len(refused) > count * 0.8


@pytest.mark.parametrize("size", [0, 259, 65_537, True])
def test_sizes_are_checked(size: int) -> None:
    with pytest.raises(ConfigError, match="vocab_size must be"):
        train_tokenizer([b"text"], size)


def test_little_text_gives_fewer_tokens() -> None:
    assert train_tokenizer([b"ab"], 1000).vocab_size == FIRST_MERGE_ID


def test_vocabulary_grows_with_the_text() -> None:
    sizes = [choose_vocab_size(n) for n in (0, 10_000, 1_000_000, 4_000_000, 10**12)]
    assert sizes == sorted(sizes) and sizes[0] == 320 and sizes[-1] == 4096
    assert all(size % 64 == 0 for size in sizes)
