"""Tokens on disk: the same as in memory, bound to what they were made from, and made again when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slim import token_files
from slim.corpus import Corpus, read_corpus
from slim.data import TokenData, batch, prepare
from slim.errors import SaveError
from slim.events import Note, Progress
from slim.token_files import MANIFEST, load_tokens
from slim.tokenizer import Tokenizer, train_tokenizer

SHARE = 0.2


def finished(generator):  # type: ignore[no-untyped-def]
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([b"the fox saw a bird and the bird saw the fox " * 20], 280)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    lines = [
        json.dumps({"prompt": f"the fox {i}", "completion": " saw a bird" * (i % 5 + 1)})
        for i in range(60)
    ]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return read_corpus(tmp_path / "text.jsonl")


def load(folder: Path, corpus: Corpus, tokenizer: Tokenizer) -> tuple[bool, list[str], TokenData]:
    """Whether the text was encoded, what was said, the data."""
    events, data = finished(load_tokens(folder, corpus, tokenizer, SHARE))
    encoded = any(isinstance(e, Progress) and e.stage == "encoding" for e in events)
    return encoded, [event.text for event in events if isinstance(event, Note)], data


def assert_same(one: TokenData, other: TokenData) -> None:
    assert one.n_train_bytes == other.n_train_bytes and one.has_roles == other.has_roles
    for a, b in (
        (one.train, other.train),
        (one.counted, other.counted),
        (one.validation.ids, other.validation.ids),
        (one.validation.starts, other.validation.starts),
        (one.validation.n_bytes, other.validation.n_bytes),
        (one.validation.counted, other.validation.counted),
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for step in range(70):
        for a, b in zip(batch(one, 5, step, 2, 16), batch(other, 5, step, 2, 16), strict=True):
            np.testing.assert_array_equal(a, b)


def test_tokens_on_disk_are_those_in_memory(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    _, expected = finished(prepare(corpus, tokenizer, SHARE))
    encoded, _, data = load(tmp_path / "tokens", corpus, tokenizer)
    assert encoded and data.mapped and data.train.dtype == np.uint16
    assert len(data.validation) > 3 and 0 < data.counted.mean() < 1  # type: ignore[union-attr]
    assert_same(data, expected)
    encoded, notes, again = load(tmp_path / "tokens", corpus, tokenizer)
    assert not encoded and notes == [] and again.mapped
    assert_same(again, expected)


def test_what_was_made_from_something_else_is_made_again(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    folder = tmp_path / "tokens"
    load(folder, corpus, tokenizer)
    other = train_tokenizer([b"another text, another vocabulary " * 9], 280)
    assert load(folder, corpus, other)[0]
    assert not load(folder, corpus, other)[0]
    (tmp_path / "text.jsonl").write_text('{"text": "something new"}\n' * 40)
    changed = read_corpus(tmp_path / "text.jsonl")
    assert changed.digest != corpus.digest and load(folder, changed, other)[0]
    assert not load(folder, changed, other)[0]
    events, _ = finished(load_tokens(folder, changed, other, 0.3))
    assert any(isinstance(e, Progress) and e.stage == "encoding" for e in events)


@pytest.mark.parametrize(
    "name", ["train", "train.counted", "held-out", "held-out.counted", "held-out.documents"]
)
@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "gone"])
def test_damage_is_noticed_and_mended(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer, name: str, damage: str
) -> None:
    folder = tmp_path / "tokens"
    _, _, expected = load(folder, corpus, tokenizer)
    data = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if damage == "bit":
        data[len(data) // 2] ^= 1
    if damage != "gone":
        (folder / name).write_bytes(
            data[:-2] if damage == "cut" else data + b"\0\0" * (damage == "longer")
        )
    encoded, notes, mended = load(folder, corpus, tokenizer)
    assert encoded and len(notes) == 1 and name in notes[0] and "encoded again" in notes[0]
    assert_same(mended, expected)
    assert not load(folder, corpus, tokenizer)[0]


def test_ids_beyond_the_vocabulary_are_refused_even_with_a_fitting_digest(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    import hashlib

    folder = tmp_path / "tokens"
    load(folder, corpus, tokenizer)
    ids = np.fromfile(folder / "train", np.uint16)
    ids[7] = tokenizer.vocab_size
    ids.tofile(folder / "train")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["train"]["sha256"] = hashlib.sha256(ids.tobytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    encoded, notes, _ = load(folder, corpus, tokenizer)
    assert encoded and "an id that is not in the vocabulary" in notes[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"files": {"../x": {}}}', "[" * 99_999, "x" * 200_000]
)
def test_a_damaged_manifest(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer, text: str
) -> None:
    folder = tmp_path / "tokens"
    _, _, expected = load(folder, corpus, tokenizer)
    (folder / MANIFEST).write_text(text)
    encoded, _, data = load(folder, corpus, tokenizer)
    assert encoded
    assert_same(data, expected)


def test_sizes_that_make_no_sense(tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "tokens"
    load(folder, corpus, tokenizer)
    good = json.loads((folder / MANIFEST).read_text())
    for name, value in (
        ("files", {}),
        ("files", {"train": {"bytes": -1}}),
        ("files", {"../x": {}}),
        ("n_train_bytes", "7"),
    ):
        (folder / MANIFEST).write_text(json.dumps({**good, name: value}))
        encoded, notes, _ = load(folder, corpus, tokenizer)
        assert encoded and "its manifest is damaged" in notes[0]


def test_an_encoding_that_was_cut_short_is_as_good_as_none(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tokens"
    load(folder, corpus, tokenizer)
    (folder / MANIFEST).unlink()
    monkeypatch.setattr("slim.data._BATCH_BYTES", 100)
    generator = load_tokens(folder, corpus, tokenizer, SHARE)
    next(generator)
    generator.close()
    assert not (folder / MANIFEST).exists() and (folder / "train").exists()
    assert load(folder, corpus, tokenizer)[0]


def test_a_place_that_cannot_be_written(
    tmp_path: Path, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        load(tmp_path / "file" / "tokens", corpus, tokenizer)


def test_large_vocabularies_need_more_bytes() -> None:
    assert token_files._dtype(2**16) == np.uint16 and token_files._dtype(2**16 + 1) == np.int32
