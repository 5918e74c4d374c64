"""Reliability drawn with characters: how sure the model was, and how often it was right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slim.calibration import ReliabilityBin

WIDTH = 50
PARTS = " ▏▎▍▌▋▊▉"


def reliability_diagram(bins: Sequence[ReliabilityBin], ascii_only: bool = False) -> Iterator[str]:
    """A line for each bin: its confidence, its accuracy as a bar, and a mark where the bar should end."""
    mark = "|" if ascii_only else "│"
    yield f"  sure  right  {'0':<{WIDTH // 2 - 1}}.5{'1':>{WIDTH // 2}}"
    for one in bins:
        bar = _bar(one.accuracy, ascii_only).ljust(WIDTH)
        place = min(int(one.confidence * WIDTH), WIDTH - 1)
        line = bar[:place] + mark + bar[place + 1 :]
        yield f"  {one.confidence:.2f}  {one.accuracy:.2f}   {line.rstrip()}"
    yield f"{'':15}the bar: how often its first choice came; {mark}: how sure it was of it"


def _bar(share: float, ascii_only: bool) -> str:
    if ascii_only:
        return "#" * round(share * WIDTH)
    eighths = round(share * WIDTH * 8)
    return "█" * (eighths // 8) + (PARTS[eighths % 8] if eighths % 8 else "")
