"""Sampling against a plain-Python reference, and its edges: ties, extremes, damaged logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config as numba_config

from slim.config import GenerateConfig
from slim.errors import ConfigError, ModelFileError
from slim.sampling import Sampler, uniform

PLAIN = {"temperature": 1.0, "top_p": 1.0, "repeat_penalty": 1.0}


def sample(
    logits: np.ndarray, recent: Sequence[int], config: GenerateConfig, u: float
) -> tuple[int, float]:
    """A token for one text, and the probability it had."""
    sampler = Sampler(config, logits.size)
    for token_id in recent:
        sampler.remember(0, token_id)
    before = logits.copy()
    ids, shares = sampler.draw(logits[None], [u])
    assert logits.tobytes() == before.tobytes()
    return int(ids[0]), float(shares[0])


def possible(logits: Sequence[float], recent: Sequence[int] = (), **settings: float) -> list[int]:
    """The ids that can be drawn, found by drawing at many places."""
    array, config = np.array(logits, np.float32), GenerateConfig(**{**PLAIN, **settings})
    return sorted({sample(array, recent, config, i / 997)[0] for i in range(997)})


def reference(logits: list[float], recent: list[int], config: GenerateConfig) -> dict[int, float]:
    """The distribution that Hugging Face's processors leave: {id: probability}."""
    scores = list(logits)
    if config.repeat_window:
        for i in set(recent[-config.repeat_window :]):
            by = config.repeat_penalty
            scores[i] = scores[i] / by if scores[i] > 0 else scores[i] * by
    scores = [s / config.temperature for s in scores]
    kept = {i: math.exp(s - max(scores)) for i, s in enumerate(scores)}

    def best_first() -> list[int]:
        return sorted(kept, key=lambda i: (-kept[i], i))

    if config.top_k:
        kept = {i: kept[i] for i in best_first()[: config.top_k]}
    if config.top_p < 1.0:
        total, held, ids = sum(kept.values()), 0.0, []
        for i in best_first():
            ids.append(i)
            held += kept[i]
            if held >= config.top_p * total:
                break
        kept = {i: kept[i] for i in ids}
    if config.min_p:
        largest = max(kept.values())
        kept = {i: p for i, p in kept.items() if p >= config.min_p * largest}
    total = sum(kept.values())
    return {i: kept[i] / total for i in sorted(kept)}


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 60),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    k=st.sampled_from([0, 1, 2, 7, 1000]),
    p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    m=st.sampled_from([0.0, 0.05, 1.0]),
    penalty=st.sampled_from([1.0, 1.1, 0.7]),
    rounding=st.sampled_from([0, 6]),
)
def test_distribution_is_the_reference(
    seed: int,
    size: int,
    temperature: float,
    k: int,
    p: float,
    m: float,
    penalty: float,
    rounding: int,
) -> None:
    random = np.random.default_rng(seed)
    logits = np.round(random.standard_normal(size) * 3, rounding).astype(np.float32)  # 0: many ties
    recent = random.integers(0, size, 5).tolist()
    config = GenerateConfig(
        temperature=temperature, top_k=k, top_p=p, min_p=m, repeat_penalty=penalty
    )
    expected = reference(logits.tolist(), recent, config)
    # Along the reference's cumulative sum, the middle of a token's share must draw that token.
    below = 0.0
    for token_id, share in expected.items():
        if share > 1e-6:
            drawn, sampled_p = sample(logits, recent, config, below + share / 2)
            assert drawn == token_id
            assert sampled_p == pytest.approx(share, rel=1e-4)
        below += share


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    config = GenerateConfig(**PLAIN)
    counts = Counter(sample(logits, (), config, uniform(7, "test", i))[0] for i in range(4000))
    for token_id, p in enumerate((0.5, 0.25, 0.125, 0.125)):
        assert abs(counts[token_id] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits = np.array([2.0, -2.0, 0.0, 1.0], np.float32)
    config = GenerateConfig(**{**PLAIN, "repeat_penalty": 2.0})
    after = np.exp([1.0, -4.0, 0.0, 1.0])
    below = 0.0
    for token_id, share in enumerate(after / after.sum()):
        assert sample(logits, [0, 0, 1, 2], config, below + share / 2) == (
            token_id,
            pytest.approx(share, rel=1e-5),
        )
        below += share


def test_penalty_forgets_what_lies_before_its_window() -> None:
    config = GenerateConfig(temperature=0.0, repeat_penalty=2.0, repeat_window=2)
    logits = np.array([3.0, 2.9, 2.8], np.float32)
    assert sample(logits, [0], config, 0.5)[0] == 1
    assert sample(logits, [0, 1, 1], config, 0.5)[0] == 0


def test_texts_drawn_together_are_drawn_as_alone() -> None:
    random = np.random.default_rng(3)
    logits = random.standard_normal((5, 300)).astype(np.float32) * 3
    config = GenerateConfig(top_k=50, min_p=0.01)
    sampler, recent = Sampler(config, 300, rows=5), random.integers(0, 300, (5, 9)).tolist()
    for row, ids in enumerate(recent):
        for token_id in ids:
            sampler.remember(row, token_id)
    u = random.random(5).tolist()
    ids, shares = sampler.draw(logits, u)
    for row in range(5):
        alone = sample(logits[row], recent[row], config, u[row])
        assert alone == (ids[row], shares[row])


def test_greedy_takes_the_first_of_equals_after_the_penalty() -> None:
    config = GenerateConfig(temperature=0.0)
    logits = np.array([1.0, 3.0, 3.0, 2.9], np.float32)
    assert sample(logits, (), config, 0.9) == (1, 1.0)
    assert sample(logits, (1,), config, 0.0) == (2, 1.0)
    assert sample(logits, (1, 2), config, 0.0) == (3, 1.0)


def test_equal_probabilities_are_cut_by_id() -> None:
    equal = [0.0] * 10
    assert possible(equal, top_k=3) == [0, 1, 2]
    assert possible(equal, top_p=0.25) == [0, 1, 2]
    one_larger = [0.0] * 7 + [math.log(2)] + [0.0] * 2
    assert possible(one_larger, top_k=3) == [0, 1, 7]
    assert possible(one_larger, min_p=0.6) == [7]


@pytest.mark.skipif(numba_config.DISABLE_JIT, reason="NumPy warns where the kernels do not")
@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2.0**-53])
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 0.8, 100.0])
@pytest.mark.parametrize(
    "logits",
    [
        [0.0],
        [3e38, -3e38],
        [-3e38, -3e38, -3e38],
        [0.0, -math.inf, 5.0],
        [1e-40] * 50,
        [88.0, -88.0] * 30,
    ],
)
def test_extremes_draw_something_possible(
    u: float, temperature: float, logits: list[float]
) -> None:
    config = GenerateConfig(temperature=temperature, top_k=5, top_p=0.9, min_p=0.1)
    array = np.array(logits, np.float32)
    drawn, p = sample(array, [0], config, u)
    assert 0 < p <= 1.0
    assert array[drawn] > -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_damaged_logits_are_refused(bad: float, temperature: float) -> None:
    logits = np.array([0.0, bad, 1.0], np.float32)
    with pytest.raises(ModelFileError, match="weights are damaged"):
        sample(logits, (), GenerateConfig(temperature=temperature), 0.5)


def test_random_numbers_are_a_function_of_seed_purpose_and_index() -> None:
    assert uniform(3, "generate", 5) == uniform(3, "generate", 5)
    others = [uniform(4, "generate", 5), uniform(3, "calibrate", 5), uniform(3, "generate", 6)]
    assert uniform(3, "generate", 5) not in others
    # The same number on every machine: a change would change every text that a seed stands for.
    assert uniform(0, "generate", 0) == pytest.approx(PINNED, abs=0)
    values = np.array([uniform(1, "test", i) for i in range(4000)])
    assert values.min() >= 0.0 and values.max() < 1.0
    assert abs(values.mean() - 0.5) < 0.02 and abs(values.std() - 12**-0.5) < 0.01


PINNED = 0.29549458064410705


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 2.0),
        ("repeat_penalty", 0.0),
        ("max_tokens", 0),
        ("max_tokens", 2.5),
        ("stop", ("",)),
        ("stop_confidence", "often"),
        ("stop_confidence", 0.2),
        ("stop_confidence", math.nan),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_value(
    field: str, value: object
) -> None:
    with pytest.raises(ConfigError) as error:
        GenerateConfig(**{field: value})
    assert field in str(error.value) and repr(value) in str(error.value)
