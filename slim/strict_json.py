"""JSON from strangers: no duplicate names, no NaN or infinity, no number without end, a bounded count of values.

Python's reader accepts all of that; and JSON of 16 MB can unfold to 400 MB of small objects, so values are counted first.
"""

from __future__ import annotations

import json
import math
from typing import Any

_LONGEST_NUMBER = 64  # digits; transformers writes int(1e30) for a length without limit


def parse_json(text: str, most_values: int) -> object:
    """The value that `text` spells. ValueError says in a few words what is wrong with it."""
    if sum(map(text.count, ",[{")) > most_values:
        raise ValueError(f"it has more than {most_values:,} values")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_number,
            parse_float=_finite,
            parse_int=_short_int,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_record(text: str, most_characters: int, most_values: int) -> dict[str, Any]:
    """`parse_json` for what must be a record of a bounded length."""
    if len(text) > most_characters:
        raise ValueError(f"it has {len(text):,} characters, but at most {most_characters:,} are read")
    try:
        record = parse_json(text, most_values)
    except ValueError as problem:
        raise ValueError(f"it is not valid JSON: {problem}") from problem
    if not isinstance(record, dict):
        raise ValueError("it is not a record")
    return record


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name occurs twice")
    return record


def _finite(text: str) -> float:
    value = float(text[:_LONGEST_NUMBER])
    if len(text) > _LONGEST_NUMBER or not math.isfinite(value):
        _refuse_number(text)
    return value


def _short_int(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        _refuse_number(text)
    return int(text)


def _refuse_number(text: str) -> object:
    raise ValueError(f"{text[:40]} is not a number that is read")
