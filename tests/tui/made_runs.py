"""Runs that were never made, as the events they would have reported and the folders they would have left."""

from __future__ import annotations

import json
import math
from pathlib import Path

from slim.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    RunStarted,
    SampleFinished,
    SampleStarted,
    StepFinished,
    TokenGenerated,
    TrainFinished,
    as_record,
)

TOTAL = 40


def started(step: int = 0, total: int = TOTAL) -> RunStarted:
    return RunStarted(step, total, 64, 12_345, 5_000, 500, 3.5, 2, 300_000_000, step > 0)


def stepped(step: int, loss: float | None = None, rate: float = 1e-3) -> StepFinished:
    value = 8.0 / (1.0 + 0.1 * step) if loss is None else loss
    return StepFinished(
        step, value, value, 1.5, rate, 64 * step, step / 10, 1000.0, step * 0.5, (TOTAL - step) * 0.5
    )  # fmt: skip


def token(index: int, text: str, p: float = 0.4, sample: int = 0) -> TokenGenerated:
    return TokenGenerated(index, 65, text, math.log(p), p, p, 0.2, 0, 0.1, sample)


def sample_events(step: int, text: str, prompt: str = "Once") -> list[Event]:
    words = [f" {word}" for word in text.split()]
    return [
        SampleStarted(step, 0, prompt),
        *(token(index, word) for index, word in enumerate(words)),
        SampleFinished(step, 0, prompt, "".join(words), 0.4),
    ]


def run_events(steps: int = TOTAL, finished: bool = True) -> list[Event]:
    """A run with two validations and three samples."""
    events: list[Event] = [started(), CheckpointSaved(0, "x.run/last", "last", 1000)]
    events += sample_events(0, "zzz qqq")
    for step in range(1, steps + 1):
        events.append(
            stepped(
                step, rate=1e-3 * min(step, 10) / 10 if step < 20 else 1e-3 * (TOTAL - step) / 20
            )
        )
        if step % 20 == 0:
            events.append(EvalFinished(step, 8.2 / (1 + 0.1 * step), 2.0, True, step * 0.5))
            events += sample_events(step, f"a story of step {step}")
    if finished:
        events.append(TrainFinished("finished", steps, 2.0, 1.5, steps, steps * 0.5))
    return events


def write_run(out: Path, events: list[Event]) -> Path:
    """A run directory that holds these events."""
    folder = out.with_name(out.name + ".run")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(as_record(event)) for event in events if not isinstance(event, TokenGenerated)
    ]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps({"total_steps": TOTAL}))
    return folder
