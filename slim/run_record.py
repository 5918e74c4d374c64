"""A run as the files in its directory tell it: how it stands, and its curves. Reading disturbs nobody who trains there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slim.errors import DataError, SlimError
from slim.events import EvalFinished, RunStarted, StepFinished, from_record
from slim.input_file import reason
from slim.loss_plot import Curve, Point
from slim.run_directory import RESULT, SETTINGS, directory_of, read_settings, trainer_of

RUN_SUFFIX = ".run"
LONGEST_LINE = 2**20  # bytes of one event
PARSED_BYTES = 2**24  # of steps; of a longer journal every second, third ... step is read
_STEP = b'{"event": "step_finished"'


@dataclass(frozen=True, slots=True)
class RunRecord:
    """How a run stands, and how it came there."""

    out: Path  # the model file that it writes
    state: str  # training | stopped | finished | unreadable
    problem: str = ""  # why it is unreadable
    command: str = ""
    data: str = ""  # the name of the text
    step: int = 0
    total_steps: int = 0
    parameters: int = 0
    loss: float | None = None  # smoothed, of the last step
    best_bits_per_byte: float | None = None
    best_step: int | None = None
    tokens_per_second: float | None = None  # over the whole run, without what came before its first step
    elapsed_seconds: float = 0.0
    changed: float = 0.0  # seconds since the epoch
    training: tuple[Point, ...] = ()  # smoothed loss in bits per byte, over tokens
    validation: tuple[Point, ...] = ()

    @property
    def age_seconds(self) -> float:
        """Since something was written."""
        return max(0.0, time.time() - self.changed)

    def curve(self, name: str) -> Curve:
        """What a plot shows of it."""
        return Curve(name, self.training, self.validation)


def find_runs(place: str | Path) -> list[Path]:
    """The model files of the runs at a place: a folder that holds runs, OUT, or OUT.run. DataError if there are none."""
    path = Path(place)
    if path.name.endswith(RUN_SUFFIX) and _is_run(path):
        return [path.with_name(path.name.removesuffix(RUN_SUFFIX))]
    if path.name and _is_run(directory_of(path)):  # "." and "/" have no name
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such run, and no such folder of runs")
    try:
        folders = sorted(path.glob(f"*{RUN_SUFFIX}"))
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem
    return [
        folder.with_name(folder.name.removesuffix(RUN_SUFFIX))
        for folder in folders
        if _is_run(folder)
    ]


def _is_run(folder: Path) -> bool:
    return (folder / SETTINGS).is_file() or (folder / "lock").is_file()


def read_run(out: str | Path) -> RunRecord:
    """The run of a model file; one that cannot be read says why."""
    out = Path(out)
    state = _state(out)
    metrics = directory_of(out) / "metrics.jsonl"
    try:
        settings = read_settings(out)
        changed = metrics.stat().st_mtime if metrics.exists() else 0.0
        events = _events(metrics) if metrics.exists() else iter(())
        return _summary(out, state, settings, changed, events)
    except (OSError, SlimError) as problem:
        if state == "training":  # it is being prepared
            return RunRecord(out, state, changed=time.time())
        words = reason(problem) if isinstance(problem, OSError) else str(problem)
        return RunRecord(out, "unreadable", problem=words)


def _state(out: Path) -> str:
    if trainer_of(out) is not None:
        return "training"
    return "finished" if (directory_of(out) / RESULT).exists() else "stopped"


def _summary(
    out: Path,
    state: str,
    settings: dict[str, object],
    changed: float,
    events: Iterator[RunStarted | StepFinished | EvalFinished],
) -> RunRecord:
    started: RunStarted | None = None
    first: StepFinished | None = None
    last: StepFinished | None = None
    best: EvalFinished | None = None
    tokens = 0
    training: list[Point] = []
    validation: list[Point] = []
    for event in events:
        if isinstance(event, RunStarted):
            started = event
            continue
        # Nats per token over the bits and bytes of a token: comparable between vocabularies.
        scale = 1.0 / (math.log(2.0) * started.bytes_per_token) if started is not None else 0.0
        if isinstance(event, StepFinished):
            first = first or event
            last, tokens = event, event.tokens_seen
            if scale and math.isfinite(event.smoothed_loss):
                training.append(Point(tokens, event.smoothed_loss * scale))
        else:
            if event.best:
                best = event
            per_step = started.tokens_per_step if started is not None else 1
            if math.isfinite(event.bits_per_byte):
                validation.append(Point(event.step * per_step, event.bits_per_byte))
    command, data, total = (settings.get(name) for name in ("command", "data", "total_steps"))
    seconds = last.elapsed_seconds if last is not None else 0.0
    return RunRecord(
        out=out,
        state=state,
        command=command if isinstance(command, str) else "",
        data=Path(data).name if isinstance(data, str) else "",
        step=last.step if last is not None else 0,
        total_steps=total if isinstance(total, int) else 0,
        parameters=started.n_parameters if started is not None else 0,
        loss=last.smoothed_loss if last is not None else None,
        best_bits_per_byte=best.bits_per_byte if best is not None else None,
        best_step=best.step if best is not None else None,
        tokens_per_second=_speed(first, last),
        elapsed_seconds=seconds,
        changed=changed,
        training=tuple(training),
        validation=tuple(validation),
    )


def _speed(first: StepFinished | None, last: StepFinished | None) -> float | None:
    """Tokens per second between two steps: kernels are compiled before the first one. Of one step, its own."""
    if first is None or last is None:
        return None
    seconds = last.elapsed_seconds - first.elapsed_seconds
    return (last.tokens_seen - first.tokens_seen) / seconds if seconds > 0 else last.tokens_per_second


def _events(metrics: Path) -> Iterator[RunStarted | StepFinished | EvalFinished]:
    """What of a journal makes curves; a line that is no event is passed over."""
    with metrics.open("rb") as file:
        every = 1 + metrics.stat().st_size // PARSED_BYTES
        steps, skipped = 0, b""
        while line := file.readline(LONGEST_LINE):
            if line.startswith(_STEP):
                steps += 1
                if steps % every:
                    skipped = line
                    continue
                skipped = b""
            event = _event(line)
            if event is not None:
                yield event
        event = _event(skipped)  # the last step counts
        if event is not None:
            yield event


def _event(line: bytes) -> RunStarted | StepFinished | EvalFinished | None:
    try:
        event = from_record(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, (RunStarted, StepFinished, EvalFinished)) else None
