"""Ctrl-C and its relatives while training: the first asks for an orderly end, the second ends at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from slim.operating_system import STOP_SIGNALS

Handler = Callable[[int, FrameType | None], object] | int | None
SHOW_CURSOR = "\x1b[?25h"


class StopRequest:
    """A context in which signals set a flag; `requested` is what the engine asks between two steps.

    ends_program   a signal is the end of the program: until it is gone another one does not change its exit code
    """

    def __init__(
        self, on_first: Callable[[int], None] | None = None, *, ends_program: bool = False
    ) -> None:
        self.signal: int | None = None
        self._on_first = on_first
        self._ends_program = ends_program
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: SIGHUP is none of our business
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ends_program and self.signal is not None:
            # Python takes its handlers down long before the process is gone: what is ignored stays ignored.
            atexit.register(_ignore, tuple(self._before))
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether what is going on should come to an orderly end."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells say it; 1 without a signal."""
        return 1 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            leave(number)
        self.signal = number
        if self._on_first is not None:
            self._on_first(number)


def _ignore(numbers: Sequence[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def leave(number: int) -> NoReturn:
    """End the process now, as a signal does. Files are written atomically, so nothing is lost."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), f"{SHOW_CURSOR}\n".encode())
    os._exit(128 + number)
