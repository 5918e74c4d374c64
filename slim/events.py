"""What the engine reports: frozen records that `train` and `generate` yield and every shell reads.

Each event becomes one JSON line with `as_record`: its snake-case name under "event", then its fields. `from_record`
makes the event of such a line again, and of nothing else. A field that came later has a default, which stands for it in
the lines from before.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the most probable tokens at a position, with its model probability."""

    token_id: int
    text: str
    p: float


@dataclass(frozen=True, slots=True)
class TokenGenerated:
    """One token was drawn. `p` and `logprob` are the model's at temperature 1; `p_sampled` is the sampler's."""

    index: int  # 0 for the first generated token
    token_id: int
    text: str  # newly complete characters; empty while bytes are held back
    logprob: float
    p: float
    p_sampled: float  # of a text that was scored, not drawn: p
    entropy: float  # of the model's distribution, divided by ln V
    rank: int  # 0: the most probable token was drawn
    margin: float  # p of the most probable token minus p of the second
    sample: int = -1  # which of several texts this token belongs to; -1: there is only one
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateFinished:
    """A generation ended. `text` is everything generated, after trimming by a stop rule."""

    finish_reason: (
        str  # eos | stop_string | length | context | low_confidence | repetition | interrupted
    )
    text: str
    tokens: int
    prompt_tokens: int
    tokens_per_second: float
    typical_p: float  # exp(mean log p) of the generated tokens; 0 when there are none
    perplexity: float
    seed: int
    kept_characters: int  # how much of the streamed text a stop rule left standing
    own_share: float | None = None  # low_confidence: the share of the model's own texts that get as unsure, if known
    sample: int = -1  # which of several texts this is; -1: there is only one


@dataclass(frozen=True, slots=True)
class TextScored:
    """All tokens of a given text were told."""

    tokens: int
    bytes: int
    typical_p: float  # exp(mean log p)
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage that takes more than a second: `done` of `total` units (bytes, kernels, batches)."""

    stage: str  # "compiling kernels" | "reading text" | "building vocabulary" | "encoding" | "timing" ...
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person should know, in one sentence; level is info or warning."""

    text: str
    level: str = "info"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Training is about to begin, fresh or resumed at `step`."""

    step: int
    total_steps: int
    tokens_per_step: int
    n_parameters: int
    train_tokens: int
    validation_tokens: int
    bytes_per_token: float
    threads: int
    memory_bytes: int  # estimated peak
    resumed: bool


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One optimizer update. `step` counts from 1; `loss` is nats per token of this update's batch."""

    step: int
    loss: float
    smoothed_loss: float
    grad_norm: float
    learning_rate: float
    tokens_seen: int
    epoch: float
    tokens_per_second: float
    elapsed_seconds: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class EvalFinished:
    """Validation after `step` updates."""

    step: int
    loss: float
    bits_per_byte: float
    best: bool
    elapsed_seconds: float


@dataclass(frozen=True, slots=True)
class SampleStarted:
    """Sample number `sample` begins with `prompt`; its TokenGenerated events carry the same number."""

    step: int
    sample: int
    prompt: str


@dataclass(frozen=True, slots=True)
class SampleFinished:
    """A sample is whole: `text` continues `prompt`, which ends with "Assistant: " where it is an answer.

    `shades` are the characters and the p, in three digits, of each token that `text` begins with: of all of them, if they
    are not more than MOST_SHADES. Empty where nobody wrote them down.
    """

    step: int
    sample: int
    prompt: str
    text: str
    typical_p: float
    shades: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A file was written with the weights after `step`: kind is last (with optimizer state), best, or out (the result)."""

    step: int
    path: str
    kind: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """An update was not applied because its loss or gradient was not finite."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrainFinished:
    """Training ended. reason: finished | early_stop | interrupted."""

    reason: str
    step: int
    best_loss: float | None
    best_bits_per_byte: float | None
    best_step: int | None
    elapsed_seconds: float


Event = (
    TokenGenerated
    | GenerateFinished
    | TextScored
    | Progress
    | Note
    | RunStarted
    | StepFinished
    | EvalFinished
    | SampleStarted
    | SampleFinished
    | CheckpointSaved
    | StepSkipped
    | TrainFinished
)


LARGEST_WHOLE = 2**63
LONGEST_LIST = 1_000  # of alternatives
MOST_SHADES = 1_000  # of a sample: the rest of its text has none


def as_record(event: Event) -> dict[str, object]:
    """The event as a JSON object: {"event": "step_finished", ...fields}."""
    return {"event": _name(type(event)), **dataclasses.asdict(event)}


def from_record(record: object) -> Event | None:
    """The event of a JSON object that `as_record` made, None for anything else.

    JSON has no word for a number that is not finite: null is NaN where the field must be a number.
    """
    if not isinstance(record, Mapping):
        return None
    name = record.get("event")
    found = _EVENTS.get(name) if isinstance(name, str) else None
    if found is None:
        return None
    kind, fields = found
    present = {name: of for name, of in fields.items() if name in record or name not in _OPTIONAL[kind]}
    if len(record) != len(present) + 1:
        return None
    values = _values(present, record)
    return None if values is None else kind(**values)


def _name(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


_EVENTS: dict[str, tuple[type, dict[str, str]]] = {
    _name(kind): (kind, {field.name: str(field.type) for field in dataclasses.fields(kind)})
    for kind in get_args(Event)
}
_OPTIONAL: dict[type, frozenset[str]] = {
    kind: frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    )
    for kind in get_args(Event)
}
_ALTERNATIVE = {field.name: str(field.type) for field in dataclasses.fields(Alternative)}
_NO_VALUE = object()


def _values(fields: Mapping[str, str], record: Mapping[str, object]) -> dict[str, object] | None:
    """Every field's value of its type, or None when one of them has none."""
    values = {}
    for field, kind in fields.items():
        value = _value(kind, record.get(field, _NO_VALUE))
        if value is _NO_VALUE:
            return None
        values[field] = value
    return values


def _value(kind: str, value: object) -> object:
    """A JSON value as one of a field's type, or _NO_VALUE."""
    if kind == "str":
        return value if isinstance(value, str) else _NO_VALUE
    if kind == "bool":
        return value if isinstance(value, bool) else _NO_VALUE
    if kind.startswith("tuple[tuple"):
        return _shades(value)
    if kind.startswith("tuple"):
        return _alternatives(value)
    if value is None:
        return None if kind.endswith("None") else math.nan if kind == "float" else _NO_VALUE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NO_VALUE
    if isinstance(value, int) and not -LARGEST_WHOLE <= value < LARGEST_WHOLE:
        return _NO_VALUE
    if kind.startswith("int"):
        return value if isinstance(value, int) else _NO_VALUE
    return float(value)


def _alternatives(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) > LONGEST_LIST:
        return _NO_VALUE
    found = []
    for item in value:
        if not isinstance(item, Mapping) or len(item) != len(_ALTERNATIVE):
            return _NO_VALUE
        values = _values(_ALTERNATIVE, item)
        if values is None:
            return _NO_VALUE
        found.append(Alternative(**values))  # type: ignore[arg-type]
    return tuple(found)


def _shades(value: object) -> object:
    """Pairs of a length and a p, or _NO_VALUE: what is shown is computed with them."""
    if not isinstance(value, list | tuple) or len(value) > MOST_SHADES:
        return _NO_VALUE
    found = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return _NO_VALUE
        length, p = _value("int", pair[0]), _value("float", pair[1])
        if not isinstance(length, int) or length < 0 or not isinstance(p, float) or not 0 <= p <= 1:
            return _NO_VALUE
        found.append((length, p))
    return tuple(found)
