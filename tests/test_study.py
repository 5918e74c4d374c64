"""The study of confidence: its judge's probabilities are probabilities, and what it tells of fresh text adds up."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from slim.cli import main

STUDY = Path(__file__).parent.parent / "demo" / "confidence"
VOCABULARY, EOS = 12, 0


def script(name: str) -> ModuleType:
    """A script of the study as a module."""
    spec = importlib.util.spec_from_file_location(f"confidence_{name}", STUDY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def judge() -> ModuleType:
    return script("judge")


def test_the_judge_gives_each_context_one_whole_probability(judge: ModuleType) -> None:
    random = np.random.default_rng(0)
    corpus = [random.choice(VOCABULARY - 1, 30, p=np.arange(1, 12) / 66) + 1 for _ in range(60)]
    gram = judge.FiveGram(corpus, EOS)
    for context in ([], [3], [3, 4], corpus[0][:7].tolist(), [1, 1, 1, 1, 1]):
        texts = [np.array([*context, token]) for token in range(VOCABULARY)]
        p = np.exp([-nats[-1] for nats in gram.nats(texts, VOCABULARY)])
        assert p.sum() == pytest.approx(1.0)
        assert (p > 0.0).all()
    known, noise = corpus[:10], [random.integers(1, VOCABULARY, 30) for _ in range(10)]
    means = [np.concatenate(gram.nats(texts, VOCABULARY)).mean() for texts in (known, noise)]
    assert means[0] < means[1] - 0.5


def test_repeated_marks_what_the_text_had_before(judge: ModuleType) -> None:
    ids = np.random.default_rng(1).integers(0, 3, 80)
    seen: Counter[tuple[int, ...]] = Counter()
    for end, mark in enumerate(judge.repeated(ids), start=1):
        gram = tuple(ids[end - 4 : end].tolist())
        assert mark == (end >= 4 and seen[gram] > 0)
        seen[gram] += end >= 4


def test_fresh_text_is_judged_as_a_whole(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text, out = tmp_path / "model.bin", tmp_path / "text.txt", tmp_path / "out.json"
    shutil.copy(tiny_model, model)
    stories = [
        f"Once there were {n} foxes. They ran and ran, and the sun went down." for n in range(12)
    ]
    text.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    assert main(["calibrate", str(model), str(text), "--samples", "8"]) == 0
    fresh = script("fresh")
    monkeypatch.setattr("sys.argv", ["fresh.py", str(model), str(out), str(text)])
    fresh.main()
    found = json.loads(out.read_text(encoding="utf-8"))["text"]
    assert found["documents"] == 12
    assert found["bytes"] == found["tokens"] == sum(map(len, stories))  # a token is a byte
    assert found["plain"]["nats"] == pytest.approx(np.log(260), abs=0.1)
    assert 0.0 <= found["plain"]["ece"][1] <= found["plain"]["ece"][2] <= 1.0
    assert [rule["share"] for rule in found["rules"]] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
    fired = [rule["fired"] for rule in found["rules"]]
    assert fired == sorted(fired)


def test_exchanged_stops_show_no_foresight_and_real_ones_do() -> None:
    fresh, random = script("fresh"), np.random.default_rng(0)
    nats = [random.exponential(1.0, 160) for _ in range(80)]
    stop = np.full(80, -1)
    for i in range(20):
        stop[i] = 40 + i
        nats[i][stop[i] :] += 0.5
    found = fresh.genuine_foresight(nats, stop)
    mean, low, high = found["exchanged"]
    assert low < 0.0 < high and abs(mean) < 0.1
    assert found["difference"] > high and found["p_value"] == pytest.approx(1 / 200)
    assert fresh.genuine_foresight(nats, np.full(80, -1)) == {"fired": 0, "compared": 0}


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(STUDY)  # it imports its neighbours
    return script("blind")


def test_a_reader_who_guesses_and_one_who_knows(tmp_path: Path, blind: ModuleType) -> None:
    (tmp_path / "key.json").write_text(json.dumps(["A", "B"] * 10))
    assert blind.count(tmp_path, "A B " * 10) == {
        "pairs": 20, "decided": 20, "own_stop_worse": 20,
        "p": 2.0**-20,
    }
    guessed = blind.count(tmp_path, "A A " * 9 + "= =")
    assert (guessed["decided"], guessed["own_stop_worse"]) == (18, 9)
    assert 0.5 < guessed["p"] < 0.7
    with pytest.raises(SystemExit, match="19 answers for 20 pairs"):
        blind.count(tmp_path, "A " * 19)


def test_pairs_are_of_stopped_texts_with_room_behind_their_stops(blind: ModuleType) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(20, 120, 60)
    columns = [[np.zeros(n) for n in lengths] for _ in range(4)]
    stop = np.where(random.random(60) < 0.7, random.integers(5, 100, 60), -1)
    texts = blind.Texts(*columns)
    pairs = blind.pairs_of(texts, stop, random)
    assert len(pairs) > 5
    for text, at, other in pairs:
        assert at == stop[text] >= 0 and stop[other] >= 0
        assert min(lengths[text], lengths[other]) >= at + blind.AFTER
        assert abs(stop[other] - at) > blind.AFTER
    used = [one for text, _, other in pairs for one in (text, other)]
    assert len(used) == len(set(used))
