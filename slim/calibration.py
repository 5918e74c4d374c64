"""What a model file keeps of a calibration: where its own texts are unsure, and how its p compare with the truth.

It comes out of a file that somebody was handed, so every field is checked: a record that makes no sense is as good as none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from slim.shades import SHARES_BELOW, Bins

NEVER = -100.0  # a threshold below which no expected log p can sink
SHARES = (0.01, 0.02, 0.05, 0.10, 0.20, 0.30, 0.50)
DEFAULT_SHARE = 0.20
PERCENTILES = tuple(range(0, 101, 5))
ENOUGH_DOCUMENTS, ENOUGH_TOKENS = 100, 20_000
LONGEST_NAME = 40  # characters of a statistic or a precision
BINS = 15  # of a reliability diagram, with equally many tokens each
_SAMPLER = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_window", "max_tokens")  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Some tokens of similar confidence: how sure the model was of its first choice, and how often that came."""

    confidence: float
    accuracy: float
    tokens: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the model's p are worth on genuine text that it was not trained on."""

    documents: int
    tokens: int
    dips: dict[str, float]  # thresholds that would stop a share of these documents, by share
    stopped: float  # the share of these documents that the model's own threshold stops
    temperature: (
        float  # the logits divided by it are calibrated best; fitted on half of the documents ...
    )
    ece: float  # ... and judged on the other half: expected calibration error of the first choice
    calibrated_ece: float
    nats: float
    calibrated_nats: float
    judged_tokens: int
    bins: tuple[ReliabilityBin, ...]  # at temperature 1
    p_percentiles: tuple[float, ...]  # of p, at PERCENTILES

    def p_at(self, share: float) -> float:
        """The p below which a share of the tokens lies, between the percentiles that are known."""
        place = share * (len(PERCENTILES) - 1)
        below = min(int(place), len(PERCENTILES) - 2)
        low, high = self.p_percentiles[below : below + 2]
        return low + (place - below) * (high - low)

    @property
    def enough(self) -> bool:
        """Whether there was enough text for these numbers to mean much."""
        return self.documents >= ENOUGH_DOCUMENTS and self.tokens >= ENOUGH_TOKENS


@dataclass(frozen=True, slots=True)
class Calibration:
    """The record under "calibration" in a model file's metadata."""

    statistic: str
    window: int
    patience: int
    min_tokens: int
    share: float  # of its own texts, as far as they are long enough to be judged, that `threshold` stops
    threshold: float
    thresholds: dict[str, float]  # by share, written as "0.2"
    samples: int
    tokens: int
    prompted: bool  # whether its texts continue the beginnings of held-out documents
    sampler: dict[str, float]
    precision: str
    held_out: HeldOut | None = None

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: object) -> Calibration | None:
        """The calibration in a file's metadata; None where there is none that this version understands."""
        try:
            return _calibration(record)
        except (KeyError, TypeError, ValueError):
            return None

    def in_words(self, seconds: float) -> str:
        """What it was made from, in so many seconds."""
        text = f"confidence calibrated in {seconds:.1f} s: on {self.samples:,} of its own texts"
        if self.held_out is None:
            return f"{text}, without held-out text"
        text += f" and {self.held_out.documents:,} held-out documents"
        too_little = (
            "" if self.held_out.enough else ", which is little text: its p are a rough guide"
        )
        return text + too_little

    @property
    def relative_bins(self) -> Bins | None:
        """Bins that hold fixed shares of the model's tokens on held-out text; None without any."""
        if self.held_out is None:
            return None
        return Bins(tuple(map(self.held_out.p_at, SHARES_BELOW)), relative=True)

    def share_at(self, threshold: float) -> float:
        """The share of its own texts that a threshold stops, between the ones that are known."""
        known = sorted((value, float(share)) for share, value in self.thresholds.items())
        if threshold <= known[0][0]:
            return known[0][1]
        for (low, share), (high, next_share) in pairwise(known):
            if threshold <= high:
                return share + (next_share - share) * (threshold - low) / (high - low)
        return known[-1][1]


def _name(fields: Mapping[str, object], field: str) -> str:
    value = fields[field]
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME:
        raise ValueError(field)
    return value


def _calibration(record: object) -> Calibration:
    fields = _fields(record, Calibration)
    sampler = fields["sampler"]
    if not isinstance(sampler, dict) or set(sampler) != set(_SAMPLER):
        raise ValueError("sampler")
    if not isinstance(fields["prompted"], bool):
        raise ValueError("prompted")
    thresholds = _by_share(fields["thresholds"])
    share = _number(fields["share"], 0.0, 1.0)
    threshold = _number(fields["threshold"], NEVER, 0.0)
    return Calibration(
        statistic=_name(fields, "statistic"),
        window=_whole(fields["window"], 1, 4096),
        patience=_whole(fields["patience"], 1, 4096),
        min_tokens=_whole(fields["min_tokens"], 0, 2**20),
        share=share,
        threshold=threshold,
        thresholds=thresholds,
        samples=_whole(fields["samples"], 1, 2**40),
        tokens=_whole(fields["tokens"], 0, 2**40),  # each may end at once
        prompted=fields["prompted"],
        sampler={name: _number(sampler[name], 0.0, 1e9) for name in _SAMPLER},
        precision=_name(fields, "precision"),
        held_out=None if fields["held_out"] is None else _held_out(fields["held_out"]),
    )


def _held_out(record: object) -> HeldOut:
    fields = _fields(record, HeldOut)
    bins, percentiles = fields["bins"], fields["p_percentiles"]
    if not isinstance(bins, (list, tuple)) or not 1 <= len(bins) <= BINS:
        raise ValueError("bins")
    if not isinstance(percentiles, (list, tuple)) or len(percentiles) != len(PERCENTILES):
        raise ValueError("p_percentiles")
    p_percentiles = tuple(_number(value, 0.0, 1.0) for value in percentiles)
    if list(p_percentiles) != sorted(p_percentiles):
        raise ValueError("p_percentiles")
    return HeldOut(
        documents=_whole(fields["documents"], 1, 2**40),
        tokens=_whole(fields["tokens"], 1, 2**40),
        dips=_by_share(fields["dips"]),
        stopped=_number(fields["stopped"], 0.0, 1.0),
        temperature=_number(fields["temperature"], 0.01, 100.0),
        ece=_number(fields["ece"], 0.0, 1.0),
        calibrated_ece=_number(fields["calibrated_ece"], 0.0, 1.0),
        nats=_number(fields["nats"], 0.0, 1e6),
        calibrated_nats=_number(fields["calibrated_nats"], 0.0, 1e6),
        judged_tokens=_whole(fields["judged_tokens"], 1, 2**40),
        bins=tuple(_bin(one) for one in bins),
        p_percentiles=p_percentiles,
    )


def _bin(record: object) -> ReliabilityBin:
    fields = _fields(record, ReliabilityBin)
    return ReliabilityBin(
        _number(fields["confidence"], 0.0, 1.0),
        _number(fields["accuracy"], 0.0, 1.0),
        _whole(fields["tokens"], 1, 2**40),
    )


def _fields(record: object, kind: type) -> dict[str, object]:
    """A record with exactly the fields of a dataclass."""
    if not isinstance(record, dict):
        raise TypeError(kind.__name__)
    if set(record) != {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(kind.__name__)
    return record


def _by_share(record: object) -> dict[str, float]:
    """Thresholds at SHARES, which rise with the share."""
    names = [f"{share:g}" for share in SHARES]
    if not isinstance(record, dict) or set(record) != set(names):
        raise ValueError("shares")
    found = {name: _number(record[name], NEVER, 0.0) for name in names}
    if list(found.values()) != sorted(found.values()):
        raise ValueError("shares")
    return found


def _whole(value: object, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(repr(value))
    return value


def _number(value: object, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(repr(value))
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise ValueError(repr(value))
    return float(value)
