"""OUT.run/: the work that a run leaves beside its result, and the lock that keeps a second trainer out.

last            everything to go on with: weights, moments, the numbers of the run
best            the best weights so far, as in OUT
metrics.jsonl   one event per line     samples.jsonl   one text per line
settings.json   what was asked for, and what it was resolved to
result.json     the last event, once the run has come to its end
log.txt         notes, warnings, beginnings and ends, with the time of day
tokens/         the text as ids     stdin.txt   the text, where it came from standard input
lock            held by the process that trains, with its number
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from slim.atomic_file import PREVIOUS_SUFFIX, replace_file, sweep
from slim.errors import DataError, SaveError, SlimError
from slim.events import Event, SampleFinished, TokenGenerated, TrainFinished, as_record
from slim.input_file import reason
from slim.operating_system import CLOSE_ON_EXEC, NO_LINKS, lock

LARGEST_SETTINGS = 4_000_000  # bytes
# Bytes of lines that a full disk refuses: they are tried again, and kept with a checkpoint, which has room for 16 MB of text.
LARGEST_BACKLOG = 2**21

SETTINGS, RESULT = "settings.json", "result.json"
STDIN_TEXT = "stdin.txt"
FILES = ("last", "best", SETTINGS, RESULT)  # that are replaced as a whole
JOURNALS = ("metrics.jsonl", "samples.jsonl", "log.txt")


class BusyError(SlimError):
    """Another process trains here."""


class RunDirectory:
    """The folder of one run, open and locked until `close`."""

    def __init__(self, out: str | Path) -> None:
        """Create or open OUT.run/ and lock it. BusyError when another process trains here; SaveError."""
        self.path = directory_of(out)
        try:
            self._created = not self.path.exists()
            self._lock = _lock(self.path)
        except OSError as problem:
            raise SaveError(f"{self.path}: cannot be written: {reason(problem)}") from problem
        self._journals = {name: Journal(self.path / name) for name in JOURNALS}
        for name in FILES:  # what a killed process was about to write
            sweep(self.path / name)

    @property
    def last(self) -> Path:
        return self.path / "last"

    @property
    def tokens(self) -> Path:
        """The folder of the text as ids; see token_files."""
        return self.path / "tokens"

    @property
    def stdin_text(self) -> Path:
        """What came from standard input, which can be read only once."""
        return self.path / STDIN_TEXT

    @property
    def best(self) -> Path:
        return self.path / "best"

    def restore(self) -> bool:
        """Make the folder again, and lock it, when somebody has removed it; whether its saves are gone.

        BusyError when another process trains there now. Where it cannot be made, the next save tells why.
        """
        if _is_same_file(self._lock, self.path / "lock"):
            return False
        try:
            fd = _lock(self.path)
        except OSError:
            return False
        with contextlib.suppress(OSError):
            os.close(self._lock)
        self._lock = fd
        for name, journal in self._journals.items():
            journal.close()
            self._journals[name] = Journal(self.path / name)
        return not self.last.exists()

    def clear(self) -> None:
        """Remove what an earlier run left."""
        saved = [self.last, self.best]
        previous = [Path(f"{path}{PREVIOUS_SUFFIX}") for path in saved]
        for path in (*saved, *previous, self.path / SETTINGS, self.path / RESULT):
            path.unlink(missing_ok=True)
        for journal in self._journals.values():
            journal.cut(0)

    def write_result(self, event: TrainFinished | None) -> None:
        """Keep how the run ended, or None: it goes on."""
        path = self.path / RESULT
        if event is None:
            path.unlink(missing_ok=True)
            return
        text = json.dumps(as_record(event), allow_nan=False) + "\n"
        replace_file(path, [text.encode()])

    def read_result(self) -> TrainFinished | None:
        """How the run ended, None when it did not."""
        try:
            record = _read_json(self.path / RESULT)
            record.pop("event")
            return TrainFinished(**record)  # type: ignore[arg-type]
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def write_settings(self, record: Mapping[str, object]) -> None:
        """Keep what the run was asked for and what that was resolved to."""
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        replace_file(self.path / SETTINGS, [text.encode()])

    def record(self, event: Event) -> str | None:
        """Append an event to the files it belongs into; what goes wrong with that, in words.

        Lines that cannot be written are kept in memory and come first the next time: training is worth more.
        """
        if isinstance(event, TokenGenerated):
            return None
        record = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in as_record(event).items()
        }
        line = json.dumps(record, allow_nan=False) + "\n"
        problems = [self._journals["metrics.jsonl"].append(line)]
        if isinstance(event, SampleFinished):
            problems.append(self._journals["samples.jsonl"].append(line))
        return next((problem for problem in problems if problem is not None), None)

    def log(self, text: str) -> None:
        """Append a line with the time of day to the log; nobody misses what cannot be written."""
        self._journals["log.txt"].append(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(text.split())}\n"
        )

    def journal_sizes(self) -> dict[str, int]:
        """How much of the events there is now: to be kept with a checkpoint and given to `cut_back`."""
        return {name: self._journals[name].size for name in JOURNALS[:2]}

    def unwritten(self) -> dict[str, str]:
        """The events that still wait to be written, because the disk is full, say: to be kept in the same way."""
        return {
            name: waiting for name in JOURNALS[:2] if (waiting := self._journals[name].unwritten)
        }

    def write_unwritten(self) -> str | None:
        """Try again to write the events that wait; what goes wrong with that, in words."""
        problems = [self._journals[name].append("") for name in self.unwritten()]
        return next((problem for problem in problems if problem is not None), None)

    def cut_back(self, sizes: Mapping[str, object], unwritten: Mapping[str, object]) -> None:
        """Forget the events after a checkpoint, which will happen again, and remember those that waited then."""
        for name in JOURNALS[:2]:
            size, waiting = sizes.get(name), unwritten.get(name)
            if isinstance(size, int) and size >= 0:
                self._journals[name].cut(size, waiting if isinstance(waiting, str) else "")

    def close(self) -> None:
        """Let go of the lock; a folder in which nothing has been saved yet disappears."""
        for journal in self._journals.values():
            journal.close()
        if self._created and not (self.last.exists() or (self.path / SETTINGS).exists()):
            with contextlib.suppress(OSError):
                for name in (*JOURNALS, STDIN_TEXT, "lock"):
                    (self.path / name).unlink(missing_ok=True)
                if self.tokens.exists():
                    for path in self.tokens.iterdir():
                        path.unlink()
                    self.tokens.rmdir()
                self.path.rmdir()
        with contextlib.suppress(OSError):  # nothing of it waits to be written
            os.close(self._lock)


class Journal:
    """A file that lines are appended to. After a failure it ends with a whole line, and nothing is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._backlog = bytearray()
        self.size = 0  # bytes of whole lines
        with contextlib.suppress(OSError):
            self.size = path.stat().st_size

    def append(self, line: str) -> str | None:
        """Write a line and those that are still to be written; what goes wrong, in words."""
        if len(self._backlog) < LARGEST_BACKLOG:
            self._backlog += line.encode("utf-8", "replace")
        try:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | CLOSE_ON_EXEC
                self._fd = os.open(self._path, flags, 0o666)
            try:
                written = 0
                while written < len(self._backlog):
                    written += os.write(self._fd, self._backlog[written:])
            except OSError:
                os.ftruncate(self._fd, self.size)
                raise
        except OSError as problem:
            self.close()
            return f"{self._path}: cannot be written: {reason(problem)}"
        self.size += len(self._backlog)
        self._backlog.clear()
        return None

    @property
    def unwritten(self) -> str:
        """Lines that could not be written yet."""
        return self._backlog.decode("utf-8")

    def cut(self, size: int, unwritten: str = "") -> None:
        """Keep the first `size` bytes, and of those only whole lines; the lines `unwritten` come next."""
        self.close()
        self._backlog[:] = unwritten.encode("utf-8", "replace")
        with contextlib.suppress(FileNotFoundError), self._path.open("r+b") as file:
            file.truncate(min(size, file.seek(0, os.SEEK_END)))
            file.truncate(_end_of_last_line(file))
        self.size = self._path.stat().st_size if self._path.exists() else 0

    def close(self) -> None:
        """Let go of the file until the next line."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None


def directory_of(out: str | Path) -> Path:
    """Where the work of the result `out` lies."""
    path = Path(out)
    return path.with_name(path.name + ".run")


def trainer_of(out: str | Path) -> int | None:
    """The number of the process that trains here, None where none does.

    Told from the number in the lock file: trying the lock would be in the way of one that is about to begin.
    """
    try:
        with (directory_of(out) / "lock").open("rb") as file:
            number = int(file.read(20))
        os.kill(number, 0)
    except PermissionError:  # somebody else's
        return number
    except (OSError, ValueError, OverflowError):
        return None
    return number if number > 0 else None


def read_settings(out: str | Path) -> dict[str, object]:
    """What the run of `out` was started with; DataError when there is none or it is damaged."""
    path = directory_of(out) / SETTINGS
    try:
        return _read_json(path)
    except FileNotFoundError:
        raise DataError(f"{out}: has no run to go on with: there is no {path}") from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {reason(problem)}") from problem
    except ValueError:
        raise DataError(f"{path}: is damaged: start again with --force") from None


def _read_json(path: Path) -> dict[str, object]:
    """The table in a JSON file; ValueError for anything else, or far too much."""
    with path.open("rb") as file:
        data = file.read(LARGEST_SETTINGS + 1)
    try:
        record = json.loads(data) if len(data) <= LARGEST_SETTINGS else None
    except RecursionError:
        record = None
    if not isinstance(record, dict):
        raise ValueError("no table")
    return record


def _lock(directory: Path) -> int:
    """The locked file in a directory, which is made if need be, with the number of this process in it."""
    path = directory / "lock"
    while True:
        try:
            directory.mkdir(exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | CLOSE_ON_EXEC | NO_LINKS, 0o666)
        except FileNotFoundError:
            if not directory.parent.is_dir():
                raise
            continue  # a process that ended has just removed the directory
        try:
            lock(fd)
            if _is_same_file(fd, path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                return fd
        except BlockingIOError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            holder = f"process {holder}" if holder.isdigit() else "another process"
            raise BusyError(
                f"{directory}: {holder} is training here: wait for it, stop it, or choose another OUT"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the same, between opening and locking


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _end_of_last_line(file: BinaryIO) -> int:
    """Where the last whole line of an open file ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 2**16)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
