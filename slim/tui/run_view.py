"""Everything that the monitor shows of a run, in flat memory: fed with events, read by widgets that redraw at leisure.

Widgets compare `version` numbers with those they drew last; nothing is announced, so a fast run costs no more to show.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

from slim.errors import SlimError
from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Note,
    RunStarted,
    SampleFinished,
    SampleStarted,
    StepFinished,
    StepSkipped,
    TokenGenerated,
    TrainFinished,
)
from slim.run_state import Curve, RunState
from slim.tui.loss_series import LossSeries
from slim.wording import duration, evaluation_line, introduction, mega

LOG_LINES = 500
VALIDATIONS = 1024  # kept; every other one goes beyond that
SAMPLES = 48  # kept of those that are whole; the nearest to its neighbours goes first
SAMPLE_TOKENS = 2_000  # of one sample, kept with their confidence
LEAST_P = 1e-300  # of a token, for its logarithm
RATE_CHANGE = 1e-9  # of the learning rate, relative, that counts as one


@dataclass(slots=True)
class Sample:
    """A text that the run wrote, with its tokens as far as they are known; text without a token stands behind them."""

    step: int
    number: int
    prompt: str
    text: str = ""
    typical_p: float | None = None  # None: it is still being written
    tokens: list[TokenGenerated] = field(default_factory=list)

    @property
    def rest(self) -> str:
        """What of the whole text has no token: nothing is known of how expected it was."""
        return self.text[sum(len(token.text) for token in self.tokens) :]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One thing that happened: level is info, good, warning or error."""

    when: str
    text: str
    level: str


@dataclass(slots=True)
class Phase:
    """A stretch of the run in which the learning rate did one thing: warm-up, constant or decay."""

    kind: str
    first: int
    last: int


class RunView:
    """What is known of one run."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.version = 0  # of the numbers
        self.log_version = 0
        self.sample_version = 0
        self.state = RunState()
        self.loss = LossSeries()
        self.smoothed = LossSeries()
        self.validations: list[tuple[int, float]] = []
        self.phases: list[Phase] = []
        self.rates, self.norms, self.speeds, self.memory = Curve(), Curve(), Curve(), Curve()
        self.log: deque[LogLine] = deque(maxlen=LOG_LINES)
        self.samples: list[Sample] = []  # the whole ones, oldest first
        self.writing: Sample | None = None
        self.problem: str | None = None
        self._rate: float | None = None

    def add_all(self, events: Iterable[Event]) -> None:
        """Take in events in their order."""
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take in one event."""
        self.version += 1
        self.state.add(event)
        match event:
            case StepFinished():
                self._add_step(event)
            case EvalFinished():
                self._add_validation(event)
            case SampleStarted():
                self.writing = Sample(event.step, event.sample, event.prompt)
                self.sample_version += 1
            case TokenGenerated() if event.sample >= 0:
                if self.writing is not None and len(self.writing.tokens) < SAMPLE_TOKENS:
                    self.writing.tokens.append(event)
                    self.writing.text += event.text
                    self.sample_version += 1
            case SampleFinished():
                self._add_sample(event)
            case RunStarted():
                for line in introduction(event):
                    self._log(line)
            case Note():
                self._log(event.text, event.level)
            case StepSkipped():
                self._log(f"step {event.step:,} was skipped: {event.reason}", "warning")
            case CheckpointSaved():
                what = SAVED.get(event.kind, PurePath(event.path).name)
                self._log(f"saved {what} at step {event.step:,}, {mega(event.size_bytes)}")
            case TrainFinished():
                self._log(ENDS.get(event.reason, event.reason), "good")

    def fail(self, problem: BaseException) -> None:
        """The run ended with an error."""
        text = " ".join(str(problem).split()) or type(problem).__name__
        if not isinstance(problem, SlimError):
            text = f"{type(problem).__name__}: {text}"
        self.problem = text
        self.version += 1
        self._log(text, "error")

    @property
    def last_step(self) -> int:
        """The last step that anything is known of."""
        return max(self.loss.last_step, self.state.step)

    @property
    def total_steps(self) -> int:
        return self.state.started.total_steps if self.state.started is not None else 0

    def _add_step(self, event: StepFinished) -> None:
        self.loss.add(event.step, event.loss)
        self.smoothed.add(event.step, event.smoothed_loss)
        self.rates.add(event.learning_rate)
        self.norms.add(event.grad_norm)
        self.speeds.add(event.tokens_per_second)
        before, self._rate = self._rate, event.learning_rate
        if before is None:
            return
        change = event.learning_rate - before
        kind = "constant"
        if abs(change) > RATE_CHANGE * max(abs(before), 1e-12):
            kind = "warm-up" if change > 0 else "decay"
        if self.phases and (self.phases[-1].kind == kind or event.step <= self.phases[-1].last):
            self.phases[-1].last = event.step
        else:
            first = self.phases[-1].last if self.phases else event.step - 1
            self.phases.append(Phase(kind, first, event.step))
            del self.phases[:-16]

    def _add_validation(self, event: EvalFinished) -> None:
        while self.validations and self.validations[-1][0] >= event.step:
            self.validations.pop()
        self.validations.append((event.step, event.loss))
        if len(self.validations) > VALIDATIONS:
            del self.validations[1:-1:2]
        self._log(evaluation_line(event), "good" if event.best else "info")

    def _add_sample(self, event: SampleFinished) -> None:
        sample = Sample(event.step, event.sample, event.prompt, event.text, event.typical_p)
        begun = self.writing
        if begun is not None and (begun.step, begun.number) == (event.step, event.sample):
            sample.tokens = begun.tokens
        else:
            sample.tokens = remembered_tokens(event)
        self.writing = None
        self.samples.append(sample)
        if len(self.samples) > SAMPLES:  # the first and the latest stay, those between thin out
            steps = [one.step for one in self.samples]
            gaps = [steps[i + 1] - steps[i - 1] for i in range(1, len(steps) - 1)]
            self.samples.pop(1 + gaps.index(min(gaps)))
        self.sample_version += 1

    def _log(self, text: str, level: str = "info") -> None:
        last = self.state.last
        when = duration(last.elapsed_seconds) if last is not None else "0:00"
        self.log.append(LogLine(when, text, level))
        self.log_version += 1


def remembered_tokens(event: SampleFinished) -> list[TokenGenerated]:
    """The tokens of a sample that was read from a journal: their text and p, and nothing of what it does not tell."""
    tokens, at = [], 0
    for index, (length, p) in enumerate(event.shades):
        text = event.text[at : at + length]
        logprob = math.log(max(p, LEAST_P))
        tokens.append(
            TokenGenerated(index, -1, text, logprob, p, math.nan, math.nan, -1, math.nan, event.sample)
        )
        at += length
    return tokens


SAVED = {"last": "all that resuming needs", "best": "the best model so far"}  # by the kind of file
ENDS = {
    "finished": "done: the run came to its end",
    "early_stop": "done early: the held-out text gained no more",
    "interrupted": "stopped, and saved",
}
