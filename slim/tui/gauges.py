"""Four numbers of a run and their past, two lines high: learning rate, gradient norm, speed, memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget

from slim.operating_system import peak_memory_bytes
from slim.run_state import ASCII_BLOCKS, BLOCKS, Curve, sparkline
from slim.tui.run_view import RunView
from slim.wording import mega

NAMES = (("rate", "lr"), ("norm", "gradient"), ("speed", "tokens/s"), ("memory", "memory"))


class Gauge(Widget):
    """A name with its value, and the past of that value below."""

    DEFAULT_CSS = """
    Gauge { width: 1fr; height: 2; padding: 0 1; color: $foreground; }
    """

    def __init__(self, label: str, id: str, ascii_only: bool) -> None:
        super().__init__(id=id)
        self._label = label
        self._blocks = ASCII_BLOCKS if ascii_only else BLOCKS
        self._value = "-"
        self._curve = Curve()

    def show(self, value: str, curve: Curve) -> None:
        """Draw a value and its past."""
        self._value, self._curve = value, curve
        self.refresh()

    def render(self) -> Content:
        """Two lines."""
        width = max(self.size.width, 1)
        past = sparkline(self._curve.columns(width), self._blocks)
        return Content.assemble(
            (f"{self._label} ", "$secondary"), (f"{self._value}\n", "bold"), (past, "$primary 80%")
        )


class Gauges(Horizontal):
    """All four."""

    DEFAULT_CSS = """
    Gauges { height: 2; }
    """

    def __init__(self, ascii_only: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self._ascii = ascii_only

    def compose(self) -> ComposeResult:
        """A gauge for each number."""
        for name, label in NAMES:
            yield Gauge(label, name, self._ascii)

    def show(self, view: RunView, memory_bytes: int | None) -> None:
        """The latest numbers of a run; `memory_bytes` of the process that trains it."""
        last = view.state.last
        values = {
            "rate": ("-" if last is None else f"{last.learning_rate:.2e}".replace("e-0", "e-"), view.rates),
            "norm": ("-" if last is None else f"{last.grad_norm:.2f}", view.norms),
            "speed": ("-" if last is None else f"{last.tokens_per_second:,.0f}", view.speeds),
            "memory": (mega(memory_bytes) if memory_bytes else "-", view.memory),
        }  # fmt: skip
        for name, (value, curve) in values.items():
            self.query_one(f"#{name}", Gauge).show(value, curve)


def memory_of(process: int | None) -> int | None:
    """Bytes that a process holds just now: this one's for None. None where nobody tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process or 'self'}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory_bytes() if process is None else None
