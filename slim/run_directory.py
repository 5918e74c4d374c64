"""OUT.run/: the work that a run leaves beside its result, and the lock that keeps a second trainer out.

last            everything to go on with: weights, moments, the numbers of the run
best            the best weights so far, as in OUT
metrics.jsonl   one event per line     samples.jsonl   one text per line
settings.json   what was asked for and what it was resolved to
log.txt         notes and warnings
lock            held by the process that trains, with its number
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from slim.atomic_file import PREVIOUS_SUFFIX, replace_file, sweep
from slim.errors import DataError, SaveError, UsageError
from slim.events import Event, Note, SampleFinished, StepSkipped, TokenGenerated, as_record
from slim.input_file import reason

LARGEST_SETTINGS = 1_000_000


class RunDirectory:
    """The folder of one run, open and locked."""

    def __init__(self, out: str | Path) -> None:
        """Create or open OUT.run/ and lock it. UsageError when another process trains here; SaveError."""
        self.path = directory_of(out)
        try:
            self.path.mkdir(exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as problem:
            raise SaveError(f"{self.path}: cannot be written: {reason(problem)}") from problem
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._lock, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise UsageError(
                f"{self.path}: another process (number {holder}) is training here: wait for it or stop it"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self._files: dict[str, TextIO] = {}

    @property
    def last(self) -> Path:
        return self.path / "last"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def clear(self) -> None:
        """Remove what an earlier run left."""
        names = ["last", "best", "metrics.jsonl", "samples.jsonl", "settings.json", "log.txt"]
        for name in [*names, "last" + PREVIOUS_SUFFIX, "best" + PREVIOUS_SUFFIX]:
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        sweep(self.last)
        sweep(self.best)

    def write_settings(self, record: Mapping[str, object]) -> None:
        """Keep what the run was asked for."""
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        replace_file(self.path / "settings.json", [text.encode()])

    def record(self, event: Event) -> None:
        """Append an event to the file it belongs into. What cannot be written is lost: training is worth more."""
        with contextlib.suppress(OSError):
            if isinstance(event, TokenGenerated):
                return
            if isinstance(event, SampleFinished):
                self._append("samples.jsonl", _line(event))
            self._append("metrics.jsonl", _line(event))
            if isinstance(event, (Note, StepSkipped)):
                text = (
                    event.text if isinstance(event, Note) else f"step {event.step}: {event.reason}"
                )
                self._append(
                    "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(text.split())}\n"
                )

    def cut_back(self, step: int, evaluated_step: int, sampled_step: int) -> None:
        """Forget events of later steps, evaluations and samples: they will happen again."""
        latest = {"eval_finished": evaluated_step, "sample_finished": sampled_step}
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / name
            with contextlib.suppress(FileNotFoundError):
                lines = path.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if _is_kept(line, step, latest)]
                if len(kept) < len(lines):
                    replace_file(path, kept)

    def close(self) -> None:
        """Let go of the lock."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        os.close(self._lock)

    def _append(self, name: str, line: str) -> None:
        if name not in self._files:
            self._files[name] = (self.path / name).open("a", encoding="utf-8", buffering=1)
        self._files[name].write(line)


def directory_of(out: str | Path) -> Path:
    """Where the work of the result `out` lies."""
    path = Path(out)
    return path.with_name(path.name + ".run")


def read_settings(out: str | Path) -> dict[str, object]:
    """What the run of `out` was started with; UsageError when there is none, DataError when it is damaged."""
    path = directory_of(out) / "settings.json"
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_SETTINGS + 1)
    except FileNotFoundError:
        raise UsageError(f"{out}: has no run to go on with: there is no {path}") from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if len(data) > LARGEST_SETTINGS or not isinstance(record, dict):
        raise DataError(f"{path}: is damaged: start again with --force")
    return record


def _line(event: Event) -> str:
    """An event as a line of JSON; a number that is not finite becomes null."""
    record = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in as_record(event).items()
    }
    return json.dumps(record, allow_nan=False) + "\n"


def _is_kept(line: bytes, step: int, latest: Mapping[str, int]) -> bool:
    """Whether a line is whole and of a step that is not made again."""
    try:
        record = json.loads(line)
        return line.endswith(b"\n") and record.get("step", 0) <= latest.get(record["event"], step)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return False
