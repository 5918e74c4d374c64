"""Loss curves as a picture: an SVG of lines and words, for one run or for several beside each other.

Bits per byte on a logarithmic axis over tokens seen, so that runs of different vocabularies and batches compare. Thin
lines are training, thick ones with a dot per evaluation are held-out text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slim.safe_text import safe_line

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 56
LEGEND_LINE = 20
MOST_POINTS = 600  # of a line
MOST_RUNS = 24
# Okabe and Ito's colours, told apart by all kinds of eyes; what comes after the seventh run is dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_COARSE = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a curve: tokens seen, bits per byte."""

    tokens: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: its name, and both of its curves."""

    name: str
    training: tuple[Point, ...]
    validation: tuple[Point, ...]


def loss_svg(curves: Sequence[Curve], title: str) -> str:
    """The picture as a file's text. ValueError for more than MOST_RUNS curves; without any points it says so."""
    if len(curves) > MOST_RUNS:
        raise ValueError(
            f"at most {MOST_RUNS} runs fit into a picture, but there are {len(curves)}"
        )
    height = HEIGHT + 8 + LEGEND_LINE * len(curves)
    points = [
        point
        for curve in curves
        for point in (*curve.training, *curve.validation)
        if point.bits_per_byte > 0.0
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{_text(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _words(LEFT, 30, title, size=17, weight=600),
    ]
    if points:
        axes = _Axes(points)
        lines += axes.drawn()
        for number, curve in enumerate(curves):
            lines += _drawn(curve, number, axes)
    else:
        lines.append(_words(WIDTH / 2, HEIGHT / 2, "no step has been made yet", anchor="middle"))
    for number, curve in enumerate(curves):
        lines += _legend(curve, number)
    return "\n".join([*lines, "</svg>"]) + "\n"


class _Axes:
    """Tokens and bits per byte to places in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._right = max(point.tokens for point in points) or 1.0
        values = [point.bits_per_byte for point in points]
        low, high = math.log(min(values)), math.log(max(values))
        margin = max(0.04 * (high - low), 0.01)
        self._low, self._high = low - margin, high + margin

    def x(self, tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * tokens / self._right

    def y(self, value: float) -> float:
        share = (math.log(value) - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def drawn(self) -> Iterator[str]:
        """Grid lines with their numbers, and what the axes mean."""
        for value in _heights(math.exp(self._low), math.exp(self._high)):
            y = self.y(value)
            yield _line(LEFT, y, WIDTH - RIGHT, y, "#e4e4e4")
            yield _words(LEFT - 8, y + 4, f"{value:g}", anchor="end", colour="#555555")
        unit, letter = _unit(self._right)
        step = _step(self._right / unit)
        for number in range(math.floor(self._right / unit / step + 1e-9) + 1):
            x = self.x(number * step * unit)
            yield _line(x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 5, "#888888")
            label = f"{number * step:g}{letter if number else ''}"
            yield _words(x, HEIGHT - BOTTOM + 20, label, anchor="middle", colour="#555555")
        yield _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#888888")
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield _words(middle, HEIGHT - 14, "tokens seen", anchor="middle", colour="#555555")
        yield _words(LEFT, TOP - 8, "bits per byte", colour="#555555")
        meaning = "thin: training, thick: held-out text"
        yield _words(WIDTH - RIGHT, TOP - 8, meaning, anchor="end", colour="#555555")


def _drawn(curve: Curve, number: int, axes: _Axes) -> Iterator[str]:
    """The lines of one run."""
    colour, dashes = _look(number)
    for points, width, opacity in ((curve.training, 1.2, 0.5), (curve.validation, 2.2, 1.0)):
        kept = [point for point in _thinned(points) if point.bits_per_byte > 0.0]
        places = " ".join(
            f"{axes.x(point.tokens):.1f},{axes.y(point.bits_per_byte):.1f}" for point in kept
        )
        if places:
            yield (
                f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" '
                f'stroke-opacity="{opacity}" stroke-linejoin="round"{dashes}/>'
            )
    if len(curve.validation) <= MOST_POINTS:
        for point in curve.validation:
            if point.bits_per_byte > 0.0:
                x, y = axes.x(point.tokens), axes.y(point.bits_per_byte)
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'


def _legend(curve: Curve, number: int) -> Iterator[str]:
    """A line below the picture: what the colour stands for, and the best of it."""
    colour, dashes = _look(number)
    y = HEIGHT + 8 + LEGEND_LINE * number
    yield (
        f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 28}" y2="{y}" stroke="{colour}" '
        f'stroke-width="2.2"{dashes}/>'
    )
    values = [point.bits_per_byte for point in curve.validation]
    best = f", {min(values):.3f} bits/byte on held-out text" if values else ""
    yield _words(LEFT + 38, y + 4, f"{curve.name}{best}")


def _look(number: int) -> tuple[str, str]:
    """The colour and the dashes of a run."""
    dashes = DASHES[number // len(COLOURS)]
    return COLOURS[number % len(COLOURS)], f' stroke-dasharray="{dashes}"' if dashes else ""


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS, each the mean of its neighbours; the first and the last as they are."""
    if len(points) <= MOST_POINTS:
        return list(points)
    inner, count = points[1:-1], MOST_POINTS - 2
    edges = [i * len(inner) // count for i in range(count + 1)]
    means = []
    for start, stop in pairwise(edges):
        part = inner[start:stop]
        means.append(
            Point(
                sum(point.tokens for point in part) / len(part),
                sum(point.bits_per_byte for point in part) / len(part),
            )
        )
    return [points[0], *means, points[-1]]


def _heights(low: float, high: float) -> list[float]:
    """Round numbers between two, about ten of them at most."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    steps = _STEPS if high / low < 8.0 else _COARSE
    found = [float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps]
    found = [value for value in found if low <= value <= high]
    if len(found) >= 3:
        return found
    step = _step(high - low)
    return [
        float(f"{number * step:.6g}")
        for number in range(math.ceil(low / step), math.floor(high / step) + 1)
        if number > 0
    ]


def _step(span: float) -> float:
    """A round distance that goes about five times into a span."""
    power = 10.0 ** math.floor(math.log10(span / 5.0))
    return next((power * f for f in (1.0, 2.0, 5.0) if span / (power * f) <= 7.0), power * 10.0)


def _unit(most: float) -> tuple[float, str]:
    return next(
        (
            (size, f" {letter}")
            for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
            if most >= size
        ),
        (1.0, ""),
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="1"/>'
    )


def _words(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = "#222222",
    size: int = 13,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}" font-weight="{weight}">{_text(text)}</text>'
    )


def _text(text: str) -> str:
    """A name from a file system, for XML."""
    return html.escape(safe_line(text))
