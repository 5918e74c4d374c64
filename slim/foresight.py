"""Looking forward: is what follows where a stop rule fires worse than what follows where it does not?

That the text before a stop is unsure proves nothing: the rule looks for just that. So only what comes after the stop counts,
against controls: other documents at the same position that were as hard so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slim.confidence import MIN_TOKENS, PATIENCE, WINDOW, sustained
from slim.reliability import bootstrap_interval

AHEAD = 32  # tokens after a stop
CONTROLS = 8


@dataclass(frozen=True, slots=True)
class Foresight:
    """What follows a stop, in nats per token more than what follows in its controls."""

    documents: int
    fired: int  # those in which the rule fires
    compared: int  # of them: those with enough text and controls behind
    difference: float
    low: float  # the 95 % interval, documents drawn anew
    high: float
    matched: float  # how much harder the text was until there than that of its controls: about 0 where they match


def stops(values: Sequence[np.ndarray], threshold: float, window: int = WINDOW) -> np.ndarray:
    """For texts of expected log p: after how many tokens LowConfidence fires, -1 where it does not."""
    found = np.full(len(values), -1)
    first = max(MIN_TOKENS, window - 1) + PATIENCE
    for i, one in enumerate(values):
        below = np.flatnonzero(sustained(one, window) < threshold)
        if below.size:
            found[i] = first + below[0]
    return found


def foresight(nats: Sequence[np.ndarray], stop: np.ndarray, ahead: int = AHEAD) -> Foresight | None:
    """Compare what follows the stops with what follows in controls; None where nothing can be compared.

    nats   of the tokens of each document   stop   (documents,): tokens before its stop, -1 for none
    Controls have not stopped by the same position, and are the CONTROLS nearest in mean nats until there.
    """
    lengths = np.array([one.size for one in nats])
    sums = np.zeros((len(nats), int(lengths.max(initial=0)) + 1))  # of the first t tokens
    for row, one in zip(sums, nats, strict=True):
        np.cumsum(one, out=row[1 : one.size + 1])
    fired = np.flatnonzero((stop >= 0) & (stop + ahead <= lengths))
    differences, matched = [], []
    for at in np.unique(stop[fired]).tolist():
        others = np.flatnonzero((lengths >= at + ahead) & ((stop < 0) | (stop > at)))
        if others.size < CONTROLS:
            continue
        before = sums[others, at] / at
        after = (sums[others, at + ahead] - sums[others, at]) / ahead
        for i in fired[stop[fired] == at].tolist():
            gap = before - sums[i, at] / at
            nearest = np.argpartition(np.abs(gap), CONTROLS - 1)[:CONTROLS]
            mine = (sums[i, at + ahead] - sums[i, at]) / ahead
            differences.append(mine - after[nearest].mean())
            matched.append(-gap[nearest].mean())
    if len(differences) < 2:
        return None
    found = np.array(differences)
    low, high = bootstrap_interval(found)
    return Foresight(
        *(len(nats), int((stop >= 0).sum()), found.size, float(found.mean()), low, high),
        matched=float(np.mean(matched)),
    )


def exchanged(stop: np.ndarray, lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The stops of other texts, each where its new text is long enough: they know nothing of it."""
    drawn = random.permutation(stop)
    return np.where(drawn < lengths, drawn, -1)
