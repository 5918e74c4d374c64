"""A text that a model is writing for a screen: a job of the engine thread, read a few times a second.

Where a model trains in this process its weights change between two steps, so training waits while a text is written:
the text is of one version of them.
"""

from __future__ import annotations

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
        # What a person has paused stays paused afterwards.
        self._held = training if training is not None and not training.paused else None
        if self._held is not None:
            self._held.pause()
        self._job = engine.submit(make(lambda: self._stopping))

    @property
    def holds_training(self) -> bool:
        """Whether training waits for this text."""
        return self._held is not None

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
        held, self._held = self._held, None
        if held is not None:
            held.resume()
