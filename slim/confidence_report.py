"""How much the confidence of a model is worth on a text: calibration, ranking, foresight.

Half of the documents, every other one, is there to fit a temperature; everything is judged on the other half.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slim.calibration import Calibration, ReliabilityBin
from slim.errors import DataError
from slim.events import Progress
from slim.foresight import Foresight, exchanged, foresight, stops
from slim.reliability import (
    FullCalibration,
    TemperatureFit,
    auroc,
    expected_error,
    mean_risk,
    reliability_bins,
    risk_at_coverage,
)
from slim.scoring import Scorer, Scores, Text, logits_of, texts_of

if TYPE_CHECKING:
    from slim.model import Model

FITTED_TOKENS = 32_768  # that the temperature is fitted on, at most
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EXCHANGES = 99  # of stops between documents
DRAWS = 200  # of documents, for the intervals of calibration errors
STAGE = "judging confidence"


@dataclass(frozen=True, slots=True)
class Calibratedness:
    """How well p agree with what comes, at one temperature. Intervals are of 95 %, documents drawn anew."""

    temperature: float
    ece: float  # expected calibration error of the first choice
    ece_low: float
    ece_high: float
    full_ece: float  # of all ids of the vocabulary
    brier: float
    nats: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a number tells right first choices from wrong ones."""

    name: str
    auroc: float
    mean_risk: float  # the area under the risk-coverage curve
    risks: tuple[float, ...]  # at COVERAGES


@dataclass(frozen=True, slots=True)
class RuleForesight:
    """The stop rule on all documents, at the threshold of one share."""

    share: float
    threshold: float
    real: Foresight
    exchanged: float  # the mean difference when documents exchange their stops
    p_value: float  # how often that is at least as large


@dataclass(frozen=True, slots=True)
class ConfidenceReport:
    """Everything, as `slim eval --calibration` shows it."""

    documents: int
    tokens: int
    fitted_tokens: int
    accuracy: float  # of the first choice
    plain: Calibratedness
    calibrated: Calibratedness
    rankings: tuple[Ranking, ...]
    rules: tuple[RuleForesight, ...]


def confidence_report(
    model: Model,
    documents: Sequence[np.ndarray],
    start_id: int,
    calibration: Calibration | None = None,
    seed: int = 0,
    counted: Sequence[np.ndarray | None] | None = None,
) -> Generator[Progress, None, ConfidenceReport]:
    """Judge p on documents, ids (n,) int32 without the start token; DataError for too little text.

    calibration   of the model file: its thresholds are looked at as stop rules
    counted       for each document (n,) bool, which of its ids are judged; None: all of them
    """
    texts = _cut(texts_of(documents, counted), model.config.max_seq_len)
    if len(texts) < 4:
        raise DataError("there is too little text to fit on one half and judge on the other")
    fit_half, judged_half = texts[0::2], texts[1::2]
    total = sum(text.judged for text in judged_half)
    fit = TemperatureFit()
    frequency = np.zeros(model.config.vocab_size)
    fitted = Scorer()
    size = sum(text.judged for text in fit_half)
    stride = -(-size // FITTED_TOKENS)
    for first in range(stride):  # evenly taken: windows come in the order of their lengths
        for chunk in logits_of(model, fit_half[first::stride], start_id):
            fitted.add(dataclasses.replace(chunk, documents=first + stride * chunk.documents))
            if first == 0:
                fit.add(chunk)
            yield Progress("fitting a temperature", fitted.tokens, size)
    for text in fit_half:
        frequency += np.bincount(text.ids, minlength=frequency.size)
    temperature = fit.temperature()
    plain, cooled = Scorer(), Scorer()
    full, full_cooled = FullCalibration(), FullCalibration(temperature)
    choices: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for chunk in logits_of(model, judged_half, start_id):
        plain.add(chunk)
        cooled.add(chunk, temperature)
        full.add(chunk)
        full_cooled.add(chunk)
        choices.append(chunk.logits.argmax(axis=1))
        places.append(np.stack([chunk.documents, chunk.positions]))
        yield Progress(STAGE, plain.tokens, total)
    scores, calibrated = plain.scores(), cooled.scores()
    document, position = np.concatenate(places, axis=1)
    choice = np.concatenate(choices)[np.lexsort((position, document))]
    return ConfidenceReport(
        documents=len(judged_half),
        tokens=scores.ids.size,
        fitted_tokens=fit.tokens,
        accuracy=float((scores.rank == 0).mean()),
        plain=_calibratedness(scores, full, 1.0, seed),
        calibrated=_calibratedness(calibrated, full_cooled, temperature, seed),
        rankings=_rankings(scores, frequency[choice], seed),
        rules=_rules((fitted.scores(), scores), calibration, seed),
    )


def _cut(texts: Sequence[Text], context: int) -> list[Text]:
    """The documents; a text that is one long document in pieces as long as the context. Only what has tokens to judge."""
    kept = [text for text in texts if text.judged]
    if len(kept) < 4:
        starts = ((text, first) for text in kept for first in range(0, text.ids.size, context))
        kept = [text.part(first, first + context) for text, first in starts]
    return [text for text in kept if text.judged]


def _calibratedness(
    scores: Scores, full: FullCalibration, temperature: float, seed: int
) -> Calibratedness:
    correct = scores.rank == 0
    bins = reliability_bins(scores.best, correct)
    random = np.random.default_rng(seed)
    sure, right = scores.by_document(scores.best), scores.by_document(correct)
    drawn = []
    for _ in range(DRAWS):
        picked = random.integers(0, len(sure), len(sure)).tolist()
        sureness = np.concatenate([sure[i] for i in picked])
        drawn.append(
            expected_error(reliability_bins(sureness, np.concatenate([right[i] for i in picked])))
        )
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return Calibratedness(
        *(temperature, expected_error(bins), low, high, full.error(), full.brier),
        *(-float(scores.logprob.mean()), bins),
    )


def _rankings(scores: Scores, frequency: np.ndarray, seed: int) -> tuple[Ranking, ...]:
    """p, and what knows less: how often the first choice occurs, where in the document it is, nothing."""
    correct = scores.rank == 0
    candidates = {
        "p": scores.best,
        "frequency": frequency,
        "position": scores.positions.astype(np.float64),
        "shuffled p": np.random.default_rng(seed).permutation(scores.best),
    }
    return tuple(
        Ranking(
            name,
            auroc(values, correct),
            mean_risk(values, correct),
            risk_at_coverage(values, correct, COVERAGES),
        )
        for name, values in candidates.items()
    )


def _rules(
    halves: Sequence[Scores], calibration: Calibration | None, seed: int
) -> tuple[RuleForesight, ...]:
    """On all documents: nothing was fitted for the rules."""
    if calibration is None:
        return ()
    expected = [values for half in halves for values in half.by_document(half.expected)]
    nats = [values for half in halves for values in half.by_document(-half.logprob)]
    lengths = np.array([one.size for one in nats])
    found = []
    for share, threshold in calibration.thresholds.items():
        stop = stops(expected, threshold)
        real = foresight(nats, stop)
        if real is None:
            continue
        random = np.random.default_rng(seed)
        nulls = [foresight(nats, exchanged(stop, lengths, random)) for _ in range(EXCHANGES)]
        differences = np.array([null.difference for null in nulls if null is not None])
        found.append(
            RuleForesight(
                *(float(share), threshold, real, float(differences.mean())),
                p_value=float(
                    (1 + (differences >= real.difference).sum()) / (1 + differences.size)
                ),
            )
        )
    return tuple(found)


def as_record(report: ConfidenceReport) -> dict[str, object]:
    """The report as a JSON object."""
    return dataclasses.asdict(report)
