"""Token data: documents packed, and batches that are a function of the seed and their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import slim.data as data_module
from slim.corpus import Corpus, read_corpus
from slim.data import (
    TokenData,
    batch,
    choose_seq_len,
    encode_corpus,
    encode_parts,
    prepare,
    shuffled,
    steps_per_epoch,
    windows_per_epoch,
)
from slim.errors import DataError
from slim.events import Progress
from slim.records import Part
from slim.tokenizer import SPECIAL_TOKENS


class ByteTokenizer:
    """One token per byte, after four special ones."""

    start_id = eos_id = 0

    @property
    def special_tokens(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(SPECIAL_TOKENS)}

    def encode_documents(self, documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.frombuffer(b"".join(documents), np.uint8).astype(np.int32) + 4
        return ids, np.cumsum([0, *map(len, documents)])


def finished(generator):  # type: ignore[no-untyped-def]
    """Everything a generator yields, and what it returns."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


@pytest.fixture
def of(tmp_path: Path) -> Callable[[list[bytes]], Corpus]:
    """A corpus of documents, in a file."""

    def make(documents: list[bytes]) -> Corpus:
        path = tmp_path / "text.txt"
        path.write_bytes(b"".join(document + b"\n<|endoftext|>\n" for document in documents))
        return read_corpus(path)

    return make


def numbered(n: int) -> TokenData:
    return TokenData(np.arange(n, dtype=np.int32), n)


# Encoding


def test_documents_are_packed_behind_eos(of) -> None:  # type: ignore[no-untyped-def]
    documents = [b"story %d. " % index * 9 for index in range(200)]
    events, data = finished(prepare(of(documents), ByteTokenizer()))
    assert data.train.dtype == np.int32 and data.train.ndim == 1 and data.train[0] == 0
    parts = np.split(data.train, np.flatnonzero(data.train == 0))[1:]
    train = [(part[1:] - 4).astype(np.uint8).tobytes() for part in parts]
    validation = [(ids - 4).astype(np.uint8).tobytes() for ids in data.validation]
    assert sorted(train + validation) == sorted(documents)
    assert 0 < len(validation) < 30
    assert data.n_train_bytes == sum(map(len, train))
    assert data.validation.n_bytes.tolist() == list(map(len, validation))
    assert data.n_validation_tokens == sum(map(len, validation))
    assert data.bytes_per_token == pytest.approx(90 / 91, rel=0.02)
    assert events[-1] == Progress("encoding", sum(map(len, documents)), sum(map(len, documents)))


def test_progress_goes_up_to_the_end(of, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(data_module, "_BATCH_BYTES", 500_000)
    documents = [b"%d " % index * 40_000 for index in range(60)]
    events, _ = finished(prepare(of(documents), ByteTokenizer()))
    done = [event.done for event in events]
    assert len(done) > 5 and done == sorted(set(done)) and done[-1] == events[0].total
    events, encoded = finished(encode_corpus(of(documents), ByteTokenizer()))
    assert events[-1].done == events[-1].total and len(encoded) == 60
    assert [(ids - 4).astype(np.uint8).tobytes() for ids in encoded] == documents


def test_batches_of_text_change_nothing(of, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    documents = [b"%d " % index * (index % 7 + 1) for index in range(500)]
    corpus = of(documents)
    _, whole = finished(prepare(corpus, ByteTokenizer()))
    monkeypatch.setattr(data_module, "_BATCH_BYTES", 100)
    _, parts = finished(prepare(corpus, ByteTokenizer()))
    np.testing.assert_array_equal(whole.train, parts.train)
    np.testing.assert_array_equal(whole.validation.ids, parts.validation.ids)
    np.testing.assert_array_equal(whole.validation.starts, parts.validation.starts)
    np.testing.assert_array_equal(whole.validation.n_bytes, parts.validation.n_bytes)


def test_parts_become_ids_and_a_mask() -> None:
    eos, user, assistant, end = range(4)
    parts = [
        Part(b"hi", opens=True, role="<|user|>", ends=True, learnt=False),
        Part(b"yo", role="<|assistant|>", ends=True),
        Part(b"A", opens=True, learnt=False),
        Part(b"B"),
        Part(b"", joined=True, ends=True),
        Part(b"C", opens=True),
    ]
    ids, counted, starts = encode_parts(parts, ByteTokenizer(), (eos,))
    a, b, c, h, i, o, y = (ord(letter) + 4 for letter in "ABChioy")
    expected = [
        *[(eos, 1), (user, 0), (h, 0), (i, 0), (end, 0), (assistant, 0), (y, 1), (o, 1), (end, 1)],
        *[(eos, 1), (a, 0), (b, 1), (end, 1), (eos, 1), (c, 1)],
    ]
    assert list(zip(ids.tolist(), counted.astype(int).tolist(), strict=True)) == expected
    assert starts.tolist() == [0, 5, 9, 11, 12, 13] and ids.dtype == np.int32


def test_a_start_of_its_own_follows_the_end(of) -> None:  # type: ignore[no-untyped-def]
    """A vocabulary from elsewhere may end a text by another token than begins it."""
    tokenizer = ByteTokenizer()
    tokenizer.start_id = 1
    parts = [Part(b"A", opens=True, learnt=False), Part(b"B", opens=True)]
    ids, counted, starts = encode_parts(parts, tokenizer, (0, 1))
    a, b = ord("A") + 4, ord("B") + 4
    assert ids.tolist() == [0, 1, a, 0, 1, b] and starts.tolist() == [0, 3]
    assert counted.tolist() == [True, False, False, True, False, True]
    _, data = finished(prepare(of([b"%d " % i * 9 for i in range(40)]), tokenizer))
    opened = np.flatnonzero(data.train == 1)
    assert opened.size > 30 and (data.train[opened - 1] == 0).all()
    assert 0 not in data.validation.ids.tolist() and data.validation.ids[0] == 1


# Sequence length


def test_sequences_get_shorter_for_a_short_text() -> None:
    assert choose_seq_len(100_000, 512) == 512
    assert choose_seq_len(1024, 512) == 512
    assert choose_seq_len(1023, 512) == 496
    assert choose_seq_len(100, 512) == 48
    assert choose_seq_len(32, 512) == 16
    assert choose_seq_len(16, 8) == 8
    for n in range(32, 2000):
        length = choose_seq_len(n, 512)
        assert 16 <= length <= 512 and 2 * length <= n


def test_too_short_a_text() -> None:
    with pytest.raises(DataError, match="31 tokens, but at least 32"):
        choose_seq_len(31, 512)
    with pytest.raises(DataError, match="10 tokens, but a sequence has 16"):
        batch(numbered(10), 0, 0, 1, 16)


# Batches


def test_targets_are_the_next_tokens() -> None:
    data = numbered(1000)
    for step in range(50):
        tokens, targets = batch(data, 3, step, 4, 32)
        assert tokens.shape == targets.shape == (4, 32)
        assert tokens.dtype == targets.dtype == np.int32
        assert tokens.flags.c_contiguous and targets.flags.c_contiguous
        np.testing.assert_array_equal(targets, (tokens + 1) % 1000)
        np.testing.assert_array_equal(tokens[:, 1:], targets[:, :-1])


@pytest.mark.parametrize(("n", "T"), [(1000, 32), (1024, 32), (33, 32), (32, 32), (97, 2), (50, 1)])
def test_an_epoch_visits_every_window_once(n: int, T: int) -> None:
    data, windows = numbered(n), windows_per_epoch(n, T)
    borders = []
    for epoch in range(6):
        batches = [batch(data, 1, step, 1, T)[1] for step in range(epoch * windows, (epoch + 1) * windows)]  # fmt: skip
        count = Counter(np.concatenate(batches).ravel().tolist())
        assert set(count.values()) == {1} and len(count) == windows * T
        borders.append({int(targets[0, 0]) % T for targets in batches})
    if T > 2:
        assert len(set(map(frozenset, borders))) > 1  # borders move from epoch to epoch


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    data, again = numbered(5000), numbered(5000)
    steps = [batch(data, 7, step, 3, 64)[0] for step in range(200)]
    for step in (199, 0, 57):
        np.testing.assert_array_equal(batch(again, 7, step, 3, 64)[0], steps[step])
    other = [batch(data, 8, step, 3, 64)[0] for step in range(200)]
    assert sum(np.array_equal(a, b) for a, b in zip(steps, other, strict=True)) < 3


@pytest.mark.parametrize(("n", "B", "T"), [(5000, 4, 64), (70, 8, 32), (40, 6, 40)])
def test_batches_are_cut_from_one_row_of_windows(n: int, B: int, T: int) -> None:
    """So a batch of 4 is two batches of 2: accumulating changes nothing but the memory."""
    data = numbered(n)
    for step in range(40):
        halves = [batch(data, 7, 2 * step + half, B // 2, T)[0] for half in range(2)]
        np.testing.assert_array_equal(batch(data, 7, step, B, T)[0], np.concatenate(halves))
        rows = [batch(data, 7, B * step + row, 1, T)[0] for row in range(B)]
        np.testing.assert_array_equal(batch(data, 7, step, B, T)[0], np.concatenate(rows))


def test_the_order_does_not_change_between_versions() -> None:
    """A run is resumed by a later version too: these numbers must stay."""
    tokens, _ = batch(numbered(100_000), 42, 1000, 4, 512)
    assert tokens[:, 0].tolist() == [86403, 76675, 78723, 16611]


def test_ignored_targets() -> None:
    counted = np.ones(1000, np.bool_)
    counted[100:200] = False
    data = TokenData(np.arange(1000, dtype=np.int32), 1000, counted=counted)
    for step in range(20):
        tokens, targets = batch(data, 5, step, 2, 64)
        expected = (tokens + 1) % 1000
        expected[(expected >= 100) & (expected < 200)] = -1
        np.testing.assert_array_equal(targets, expected)


def test_steps_per_epoch() -> None:
    assert windows_per_epoch(1000, 32) == 31
    assert steps_per_epoch(1000, 4, 32) == 7.75


# The permutation


def test_shuffled_is_a_permutation() -> None:
    for n in [*range(1, 70), 997, 4096, 10_001]:
        for key in (0, 12345, 2**64 - 1):
            order = shuffled(np.arange(n), n, key)
            np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_one_place_alone_is_sent_where_all_are() -> None:
    order = shuffled(np.arange(1000), 1000, 99)
    assert [int(shuffled(np.array([i]), 1000, 99)[0]) for i in range(0, 1000, 37)] == order[::37].tolist()  # fmt: skip


def test_shuffled_looks_random() -> None:
    """Each place is sent everywhere about equally often; neighbours do not stay neighbours."""
    n, keys = 12, 6000
    count = np.zeros((n, n))
    for key in range(keys):
        count[np.arange(n), shuffled(np.arange(n), n, key * 0x9E3779B97F4A7C15)] += 1
    expected = keys / n
    chi_square = ((count - expected) ** 2 / expected).sum()
    assert chi_square < 121 + 5 * (2 * 121) ** 0.5
    order = shuffled(np.arange(10_000), 10_000, 5)
    distance = np.abs(np.diff(order))
    assert abs(distance.mean() - 10_000 / 3) < 100
    assert (distance == 1).sum() < 12
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04


@pytest.mark.skipif(
    not (Path(__file__).parent.parent / "demo" / "stories.txt").is_file(), reason="no demo text"
)
def test_the_demo_text() -> None:
    corpus = read_corpus(Path(__file__).parent.parent / "demo" / "stories.txt")
    _, data = finished(prepare(corpus, ByteTokenizer()))
    assert corpus.notes == () and corpus.n_documents == 1560
    assert data.train.size == data.n_train_bytes + 1560 - len(data.validation)
    assert 0.03 < data.validation.n_bytes.sum() / corpus.n_bytes < 0.07
