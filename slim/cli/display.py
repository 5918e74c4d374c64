"""How a training run is told: a live picture on a terminal, lines every few seconds elsewhere, or JSON.

Narration goes to stderr; `--json` writes the events to stdout, one object per line.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from slim.cli.lines import say
from slim.events import (
    EvalFinished,
    Event,
    Note,
    Progress,
    RunStarted,
    SampleFinished,
    StepFinished,
    StepSkipped,
    as_record,
)
from slim.run_state import RunState
from slim.wording import duration, evaluation_line, introduction, one_line, stage_line

SECONDS_BETWEEN_LINES = 5.0
STOPPING = "stopping: this step is finished and saved; Ctrl-C again leaves at once"
STOPPING_EARLY = "stopping before the first step; Ctrl-C again leaves at once"


class Display(Protocol):
    """What a training command talks to."""

    def show(self, event: Event) -> None:
        """Take in one event."""

    def say(self, text: str) -> None:
        """One line for the person, whatever else is on the screen."""

    def stopping(self, words: str) -> None:
        """The person asked for an end: say that it was heard."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


def choose_display(title: str, *, json_lines: bool, quiet: bool, verbose: bool) -> Display:
    """The display that fits where stderr goes and what was asked for."""
    if json_lines:
        return JsonDisplay(sys.stdout, quiet)
    if quiet:
        return QuietDisplay()
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    if verbose or dumb or not sys.stderr.isatty():
        return PlainDisplay(verbose)
    from slim.cli.live import LiveDisplay

    return LiveDisplay(title)


class SilentDisplay:
    """Says nothing: nobody is there any more."""

    def show(self, event: Event) -> None:
        """Take in one event."""

    def say(self, text: str) -> None:
        """Nothing is said."""

    def stopping(self, words: str) -> None:
        """Nothing is said."""

    def close(self) -> None:
        """Nothing to close."""


class QuietDisplay(SilentDisplay):
    """Warnings, and that a signal was heard."""

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Note) and event.level == "warning":
            self.write(f"slim: warning: {event.text}")
        elif isinstance(event, StepSkipped):
            self.write(f"slim: warning: step {event.step} was skipped: {event.reason}")

    def stopping(self, words: str) -> None:
        """Say that it was heard."""
        self.write(words)

    def write(self, line: str) -> None:
        """A line on stderr, safe for a terminal."""
        say(line)


class JsonDisplay(QuietDisplay):
    """Every event as a JSON object on stdout; what is said goes to stderr."""

    def __init__(self, stdout: TextIO, quiet: bool) -> None:
        self._stdout = stdout
        self._quiet = quiet

    def show(self, event: Event) -> None:
        """Write the event; a number that is not finite becomes null."""
        super().show(event)
        record = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in as_record(event).items()
        }
        self._stdout.write(json.dumps(record, allow_nan=False) + "\n")
        self._stdout.flush()

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self._quiet:
            self.write(text)


class PlainDisplay(QuietDisplay):
    """Lines for logs and pipes: one every few seconds, or for every step."""

    def __init__(
        self, every_step: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_step = every_step
        self._clock = clock
        self._last_line = -math.inf
        self._stage: str | None = None
        self._state = RunState()

    def show(self, event: Event) -> None:
        """Write what is due."""
        super().show(event)
        self._state.add(event)
        match event:
            case Note(level="info"):
                self.write(event.text)
            case RunStarted():
                for line in introduction(event):
                    self.write(line)
            case Progress():
                if event.stage != self._stage or self._due():
                    self._stage = event.stage
                    self._line(stage_line(event))
            case StepFinished():
                last = self._state.started is not None and (
                    event.step == self._state.started.total_steps
                )
                if self._every_step or last or self._due():
                    self._line(self._step_line(event))
            case EvalFinished():
                self.write(evaluation_line(event))
            case SampleFinished():
                text = one_line(event.prompt + event.text)
                self.write(f'sample after step {event.step}: "{text}"')

    def say(self, text: str) -> None:
        """A line on stderr."""
        self.write(text)

    def _due(self) -> bool:
        return self._clock() - self._last_line >= SECONDS_BETWEEN_LINES

    def _line(self, line: str) -> None:
        self._last_line = self._clock()
        self.write(line)

    def _step_line(self, event: StepFinished) -> str:
        total = f"/{self._state.started.total_steps}" if self._state.started is not None else ""
        return (
            f"step {event.step}{total}  loss {event.loss:.3f}  smoothed {event.smoothed_loss:.3f}  "
            f"{event.tokens_per_second:,.0f} tokens/s  lr {event.learning_rate:.2g}  "
            f"{duration(event.eta_seconds)} left"
        )
