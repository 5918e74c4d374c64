"""Confidence records against float64, and the rules that end a text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.confidence import (
    LowConfidence,
    Repetition,
    dip,
    last_sentence_end,
    measure,
    typical_p,
)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(2, 300),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0]),
    rounding=st.sampled_from([0, 6]),
    offset=st.sampled_from([-300.0, 0.0, 300.0]),
)
def test_measure_is_the_float64_softmax(
    seed: int, size: int, scale: float, rounding: int, offset: float
) -> None:
    random = np.random.default_rng(seed)
    logits = (np.round(random.standard_normal(size) * scale, rounding) + offset).astype(np.float32)
    before = logits.copy()
    exact = logits.astype(np.float64)
    p = np.exp(exact - exact.max())
    p /= p.sum()
    order = sorted(range(size), key=lambda i: (-exact[i], i))
    for token_id in {0, size - 1, order[0], order[1], int(random.integers(size))}:
        seen = measure(logits, token_id, n_alternatives=5)
        assert seen.p == pytest.approx(p[token_id], abs=1e-6)
        assert seen.logprob == pytest.approx(math.log(p[token_id]), abs=1e-5, rel=1e-5)
        entropy = -sum(x * math.log(x) for x in p if x > 0) / math.log(size)
        assert seen.entropy == pytest.approx(entropy, abs=1e-5)
        assert seen.rank == order.index(token_id)
        assert seen.margin == pytest.approx(p[order[0]] - p[order[1]], abs=1e-6)
        assert [i for i, _ in seen.alternatives] == order[:5]
        assert [q for _, q in seen.alternatives] == pytest.approx(p[order[:5]], abs=1e-6)
    assert np.array_equal(logits, before)


def test_measure_at_the_edges() -> None:
    certain = measure(np.array([0.0, 200.0], np.float32), 1)
    assert (certain.p, certain.rank, certain.margin) == (1.0, 0, 1.0)
    assert certain.entropy == pytest.approx(0.0, abs=1e-9)
    impossible = measure(np.array([0.0, 200.0], np.float32), 0)
    assert impossible.logprob == pytest.approx(-200.0) and impossible.rank == 1
    uniform = measure(np.zeros(64, np.float32), 63)
    assert uniform.entropy == pytest.approx(1.0) and uniform.rank == 63 and uniform.margin == 0.0
    ruled_out = measure(np.array([0.0, -math.inf, 1.0], np.float32), 2)
    assert 0.0 < ruled_out.entropy < 1.0
    only = measure(np.array([3.0], np.float32), 0)
    assert (only.p, only.entropy, only.margin) == (1.0, 0.0, 1.0)


def test_typical_p_is_the_geometric_mean() -> None:
    assert typical_p([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)
    assert typical_p([]) == 0.0


def fired_at(rule: LowConfidence | Repetition, values: list) -> int | None:
    """How many values the rule had seen when it fired."""
    return next((i for i, value in enumerate(values, start=1) if rule.push(value)), None)


def test_low_confidence_waits_for_min_tokens_and_for_three_steps() -> None:
    assert fired_at(LowConfidence(-1.0), [-5.0] * 60) == 27
    assert fired_at(LowConfidence(-1.0, min_tokens=0), [-5.0] * 60) == 26
    # Sure for 40 tokens; then the mean over 24 falls below -1 with the fifth token at -5: 25/24.
    assert fired_at(LowConfidence(-1.0), [0.0] * 40 + [-5.0] * 20) == 47
    # Two steps below and one above, again and again, never three in a row.
    values = [-1.0] * 39
    for i in range(39, 120, 3):
        values += [-1.001, -1.001, -0.998]
        assert i < 200
    window = [math.fsum(values[i - 24 : i]) / 24 for i in range(24, len(values) + 1)]
    below = [mean < -1.0 for mean in window]
    assert any(below)
    longest = max(len(run) for run in "".join("x" if b else " " for b in below).split())
    assert (fired_at(LowConfidence(-1.0), values) is not None) == (longest >= 3)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-8.0, 0.0), max_size=80),
    st.floats(-8.0, 0.0),
    st.integers(0, 40),
)
def test_the_rule_fires_exactly_below_the_dip(
    logprobs: list[float], threshold: float, min_tokens: int
) -> None:
    deepest = dip(logprobs, min_tokens=min_tokens)
    for level in (threshold, deepest, math.nextafter(deepest, math.inf)):
        fired = fired_at(LowConfidence(level, min_tokens=min_tokens), logprobs) is not None
        assert fired == (deepest < level)


@settings(max_examples=300, deadline=None)
@given(
    start=st.lists(st.integers(0, 5), max_size=30),
    loop=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    copies=st.integers(1, 12),
    end=st.lists(st.integers(0, 5), max_size=10),
)
def test_repetition_fires_where_the_definition_does(
    start: list[int], loop: list[int], copies: int, end: list[int]
) -> None:
    tokens = start + loop * copies + end

    def ends_in_a_loop(seen: list[int]) -> bool:
        return any(
            seen[-n:] == seen[-2 * n : -n] == seen[-3 * n : -2 * n]
            for n in range(8, len(seen) // 3 + 1)
        )

    expected = next((i for i in range(1, len(tokens) + 1) if ends_in_a_loop(tokens[:i])), None)
    assert fired_at(Repetition(), tokens) == expected


def test_repetition_of_one_token_and_of_the_longest_loop() -> None:
    assert fired_at(Repetition(), [7] * 100) == 24
    assert fired_at(Repetition(), list(range(256)) * 3) == 768
    assert fired_at(Repetition(), list(range(257)) * 5) is None
    assert fired_at(Repetition(), list(range(7)) * 8) == 42  # as a 14-gram: 7 is too short


@pytest.mark.parametrize(
    ("text", "start", "kept"),
    [
        ("He ran. She sat on the", 0, "He ran."),
        ("He ran. She sat on the", 7, "He ran."),
        ("He ran. She sat on the", 8, None),
        ('"Stop!" he said to', 0, '"Stop!"'),
        ("It was 3.14 and no", 0, None),
        ("Ende. Он ушёл… и", 0, "Ende. Он ушёл…"),
        ("他走了。她也", 0, "他走了。"),
        ("「走吧。」他", 0, "「走吧。」"),
        ("MARY\nI am", 0, "MARY\n"),
        ("All done.", 0, "All done."),
        ("All done. ", 0, "All done."),
        ("", 0, None),
        ("...", 3, "..."),
        ('"""', 0, None),
    ],
)
def test_last_sentence_end(text: str, start: int, kept: str | None) -> None:
    end = last_sentence_end(text, start)
    assert (None if end is None else text[:end]) == kept
