"""Four numbers of a run and their past, two lines high: learning rate, gradient norm, speed, memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from textual.content import Content
from textual.widget import Widget

from slim.operating_system import peak_memory_bytes
from slim.run_state import ASCII_BLOCKS, BLOCKS, Curve, sparkline
from slim.tui.run_view import RunView
from slim.wording import mega

NAMES = ("lr", "gradient", "tokens/s", "memory")
SHORT_NAMES = ("lr", "grad", "tok/s", "memory")
LEAST_FOR_NAMES = 16  # cells of a gauge, below which a value would lose digits beside its whole name
GAP = 2  # cells between two of them


class Gauges(Widget):
    """All four beside each other: names with their values, and the past of each value below."""

    DEFAULT_CSS = """
    Gauges { height: 2; color: $foreground; }
    """

    def __init__(self, ascii_only: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self._blocks = ASCII_BLOCKS if ascii_only else BLOCKS
        self._gauges = [(name, "-", Curve()) for name in NAMES]

    def show(self, view: RunView, memory_bytes: int | None) -> None:
        """The latest numbers of a run; `memory_bytes` of the process that trains it."""
        last = view.state.last
        values = ["-"] * 3
        if last is not None:
            rate = f"{last.learning_rate:.2e}".replace("e-0", "e-")
            values = [rate, f"{last.grad_norm:.2f}", f"{last.tokens_per_second:,.0f}"]
        values.append(mega(memory_bytes) if memory_bytes else "-")
        curves = (view.rates, view.norms, view.speeds, view.memory)
        self._gauges = list(zip(NAMES, values, curves, strict=True))
        self.refresh()

    def render(self) -> Content:
        """Two lines, a quarter of the width for each number. One widget: four cost four times as much to draw."""
        width = self.size.width // len(NAMES)
        room = max(width - GAP, 1)
        now: list[str | tuple[str, str]] = []
        past: list[str | tuple[str, str]] = []
        names = NAMES if room >= LEAST_FOR_NAMES else SHORT_NAMES
        for name, (_, value, curve) in zip(names, self._gauges, strict=True):
            shown = value[: max(room - len(name) - 1, 0)]
            blank = " " * (width - len(name) - 1 - len(shown) - 1)
            now += [(f" {name} ", "$secondary"), (shown, "bold"), blank]
            line = sparkline(curve.columns(room), self._blocks)
            past += [(f" {line.ljust(width - 1)}", "$primary 80%")]
        return Content.assemble(*now, "\n", *past)


def memory_of(process: int | None) -> int | None:
    """Bytes that a process holds just now: this one's for None. None where nobody tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process or 'self'}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory_bytes() if process is None else None
