"""Generation over a fake model and a byte tokenizer: reasons to end, held-back text, exactness."""

from __future__ import annotations

import codecs
import dataclasses
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.calibrate import FIRST_BATCH, calibrate, threshold_for
from slim.calibration import NEVER, Calibration
from slim.confidence import LowConfidence, dip, expected_logprob
from slim.config import GenerateConfig, ModelConfig
from slim.decoding import draw_tokens
from slim.errors import UsageError
from slim.events import GenerateFinished, Note, Progress, TokenGenerated
from slim.generate import StopStrings, generate, generate_together, in_words
from slim.model import Model
from slim.parameters import Parameters

GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0, "seed": 0}


class ByteTokenizer:
    """One token per byte after the four special tokens."""

    start_id = eos_id = 0
    end_ids = frozenset({0})
    vocab_size = 260

    def __init__(self) -> None:
        names = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
        self.special_tokens = {name: i for i, name in enumerate(names)}

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32) + 4

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id < 4 else bytes([token_id - 4])

    def stream(self) -> SimpleNamespace:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return SimpleNamespace(
            push=lambda token_id: decoder.decode(self.token_bytes(token_id)),
            flush=lambda: decoder.decode(b"", final=True),
        )


class FakeModel:
    """Logits are a function of the ids read so far, which the cache keeps."""

    def __init__(self, logits_after, max_seq_len: int = 512) -> None:
        sizes = {"n_layers": 1, "n_kv_heads": 1, "head_dim": 2}
        self.config = SimpleNamespace(max_seq_len=max_seq_len, vocab_size=260, **sizes)
        self.precision = "fp32"
        self._logits_after = logits_after
        self._buffer = np.empty(260, np.float32)
        self.calls: list[str] = []

    def new_cache(self, capacity: int | None = None, rows: int = 1) -> SimpleNamespace:
        capacity = capacity or self.config.max_seq_len
        cache = SimpleNamespace(length=0, capacity=capacity, rows=rows, ids=[])

        def truncate(length: int) -> None:
            del cache.ids[length:]
            cache.length = length

        def fill_row_from(row: int, one: SimpleNamespace) -> None:
            cache.texts[row] = list(one.ids)
            cache.length = one.length

        cache.texts = [[] for _ in range(rows)]
        cache.truncate, cache.fill_row_from = truncate, fill_row_from
        return cache

    def prefill(self, cache: SimpleNamespace, ids: np.ndarray) -> np.ndarray:
        assert ids.dtype == np.int32 and ids.size > 0
        self.calls.append(f"prefill {ids.size}")
        return self._append(cache, ids.tolist())

    def decode_rows(self, cache: SimpleNamespace, tokens: np.ndarray) -> np.ndarray:
        assert tokens.shape == (cache.rows,)
        self.calls.append("decode")
        if cache.rows == 1:
            return self._append(cache, tokens.tolist())[None]
        assert cache.length < cache.capacity, "the cache overflows"
        cache.length += 1
        for ids, token_id in zip(cache.texts, tokens.tolist(), strict=True):
            ids.append(token_id)
        return np.stack([self._logits_after(ids) for ids in cache.texts]).astype(np.float32)

    def _append(self, cache: SimpleNamespace, ids: list[int]) -> np.ndarray:
        cache.ids += ids
        cache.length += len(ids)
        assert cache.length <= cache.capacity, "the cache overflows"
        self._buffer[:] = self._logits_after(cache.ids)
        return self._buffer


def scripted(text: str | bytes, prompt: str = "", sure: float = 9.0, eos: bool = True) -> FakeModel:
    """A model that says `text` after `prompt`, then ends; `sure` is the logit of what it says."""
    data = text.encode() if isinstance(text, str) else text
    say = [byte + 4 for byte in data] + ([0] if eos else [])
    skip = 1 + len(prompt.encode())

    def logits_after(ids: list[int]) -> np.ndarray:
        logits = np.zeros(260, np.float32)
        at = len(ids) - skip
        logits[say[at] if at < len(say) else 4] = sure
        return logits

    return FakeModel(logits_after)


def noisy(seed: int = 0, scale: float = 3.0, **size: int) -> FakeModel:
    """A model with random likings that depend on its last two ids."""

    def logits_after(ids: list[int]) -> np.ndarray:
        key = [seed, *ids[-2:]]
        logits = np.random.default_rng(key).standard_normal(260).astype(np.float32) * scale
        logits[:4] = -20.0
        return logits

    return FakeModel(logits_after, **size)


def run(
    model: FakeModel, prompt: str | bytes = "", **settings: object
) -> tuple[list, GenerateFinished]:
    """The token events and the finish, with what must hold of every generation."""
    extra = {
        name: settings.pop(name)
        for name in ("calibration", "should_stop", "n_alternatives")
        if name in settings
    }
    config = GenerateConfig(**{**GREEDY, **settings})
    *tokens, finish = generate(model, ByteTokenizer(), prompt, config, **extra)
    tokens = [event for event in tokens if not isinstance(event, Note)]
    assert all(isinstance(event, TokenGenerated) for event in tokens)
    assert isinstance(finish, GenerateFinished)
    assert [event.index for event in tokens] == list(range(finish.tokens))
    streamed = "".join(event.text for event in tokens)
    assert finish.text == streamed[: finish.kept_characters]
    return tokens, finish


def test_the_prompt_is_preceded_by_the_start_mark_and_read_in_one_pass() -> None:
    model = scripted("def", "abc")
    seen: list[list[int]] = []
    inner = model._logits_after
    model._logits_after = lambda ids: (seen.append(list(ids)), inner(ids))[1]
    tokens, finish = run(model, "abc")
    assert seen[0] == [0, 101, 102, 103]
    assert model.calls == ["prefill 4", "decode", "decode", "decode"]
    assert (finish.text, finish.finish_reason, finish.tokens) == ("def", "eos", 4)
    assert (finish.prompt_tokens, finish.kept_characters) == (3, 3)
    assert tokens[-1].token_id == 0 and tokens[-1].text == ""


def test_length_and_context() -> None:
    _, finish = run(scripted("abcdef"), max_tokens=4)
    assert (finish.text, finish.finish_reason) == ("abcd", "length")
    model = noisy(max_seq_len=12)
    _, finish = run(model, "12345")
    # 6 ids are read first, 6 more fit, and the last prediction needs no room.
    assert (finish.finish_reason, finish.tokens) == ("context", 7)
    _, finish = run(noisy(max_seq_len=12), "12345678901")
    assert (finish.finish_reason, finish.tokens) == ("context", 1)
    _, finish = run(noisy(max_seq_len=12), "12345678901", max_tokens=1)
    assert finish.finish_reason == "length"


def test_a_prompt_that_fills_the_context_is_refused_with_both_values() -> None:
    with pytest.raises(
        UsageError, match="has 12 tokens but the model reads at most 11: shorten it"
    ):
        run(noisy(max_seq_len=12), "123456789012")


def test_interruption_ends_the_text_at_the_next_token() -> None:
    asked = iter([False, False, True])
    tokens, finish = run(scripted("abcdef"), should_stop=lambda: next(asked))
    assert (finish.finish_reason, finish.text, len(tokens)) == ("interrupted", "abc", 3)


def test_incomplete_characters_are_held_back_and_shown_at_the_end() -> None:
    text = "añ日🌊!"
    tokens, finish = run(scripted(text))
    assert finish.text == text
    assert [event.text for event in tokens if event.text] == list(text)
    # Cut within a character: the three bytes that came are one replacement, as in a whole decode.
    tokens, finish = run(scripted("a🌊"), max_tokens=4)
    assert finish.text == "a🌊".encode()[:4].decode(errors="replace") == "a\ufffd"
    tokens, finish = run(scripted(b"\xff\xfeok"))
    assert finish.text == "\ufffd\ufffdok"


def test_no_part_of_a_stop_string_is_streamed() -> None:
    tokens, finish = run(scripted("one END, no: ENDE. two"), stop=("ENDE", "xyz"))
    assert (finish.text, finish.finish_reason) == ("one END, no: ", "stop_string")
    assert "".join(event.text for event in tokens) == "one END, no: "
    # What was held back and came to nothing is shown, also by the last token.
    _, finish = run(scripted("one EN"), stop=("END",))
    assert (finish.text, finish.finish_reason) == ("one EN", "eos")
    _, finish = run(scripted("one END"), stop=("END",), max_tokens=6)
    assert (finish.text, finish.finish_reason) == ("one EN", "length")


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    # The first stop string to be complete ends the text; the longest, if several are at once.
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: sum(min(ends))] if ends else text
    holder, out = StopStrings(tuple(stops)), ""
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    for first, last in pairwise(bounds):
        out += holder.push(text[first:last])
        assert expected.startswith(out)
    assert out + holder.flush() == expected
    assert holder.found == bool(ends)


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    texts = [run(noisy(), "x", temperature=1.0, seed=seed)[1].text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    _, finish = run(noisy(), temperature=1.0, seed=None, max_tokens=5)
    again = run(noisy(), temperature=1.0, seed=finish.seed, max_tokens=5)[1]
    assert again.text == finish.text


def test_a_text_branched_at_any_token_continues_as_it_was() -> None:
    model, config = noisy(), GenerateConfig(temperature=1.0, seed=3)
    start = np.array([0, 50, 60], np.int32)
    whole = []
    for drawn in draw_tokens(model, model.new_cache(), start, config, 3):
        whole.append(drawn.token_id)
        if len(whole) == 30:
            break
    for cut in (1, 7, 29):
        ids = np.concatenate((start, whole[:cut])).astype(np.int32)
        rest = draw_tokens(model, model.new_cache(), ids, config, 3)
        assert [next(rest).token_id for _ in range(30 - cut)] == whole[cut:]


def test_confidence_is_of_the_raw_logits_whatever_the_sampler_does() -> None:
    model = noisy(max_seq_len=40)
    cold, _ = run(model, temperature=0.0)
    ids = [0]
    for event in cold:
        logits = model._logits_after(ids).astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum()
        assert event.p == pytest.approx(p[event.token_id], abs=1e-6)
        assert event.rank == 0 and event.p_sampled == 1.0
        ids.append(event.token_id)
    hot, finish = run(noisy(), temperature=1.5, top_k=20, repeat_penalty=1.3, max_tokens=60)
    assert any(event.rank > 0 for event in hot)
    mean = sum(event.logprob for event in hot) / len(hot)
    assert finish.typical_p == pytest.approx(math.exp(mean))
    assert finish.perplexity == pytest.approx(math.exp(-mean))


def test_the_start_mark_is_not_penalized() -> None:
    def logits_after(ids: list[int]) -> np.ndarray:
        logits = np.full(260, -10.0, np.float32)
        logits[0], logits[4] = 2.0, 1.9  # a penalty of 1.1 would put the end second
        return logits

    _, finish = run(FakeModel(logits_after), repeat_penalty=1.1)
    assert (finish.finish_reason, finish.tokens) == ("eos", 1)


def test_alternatives_are_named() -> None:
    tokens, _ = run(scripted("é"), n_alternatives=3)
    assert [len(event.alternatives) for event in tokens] == [3, 3, 3]
    assert tokens[0].alternatives[0].text == "\ufffd"
    assert tokens[2].alternatives[0].text == "<|endoftext|>"
    assert tokens[2].alternatives[0].p == tokens[2].p
    assert run(scripted("é"))[0][0].alternatives == ()


def calibration(**changes: object) -> dict[str, object]:
    """A record as it stands in a model file."""
    thresholds = dict.fromkeys(("0.01", "0.02", "0.05", "0.1"), -3.0)
    thresholds |= {"0.2": -2.0, "0.3": -1.5, "0.5": -1.0}
    sampler = dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "repeat_penalty"), 1.0)
    sampler |= {"repeat_window": 64.0, "max_tokens": 200.0}
    record = Calibration(
        *("expected_logprob", 24, 3, 24, 0.2, -2.0, thresholds, 512, 80_000, True, sampler, "fp32")
    )
    return {**record.as_dict(), **changes}


def lost_after(sure_text: str, unsure_text: str) -> FakeModel:
    """Sure of the first text, at p = 1/260 in the second."""
    first, second = scripted(sure_text + unsure_text), len(sure_text)
    inner = first._logits_after
    first._logits_after = lambda ids: inner(ids) * (1.0 if len(ids) <= second else 1e-6)
    return first


def test_low_confidence_ends_the_text_and_trims_it_to_the_sentence() -> None:
    sure = "It was a fine day, and everybody came along."
    model = lost_after(sure, " Xq wprt zz kj vvq o hhpf ee")
    tokens, finish = run(model, stop_confidence=-2.0)
    assert finish.finish_reason == "low_confidence"
    assert finish.text == sure
    assert len("".join(event.text for event in tokens)) > finish.kept_characters
    # Sure, it expects -0.31 of its next token; lost, -ln 260 = -5.56: the mean over 24 is below -2 from the
    # 8th lost token on, for three steps.
    assert finish.tokens == len(sure) + 10
    # Without a sentence end in the window nothing is cut.
    _, finish = run(
        lost_after(sure.replace(".", ","), " Xq wprt zz kj vvq o"), stop_confidence=-2.0
    )
    assert finish.finish_reason == "low_confidence" and finish.text.endswith(" Xq wprt z")


def test_auto_takes_the_threshold_of_the_calibration() -> None:
    def model() -> FakeModel:
        return lost_after("It was a fine day, and everybody came.", " Xq wprt zz kj vvq o hhpf ee")

    reasons = {
        name: run(model(), stop_confidence=rule, calibration=record)[1].finish_reason
        for name, rule, record in (
            ("off", "off", calibration()),
            ("auto", "auto", calibration()),
            ("deeper", "auto", calibration(threshold=-9.0)),
            ("unknown statistic", "auto", calibration(statistic="entropy")),
            ("another window", "auto", calibration(window=16)),
            ("hostile", "auto", calibration(threshold="-2")),
            ("none", "auto", None),
        )
    }
    assert reasons == {
        "off": "eos",
        "auto": "low_confidence",
        "deeper": "eos",
        "unknown statistic": "eos",
        "another window": "eos",
        "hostile": "eos",
        "none": "eos",
    }
    config = GenerateConfig(stop_confidence="auto", **GREEDY)
    notes = [e for e in generate(model(), ByteTokenizer(), "", config) if isinstance(e, Note)]
    assert len(notes) == 1 and "calibration" in notes[0].text
    with_record = generate(model(), ByteTokenizer(), "", config, calibration=calibration())
    assert not any(isinstance(event, Note) for event in with_record)


def test_repetition_ends_a_loop_unless_the_rules_are_off() -> None:
    loop = "and then he ran " * 10
    _, finish = run(scripted(loop), stop_confidence="auto")
    assert (finish.finish_reason, finish.text) == ("repetition", "and then he ran " * 3)
    assert run(scripted(loop))[1].finish_reason == "eos"


def test_the_reason_says_how_rare_it_is_to_be_so_unsure() -> None:
    def words(rule: str | float, record: dict[str, object] | None) -> str:
        model = lost_after("It was a fine day, and everybody came.", " Xq wprt zz kj vvq o hhpf ee")
        return in_words(run(model, stop_confidence=rule, calibration=record)[1])

    stopped = "stopped: unsure for 24 tokens"
    assert words("auto", calibration()) == f"{stopped}, less sure than in 80 % of its own texts"
    # A threshold of one's own lies between two that are known, or beyond all of them.
    assert words(-1.75, calibration()).endswith("less sure than in 75 % of its own texts")
    assert words(-5.0, calibration()).endswith("less sure than in 99 % of its own texts")
    assert words(-0.5, calibration()).endswith("less sure than in 50 % of its own texts")
    assert words(-2.0, None) == stopped


def test_calibration_stops_the_promised_share_of_the_samples() -> None:
    sampler = GenerateConfig(max_tokens=60, repeat_penalty=1.0)
    *progress, record = calibrate(noisy(scale=2.0), ByteTokenizer(), sampler=sampler, samples=40)
    assert all(isinstance(event, Progress) for event in progress)
    assert progress[-1].done == progress[-1].total == 40
    assert isinstance(record, Calibration)
    assert (record.samples, record.tokens, record.share) == (40, 2400, 0.2)
    assert record.thresholds["0.2"] == record.threshold
    assert not record.prompted and record.held_out is None and record.relative_bins is None
    values = list(record.thresholds.values())
    assert values == sorted(values)
    # The same samples again, each alone and through the rule itself.
    fired = 0
    model = noisy(scale=2.0)
    for number in range(40):
        rule = LowConfidence(record.threshold)
        drawn = draw_tokens(
            model, model.new_cache(), np.array([0], np.int32), sampler, number, "calibrate", {0}
        )
        values = [expected_logprob(next(drawn).confidence.entropy, 260) for _ in range(60)]
        fired += any(rule.push(value) for value in values)
    assert fired == 8
    assert record.as_dict()["sampler"]["temperature"] == 0.8


def test_calibration_is_bounded_in_time_and_says_what_it_saw() -> None:
    *_, record = calibrate(noisy(), ByteTokenizer(), samples=40, seconds=0.0)
    assert record.samples == FIRST_BATCH


def test_thresholds_of_few_or_short_texts() -> None:
    assert threshold_for([-3.0, -2.0, -1.0, -0.5, math.inf], 0.5) == -1.0
    assert threshold_for([-3.0, -2.0, -1.0, math.inf], 0.0) == -3.0
    assert threshold_for([-3.0, -2.0, *[math.inf] * 9], 0.5) == -2.0, "short texts do not count"
    assert threshold_for([math.inf, math.inf], 0.5) == NEVER
    assert threshold_for([-3.0], 1.0) == 0.0
    assert dip([-3.0] * 20) == math.inf


def test_model_p_of_cached_decoding_is_that_of_a_full_forward_pass() -> None:
    from slim.config import ModelConfig
    from slim.model import Model
    from slim.parameters import Parameters

    sizes = ModelConfig(
        vocab_size=260, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=48, max_seq_len=64
    )
    parameters = Parameters(sizes).initialise(1)
    parameters.flat[: parameters.n_decayed] *= 12.0  # opinions, as after training
    model = Model(sizes, parameters)
    config = GenerateConfig(seed=1, temperature=1.2, top_k=30)
    *tokens, finish = generate(model, ByteTokenizer(), "Once upon", config)
    assert finish.finish_reason == "context" and finish.tokens == 64 - 10 + 1
    ids = [0, *ByteTokenizer().encode("Once upon"), *(event.token_id for event in tokens)][:64]
    row = np.array([ids], np.int32)
    logits = model.logits(model.workspace(1, 64, train=False), row)[0].astype(np.float64)
    for event, here in zip(tokens, logits[9:], strict=True):
        p = np.exp(here - here.max())
        p /= p.sum()
        assert event.p == pytest.approx(p[event.token_id], abs=1e-5)
        assert event.logprob == pytest.approx(math.log(p[event.token_id]), abs=1e-4)


def test_texts_written_together_are_those_written_alone() -> None:
    """With everything that belongs to a text: its rules, its end, its numbers but for the time."""
    sizes = ModelConfig(
        vocab_size=260, dim=32, n_layers=1, n_heads=2, hidden_dim=48, max_seq_len=64
    )
    model, tokenizer = Model(sizes, Parameters(sizes).initialise(0)), ByteTokenizer()
    config = GenerateConfig(max_tokens=40, seed=7, stop=("e",), stop_confidence=-0.5, min_tokens=0)
    together: list[list] = [[], [], [], []]
    for event in generate_together(model, tokenizer, "ab", config, samples=4):
        together[event.sample].append(dataclasses.replace(event, sample=-1))
    for number, events in enumerate(together):
        alone = list(generate(model, tokenizer, "ab", dataclasses.replace(config, seed=7 + number)))
        assert events[:-1] == alone[:-1]
        *found, expected = (
            dataclasses.replace(e, tokens_per_second=0.0) for e in (events[-1], alone[-1])
        )
        assert found == [expected]
