"""What the screens share: the engine thread, the model that is open, and the run that is trained or watched."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slim.calibration import Calibration
from slim.compute import Engine, engine
from slim.events import Event, Note, Progress, RunStarted, StepFinished
from slim.request import Request, RunControl
from slim.run_directory import directory_of
from slim.tui.run_follower import EVENTS_PER_POLL, FollowedRun, JournalReader
from slim.tui.run_view import RunView

if TYPE_CHECKING:
    from slim.compute import Job
    from slim.model import Model
    from slim.shades import Bins
    from slim.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model to generate with."""

    model: Model
    tokenizer: Tokenizer
    metadata: Mapping[str, object]  # of its file; empty for a model that is being trained
    path: Path | None  # None: the weights of the run that trains here, which change with every step

    @property
    def name(self) -> str:
        """What it is called on the screen, not yet safe."""
        return "the model in training" if self.path is None else self.path.name

    @property
    def usual_bins(self) -> Bins | None:
        """Bins of its own tokens, where its file knows them."""
        known = Calibration.from_record(self.metadata.get("calibration"))
        return None if known is None else known.relative_bins

    @property
    def calibration(self) -> dict[str, object] | None:
        """What the file knows about the model's confidence."""
        found = self.metadata.get("calibration")
        return found if isinstance(found, dict) else None


class LocalRun:
    """A run that trains in this process. `poll` it: its events go into `view`."""

    local = True

    def __init__(
        self, job: Job[Event], control: RunControl, out: str, view: RunView | None = None
    ) -> None:
        self.job = job
        self.control = control
        self.out = out
        self.view = RunView(out) if view is None else view
        self.problem: BaseException | None = None
        self.ended = False
        self._waiting: deque[Event] = deque()
        self._past: Job[list[Event]] | None = None  # of a run that goes on, while it is read
        self._earlier: deque[Event] = deque()

    @property
    def name(self) -> str:
        """What it is called on the screen, not yet safe."""
        return Path(self.out).name

    @property
    def training(self) -> bool:
        """Whether it still goes, or is about to."""
        return not self.ended

    @property
    def paused(self) -> bool:
        return self.job.paused

    def poll(self) -> bool:
        """Take in what happened since the last call; whether anything did."""
        if self.ended:
            return False
        try:
            events = self.job.poll()
        except Exception as problem:  # of any kind: it is shown, and what is saved stays saved
            self._take_in(self._waiting)
            self.problem, self.ended = problem, True
            self.view.fail(problem)
            return True
        for event in events:
            if isinstance(event, RunStarted) and event.step and not self.view.last_step:
                self._past = self.job.engine.submit(_past(self.out, event.step))
        self._waiting.extend(events)
        version = self.view.version
        if self._past is not None or self._earlier:
            self._read_past()
        else:
            self._take_in(self._waiting)
        if not events and not self._waiting and self.job.done:
            self.ended = True
            return True
        return self.view.version != version

    def catch_up(self) -> None:
        """Take in everything that waits, without the past that has not been read: the screen is gone."""
        if self._past is not None:
            self._past.cancel(wait=False)
        self._take_in(self._waiting)

    def _read_past(self) -> None:
        """Some more of what was before; what happens meanwhile waits for its turn."""
        if self._past is not None:
            for events in self._past.poll():
                self._earlier.extend(events)
            if self._past.done:
                self._past = None
        self._take_in(self._earlier, EVENTS_PER_POLL)
        if self._past is None and not self._earlier:
            self._take_in(self._waiting)

    def _take_in(self, events: deque[Event], limit: int | None = None) -> None:
        count = len(events) if limit is None else min(len(events), limit)
        self.view.add_all(events.popleft() for _ in range(count))


def _past(out: str, last_step: int) -> Iterator[list[Event]]:
    """What the journal of a run tells of its steps up to one: it may have been gone on with already. Nothing if unread."""
    with contextlib.suppress(OSError):
        for events in JournalReader(directory_of(out) / "metrics.jsonl").read():
            past: list[Event] = [e for e in events or () if not isinstance(e, RunStarted)]  # told again
            steps = [event.step for event in past if isinstance(event, StepFinished)]
            if not steps or steps[-1] <= last_step:
                yield past
                continue
            later = (isinstance(event, StepFinished) and event.step > last_step for event in past)
            yield past[: list(later).index(True)]
            return


class AppSession:
    """The state of the program that no screen owns."""

    def __init__(self, compute: Engine | None = None) -> None:
        self.engine = engine() if compute is None else compute
        self.opened: OpenModel | None = None  # from a file
        self.run: LocalRun | None = None  # that trains in this process
        self.watched: list[LocalRun | FollowedRun] = []  # shown by the monitor, the first in detail

    @property
    def open_model(self) -> OpenModel | None:
        """What to generate with: the model that was opened, else the one that trains here."""
        return self.opened if self.opened is not None else self.model_in_training

    @property
    def model_in_training(self) -> OpenModel | None:
        """The model of the run in this process, with the weights that it has just now."""
        if self.run is None or self.run.control.model is None:
            return None
        control = self.run.control
        return OpenModel(control.model, control.tokenizer, {}, None)  # type: ignore[arg-type]

    @property
    def training(self) -> bool:
        """Whether a run goes in this process."""
        return self.run is not None and self.run.training

    @property
    def training_job(self) -> Job[Event] | None:
        """The job of the run in this process, to be paused while a text is written; None where none goes."""
        return self.run.job if self.run is not None and self.run.training else None

    def start(self, request: Request) -> LocalRun:
        """Begin a run, or with `request.resume` go on with it, in the engine thread."""
        control = RunControl()
        self.run = LocalRun(self.engine.submit(_starting(request, control)), control, request.out)
        self.watched = [self.run]
        return self.run

    def resume(self, out: str) -> LocalRun:
        """Go on with the run of `out`."""
        control = RunControl()
        self.run = LocalRun(self.engine.submit(_resuming(out, control)), control, out)
        self.watched = [self.run]
        return self.run

    def adopt(self, run: LocalRun) -> None:
        """Show a run that somebody else began in this process."""
        self.run = run
        self.watched = [run]


def opening(path: Path) -> Generator[Progress | Note | OpenModel, None, None]:
    """Read a model file, in the engine thread: progress and notes, and the model as the last event."""
    from slim.model_file import loading_model

    model, tokenizer, metadata = yield from loading_model(path)
    yield OpenModel(model, tokenizer, metadata, path)


def _starting(request: Request, control: RunControl) -> Iterator[Event]:
    from slim.run import start  # Numba: half a second, in the engine thread

    yield from start(request, control)


def _resuming(out: str, control: RunControl) -> Iterator[Event]:
    from slim.run import resume

    yield from resume(out, control)
