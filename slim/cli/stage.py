"""Progress of a command that has one result: a line on stderr that is written over, where there is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from slim.cli.display import duration, stage_line
from slim.events import Note, Progress
from slim.safe_text import safe_text

T = TypeVar("T")
SECONDS_BEFORE = 1.0  # what is done by then needs no progress
SECONDS_BETWEEN = 0.2


def show_stages(events: Iterable[T]) -> Iterator[T]:
    """The events that are neither Progress nor Note; those are shown."""
    terminal = sys.stderr.isatty()
    began = drawn = time.monotonic()
    stage, stage_began, shown = "", began, False
    try:
        for event in events:
            if isinstance(event, Note):
                if shown:
                    sys.stderr.write("\r\x1b[K")
                level = "warning: " if event.level == "warning" else ""
                sys.stderr.write(f"slim: {level}{safe_text(event.text)}\n")
            elif isinstance(event, Progress):
                now = time.monotonic()
                if event.stage != stage:
                    stage, stage_began = event.stage, now
                if terminal and now - began > SECONDS_BEFORE and now - drawn > SECONDS_BETWEEN:
                    left = (now - stage_began) * (event.total - event.done) / max(event.done, 1)
                    sys.stderr.write(f"\r{stage_line(event)}, {duration(left)} left\x1b[K")
                    sys.stderr.flush()
                    drawn, shown = now, True
            else:
                yield event
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
