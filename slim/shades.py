"""What the marks of confidence mean: five bins of p, a bar for a stretch of text, and both in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from slim.confidence import BINS

LEGEND = (
    "Shading shows how expected each word was to the model, not whether it is true: a name or the "
    "start of a sentence is faint because many words would fit; a whole faint line means that it "
    "is lost."
)
STOP_LEGEND = " It stops by itself when it has been less sure, for a while, than it usually is."

# Of a model's own tokens this share lies below each edge of its relative bins.
SHARES_BELOW = (0.60, 0.35, 0.20, 0.08)
ENOUGH_TOKENS = 50  # for relative bins: fewer say little about their lowest share
BLOCKS = "▁▂▃▄▅▆▇█"
DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class Bins:
    """The lower edges of the four upper bins of p, highest first, and whether they are one model's own."""

    edges: tuple[float, ...] = BINS
    relative: bool = False

    def of(self, p: float) -> int:
        """0 for the most expected fifth, 4 for what lies below every edge."""
        return sum(p < edge for edge in self.edges)

    @property
    def names(self) -> tuple[str, ...]:
        """Each bin in a few characters, from the upper to the lowest."""
        if self.relative:
            shares = (1.0, *SHARES_BELOW, 0.0)
            sizes = [above - below for above, below in pairwise(shares)]
            first, *others, last = (f"{size:.0%}" for size in sizes)
            return (f"top {first}", *others, f"last {last}")
        first, *others = (f"{edge:.2f}".removeprefix("0") for edge in self.edges)
        return (f"≥{first}", *others, "less")


def relative_bins(probabilities: Iterable[float]) -> Bins:
    """Bins that hold fixed shares of these tokens; the absolute ones where there are too few of them."""
    ordered = sorted(probabilities)
    if len(ordered) < ENOUGH_TOKENS:
        return Bins()
    return Bins(tuple(ordered[int(share * len(ordered))] for share in SHARES_BELOW), relative=True)


def gauge(p: float, ascii_only: bool = False) -> str:
    """One character for a probability: a bar, or a digit for tenths."""
    steps = DIGITS if ascii_only else BLOCKS
    return steps[min(int(p * len(steps)), len(steps) - 1)]


def percent(p: float) -> str:
    """A probability in two digits, 99 for certain."""
    return f"{min(int(100 * p), 99):02d}"
