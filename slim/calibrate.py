"""The model's usual self-doubt, and what its p are worth: what a model file keeps as its calibration.

Genuine text is less probable than sampled text, so a threshold taken from genuine text would hardly ever fire
on samples; this one is taken from samples at the default sampler. Genuine text that the model was not trained on
tells the rest: the temperature at which p are calibrated best, the error before and after, and which p are usual.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slim.calibration import DEFAULT_SHARE, NEVER, PERCENTILES, SHARES, Calibration, HeldOut
from slim.confidence import (
    MIN_TOKENS,
    PATIENCE,
    STATISTIC,
    WINDOW,
    dip,
    expected_logprob,
)
from slim.config import GenerateConfig
from slim.conversation import ASSISTANT, END_TOKEN, ROLE_TOKENS
from slim.decoding import draw_together
from slim.events import Progress
from slim.reliability import (
    TemperatureFit,
    expected_error,
    percentiles,
    reliability_bins,
)
from slim.scoring import Scorer, Scores, Text, logits_of, texts_of

if TYPE_CHECKING:
    from slim.model import Model
    from slim.tokenizer import Tokenizer

SAMPLES = 512
FIRST_BATCH, BATCH = 8, 32  # texts written together; the first few tell how long it takes
BATCH_BYTES = 256 * 2**20  # of keys and values of a batch, at most
PROMPT_TOKENS = 8  # of a held-out document that a text continues
ANSWERS = ROLE_TOKENS[ASSISTANT]  # begins what a model of conversations has learnt to write
TEXT_SHARE = 0.4  # of the time, for reading held-out text
HELD_OUT_TOKENS = 65_536  # read at most
FITTED_TOKENS = 16_384  # that the temperature is fitted on, at most
READ_AT_ONCE = 4_096  # tokens between two looks at the clock
OWN, GENUINE = "calibrating on its own texts", "calibrating on held-out text"


def calibrate(
    model: Model,
    tokenizer: Tokenizer,
    documents: Sequence[np.ndarray] = (),
    sampler: GenerateConfig | None = None,
    samples: int = SAMPLES,
    seconds: float = math.inf,
    share: float = DEFAULT_SHARE,
    seed: int = 0,
    counted: Sequence[np.ndarray | None] | None = None,
) -> Iterator[Progress | Calibration]:
    """Let the model write `samples` texts and read held-out documents, fewer of both when `seconds` run out.

    Yields Progress often and the Calibration last.
    documents   held-out ids (n,) int32 without eos; the texts continue their beginnings. None: no prompts, no HeldOut
    counted     for each document (n,) bool, which of its ids were to be learnt and are judged; None: all of them
    sampler     the default sampler unless given; its `max_tokens` is where a text ends at the latest
    """
    sampler = GenerateConfig() if sampler is None else sampler
    began = time.monotonic()
    evenly = _evenly(documents, counted)
    prompts = _prompts([text.ids for text in evenly], tokenizer.special_tokens.get(ANSWERS))
    end_ids = tokenizer.end_ids | {tokenizer.special_tokens.get(END_TOKEN, -1)}  # of a text, of an answer
    writing = seconds * (1.0 - TEXT_SHARE) if evenly else seconds
    dips: list[float] = []
    tokens = 0
    for event in _own_texts(
        model,
        tokenizer.start_id,
        end_ids,
        prompts,
        sampler,
        samples,
        seed,
        began + writing,
    ):
        if isinstance(event, Progress):
            yield event
        else:
            dips.append(dip(event))
            tokens += len(event)
    threshold = threshold_for(dips, share)
    held_out: HeldOut | None = None
    for found in _read(model, tokenizer.start_id, evenly, threshold, began + seconds):
        if isinstance(found, Progress):
            yield found
        else:
            held_out = found
    yield Calibration(
        statistic=STATISTIC,
        window=WINDOW,
        patience=PATIENCE,
        min_tokens=MIN_TOKENS,
        share=share,
        threshold=threshold,
        thresholds=thresholds_of(dips),
        samples=len(dips),
        tokens=tokens,
        prompted=bool(prompts),
        sampler={
            name: float(getattr(sampler, name))
            for name in (
                *("temperature", "top_k", "top_p", "min_p"),
                *("repeat_penalty", "repeat_window", "max_tokens"),
            )
        },
        precision=model.precision,
        held_out=held_out,
    )


def threshold_for(dips: Sequence[float], share: float) -> float:
    """The threshold that stops `share` of the texts that are long enough to be judged, to the nearest text.

    A model that was trained on short answers seldom writes so much: then it is a share of these few; NEVER
    where there are none.
    """
    judged = sorted(dip for dip in dips if dip < math.inf)
    stopped = round(share * len(judged))
    if not judged:
        return NEVER
    return judged[stopped] if stopped < len(judged) else 0.0


def thresholds_of(dips: Sequence[float]) -> dict[str, float]:
    """`threshold_for` each of SHARES, by its name."""
    return {f"{share:g}": threshold_for(dips, share) for share in SHARES}


def _evenly(
    documents: Sequence[np.ndarray], counted: Sequence[np.ndarray | None] | None
) -> list[Text]:
    """Documents of which something is judged, in an order of which every beginning is spread over all of them."""
    texts = [text for text in texts_of(documents, counted) if text.judged]
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    return [texts[i] for i in order]


def _prompts(documents: Sequence[np.ndarray], answers: int | None) -> list[np.ndarray]:
    """What texts begin with: documents' beginnings; of conversations the end of the first question.

    Only answers were learnt: in the middle of a question such a model does not know what comes next.
    """
    ends = [PROMPT_TOKENS] * len(documents)
    if answers is not None:
        asked = [np.flatnonzero(ids == answers) for ids in documents]
        questions = [int(at[0]) + 1 if at.size else 0 for at in asked]
        if any(end >= PROMPT_TOKENS for end in questions):
            ends = questions
    return [
        ids[end - PROMPT_TOKENS : end]
        for ids, end in zip(documents, ends, strict=True)
        if PROMPT_TOKENS <= end < ids.size
    ]


def _own_texts(
    model: Model,
    start_id: int,
    end_ids: frozenset[int],
    prompts: Sequence[np.ndarray],
    sampler: GenerateConfig,
    samples: int,
    seed: int,
    deadline: float,
) -> Iterator[Progress | list[float]]:
    """The expected log p of each token of texts that the model writes: at least one batch, then until the deadline."""
    V, limit = model.config.vocab_size, model.config.max_seq_len
    done, size, batch_seconds = 0, FIRST_BATCH, 0.0
    while done < samples and (done == 0 or time.monotonic() + batch_seconds <= deadline):
        began = time.monotonic()
        size = min(size, samples - done)
        starts = _starts(prompts, start_id, done, size)[:, : max(1, limit // 2)]
        capacity = min(limit, starts.shape[1] + sampler.max_tokens)
        texts: list[list[float]] = [[] for _ in range(size)]
        going = set(range(size))
        seeds = range(seed + done, seed + done + size)
        for drawn in draw_together(model, capacity, starts, sampler, seeds, "calibrate", end_ids):
            for row in tuple(going):
                if drawn[row].token_id in end_ids or len(texts[row]) >= sampler.max_tokens:
                    going.discard(row)
                else:
                    texts[row].append(expected_logprob(drawn[row].confidence.entropy, V))
            yield Progress(OWN, done + size - len(going), samples)
            if not going:
                break
        yield from texts
        done += size
        batch_seconds = time.monotonic() - began
        if size == FIRST_BATCH:
            fits = BATCH_BYTES // max(1, _cache_bytes(model, capacity))
            size = max(FIRST_BATCH, min(BATCH, fits))
            batch_seconds *= 2.0  # four times the texts take about twice the time


def _cache_bytes(model: Model, capacity: int) -> int:
    """Keys and values of one text."""
    config = model.config
    return 2 * 4 * capacity * config.n_layers * config.n_kv_heads * config.head_dim


def _starts(prompts: Sequence[np.ndarray], start_id: int, first: int, count: int) -> np.ndarray:
    """What texts number `first` and following begin with, (count, n) int32."""
    if not prompts:
        return np.full((count, 1), start_id, np.int32)
    rows = [prompts[number % len(prompts)] for number in range(first, first + count)]
    return np.stack([np.concatenate(([start_id], row)) for row in rows]).astype(np.int32)


def _read(
    model: Model, start_id: int, documents: Sequence[Text], threshold: float, deadline: float
) -> Iterator[Progress | HeldOut]:
    """What held-out documents tell; nothing comes of fewer than two: one half is fitted on, the other judged."""
    if len(documents) < 2:
        return
    total = min(HELD_OUT_TOKENS, sum(text.judged for text in documents))
    middle = time.monotonic() + 0.4 * (deadline - time.monotonic())
    fit, fitted, judged, calibrated = TemperatureFit(), Scorer(), Scorer(), Scorer()
    n_documents = 0
    for part, end, most in ((0, middle, FITTED_TOKENS), (1, deadline, HELD_OUT_TOKENS)):
        temperature = fit.temperature()
        for number, group in enumerate(_groups(documents[part::2])):
            read = fitted.tokens + judged.tokens
            if number > 0 and (time.monotonic() > end or read >= most):
                break
            for chunk in logits_of(model, group, start_id):
                numbered = dataclasses.replace(chunk, documents=chunk.documents + n_documents)
                if part == 0:
                    fitted.add(numbered)
                    fit.add(numbered)
                else:
                    judged.add(numbered)
                    calibrated.add(numbered, temperature)
                yield Progress(GENUINE, min(fitted.tokens + judged.tokens, total), total)
            n_documents += len(group)
    yield _held_out(fitted.scores(), judged.scores(), calibrated.scores(), fit, threshold)


def _groups(documents: Sequence[Text]) -> Iterator[list[Text]]:
    """Documents, about READ_AT_ONCE tokens of them at a time."""
    group: list[Text] = []
    for text in documents:
        group.append(text)
        if sum(one.ids.size for one in group) >= READ_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _held_out(
    fitted: Scores, judged: Scores, calibrated: Scores, fit: TemperatureFit, threshold: float
) -> HeldOut:
    dips = [
        dip(values) for scores in (fitted, judged) for values in scores.by_document(scores.expected)
    ]
    correct = judged.rank == 0
    bins = reliability_bins(judged.best, correct)
    return HeldOut(
        documents=len(dips),
        tokens=fitted.ids.size + judged.ids.size,
        dips=thresholds_of(dips),
        stopped=sum(one < threshold for one in dips) / len(dips),
        temperature=fit.temperature(),
        ece=expected_error(bins),
        calibrated_ece=expected_error(reliability_bins(calibrated.best, correct)),
        nats=max(0.0, -float(judged.logprob.mean())),
        calibrated_nats=max(0.0, -float(calibrated.logprob.mean())),
        judged_tokens=judged.ids.size,
        bins=bins,
        p_percentiles=percentiles(
            np.exp(np.concatenate((fitted.logprob, judged.logprob))), PERCENTILES
        ),
    )
