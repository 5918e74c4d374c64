"""SVG written by hand: points with intervals, and lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

INK, GREY, LINES = "#24445c", "#8a949c", ("#3b6e8f", "#b0803a", "#7a7a7a", "#5b8f5b")


def _frame(width: int, height: int, title: str, body: Iterator[str]) -> str:
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">\n<rect width="{width}" height="{height}" fill="white"/>\n'
        f'<text x="12" y="20" font-size="14">{title}</text>\n{lines}\n</svg>\n'
    )


def intervals(
    path: Path, title: str, rows: Sequence[tuple[str, float, float, float]], unit: str
) -> None:
    """A row each: name, value, and the interval around it."""
    low, high = min(0.0, *(row[2] for row in rows)), max(0.0, *(row[3] for row in rows))
    left, width = 190, 430

    def x(value: float) -> float:
        return left + width * (value - low) / (high - low)

    def body() -> Iterator[str]:
        bottom = 40 + 24 * len(rows)
        yield f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="34" y2="{bottom}" stroke="{GREY}" stroke-dasharray="3 3"/>'
        for i, (name, value, first, last) in enumerate(rows):
            y = 50 + 24 * i
            yield f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{name}</text>'
            yield f'<line x1="{x(first):.1f}" x2="{x(last):.1f}" y1="{y}" y2="{y}" stroke="{LINES[0]}" stroke-width="2"/>'
            yield f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="{INK}"/>'
            yield f'<text x="{left + width + 14}" y="{y + 4}">{value:+.3f}</text>'
        yield f'<text x="{left}" y="{bottom + 20}" fill="{GREY}">{unit}; the dashed line is 0</text>'

    path.write_text(_frame(720, 76 + 24 * len(rows), title, body()), encoding="utf-8")


def round_numbers(low: float, high: float) -> list[float]:
    """Four to ten of them that lie evenly between low and high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    while (high - low) / step > 10:
        step *= 2.5 if (high - low) / step < 25 else 2
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]


def curves(
    path: Path,
    title: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    axes: tuple[str, str],
    diagonal: bool = False,
) -> None:
    """Lines through points (x, y)."""
    xs = [x for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    spans = (min(0.0, *xs), max(xs)), (min(0.0, *ys), max(0.0, *ys))

    def place(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = spans
        return 70 + 420 * (x - x0) / (x1 - x0), 300 - 250 * (y - y0) / (y1 - y0)

    def body() -> Iterator[str]:
        yield f'<path d="M70 50V300H490" fill="none" stroke="{GREY}"/>'
        for axis, span in enumerate(spans):
            for value in round_numbers(*span):
                px, py = place(value, spans[1][0]) if axis == 0 else place(spans[0][0], value)
                where = (px, py + 16, "middle") if axis == 0 else (px - 6, py + 4, "end")
                yield (
                    f'<text x="{where[0]:.1f}" y="{where[1]:.1f}" text-anchor="{where[2]}" fill="{GREY}">{value:g}</text>'
                )
        yield f'<text x="280" y="336" text-anchor="middle">{axes[0]}</text>'
        yield f'<text x="70" y="42">{axes[1]}</text>'
        if diagonal:
            (a, b), (c, d) = place(0, 0), place(1, 1)
            yield f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{GREY}" stroke-dasharray="3 3"/>'
        for i, (name, points) in enumerate(series):
            marks = [place(x, y) for x, y in points]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
            yield f'<polyline points="{line}" fill="none" stroke="{LINES[i]}" stroke-width="2"/>'
            yield from (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINES[i]}"/>' for x, y in marks
            )
            yield f'<rect x="510" y="{58 + 22 * i}" width="12" height="4" fill="{LINES[i]}"/>'
            yield f'<text x="528" y="{64 + 22 * i}">{name}</text>'

    path.write_text(_frame(720, 350, title, body()), encoding="utf-8")
