"""Curves as characters: dots of several layers in a grid, two by four to a cell (braille), one by two (blocks) or one.

A layer is a boolean array (dots down, dots across). Where layers share a cell the later one wins it, colour and dots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Braille numbers its dots down the left column, then the right, but for the lowest two.
_BRAILLE_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BLOCKS = np.array([ord(" "), ord("▀"), ord("▄"), ord("█")])


@dataclass(frozen=True, slots=True)
class Glyphs:
    """How many dots a cell has, and a name."""

    name: str
    across: int
    down: int


BRAILLE, BLOCKS, ASCII = Glyphs("braille", 2, 4), Glyphs("blocks", 1, 2), Glyphs("ascii", 1, 1)
GLYPHS = (BRAILLE, BLOCKS, ASCII)


def cells(
    layers: list[np.ndarray], glyphs: Glyphs, marks: str
) -> tuple[np.ndarray, np.ndarray]:
    """Code points and the number of the layer in each cell (-1: empty), both (rows, columns).

    marks: a character for each layer, where a cell is one dot
    """
    down, across = layers[0].shape
    rows, columns = down // glyphs.down, across // glyphs.across
    codes = np.full((rows, columns), ord(" "))
    owner = np.full((rows, columns), -1)
    for number, layer in enumerate(layers):
        parts = layer.reshape(rows, glyphs.down, columns, glyphs.across)
        if glyphs is BRAILLE:
            found = np.einsum("rdca,da->rc", parts.astype(np.int64), _BRAILLE_DOTS)
            drawn = 0x2800 + found
        elif glyphs is BLOCKS:
            found = parts[:, 0, :, 0] + 2 * parts[:, 1, :, 0].astype(np.int64)
            drawn = _BLOCKS[found]
        else:
            found = parts[:, 0, :, 0].astype(np.int64)
            drawn = np.full((rows, columns), ord(marks[number]))
        there = found > 0
        codes[there] = drawn[there]
        owner[there] = number
    return codes, owner


def band(low: np.ndarray, high: np.ndarray, down: int) -> np.ndarray:
    """Everything between two heights per column, counted in dots from the top; NaN: nothing."""
    rows = np.arange(down)[:, None]
    with np.errstate(invalid="ignore"):
        return (rows >= np.floor(high)) & (rows <= np.floor(low))


def line(height: np.ndarray, down: int) -> np.ndarray:
    """A height per column, joined with its neighbours half-way; a gap stays one."""
    if height.size == 0:
        return np.zeros((down, 0), bool)
    half_left = np.empty_like(height)
    half_left[0] = np.nan
    half_left[1:] = (height[1:] + height[:-1]) / 2
    half_right = np.append(half_left[1:], np.nan)
    low = np.fmax(height, np.fmax(half_left, half_right))
    high = np.fmin(height, np.fmin(half_left, half_right))
    gone = np.isnan(height)
    return band(np.where(gone, np.nan, low), np.where(gone, np.nan, high), down)


def heights(values: np.ndarray, low: float, high: float, down: int, log: bool) -> np.ndarray:
    """Values as dots from the top, those outside of the range at its edges, NaN where there are none."""
    if log:
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.log(np.maximum(values, 1e-12))
        low, high = math.log(max(low, 1e-12)), math.log(max(high, 1e-12))
    span = high - low if high > low else 1.0
    return np.clip((high - values) / span * (down - 1e-6), 0.0, down - 1e-6)


def ticks(low: float, high: float, count: int, log: bool) -> list[float]:
    """At most about `count` round numbers in a range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or count < 1:
        return []
    if log and low > 0 and high / low >= 1.5:
        for steps in (
            (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
            (1, 1.5, 2, 3, 5, 7),
            (1, 2, 3, 5),
            (1, 2, 5),
            (1, 3),
            (1,),
        ):
            first = math.floor(math.log10(low))
            found = [
                step * 10.0**power
                for power in range(first, math.ceil(math.log10(high)) + 1)
                for step in steps
                if low <= step * 10.0**power <= high
            ]
            if len(found) <= count:
                return found
        return found
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(
        (size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough), size * 10
    )
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
