"""What the events of a run add up to: the numbers that any display of a training shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Progress,
    RunStarted,
    SampleFinished,
    SampleStarted,
    StepFinished,
    TokenGenerated,
    TrainFinished,
)

CURVE_POINTS = 512  # kept of a loss curve; older points are averaged in pairs beyond that
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"


class Curve:
    """A series of any length in bounded memory: neighbouring points are averaged as it grows."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._stride = 1
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """Append one point."""
        self._sum += value
        self._count += 1
        if self._count < self._stride:
            return
        self._means.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._means) == CURVE_POINTS:
            self._means = [sum(self._means[i : i + 2]) / 2 for i in range(0, CURVE_POINTS, 2)]
            self._stride *= 2

    def columns(self, width: int) -> list[float]:
        """At most `width` points that stand for the whole series."""
        n = len(self._means)
        if width < 1:
            return []
        if n <= width:
            return list(self._means)
        edges = [i * n // width for i in range(width + 1)]
        return [sum(self._means[a:b]) / (b - a) for a, b in pairwise(edges)]


def sparkline(values: Sequence[float], blocks: str = BLOCKS) -> str:
    """A character per value, from the lowest to the highest of them, on a logarithmic scale.

    A loss falls by half in its first minute and by a tenth afterwards: both are to be seen.
    """
    if not values:
        return ""
    values = [math.log(max(value, 1e-9)) if math.isfinite(value) else 99.0 for value in values]
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in values)


class RunState:
    """The latest of everything that a run has reported."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.stage: Progress | None = None
        self.last: StepFinished | None = None
        self.losses = Curve()
        self.first_loss: float | None = None
        self.evaluation: EvalFinished | None = None
        self.best: EvalFinished | None = None
        self.validations = Curve()
        self.saved: CheckpointSaved | None = None
        self.finished: TrainFinished | None = None
        self.sample_step = 0
        self.sample_prompt: str | None = None
        self.sample_text = ""

    def add(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case RunStarted():
                self.started, self.stage = event, None
            case Progress():
                self.stage = event if event.done < event.total else None
            case StepFinished():
                self.last, self.stage = event, None
                self.losses.add(event.smoothed_loss)
                if self.first_loss is None:
                    self.first_loss = event.loss
            case EvalFinished():
                self.evaluation = event
                self.validations.add(event.loss)
                if event.best:
                    self.best = event
            case SampleStarted():
                self.sample_step, self.sample_prompt = event.step, event.prompt
                self.sample_text = ""
            case TokenGenerated() if event.sample >= 0:
                self.sample_text += event.text
            case SampleFinished():
                self.sample_step, self.sample_prompt = event.step, event.prompt
                self.sample_text = event.text
            case CheckpointSaved():
                self.saved = event
            case TrainFinished():
                self.finished = event

    @property
    def step(self) -> int:
        """Updates so far, those before a resume too."""
        if self.last is not None:
            return self.last.step
        return self.started.step if self.started is not None else 0
