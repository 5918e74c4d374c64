"""The judge of the study of confidence: its probabilities are probabilities, and it knows its corpus."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

JUDGE = Path(__file__).parent.parent / "demo" / "confidence" / "judge.py"
VOCABULARY, EOS = 12, 0


@pytest.fixture(scope="module")
def judge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("confidence_judge", JUDGE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
