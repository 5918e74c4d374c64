"""A text that a model is writing for a screen: a job of the engine thread, read a few times a second.

Where a model trains in this process its weights change between two steps, so training waits while a text is written:
the text is of one version of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from slim.compute import Engine, Job

POLL_SECONDS = 0.1


class Writing:
    """The events of one text, from `make(should_stop)`. Training is held from its beginning to its end."""

    def __init__(
        self,
        engine: Engine,
        training: Job[Any] | None,
        make: Callable[[Callable[[], bool]], Iterator[Any]],
    ) -> None:
        self._stopping = False
        self._held = [] if training is None else [training]
        if training is not None:
            training.hold()
        self._job = engine.submit(self._events(make))

    def _events(self, make: Callable[[Callable[[], bool]], Iterator[Any]]) -> Iterator[Any]:
        """In the engine thread: training goes on the moment the text is whole, read or not."""
        try:
            yield from make(lambda: self._stopping)
        finally:
            self._release()

    @property
    def holds_training(self) -> bool:
        """Whether training would go on if it were not for this text."""
        return any(not job.paused for job in self._held)

    @property
    def stopping(self) -> bool:
        """Whether the text was asked to end."""
        return self._stopping

    @property
    def done(self) -> bool:
        """Whether everything was read."""
        return self._job.done

    def poll(self) -> list[Any]:
        """What came since the last call; an error that ended the text is raised once."""
        try:
            found = self._job.poll()
        except BaseException:
            self._release()
            raise
        if self._job.done:
            self._release()
        return found

    def stop(self) -> None:
        """Ask for the end: it comes with the next token."""
        self._stopping = True

    def close(self) -> None:
        """End the text without reading the rest of it, and without waiting."""
        self._stopping = True
        self._job.cancel(wait=False)
        self._release()

    def _release(self) -> None:
        # From both threads, in whatever order: only one of them gets the job out of the list.
        with contextlib.suppress(IndexError):
            self._held.pop().let_go()
