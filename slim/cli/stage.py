"""What a command says while it works towards one result: notes, and on a terminal a line that is written over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from slim.cli.lines import say
from slim.events import Note, Progress
from slim.safe_text import safe_text
from slim.wording import duration, stage_line

T = TypeVar("T")
SECONDS_BEFORE = 1.0  # what is done by then needs no progress
SECONDS_BETWEEN = 0.2  # two drawings
CLEAR_LINE = "\r\x1b[K"


def show_stages(
    events: Iterable[T], quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[T]:
    """The events that are neither Progress nor Note. Those are told on stderr, unless `quiet`: then warnings only.

    Where stderr is no terminal, a stage that takes longer is named once.
    """
    line = _Line(clock)
    try:
        for event in events:
            if isinstance(event, Progress):
                if not quiet:
                    line.show(event)
                continue
            line.clear()
            if isinstance(event, Note):
                tell(event, quiet)
            else:
                yield event
    finally:
        line.clear()


def tell(note: Note, quiet: bool = False) -> None:
    """A note as a line on stderr."""
    warning = note.level == "warning"
    if warning or not quiet:
        say(f"slim: {'warning: ' if warning else ''}{note.text}")


class _Line:
    """The stage that is going on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._began = self._drawn = clock()
        self._stage, self._stage_began = "", self._began
        self._named = ""
        self._shown = False

    def show(self, event: Progress) -> None:
        now = self._clock()
        if event.stage != self._stage:
            self._stage, self._stage_began = event.stage, now
        if now - self._began < SECONDS_BEFORE or now - self._drawn < SECONDS_BETWEEN:
            return
        if not self._terminal:
            if self._named != event.stage:
                self._named = event.stage
                say(f"slim: {stage_line(event)}")
            return
        left = ""
        if 0 < event.done < event.total:
            seconds = (now - self._stage_began) * (event.total - event.done) / event.done
            left = f", {duration(seconds)} left"
        sys.stderr.write(f"{CLEAR_LINE}{safe_text(stage_line(event))}{left}")
        sys.stderr.flush()
        self._drawn, self._shown = now, True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
            self._shown = False
