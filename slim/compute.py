"""The engine thread: the one place where Numba runs, and how everybody else talks to it.

Two Python threads inside parallel kernels end the process on some threading layers, a thread count belongs to a thread,
and a signal reaches Python at once only while the main thread is outside of kernels. So one thread does all arithmetic.

What it does are jobs: generators of events. They take turns, SLICE_SECONDS each or one event where that takes longer.
So a reply in a chat is written between two steps of a training, and neither waits for the other's end. A job whose
reader has left BUFFERED_EVENTS lying waits for the reader. Nothing lasts longer than one event.

    for event in stream(train(...)): ...       a command: its thread sleeps in between, where signals reach it
    job = submit(train(...)); job.poll()       a window that redraws: takes what is there, never waits
    job.pause(), job.resume(), job.cancel()    between two events
    job.hold(), job.let_go()                   the same for as long as another job needs what this one changes
"""

from __future__ import annotations

import atexit
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from slim.errors import ConfigError
from slim.operating_system import core_count

T = TypeVar("T")

BUFFERED_EVENTS = 256
SLICE_SECONDS = 0.1
_WAKE_SECONDS = 0.25  # on macOS a signal does not end the wait for a lock
_LAST_SECONDS = 5.0  # that jobs are given to clean up when the program ends
_CGROUP = Path("/sys/fs/cgroup")


class Job(Generic[T]):
    """A generator in the engine thread; its events wait here for one reader."""

    def __init__(self, engine: Engine, events: Iterator[T]) -> None:
        self.threads: int | None = (
            None  # of the kernels that it calls; None: the engine's own number
        )
        self.engine = engine
        self._events = events
        self._waiting: deque[T] = deque()
        self._cancelled = False
        self._paused = False
        self._holds = 0
        self._ended = False
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the reader has had everything: all events, and the error if there was one."""
        return self._ended and not self._waiting and self._error is None

    @property
    def paused(self) -> bool:
        """Whether somebody paused it."""
        return self._paused

    @property
    def held(self) -> bool:
        """Whether it waits for something else."""
        return self._holds > 0

    def poll(self) -> list[T]:
        """The events since the last call, without waiting. An error that ended the job is raised once they are read."""
        with self.engine.changed:
            events = list(self._waiting)
            self._waiting.clear()
            if not events:
                self._raise_error()
            self.engine.changed.notify_all()
        return events

    def __iter__(self) -> Iterator[T]:
        """The events as they come, then the error that ended the job, if any."""
        changed = self.engine.changed
        while True:
            with changed:
                while not self._waiting and not self._ended:
                    changed.wait(_WAKE_SECONDS)
                if not self._waiting:
                    self._raise_error()
                    return
                event = self._waiting.popleft()
                changed.notify_all()
            yield event

    def pause(self) -> None:
        """Ask the generator for nothing more after its present event."""
        self._set_paused(True)

    def resume(self) -> None:
        """Go on after a pause."""
        self._set_paused(False)

    def hold(self) -> None:
        """Let it wait for something else, after its present event, whether it is paused or not; see `let_go`."""
        self._add_holds(1)

    def let_go(self) -> None:
        """Take back one `hold`."""
        self._add_holds(-1)

    def cancel(self, wait: bool = True) -> None:
        """Close the generator after its present event; what it yielded and nobody has read is dropped."""
        changed = self.engine.changed
        with changed:
            self._cancelled = True
            self._waiting.clear()
            changed.notify_all()
            while wait and not self._ended and not self.engine.is_current_thread():
                changed.wait(_WAKE_SECONDS)

    def _set_paused(self, paused: bool) -> None:
        with self.engine.changed:
            self._paused = paused
            self.engine.changed.notify_all()

    def _add_holds(self, count: int) -> None:
        with self.engine.changed:
            self._holds += count
            self.engine.changed.notify_all()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    # In the engine thread, the lock held:

    def ready(self) -> bool:
        """Whether it may be given a turn."""
        waits = self._paused or self._holds > 0 or len(self._waiting) >= BUFFERED_EVENTS
        return self._cancelled or not waits

    # In the engine thread, the lock not held:

    def take_turn(self, until: float) -> None:
        """Ask for events up to a time of the monotonic clock, at least for one."""
        changed = self.engine.changed
        while True:
            error: BaseException | None = None
            found: list[T] = []
            try:
                if self._cancelled:
                    close = getattr(self._events, "close", None)
                    if close is not None:
                        close()
                else:
                    found.append(next(self._events))
            except StopIteration:
                pass
            except BaseException as problem:  # whatever it is, the reader gets it
                error = problem
            with changed:
                if not found:
                    self._ended = True
                    self._error = error
                    self.engine.jobs.remove(self)
                elif not self._cancelled:
                    self._waiting.extend(found)
                changed.notify_all()
                if self._ended or not self.ready() or time.monotonic() >= until:
                    return


class Engine:
    """A thread that runs jobs, started by the first one."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: list[Job[Any]] = []
        self._thread: threading.Thread | None = None
        self._current: Job[Any] | None = None
        self._applied: int | None = None

    def submit(self, events: Iterator[T]) -> Job[T]:
        """Run a generator among the others; nothing of it has happened yet when this returns."""
        job = Job(self, events)
        with self.changed:
            self.jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="slim-engine", daemon=True)
                self._thread.start()
                atexit.register(self.shut_down)
            self.changed.notify_all()
        return job

    def stream(self, events: Iterator[T]) -> Iterator[T]:
        """The events of a generator that runs in the engine thread. It is closed when the reading ends."""
        if self.is_current_thread():
            raise RuntimeError(
                "the engine thread cannot wait for itself: iterate over the generator"
            )
        job = self.submit(events)
        try:
            yield from job
        finally:
            job.cancel()

    def is_current_thread(self) -> bool:
        """Whether the caller is the engine thread itself."""
        return threading.current_thread() is self._thread

    def set_threads(self, count: int) -> int:
        """See the function of this name: for the job that calls it, or for the calling thread."""
        n = _apply_threads(count)
        if self.is_current_thread() and self._current is not None:
            self._current.threads = self._applied = n
        return n

    def shut_down(self) -> None:
        """Close all generators and wait for them: a thread inside of a kernel must not outlive the interpreter."""
        deadline = time.monotonic() + _LAST_SECONDS
        with self.changed:
            for job in self.jobs:
                job.cancel(wait=False)
            while self.jobs and not self.is_current_thread() and time.monotonic() < deadline:
                self.changed.wait(_WAKE_SECONDS)

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (turns := [job for job in self.jobs if job.ready()]):
                    self.changed.wait()
            for job in turns:
                self._current = job
                # Buffers of a job are made for its number of threads.
                if job.threads != self._applied and "numba" in sys.modules:
                    self._applied = job.threads
                    _apply_threads(job.threads or 0)
                job.take_turn(time.monotonic() + SLICE_SECONDS)
            self._current = None


_ENGINE = Engine()


def engine() -> Engine:
    """The engine of this process."""
    return _ENGINE


def submit(events: Iterator[T]) -> Job[T]:
    """Run a generator in the engine thread, for a reader that polls."""
    return _ENGINE.submit(events)


def stream(events: Iterator[T]) -> Iterator[T]:
    """The events of a generator that runs in the engine thread, for a reader that waits."""
    return _ENGINE.stream(events)


def call(function: Callable[[], T]) -> T:
    """Run a function in the engine thread; its result."""

    def once() -> Iterator[T]:
        yield function()

    (result,) = list(stream(once()))
    return result


# ---- threads -------------------------------------------------------------------------------------------------------


def set_threads(count: int) -> int:
    """How many threads the calling job's kernels use from now on; 0: as many as there are cores. Their number.

    Call it before buffers are made. ConfigError when there are fewer cores.
    """
    return _ENGINE.set_threads(count)


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where a container gives it less time."""
    cores = core_count()
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no limit is "max"
        return cores


def _apply_threads(count: int) -> int:
    import numba

    most = int(numba.config.NUMBA_NUM_THREADS)
    if count > most:
        cores = "core" if most == 1 else "cores"
        raise ConfigError(
            f"threads must be at most {most}, the {cores} of this machine, but is {count}"
        )
    numba.set_num_threads(count or min(usable_cores(), most))
    return numba.get_num_threads()
