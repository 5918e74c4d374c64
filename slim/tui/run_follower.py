"""A run that another process trains, read from the files it writes: metrics.jsonl and, for its pid, the lock."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slim.events import Event, TrainFinished, from_record
from slim.input_file import reason
from slim.run_directory import directory_of, trainer_of
from slim.tui.run_view import RunView

if TYPE_CHECKING:
    from slim.compute import Engine, Job

CHUNK_BYTES = 2**20
LONGEST_LINE = 2**20
EVENTS_PER_POLL = 2_000  # more would hold the screen up


class FollowedRun:
    """A run directory, read only. `poll` it: what the other process reported goes into `view`."""

    local = False
    problem: BaseException | None = None

    def __init__(self, out: str | Path, engine: Engine) -> None:
        self.out = str(out)
        self.view = RunView(self.out)
        self.trainer = trainer_of(out)  # the other process
        self._engine = engine
        self._reader = JournalReader(directory_of(out) / "metrics.jsonl")
        self._job: Job[list[Event] | None] | None = None
        self._waiting: deque[Event] = deque()

    @property
    def name(self) -> str:
        """What it is called on the screen, not yet safe."""
        return Path(self.out).name

    @property
    def training(self) -> bool:
        """Whether a process trains it."""
        return self.trainer is not None

    @property
    def paused(self) -> bool:
        return False

    @property
    def behind(self) -> bool:
        """Whether there is more to be read at once."""
        return bool(self._waiting)

    def poll(self) -> bool:
        """Take in what was read since the last call, and have more read; whether there was anything."""
        changed = False
        if self._job is not None:
            try:
                for events in self._job.poll():
                    if events is None:  # the file begins anew: so did the run
                        self._waiting.clear()
                        self.view = RunView(self.out)
                        changed = True
                    else:
                        self._waiting.extend(events)
            except OSError as problem:
                self._job = None
                words = f"{self._reader.path}: cannot be read: {reason(problem)}"
                if words != self.view.problem:
                    self.view.fail(OSError(words))
                return True
            if self._job.done:
                self._job = None
        elif self._reader.has_grown():
            self._job = self._engine.submit(self._reader.read())
        trainer = trainer_of(self.out)
        if trainer != self.trainer:
            self.trainer, changed = trainer, True
        count = min(len(self._waiting), EVENTS_PER_POLL)
        self.view.add_all(self._waiting.popleft() for _ in range(count))
        return changed or count > 0

    @property
    def finished(self) -> TrainFinished | None:
        """How the run ended, as far as it did."""
        return self.view.state.finished


class JournalReader:
    """A file of events that another process appends to; what is no event in it is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0  # bytes
        self._file_id: tuple[int, int] | None = None
        self._rest = b""
        self._skipping = False  # to the end of a line that is too long

    def has_grown(self) -> bool:
        """Whether `read` would find anything, as far as one look tells."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        known = self._file_id in (None, (status.st_dev, status.st_ino))
        return not known or status.st_size != self._read

    def read(self) -> Iterator[list[Event] | None]:
        """What has been added, in lists; None first where the file was cut or replaced. OSError."""
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            file_id = (status.st_dev, status.st_ino)
            if self._file_id not in (None, file_id) or status.st_size < self._read:
                self._read, self._rest, self._skipping = 0, b"", False
                yield None
            self._file_id = file_id
            file.seek(self._read)
            while chunk := file.read(CHUNK_BYTES):
                self._read += len(chunk)
                yield list(self._events(chunk))

    def _events(self, chunk: bytes) -> Iterator[Event]:
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            try:
                event = from_record(json.loads(line)) if len(line) <= LONGEST_LINE else None
            except (ValueError, RecursionError):
                continue
            if event is not None:
                yield event
        if len(rest) > LONGEST_LINE:
            self._skipping, rest = True, b""
        self._rest = rest
