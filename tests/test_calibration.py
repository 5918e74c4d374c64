"""What a model file keeps of a calibration: read back whole or not at all, and the text behind it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Generator, Iterator

import numpy as np
import pytest

from slim.calibrate import FIRST_BATCH, calibrate
from slim.calibration import NEVER, Calibration, HeldOut, ReliabilityBin
from slim.cli.info import calibration_rows
from slim.confidence import TokenConfidence, sustained
from slim.confidence_report import ConfidenceReport, confidence_report
from slim.config import GenerateConfig, ModelConfig
from slim.decoding import DrawnToken
from slim.evaluate import evaluate
from slim.events import Progress, TextScored, TokenGenerated
from slim.model import Model
from slim.parameters import Parameters
from slim.reliability import FullCalibration, TemperatureFit, expected_error, reliability_bins
from slim.score import score
from slim.scoring import logits_of, score_documents, texts_of
from slim.tokenizer import SPECIAL_TOKENS, Tokenizer

TOKENIZER = Tokenizer([])
SIZES = ModelConfig(
    vocab_size=260, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_seq_len=48
)
SHARES = ("0.01", "0.02", "0.05", "0.1", "0.2", "0.3", "0.5")
SAMPLER = dict.fromkeys(
    ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_window", "max_tokens"), 1.0
)


@pytest.fixture(scope="module")
def model() -> Model:
    parameters = Parameters(SIZES).initialise(2)
    parameters.flat[: parameters.n_decayed] *= 8.0  # opinions, as after training
    return Model(SIZES, parameters)


def documents(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(4, SIZES.vocab_size, n).astype(np.int32) for n in lengths]


def known() -> Calibration:
    """A calibration with everything in it."""
    steps = dict(zip(SHARES, (-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0), strict=True))
    bins = (ReliabilityBin(0.25, 0.5, 10), ReliabilityBin(0.75, 1.0, 10))
    percentiles = tuple(i / 20 for i in range(21))
    held_out = HeldOut(150, 30_000, steps, 0.5, 1.1, 0.25, 0.1, 2.0, 1.9, 15_000, bins, percentiles)
    return Calibration(
        *("expected_logprob", 24, 3, 24, 0.2, -2.0, steps, 512, 80_000, True, SAMPLER, "bf16"),
        held_out=held_out,
    )


def test_a_record_comes_back_from_json_as_it_was() -> None:
    for calibration in (known(), dataclasses.replace(known(), held_out=None)):
        record = json.loads(json.dumps(calibration.as_dict(), allow_nan=False))
        assert Calibration.from_record(record) == calibration
    bins = known().relative_bins
    assert bins is not None and bins.relative and bins.edges == pytest.approx((0.6, 0.35, 0.2, 0.08))
    assert known().held_out is not None and known().held_out.enough


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (-2.0, "--stop-confidence auto is -2.00, below which 20% of 512 of its own texts"),
        (NEVER, "--stop-confidence auto stops loops only: none of 512 of its own texts"),
    ],
)
def test_what_a_threshold_means_is_said(threshold: float, words: str) -> None:
    record = dataclasses.replace(known(), threshold=threshold).as_dict()
    assert dict(calibration_rows(record))["confidence"].startswith(words)


def paths(record: object, before: tuple = ()) -> list[tuple]:
    """The way to each value in a record, containers too."""
    found = [before] if before else []
    if isinstance(record, dict):
        for name, value in record.items():
            found += paths(value, (*before, name))
    elif isinstance(record, list):
        for i, value in enumerate(record):
            found += paths(value, (*before, i))
    return found


RECORD = json.loads(json.dumps(known().as_dict()))


@pytest.mark.parametrize("path", paths(RECORD), ids=lambda path: ".".join(map(str, path)))
def test_a_record_with_anything_odd_in_it_is_none_at_all(path: tuple) -> None:
    odd: list[object] = [None, "x\x1b[2J", [], {}, -1e300, 1e300, math.nan, math.inf, [1], {"a": 1}]
    if path[-1] == "held_out":
        odd.remove(None)  # means that there was no text
    if path[-1] in ("statistic", "precision"):
        odd.remove("x\x1b[2J")  # another statistic is for the rule to refuse
    for value in odd:
        record = copy.deepcopy(RECORD)
        place = record
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        assert Calibration.from_record(record) is None, value
    for name in [n for n in path if isinstance(n, str)][-1:]:
        record = copy.deepcopy(RECORD)
        place = record
        for step in path[: path.index(name)]:
            place = place[step]
        del place[name]
        assert Calibration.from_record(record) is None


@pytest.mark.parametrize("record", [None, 1, "x", [], {}, {**RECORD, "more": 1}])
def test_what_is_no_record(record: object) -> None:
    assert Calibration.from_record(record) is None


def test_thresholds_and_percentiles_have_to_rise() -> None:
    record = copy.deepcopy(RECORD)
    record["thresholds"]["0.5"] = -3.9
    assert Calibration.from_record(record) is None
    record = copy.deepcopy(RECORD)
    record["held_out"]["p_percentiles"][3] = 0.9
    assert Calibration.from_record(record) is None


def test_scores_are_those_of_evaluation_and_in_order(model: Model) -> None:
    """Documents shorter and longer than the context of 48."""
    texts = documents(5, 0, 130, 48, 47, 1)
    scores = score_documents(model, texts, TOKENIZER.eos_id)
    assert scores.ids.tolist() == np.concatenate(texts).tolist()
    assert scores.documents.tolist() == np.repeat(np.arange(6), [t.size for t in texts]).tolist()
    parts = scores.by_document(scores.positions)
    assert [part.tolist() for part in parts] == [list(range(t.size)) for t in texts if t.size]
    found: list[float] = []

    def consume() -> Iterator[Progress]:
        found.append((yield from evaluate(model, texts, 1, TOKENIZER.eos_id)).nats)

    assert list(consume()) and -scores.logprob.sum() == pytest.approx(found[0], rel=1e-5)
    # A document of its own, against all logits of a forward pass.
    row = np.concatenate(([TOKENIZER.eos_id], texts[4]))[None].astype(np.int32)
    logits = model.logits(model.workspace(1, 48, train=False), row)[0, :47].astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mine = scores.documents == 4
    assert np.exp(scores.logprob[mine]) == pytest.approx(p[np.arange(47), texts[4]], abs=1e-5)
    assert scores.expected[mine] == pytest.approx((p * np.log(p)).sum(1), abs=1e-4)
    assert scores.best[mine] == pytest.approx(p.max(1), abs=1e-5)


def test_score_tells_each_token_of_a_text_and_gives_the_text_back(model: Model) -> None:
    text = "Once upón a time, 日本. " * 5
    *tokens, last = score(model, TOKENIZER, text, n_alternatives=2)
    assert all(isinstance(event, TokenGenerated) for event in tokens)
    assert "".join(event.text for event in tokens) == text
    assert [event.token_id for event in tokens] == TOKENIZER.encode(text).tolist()
    assert [event.index for event in tokens] == list(range(len(tokens)))
    assert all(len(event.alternatives) == 2 and event.p == event.p_sampled for event in tokens)
    assert isinstance(last, TextScored) and last.tokens == last.bytes == len(text.encode())
    scores = score_documents(model, [TOKENIZER.encode(text)], TOKENIZER.eos_id)
    assert [event.logprob for event in tokens] == pytest.approx(scores.logprob.tolist())
    assert last.typical_p == pytest.approx(math.exp(scores.logprob.mean()))
    assert last.perplexity == pytest.approx(1.0 / last.typical_p)
    # Half a character at the end is a replacement, as in a whole decode.
    *tokens, _ = score(model, TOKENIZER, "日".encode()[:2])
    assert "".join(event.text for event in tokens) == "\ufffd"


def test_calibration_with_held_out_text(model: Model) -> None:
    texts = documents(*range(30, 60), 3)
    sampler = GenerateConfig(max_tokens=36)
    events = list(calibrate(model, TOKENIZER, texts, sampler=sampler, samples=20))
    *progress, record = events
    assert all(isinstance(event, Progress) for event in progress)
    assert isinstance(record, Calibration) and record.prompted and record.samples == 20
    assert Calibration.from_record(json.loads(json.dumps(record.as_dict()))) == record
    held_out = record.held_out
    assert held_out is not None and not held_out.enough
    assert (held_out.documents, held_out.tokens) == (31, sum(range(30, 60)) + 3)
    assert sum(one.tokens for one in held_out.bins) == held_out.judged_tokens < held_out.tokens
    scores = score_documents(model, texts, TOKENIZER.eos_id)
    assert held_out.p_percentiles[10] == pytest.approx(
        float(np.exp(np.median(scores.logprob))), rel=1e-4
    )
    stopped = [
        depths.size > 0 and depths.min() < record.threshold
        for depths in map(sustained, scores.by_document(scores.expected))
    ]
    assert held_out.stopped == pytest.approx(np.mean(stopped))
    # The text is noise, and the weights have opinions on it: a higher temperature helps.
    assert held_out.temperature > 1.2 and held_out.calibrated_nats < held_out.nats
    assert held_out.calibrated_ece < held_out.ece


def test_a_model_of_conversations_is_calibrated_on_its_answers(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    user, assistant, end = (TOKENIZER.special_tokens[name] for name in SPECIAL_TOKENS[1:])
    talks = [np.array([user, *said, assistant, *said[:2], end], np.int32) for said in documents(12, 20, 3, 15)]
    asked: list[np.ndarray] = []

    def ended_at_once(model: Model, capacity: int, starts: np.ndarray, *rest: object) -> Iterator[list[DrawnToken]]:
        asked.extend(starts)
        certain = TokenConfidence(p=0.9, logprob=-0.1, entropy=0.1, rank=0, margin=0.8)
        yield [DrawnToken(end, 0.9, certain) for _ in starts]

    monkeypatch.setattr("slim.calibrate.draw_together", ended_at_once)
    *_, record = calibrate(model, TOKENIZER, talks, samples=4)
    assert all(row[-1] == assistant and row.size == 9 for row in asked), "a question of 3 tokens is too short"
    assert isinstance(record, Calibration) and record.tokens == 0
    assert Calibration.from_record(record.as_dict()) == record, "answers may be empty"


def test_only_what_was_to_be_learnt_is_judged(model: Model) -> None:
    """Of documents shorter and longer than the context; one of them has nothing that is judged."""
    texts = documents(40, 33, 25, 130, 7, 61)
    random = np.random.default_rng(1)
    masks: list[np.ndarray | None] = [random.random(ids.size) < 0.4 for ids in texts]
    masks[2], masks[5] = np.zeros(25, np.bool_), None
    scores = score_documents(model, texts, TOKENIZER.eos_id)
    wanted = np.concatenate([np.ones(61, np.bool_) if mask is None else mask for mask in masks])
    sampler = GenerateConfig(max_tokens=8)
    *_, record = calibrate(model, TOKENIZER, texts, sampler, samples=4, counted=masks)
    assert isinstance(record, Calibration) and record.held_out is not None
    held_out = record.held_out
    assert (held_out.documents, held_out.tokens) == (5, int(wanted.sum()))
    judged = np.exp(scores.logprob[wanted])
    assert held_out.p_percentiles[10] == pytest.approx(float(np.median(judged)), rel=0.02)
    report = ended(confidence_report(model, texts, TOKENIZER.eos_id, counted=masks))
    first, third = (scores.documents == number for number in (1, 4))
    mine = wanted & (first | third)
    assert report.tokens == int(mine.sum()) and report.fitted_tokens == int((wanted & ~mine).sum())
    assert report.plain.nats == pytest.approx(-float(scores.logprob[mine].mean()), rel=1e-4)


def ended(steps: Generator[Progress, None, ConfidenceReport]) -> ConfidenceReport:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def test_a_calibration_cut_short_still_reads_a_little_of_both_halves(model: Model) -> None:
    *_, record = calibrate(model, TOKENIZER, documents(*[2100] * 8), seconds=0.0)
    assert isinstance(record, Calibration) and record.samples == FIRST_BATCH
    assert record.held_out is not None and record.held_out.documents == 4
    *_, one = calibrate(model, TOKENIZER, documents(40), samples=1)
    assert isinstance(one, Calibration) and one.held_out is None


def test_temperature_is_the_one_that_the_logits_were_multiplied_by(model: Model) -> None:
    """Targets drawn from softmax(logits / 1.3): 1.3 is found again, and calibrates."""
    random = np.random.default_rng(0)
    fit, plain, cooled = TemperatureFit(), FullCalibration(), FullCalibration(1.3)
    best, correct = [], []
    for chunk in logits_of(model, texts_of(documents(*[400] * 20)), TOKENIZER.eos_id):
        z = chunk.logits.astype(np.float64) / 1.3
        noise = -np.log(-np.log(random.random(z.shape)))
        drawn = dataclasses.replace(chunk, targets=(z + noise).argmax(1).astype(np.int32))
        for one in (fit, plain, cooled):
            one.add(drawn)
        p = np.exp(z - z.max(1, keepdims=True))
        best.append((p / p.sum(1, keepdims=True)).max(1))
        correct.append(drawn.targets == z.argmax(1))
    assert fit.temperature() == pytest.approx(1.3, rel=0.04)
    assert cooled.error() < 0.03 < plain.error()
    assert cooled.brier < plain.brier < 2.0
    bins = reliability_bins(np.concatenate(best), np.concatenate(correct))
    assert expected_error(bins) < 0.02
