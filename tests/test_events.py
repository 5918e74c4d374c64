"""Events as JSON lines and back: the same event, and nothing from a line that no event made."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.events import (
    MOST_SHADES,
    Alternative,
    Event,
    SampleFinished,
    StepFinished,
    TokenGenerated,
    as_record,
    from_record,
)

SAMPLES = {
    "int": 3,
    "int | None": None,
    "float": 0.25,
    "float | None": None,
    "str": "text \x1b[31m \ud800",
    "bool": True,
    "tuple[tuple[int, float], ...]": ((3, 0.5), (0, 1.0)),
    "tuple[Alternative, ...]": (Alternative(1, "a", 0.5), Alternative(2, "\n", 0.25)),
}
KINDS = get_args(Event)
STEP = StepFinished(1, 2.0, 2.0, 1.0, 1e-3, 64, 0.1, 100.0, 1.0, 2.0)


def example(kind: type) -> Event:
    return kind(*(SAMPLES[str(field.type)] for field in dataclasses.fields(kind)))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_event_comes_back(kind: type) -> None:
    event = example(kind)
    assert from_record(json.loads(json.dumps(as_record(event)))) == event


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_field_that_is_missing_or_of_another_type_is_no_event(kind: type) -> None:
    record = as_record(example(kind))
    optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    for name in record:
        without = {key: value for key, value in record.items() if key != name}
        assert (from_record(without) is None) == (name not in optional)
        for wrong in ({}, ["x"], b"1", object()):
            assert from_record({**record, name: wrong}) is None
        assert from_record({**without, name + "_": 1}) is None
    assert from_record({**record, "more": 1}) is None


def test_null_is_a_number_that_is_not_finite() -> None:
    event = from_record({**as_record(STEP), "loss": None})
    assert isinstance(event, StepFinished) and math.isnan(event.loss)
    assert from_record({**as_record(STEP), "step": None}) is None


@pytest.mark.parametrize(
    "change",
    [{"step": 1.5}, {"step": True}, {"step": 2**63}, {"loss": "2"}, {"loss": True}, {"loss": 10**400}],
    ids=str,
)  # fmt: skip
def test_numbers_are_checked(change: dict[str, object]) -> None:
    assert from_record({**as_record(STEP), **change}) is None


def test_whole_numbers_are_numbers() -> None:
    event = from_record({**as_record(STEP), "loss": 2})
    assert isinstance(event, StepFinished) and isinstance(event.loss, float)


def test_alternatives_are_checked() -> None:
    record = json.loads(json.dumps(as_record(example(TokenGenerated))))
    for wrong in (
        [1],
        [{"token_id": 1}],
        [{"token_id": "1", "text": "a", "p": 1.0}],
        [None] * 2000,
    ):
        assert from_record({**record, "alternatives": wrong}) is None


def test_a_sample_from_before_there_were_shades_is_read() -> None:
    record = as_record(SampleFinished(3, 0, "a", " b", 0.5, ((2, 0.5),)))
    del record["shades"]
    assert from_record(record) == SampleFinished(3, 0, "a", " b", 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        [1], [[1]], [[1, 0.5, 0]], [["1", 0.5]], [[1.5, 0.5]], [[True, 0.5]], [[-1, 0.5]], [[1, -0.1]],
        [[1, 1.1]], [[1, None]], [[1, math.nan]], [{}], "ab", [[1, 0.5]] * (MOST_SHADES + 1),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_shades_are_checked(wrong: object) -> None:
    record = as_record(SampleFinished(3, 0, "a", " b", 0.5, ((2, 0.5),)))
    assert from_record({**record, "shades": wrong}) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_an_event_or_none(value: object) -> None:
    assert from_record(value) is None
    assert from_record({"event": value}) is None
